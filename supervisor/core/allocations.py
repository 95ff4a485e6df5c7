"""Who may write where, decided: each operation returns another table, or the refusal.

A row of the table is one pod's *allocation*, keyed by home and name, because names are unique in a
home and the table is one per user. No two rows of live holders may have write rules that share a
path. (A parent and its descendants may: what was lent is inside what it was lent from.)

    register ─┐
    reserve ──┴► reserved ──adopt──► held ──(holder dead)──► release, or settled by whoever meets it
                    ▲                                  └────► renew ──┐
                    └─────────────────────────────────────────────────┘

* **A place is known by name and by what it is**: two names of one folder are one place (`nodes`).
* **Every row is a rival**, whoever its parent: two children of a parent that may only read are
  compared with each other, and homes with other homes. The exceptions are the row's own line:
  those it was lent from, and those it has lent to.
* **What a pod has lent is derived**, each time, from the rows of its descendants (`lent_by`).
  Nothing is pushed when they come and popped when they go, so nothing can be left over.
  `lend_number` counts these changes, so that messages about them have an order.
* **Only death frees a claim.** `life` is asked about a row that stands in the way. Dead: the row is
  settled, there and then, and its children pass to its own parent. Alive, or not to be verified
  from here: it stands in the way, and the refusal names it. A dead row in nobody's way is left: its
  supervisor may be about to renew it, and settling it would hand pieces of its scope to its
  children for good.
* **A kept row was never anyone else's.** Renewing therefore asks about nothing that the row already
  has; only rules beyond it are compared, and not with the pod's own descendants.
* **Name and token** together are the authority to change a row; a late release with an old token
  changes nothing.

Times are epoch milliseconds and only ever printed. `life` must answer the same for a row during one
call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from protocol.errors import (
    Conflict,
    InvalidScope,
    PodsupError,
    UnknownPod,
    WrongToken,
)
from protocol.scope import (
    LentRule,
    ScopeRule,
    components,
    contains,
    overlaps,
)
from supervisor.core.nodes import Place, may_meet, may_share
from supervisor.core.refusals import (
    duplicate,
    not_lendable,
    pid_of,
    segment_conflict,
    write_conflict,
)
from supervisor.core.rows import (
    TOP_LEVEL,
    Adoption,
    Allocation,
    AllocationState,
    Key,
    LifeOf,
    Line,
    Pair,
    Table,
    placed,
)

REBUILT = 1_000_000
"""More lends than a pod ever makes."""


def register(
    table: Table, wanted: Allocation, life: LifeOf, *, line: Line = TOP_LEVEL, now_ms: int
) -> Table | PodsupError:
    """Return the table with a new top-level row.

    Refused with InvalidScope, DuplicatePod, SegmentConflict, or WriteConflict, which lists every
    overlapping holder.
    """
    own = _own_children(table, wanted, line)
    family = _with_descendants(table, own)
    admitted = _admit(table, wanted, placed(wanted), life, beside=family, now_ms=now_ms)
    return _with_children(admitted, wanted, own)


def reserve(
    table: Table, wanted: Allocation, life: LifeOf, *, line: Line, now_ms: int
) -> Table | PodsupError:
    """Return the table with a row lent by the nearest of the line that lives.

    Refused like `register`; with NotSubset for a rule that the lender may not lend, and with
    UnknownPod where nobody of the line lives.
    """
    for lender in line.above:
        parent = table.rows.get((wanted.home, lender.pod))
        if parent is not None and life(parent) != "dead":
            break
    else:
        named = ", ".join(lender.pod for lender in line.above)
        return UnknownPod(f"no live pod to lend {wanted.pod!r} its scope: {named or 'none'}")
    if bad := _not_canonical(wanted) or not_lendable(wanted, lender):
        return bad
    known = table.rows.get(wanted.key)
    if known is not None and (life(known) != "dead" or known.key == parent.key):
        return duplicate(known, life, now_ms)
    own = _own_children(table, wanted, line)
    above = {parent.key, *(row.key for row in table.ancestors(parent))}
    family = above | _with_descendants(table, own)
    admitted = _admit(table, wanted, placed(wanted), life, beside=family, now_ms=now_ms)
    if isinstance(admitted, PodsupError):
        return admitted
    lent = admitted.rows[wanted.key].model_copy(update={"lent_ms": wanted.since_ms})
    return _with_children(admitted.below(lent, parent.pod), wanted, own)


def enter(
    table: Table, wanted: Allocation, life: LifeOf, *, line: Line, now_ms: int
) -> Table | PodsupError:
    """Return the table with a pod that starts: renewed, reserved, or registered, as it must be.

    A row that was kept is renewed. Otherwise the pod is the child of the nearest of its line that
    lives, and a top-level pod if none does.
    """
    if wanted.key in table.rows:
        return renew(table, wanted, life, line=line, now_ms=now_ms)
    outcome = reserve(table, wanted, life, line=line, now_ms=now_ms)
    if isinstance(outcome, UnknownPod):
        return register(table, wanted, life, line=line, now_ms=now_ms)
    return outcome


def rebuilt(live: Iterable[Allocation], before: Table, remembered: Iterable[Allocation]) -> Table:
    """Return a table for one that is lost: of the rows of live holders, and what else may stay.

    A row of an earlier version, of a holder that may be about to come back, stays where it is in no
    live holder's way. What is `remembered` of others only says whose children the live ones are.
    Every number of lends is put beyond what was ever said under it.
    """
    table = Table.of(live)
    for row in before.rows.values():
        kin = {one.key for one in (*before.ancestors(row), *before.descendants(row))}
        in_the_way = _clashes(table, placed(row)).keys() - kin
        if row.key not in table.rows and not in_the_way and not _writers(table, row.segment_id):
            table = table.with_row(row)
    known = {row.key: row for row in remembered} | dict(before.rows) | dict(table.rows)
    return Table.of(
        row.model_copy(
            update={
                "lend_number": row.lend_number + REBUILT,
                "delegated_from": _nearest_above(table, row, known),
            }
        )
        for row in table.rows.values()
    )


def _nearest_above(table: Table, row: Allocation, known: Mapping[Key, Allocation]) -> str | None:
    """Return the nearest of a row's line that has a row, going through those that have none."""
    seen = {row.key}
    parent = row.delegated_from
    while parent is not None and (key := (row.home, parent)) not in seen:
        if key in table.rows:
            return parent
        seen.add(key)
        parent = known[key].delegated_from if key in known else None
    return None


