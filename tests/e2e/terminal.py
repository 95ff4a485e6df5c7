"""A terminal for tests: a program on a pty, and a screen that understands what it draws.

The screen knows the sequences that redraw the lower lines of a terminal (relative moves, erasing,
wrapping) and nothing else; it keeps what scrolled off, so that a line drawn twice is seen twice.
It never answers a question, as a terminal without that feature would not.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tests.support.waiting import eventually

_SEQUENCE = re.compile(r"\x1b(?:\[([?>]?[\d;]*)([a-zA-Z])|\][^\x07]*\x07|[=>78()][A-Z0-9]?)")
_CUT_SHORT = re.compile(r"\x1b(?:\[[?>]?[\d;]*|\][^\x07]*)?$")


class Screen:
    """What a terminal of `rows` by `columns` shows, and what has scrolled off it."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self._cells: list[list[str]] = [[]]
        self._row = self._column = self._top = 0
        self._wraps = True
        self._rest = ""
        self.unknown: set[str] = set()

    @property
    def text(self) -> str:
        """Everything since the beginning; a line that was wrapped is several."""
        return "\n".join("".join(row).rstrip() for row in self._cells)

    @property
    def lines(self) -> list[str]:
        """The lines that are on the screen now."""
        return self.text.split("\n")[self._top :]

    def resize(self, rows: int, columns: int) -> None:
        """Change the size; what is drawn stays as it is."""
        self.rows, self.columns = rows, columns
        self._top = max(self._top, self._row - rows + 1)

    def feed(self, text: str) -> None:
        """Take what the program wrote; a sequence may come in pieces."""
        text = self._rest + text
        cut = _CUT_SHORT.search(text)
        self._rest = cut[0] if cut else ""
        text = text[: cut.start()] if cut else text
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self._put(text[at])
                at += 1
                continue
            found = _SEQUENCE.match(text, at)
            if found is None:
                self.unknown.add(text[at : at + 8])
                at += 1
                continue
            if found[2]:
                self._do(found[1], found[2])
            at = found.end()

    def _put(self, char: str) -> None:
        match char:
            case "\r":
                self._column = 0
            case "\n":
                self._down()
            case "\b":
                self._column = max(0, self._column - 1)
            case "\x07":
                pass
            case _:
                if self._column >= self.columns:
                    if self._wraps:
                        self._column = 0
                        self._down()
                    else:
                        self._column = self.columns - 1
                row = self._cells[self._row]
                row += " " * (self._column + 1 - len(row))
                row[self._column] = char
                self._column += 1

    def _down(self) -> None:
        self._row += 1
        while self._row >= len(self._cells):
            self._cells.append([])
        self._top = max(self._top, self._row - self.rows + 1)

    def _do(self, given: str, letter: str) -> None:
        count = int(given) if given.isdigit() and given != "0" else 1
        match letter, given:
            case "A", _:
                self._row = max(self._top, self._row - count)
            case "B", _:
                bottom = self._top + self.rows - 1
                self._row = min(bottom, self._row + count)
                while self._row >= len(self._cells):
                    self._cells.append([])
            case "C", _:
                self._column = min(self.columns - 1, self._column + count)
            case "D", _:
                self._column = max(0, self._column - count)
            case "K", _:
                del self._cells[self._row][self._column :]
            case "J", "" | "0":
                del self._cells[self._row][self._column :]
                del self._cells[self._row + 1 :]
            case (("h" | "l"), "?7"):
                self._wraps = letter == "h"
            case (("h" | "l" | "m"), _):
                pass
            case _:
                self.unknown.add(given + letter)


class Terminal:
    """A program whose three standard files are one terminal; `raw` is all that it wrote."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: dict[str, str],
        rows: int = 30,
        columns: int = 100,
    ) -> None:
        self.screen = Screen(rows, columns)
        self._master, slave = os.openpty()
        self._decoded = b""
        self.raw = b""
        self._set_size(rows, columns)
        try:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**env, "TERM": "xterm-256color"},
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
            )
        finally:
            os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.hang_up()

    def type(self, text: str) -> None:
        """Press keys."""
        data = text.encode()
        while data:
            data = data[os.write(self._master, data[:512]) :]
            self.look()

    def hang_up(self) -> None:
        """Close the window."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the window."""
        self.look()
        self.screen.resize(rows, columns)
        self._set_size(rows, columns)
        self.process.send_signal(signal.SIGWINCH)

    def look(self) -> str:
        """Return all the text so far."""
        while select.select([self._master], [], [], 0)[0]:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # the program has ended and closed its side
                break
            if not data:
                break
            self._take(data)
        return self.screen.text

    def wait(self, wanted: str | Callable[[str], object], timeout: float = 15) -> str:
        """Return the text once it contains what is wanted."""
        is_there = wanted if callable(wanted) else lambda text: wanted in text
        try:
            eventually(lambda: is_there(self.look()), f"{wanted!r} is on the screen", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.screen.text[-4000:]}") from None
        return self.screen.text

    def wait_exit(self, timeout: float = 15) -> int:
        """Return the exit code, once the program has ended."""

        def probe() -> bool:
            self.look()
            return self.process.poll() is not None

        eventually(probe, f"the program ends; {self.screen.text[-2000:]}", timeout)
        self.look()
        return self.process.wait()

    def _take(self, data: bytes) -> None:
        self.raw += data
        data = self._decoded + data
        whole = len(data)
        while whole > len(data) - 4 and whole and not _is_text(data[:whole]):
            whole -= 1
        self.screen.feed(data[:whole].decode("utf-8", "replace"))
        self._decoded = data[whole:]

    def _set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
