"""Every word for a state or an outcome, as the wire agreed on it, and the named groups."""

from __future__ import annotations

from enum import StrEnum

import pytest

from protocol import status
from protocol.control import CONTROLS
from protocol.events import EVENTS
from protocol.methods import METHODS
from protocol.scope import Permission
from protocol.status import ALIVE, ENDED, READY, Lane, PodStatus

WORDS: dict[type[StrEnum], str] = {
    status.PodStatus: """
        idle running paused defined starting unreachable stopping stopped backoff failed
    """,
    status.Flag: "busy suspect slow waiting",
    status.RunResult: "finished paused cancelled limit_reached rolled_back errored",
    status.TurnResult: "finished paused interrupted",
    status.Trigger: "user_send resume notify pod_event system_reminder wakeup",
    status.AlertLevel: "warn error",
    status.AlertSource: "pod engine compactor agents_md supervisor",
    status.Lane: "state log stream",
    status.Relation: "self child descendant peer",
    status.OperationState: "running done failed",
    Permission: "read write",
}

METHOD_NAMES = """
run notify pod_event resume pause cancel compact list_rewind_targets rewind_to
list_completions list_pods inspect_pod restore_pod register_peer get_history scope_lend
shutdown
"""
CONTROL_NAMES = """
hello list status spawn stop kill restart restore delete locks reclaim stats why
events_endpoint apply logs_tail ping drain down claim_segment reload approvals
approval_answer list_pods inspect_pod register_peer pod_event
"""
EVENT_NAMES = {
    Lane.LOG: "user_message system_item invoke_start segment_rotated entry log_cut",
    Lane.STREAM: """
        turn_start turn_end llm_call_start llm_call_end llm_retry llm_continuation
        text_delta text_done thinking_start thinking_delta thinking_done tool_call_start
        tool_call_args_delta tool_call_done tool_output_delta tool_result
    """,
    Lane.STATE: """
        status run_end error usage alert compact_start compact_done compact_failed
        rewind_applied memory_worker peer_registered pod_restored approval_requested
        approval_resolved scope_denied budget shutdown tick pod_starting pod_ready
        pod_unreachable pod_exited pod_backoff pod_failed pod_stopped pod_deleted
        scope_granted scope_delegated scope_reclaimed operation
    """,
}


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words.__name__)
def test_words_are_those_of_the_wire(words: type[StrEnum]) -> None:
    assert [word.value for word in words] == WORDS[words].split()


def test_no_list_of_words_is_forgotten_here() -> None:
    declared = {c for c in vars(status).values() if isinstance(c, type) and issubclass(c, StrEnum)}
    assert declared - {StrEnum} == set(WORDS) - {Permission}


def test_methods_and_controls_have_the_names_of_the_wire() -> None:
    assert set(METHODS) == set(METHOD_NAMES.split())
    assert set(CONTROLS) == set(CONTROL_NAMES.split())


@pytest.mark.parametrize("lane", Lane)
def test_events_of_a_lane_have_the_names_of_the_wire(lane: Lane) -> None:
    assert {name for name, cls in EVENTS.items() if cls.lane == lane} == set(
        EVENT_NAMES[lane].split()
    )


def test_every_status_is_alive_or_ended_or_waits_for_a_start() -> None:
    waits = {PodStatus.DEFINED, PodStatus.BACKOFF}
    assert sorted([*ALIVE, *ENDED, *waits]) == sorted(PodStatus)


def test_a_pod_that_answers_has_a_process() -> None:
    assert {PodStatus.IDLE, PodStatus.RUNNING, PodStatus.PAUSED} == READY
    assert READY < ALIVE
