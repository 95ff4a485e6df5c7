"""Pods that spawn pods, with real processes: what is lent, who may write it, how it comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from protocol import control as c
from protocol.entries import Invoke, SystemItemEntry, ToolResult, ToolResultEntry
from protocol.ids import uuid7
from supervisor.client import Client
from supervisor.pod_store import PodStore
from tests.e2e.fleets import (
    DEADLINE_S,
    answers,
    below,
    claims,
    connect,
    fleet,
    history,
    is_alive,
    pid_of,
    row,
    running,
    start,
    stat_of,
    wait_reborn,
    wait_status,
)
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = pytest.mark.process


# -- parents and their scripts -------------------------------------------------------------------


def toml(value: Any) -> str:
    """Return a value as inline TOML."""
    match value:
        case dict():
            return "{ " + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(toml, value)) + "]"
        case _:
            return json.dumps(value)


def call(tool: str, /, **arguments: Any) -> str:
    """Return a tool call of a scripted answer."""
    return toml({"name": tool, "arguments": arguments})


def on(match: str, *calls: str, text: str = "") -> str:
    """Return an answer to the input that is exactly this, with these calls, each time it comes."""
    said = f"text = {toml(text)}\n" if text else ""
    return f"match = {toml(f'^{match}$')}\nrepeat = true\n{said}tool_calls = [{', '.join(calls)}]\n"


def writes(match: str, path: str) -> str:
    """Return an answer that writes a file, which is another for each process of each pod."""
    file = f"{path}/${{pod}}-${{incarnation}}.txt"
    return on(match, call("Write", file_path=file, content="mine\n"))


def spawn_call(name: str, target: str, **more: Any) -> str:
    """Return the call that spawns a child and lends it a folder."""
    arguments: dict[str, Any] = {"task": "Wait.", "scope": [{"target": target}]} | more
    return call("SpawnPod", name=name, **arguments)


def lends(*targets: str) -> list[dict[str, str]]:
    """Return a delegation scope, as a call of SpawnPod has it."""
    return [{"target": target, "permission": "write"} for target in targets]


def flat_rule(target: str) -> dict[str, Any]:
    """Return a rule for what is directly in a folder, and not below."""
    return {"target": target, "recursive": False}


def parent(name: str, *script: str, folder: str = "", writing: bool = True, more: str = "") -> str:
    """Return a pod that may lend a folder (its own name), and may write it itself."""
    rules = toml({"allow": lends(folder or name)})
    scope = f"scope = {rules}\n" if writing else ""
    head = f'"{name}"\n{scope}delegation_scope = {rules}\nfeature = {{ pods = true }}\n{more}\n'
    return head + answers(*script)


# -- what they did -------------------------------------------------------------------------------


def did(client: Client, pod: str, text: str) -> list[ToolResult]:
    """Submit a run, and return the results of its tools once it has ended."""
    wait_status(client, pod, "idle", "running")
    done = client.run(pod, text, timeout_s=2 * DEADLINE_S)
    assert done is not None
    assert done.result == "finished", f"{pod}: {text}: {done}"
    found: list[ToolResult] = []
    is_mine = False
    for entry in history(client, pod):
        if isinstance(entry, Invoke):
            is_mine = entry.trigger == "user_send"
            found = [] if is_mine else found
        elif is_mine and isinstance(entry, ToolResultEntry):
            found.append(entry.item)
    return found


def well(client: Client, pod: str, text: str) -> str:
    """Submit a run whose one call goes well; returns what it gave."""
    (result,) = did(client, pod, text)
    assert not result.is_error, result
    return _whole(result)


def refused(client: Client, pod: str, text: str) -> str:
    """Submit a run whose one call is refused; returns the refusal."""
    (result,) = did(client, pod, text)
    assert result.is_error, result
    return _whole(result)


def _whole(result: ToolResult) -> str:
    return "\n".join(part for part in (result.summary, result.content) if part)


def spawned(client: Client, pod: str, text: str, *children: str) -> None:
    """Have a pod spawn children; returns when they have done their tasks."""
    for result in did(client, pod, text):
        assert not result.is_error, result
    for child in children:
        wait_status(client, child, "idle")
    wait_status(client, pod, "idle")


def told(client: Client, pod: str, *words: str) -> list[str]:
    """Return the lines of other pods that a pod's model has read, those with all of the words."""
    bodies = [
        entry.item.body
        for entry in history(client, pod)
        if isinstance(entry, SystemItemEntry) and entry.item.kind in ("pod_event", "notification")
    ]
    return [body for body in bodies if all(word in body for word in words)]


def told_once(client: Client, pod: str, *words: str) -> str:
    """Return the one line with these words, once it was read, and a run later still the only one.

    The line wakes the pod, so nobody has to.
    """
    eventually(lambda: told(client, pod, *words), f"{pod} is told {words}", DEADLINE_S)
    did(client, pod, "anything else?")
    (line,) = told(client, pod, *words)
    return line


