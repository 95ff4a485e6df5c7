"""The interactive face of `podsup attach`: lines scroll by, below them what streams and the input.

    committed lines       printed once; they belong to the terminal's scrollback
    what streams now      drawn again and again; gone when its entry is printed
    ways to go on         after Tab, until the line changes
    alice> _              Enter submits a run; a paste of several lines is one mark
    alice · running …     status, context, usage

Only the last four are redrawn, so a resize redraws them and nothing else. Printing erases them,
writes, and draws them again, without giving the keyboard back to the terminal: what is typed
meanwhile is not echoed. Positions are relative; the terminal is never asked where its cursor is,
because one that does not answer would hold up every line.

Nothing that is asked of the pod holds up the screen. An answer changes the input line only where
the line is still the one that was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import TYPE_CHECKING

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Dimension,
    FormattedTextControl,
    HSplit,
    Layout,
    VerticalAlign,
    Window,
)
from prompt_toolkit.layout.processors import (
    BeforeInput,
    Processor,
    Transformation,
    TransformationInput,
)
from prompt_toolkit.output.defaults import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.renderer import print_formatted_text

from protocol import events as ev
from protocol import methods as m
from protocol.errors import PodsupError
from protocol.printable import on_one_line
from protocol.status import PodStatus
from protocol.watch import Deliver
from supervisor.cli.attach import draw, told_of
from supervisor.cli.output import note
from supervisor.cli.rewinding import lines_of_targets, rewind_to
from supervisor.cli.typed import Command, Order, Pastes, commands_from, order_of, workflow_of
from supervisor.drawing import Line, Style, failure, lines_of, one_line, thoughts
from supervisor.drawing import note as noted
from supervisor.reach import new_id
from supervisor.references import Kind, Unfinished, unfinished_at
from supervisor.transcript import Transcript

if TYPE_CHECKING:
    from supervisor.client import AsyncClient
    from supervisor.watcher import Told

TWICE_S = 2.0
"""A second Ctrl-C within this time detaches, whatever the pod does."""

ANSWER_S = 1.0
"""How long detaching waits for the answers to what was asked last."""

NEVER = float("-inf")
REFRESH_S = 0.5
FRAME_S = 0.02

MOST_HINTS = 40

COMPLETE_S = 5.0

HELP = """\
text       submits a run; a paste of several lines is one message; Tab completes:
           @path a file, #slug a knowledge page, /slug at the start a workflow; \\@ \\# \\/ are text
