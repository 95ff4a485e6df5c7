"""A child's reports: the line the parent's model reads, and who is woken by them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from protocol.methods import PodEventMethod, decode_method
from protocol.pod_events import (
    POD_EVENTS,
    Errored,
    PodEvent,
    ScopeSubDelegated,
    ShutDown,
    TurnEnded,
    is_agent_visible,
    line_for_model,
    wakes_parent,
)
from protocol.scope import Permission, ScopeRule
from protocol.status import RunResult

RULE = ScopeRule(target="/w", permission=Permission.WRITE)

TABLE: list[tuple[PodEvent, bool, str]] = [
    (TurnEnded(pod_name="bob", result=RunResult.FINISHED), True, "finished"),
    (TurnEnded(pod_name="bob", result=RunResult.LIMIT_REACHED), True, "limit"),
    (TurnEnded(pod_name="bob", result=RunResult.PAUSED), False, "paused"),
    (TurnEnded(pod_name="bob", result=RunResult.CANCELLED), False, "cancelled"),
    (TurnEnded(pod_name="bob", result=RunResult.ROLLED_BACK), False, "rolled_back"),
    (Errored(pod_name="bob", code="provider_error", message="529"), True, "529"),
    (ShutDown(pod_name="bob", cause="out of memory"), True, "out of memory"),
]


@pytest.mark.parametrize(("event", "wakes", "says"), TABLE)
def test_report_is_one_line_that_names_the_pod_and_what_became_of_it(
    event: PodEvent, wakes: bool, says: str
) -> None:
    line = line_for_model(event)
    assert "bob" in line
    assert says in line
    assert len(line.splitlines()) == 1
    assert is_agent_visible(event)


@pytest.mark.parametrize(("event", "wakes", "says"), TABLE)
def test_idle_parent_is_woken_by_what_happened_but_not_by_what_somebody_did(
    event: PodEvent, wakes: bool, says: str
) -> None:
    assert wakes_parent(event) is wakes


@pytest.mark.parametrize("result", [RunResult.FINISHED, RunResult.LIMIT_REACHED])
def test_line_of_an_ended_turn_says_where_the_rest_is(result: RunResult) -> None:
    assert "ReadPodOutput" in line_for_model(TurnEnded(pod_name="bob", result=result))


def test_message_of_an_error_is_cut_at_500_characters() -> None:
    line = line_for_model(Errored(pod_name="bob", code="tool_error", message="x" * 499 + "yz"))
    assert "x" * 499 + "y" in line
    assert "z" not in line


@pytest.mark.parametrize(
    "event",
    [
        Errored(pod_name="bob", code="tool_error", message="Traceback:\n  boom\r\nbang"),
        ShutDown(pod_name="bob", cause="crashed:\nsegfault\x0b\u2028there"),
    ],
)
def test_line_stays_one_line_whatever_the_report_holds(event: PodEvent) -> None:
    assert len(line_for_model(event).splitlines()) == 1


def test_delegation_further_down_is_neither_shown_nor_a_reason_to_wake() -> None:
    event = ScopeSubDelegated(parent_pod="bob", sub_pod="carol", scope=(RULE,))
    assert not is_agent_visible(event)
    assert not wakes_parent(event)
    assert line_for_model(event) == ""


def test_all_reports_are_decoded_by_their_kind() -> None:
    kinds = {str(cls.model_fields["kind"].default) for cls in POD_EVENTS}
    assert kinds == {"turn_ended", "errored", "shut_down", "scope_sub_delegated"}
    data = {"event_id": "3-1", "event": {"kind": "shut_down", "pod_name": "b", "cause": "exit 0"}}
    method = decode_method("pod_event", data)
    assert isinstance(method, PodEventMethod)
    assert method.event == ShutDown(pod_name="b", cause="exit 0")


@pytest.mark.parametrize("kind", ["applauded", None, []])
def test_report_of_an_unknown_kind_is_refused(kind: object) -> None:
    with pytest.raises(ValidationError):
        decode_method("pod_event", {"event_id": "1", "event": {"kind": kind, "pod_name": "b"}})
