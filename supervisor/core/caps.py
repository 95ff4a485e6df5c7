"""How many pods a pod may have below it, and how deep. Pure.

Each pod is a process with a model, and one answer of a model may ask for any number of them. Three
caps hold whatever is asked, in whatever order:

    max_children   pods alive whose recorded parent is one pod
    max_tree       pods alive below one top-level pod, at all depths together
    max_depth      generations below a top-level pod, whose own depth is 0

*Alive* is whatever is not at rest: starting, running, waiting for its restart, stopping. A
top-level pod counts for none of the three: an operator may start as many as the machine bears.

A cap is judged where something comes to be alive that was not: at a spawn, a restore, a restart of
a pod at rest. It is judged where a deleted pod's children go to its parent, too. Who asks makes no
difference. A restart by policy brings back what was alive, and is not judged.

A pod that ends cannot be refused its end. Its live children are then its parent's to command, in
addition to the parent's own, so a parent may for a while have more children than `max_children`. It
gets no further one meanwhile. The tree below its top-level pod is no larger for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from protocol.control import Figure
from protocol.errors import Conflict, Forbidden, PodsupError
from protocol.manifest import SupervisorTable

_RAISE = "raise supervisor.{key} in the fleet file, then podsup down and podsup start"


@dataclass(frozen=True, slots=True)
class Caps:
    """The three bounds of one fleet."""

    children: int = 16
    tree: int = 64
    depth: int = 4

    @classmethod
    def of(cls, table: SupervisorTable) -> Caps:
        """Return the caps that a fleet file sets."""
        return cls(table.max_children, table.max_tree, table.max_depth)


DEFAULT_CAPS = Caps()


@dataclass(frozen=True, slots=True)
class Kinship:
    """Who is whose recorded child, and who of them is alive."""

    parents: Mapping[str, str | None]
    alive: frozenset[str] = field(default_factory=frozenset)

    def line_above(self, name: str) -> Iterator[str]:
        """Yield a pod's recorded parent, and the parent's, as far as they are known."""
        known = {name}
        while (parent := self.parents.get(name)) is not None and parent not in known:
            if parent not in self.parents:
                return
            known.add(parent)
            yield parent
            name = parent

    def depth(self, name: str) -> int:
        """Return how many generations a pod is below its top-level pod."""
        return sum(1 for _ in self.line_above(name))

    def top(self, name: str) -> str:
        """Return the top-level pod of a pod's tree, itself where it is one."""
        return ([name, *self.line_above(name)])[-1]

    def children(self, name: str) -> int:
        """Count the live pods whose recorded parent a pod is."""
        return sum(1 for one in self.alive if self.parents.get(one) == name)

    def commanded(self, name: str | None) -> int:
        """Count the live pods whose nearest live ancestor a pod is: its own, and lost ones."""
        return 0 if name is None else sum(1 for one in self.alive if self.commander(one) == name)

    def commander(self, name: str) -> str | None:
        """Return a pod's nearest live ancestor; None where nobody above it lives."""
        return next((one for one in self.line_above(name) if one in self.alive), None)

    def tree(self, top: str) -> int:
        """Count the live pods below a top-level pod."""
        return sum(1 for one in self.alive if one != top and self.top(one) == top)

    def with_alive(self, name: str) -> Kinship:
        """Return the same with one more pod alive."""
        return Kinship(self.parents, self.alive | {name})

    def with_pod(self, name: str, parent: str | None) -> Kinship:
        """Return the same with one more pod, alive."""
        return Kinship({**self.parents, name: parent}, self.alive | {name})

    def without(self, gone: str) -> Kinship:
        """Return the same without a pod; its children have its parent now."""
        heir = self.parents.get(gone)
        parents = {
            name: heir if parent == gone else parent
            for name, parent in self.parents.items()
            if name != gone
        }
        return Kinship(parents, self.alive - {gone})


def spawn_refusal(kin: Kinship, parent: str, name: str, caps: Caps) -> PodsupError | None:
    """Return why a pod may not have one more child, None where it may."""
    return _refusal(kin, kin.with_pod(name, parent), name, caps)


def start_refusal(kin: Kinship, names: Iterable[str], caps: Caps) -> PodsupError | None:
    """Return why pods may not be started all together; those that are alive are no more then."""
    for name in names:
        if name in kin.alive:
            continue
        before, kin = kin, kin.with_alive(name)
        if (refusal := _refusal(before, kin, name, caps)) is not None:
            return refusal
    return None


def delete_refusal(kin: Kinship, names: Iterable[str], caps: Caps) -> PodsupError | None:
    """Return why the children of deleted pods may not all go to their parents."""
    for name in names:
        heir, had = kin.parents.get(name), 0
        if heir is not None:
            had = kin.children(heir)
        kin = kin.without(name)
        if heir is not None and caps.children < (has := kin.children(heir)) > had:
            return Conflict(
                f"the {has - had} live children of pod {name} would be pod {heir}'s, which has "
                f"{had} alive; supervisor.max_children is {caps.children}",
                next_step=f"stop some of them first: podsup tree; or "
                f"{_RAISE.format(key='max_children')}",
                key="max_children",
                live=has,
                most=caps.children,
            )
    return None


def figures(kin: Kinship, name: str, caps: Caps) -> dict[str, Figure]:
    """Return how far a pod has used its caps."""
    children = max(kin.children(name), kin.commanded(name))
    return {
        "children": Figure(now=children, most=caps.children),
        "tree": Figure(now=kin.tree(kin.top(name)), most=caps.tree),
        "depth": Figure(now=kin.depth(name), most=caps.depth),
    }


def _refusal(before: Kinship, kin: Kinship, name: str, caps: Caps) -> PodsupError | None:
    """Return the cap that is exceeded once a pod is alive, the least curable first."""
    parent, depth = kin.parents.get(name), kin.depth(name)
    if parent is None:
        return None
    if depth > caps.depth:
        return Forbidden(
            f"pod {name} would be {depth} generations below pod {kin.top(name)}; "
            f"supervisor.max_depth is {caps.depth}",
            next_step=f"have a pod further up do the work, or {_RAISE.format(key='max_depth')}",
            key="max_depth",
            most=caps.depth,
        )
    if (has := kin.children(parent)) > caps.children:
        return _too_many("max_children", f"pod {parent} has", "children", has, caps.children)
    commander = kin.commander(name)
    has, had = kin.commanded(commander), before.commanded(commander)
    if has > caps.children and has > had:  # who comes back takes its own children with it
        return _too_many("max_children", f"pod {commander} has", "children", has, caps.children)
    top = kin.top(name)
    if (has := kin.tree(top)) > caps.tree:
        return _too_many("max_tree", f"below pod {top} there are", "pods", has, caps.tree)
    return None


def _too_many(key: str, who: str, what: str, would: int, most: int) -> Conflict:
    return Conflict(
        f"{who} {would - 1} {what} alive, and supervisor.{key} is {most}: stop one of them first",
        next_step=f"podsup tree, then podsup stop one of them; or {_RAISE.format(key=key)}",
        key=key,
        live=would - 1,
        most=most,
    )
