"""The scope table on disk: its files, their repair, and several supervisors at once."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from protocol import errors
from protocol.errors import (
    Conflict,
    DuplicatePod,
    Internal,
    UnknownPod,
    UnsupportedVersion,
    WriteConflict,
    WrongToken,
)
from protocol.scope import Permission, Scope, ScopeRule
from supervisor import life_lock
from supervisor.core.rows import Adoption, Allocation, AllocationState, Lender, Line, Table
from supervisor.durable import locked
from supervisor.identity import Identity, identity_of
from supervisor.scope_table import Claim, ScopeTable
from supervisor.turns import locked_in_turn

PROJECT = Path(__file__).parents[2]


class Supervisor:
    """A table, and the life locks of the pods that were started through it."""

    def __init__(self, folder: Path, home: str = "/h") -> None:
        self.folder = folder
        self.there: dict[str, str] = {}
        self.table = ScopeTable(folder, home, "s", clock=lambda: 1_000, look=self.look)
        self.held: dict[tuple[str, int], int] = {}

    def look(self, scope: Scope) -> tuple[str, ...]:
        """What is there now, by target."""
        return tuple(self.there[rule.target] for rule in scope.allow)

    def claim(self, pod: str, *targets: str, incarnation: int = 1) -> Claim:
        """A claim whose life lock is held."""
        fd = life_lock.take(self.table.life_lock(pod, incarnation))
        self.held[pod, incarnation] = fd
        rules = tuple(ScopeRule(target=t, permission=Permission.WRITE) for t in targets)
        return Claim(
            pod=pod,
            incarnation=incarnation,
            token=f"{pod}-{incarnation}",
            scope=Scope(allow=rules),
            session_id=f"session-{pod}",
            segment_id=f"segment-{pod}",
        )

    def start(self, pod: str, *targets: str, incarnation: int = 1) -> Allocation:
        return self.table.register(self.claim(pod, *targets, incarnation=incarnation))

    def kill(self, pod: str, incarnation: int = 1) -> None:
        os.close(self.held.pop((pod, incarnation)))

    def pods(self) -> list[str]:
        return [row.pod for row in self.table.list()]

    def close(self) -> None:
        for fd in self.held.values():
            os.close(fd)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ps") as folder:
        yield Path(folder) / "scope"


@pytest.fixture
def fleet(folder: Path) -> Iterator[Supervisor]:
    fleet = Supervisor(folder)
    yield fleet
    fleet.close()


def own() -> Identity:
    identity = identity_of(os.getpid())
    assert identity is not None
    return identity


def test_what_one_supervisor_writes_another_one_reads(fleet: Supervisor) -> None:
    fleet.start("a", "/w/a")
    other = ScopeTable(fleet.folder, "/other", "t")
    assert other.list() == fleet.table.list()
    assert [row.scope_allow[0].target for row in other.list()] == ["/w/a"]


def test_one_folder_with_two_names_is_written_by_one_pod(folder: Path) -> None:
    """The names do not overlap, the identities do; another supervisor reads them from disk."""
    fleet, other = Supervisor(folder), Supervisor(folder, "/other")
    same, above = "1:5:b", "1:2:b"
    first = fleet.claim("a", "/w/a")
    other.there["/w/a"] = f"{above} 1:3:b {same}"
    fleet.table.register(replace(first, nodes=(other.there["/w/a"],)))
    try:
        for pod, target, line in (
            ("twin", "/m", f"{above} {same}"),
            ("below", "/m/x", f"{above} {same}"),
            ("deep", "/m/x", f"{above} {same} 1:6:b"),
        ):
            with pytest.raises(WriteConflict):
                other.table.register(replace(other.claim(pod, target), nodes=(line,)))
        for pod, line in (("beside", f"{above} 1:7:b"), ("unknown", "")):
            other.table.register(replace(other.claim(pod, f"/m/{pod}"), nodes=(line,)))
    finally:
        fleet.close()
        other.close()


def test_number_of_a_folder_that_is_gone_is_free(fleet: Supervisor) -> None:
    """A file system uses inode numbers again, so another folder has the number of the first."""
    above, used_again = "1:2:b 1:3:b", "1:5:b"
    first = replace(fleet.claim("a", "/w/one"), nodes=(f"{above} {used_again}",))
    second = replace(fleet.claim("b", "/w/two"), nodes=(f"{above} {used_again}",))
    fleet.table.register(first)
    fleet.there["/w/one"] = f"{above} {used_again}"
    with pytest.raises(WriteConflict):
        fleet.table.register(second)
    fleet.there["/w/one"] = above
    fleet.table.register(second)
    assert {row.pod: row.nodes for row in fleet.table.list()} == {
        "a": (above,),
        "b": second.nodes,
    }
    with pytest.raises(WriteConflict):
        fleet.table.register(replace(fleet.claim("c", "/w/one/x"), nodes=(above,)))


def test_a_pods_life_from_its_reservation_to_its_release(fleet: Supervisor) -> None:
    assert fleet.start("a", "/w").state is AllocationState.RESERVED
    held = fleet.table.adopt(Adoption(pod="a", token="a-1", identity=own()))
    assert (held.state, held.identity) == (AllocationState.HELD, own())
    moved = fleet.table.claim_segment("a", "a-1", "session-a", "next")
    assert moved.segment_id == "next"
    with pytest.raises(Conflict):
        fleet.table.release("a", "a-1")
    fleet.kill("a")
    fleet.table.release("a", "a-1")
    fleet.table.release("a", "a-1")
    assert fleet.pods() == []
    assert list((fleet.folder / "life").iterdir()) == []


def test_a_restart_renews_the_row_and_forgets_the_old_lock(fleet: Supervisor) -> None:
    fleet.start("a", "/w")
    fleet.kill("a")
    renewed = fleet.table.renew(fleet.claim("a", "/w", incarnation=2))
    assert (renewed.incarnation, renewed.token) == (2, "a-2")
    assert [path.suffix for path in (fleet.folder / "life").iterdir()] == [".2"]
    with pytest.raises(WrongToken):
        fleet.table.adopt(Adoption(pod="a", token="a-1", identity=own()))


def test_a_dead_pods_claim_is_settled_by_whoever_wants_it(fleet: Supervisor) -> None:
    fleet.start("a", "/w")
    fleet.kill("a")
    fleet.start("b", "/w")
    assert fleet.pods() == ["b"]
    assert [path.suffix for path in (fleet.folder / "life").iterdir()] == [".1"]


def test_a_row_is_refused_while_its_life_lock_is_not_held(fleet: Supervisor) -> None:
    claim = fleet.claim("a", "/w")
    fleet.kill("a")
    with pytest.raises(ValueError, match="life lock"):
        fleet.table.register(claim)


def test_without_a_life_lock_file_the_identity_decides(fleet: Supervisor) -> None:
    fleet.start("a", "/w")
    fleet.table.adopt(Adoption(pod="a", token="a-1", identity=own()))
    fleet.table.life_lock("a", 1).unlink()
    with pytest.raises(WriteConflict):
        fleet.start("b", "/w")
    elsewhere = own().model_copy(update={"pid_ns": 1})
    fleet.table.adopt(Adoption(pod="a", token="a-1", identity=elsewhere))
    with pytest.raises(WriteConflict, match="cannot be seen from here"):
        fleet.start("c", "/w")
    gone = own().model_copy(update={"start_ticks": 1})
    fleet.table.adopt(Adoption(pod="a", token="a-1", identity=gone))
    fleet.start("d", "/w")
    assert fleet.pods() == ["d"]


def test_many_pods_cost_one_write_and_each_has_its_own_outcome(fleet: Supervisor) -> None:
    claims = [fleet.claim(f"p{i}", f"/w/{i}") for i in range(49)]
    outcomes = fleet.table.register_many([*claims, fleet.claim("thief", "/w/7/below"), claims[0]])
    assert [type(outcome) for outcome in outcomes[48:]] == [Allocation, WriteConflict, DuplicatePod]
    assert len(fleet.pods()) == 49
    before = json.loads((fleet.folder / "table.json.bak").read_bytes())
    assert before == {"schema": 1, "allocations": []}


def test_what_is_refused_is_not_written(fleet: Supervisor) -> None:
    fleet.start("a", "/w")
    before = (fleet.folder / "table.json").stat()
    with pytest.raises(WriteConflict):
        fleet.start("b", "/w/below")
    with pytest.raises(UnknownPod):
        fleet.table.adopt(Adoption(pod="b", token="b-1", identity=own()))
    assert (fleet.folder / "table.json").stat().st_ino == before.st_ino


def test_the_files_are_private_and_nothing_else_is_left(fleet: Supervisor) -> None:
    fleet.start("a", "/w")
    modes = {
        path.name: stat.S_IMODE(path.lstat().st_mode)
        for path in (fleet.folder, *fleet.folder.iterdir())
    }
    assert modes == {
        "scope": 0o700,
        "life": 0o700,
        "table.lock.queue": 0o700,
        "table.json": 0o600,
        "table.json.bak": 0o600,
        "table.lock": 0o600,
    }
    assert list((fleet.folder / "table.lock.queue").iterdir()) == []


DAMAGE = [b"", b'{"schema":1,"alloc', b"\0" * 512, b"[]\n"]


@pytest.mark.parametrize("text", DAMAGE, ids=["empty", "cut", "zeros", "other"])
def test_an_unreadable_table_is_made_again_of_all_that_live(fleet: Supervisor, text: bytes) -> None:
    fleet.start("a", "/w/a")
    fleet.start("b", "/w/b")
    (fleet.folder / "table.json").write_bytes(text)
    fleet.start("c", "/w/c")
    assert fleet.pods() == ["a", "b", "c"]
    (alert,) = fleet.table.take_alerts()
    assert "table.json" in alert
    assert "made again of 2 claims" in alert
    assert fleet.table.take_alerts() == []
    assert (fleet.folder / "table.json.damaged").read_bytes() == text


def test_a_line_that_was_scribbled_on_is_damage_too(fleet: Supervisor) -> None:
    fleet.start("a", "/w/a")
    fleet.start("b", "/w/b")
    table = fleet.folder / "table.json"
    table.write_bytes(table.read_bytes().replace(b'"pod":"b"', b'"pod":7'))
    fleet.start("c", "/w/c")
    assert fleet.pods() == ["a", "b", "c"]


def test_a_dead_row_of_the_version_before_stays_where_it_is_in_no_live_ones_way(
    fleet: Supervisor,
) -> None:
    fleet.start("waits", "/w/waits")
    fleet.start("gone", "/w/gone")
    fleet.kill("waits")
    fleet.kill("gone")
    backup = (fleet.folder / "table.json").read_bytes()
    fleet.table.release("gone", "gone-1")
    fleet.start("heir", "/w/gone")
    (fleet.folder / "table.json.bak").write_bytes(backup)
    (fleet.folder / "table.json").write_bytes(b"")
    fleet.start("c", "/w/c")
    assert sorted(fleet.pods()) == ["c", "heir", "waits"]


def test_a_row_that_could_not_be_stored_never_comes_back_as_one_that_was(
    fleet: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(fleet.table, "_store", full_disk)
        with pytest.raises(OSError, match="full"):
            fleet.start("b", "/w")
    fleet.kill("b")
    fleet.start("a", "/w")
    lose(fleet.folder)
    with pytest.raises(WriteConflict):
        fleet.table.renew(fleet.claim("b", "/w", incarnation=2))


def full_disk(table: Table) -> None:
    raise OSError(28, "the disk is full")


def test_lends_are_numbered_beyond_those_of_a_table_that_was_lost(fleet: Supervisor) -> None:
    fleet.start("p", "/w")
    line = Line((Lender("p", Scope(allow=(ScopeRule(target="/w", permission=Permission.WRITE),))),))
    for child in ("c", "d"):
        before = fleet.table.lends(["p"])["p"].number
        fleet.table.reserve(replace(fleet.claim(child, f"/w/{child}"), line=line))
        assert fleet.table.lends(["p"])["p"].number > before
        (fleet.folder / "table.json").write_bytes(b"")
        fleet.start(f"after-{child}", f"/after/{child}")
    assert {rule.pod for rule in fleet.table.lends(["p"])["p"].lent} == {"c", "d"}


def lose(folder: Path) -> None:
    for name in ("table.json", "table.json.bak"):
        (folder / name).write_bytes(b"")


def test_a_lost_table_is_made_again_of_the_claims_in_the_life_locks(fleet: Supervisor) -> None:
    rows = [fleet.start("a", "/w/a"), fleet.start("b", "/w/b")]
    lose(fleet.folder)
    with pytest.raises(WriteConflict):
        fleet.start("c", "/w/a/below")
    assert [again(row) for row in fleet.table.list()] == [again(row) for row in rows]
    assert "made again of 2 claims" in fleet.table.take_alerts()[0]


def again(row: Allocation) -> Allocation:
    """Return a row without its number, which is another one in a table that was made again."""
    return row.model_copy(update={"lend_number": 0})


def test_the_claims_in_the_life_locks_are_those_of_the_latest_change(fleet: Supervisor) -> None:
    me = identity_of(os.getpid())
    assert me is not None
    fleet.start("a", "/w/a")
    fleet.table.adopt(Adoption("a", "a-1", me))
    fleet.start("b", "/w/b")
    fleet.kill("b")
    fleet.table.release("b", "b-1")
    before = fleet.table.list()
    lose(fleet.folder)
    fleet.start("c", "/w/c")
    assert [again(row) for row in fleet.table.list()[:-1]] == [again(row) for row in before]


def test_a_lost_table_never_becomes_empty_while_a_pod_lives_whose_claim_is_not_known(
    fleet: Supervisor,
) -> None:
    fleet.start("a", "/w/a")
    fleet.table.life_lock("a", 1).write_bytes(b"{")
    lose(fleet.folder)
    with pytest.raises(Internal, match="1 pods are alive") as lost:
        fleet.start("b", "/w/a")
    assert lost.value.next_step
    assert lost.value.details["locks"] == [str(fleet.table.life_lock("a", 1))]
    with pytest.raises(Internal):
        fleet.table.list()


def test_a_lost_table_tells_of_the_dead_too_and_they_stand_in_nobodys_way(
    fleet: Supervisor,
) -> None:
    fleet.start("a", "/w/a")
    lose(fleet.folder)
    fleet.kill("a")
    fleet.start("b", "/w/a")
    assert fleet.pods() == ["b"]


def test_a_lost_table_begins_anew_with_an_alert_where_no_life_lock_is_left(
    fleet: Supervisor,
) -> None:
    fleet.start("a", "/w/a")
    lose(fleet.folder)
    fleet.kill("a")
    fleet.table.life_lock("a", 1).unlink()
    table = ScopeTable(fleet.folder, "/h", "s")
    assert table.list() == ()
    assert "began anew" in table.take_alerts()[0]


def test_the_first_table_is_no_alert(fleet: Supervisor) -> None:
    assert fleet.table.take_alerts() == []
    assert fleet.pods() == []


def test_a_table_of_a_newer_version_is_left_alone(fleet: Supervisor) -> None:
    newer = b'{"schema":2,"rows":{}}'
    (fleet.folder / "table.json").write_bytes(newer)
    with pytest.raises(UnsupportedVersion):
        fleet.start("a", "/w")
    assert (fleet.folder / "table.json").read_bytes() == newer


def test_a_folder_that_others_may_enter_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(Internal, match="open to other users"):
        ScopeTable(folder, "/h", "s")


def test_a_lock_that_is_not_to_be_had_is_an_error_and_no_hang(folder: Path) -> None:
    folder.mkdir()
    with (
        locked(folder / "lock"),
        pytest.raises(errors.Timeout, match="lock"),
        locked(folder / "lock", timeout_s=0.02),
    ):
        pass


@pytest.mark.process
def test_a_forked_child_that_dies_does_not_release_its_parents_lock(folder: Path) -> None:
    folder.mkdir()
    with locked(folder / "lock"):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        with pytest.raises(errors.Timeout), locked(folder / "lock", timeout_s=0.02):
            pass


def python(code: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


HOLD = """
import sys
from pathlib import Path
from supervisor.turns import locked_in_turn
with locked_in_turn(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

WAIT_IN_LINE = """
import sys
from pathlib import Path
from supervisor.turns import _first_in_line
with _first_in_line(Path(sys.argv[1])):
    print("first", flush=True)
    sys.stdin.read()
"""


@pytest.mark.process
@pytest.mark.parametrize("code", [HOLD, WAIT_IN_LINE], ids=["holder", "first-in-line"])
def test_kill_9_of_who_has_the_lock_or_its_turn_wedges_nobody(fleet: Supervisor, code: str) -> None:
    path = fleet.folder / ("table.lock" if code is HOLD else "table.lock.queue")
    with python(code, path) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline()
        victim.kill()
        victim.wait()
    fleet.start("a", "/w")
    assert fleet.pods() == ["a"]
    assert list((fleet.folder / "table.lock.queue").iterdir()) == []


@pytest.mark.process
def test_a_process_that_is_stopped_in_line_only_delays_the_others(fleet: Supervisor) -> None:
    with python(WAIT_IN_LINE, fleet.folder / "table.lock.queue") as sleeper:
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline()
        with locked_in_turn(fleet.folder / "table.lock"):
            assert sleeper.poll() is None
        sleeper.kill()


CONTEND = """
import sys
from pathlib import Path
from protocol.errors import WriteConflict
from protocol.scope import Permission, Scope, ScopeRule
from supervisor import life_lock
from supervisor.scope_table import Claim, ScopeTable
table = ScopeTable(Path(sys.argv[1]), sys.argv[2], sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
won = []
for i in range(40):
    life_lock.take(table.life_lock(f"p{i}", 1))
    rule = ScopeRule(target=f"/w/{i}", permission=Permission.WRITE)
    try:
        table.register(Claim(f"p{i}", 1, "t", Scope(allow=(rule,))))
        won.append(str(i))
    except WriteConflict:
        pass
print(*won, flush=True)
sys.stdin.read()
"""


@pytest.mark.process
def test_two_supervisors_that_want_the_same_paths_never_both_get_one(folder: Path) -> None:
    with python(CONTEND, folder, "/h1") as one, python(CONTEND, folder, "/h2") as two:
        both = (one, two)
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in both:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        won = [set((process.stdout or sys.stdin).readline().split()) for process in both]
        assert won[0] & won[1] == set()
        assert won[0] | won[1] == {str(i) for i in range(40)}
        rows = ScopeTable(folder, "/h3", "/h3").list()
        assert len({row.scope_allow[0].target for row in rows}) == len(rows) == 40
        for process in both:
            process.kill()
