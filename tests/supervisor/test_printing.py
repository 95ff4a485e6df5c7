"""The one door between what is said from outside and a terminal."""

from __future__ import annotations

import ast
import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import supervisor
from protocol.errors import Conflict, InvalidRequest
from protocol.printable import json_printable, on_one_line, printable
from supervisor.cli.output import Output, StatusWord, note, put_result, put_stored

PACKAGE = Path(supervisor.__file__).parent
DOOR = PACKAGE / "cli" / "output.py"
OF_THE_DAEMON = {PACKAGE / "background.py", PACKAGE / "daemon.py"}
"""What prints into the log of a supervisor."""

EVIL = "x\x1b]52;c;aGk=\x07\r\x9b2J\u202e\u200b\ud800\nFORGED\tcell"
HARMLESS = {"\u200c", "\u200d", "\ufe0f"}
BLANK = {"\u115f", "\u1160", "\u2800", "\u3164", "\uffa0"}

texts = st.text(
    st.characters(codec=None, exclude_categories=())
    | st.sampled_from(
        "\x1b\x07\r\n\t\x9b\x7f\u202e\u2066\u200b\ufeff\ud83d\U000e0041\u3164\u034f\u2800\ufe00\ufe0f\U000e0100"
    )
)


def is_obeyed(character: str) -> bool:
    """Whether a terminal does something with the character, or hides it."""
    category = unicodedata.category(character)
    if character in BLANK or "VARIATION SELECTOR" in unicodedata.name(character, ""):
        return character not in HARMLESS
    return category in ("Cc", "Cs", "Zl", "Zp") or (
        category == "Cf" and character not in HARMLESS and not _is_visible(character)
    )


def _is_visible(character: str) -> bool:
    """Whether a format character is drawn: signs before numbers, musical and shorthand marks."""
    code = ord(character)
    return (
        code in (0x06DD, 0x070F, 0x08E2)
        or code in range(0x600, 0x606)
        or code
        in (
            *range(0x890, 0x892),
            *range(0x110BD, 0x110CE),
            *range(0x13430, 0x13440),
            *range(0x1BCA0, 0x1BCA4),
            *range(0x1D173, 0x1D17B),
        )
    )


@given(texts)
def test_text_for_a_terminal_holds_nothing_that_it_obeys(text: str) -> None:
    assert not [c for c in printable(text) if is_obeyed(c) and c not in "\n\t"]
    assert not [c for c in on_one_line(text) if is_obeyed(c)]


def test_every_character_that_shows_as_nothing_is_made_visible() -> None:
    unseen = [chr(code) for code in range(sys.maxunicode + 1) if is_obeyed(chr(code))]
    hidden = [c for c in (*unseen, "\u034f", "\u17b4", "\U0001d173") if on_one_line(c) == c]
    assert hidden == []
    assert on_one_line("\u2764\ufe0f \u200c\u200d") == "\u2764\ufe0f \u200c\u200d"


@given(texts)
def test_made_harmless_twice_is_made_harmless_once(text: str) -> None:
    assert printable(printable(text)) == printable(text)
    assert on_one_line(on_one_line(text)) == on_one_line(text)
    assert on_one_line(printable(text)) == on_one_line(text.replace("\r\n", "\n"))


@given(st.recursive(texts, lambda some: st.lists(some) | st.dictionaries(texts, some)))
def test_json_for_a_terminal_says_exactly_the_same(value: object) -> None:
    shown = json_printable(json.dumps(value, ensure_ascii=False))
    assert not [c for c in shown if is_obeyed(c)]
    assert shown.encode()
    assert json.loads(shown) == json.loads(json.dumps(value))


# -- what is printed


def test_foreign_text_begins_no_row_and_no_cell(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output("table")
    out.table(("A", "B"), [(EVIL, "idle"), ("y", EVIL)])
    out.lines({}, [EVIL, ("tree ", StatusWord("idle"), EVIL), (StatusWord(EVIL),)])
    note(EVIL)
    out.error(Conflict(EVIL, next_step=EVIL, holders=[{"pod": EVIL, "holder_rule": EVIL}]))
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 6
    assert len(shown.err.splitlines()) == 4
    assert not [c for c in shown.out + shown.err if is_obeyed(c) and c != "\n"]


def test_each_mistake_of_a_file_has_a_line_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    mistakes = [{"text": f"one {EVIL}"}, {"text": "two"}]
    Output("table").error(InvalidRequest(f"one {EVIL}\ntwo", mistakes=mistakes))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("podsup: one x␛]52")
    assert second == "two"


def test_a_result_is_kept_as_it_is_where_no_terminal_is(
    capfd: pytest.CaptureFixture[str],
) -> None:
    said = EVIL.replace("\ud800", "").replace("\r", "")
    put_result(said)
    put_stored([said.encode()])
    assert capfd.readouterr().out == said * 2


def test_a_result_that_cannot_be_encoded_is_no_failure(capfd: pytest.CaptureFixture[str]) -> None:
    put_result("half \ud83d\n")
    assert capfd.readouterr().out == "half \\ud83d\n"


# -- who prints


def writers(tree: ast.AST) -> Iterator[str]:
    """Yield each use of what writes to a standard stream."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                yield "print"
            case ast.Attribute(
                value=ast.Name(id="click"), attr="echo" | "secho" | "echo_via_pager" as name
            ):
                yield f"click.{name}"
            case ast.Attribute(
                value=ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr"), attr=name
            ) if name not in ("isatty", "flush", "close"):
                yield f"sys.….{name}"
            case ast.ImportFrom(module="sys", names=names) if {"stdout", "stderr"} & {
                name.name for name in names
            }:
                yield "from sys import"


def test_only_one_module_of_the_command_line_prints() -> None:
    files = set(PACKAGE.rglob("*.py")) - OF_THE_DAEMON
    found = {file: set(writers(ast.parse(file.read_text()))) for file in files}
    assert {file for file, uses in found.items() if uses} == {DOOR}
    (one,) = [
        node
        for node in ast.walk(ast.parse(DOOR.read_text()))
        if isinstance(node, ast.FunctionDef) and ".write(" in ast.unparse(node)
    ]
    assert one.name == "_put"


def test_the_search_for_writers_finds_each_kind() -> None:
    source = (
        "print(1)\nclick.echo(2)\nsys.stdout.write(3)\nsys.stderr.buffer\nfrom sys import stdout"
    )
    assert len(list(writers(ast.parse(source)))) == 5