def claimed(home: Home) -> dict[str, str | None]:
    """Return whom each pod with a claim has it from."""
    return {one["pod"]: one.get("delegated_from") for one in claims(home)}


def life_locks(home: Home) -> set[str]:
    """Return the files of the life locks."""
    return set(os.listdir(home.home / "scope/life"))


def kill(client: Client, *pods: str) -> None:
    """Kill these processes, all before anybody can know of the first."""
    supervisor = client.control(c.Ping()).pid
    pids = [pid_of(client, pod) for pod in pods]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        eventually(lambda: stat_of(supervisor)[0] == "T", "the supervisor is stopped", DEADLINE_S)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.kill(supervisor, signal.SIGCONT)


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Keep processes from running, without their knowing; one that has ended needs no keeping."""
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        eventually(lambda: all(map(_stands, pids)), "they stand", DEADLINE_S)
        yield
    finally:
        for pid in pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGCONT)


def _stands(pid: int) -> bool:
    return not is_alive(pid) or stat_of(pid)[0] == "T"


# -- the fleet -----------------------------------------------------------------------------------

WORK = "while [ ! -e talk/go ]; do sleep 0.05; done"
BEAT = "setsid sh -c 'while :; do echo beat > held/kid/beat; sleep 0.05; done' & true"

PARENTS = (
    parent(
        "plain",
        on("spawn", spawn_call("plain-kid", "plain/kid", task="write kid")),
        writes("write kid", "plain/kid"),
        writes("write beside", "plain"),
    ),
    parent(
        "batch",
        on(
            "batch",
            call("Read", file_path="podsup.toml"),
            call("Write", file_path="batch/kid/mine.txt", content="mine\n"),
            spawn_call("batch-kid", "batch/kid"),
        ),
    ),
    parent(
        "reader",
        on("spawn one", spawn_call("reader-one", "reader/lib")),
        on("spawn same", spawn_call("reader-two", "reader/lib")),
        on("spawn below", spawn_call("reader-two", "reader/lib/deep")),
        on("spawn above", spawn_call("reader-two", "reader")),
        on("spawn beside", spawn_call("reader-two", "reader/other")),
        on("spawn link", spawn_call("reader-three", "reader/link")),
        on("spawn dots", spawn_call("reader-three", "reader/other/../lib")),
        on("spawn out", spawn_call("reader-three", "reader/lib/../../out")),
        on("spawn nowhere", spawn_call("reader-three", "reader/none/../../out")),
        writes("write", "reader/lib"),
        writing=False,
    ),
    parent("gives", on("spawn beyond", spawn_call("gives-kid", "elsewhere"))),
    parent("absent"),
    parent(
        "choosy",
        on("spawn nameless", spawn_call("choosy-kid", "choosy/kid", profile="nope")),
        on("spawn web", spawn_call("choosy-kid", "choosy/kid", profile="web")),
        on("spawn thrifty", spawn_call("choosy-kid", "choosy/kid", profile="thrifty")),
        on("spawn short", spawn_call("choosy-kid", "choosy/kid", profile="short")),
    ),
    parent(
        "fated",
        on("spawn crash", spawn_call("fated-kid", "fated/file/kid")),
        on("spawn deaf", spawn_call("fated-deaf", "fated/deaf")),
    ),
    parent(
        "bereft",
        on("spawn", spawn_call("bereft-kid", "bereft/kid")),
        writes("write kid", "bereft/kid"),
        on("restore", call("RestorePod", name="bereft-kid")),
    ),
    parent(
        "grand",
        on("spawn mid", spawn_call("mid", "grand/mid", delegation_scope=lends("grand/mid"))),
        on("spawn low", spawn_call("low", "grand/mid/low")),
        writes("write mid", "grand/mid"),
        writes("write low", "grand/mid/low"),
        on("restore", call("RestorePod", name="mid")),
        on("list", call("ListPods")),
    ),
    parent("deaf", writes("write late", "deaf/late"), writes("write", "deaf")),
    parent(
        "again",
        on("spawn", spawn_call("again-kid", "again/kid")),
        on("spawn flat", spawn_call("flat", "", scope=[flat_rule("again/flat")])),
        on("spawn bound", spawn_call("bound", "again/bound", profile="bound")),
        on("spawn lasting", spawn_call("lasting", "again/kid", profile="lasting")),
        writes("write kid", "again/kid"),
        writes("write flat", "again/flat"),
        writes("write under", "again/flat/under"),
    ),
    parent(
        "above",
        on("job", call("Bash", command="sleep 8913 & true")),
        on("spawn", spawn_call("agent", "", scope=[], delegation_scope=lends("above/low"))),
        on("spawn low", spawn_call("lowest", "above/low")),
        writes("write", "above/low"),
    ),
    parent("held", on("beat", call("Bash", command=BEAT)), writes("write", "held/kid")),
    parent(
        "busy",
        on("job", call("Bash", command="sleep 8911 & true")),
        on("spawn", spawn_call("busy-two", "busy/two")),
        on("spawn hard", spawn_call("busy-two", "busy/two", stop_jobs=True)),
    ),
    parent(
        "talk",
        on("spawn", spawn_call("talk-kid", "talk/kid", task="work")),
        on("work", call("Bash", command=WORK), text="Working."),
        on("send", call("SendToPod", name="talk-kid", message="more")),
        on("queue", call("SendToPod", name="talk-kid", message="and that", queue=True)),
        on("wait a moment", call("WaitForPods", names=["talk-kid"], timeout_s=0.3)),
        on("wait", call("WaitForPods", names=["talk-kid"], timeout_s=30)),
        on("read", call("ReadPodOutput", name="talk-kid")),
        on("stop", call("StopPod", name="talk-kid")),
        on("restore", call("RestorePod", name="talk-kid")),
        on("inspect", call("InspectPod", name="talk-kid")),
        on("spawn talker", spawn_call("talker", "talk/talker", task="say")),
        on("say", call("Bash", command="sleep 8912"), text="First of all."),
        on("read talker", call("ReadPodOutput", name="talker")),
    ),
)


@pytest.fixture(scope="module")
def family(shared_home: Home) -> Home:
    """A parent for each test, with a folder of its own name to lend."""
    shared_home.write("profiles/web.toml", "[feature]\nweb = true\n")
    shared_home.write("profiles/thrifty.toml", "[budget]\nusd = 1\n")
    shared_home.write("profiles/bound.toml", 'on_parent_exit = "stop"\n')
    shared_home.write("profiles/lasting.toml", 'restart = "on-failure"\n')
    shared_home.write("profiles/short.toml", "[engine]\nmax_turns = 7\n")
    start(shared_home, fleet(*PARENTS))
    return shared_home


@pytest.fixture
def client(family: Home) -> Iterator[Client]:
    """An operator's connection."""
    with connect(family) as client:
        yield client


