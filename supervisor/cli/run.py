"""`podsup run` and `podsup notify`: say something to a pod."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from protocol import methods as m
from protocol.errors import AlreadyRunning, Timeout
from protocol.segments import FileRef, Segment, Text
from protocol.watch import Synced
from supervisor.cli import exit_codes
from supervisor.cli.app import App, Failed, command
from supervisor.cli.asking import with_client
from supervisor.cli.output import note

if TYPE_CHECKING:
    from supervisor.client import AsyncClient
    from supervisor.following import RunDone
    from supervisor.watcher import Told

_REFERENCE = re.compile(r"(?<!\S)@([^\s@]+)")
_SELF_STARTED = ("notify", "pod_event")
RETRY_S = 0.1


@command("run", example='podsup run alice "What is in data.txt?" --wait')
@click.argument("pod")
@click.argument("text")
@click.option("--wait", is_flag=True, help="Return when the run has ended; print its answer.")
@click.option("--stream", is_flag=True, help="Print the answer as it comes; implies --wait.")
@click.option("--timeout", type=float, help="Seconds to wait (default: as long as it takes).")
def run(app: App, pod: str, text: str, wait: bool, stream: bool, timeout: float | None) -> None:
    """Submit TEXT to a pod as a user turn. `-` reads stdin; @path is a file reference."""
    segments = parse_input(sys.stdin.read() if text == "-" else text)
    wait = wait or stream

    def show(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    streams = stream and app.output == "table"
    done = with_client(
        app,
        lambda client: submit(
            client,
            pod,
            segments,
            wait=wait,
            timeout_s=timeout,
            on_text=show if streams else lambda piece: None,
        ),
    )
    if done is None:
        app.out.text({"pod": pod, "accepted": True}, f"{pod}: run accepted")
        return
    if streams:
        print()
    data = {"pod": pod, "result": done.result, "text": done.text, "usage": done.usage.to_wire()}
    if done.reason:
        data["reason"] = done.reason
    if done.error:
        data["error"] = done.error
    app.out.text(data, "" if streams else done.text)
    if code := exit_codes.code_of_run(done.result, done.reason):
        why = (done.error or {}).get("message") or done.reason or ""
        note(f"podsup: the run of {pod} ended: {done.result} {why}".rstrip())
        note(f"  next: podsup why {pod}")
        raise Failed(code)


@command("notify", example='podsup notify alice "the build is green" --no-auto-run')
@click.argument("pod")
@click.argument("text")
@click.option("--no-auto-run", is_flag=True, help="Do not wake an idle pod.")
def notify(app: App, pod: str, text: str, no_auto_run: bool) -> None:
    """Leave TEXT for a pod's model, before its next request. `-` reads stdin."""
    message = sys.stdin.read() if text == "-" else text
    with_client(
        app,
        lambda client: client.send(pod, m.Notify(message=message, auto_run=not no_auto_run)),
    )
    app.out.text({"pod": pod, "accepted": True}, f"{pod}: notification stored")


def parse_input(text: str) -> tuple[Segment, ...]:
    """Return the input segments of what was typed: text, and `@path` where a word begins with @."""
    if not text.strip():
        raise click.UsageError("there is no text to submit")
    segments: list[Segment] = []
    at = 0
    for found in _REFERENCE.finditer(text):
        if found.start() > at:
            segments.append(Text(content=text[at : found.start()]))
        segments.append(FileRef(path=found[1]))
        at = found.end()
    if at < len(text):
        segments.append(Text(content=text[at:]))
    return tuple(segments)


async def submit(
    client: AsyncClient,
    pod: str,
    segments: tuple[Segment, ...],
    *,
    wait: bool,
    timeout_s: float | None,
    on_text: Callable[[str], None],
) -> RunDone | None:
    """Submit a run, and follow it to its end with `wait`.

    Raises what it was refused with, or Timeout.
    """
    method = m.Run(input=segments)
    patience = 60.0 if timeout_s is None else timeout_s
    if not wait:
        await _send_when_free(client, pod, method, patience)
        return None
    from supervisor.following import RunFollower

    queue: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
    await client.watch_pod(pod, queue)
    await client.watch_fleet(queue, pod=pod)
    synced: set[str] = set()
    follower = RunFollower(pod, "", on_text)
    try:
        async with asyncio.timeout(timeout_s):
            while len(synced) < 2:
                source, told = await queue.get()
                if isinstance(told, Synced):
                    synced.add(source)
            follower.request_id = await _send_when_free(client, pod, method, patience)
            while True:
                source, told = await client.next_of(queue)
                if (done := follower.take(source, told)) is not None:
                    return done
    except TimeoutError:
        raise Timeout(
            f"the run of {pod} goes on after {timeout_s:g} s",
            next_step=f"podsup wait {pod} --for idle",
        ) from None


async def _send_when_free(client: AsyncClient, pod: str, method: m.Run, patience_s: float) -> str:
    """Send the run and return its id; one that the pod started by itself is waited for."""
    from supervisor.reach import new_id

    loop = asyncio.get_running_loop()
    end = loop.time() + patience_s
    said = False
    while True:
        request_id = new_id()
        try:
            await client.request(pod, m.Run.method, method, request_id=request_id)
        except AlreadyRunning as busy:
            if busy.details.get("trigger") not in _SELF_STARTED or loop.time() >= end:
                raise
            if not said:
                note(f"{pod} works on a notification; waiting for its end")
                said = True
            await asyncio.sleep(RETRY_S)
        else:
            return request_id
