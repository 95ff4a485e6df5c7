"""Input segments: flattening, and what becomes of kinds nobody knows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from protocol.methods import Run, decode_method
from protocol.segments import (
    FileRef,
    KnowledgeRef,
    Paste,
    Segment,
    Text,
    UnknownSegment,
    WorkflowInvoke,
    flatten,
)
from protocol.wire import pack, unpack

SKETCH = {"kind": "sketch", "svg": "<svg/>", "layers": [1, {"a": "b"}]}


def submitted(*segments: dict[str, Any]) -> tuple[Segment, ...]:
    """Return the segments as a pod would read them from a `run`."""
    method = decode_method("run", unpack(pack({"input": list(segments)})))
    assert isinstance(method, Run)
    return method.input


def test_segments_are_flattened_in_order_without_anything_between() -> None:
    segments: list[Segment] = [
        Text(content="see "),
        FileRef(path="src/a.py"),
        Text(content=" and "),
        KnowledgeRef(slug="style"),
        Paste(id=1, chars=4, lines=2, content="\na\nb"),
        WorkflowInvoke(slug="release"),
    ]
    assert flatten(segments) == "see @src/a.py and #style\na\nb/release"


def test_nothing_flattens_to_nothing() -> None:
    assert flatten([]) == ""


@given(st.lists(st.text(), max_size=4))
def test_text_and_paste_are_verbatim(contents: list[str]) -> None:
    as_text = flatten(Text(content=content) for content in contents)
    as_paste = flatten(Paste(id=1, chars=0, lines=0, content=content) for content in contents)
    assert as_text == as_paste == "".join(contents)


def test_unknown_kind_flattens_to_a_bracketed_placeholder_that_names_it() -> None:
    (segment,) = submitted(SKETCH)
    placeholder = flatten([segment])
    assert placeholder.startswith("[")
    assert placeholder.endswith("]")
    assert "sketch" in placeholder


def test_unknown_kind_is_carried_with_all_its_data() -> None:
    (segment,) = submitted(SKETCH)
    assert isinstance(segment, UnknownSegment)
    assert (segment.kind, segment.original) == ("unknown", "sketch")
    (again,) = submitted(segment.to_wire())
    assert again == segment
    assert segment.to_wire().items() >= {"svg": "<svg/>", "layers": [1, {"a": "b"}]}.items()


@pytest.mark.parametrize("kind", [None, 3, 1.5, True, [], {}, b"text", "", "Text"])
def test_kind_that_is_no_known_word_is_unknown_whatever_it_is(kind: object) -> None:
    (segment,) = submitted({"kind": kind})
    assert isinstance(segment, UnknownSegment)


def test_segment_without_a_kind_is_unknown() -> None:
    (segment,) = submitted({"content": "hi"})
    assert isinstance(segment, UnknownSegment)


def test_unknown_field_of_a_known_kind_is_ignored() -> None:
    assert submitted({"kind": "text", "content": "hi", "colour": "red"}) == (Text(content="hi"),)


@pytest.mark.parametrize(
    "bad",
    [{"kind": "text"}, {"kind": "paste", "content": "x"}, {"kind": "file_ref", "path": 3}, 5, "hi"],
)
def test_malformed_segment_of_a_known_kind_is_refused(bad: Any) -> None:
    with pytest.raises(ValidationError):
        submitted(bad)


def test_run_without_input_is_refused() -> None:
    with pytest.raises(ValidationError):
        submitted()