def lent_by(table: Table, lender: Allocation) -> tuple[LentRule, ...]:
    """Return what a pod has lent: the write rules of its live descendants, with their names."""
    return tuple(
        LentRule(**dict(rule), pod=row.pod)
        for row in table.descendants(lender)
        for rule in row.writes
    )


def lenders(table: Table, child: Allocation) -> list[Allocation]:
    """Return those above a new row that could write in its scope until now: whom to ask."""
    return [
        above
        for above in table.ancestors(child)
        if any(
            overlaps(mine, lent)
            for mine in above.writes
            for lent in _newly_lent(table, above, child)
        )
    ]


def renew(
    table: Table, wanted: Allocation, life: LifeOf, *, line: Line = TOP_LEVEL, now_ms: int
) -> Table | PodsupError:
    """Return the table with the next incarnation of a pod in place of its dead one.

    Parent and children stay as they were, and the segment, unless `wanted` names another. A row
    that is gone is registered anew. Refused like `register`; with DuplicatePod until the old
    incarnation is proven dead.
    """
    kept = table.rows.get(wanted.key)
    if kept is None:
        return register(table, wanted, life, line=line, now_ms=now_ms)
    if life(kept) != "dead":
        return duplicate(kept, life, now_ms)
    carried: dict[str, Any] = {"lend_number": kept.lend_number, "lent_ms": kept.lent_ms}
    if wanted.segment_id is None:
        carried |= {"session_id": kept.session_id, "segment_id": kept.segment_id}
    wanted = wanted.model_copy(update=carried)
    beyond = [
        (new, place)
        for new, place in placed(wanted)
        if not any(contains(old, new) for old in kept.writes)
    ]
    own = _own_children(table, wanted, line)
    family = _with_descendants(table, [kept, *own])
    for lender in line.above:
        if lender.pod == kept.delegated_from and (bad := not_lendable(wanted, lender)):
            return bad
    admitted = _admit(table, wanted, beyond, life, beside=family, now_ms=now_ms)
    if isinstance(admitted, PodsupError):
        return admitted
    row = admitted.rows[wanted.key]
    if wanted.writes != kept.writes and row.delegated_from is not None:
        again = row.model_copy(update={"lent_ms": wanted.since_ms})
        admitted = admitted.below(again, row.delegated_from)
    return _with_children(admitted, wanted, [one for one in own if one.delegated_from != kept.pod])


