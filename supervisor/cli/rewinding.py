"""Rewinding a pod, for the command and for an attached terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol import methods as m
from protocol.errors import InvalidRequest
from supervisor.cli.output import ago
from supervisor.drawing import Line, Style, note, one_line

if TYPE_CHECKING:
    from supervisor.client import AsyncClient

PREVIEW = 60


async def rewind_to(
    client: AsyncClient, pod: str, turn: int, listed: m.RewindTargets | None = None
) -> m.Rewound:
    """Take back the input with this `turn_index` and all after it.

    Where the targets were `listed` before, it is refused with Conflict when the history has changed
    since. Raises InvalidRequest when there is no such input.
    """
    if listed is None:
        listed = await client.send(pod, m.ListRewindTargets())
    target = next((t for t in listed.targets if t.turn_index == turn), None)
    if target is None:
        numbers = sorted(t.turn_index for t in listed.targets)
        there = f"there are {numbers[0]} to {numbers[-1]}" if numbers else "there is none"
        raise InvalidRequest(
            f"pod {pod} has no input {turn}; {there}", next_step=f"podsup rewind {pod} --list"
        )
    rewound: m.Rewound = await client.send(
        pod,
        m.RewindTo(
            target=m.RewindTargetId(
                segment_id=target.segment_id, user_input_entry_index=target.user_input_entry_index
            ),
            expected_head_entries=listed.head_entries,
        ),
    )
    return rewound


def row_of_target(target: m.RewindTarget, now_s: float) -> tuple[str, str, str, str]:
    """Return a target's number, age, preview and warning; `now_s` is the wall clock."""
    age = ago(max(0.0, now_s - target.timestamp_ms / 1000)) if target.timestamp_ms else "-"
    return str(target.turn_index), age, one_line(target.preview, PREVIEW), target.warning or ""


def lines_of_targets(listed: m.RewindTargets, now_s: float) -> list[Line]:
    """Return what can be rewound to, newest first, and how."""
    if not listed.targets:
        return [note("there is nothing to rewind to")]
    lines = [note("/rewind N takes back input N and all after it; effects of tools stay")]
    for target in listed.targets:
        number, age, preview, warning = row_of_target(target, now_s)
        mark = f"  ({one_line(warning)})" if warning else ""
        lines.append(Line(f"  {number:>3}  {age:>4}  {preview}{mark}", Style.NOTE))
    return lines


def words_of_rewound(done: m.Rewound) -> list[str]:
    """Return what a rewind discarded, and what it could not undo."""
    lost = done.summary
    words = [
        f"taken back: {_some(lost.discarded_turns, 'turn')}, "
        f"{_some(lost.discarded_entries, 'entry', 'entries')}"
    ]
    if lost.tools_ran:
        words.append(f"the effects of {_some(lost.tools_ran, 'tool call')} stay")
    return words


def _some(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
