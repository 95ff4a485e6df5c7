"""What one request shows of the history, and how an interruption is closed. Pure.

The log holds tool results in the order they finished; the model sees them in call order, right
after the calls they answer. A call without a result is never sent: it is closed first, with a
result that says the outcome is unknown, and nothing is ever executed a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from protocol.entries import Item, Message, SystemItem, ToolCall, ToolResult

OUTCOME_UNKNOWN = (
    "interrupted, outcome unknown: it may have had effects; check before you repeat it"
)
NOT_STARTED = "interrupted before it started: it had no effect"

_CUT_SHORT = "The previous run was not finished: "
NOTES = {
    "user": _CUT_SHORT + "the user stopped it.",
    "shutdown": _CUT_SHORT + "the process was shut down.",
    "reason": _CUT_SHORT + "it was stopped: {detail}",
    "failure": _CUT_SHORT + "it ended with an error: {detail}",
    "crash": _CUT_SHORT + "a crash of the process cut it.",
}


def in_call_order(items: Iterable[Item]) -> tuple[Item, ...]:
    """Return the items with the results of each answer in the order of its calls.

    They stand in one group behind it: all calls of an answer are committed before the first of its
    tools starts. So what one request showed, the next one shows unchanged.
    """
    out: list[Item] = []
    results: list[ToolResult] = []
    place: dict[str, int] = {}

    def ordered() -> list[ToolResult]:
        return sorted(results, key=lambda result: place.get(result.call_id, 0))

    for item in items:
        if isinstance(item, ToolResult):
            results.append(item)
            continue
        out += ordered()
        results.clear()
        if isinstance(item, ToolCall):
            place[item.call_id] = len(out)
        out.append(item)
    return (*out, *ordered())


@dataclass(frozen=True, slots=True)
class Cut:
    """Why the last run was not finished: `user`, `shutdown`, `crash`, or a word of `NOTES`.

    `detail` is the message of a `failure`, and the words of any other `reason`.
    """

    cause: str
    detail: str = ""


def closing_results(unanswered: Sequence[ToolCall], started: Iterable[str]) -> list[ToolResult]:
    """Return a synthetic result for each call without one.

    `started` are the ids whose tool had begun.
    """
    begun = set(started)
    return [
        ToolResult(
            call_id=call.call_id,
            summary=OUTCOME_UNKNOWN if call.call_id in begun else NOT_STARTED,
            is_error=True,
        )
        for call in unanswered
    ]


def interrupt_note(cut: Cut) -> SystemItem:
    """Return the note that tells the model the true cause."""
    return SystemItem(kind="interrupt", body=NOTES[cut.cause].format(detail=cut.detail))


SUMMARY = "The session so far, summarised"
FILE_NOW = "A file as it is now"
OPEN_TASKS = "Open tasks:"


def is_carried_over(item: Item) -> bool:
    """Whether this stands for what a compaction has taken away: nobody has just said it."""
    return (
        isinstance(item, Message)
        and item.role == "system"
        and item.content.startswith((SUMMARY, FILE_NOW, OPEN_TASKS))
    )


def is_interrupt_note(item: Item) -> bool:
    """Whether this is a note of ours: what stands before it was asked in a run that is over."""
    return (
        isinstance(item, Message) and item.role == "system" and item.content.startswith(_CUT_SHORT)
    )
