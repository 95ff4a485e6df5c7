"""How many pods there may be below a pod: each cap at its edge, and after whatever happens."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import control as c
from protocol.error_body import ErrorBody
from protocol.errors import Conflict, ErrorCode, Forbidden, PodsupError
from protocol.manifest import SupervisorTable
from supervisor.core import stimuli as s
from supervisor.core.caps import Caps, Kinship, delete_refusal, spawn_refusal, start_refusal
from supervisor.core.family import AT_REST
from supervisor.core.fleet import Fleet
from supervisor.core.fleet_terms import Spawned, Withdrawn
from supervisor.core.health import HealthLimits
from supervisor.core.life import LifePolicy, Phase
from supervisor.core.member import Member
from tests.supervisor.fleets import Driven, manifest, refusal

SMALL = Caps(children=2, tree=4, depth=2)
TIGHT = Caps(children=1, tree=2, depth=3)


def kin(text: str) -> Kinship:
    """Return a family from `name<parent` words; a name with `.` before it is at rest."""
    parents: dict[str, str | None] = {}
    alive = set()
    for word in text.split():
        name, _, parent = word.partition("<")
        if not name.startswith("."):
            alive.add(name)
        parents[name.lstrip(".")] = parent or None
    return Kinship(parents, frozenset(alive))


def told(error: PodsupError | None) -> str | None:
    """Return which cap a refusal names."""
    return None if error is None else error.details["key"]


# -- the tables


@pytest.mark.parametrize(
    ("family", "parent", "key"),
    [
        ("a", "a", None),
        ("a b<a", "a", None),
        ("a b<a c<a", "a", "max_children"),
        ("a b<a .c<a", "a", None),
        ("a b<a .c<a .d<a .e<a", "a", None),
        ("a b<a c<a z", "z", None),
        ("a b<a c<a d<b e<b", "c", "max_tree"),
        ("a b<a c<a d<b .e<b", "c", None),
        ("a b<a c<b", "c", "max_depth"),
        ("a b<a c<b", "b", None),
        ("a .b<a c<b", "c", "max_depth"),
        ("a .b<a c<b d<b", "a", "max_children"),
        ("a .b<a c<b", "a", None),
        ("z a b<a c<a d<b e<b y<z", "z", None),
    ],
)
def test_spawn_is_judged_by_every_cap(family: str, parent: str, key: str | None) -> None:
    assert told(spawn_refusal(kin(family), parent, "new", SMALL)) == key


@pytest.mark.parametrize(
    ("family", "names", "key"),
    [
        ("a b<a .c<a", "c", None),
        ("a b<a c<a .d<a", "d", "max_children"),
        ("a b<a c<a .d<a", "b c", None),
        ("a .b<a .c<a", "b c", None),
        ("a .b<a .c<a .d<a", "b c d", "max_children"),
        (".a .b<a .c<a .d<a", "a b c d", "max_children"),
        ("a b<a c<a d<b e<b .f<c", "f", "max_tree"),
        ("a .b<a c<b .d<c", "d", None),
        ("a .b<a c<b d<b e<a", "b", None),
        ("a .b<a c<b d<b e<a .f<a", "f", "max_children"),
        (".a .b .c .d .e", "a b c d e", None),
        ("a b<a c<b .d<c", "d", "max_depth"),
    ],
)
def test_start_is_judged_as_if_all_were_alive(family: str, names: str, key: str | None) -> None:
    wide = replace(SMALL, depth=3) if key != "max_depth" else SMALL
    assert told(start_refusal(kin(family), names.split(), wide)) == key


@pytest.mark.parametrize(
    ("family", "names", "key"),
    [
        ("a .b<a c<b d<b", "b", None),
        ("a .b<a c<b d<b e<a", "b", "max_children"),
        ("a .b<a .c<b .d<b e<a", "b", None),
        (".a b<a c<a d<a", "a", None),
        ("a .b<a c<b .d<a e<d f<d", "b d", "max_children"),
        ("a .b<a .c<b d<c", "c b", None),
    ],
)
def test_delete_is_judged_by_what_the_heir_gets(family: str, names: str, key: str | None) -> None:
    assert told(delete_refusal(kin(family), names.split(), SMALL)) == key


def test_refusal_says_how_many_live_and_what_to_do() -> None:
    many = spawn_refusal(kin("a b<a c<a"), "a", "d", SMALL)
    assert isinstance(many, Conflict)
    assert many.message == (
        "pod a has 2 children alive, and supervisor.max_children is 2: stop one of them first"
    )
    assert (many.details["live"], many.details["most"]) == (2, 2)
    assert many.next_step == (
        "podsup tree, then podsup stop one of them; or raise supervisor.max_children in the "
        "fleet file, then podsup down and podsup start"
    )
    deep = spawn_refusal(kin("a b<a c<b"), "c", "d", SMALL)
    assert isinstance(deep, Forbidden)
    assert deep.message == "pod d would be 3 generations below pod a; supervisor.max_depth is 2"


def test_caps_are_those_of_the_fleet_file() -> None:
    assert Caps.of(SupervisorTable()) == Caps(16, 64, 4)
    table = SupervisorTable(max_children=1, max_tree=2, max_depth=3)
    assert Caps.of(table) == Caps(1, 2, 3)


# -- in the fleet, whatever happens


class Tree:
    """A fleet whose pods are spawned, stopped, lost and deleted as a test wishes."""

    def __init__(self, caps: Caps) -> None:
        self.caps = caps
        self.driven = Driven(Fleet("f", caps=caps))
        self.asked = 0

    @property
    def members(self) -> dict[str, Member]:
        return self.driven.fleet.members

    def phase(self, name: str) -> Phase:
        return self.members[name].life.phase

    def top(self, *names: str) -> None:
        """Start top-level pods."""
        self.driven.add(*names).up(*names)

    def spawn(self, name: str, parent: str | None) -> bool:
        """Spawn as the supervisor does; false where a cap forbids it."""
        fleet = self.driven.fleet
        try:
            fleet.require_room(parent, name)
        except PodsupError:
            return False
        fleet.add(
            manifest(name), policy=LifePolicy(), limits=HealthLimits(), parent=parent, spawned=True
        )
        self.asked += 1
        self.driven.feed(Spawned(f"spawn{self.asked}", name))
        return True

    def ask(self, control: c.Control) -> ErrorBody | None:
        """Ask for something; returns the refusal."""
        self.asked += 1
        out = self.driven.ask(control, id=f"ask{self.asked}")
        return refusal(out[:1]) if not out[0].ok else None  # type: ignore[union-attr]

    def settle(self, name: str) -> None:
        """Have the world answer what one pod waits for."""
        match self.phase(name):
            case Phase.FORKING | Phase.ABORTING:
                self.driven.fork(name)
            case Phase.JOINING:
                self.driven.hello(name)
            case Phase.STOPPING:
                self.driven.exit(name)
            case Phase.CLEARING:
                self.driven.clear(name)
            case Phase.BACKOFF:
                at = self.members[name].life.deadline
                assert at is not None
                self.driven.feel(name, s.Tick(), after_s=max(0.0, at - self.driven.now))
            case _:
                pass

    def check(self) -> None:
        """Count everything by hand, from nothing but who is recorded below whom."""
        alive = [one for one in self.members.values() if one.life.phase not in AT_REST]
        children = Counter(one.parent for one in alive if one.parent is not None)
        trees: Counter[str] = Counter()
        for one in alive:
            line = self._line(one.name)
            assert len(line) <= self.caps.depth, line
            if line:
                trees[line[-1]] += 1
        assert all(count <= self.caps.children for count in children.values()), children
        assert all(count <= self.caps.tree for count in trees.values()), trees

    def _line(self, name: str) -> list[str]:
        parent = self.members[name].parent
        return [] if parent is None else [parent, *self._line(parent)]


def test_batch_of_spawns_stops_at_the_cap() -> None:
    tree = Tree(Caps())
    tree.top("alice")
    done = [tree.spawn(f"k{number}", "alice") for number in range(80)]
    assert done == [True] * 16 + [False] * 64
    tree.check()


def test_refused_start_makes_room_for_another() -> None:
    tree = Tree(SMALL)
    tree.top("alice")
    assert [tree.spawn(name, "alice") for name in ("b", "c", "d")] == [True, True, False]
    tree.driven.refuse("b")
    tree.driven.feed(Withdrawn("b"))
    assert tree.spawn("d", "alice")


@pytest.mark.parametrize("control", [c.Restart(pods=("b",)), c.Restore(pod="b")])
def test_pod_at_rest_is_not_brought_back_beyond_a_cap(control: c.Control) -> None:
    tree = Tree(SMALL)
    tree.top("alice")
    for name in ("b", "c"):
        tree.spawn(name, "alice")
        tree.driven.join(name)
    assert tree.ask(control) is None, "it is alive already"
    tree.driven.gone("b")
    tree.ask(c.Stop(pods=("b",)))
    for _ in range(4):
        tree.settle("b")
    assert tree.phase("b") in AT_REST
    assert tree.spawn("d", "alice")
    refused = tree.ask(control)
    assert refused is not None
    assert refused.code == ErrorCode.CONFLICT
    assert "2 children alive" in refused.message
    assert tree.phase("b") in AT_REST


def test_children_of_a_lost_pod_count_for_who_commands_them() -> None:
    tree = Tree(SMALL)
    tree.top("alice")
    for name, parent in (("mid", "alice"), ("x", "mid"), ("y", "mid")):
        assert tree.spawn(name, parent)
        tree.driven.join(name)
    tree.ask(c.Stop(pods=("mid",)))
    tree.settle("mid")
    tree.settle("mid")
    detail = tree.driven.fleet.detail("alice", 0.0)
    assert detail.caps is not None
    assert detail.caps.children == c.Figure(now=2, most=2)
    assert not tree.spawn("z", "alice")
    assert tree.ask(c.Restore(pod="mid")) is None, "it takes its children back"


ACTS = (
    *("spawn", "spawn", "spawn", "settle all", "settle all", "settle all", "settle", "crash"),
    *("stop", "stop", "restart", "restart", "restore", "restore"),
)
HAPPENINGS = st.lists(
    st.tuples(st.sampled_from((*ACTS, "delete", "kill", "refuse")), st.integers(0, 999)),
    min_size=10,
    max_size=80,
)


def happen(tree: Tree, act: str, number: int) -> str:
    """Have one thing happen to some pod; returns what came of it."""
    names = list(tree.members)
    name = names[number % len(names)]
    resting = [one for one in names if tree.phase(one) in AT_REST] or names
    rest = resting[number % len(resting)]
    controls: dict[str, Any] = {
        "stop": c.Stop(pods=(name,)),
        "kill": c.Kill(pods=(name,)),
        "restart": c.Restart(pods=tuple({rest, names[number * 7 % len(names)]})),
        "restore": c.Restore(pod=rest),
        "delete": c.Delete(pods=(name,)),
    }
    if act in controls:
        if act == "delete" and tree.members[name].parent is None:
            return "kept"
        return f"{act} refused" if tree.ask(controls[act]) else act
    match act:
        case "spawn" if tree.phase(name) in (*AT_REST, Phase.BACKOFF):
            return "no parent"
        case "spawn":
            return "spawn" if tree.spawn(f"p{tree.asked}", name) else "spawn refused"
        case "settle":
            tree.settle(name)
        case "settle all":
            for one in [*names, *names, *names]:
                tree.settle(one)
        case "crash" if tree.phase(name) in (Phase.JOINING, Phase.READY, Phase.STOPPING):
            tree.driven.exit(name)
        case "refuse" if tree.phase(name) is Phase.FORKING:
            tree.driven.refuse(name)
    return act


def test_no_sequence_of_events_exceeds_a_cap() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=250, deadline=None)
    @given(st.sampled_from([SMALL, TIGHT, TIGHT]), HAPPENINGS)
    def live(caps: Caps, happenings: list[tuple[str, int]]) -> None:
        tree = Tree(caps)
        tree.top("alice", "bob")
        for act, number in happenings:
            seen[happen(tree, act, number)] += 1
            tree.check()

    live()
    seen["start refused"] = seen["restart refused"] + seen["restore refused"]
    assert all(seen[one] for one in ("spawn", "spawn refused", "start refused", "delete")), seen