# -- lending -------------------------------------------------------------------------------------


def test_child_works_in_what_it_was_lent_and_its_parent_everywhere_else(
    family: Home, client: Client
) -> None:
    spawned(client, "plain", "spawn", "plain-kid")
    lent = family.work / "plain/kid"
    assert (lent / "plain-kid-1.txt").read_text() == "mine\n", "its task wrote it"

    told_no = refused(client, "plain", "write kid")
    assert "plain-kid" in told_no
    assert str(lent) in told_no
    well(client, "plain", "write beside")
    assert sorted(os.listdir(lent)) == ["plain-kid-1.txt"]

    ps: c.Ps = client.control(c.ListFleet())
    assert {one.name: one.parent for one in ps.pods}["plain-kid"] == "plain"
    tree = family.podsup("tree").stdout.splitlines()
    (at,) = (n for n, line in enumerate(tree) if "─ plain " in line)
    assert "   └─ plain-kid  idle" in tree[at + 1] or "│  └─ plain-kid  idle" in tree[at + 1]
    assert str(lent) in tree[at + 1]
    assert row(client, "plain").children == ("plain-kid",)
    assert "  parent     plain" in family.podsup("status", "plain-kid").stdout.splitlines()
    held = {one["pod"]: one for one in family.json("locks")["allocations"]}
    assert held["plain-kid"]["delegated_from"] == "plain"
    assert (held["plain-kid"]["state"], held["plain-kid"]["pid"]) == (
        "held",
        pid_of(client, "plain-kid"),
    )

    client.operate(c.Stop(pods=("plain-kid",)))
    well(client, "plain", "write kid")
    seen = [
        (one["event"], one["pod"], one["data"])
        for one in family.json("events")["events"]
        if one["pod"] in ("plain", "plain-kid") and one["event"].startswith("scope_")
    ]
    assert [(event, pod) for event, pod, _ in seen] == [
        ("scope_granted", "plain"),
        ("scope_delegated", "plain"),
        ("scope_denied", "plain"),
        ("scope_reclaimed", "plain-kid"),
    ]
    delegated = seen[1][2]
    assert delegated["child"] == "plain-kid"
    assert [rule["target"] for rule in delegated["rules"]] == [str(lent)]


def test_spawn_in_a_batch_comes_before_the_calls_that_stand_before_it(
    family: Home, client: Client
) -> None:
    results = sorted(did(client, "batch", "batch"), key=lambda one: one.call_id)
    read, wrote, lent = results
    assert [one.is_error for one in results] == [False, True, False]
    assert "podsup.toml" in read.summary
    assert "batch-kid is up" in lent.summary
    assert "batch-kid" in wrote.summary
    assert not (family.work / "batch/kid/mine.txt").exists()
    wait_status(client, "batch-kid", "idle")


