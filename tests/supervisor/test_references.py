"""What a person types: which words are references, how they are completed and given back."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.segments import FileRef, KnowledgeRef, Segment, Text, WorkflowInvoke, flatten
from supervisor.references import Unfinished, as_typed, parse_text, unfinished_at


def text(content: str) -> Text:
    return Text(content=content)


def file(path: str) -> FileRef:
    return FileRef(path=path)


def page(slug: str) -> KnowledgeRef:
    return KnowledgeRef(slug=slug)


def flow(slug: str) -> WorkflowInvoke:
    return WorkflowInvoke(slug=slug)


@pytest.mark.parametrize(
    ("typed", "segments"),
    [
        ("", ()),
        ("just words", (text("just words"),)),
        ("see @src/a.py", (text("see "), file("src/a.py"))),
        ("@a.py, then @b.", (file("a.py"), text(", then "), file("b"), text("."))),
        ("(see @a.py)", (text("(see "), file("a.py"), text(")"))),
        ("(@a.py: yes)", (text("("), file("a.py"), text(": yes)"))),
        (
            "@. and @.. and @../x/",
            (file("."), text(" and "), file(".."), text(" and "), file("../x/")),
        ),
        ("@/etc/hosts", (file("/etc/hosts"),)),
        ("@node_modules/@types/x", (file("node_modules/@types/x"),)),
        ('@"my file.txt", twice', (file("my file.txt"), text(", twice"))),
        ("as #style says", (text("as "), page("style"), text(" says"))),
        ("#how-we.test_it?", (page("how-we.test_it"), text("?"))),
        ("#facade", (page("facade"),)),
        ("#guides/style.", (page("guides/style"), text("."))),
        ("/release", (flow("release"),)),
        ("/release 1.2 @notes.md", (flow("release"), text(" 1.2 "), file("notes.md"))),
        ("/review\nall of it", (flow("review"), text("\nall of it"))),
    ],
)
def test_references_are_found_where_a_word_begins(
    typed: str, segments: tuple[Segment, ...]
) -> None:
    assert parse_text(typed) == segments
    assert as_typed(segments) == typed


@pytest.mark.parametrize(
    "typed",
    [
        *(
            "mail a@b.org",
            "a@b",
            "what is @@count?",
            "ssh @user@host",
            "a lone @ sign",
            "@",
            '@"',
            '@""',
        ),
        *(
            "fix #1 and #23",
            "# A heading",
            "## Another",
            "#",
            "#!/bin/sh",
            "#TODO: this",
            "C# and F#",
        ),
        *("colour: #fff;", "#c0ffee", "#1a2b3c4d", "#FFF", "#include <stdio.h>", "#ifdef X"),
        *(
            "/usr/bin is full",
            "/etc/hosts",
            "run /release",
            " /release",
            "/ or //",
            "/Users",
            "/a.b/",
        ),
        *("and/or", "a\\b", "C:\\@home", "\\n", "1/2", "#a/B", "#a//b", "#a@b"),
    ],
)
def test_what_only_looks_like_a_reference_stays_text(typed: str) -> None:
    assert parse_text(typed) == (text(typed),)


@pytest.mark.parametrize(
    ("typed", "content"),
    [
        ("a \\@path", "a @path"),
        ("\\#slug and (\\@x)", "#slug and (@x)"),
        ("\\/tmp is full", "/tmp is full"),
        ('\\@"a b"', '@"a b"'),
        ("\\@ \\#1 \\/usr/bin x\\@y", "\\@ \\#1 \\/usr/bin x\\@y"),
    ],
)
def test_a_backslash_makes_text_of_what_would_be_a_reference(typed: str, content: str) -> None:
    assert parse_text(typed) == (text(content),)


def test_a_workflow_begins_an_input_and_no_later_piece_of_it() -> None:
    assert parse_text("/release", is_start=False) == (text("/release"),)
    assert as_typed((text("/release"),), is_start=False) == "/release"
    assert as_typed((text("/release"),)) == "\\/release"


TYPED = st.lists(
    st.sampled_from([*'@#/\\"(). ,:\n', "@a", "#b", "/c", '@"d e"', "fff", "include", "x", "A"]),
    max_size=12,
).map("".join)


@given(TYPED | st.text(max_size=30))
@example('@"a"b')
@example("\\/a")
def test_what_was_read_is_read_again_from_what_is_given_back(typed: str) -> None:
    segments = parse_text(typed)
    assert parse_text(as_typed(segments)) == segments


@given(
    st.text(st.characters(exclude_characters='\\"')) | TYPED.filter(lambda t: not {*'\\"'} & {*t})
)
def test_nothing_that_was_typed_is_lost(typed: str) -> None:
    assert flatten(parse_text(typed)) == typed


@pytest.mark.parametrize(
    ("before", "unfinished"),
    [
        ("see @sr", Unfinished("file", "sr", 4)),
        ("@", Unfinished("file", "", 0)),
        ("(@src/", Unfinished("file", "src/", 1)),
        ('x @"my f', Unfinished("file", "my f", 2)),
        ("as #st", Unfinished("knowledge", "st", 3)),
        ("#guides/st", Unfinished("knowledge", "guides/st", 0)),
        ("/re", Unfinished("workflow", "re", 0)),
        ("say /re", None),
        ("/usr/b", None),
        ("a@b", None),
        ("@a b", None),
        ('@"a" b', None),
        ("", None),
    ],
)
def test_the_reference_at_the_cursor_is_completed(
    before: str, unfinished: Unfinished | None
) -> None:
    assert unfinished_at(before) == unfinished


@pytest.mark.parametrize(
    ("unfinished", "values", "finished"),
    [
        (Unfinished("file", "a", 0), [("a.py", False)], "@a.py "),
        (Unfinished("file", "s", 0), [("src", True)], "@src/"),
        (Unfinished("file", "src/", 0), [("src/ab", False), ("src/ac", True)], "@src/a"),
        (Unfinished("file", "m", 0), [("my file", False)], '@"my file" '),
        (Unfinished("file", "m", 0), [("my dir", True)], '@"my dir/'),
        (Unfinished("knowledge", "st", 0), [("style", False)], "#style "),
        (Unfinished("workflow", "", 0), [("release", False), ("review", False)], "/re"),
        (Unfinished("file", "a", 0), [("ab", False), ("ac", False)], None),
        (Unfinished("file", "a.py", 0), [("a.py", False)], "@a.py "),
        (Unfinished("file", "a", 0), [], None),
        (Unfinished("file", "a", 0), [("other", False)], None),
    ],
)
def test_a_reference_goes_on_as_far_as_all_ways_agree(
    unfinished: Unfinished, values: list[tuple[str, bool]], finished: str | None
) -> None:
    assert unfinished.finished(values) == finished
