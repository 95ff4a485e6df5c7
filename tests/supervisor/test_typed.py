"""What is typed into an attached pod's line: commands, text, references and pastes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.segments import FileRef, Paste, Segment, Text, WorkflowInvoke, flatten
from supervisor.cli.typed import Command, Order, Pastes, commands_from, order_of, workflow_of


@pytest.mark.parametrize(
    ("line", "order"),
    [
        ("/resume", Order(Command.RESUME)),
        (" /help ", Order(Command.HELP)),
        ("/compact", Order(Command.COMPACT)),
        ("/rewind", Order(Command.REWIND)),
        ("/rewind 12", Order(Command.REWIND, 12)),
        ("/rewind twice", None),
        ("/pause 1", None),
        ("/frobnicate", None),
        ("/etc/hosts", None),
        ("/resume now", None),
        ("hello", None),
        ("", None),
    ],
)
def test_a_slash_and_a_commands_word_alone_is_an_order(line: str, order: Order | None) -> None:
    assert order_of(line) == order


def test_commands_are_completed_by_how_they_begin() -> None:
    assert commands_from("re") == ["resume", "rewind"]
    assert commands_from("x") == []


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
        (
            "/fix [paste #1: 2 lines]",
            (
                WorkflowInvoke(slug="fix"),
                Text(content=" "),
                Paste(id=1, chars=4, lines=2, content="a\nb\n"),
            ),
        ),
        (
            "[paste #1: 2 lines]/fix",
            (Paste(id=1, chars=4, lines=2, content="a\nb\n"), Text(content="/fix")),
        ),
    ],
)
def test_a_mark_stands_for_what_was_pasted(line: str, segments: tuple[Segment, ...]) -> None:
    pastes = Pastes()
    pastes.fold("a\nb\n")
    assert pastes.segments(line) == segments


def test_an_empty_line_is_no_input() -> None:
    assert Pastes().segments("  ") == ()


def test_the_workflow_of_an_input_is_known_before_it_is_submitted() -> None:
    pastes = Pastes()
    assert workflow_of(pastes.segments("/release now")) == "release"
    assert workflow_of(pastes.segments("run /release now")) is None


@given(
    st.text(st.characters(exclude_characters='\\"'), min_size=1).filter(str.strip),
    st.text(st.characters(exclude_characters="\r")),
)
def test_nothing_that_was_typed_or_pasted_is_lost(typed: str, pasted: str) -> None:
    pastes = Pastes()
    mark = pastes.fold(f"\n{pasted}\nx\ny")
    assert flatten(pastes.segments(f"{typed} {mark}")) == f"{typed} \n{pasted}\nx\ny"


PIECES = st.lists(
    st.sampled_from(
        ["/fix", "@a.py", "#style", " ", "\\@b", "words", "[paste #1: 3 lines]", "(", ","]
    ),
    max_size=8,
).map("".join)


@given(PIECES.filter(str.strip), st.booleans())
def test_an_input_that_comes_back_is_read_as_the_same(line: str, is_new: bool) -> None:
    pastes = Pastes()
    pastes.fold("one\ntwo\nthree")
    submitted = pastes.segments(line)
    later = Pastes() if is_new else pastes
    again = later.segments(later.line_of(submitted))
    assert [
        one.model_copy(update={"id": 0}) if isinstance(one, Paste) else one for one in again
    ] == [one.model_copy(update={"id": 0}) if isinstance(one, Paste) else one for one in submitted]


def test_text_of_several_lines_comes_back_as_a_paste() -> None:
    pastes = Pastes()
    line = pastes.line_of((Text(content="one\ntwo "), FileRef(path="a.py")))
    assert line == "[paste #1: 2 lines]@a.py"
    assert flatten(pastes.segments(line)) == "one\ntwo @a.py"