def test_two_children_of_a_parent_that_only_reads_cannot_have_one_folder(
    family: Home, client: Client
) -> None:
    spawned(client, "reader", "spawn one", "reader-one")
    first = str(pid_of(client, "reader-one"))
    for text in ("spawn same", "spawn below", "spawn above"):
        told_no = refused(client, "reader", text)
        assert "write_conflict" in told_no, text
        assert "reader-one" in told_no, text
        assert first in told_no, text
    spawned(client, "reader", "spawn beside", "reader-two")
    well(client, "reader-one", "write")
    refused(client, "reader-two", "write")
    assert refused(client, "reader", "write").startswith("denied")

    (family.work / "reader/link").symlink_to(family.work / "reader/lib")
    for text in ("spawn link", "spawn dots"):
        told_no = refused(client, "reader", text)
        assert "write_conflict" in told_no, text
        assert "reader-one" in told_no, text
    assert "not_subset" in refused(client, "reader", "spawn out")
    assert "'..'" in refused(client, "reader", "spawn nowhere")
    ours = {pod: holder for pod, holder in claimed(family).items() if pod.startswith("reader")}
    assert ours == {"reader": None, "reader-one": "reader", "reader-two": "reader"}


def test_region_without_what_is_below_is_lent_without_what_is_below(
    family: Home, client: Client
) -> None:
    (family.work / "again/flat/under").mkdir(parents=True)
    spawned(client, "again", "spawn flat", "flat")
    assert "flat" in refused(client, "again", "write flat")
    well(client, "again", "write under")
    well(client, "flat", "write flat")
    refused(client, "flat", "write under")


def test_pod_above_the_spawner_that_could_write_there_is_asked_too(
    family: Home, client: Client
) -> None:
    spawned(client, "above", "spawn", "agent")
    assert row(client, "agent").scope.write == ()
    did(client, "above", "job")
    (job,) = eventually(lambda: running(family, "sleep 8913"), "the job runs", DEADLINE_S)
    told_no = refused(client, "agent", "spawn low")
    assert "above cannot lend" in told_no
    assert "sleep 8913" in told_no
    assert "lowest" not in claimed(family)
    well(client, "above", "write")

    os.kill(job, signal.SIGKILL)
    eventually(lambda: not running(family, "sleep 8913"), "the job has ended", DEADLINE_S)
    spawned(client, "agent", "spawn low", "lowest")
    assert claimed(family)["lowest"] == "agent"
    assert "lowest" in refused(client, "above", "write")
    refused(client, "agent", "write")
    well(client, "lowest", "write")


def test_refused_spawn_says_why_and_leaves_nothing(family: Home, client: Client) -> None:
    family.podsup("spawn", "gives-kid", "--parent", "gives", "--write", "gives/kid", "--wait")
    client.operate(c.Stop(pods=("absent",)))
    before = claims(family), life_locks(family), set(row_names(client))
    (held,) = (one for one in claims(family) if one["pod"] == "gives-kid")

    def spawn(parent: str, target: str, code: int) -> dict[str, Any]:
        asked = ("spawn", "gives-no", "--parent", parent, "--write", target, "--wait")
        error: dict[str, Any] = family.json(*asked, ok=code)["error"]
        return error

    beyond = spawn("gives", "elsewhere", 12)
    assert beyond["code"] == "not_subset"
    assert str(family.work / "elsewhere") in beyond["message"]
    conflict = spawn("gives", "gives/kid/below", 6)
    assert conflict["code"] == "write_conflict"
    for evidence in ("gives-kid", str(held["identity"]["pid"]), str(family.work / "gives/kid")):
        assert evidence in conflict["message"]
    (holder,) = conflict["details"]["holders"]
    assert holder["pod"] == "gives-kid"
    unknown = spawn("ghost", "gives/no", 7)
    assert (unknown["code"], unknown["details"]["pod"]) == ("unknown_pod", "ghost")
    away = spawn("absent", "absent/no", 3)
    assert (away["code"], away["details"]["pod"]) == ("unreachable", "absent")
    assert "not_subset" in refused(client, "gives", "spawn beyond")

    assert (claims(family), life_locks(family), set(row_names(client))) == before
    assert not (family.work / "elsewhere").exists()
    assert not (family.work / "gives/kid/below").exists()


def row_names(client: Client) -> list[str]:
    """Return the pods that `ps` shows."""
    ps: c.Ps = client.control(c.ListFleet())
    return [one.name for one in ps.pods]


