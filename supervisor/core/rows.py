"""The rows of the scope table as values: one pod's allocation each, and what hangs together. Pure.

What may be done with them is decided in `core.allocations`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from protocol.base import Wire
from protocol.scope import LentRule, Permission, Scope, ScopeRule
from supervisor.core.nodes import Place, place_of
from supervisor.identity import Identity, Life

Key: TypeAlias = tuple[str, str]
"""A home and the name of a pod in it."""


class AllocationState(StrEnum):
    """`reserved` from before the fork until the pod has said hello, `held` from then on."""

    RESERVED = "reserved"
    HELD = "held"


class Allocation(Wire):
    """One row. `delegated_from` names the parent, in the same home; the token is never shown.

    `nodes` has, for each rule in `writes`, what its target and the folders above it are; an older
    row has none (`core.nodes`). `lent_ms`: when its present scope was lent; an incarnation that
    finds it lent leaves it so.
    """

    home: str
    pod: str
    pod_id: str
    incarnation: int
    token: str
    supervisor: str
    scope_allow: tuple[ScopeRule, ...] = ()
    scope_deny: tuple[ScopeRule, ...] = ()
    nodes: tuple[str, ...] = ()
    identity: Identity | None = None
    delegated_from: str | None = None
    session_id: str | None = None
    segment_id: str | None = None
    state: AllocationState = AllocationState.RESERVED
    lend_number: int = 0
    since_ms: int
    lent_ms: int | None = None

    @property
    def key(self) -> Key:
        """What no other row has."""
        return self.home, self.pod

    @property
    def writes(self) -> tuple[ScopeRule, ...]:
        """The rules that claim paths for this pod, less what it has lent."""
        return tuple(r for r in self.scope_allow if r.permission is Permission.WRITE)


ClaimedRule: TypeAlias = tuple[str, ScopeRule, Key, Place | None]
"""A write rule of a row: its target, itself, the row's key, and its place."""

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
class Lender:
    """Somebody whom a pod may be a child of, all that it may lend, and which denies go with it."""

    pod: str
    delegation: Scope
    denies: tuple[ScopeRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """Where a pod stands in its family, as its records say.

    `above`: its parent, the parent's parent, and so on; `below`: those that are its own once it is
    there, which are its children, and theirs where nobody is between.
    """

    above: tuple[Lender, ...] = ()
    below: frozenset[str] = frozenset()


TOP_LEVEL = Line()


@dataclass(frozen=True, slots=True)
class Lends:
    """All that a pod has lent, at one moment; a higher number is a later one."""

    lent: tuple[LentRule, ...] = ()
    number: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of one user, in the order they came; `claims` are their write rules, by target."""

    rows: Mapping[Key, Allocation] = field(default_factory=dict)
    claims: tuple[ClaimedRule, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[Allocation]) -> Table:
        """Return the table with these rows."""
        by_key = {row.key: row for row in rows}
        return cls(by_key, tuple(claim for row in by_key.values() for claim in _claims(row)))

    def with_row(self, row: Allocation) -> Table:
        """Return the table with this row in place of the one with its key, if any."""
        others = self.claims
        if row.key in self.rows:
            others = tuple(c for c in others if c[2] != row.key)
        return Table({**self.rows, row.key: row}, others + _claims(row))

    def without(self, gone: Allocation) -> Table:
        """Return the table without this row; its children have its parent now."""
        rows = {key: row for key, row in self.rows.items() if key != gone.key}
        for child in self.children(gone):
            rows[child.key] = child.model_copy(update={"delegated_from": gone.delegated_from})
        for lender in self.ancestors(gone):
            rows[lender.key] = _numbered(lender)
        return Table(rows, tuple(c for c in self.claims if c[2] != gone.key))

    def below(self, child: Allocation, parent: str) -> Table:
        """Return the table with this row, a child of the parent, and what has changed above it."""
        child = child.model_copy(update={"delegated_from": parent})
        rows = {**self.rows, child.key: child}
        table = Table(rows)
        for lender in table.ancestors(child):
            rows[lender.key] = _numbered(lender)
        return Table(rows, tuple(c for c in self.claims if c[2] != child.key) + _claims(child))

    def ancestors(self, child: Allocation) -> Iterator[Allocation]:
        """Yield the parent of a row, and the parent's, as far as there are rows."""
        known = {child.key}
        while child.delegated_from is not None:
            parent = self.rows.get((child.home, child.delegated_from))
            if parent is None or parent.key in known:
                return
            known.add(parent.key)
            yield parent
            child = parent

    def children(self, parent: Allocation) -> list[Allocation]:
        """Return the rows that were lent their scope by this one."""
        return [
            row
            for row in self.rows.values()
            if row.delegated_from == parent.pod and row.home == parent.home
        ]

    def descendants(self, parent: Allocation) -> Iterator[Allocation]:
        """Yield the children of a row, and theirs; each once, whatever the rows say."""
        known, todo = {parent.key}, [parent]
        while todo:
            for child in self.children(todo.pop()):
                if child.key not in known:
                    known.add(child.key)
                    todo.append(child)
                    yield child


def placed(row: Allocation) -> Iterator[tuple[ScopeRule, Place | None]]:
    """Yield the rules of a row that claim paths, each with its place."""
    writes = row.writes
    nodes = row.nodes if len(row.nodes) == len(writes) else ("",) * len(writes)
    for rule, text in zip(writes, nodes, strict=True):
        yield rule, place_of(rule, text)


def _numbered(lender: Allocation) -> Allocation:
    return lender.model_copy(update={"lend_number": lender.lend_number + 1})


def _claims(row: Allocation) -> tuple[ClaimedRule, ...]:
    return tuple((rule.target, rule, row.key, place) for rule, place in placed(row))
