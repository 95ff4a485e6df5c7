"""`podsup run` and `podsup notify`: say something to a pod."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import click

from protocol import methods as m
from protocol.segments import FileRef, Segment, Text
from supervisor.cli import exit_codes
from supervisor.cli.app import App, Failed, command
from supervisor.cli.asking import with_client
from supervisor.cli.output import note

if TYPE_CHECKING:
    pass

_REFERENCE = re.compile(r"(?<!\S)@([^\s@]+)")


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
        lambda client: client.run(
            pod,
            segments,
            wait=wait,
            timeout_s=timeout,
            on_text=show if streams else lambda piece: None,
            on_busy=lambda: note(f"{pod} works on a notification; waiting for its end"),
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