def test_profile_is_checked_before_anything_starts(family: Home, client: Client) -> None:
    before = claims(family), life_locks(family), row_names(client)
    nameless = refused(client, "choosy", "spawn nameless")
    assert "'nope'" in nameless
    assert "bound, lasting, short, thrifty, web" in nameless
    assert "feature.web" in refused(client, "choosy", "spawn web")
    thrifty = refused(client, "choosy", "spawn thrifty")
    assert "budget" in thrifty
    assert "not available in this version" in thrifty
    assert (claims(family), life_locks(family), row_names(client)) == before

    spawned(client, "choosy", "spawn short", "choosy-kid")


def test_spawn_that_crashes_at_once_is_told_at_once_and_its_name_is_free(
    family: Home, client: Client
) -> None:
    obstacle = family.write("fated/file", "no folder can be made below a file")
    before = claimed(family), life_locks(family)
    asked = ("spawn", "fated-kid", "--parent", "fated", "--write", "fated/file/kid", "--wait")

    begun = time.monotonic()
    told_no = refused(client, "fated", "spawn crash")
    assert time.monotonic() - begun < 10, "it did not wait for a hello"
    by_command = family.json(*asked, ok=1)["error"]
    assert time.monotonic() - begun < 2 * 10, "nor did the command"
    for said in (told_no, by_command["message"] + by_command["details"]["stderr_tail"]):
        assert "exit code 1" in said
        assert "Not a directory" in said
        assert str(obstacle) in said
    assert (claimed(family), life_locks(family)) == before

    obstacle.unlink()
    family.podsup(*asked)
    assert claimed(family)["fated-kid"] == "fated"


def test_parent_is_not_told_that_a_child_which_never_was_up_has_stopped(
    family: Home, client: Client
) -> None:
    obstacle = family.write("fated/wall", "no folder can be made below a file")
    for name in ("unborn", "unborn"):  # the second time there is a record of the first
        spawn = ("spawn", name, "--parent", "fated", "--write", f"{obstacle}/kid", "--wait")
        family.podsup(*spawn, ok=1)
    did(client, "fated", "anything?")
    assert told(client, "fated", "unborn") == []


def test_spawn_whose_task_is_not_accepted_says_that_the_child_lives_and_how_to_reach_it(
    family: Home, client: Client
) -> None:
    did(client, "fated", "begin a session")
    store = PodStore(family.home / "data")
    known = store.load("fated")
    assert known is not None
    in_the_way = family.home / "data/sessions" / uuid7(0, bytes(10))
    in_the_way.write_text("no folder: this session cannot begin")
    here = {
        "name": "fated-deaf",
        "parent": "fated",
        "session_id": in_the_way.name,
        "segment_id": uuid7(1, bytes(10)),
    }
    store.save(known.model_copy(update=here))

    told_no = refused(client, "fated", "spawn deaf")
    for evidence in ("its task was not accepted", "the pod lives", "podsup run fated-deaf"):
        assert evidence in told_no
    assert claimed(family)["fated-deaf"] == "fated"
    in_the_way.unlink()
    did(client, "fated-deaf", "hello")


# -- the end of a child --------------------------------------------------------------------------


def test_killed_child_gives_its_scope_back_by_itself_and_can_be_restored(
    family: Home, client: Client
) -> None:
    spawned(client, "bereft", "spawn", "bereft-kid")
    well(client, "bereft-kid", "write kid")
    refused(client, "bereft", "write kid")
    before = row(client, "bereft-kid")

    os.kill(pid_of(client, "bereft-kid"), signal.SIGKILL)
    line = told_once(client, "bereft", "bereft-kid", "has stopped")
    assert "SIGKILL" in line
    assert str(family.work / "bereft/kid") in line
    assert "bereft-kid" not in claimed(family)
    well(client, "bereft", "write kid")
    ended = row(client, "bereft-kid")
    assert (ended.status, ended.incarnation, ended.restarts) == ("failed", 1, 0)

    heard = len(history(client, "bereft"))
    assert "up again" in well(client, "bereft", "restore")
    after = row(client, "bereft-kid")
    assert (after.session_id, after.segment_id) == (before.session_id, before.segment_id)
    assert (after.parent, after.incarnation) == ("bereft", 2)
    assert claimed(family)["bereft-kid"] == "bereft"
    assert "bereft-kid" in refused(client, "bereft", "write kid")
    well(client, "bereft-kid", "write kid")
    texts = [getattr(one, "request_id", None) for one in history(client, "bereft-kid")]
    assert texts.count("task") == 1, "its history is there, and its task was not given again"
    assert len(history(client, "bereft")) > heard