def adopt(
    table: Table, key: Key, hello: Adoption, life: LifeOf, *, now_ms: int
) -> Table | PodsupError:
    """Return the table with the row held by the process that said hello.

    Refused with UnknownPod, WrongToken or SegmentConflict.
    """
    changes: dict[str, Any] = {"identity": hello.identity, "state": AllocationState.HELD}
    if hello.segment_id is not None:
        changes |= {"session_id": hello.session_id, "segment_id": hello.segment_id}
    return _change(table, key, hello.token, changes, life, now_ms)


def claim_segment(
    table: Table,
    key: Key,
    token: str,
    life: LifeOf,
    *,
    session_id: str,
    segment_id: str,
    now_ms: int,
) -> Table | PodsupError:
    """Return the table with the pod's claim on another segment; refused like `adopt`."""
    changes = {"session_id": session_id, "segment_id": segment_id}
    return _change(table, key, token, changes, life, now_ms)


def release(table: Table, key: Key, token: str, life: LifeOf) -> Table | PodsupError:
    """Return the table without the row, and the same table when there is none any more.

    Refused with WrongToken, and with Conflict until the holder is proven dead.
    """
    if key not in table.rows:
        return table
    row = _own(table, key, token)
    if isinstance(row, PodsupError):
        return row
    if (known := life(row)) != "dead":
        return Conflict(
            f"the holder of {row.pod!r} is not proven dead ({known})",
            next_step=f"end it first: podsup kill {row.pod}",
            pod=row.pod,
            pid=pid_of(row),
            life=known,
        )
    return table.without(row)


def _admit(
    table: Table,
    wanted: Allocation,
    claims: Iterable[tuple[ScopeRule, Place | None]],
    life: LifeOf,
    *,
    beside: Set[Key],
    now_ms: int,
) -> Table | PodsupError:
    """Return the table with the wanted row, if no row but those `beside` it stands in its way."""
    if bad := _not_canonical(wanted):
        return bad
    clashes = _clashes(table, claims)
    writers = _writers(table, wanted.segment_id) - {wanted.key}
    rivals = ({wanted.key, *clashes} - beside) | writers
    table, standing = _settle(table, rivals, life)
    for row in standing:
        if row.key == wanted.key:
            return duplicate(row, life, now_ms)
    for row in standing:
        if row.key in writers:
            return segment_conflict(row, life, now_ms)
    if standing:
        pairs = [(row, *rules) for row in standing for rules in clashes[row.key]]
        return write_conflict(wanted, pairs, life, now_ms)
    if kept := table.rows.get(wanted.key):  # its parent may have been settled just now
        wanted = wanted.model_copy(update={"delegated_from": kept.delegated_from})
    return table.with_row(wanted)


