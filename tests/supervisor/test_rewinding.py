"""What can be rewound to, and what a refusal advises, in words."""

from __future__ import annotations

import pytest

from protocol import methods as m
from protocol.events import RewindSummary
from supervisor.cli.asking import next_for
from supervisor.cli.rewinding import lines_of_targets, words_of_rewound

NOW_S = 1_700_000_000.0


def target(number: int, age_s: float, preview: str, warning: str | None = None) -> m.RewindTarget:
    return m.RewindTarget(
        segment_id="s",
        user_input_entry_index=number,
        turn_index=number,
        timestamp_ms=int((NOW_S - age_s) * 1000),
        preview=preview,
        warning=warning,
    )


def test_targets_are_listed_with_number_age_preview_and_warning() -> None:
    targets = (target(2, 5, "second\nline \x1b[31m"), target(1, 7200, "first", "tools ran"))
    lines = lines_of_targets(m.RewindTargets(head_entries=9, targets=targets), NOW_S)
    assert [line.text for line in lines[1:]] == [
        "    2    5s  second line ␛[31m",
        "    1    2h  first  (tools ran)",
    ]


def test_no_target_is_said() -> None:
    (line,) = lines_of_targets(m.RewindTargets(head_entries=0, targets=()), NOW_S)
    assert line.text == "── there is nothing to rewind to"


@pytest.mark.parametrize(
    ("entries", "turns", "tools", "words"),
    [
        (1, 1, 0, ["taken back: 1 turn, 1 entry"]),
        (9, 2, 1, ["taken back: 2 turns, 9 entries", "the effects of 1 tool call stay"]),
        (9, 0, 3, ["taken back: 0 turns, 9 entries", "the effects of 3 tool calls stay"]),
    ],
)
def test_what_a_rewind_discarded_is_said_and_what_it_did_not_undo(
    entries: int, turns: int, tools: int, words: list[str]
) -> None:
    lost = RewindSummary(discarded_entries=entries, discarded_turns=turns, tools_ran=tools)
    done = m.Rewound(segment_id="s", head_entries=0, input=(), summary=lost)
    assert words_of_rewound(done) == words


@pytest.mark.parametrize(
    ("code", "status", "advice"),
    [
        ("already_running", "running", "podsup wait alice, or podsup cancel alice"),
        ("invalid_request", "paused", "podsup resume alice, or podsup cancel alice"),
        ("invalid_request", "idle", None),
        ("not_paused", "idle", "podsup status alice"),
        ("not_running", "paused", "podsup status alice"),
        ("conflict", "idle", "podsup rewind alice --list"),
        ("internal", "idle", None),
    ],
)
def test_a_refusal_advises_what_can_be_done(code: str, status: str, advice: str | None) -> None:
    assert next_for(code, "alice", status) == advice