def test_child_of_a_stopped_pod_is_the_grandparents_until_that_pod_is_back(
    family: Home, client: Client
) -> None:
    spawned(client, "grand", "spawn mid", "mid")
    spawned(client, "mid", "spawn low", "low")
    assert {pod: claimed(family)[pod] for pod in ("mid", "low")} == {"mid": "grand", "low": "mid"}
    assert row(client, "low").parent == "mid"

    client.operate(c.Stop(pods=("mid",)))
    assert (claimed(family)["low"], "mid" in claimed(family)) == ("grand", False)
    assert row(client, "low").parent == "grand"
    assert set(row(client, "grand").children) == {"mid", "low"}
    assert "low" in refused(client, "grand", "write low")
    well(client, "grand", "write mid")
    well(client, "low", "write low")
    low = str(family.work / "grand/mid/low")
    assert f"but not {low} (pod low)" in told_once(client, "grand", "Pod mid has stopped")
    listed = well(client, "grand", "list")
    assert "mid (child): stopped" in listed
    assert "low (child): idle" in listed
    eventually(lambda: told(client, "grand", "Pod low finished"), "low reports", DEADLINE_S)

    assert "up again" in well(client, "grand", "restore")
    assert {pod: claimed(family)[pod] for pod in ("mid", "low")} == {"mid": "grand", "low": "mid"}
    assert row(client, "low").parent == "mid"
    for text in ("write mid", "write low"):
        refused(client, "grand", text)
    assert "low" in refused(client, "mid", "write low")
    well(client, "mid", "write mid")
    reports = len(told(client, "grand", "Pod low finished"))
    did(client, "low", "anything?")
    eventually(lambda: told(client, "mid", "Pod low finished"), "low reports to mid", DEADLINE_S)
    assert len(told(client, "grand", "Pod low finished")) == reports


def test_lender_that_crashed_and_is_back_still_may_not_write_what_it_lent(
    family: Home, client: Client
) -> None:
    spawned(client, "again", "spawn", "again-kid")
    kid = pid_of(client, "again-kid")
    os.kill(pid := pid_of(client, "again"), signal.SIGKILL)
    wait_reborn(client, "again", pid)
    assert "again-kid" in refused(client, "again", "write kid")
    assert (pid_of(client, "again-kid"), claimed(family)["again-kid"]) == (kid, "again")
    did(client, "again-kid", "are you there?")
    eventually(
        lambda: len(told(client, "again", "again-kid finished")) == 2, "it reports", DEADLINE_S
    )
    client.operate(c.Stop(pods=("again-kid",)))
    well(client, "again", "write kid")


def test_child_whose_profile_says_so_is_started_again_and_keeps_its_scope(
    family: Home, client: Client
) -> None:
    spawned(client, "again", "spawn lasting", "lasting")
    os.kill(pid := pid_of(client, "lasting"), signal.SIGKILL)
    wait_reborn(client, "lasting", pid)
    assert (row(client, "lasting").restarts, claimed(family)["lasting"]) == (1, "again")
    assert "lasting" in refused(client, "again", "write kid")
    well(client, "lasting", "write kid")
    assert told(client, "again", "lasting", "has stopped") == []
    client.operate(c.Stop(pods=("lasting",)))
    told_once(client, "again", "lasting", "has stopped")


def test_child_that_starts_while_its_parent_does_waits_for_it(family: Home, client: Client) -> None:
    """Restarted together, in either order, and both killed at once: what was lent stays lent."""
    if "lasting" not in {one.name for one in client.control(c.ListFleet()).pods}:
        spawned(client, "again", "spawn lasting", "lasting")
    elif row(client, "lasting").status == "stopped":
        client.operate(c.Restore(pod="lasting"))
    for pods in (("again", "lasting"), ("lasting", "again")):
        client.operate(c.Restart(pods=pods))
        assert (row(client, "again").status, row(client, "lasting").status) == ("idle", "idle")
    for pod in ("again", "lasting"):
        os.kill(pid_of(client, pod), signal.SIGKILL)
    for pod in ("again", "lasting"):
        wait_status(client, pod, "idle")
    assert claimed(family)["lasting"] == "again"
    client.operate(c.Stop(pods=("lasting",)))


def test_child_whose_profile_says_so_is_stopped_when_its_parent_is(
    family: Home, client: Client
) -> None:
    spawned(client, "again", "spawn bound", "bound")
    pid = pid_of(client, "bound")
    client.operate(c.Stop(pods=("again",)))
    assert wait_status(client, "bound", "stopped").pid is None
    assert not is_alive(pid)
    eventually(lambda: "bound" not in claimed(family), "its claim is gone", DEADLINE_S)
    client.operate(c.Restore(pod="again"))


DEPTH = 6
LEVELS = ["deep" + "".join(f"/{n}" for n in range(1, level + 1)) for level in range(DEPTH + 1)]


def _next_level(level: int) -> str:
    more: dict[str, Any] = {"task": f"go {level + 1}"}
    if level < DEPTH:
        more["delegation_scope"] = lends(LEVELS[level])
    return on(f"go {level}", spawn_call(f"c{level}", LEVELS[level], **more))


