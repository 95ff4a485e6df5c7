"""Why an operation on the scope table is refused, with the evidence: who, since when, which rules.

Pure. A refusal names every holder that stands in the way, so that a person sees the whole of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from protocol.errors import DuplicatePod, NotSubset, PodsupError, SegmentConflict, WriteConflict
from protocol.scope import Scope, ScopeRule, covers
from supervisor.core.descent import unbound
from supervisor.core.rows import Allocation, Lender, LifeOf


def duplicate(row: Allocation, life: LifeOf, now_ms: int) -> PodsupError:
    """Return the refusal of a name that is taken."""
    return DuplicatePod(
        f"there is a pod {row.pod!r} already, {_who(row, life, now_ms)}",
        next_step=f"use another name, or: podsup stop {row.pod}",
        holder=_holder(row, life, now_ms),
    )


def segment_conflict(row: Allocation, life: LifeOf, now_ms: int) -> PodsupError:
    """Return the refusal of a segment that somebody writes."""
    return SegmentConflict(
        f"{row.pod!r} writes segment {row.segment_id}, {_who(row, life, now_ms)}",
        next_step=f"stop it first: podsup stop {row.pod}",
        holder=_holder(row, life, now_ms),
    )


def write_conflict(
    wanted: Allocation,
    clashes: Iterable[tuple[Allocation, ScopeRule, ScopeRule]],
    life: LifeOf,
    now_ms: int,
) -> PodsupError:
    """Return the refusal of paths that others may write; each pair of rules is listed."""
    lines = (
        f"{theirs.target} is {row.pod!r}'s to write, {_who(row, life, now_ms)}"
        for row, _, theirs in clashes
    )
    return WriteConflict(
        f"{wanted.pod!r} may not write there: {'; '.join(lines)}",
        next_step="see `podsup locks`; stop a holder, or ask for another path",
        holders=[
            {
                **_holder(row, life, now_ms),
                "rule": ours.to_wire(),
                "holder_rule": theirs.to_wire(),
            }
            for row, ours, theirs in clashes
        ],
    )


def _holder(row: Allocation, life: LifeOf, now_ms: int) -> dict[str, Any]:
    return {
        "pod": row.pod,
        "home": row.home,
        "pid": pid_of(row),
        "age_s": _age_s(row, now_ms),
        "life": life(row),
    }


def _who(row: Allocation, life: LifeOf, now_ms: int) -> str:
    pid = "not yet greeted" if row.identity is None else f"pid {row.identity.pid}"
    unsure = ", which cannot be seen from here" if life(row) == "unverifiable" else ""
    return f"{pid}, for {_age_s(row, now_ms):.0f} s{unsure}"


def pid_of(row: Allocation) -> int | None:
    """Return the pid of a row's holder, None before its hello."""
    return None if row.identity is None else row.identity.pid


def _age_s(row: Allocation, now_ms: int) -> float:
    return max(0, now_ms - row.since_ms) / 1000


def not_lendable(wanted: Allocation, lender: Lender) -> PodsupError | None:
    """Return the refusal of the first rule that may not be lent, None where all may."""
    for rule in wanted.writes:
        if not covers(lender.delegation, rule):
            return NotSubset(
                f"{lender.pod!r} may not lend {rule.target} for writing: "
                f"its delegation scope is {_targets(lender.delegation)}",
                next_step="ask for less, or widen the delegation_scope in the fleet file",
                rule=rule.to_wire(),
                lender=lender.pod,
            )
    claimed = Scope(allow=wanted.writes, deny=wanted.scope_deny)
    for deny in unbound(lender.denies, claimed):
        return NotSubset(
            f"{lender.pod!r} may not {deny.permission} {deny.target} or lend it, so neither may "
            f"{wanted.pod!r} below it",
            next_step="ask for less, or set delegation_scope.override_denies in the fleet file",
            rule=deny.to_wire(),
            lender=lender.pod,
        )
    return None


def _targets(scope: Scope) -> str:
    rules = [f"{rule.permission} {rule.target}" for rule in scope.allow]
    rules += [f"not {rule.permission} {rule.target}" for rule in scope.deny]
    return ", ".join(rules) or "empty"