def _change(
    table: Table, key: Key, token: str, changes: dict[str, Any], life: LifeOf, now_ms: int
) -> Table | PodsupError:
    """Return the table with the owner's changes to a row, if its segment is free."""
    if isinstance(refused := _own(table, key, token), PodsupError):
        return refused
    rivals = _writers(table, changes.get("segment_id")) - {key}
    table, standing = _settle(table, rivals, life)
    if standing:
        return segment_conflict(standing[0], life, now_ms)
    return table.with_row(table.rows[key].model_copy(update=changes))


def _settle(table: Table, keys: Set[Key], life: LifeOf) -> tuple[Table, list[Allocation]]:
    """Return the table without those of the rows whose holder is dead, and the others of them."""
    standing = []
    for key in [key for key in table.rows if key in keys]:
        row = table.rows[key]  # read now: settling its parent gave it another one
        if life(row) == "dead":
            table = table.without(row)
        else:
            standing.append(row)
    return table, standing


def _own_children(table: Table, wanted: Allocation, line: Line) -> list[Allocation]:
    """Return the rows that come back to a pod: passed on, to somebody above, when its row went."""
    passed_on_to = {None, wanted.pod, *(lender.pod for lender in line.above)}
    return [
        row
        for row in table.rows.values()
        if row.home == wanted.home and row.pod in line.below and row.delegated_from in passed_on_to
    ]


def _with_descendants(table: Table, rows: Iterable[Allocation]) -> set[Key]:
    return {one.key for row in rows for one in (row, *table.descendants(row))}


def _with_children(
    outcome: Table | PodsupError, parent: Allocation, children: Iterable[Allocation]
) -> Table | PodsupError:
    if isinstance(outcome, PodsupError):
        return outcome
    for child in children:
        outcome = outcome.below(outcome.rows[child.key], parent.pod)
    return outcome


def _newly_lent(table: Table, lender: Allocation, child: Allocation) -> list[ScopeRule]:
    """Return the child's write rules that nobody else below the lender has already."""
    its_own = _with_descendants(table, [child])
    others = [
        rule for row in table.descendants(lender) if row.key not in its_own for rule in row.writes
    ]
    return [new for new in child.writes if not any(contains(old, new) for old in others)]


def _own(table: Table, key: Key, token: str) -> Allocation | PodsupError:
    row = table.rows.get(key)
    if row is None:
        return UnknownPod(f"no allocation of {key[1]!r}", pod=key[1])
    if row.token != token:
        return WrongToken(
            f"the allocation of {row.pod!r} belongs to another incarnation", pod=row.pod
        )
    return row


def _clashes(
    table: Table, rules: Iterable[tuple[ScopeRule, Place | None]]
) -> dict[Key, list[Pair]]:
    """Return, by row, each pair of a rule and one of the row's that may write one path.

    Both by name and by what the targets are: of two regions that meet, one target begins the other,
    or is one of the folders above it.
    """
    found: dict[Key, list[Pair]] = {}
    for ours, place in rules:
        at = ours.target
        near = [
            c
            for c in table.claims
            if c[0].startswith(at)
            or at.startswith(c[0])
            or (
                place
                and (other := c[3])
                and (other.end in place.below or place.end in other.below)  # else the call costs
                and may_meet(place, other)
            )
        ]
        for _, theirs, key, theirs_at in near:
            if overlaps(ours, theirs) or may_share(ours, place, theirs, theirs_at):
                found.setdefault(key, []).append((ours, theirs))
    return found


def _writers(table: Table, segment_id: str | None) -> Set[Key]:
    """Return the rows that claim the segment."""
    if segment_id is None:
        return frozenset()
    return {key for key, row in table.rows.items() if row.segment_id == segment_id}


def _not_canonical(wanted: Allocation) -> PodsupError | None:
    try:
        for rule in (*wanted.scope_allow, *wanted.scope_deny):
            components(rule.target)
    except InvalidScope as error:
        return error
    return None
