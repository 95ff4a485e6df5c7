"""What is typed into an attached pod's line: commands, text, references and pastes."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.segments import FileRef, Paste, Segment, Text, flatten
from supervisor.cli.typed import Command, Pastes, command_of


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("/resume", Command.RESUME),
        (" /help ", Command.HELP),
        ("/detach", Command.DETACH),
        ("/frobnicate", "frobnicate"),
        ("/etc/hosts", None),
        ("/resume now", None),
        ("hello", None),
        ("", None),
    ],
)
def test_a_slash_and_one_word_alone_is_a_command(line: str, command: str | None) -> None:
    assert command_of(line) == command


@pytest.mark.parametrize(
    ("pasted", "folded"),
    [
        ("one line", "one line"),
        ("one line\n", "one line"),
        ("two\nlines", "[paste #1: 2 lines]"),
        ("two\r\nlines\r\n", "[paste #1: 2 lines]"),
        ("two\rlines\r", "[paste #1: 2 lines]"),
    ],
)
def test_only_a_paste_of_several_lines_is_folded(pasted: str, folded: str) -> None:
    assert Pastes().fold(pasted) == folded


@pytest.mark.parametrize(
    ("line", "segments"),
    [
        ("see @a.py", (Text(content="see "), FileRef(path="a.py"))),
        ("[paste #1: 2 lines]", (Paste(id=1, chars=4, lines=2, content="a\nb\n"),)),
        (
            "fix [paste #1: 2 lines] in @a.py",
            (
                Text(content="fix "),
                Paste(id=1, chars=4, lines=2, content="a\nb\n"),
                Text(content=" in "),
                FileRef(path="a.py"),
            ),
        ),
        ("[paste #7: 2 lines]", (Text(content="[paste #7: 2 lines]"),)),
    ],
)
def test_a_mark_stands_for_what_was_pasted(line: str, segments: tuple[Segment, ...]) -> None:
    pastes = Pastes()
    pastes.fold("a\nb\n")
    assert pastes.segments(line) == segments


def test_an_empty_line_is_refused() -> None:
    with pytest.raises(click.UsageError):
        Pastes().segments("  ")


@given(st.text(min_size=1).filter(str.strip), st.text(st.characters(exclude_characters="\r")))
def test_nothing_that_was_typed_or_pasted_is_lost(typed: str, pasted: str) -> None:
    pastes = Pastes()
    mark = pastes.fold(f"\n{pasted}\nx\ny")
    assert flatten(pastes.segments(f"{typed} {mark}")) == f"{typed} \n{pasted}\nx\ny"
