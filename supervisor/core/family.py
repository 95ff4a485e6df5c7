"""Who spawned whom, who sees whom. Pure, and derived: from one fact per pod, its recorded parent.

A record outlives what it tells of. The parent that *counts* is the nearest of the recorded line
that is up: when a pod in the middle goes, its children are the grandparent's at once, and when it
comes back they are its own again. So nothing is moved when somebody goes, and nothing can be
forgotten when it returns.

    sees       itself, its descendants, its peers
    commands   its descendants
    reports to the parent that counts
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from protocol.scope import LentRule
from protocol.status import Relation
from supervisor.core.descent import binding, lendable
from supervisor.core.life import Phase
from supervisor.core.member import Member
from supervisor.core.rows import TOP_LEVEL, Lender, Line

AT_REST = (Phase.DEFINED, Phase.STOPPED, Phase.FAILED)
"""Nothing of the pod is alive, nobody will start it unasked, and it has no claim."""


def line_above(members: Mapping[str, Member], name: str) -> Iterator[Member]:
    """Yield the recorded parent of a pod, and the parent's, as far as the fleet has them."""
    known = {name}
    while (parent := members[name].parent) is not None and parent in members:
        if parent in known:
            return
        known.add(parent)
        yield members[parent]
        name = parent


def parent_of(members: Mapping[str, Member], name: str) -> str | None:
    """Return the parent that counts: the nearest of the line that is up; None at the top."""
    above = line_above(members, name)
    return next((one.name for one in above if one.life.phase not in AT_REST), None)


def givers(members: Mapping[str, Member], name: str, lender: str | None) -> Iterator[Member]:
    """Yield who judges what a pod is given: its recorded line as far as who lends to it.

    Where nobody lends it is the whole line: a parent that is down gives no more than before.
    """
    for one in line_above(members, name):
        yield one
        if one.name == lender:
            return


def shown_parent(members: Mapping[str, Member], name: str) -> str | None:
    """Return the parent to show: the one that counts, and the recorded one for who is at rest."""
    member = members[name]
    return member.parent if member.life.phase in AT_REST else parent_of(members, name)


def children_of(members: Mapping[str, Member], name: str) -> list[str]:
    """Return the pods whose recorded parent this is, and those it has for a lost one."""
    return [other for other in members if shown_parent(members, other) == name]


def descendants_of(members: Mapping[str, Member], name: str) -> list[str]:
    """Return all pods in whose recorded line this one stands."""
    return [
        other
        for other in members
        if any(above.name == name for above in line_above(members, other))
    ]


def kept_below(members: Mapping[str, Member], name: str) -> tuple[LentRule, ...]:
    """Return what those below a pod may write, and will go on to when it is gone."""
    return tuple(
        LentRule(**dict(rule), pod=other)
        for other in descendants_of(members, name)
        if members[other].life.phase not in AT_REST
        for rule in members[other].writes()
    )


def relation(members: Mapping[str, Member], seer: str, other: str) -> Relation | None:
    """Return what the other is to a pod; None where it is not to be seen."""
    if seer == other:
        return Relation.SELF
    if seer not in members or other not in members:
        return None
    if seer in (members[other].parent, parent_of(members, other)):
        return Relation.CHILD
    if any(above.name == seer for above in line_above(members, other)):
        return Relation.DESCENDANT
    return Relation.PEER if other in members[seer].peers else None


def is_parent(members: Mapping[str, Member], other: str, child: str) -> bool:
    """Say whether a pod may write to the other as to its parent."""
    return child in members and other in (members[child].parent, parent_of(members, child))


def _is_next_below(members: Mapping[str, Member], other: str, name: str) -> bool:
    """Say whether a pod is the other's parent as soon as it is up."""
    up = (one.name for one in line_above(members, other) if _counts(one, name))
    return next(up, None) == name


def _counts(one: Member, name: str) -> bool:
    return one.name == name or one.life.phase not in AT_REST


def line(members: Mapping[str, Member], name: str) -> Line:
    """Return where a pod stands, for the scope table."""
    above = tuple(
        Lender(one.name, lendable(one.manifest), binding(one.manifest))
        for one in line_above(members, name)
    )
    below = frozenset(
        other
        for other, one in members.items()
        if one.parent is not None and _is_next_below(members, other, name)
    )
    return Line(above, below) if above or below else TOP_LEVEL