def test_chain_of_six_settles_when_its_middle_is_killed_and_down_leaves_nothing(
    home: Home,
) -> None:
    script = [_next_level(level) for level in range(1, DEPTH + 1)]
    script += [writes(f"write {level}", LEVELS[level]) for level in range(DEPTH + 1)]
    start(home, fleet(parent("c0", *script, folder="deep"), supervisor=f"max_depth = {DEPTH}"))
    chain = [f"c{level}" for level in range(DEPTH + 1)]
    with connect(home) as client:
        did(client, "c0", "go 1")
        eventually(lambda: len(claims(home)) == DEPTH + 1, "the chain is there", DEADLINE_S)
        for pod in chain:
            wait_status(client, pod, "idle")
        assert claimed(home) == dict(zip(chain, [None, *chain], strict=False))
        for level, pod in enumerate(chain[:-1]):
            well(client, pod, f"write {level}")
            refused(client, pod, f"write {level + 1}")
        assert "deep/1" in refused(client, "c0", f"write {DEPTH}")

        middle = ("c2", "c3", "c4")
        pids = [pid_of(client, pod) for pod in middle]
        tree = [one for pid in pids for one in (pid, *below(pid))]
        kill(client, *middle)
        kept = {"c0": None, "c1": "c0", "c5": "c1", "c6": "c5"}
        eventually(lambda: claimed(home) == kept, "the claims are settled", DEADLINE_S)
        assert [pid for pid in tree if is_alive(pid)] == []
        for pod in middle:
            assert "SIGKILL" in told_once(client, "c1", f"Pod {pod} has stopped")
        for level in (2, 3, 4):
            well(client, "c1", f"write {level}")
        for level in (5, 6):
            assert "c5" in refused(client, "c1", f"write {level}")
            assert "c1" in refused(client, "c0", f"write {level}")
        well(client, "c6", f"write {DEPTH}")
    left = [*home.processes()]
    home.podsup("down")
    assert [pid for pid in left if is_alive(pid)] == []
    assert (home.processes(), home.sockets()) == ({}, [])
    assert (claims(home), life_locks(home)) == ([], set())


# -- those who do not answer ---------------------------------------------------------------------


def test_lender_that_does_not_answer_does_not_lend_and_loses_nothing(
    family: Home, client: Client
) -> None:
    pid = pid_of(client, "deaf")
    asked = ("spawn", "late", "--parent", "deaf", "--write", "deaf/late", "--wait")
    before = claims(family), life_locks(family), row_names(client)
    with stopped(pid):
        begun = time.monotonic()
        error = family.json(*asked, ok=3)["error"]
        took_s = time.monotonic() - begun
        assert error["code"] == "unreachable"
        assert "deaf does not answer" in error["message"]
        assert 4.5 < took_s < 5 + DEADLINE_S / 2
        assert (row_names(client), life_locks(family)) == (before[2], before[1])
        assert [one["pod"] for one in claims(family)] == [one["pod"] for one in before[0]]
    well(client, "deaf", "write")
    well(client, "deaf", "write late")  # what was asked of it meanwhile is over
    assert row(client, "deaf").pid == pid

    family.podsup(*asked)
    assert claimed(family)["late"] == "deaf"
    assert "late" in refused(client, "deaf", "write late")
    well(client, "deaf", "write")


