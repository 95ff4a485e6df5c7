"""Who may write where, decided: each operation returns another table, or the refusal.

A row of the table is one pod's *allocation*, keyed by home and name, because names are unique in a
home and the table is one per user. No two rows of live holders may have write rules that share a
path. (A parent and its descendants may: what was lent is inside what it was lent from.)

    register ──► reserved ──adopt──► held ──(holder dead)──► release, or settled by whoever meets it
                    ▲                                  └────► renew ──┐
                    └─────────────────────────────────────────────────┘

* **Every row is a rival**, whoever its parent: two children of a parent that may only read are
  compared with each other, and homes with other homes.
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

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from protocol.base import Wire
from protocol.errors import (
    Conflict,
    DuplicatePod,
    InvalidScope,
    PodsupError,
    SegmentConflict,
    UnknownPod,
    WriteConflict,
    WrongToken,
)
from protocol.scope import Permission, ScopeRule, components, contains, overlaps
from supervisor.identity import Identity, Life

Key: TypeAlias = tuple[str, str]
"""A home and the name of a pod in it."""


class AllocationState(StrEnum):
    """`reserved` from before the fork until the pod has said hello, `held` from then on."""

    RESERVED = "reserved"
    HELD = "held"


class Allocation(Wire):
    """One row. `delegated_from` names the parent, in the same home; the token is never shown."""

    home: str
    pod: str
    pod_id: str
    incarnation: int
    token: str
    supervisor: str
    scope_allow: tuple[ScopeRule, ...] = ()
    scope_deny: tuple[ScopeRule, ...] = ()
    identity: Identity | None = None
    delegated_from: str | None = None
    session_id: str | None = None
    segment_id: str | None = None
    state: AllocationState = AllocationState.RESERVED
    lend_number: int = 0
    since_ms: int

    @property
    def key(self) -> Key:
        """What no other row has."""
        return self.home, self.pod

    @property
    def writes(self) -> tuple[ScopeRule, ...]:
        """The rules that claim paths for this pod alone."""
        return tuple(r for r in self.scope_allow if r.permission is Permission.WRITE)


Pair: TypeAlias = tuple[ScopeRule, ScopeRule]
"""A wanted rule and a holder's, which may write one path."""

LifeOf: TypeAlias = Callable[[Allocation], Life]
"""What is known of a row's holder."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """Which process said hello as a pod; without a segment its row keeps the one it has."""

    pod: str
    token: str
    identity: Identity
    session_id: str | None = None
    segment_id: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of one user, in the order they came; `claims` are their write rules, by target."""

    rows: Mapping[Key, Allocation] = field(default_factory=dict)
    claims: tuple[tuple[str, ScopeRule, Key], ...] = ()

    @classmethod
    def of(cls, rows: Iterable[Allocation]) -> Table:
        """Return the table with these rows."""
        by_key = {row.key: row for row in rows}
        return cls(by_key, tuple(claim for row in by_key.values() for claim in _claims(row)))

    def with_row(self, row: Allocation) -> Table:
        """Return the table with this row in place of the one with its key, if any."""
        others = tuple(c for c in self.claims if c[2] != row.key)
        return Table({**self.rows, row.key: row}, others + _claims(row))

    def without(self, gone: Allocation) -> Table:
        """Return the table without this row; its children have its parent now."""
        rows = {key: row for key, row in self.rows.items() if key != gone.key}
        for child in self.children(gone):
            rows[child.key] = child.model_copy(update={"delegated_from": gone.delegated_from})
        return Table(rows, tuple(c for c in self.claims if c[2] != gone.key))

    def children(self, parent: Allocation) -> list[Allocation]:
        """Return the rows that were lent their scope by this one."""
        return [
            row
            for row in self.rows.values()
            if row.delegated_from == parent.pod and row.home == parent.home
        ]

    def descendants(self, parent: Allocation) -> Iterator[Allocation]:
        """Yield the children of a row, and theirs."""
        for child in self.children(parent):
            yield child
            yield from self.descendants(child)


def register(table: Table, wanted: Allocation, life: LifeOf, *, now_ms: int) -> Table | PodsupError:
    """Return the table with a new top-level row.

    Refused with InvalidScope, DuplicatePod, SegmentConflict, or WriteConflict, which lists every
    overlapping holder.
    """
    return _admit(table, wanted, wanted.writes, life, beside=frozenset(), now_ms=now_ms)


