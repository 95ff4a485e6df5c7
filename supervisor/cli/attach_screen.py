"""The interactive face of `podsup attach`: lines scroll by, below them what streams and the input.

    committed lines       printed once; they belong to the terminal's scrollback
    what streams now      drawn again and again; gone when its entry is printed
    alice> _              Enter submits a run; a paste of several lines is one mark
    alice · running …     status, context, usage

Only the last three are redrawn, so a resize redraws them and nothing else. Printing erases them,
writes, and draws them again, without giving the keyboard back to the terminal: what is typed
meanwhile is not echoed. Positions are relative; the terminal is never asked where its cursor is,
because one that does not answer would hold up every line.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
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
from prompt_toolkit.layout.processors import BeforeInput
from prompt_toolkit.output.defaults import create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.renderer import print_formatted_text

from protocol import methods as m
from protocol.errors import PodsupError
from protocol.status import PodStatus
from supervisor.cli.attach import draw, told_of
from supervisor.cli.output import note
from supervisor.cli.typed import Command, Pastes, command_of
from supervisor.drawing import Line, Style, failure, lines_of
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

HELP = """\
text      submits a run; @path is a file reference; a paste of several lines is one message
/resume   continues a paused run
/pause    stops the run and keeps it resumable (Ctrl-C)
/cancel   stops the run, or gives up a paused one
/detach   leaves; the pod goes on (Ctrl-D; Ctrl-C twice, or while nothing runs)"""

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


class _Screen:
    def __init__(self, client: AsyncClient, transcript: Transcript) -> None:
        self._client = client
        self._transcript = transcript
        self._pod = transcript.pod
        self._loop = asyncio.get_running_loop()
        self._pastes = Pastes()
        self._asking: set[asyncio.Task[None]] = set()
        self._interrupted_at = NEVER
        self._input = Buffer(multiline=False, accept_handler=self._on_enter)
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
            BufferControl(self._input, input_processors=[BeforeInput(f"{self._pod}> ")]),
            wrap_lines=True,
            dont_extend_height=True,
        )
        bar = Window(FormattedTextControl(self._status_text), height=1, style="reverse")
        rows = [ConditionalContainer(live, Condition(lambda: bool(self._live_lines()))), line, bar]
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
        return f" {self._transcript.status_line()} · {keys} · /help "

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
        elif self._transcript.status is PodStatus.RUNNING or self._asking:
            self._ask(m.Pause())
        elif self._input.text:
            self._input.reset()
        else:
            self._end()

    def _on_enter(self, buffer: Buffer) -> bool:
        """Do what the line says; returns whether it stays."""
        typed = buffer.text
        self._interrupted_at = NEVER
        match command_of(typed):
            case Command.RESUME:
                self._ask(m.Resume())
            case Command.PAUSE:
                self._ask(m.Pause())
            case Command.CANCEL:
                self._ask(m.Cancel())
            case Command.DETACH:
                self._end()
            case Command.HELP:
                self._print(lines_of(HELP, Style.NOTE))
            case str(word):
                self._print([Line(f"there is no command /{word}; /help names them", Style.ERROR)])
            case None if typed.strip():
                self._ask(m.Run(input=self._pastes.segments(typed)), typed)
        return False

    def _ask(self, method: m.Method, typed: str = "") -> None:
        """Send a method, and go on meanwhile."""
        task = self._loop.create_task(self._send(method, typed))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _send(self, method: m.Method, typed: str) -> None:
        """Send a method; what is refused is said, and what was typed for it comes back."""
        try:
            await self._client.send(self._pod, method)
        except PodsupError as error:
            self._print([failure(error.code, error.message)])
            if not self._input.text:
                self._input.insert_text(typed)

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
