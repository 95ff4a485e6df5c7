"""What may be asked of a fleet: nothing here changes it. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from protocol import control as c
from protocol import methods as m
from protocol.errors import DuplicatePod, NotVisible, UnknownPod
from protocol.snapshot import FleetSnapshot, OperationRecord, PodPresence
from protocol.status import PodStatus, Relation
from supervisor.core.caps import Caps, Kinship, figures, spawn_refusal
from supervisor.core.family import AT_REST, children_of, is_parent, relation, shown_parent
from supervisor.core.member import Member
from supervisor.core.operations import Operation


class FleetReads:
    """All pods of one supervisor, to look at."""

    def __init__(self, name: str, epoch: int, caps: Caps) -> None:
        self.name = name
        self.caps = caps
        self.epoch = epoch
        self.members: dict[str, Member] = {}
        self.operations: OrderedDict[str, Operation] = OrderedDict()

    def member(self, name: str) -> Member:
        """Return a pod; raises UnknownPod with the names there are."""
        if name not in self.members:
            known = sorted(self.members)
            raise UnknownPod(
                f"no pod is named {name!r}; there are: {', '.join(known) or 'none'}",
                next_step="podsup ps",
                pod=name,
                known=known,
            )
        return self.members[name]

    def detail(self, name: str, now: float) -> c.StatusRow:
        """Return one pod, closely."""
        return self.member(name).detail(
            now,
            parent=shown_parent(self.members, name),
            children=children_of(self.members, name),
            caps=figures(self.kinship(), name, self.caps),
        )

    def kinship(self) -> Kinship:
        """Return who is whose recorded child, and who of them is alive."""
        return Kinship(
            {name: one.parent for name, one in self.members.items()},
            frozenset(n for n, one in self.members.items() if one.life.phase not in AT_REST),
        )

    def require_room(self, parent: str | None, name: str) -> None:
        """Raise the refusal of a spawn that a cap forbids; a top-level pod counts for none."""
        refusal = spawn_refusal(self.kinship(), parent, name, self.caps) if parent else None
        if refusal is not None:
            raise refusal

    def relation(self, seer: str, other: str) -> Relation | None:
        """Return what a pod is to another, None where it does not see it."""
        return relation(self.members, seer, other)

    def is_parent(self, other: str, child: str) -> bool:
        """Say whether a pod may write to the other as to its parent."""
        return is_parent(self.members, other, child)

    def seen(self, seer: str) -> Iterable[m.PodRow]:
        """Yield the rows of all pods that a pod sees, and of its children that were deleted."""
        for name in self.members:
            if self.relation(seer, name) is not None:
                yield self._seen_row(seer, name)
        for tombstone in self.members[seer].tombstones if seer in self.members else ():
            yield m.PodRow(
                name=tombstone.name,
                relation=Relation.CHILD,
                status=PodStatus.STOPPED,
                reachable=False,
                restorable=False,
                reason=f"deleted; {tombstone.cause}",
                parent=seer,
            )

    def _seen_row(self, seer: str, name: str) -> m.PodRow:
        known = self.relation(seer, name)
        assert known is not None
        parent = shown_parent(self.members, name)
        children = children_of(self.members, name)
        return self.members[name].seen(known, parent=parent, children=children)

    def inspected(self, seer: str, name: str) -> m.Inspected:
        """Return one pod as another sees it; raises UnknownPod or NotVisible."""
        self.require_seen(seer, name)
        row = self._seen_row(seer, name)
        return m.Inspected(pod=self.members[name].seen_closely(row))

    def require_seen(self, seer: str, name: str) -> None:
        """Raise UnknownPod, with what a pod sees, or NotVisible."""
        if name not in self.members:
            seen = sorted(one for one in self.members if self.relation(seer, one))
            raise UnknownPod(
                f"no pod is named {name!r}; you see: {', '.join(seen)}", pod=name, known=seen
            )
        if self.relation(seer, name) is None:
            raise NotVisible(f"pod {name} is neither below you nor your peer", pod=name)

    def is_replaceable(self, name: str) -> bool:
        """Whether a pod was spawned, never came up, and is gone: its name is free."""
        member = self.members.get(name)
        if member is None or member.releasing:
            return False
        return member.newborn and member.life.phase in AT_REST

    def require_free(self, name: str) -> None:
        """Raise DuplicatePod when the fleet has a pod of this name."""
        if name in self.members and not self.is_replaceable(name):
            raise DuplicatePod(
                f"the fleet has a pod named {name!r}: {self.members[name].life.status}",
                next_step=f"podsup delete {name}, or use another name",
                holder=name,
            )

    def rows(self, now: float) -> tuple[c.PsRow, ...]:
        """The rows of `ps`, in the order the pods were added."""
        members = self.members
        return tuple(
            one.row(now, parent=shown_parent(members, name)) for name, one in members.items()
        )

    def story(self, name: str) -> c.Story:
        """How a pod came to its state."""
        member = self.member(name)
        tail = member.life.last_exit.message if member.life.last_exit else ""
        return c.Story(
            pod=name, status=member.life.status, lines=tuple(member.story), stderr_tail=tail
        )

    def snapshot(self, seqs: dict[Any, int]) -> FleetSnapshot:
        """The fleet at this moment, for a subscriber."""
        return FleetSnapshot(
            fleet=self.name,
            epoch=self.epoch,
            pods=tuple(
                PodPresence(
                    name=m.name,
                    status=m.life.status,
                    incarnation=m.life.incarnation,
                    endpoint=m.life.endpoint or None if m.is_ready else None,
                )
                for m in self.members.values()
            ),
            operations=tuple(self._records()),
            seqs=seqs,
        )

    def _records(self) -> list[OperationRecord]:
        return [operation.record() for operation in self.operations.values()]