def renew(table: Table, wanted: Allocation, life: LifeOf, *, now_ms: int) -> Table | PodsupError:
    """Return the table with the next incarnation of a pod in place of its dead one.

    Parent and children stay as they were, and the segment, unless `wanted` names another. A row
    that is gone is registered anew. Refused like `register`; with DuplicatePod until the old
    incarnation is proven dead.
    """
    kept = table.rows.get(wanted.key)
    if kept is None:
        return register(table, wanted, life, now_ms=now_ms)
    if life(kept) != "dead":
        return _duplicate(kept, life, now_ms)
    carried: dict[str, Any] = {"lend_number": kept.lend_number}
    if wanted.segment_id is None:
        carried |= {"session_id": kept.session_id, "segment_id": kept.segment_id}
    wanted = wanted.model_copy(update=carried)
    beyond = [new for new in wanted.writes if not any(contains(old, new) for old in kept.writes)]
    family = {kept.key, *(row.key for row in table.descendants(kept))}
    return _admit(table, wanted, beyond, life, beside=family, now_ms=now_ms)


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
            pid=_pid(row),
            life=known,
        )
    return table.without(row)


def _admit(
    table: Table,
    wanted: Allocation,
    claims: Iterable[ScopeRule],
    life: LifeOf,
    *,
    beside: Set[Key],
    now_ms: int,
) -> Table | PodsupError:
    """Return the table with the wanted row, if no row but those `beside` it stands in its way."""
    if bad := _not_canonical(wanted):
        return bad
    clashes = _clashes(table, claims)
    rivals = {wanted.key, *clashes, *_writers(table, wanted.segment_id)} - beside
    table, standing = _settle(table, rivals, life)
    for row in standing:
        if row.key == wanted.key:
            return _duplicate(row, life, now_ms)
    for row in standing:
        if row.key not in clashes or row.key in _writers(table, wanted.segment_id):
            return _segment_conflict(row, life, now_ms)
    if standing:
        pairs = [(row, *rules) for row in standing for rules in clashes[row.key]]
        return _write_conflict(wanted, pairs, life, now_ms)
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
        return _segment_conflict(standing[0], life, now_ms)
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


def _own(table: Table, key: Key, token: str) -> Allocation | PodsupError:
    row = table.rows.get(key)
    if row is None:
        return UnknownPod(f"no allocation of {key[1]!r}", pod=key[1])
    if row.token != token:
        return WrongToken(
            f"the allocation of {row.pod!r} belongs to another incarnation", pod=row.pod
        )
    return row


def _claims(row: Allocation) -> tuple[tuple[str, ScopeRule, Key], ...]:
    return tuple((rule.target, rule, row.key) for rule in row.writes)


def _clashes(table: Table, rules: Iterable[ScopeRule]) -> dict[Key, list[Pair]]:
    """Return, by row, each pair of a rule and one of the row's that may write one path."""
    found: dict[Key, list[Pair]] = {}
    for ours in rules:
        at = ours.target
        near = [c for c in table.claims if c[0].startswith(at) or at.startswith(c[0])]
        for _, theirs, key in near:  # of two regions that meet, one target begins the other
            if overlaps(ours, theirs):
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


# -- refusals, with their evidence ---------------------------------------------------------------


def _duplicate(row: Allocation, life: LifeOf, now_ms: int) -> PodsupError:
    return DuplicatePod(
        f"there is a pod {row.pod!r} already, {_who(row, life, now_ms)}",
        next_step=f"use another name, or: podsup stop {row.pod}",
        holder=_holder(row, life, now_ms),
    )


def _segment_conflict(row: Allocation, life: LifeOf, now_ms: int) -> PodsupError:
    return SegmentConflict(
        f"{row.pod!r} writes segment {row.segment_id}, {_who(row, life, now_ms)}",
        next_step=f"stop it first: podsup stop {row.pod}",
        holder=_holder(row, life, now_ms),
    )


def _write_conflict(
    wanted: Allocation,
    clashes: Iterable[tuple[Allocation, ScopeRule, ScopeRule]],
    life: LifeOf,
    now_ms: int,
) -> PodsupError:
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
        "pid": _pid(row),
        "age_s": _age_s(row, now_ms),
        "life": life(row),
    }


def _who(row: Allocation, life: LifeOf, now_ms: int) -> str:
    pid = "not yet greeted" if row.identity is None else f"pid {row.identity.pid}"
    unsure = ", which cannot be seen from here" if life(row) == "unverifiable" else ""
    return f"{pid}, for {_age_s(row, now_ms):.0f} s{unsure}"


def _pid(row: Allocation) -> int | None:
    return None if row.identity is None else row.identity.pid


def _age_s(row: Allocation, now_ms: int) -> float:
    return max(0, now_ms - row.since_ms) / 1000
