"""Log entries: every kind decoded to its class, newer kinds carried, malformed ones refused."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from protocol.base import Wire
from protocol.entries import (
    ENTRY_KINDS,
    AssistantItem,
    LlmUsage,
    SegmentStart,
    SystemItem,
    SystemItemEntry,
    SystemKind,
    ToolCall,
    UnknownEntry,
    UnknownItem,
    Usage,
    decode_entry,
)
from tests.protocol.samples import SAMPLES

KINDS = [
    "segment_start", "invoke", "user_input", "assistant_item", "tool_result", "system_item",
    "turn_end", "llm_usage", "run_completed", "run_errored", "paused_turn_abandoned",
    "config_changed", "extension",
]  # fmt: skip

plain = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def kind_of(cls: type[Wire]) -> str:
    """Return the word a class stands for."""
    return str(cls.model_fields["kind"].default)


def samples(*classes: type[Wire]) -> list[Wire]:
    return [sample for sample in SAMPLES if type(sample) in classes]


def test_the_kinds_are_those_of_the_log() -> None:
    assert [kind_of(cls) for cls in ENTRY_KINDS] == KINDS


@pytest.mark.parametrize("sample", samples(*ENTRY_KINDS), ids=lambda sample: sample.kind)
def test_entry_is_decoded_to_its_class_from_a_line_of_json(sample: Wire) -> None:
    assert decode_entry(json.loads(json.dumps(sample.to_wire()))) == sample


@pytest.mark.parametrize("cls", ENTRY_KINDS, ids=kind_of)
def test_entry_of_a_known_kind_without_a_time_is_refused(cls: type[Wire]) -> None:
    (sample,) = samples(cls)
    data = {key: value for key, value in sample.to_wire().items() if key != "ts"}
    with pytest.raises(ValidationError, match="ts"):
        decode_entry(data)


@pytest.mark.parametrize("kind", ["dream", "", None, 3, [], {}, "unknown"])
def test_entry_of_an_unknown_kind_is_carried(kind: Any) -> None:
    entry = decode_entry({"kind": kind, "ts": 5, "of": "sheep"})
    assert isinstance(entry, UnknownEntry)
    assert (entry.ts, entry.to_wire()["of"]) == (5, "sheep")


def test_entry_without_kind_or_time_is_carried_as_unknown() -> None:
    assert isinstance(decode_entry({}), UnknownEntry)


@given(
    st.text().filter(lambda kind: kind not in KINDS),
    st.integers(-(2**63), 2**63 - 1),
    st.dictionaries(st.text(), plain, max_size=4),
)
def test_unknown_entry_is_rewritten_with_every_field_it_had(
    kind: str, ts: int, rest: dict[str, Any]
) -> None:
    data = rest | {"kind": kind, "ts": ts}
    assert decode_entry(data).to_wire() == data


def test_unknown_entry_keeps_a_field_that_is_null() -> None:
    data = {"kind": "dream", "ts": 5, "of": None}
    assert decode_entry(data).to_wire() == data


def test_null_inside_a_config_or_payload_is_kept() -> None:
    (start,) = samples(SegmentStart)
    config = {"stop": None, "deep": {"stop": None, "list": [None]}}
    entry = decode_entry(start.to_wire() | {"config": config})
    assert isinstance(entry, SegmentStart)
    assert entry.to_wire()["config"] == config


def test_item_of_an_unknown_kind_is_carried_with_its_fields() -> None:
    image = {"kind": "image", "url": "data:", "size": [1, 2]}
    entry = decode_entry({"kind": "assistant_item", "ts": 5, "item": image})
    assert isinstance(entry, AssistantItem)
    assert isinstance(entry.item, UnknownItem)
    assert entry.to_wire()["item"] == image


def test_arguments_of_a_call_stay_the_text_that_came() -> None:
    broken = '{"path": "a'
    call = {"kind": "tool_call", "call_id": "c", "name": "Read", "arguments": broken}
    entry = decode_entry({"kind": "assistant_item", "ts": 5, "item": call})
    assert isinstance(entry, AssistantItem)
    assert entry.item == ToolCall(call_id="c", name="Read", arguments=broken)


def test_arguments_that_are_no_text_are_refused() -> None:
    call = {"kind": "tool_call", "call_id": "c", "name": "Read", "arguments": {"path": "a"}}
    with pytest.raises(ValidationError):
        decode_entry({"kind": "assistant_item", "ts": 5, "item": call})


@pytest.mark.parametrize("kind", [*get_args(SystemKind), "hologram"])
def test_system_item_may_be_of_any_kind(kind: str) -> None:
    entry = decode_entry({"kind": "system_item", "ts": 5, "item": {"kind": kind, "body": "b"}})
    assert isinstance(entry, SystemItemEntry)
    assert entry.item == SystemItem(kind=kind, body="b")


def test_schema_is_called_schema_in_the_line() -> None:
    (start,) = samples(SegmentStart)
    assert start.to_wire()["schema"] == 1


def test_usage_of_an_entry_is_its_figures_alone() -> None:
    (entry,) = samples(LlmUsage)
    assert isinstance(entry, LlmUsage)
    assert entry.usage == Usage(
        input_tokens=1200,
        output_tokens=34,
        cache_read_tokens=1000,
        cache_write_tokens=200,
        cost_usd=0.0125,
    )


def test_usages_add_up_and_a_cost_unknown_on_one_side_is_the_other_sides() -> None:
    priced = Usage(input_tokens=1, output_tokens=2, cache_read_tokens=3, cost_usd=0.5)
    unpriced = Usage(input_tokens=10, cache_write_tokens=4)
    total = Usage(
        input_tokens=11, output_tokens=2, cache_read_tokens=3, cache_write_tokens=4, cost_usd=0.5
    )
    assert priced.plus(unpriced) == unpriced.plus(priced) == total
    assert unpriced.plus(unpriced).cost_usd is None
    assert priced.plus(priced).cost_usd == 1.0
