"""`podsup run` and `podsup notify`: say something to a pod."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from protocol import events as ev
from protocol import methods as m
from protocol.entries import AssistantItem, Message
from protocol.segments import Segment
from protocol.watch import Deliver
from supervisor.cli import exit_codes
from supervisor.cli.app import App, Failed, command
from supervisor.cli.asking import helped, interrupted, with_client
from supervisor.cli.output import is_terminal, note, put_result
from supervisor.cli.rows import row_of
from supervisor.references import parse_text

if TYPE_CHECKING:
    from supervisor.watcher import Told


@command("run", example='podsup run alice "What is in data.txt?" --wait')
@click.argument("pod")
@click.argument("text")
@click.option("--wait", is_flag=True, help="Return when the run has ended; print its answer.")
@click.option("--stream", is_flag=True, help="Print the answer as it comes; implies --wait.")
@click.option("--timeout", type=float, help="Seconds to wait (default: as long as it takes).")
@click.option(
    "-v", "--verbose", is_flag=True, help="Say on stderr what it does, also where no terminal is."
)
def run(
    app: App,
    pod: str,
    text: str,
    wait: bool,
    stream: bool,
    timeout: float | None,
    verbose: bool,
) -> None:
    """Submit TEXT to a pod as a user turn. `-` reads stdin.

    In TEXT @path is a file reference, #slug a knowledge page, /slug at the very start a workflow;
    a backslash before the sign makes text of it.

    With --stream the answer is printed as it comes and, on a terminal, what the pod does beside it
    on stderr; with -o jsonl it is every event of the run, and its outcome last.
    """
    segments = parse_input(sys.stdin.read() if text == "-" else text)
    wait = wait or stream
    told_on = wait and (verbose or (stream and app.output == "table" and sys.stderr.isatty()))
    face = Face(app, streams=stream, tells=told_on)
    try:
        done = with_client(
            app,
            lambda client: helped(
                client,
                pod,
                client.run(
                    pod,
                    segments,
                    wait=wait,
                    timeout_s=timeout,
                    on_text=face.on_text,
                    on_busy=lambda: note(f"{pod} works on a notification; waiting for its end"),
                    on_told=face.on_told,
                ),
            ),
        )
    except KeyboardInterrupt:
        face.end_line()
        how = "" if face.has_begun else " if it was accepted"
        ways = f"podsup attach {pod}, or podsup cancel {pod}"
        interrupted(app, f"the run of {pod} goes on{how}", ways)
    if done is None:
        app.out.lines({"pod": pod, "accepted": True}, [f"{pod}: run accepted"])
        return
    face.end_line()
    data = {"pod": pod, "result": done.result, "text": done.text, "usage": done.usage.to_wire()}
    if done.reason:
        data["reason"] = done.reason
    if done.error:
        data["error"] = done.error
    app.out.text(data, "" if face.prints_text else done.text)
    face.say_summary(done.result)
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
    app.out.lines({"pod": pod, "accepted": True}, [f"{pod}: notification stored"])


def parse_input(text: str) -> tuple[Segment, ...]:
    """Return the input segments of an argument; raises click.UsageError for an empty one."""
    if not text.strip():
        raise click.UsageError("there is no text to submit")
    return parse_text(text)


class Face:
    """How a run is shown while it goes on: its answer on stdout, what else it does on stderr.

    `streams` prints text as it comes, or with `-o jsonl` every event; `tells` says what the pod
    does. On a terminal both share the screen, so what is told begins on a line of its own.
    """

    def __init__(self, app: App, *, streams: bool, tells: bool) -> None:
        self.has_begun = False
        self.prints_text = streams and app.output == "table"
        self._prints_events = streams and app.output == "jsonl"
        self._app = app
        self._is_mid_line = False
        self._telling = None
        if tells:
            from supervisor.telling import Telling

            self._telling = Telling()

    def on_text(self, piece: str) -> None:
        """Take more of the answer."""
        if self.prints_text and piece:
            put_result(piece)
            self._is_mid_line = not piece.endswith("\n")

    def on_told(self, told: Told) -> None:
        """Take what the pod tells of its run."""
        self.has_begun = self.has_begun or isinstance(told, Deliver)
        if self._prints_events and (row := row_of(told)) is not None and self.has_begun:
            self._app.out.line(row)
        if _ends_text(told):
            self.end_line()
        if self._telling is None:
            return
        lines = self._telling.take(told)
        if lines and is_terminal():
            self.end_line()
        for line in lines:
            note(line.text)

    def end_line(self) -> None:
        """End the line that the answer is on."""
        if self._is_mid_line:
            self._is_mid_line = False
            put_result("\n")

    def say_summary(self, result: str) -> None:
        """Say how the run ended and what it used."""
        if self._telling is not None:
            note(self._telling.summary(result))


def _ends_text(told: Told) -> bool:
    """Whether a text of the answer is complete, or goes on no more."""
    match told:
        case Deliver(event=ev.EntryEvent(entry=AssistantItem(item=Message()))):
            return True
        case Deliver(event=ev.LlmContinuation()):
            return True
        case _:
            return False