/resume    continues a paused run
/pause     stops the run and keeps it resumable (Ctrl-C)
/cancel    stops the run, gives up a paused one, or stops a compaction
/compact   summarises the history and goes on with the summary
/rewind    lists what can be taken back; /rewind N takes back input N and all after it
/thinking  shows what is thought in full from now on, or folds it again
/detach    leaves; the pod goes on (Ctrl-D; Ctrl-C twice, or while nothing runs)"""

_STYLES = {
    Style.PLAIN: "",
    Style.USER: "bold",
    Style.DIM: "ansibrightblack",
    Style.TOOL: "ansicyan",
    Style.WARN: "ansiyellow",
    Style.ERROR: "ansired",
    Style.NOTE: "ansibrightblack",
}


async def show(client: AsyncClient, pod: str, everything: bool) -> None:
    """Show the pod until the operator detaches; raises what ends it, such as Unreachable."""
    await _Screen(client, Transcript(pod, everything=everything)).run()


class _Shown(Processor):
    """Shows what the line holds, sign for sign, without what would turn or hide the rest of it."""

    def apply_transformation(self, given: TransformationInput) -> Transformation:
        shown = [
            (style, "".join(c if on_one_line(c) == c else "�" for c in text), *rest)
            for style, text, *rest in given.fragments
        ]
        return Transformation(shown)  # type: ignore[arg-type]


class _Screen:
    def __init__(self, client: AsyncClient, transcript: Transcript) -> None:
        self._client = client
        self._transcript = transcript
        self._pod = transcript.pod
        self._loop = asyncio.get_running_loop()
        self._pastes = Pastes()
        self._asking: set[asyncio.Task[None]] = set()
        self._interrupted_at = NEVER
        self._submitting: set[asyncio.Task[None]] = set()
        self._runs: set[str] = set()
        self._targets: m.RewindTargets | None = None
        self._hints: list[str] = []
        self._input = Buffer(
            multiline=False,
            accept_handler=self._on_enter,
            on_text_changed=lambda _: self._hints.clear(),
        )
        self._app: Application[None] = self._make_app()

    async def run(self) -> None:
        feed = told_of(self._client, self._pod)
        first = await anext(feed)  # what cannot be attached to is refused before anything is drawn
        started = asyncio.Event()
        following = self._loop.create_task(self._follow(started, first, feed))
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._end)
        try:
            with patch_stdout(), contextlib.suppress(EOFError):  # the terminal is gone
                await self._app.run_async(pre_run=started.set)
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._loop.remove_signal_handler(number)
            following.cancel()
            await asyncio.wait({following, *self._asking}, timeout=ANSWER_S)
        with contextlib.suppress(OSError):
            note(f"detached; {self._pod} goes on: podsup attach {self._pod}")

    async def _follow(
        self, started: asyncio.Event, first: Told, feed: AsyncGenerator[Told, None]
    ) -> None:
        """Draw what is told until something ends it; that ends the screen."""
        await started.wait()
        try:
            self._print(await draw(self._client, self._transcript, first))
            async for told in feed:
                lines = await draw(self._client, self._transcript, told)
                self._print(lines) if lines else self._app.invalidate()
                self._take_back(told)
        except Exception as error:
            self._end(error)

    # -- what is seen

    def _make_app(self) -> Application[None]:
        output = create_output()
        if isinstance(output, Vt100_Output):
            output.enable_cpr = False
        live = Window(
            FormattedTextControl(self._live_text),
            wrap_lines=True,
            dont_extend_height=True,
            height=lambda: Dimension(max=max(1, output.get_size().rows - 4)),
        )
        line = Window(
            BufferControl(self._input, input_processors=[_Shown(), BeforeInput(f"{self._pod}> ")]),
            wrap_lines=True,
            dont_extend_height=True,
        )
        hints = Window(
            FormattedTextControl(lambda: "  ".join(self._hints)),
            wrap_lines=True,
            dont_extend_height=True,
            height=Dimension(max=5),
            style="ansibrightblack",
        )
        bar = Window(FormattedTextControl(self._status_text), height=1, style="reverse")
        rows = [
            ConditionalContainer(live, Condition(lambda: bool(self._live_lines()))),
            ConditionalContainer(hints, Condition(lambda: bool(self._hints))),
            line,
            bar,
        ]
        return Application(
            Layout(HSplit(rows, align=VerticalAlign.TOP), focused_element=line),
            key_bindings=self._make_keys(),
            erase_when_done=True,
            refresh_interval=REFRESH_S,
            min_redraw_interval=FRAME_S,
            output=output,
        )

    def _live_lines(self) -> list[Line]:
        return self._transcript.live(self._loop.time())

    def _live_text(self) -> StyleAndTextTuples:
        """Return what streams; its cursor is at the end, which is what a full window shows."""
        return [*_fragments(self._live_lines())[:-1], ("[SetCursorPosition]", "")]

    def _status_text(self) -> str:
        running = self._transcript.status is PodStatus.RUNNING
        keys = "Ctrl-C pauses" if running else "Ctrl-C detaches"
        return on_one_line(f" {self._transcript.status_line()} · {keys} · /help ")

    def _print(self, lines: Sequence[Line]) -> None:
        if not lines or not self._app.is_running or self._app.is_done:
            return
        app = self._app
        app.renderer.erase()
        print_formatted_text(app.output, _fragments(lines), app.renderer.style)
        app.renderer.render(app, app.layout)

    # -- what is typed

    def _make_keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-c")
        @keys.add("<sigint>")
        def _interrupt(event: KeyPressEvent) -> None:
            self._on_interrupt()

        @keys.add("c-d", filter=Condition(lambda: not self._input.text))
        def _detach(event: KeyPressEvent) -> None:
            self._end()

        @keys.add("tab")
        def _complete(event: KeyPressEvent) -> None:
            self._on_tab()

        @keys.add(Keys.BracketedPaste)
        def _paste(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text(self._pastes.fold(event.data))

        return keys

    def _on_interrupt(self) -> None:
        now = self._loop.time()
        twice = now - self._interrupted_at < TWICE_S
        self._interrupted_at = now
        if twice:
            self._end()
        elif self._transcript.status is PodStatus.RUNNING or self._submitting:
            self._ask(m.Pause())
        elif self._input.text:
            self._input.reset()
        else:
            self._end()

    def _on_enter(self, buffer: Buffer) -> bool:
        """Do what the line says; returns whether it stays."""
        typed = buffer.text
        self._interrupted_at = NEVER
        match order_of(typed):
            case Order() as order:
                self._obey(order)
            case None if typed.strip():
                self._submitting.add(task := self._start(self._submit(typed)))
                task.add_done_callback(self._submitting.discard)
        return False

    def _obey(self, order: Order) -> None:
        match order.command:
            case Command.RESUME:
                self._ask(m.Resume())
            case Command.PAUSE:
                self._ask(m.Pause())
            case Command.CANCEL:
                self._ask(m.Cancel())
            case Command.COMPACT:
                self._ask(m.Compact())
            case Command.REWIND:
                number = order.number
                work = self._list_targets() if number is None else self._rewind(number)
                self._start(work)
            case Command.THINKING:
                self._toggle_thoughts()
            case Command.DETACH:
                self._end()
            case Command.HELP:
                self._print(lines_of(HELP, Style.NOTE))

    def _toggle_thoughts(self) -> None:
        """Show from now on what is thought, beginning with what was folded last; or fold it."""
        transcript = self._transcript
        transcript.with_thoughts = not transcript.with_thoughts
        if not transcript.with_thoughts:
            self._print([noted("thinking is folded from now on")])
            return
        lines = [noted("thinking is shown in full from now on")]
        if (last := transcript.last_thought) is not None:
            lines += thoughts(last.text or last.summary)
        self._print(lines)

    # -- what is asked

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Do something that asks the pod, and go on meanwhile."""
        task = self._loop.create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    def _ask(self, method: m.Method) -> None:
        self._start(self._send(method))

    async def _send(self, method: m.Method, typed: str = "", request_id: str | None = None) -> None:
        """Send a method; what is refused is said, and what was typed for it comes back."""
        try:
            await self._client.request(self._pod, method.method, method, request_id=request_id)
        except PodsupError as error:
            self._refuse(error, typed)

    def _refuse(self, error: PodsupError, typed: str = "") -> None:
        self._print([failure(error.code, error.message)])
        self._give_back(typed)

    def _give_back(self, line: str) -> None:
        """Put an input back into the line, unless something else is being typed."""
        if line and not self._input.text:
            self._input.insert_text(line)
            self._app.invalidate()

    async def _submit(self, typed: str) -> None:
        """Submit a run; one that begins with a workflow only where there is such a workflow."""
        segments = self._pastes.segments(typed)
        slug = workflow_of(segments)
        try:
            if slug is not None and slug not in await self._names("workflow", slug):
                unknown = f"there is no command /{slug}, and no workflow of that name"
                hint = f"/help names the commands, \\/{slug} is text"
                self._print([Line(f"{unknown}; {hint}", Style.ERROR)])
                self._give_back(typed if typed.strip() != f"/{slug}" else "")
                return
        except PodsupError as error:
            self._refuse(error, typed)
            return
        request_id = new_id()
        self._runs.add(request_id)
        await self._send(m.Run(input=segments), typed, request_id)

    def _take_back(self, told: Told) -> None:
        """Give an input back whose run was taken back, to the one who typed it."""
        match told:
            case Deliver(header=header, event=ev.RunEnd(request_id=str() as run, input=given)):
                if header.epoch is None and run in self._runs:
                    self._runs.discard(run)
                    self._give_back(self._pastes.line_of(given or ()))

    async def _list_targets(self) -> None:
        try:
            self._targets = await self._client.send(self._pod, m.ListRewindTargets())
        except PodsupError as error:
            self._refuse(error)
            return
        self._print(lines_of_targets(self._targets, time.time()))

    async def _rewind(self, number: int) -> None:
        """Rewind to a target as it was listed; refused where the history went on since."""
        listed, self._targets = self._targets, None
        try:
            done = await rewind_to(self._client, self._pod, number, listed)
        except PodsupError as error:
            self._refuse(error)
            return
        self._give_back(self._pastes.line_of(done.input))

    # -- completion

    def _on_tab(self) -> None:
        """Complete the reference at the cursor; the answer comes when it comes."""
        document = self._input.document
        if (asked := unfinished_at(document.text_before_cursor)) is not None:
            self._start(self._complete(asked, document))

    async def _complete(self, asked: Unfinished, document: Document) -> None:
        try:
            found = await self._completions(asked.kind, asked.prefix)
        except PodsupError:
            return
        if asked.kind == "workflow":
            found = [row for row in found if "/" not in row[0]]  # that would be a path
            found = [(name, False) for name in commands_from(asked.prefix)] + found
        if self._input.document != document:
            return  # it was typed on meanwhile
        finished = asked.finished(found)
        if finished is not None:
            typed = document.text_before_cursor[asked.start :]
            self._input.delete_before_cursor(len(typed))
            self._input.insert_text(finished)
        elif len(found) > 1:
            self._hints[:] = [
                one_line(value) + "/" * is_dir for value, is_dir in found[:MOST_HINTS]
            ]
            self._hints += ["…"] * (len(found) > MOST_HINTS)
        self._app.invalidate()

    async def _names(self, kind: Kind, prefix: str) -> set[str]:
        return {value for value, _ in await self._completions(kind, prefix)}

    async def _completions(self, kind: Kind, prefix: str) -> list[tuple[str, bool]]:
        asked = m.ListCompletions(kind=kind, prefix=prefix)
        found: m.Completions = await self._client.send(self._pod, asked, timeout_s=COMPLETE_S)
        return [(entry.value, entry.is_dir) for entry in found.entries]

    def _end(self, error: Exception | None = None) -> None:
        if not self._app.is_running or self._app.is_done:
            return
        if error is None:
            self._app.exit()
        else:
            self._app.exit(exception=error)


def _fragments(lines: Sequence[Line]) -> StyleAndTextTuples:
    """Return the lines as styled text, a newline after each."""
    pairs = (((_STYLES[line.style], line.text.expandtabs()), ("", "\n")) for line in lines)
    return [fragment for pair in pairs for fragment in pair]