def test_spawn_ends_at_once_when_its_lender_dies_while_it_is_asked(
    family: Home, client: Client
) -> None:
    asked = ("spawn", "later", "--parent", "deaf", "--write", "deaf/later", "--wait")
    pid = pid_of(client, "deaf")
    before = life_locks(family)
    with stopped(pid):
        spawning = subprocess.Popen(
            [*family.command, *asked],
            cwd=family.work,
            env=family.env,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        eventually(lambda: claimed(family).get("later") == "deaf", "it is reserved", DEADLINE_S)
        os.kill(pid, signal.SIGKILL)
        _, said = spawning.communicate(timeout=DEADLINE_S)
    assert spawning.returncode == 3
    assert "deaf does not answer and so cannot lend" in said
    assert ("later" in claimed(family), "later" in row_names(client)) == (False, False)
    wait_reborn(client, "deaf", pid)
    assert len(life_locks(family)) == len(before)
    family.podsup(*asked)
    assert claimed(family)["later"] == "deaf"


def test_scope_of_a_stopped_holder_is_nobodys_until_all_of_it_is_dead(
    family: Home, client: Client
) -> None:
    family.podsup("spawn", "holder", "--parent", "held", "--write", "held/kid", "--wait")
    asked = ("spawn", "heir", "--parent", "held", "--write", "held/kid", "--wait")
    beat = family.work / "held/kid/beat"
    did(client, "holder", "beat")
    eventually(beat.exists, "the command that stays writes", DEADLINE_S)
    pid = pid_of(client, "holder")
    tree = [pid, *below(pid)]
    assert set(running(family, "held/kid/beat")) <= set(tree)

    with stopped(*tree):
        error = family.json(*asked, ok=6)["error"]
        assert error["code"] == "write_conflict"
        for evidence in ("holder", str(pid)):
            assert evidence in error["message"]
        assert "holder: alive" in family.podsup("reclaim", "holder").stdout
        assert "holder" in refused(client, "held", "write")
        assert claimed(family)["holder"] == "held"
        family.podsup("kill", "holder")
        assert [one for one in tree if is_alive(one)] == []
    assert "holder" not in claimed(family)

    beat.unlink()
    family.podsup(*asked)
    well(client, "heir", "write")
    assert "heir" in refused(client, "held", "write")
    assert running(family, "held/kid/beat") == []
    assert not beat.exists(), "it did not write again"


def test_lender_names_the_command_that_could_write_and_stop_jobs_ends_it(
    family: Home, client: Client
) -> None:
    did(client, "busy", "job")
    (job,) = eventually(lambda: running(family, "sleep 8911"), "the job runs", DEADLINE_S)
    asked = ("spawn", "busy-one", "--parent", "busy", "--write", "busy/one", "--wait")
    before = claimed(family), life_locks(family), row_names(client)

    error = family.json(*asked, ok=6)["error"]
    assert error["code"] == "conflict"
    assert "sleep 8911" in error["message"]
    assert "stop-jobs" in error["next"]
    assert [one["command"] for one in error["details"]["jobs"]] == ["sleep 8911"]
    told_no = refused(client, "busy", "spawn")
    assert "sleep 8911" in told_no
    assert is_alive(job)
    assert (claimed(family), life_locks(family), row_names(client)) == before

    family.podsup(*asked, "--stop-jobs")
    assert not is_alive(job)
    assert claimed(family)["busy-one"] == "busy"
    did(client, "busy", "job")
    eventually(lambda: running(family, "sleep 8911"), "another job runs", DEADLINE_S)
    spawned(client, "busy", "spawn hard", "busy-two")
    assert running(family, "sleep 8911") == []
    assert claimed(family)["busy-two"] == "busy"


# -- speaking ------------------------------------------------------------------------------------


def test_parent_gives_work_waits_reads_stops_and_restores(family: Home, client: Client) -> None:
    assert "is up and has its task" in well(client, "talk", "spawn")
    eventually(lambda: running(family, "talk/go"), "the child works", DEADLINE_S)
    assert "talk-kid is busy" in refused(client, "talk", "send")
    assert "waits for its next request" in well(client, "talk", "queue")
    waited = well(client, "talk", "wait a moment")
    assert "0 of 1 pods" in waited
    assert "busy: talk-kid" in waited
    read = well(client, "talk", "read")
    assert "talk-kid (child): running" in read

    opener = threading.Timer(0.5, (family.work / "talk/go").touch)
    opener.start()
    try:
        waited = well(client, "talk", "wait")
    finally:
        opener.join()
    assert "1 of 1 pods have ended their work" in waited
    assert "last run finished" in waited
    read = well(client, "talk", "read")
    assert "Message from pod talk: and that" in read, "what was queued came with the next request"
    assert "nothing new" in well(client, "talk", "read")

    assert "has begun" in well(client, "talk", "send")
    assert "1 of 1 pods" in well(client, "talk", "wait")
    assert "echo: more" in well(client, "talk", "read")
    assert str(family.work / "talk/kid") in well(client, "talk", "stop")
    assert (row(client, "talk-kid").status, "talk-kid" in claimed(family)) == ("stopped", False)
    read = well(client, "talk", "read")
    assert "talk-kid (child): stopped" in read
    assert "restorable" in well(client, "talk", "inspect")
    assert "up again" in well(client, "talk", "restore")
    assert "live already" in well(client, "talk", "restore")
    assert "nothing new" in well(client, "talk", "read")


def test_parent_reads_what_a_child_says_during_its_first_run(family: Home, client: Client) -> None:
    well(client, "talk", "spawn talker")
    eventually(lambda: running(family, "sleep 8912"), "the child works", DEADLINE_S)
    read = well(client, "talk", "read talker")
    assert "talker (child): running" in read
    assert "First of all." in read
    assert "nothing new" in well(client, "talk", "read talker")

    kill(client, "talker")
    eventually(lambda: "talker" not in claimed(family), "its claim is gone", DEADLINE_S)
    client.operate(c.Restart(pods=("talk",)))
    read = well(client, "talk", "read talker")
    assert "talker (child): failed" in read
    assert "First of all." in read
