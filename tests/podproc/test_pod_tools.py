"""The tools of a pod that runs pods: what each asks, and what its model reads of the answer."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import podproc.toolset
from podproc.session.log import SegmentLog
from podproc.tools.base import Registry, ToolResult
from podproc.tools.pod_output import MOST_BYTES, PodOutputs
from podproc.tools.pods import LOOK_S, SPAWN_S, STOP_S, SpawnPod, pod_tools
from podproc.toolset import build_toolset
from podproc.turn_terms import Ending
from protocol import control as c
from protocol import methods as m
from protocol.base import Accepted, Wire
from protocol.cage import CageLevel, CageSupport
from protocol.entries import AssistantItem, Message, SegmentStart
from protocol.entries import ToolResult as Result
from protocol.errors import (
    AlreadyRunning,
    Conflict,
    DuplicatePod,
    Forbidden,
    Internal,
    InvalidRequest,
    NotSubset,
    NotVisible,
    PodsupError,
    Timeout,
    UnknownPod,
    Unreachable,
    WriteConflict,
)
from protocol.manifest import Feature, PodTable
from protocol.scope import Permission, Scope, ScopeRule
from protocol.segments import Text
from protocol.session.store import SessionStore
from protocol.status import PodStatus, Relation, RunResult
from protocol.summaries import ScopeSummary, Usage
from tests.podproc.engines import Bench, call, end, text
from tests.podproc.pods import SEGMENT, SESSION, Home, alive
from tests.podproc.tooling import quiet_call, run

WS = "/work/ws"
NOWHERE = Path("/nonexistent")
LIMIT_S = 10.0
NINE = [
    *("InspectPod", "ListPods", "ReadPodOutput", "RestorePod", "SendToPeerPod", "SendToPod"),
    *("SpawnPod", "StopPod", "WaitForPods"),
]


@dataclass(frozen=True)
class Asked:
    """One request: to whom ("" is the supervisor), what, and how long it may take."""

    to: str
    what: c.Control | m.Method
    timeout_s: float


def detail(name: str, status: PodStatus = PodStatus.IDLE, **more: Any) -> m.PodDetail:
    """Return a child that can be reached, unless the test says otherwise."""
    fields = {"relation": Relation.CHILD, "reachable": True, "restorable": False, **more}
    return m.PodDetail(name=name, status=status, **fields)


class FakeKin:
    """A line with nobody behind it: `answers` in order, then `pods` for those who look.

    `on_wait` is what happens while somebody waits for news; it may say that nothing ever does.
    """

    def __init__(self, *answers: Wire | PodsupError, pods: tuple[m.PodDetail, ...] = ()) -> None:
        self.answers = deque(answers)
        self.pods = {pod.name: pod for pod in pods}
        self.asked: list[Asked] = []
        self.on_ask: Callable[[], object] = lambda: None
        self.on_wait: Callable[[], object] = lambda: None
        self.never_news = False
        self.waiting = 0
        self.waits = asyncio.Event()

    async def ask(self, control: c.Control, *, timeout_s: float) -> Any:
        """Answer for the supervisor."""
        return await self._answer(Asked("", control, timeout_s))

    async def send(self, pod: str, method: m.Method, *, timeout_s: float) -> Any:
        """Answer for a pod."""
        return await self._answer(Asked(pod, method, timeout_s))

    async def wait_for_news(self, timeout_s: float) -> None:
        """Have the test's news."""
        self.waiting += 1
        self.waits.set()
        try:
            if self.never_news:
                await asyncio.get_running_loop().create_future()
            await asyncio.sleep(0)
            self.on_wait()
        finally:
            self.waiting -= 1

    async def _answer(self, asked: Asked) -> Any:
        self.asked.append(asked)
        await asyncio.sleep(0)
        self.on_ask()
        if self.answers:
            answer = self.answers.popleft()
        else:
            assert isinstance(asked.what, c.SeenPod), f"nobody answers {asked}"
            pod = self.pods.get(asked.what.name)
            answer = m.Inspected(pod=pod) if pod else UnknownPod(f"no pod is named {asked.what}")
        if isinstance(answer, PodsupError):
            raise answer
        return answer


class Tools:
    """The nine tools over a fake line."""

    def __init__(self, kin: FakeKin, data: Path = NOWHERE) -> None:
        self.kin = kin
        self.defects: list[Exception] = []
        self._registry = Registry(on_defect=self.defects.append)
        for tool in pod_tools(kin, PodOutputs(data), cwd=WS):
            self._registry.register(tool, "pods")

    async def __call__(self, tool: str, /, **arguments: Any) -> ToolResult:
        async with asyncio.timeout(LIMIT_S):
            result = await self._registry.call(tool, arguments, quiet_call())
        assert self.defects == []
        return result


def calling(kin: FakeKin, tool: str, data: Path = NOWHERE, /, **arguments: Any) -> ToolResult:
    """Make one call and return its result."""

    async def main() -> ToolResult:
        return await Tools(kin, data)(tool, **arguments)

    return run(main())


MINIMAL: dict[str, dict[str, Any]] = {
    "SpawnPod": {"name": "kid", "task": "look", "scope": [{"target": "lib"}]},
    "SendToPod": {"name": "kid", "message": "go on"},
    "ReadPodOutput": {"name": "kid"},
    "WaitForPods": {"names": ["kid"]},
    "StopPod": {"name": "kid"},
    "ListPods": {},
    "InspectPod": {"name": "kid"},
    "RestorePod": {"name": "kid"},
    "SendToPeerPod": {"name": "kid", "message": "hello"},
}

# -- what is refused


REFUSALS: dict[PodsupError, str] = {
    NotVisible("not for you"): "denied: not_visible",
    UnknownPod("nobody"): "denied: unknown_pod",
    Forbidden("no"): "denied: forbidden",
    NotSubset("too much"): "denied: not_subset",
    WriteConflict("taken"): "execution_failed: write_conflict",
    Conflict("a command runs"): "execution_failed: conflict",
    DuplicatePod("there is one"): "execution_failed: duplicate_pod",
    InvalidRequest("no such profile"): "execution_failed: invalid_request",
    Unreachable("gone"): "execution_failed: unreachable",
    Timeout("silent"): "execution_failed: timeout",
    Internal("broken"): "execution_failed: internal",
}


@pytest.mark.parametrize("name", MINIMAL)
def test_a_refusal_is_a_result_with_its_code_and_its_words(name: str) -> None:
    for error, kind in REFUSALS.items():
        refused = calling(FakeKin(error), name, **MINIMAL[name])
        assert refused == ToolResult(f"{kind}: {error.message}", None, True)


@pytest.mark.parametrize("name", ["SpawnPod", "RestorePod"])
def test_a_pod_that_died_at_once_shows_the_last_lines_it_printed(name: str) -> None:
    error = Internal("pod kid ended with exit code 1", stderr_tail="Traceback\nKeyError: 'x'")
    refused = calling(FakeKin(error), name, **MINIMAL[name])
    assert refused.is_error
    assert refused.summary == "execution_failed: internal: pod kid ended with exit code 1"
    assert refused.content == (
        "internal: pod kid ended with exit code 1\n"
        "the last lines it printed:\nTraceback\nKeyError: 'x'"
    )


@pytest.mark.parametrize("name", sorted(set(MINIMAL) - {"ListPods"}))
def test_an_argument_that_is_missing_or_unknown_asks_nobody(name: str) -> None:
    kin = FakeKin()
    for arguments in ({}, {**MINIMAL[name], "force": True}):
        refused = calling(kin, name, **arguments)
        assert refused.summary.startswith("invalid_argument: ")
    assert kin.asked == []


# -- SpawnPod


def test_a_spawn_asks_for_a_table_with_all_that_the_call_names() -> None:
    kin = FakeKin(c.Started(operation="o1"))
    result = calling(
        kin,
        "SpawnPod",
        name="kid",
        task="write the tests",
        scope=[
            {"target": "lib"},
            {"target": "way/../../doc", "recursive": False},
            {"target": "/etc", "permission": "read"},
        ],
        delegation_scope=[{"target": "lib/sub", "permission": "write"}],
        profile="tester",
        instruction="be brief",
        cwd="lib/./sub",
        model="small",
        budget={"usd": 2.5, "turns": 20},
        stop_jobs=True,
    )
    table = {
        "name": "kid",
        "task": "write the tests",
        "scope": {
            "allow": [
                {"target": "/work/ws/lib", "permission": "write", "recursive": True},
                {"target": "/work/ws/way/../../doc", "permission": "write", "recursive": False},
                {"target": "/etc", "permission": "read", "recursive": True},
            ]
        },
        "delegation_scope": {
            "allow": [{"target": "/work/ws/lib/sub", "permission": "write", "recursive": True}]
        },
        "engine": {"instruction": "be brief"},
        "model": {"model_id": "small"},
        "cwd": "/work/ws/lib/./sub",
        "profile": "tester",
        "budget": {"usd": 2.5, "turns": 20},
    }
    assert kin.asked == [Asked("", c.Spawn(table=table, parent=None, stop_jobs=True), SPAWN_S)]
    assert not result.is_error
    assert result.summary == "pod kid is up and has its task; it writes lib, way/../../doc"


def test_a_spawn_names_nothing_that_the_call_does_not() -> None:
    kin = FakeKin(c.Started(operation="o1"))
    result = calling(
        kin, "SpawnPod", name="kid", task="look", scope=[{"target": ".", "permission": "read"}]
    )
    allow = [{"target": "/work/ws/.", "permission": "read", "recursive": True}]
    table = {"name": "kid", "task": "look", "scope": {"allow": allow}}
    assert kin.asked == [Asked("", c.Spawn(table=table, stop_jobs=False), SPAWN_S)]
    assert result.summary == "pod kid is up and has its task; it writes nothing"


def test_what_a_spawn_asks_for_is_a_pod_table_as_the_supervisor_reads_it() -> None:
    kin = FakeKin(c.Started(operation="o1"))
    rules = [{"target": "lib"}]
    more = {"profile": "p", "instruction": "i", "cwd": ".", "model": "m", "stop_jobs": True}
    arguments = {**MINIMAL["SpawnPod"], **more, "delegation_scope": rules, "budget": {"usd": 0.5}}
    calling(kin, "SpawnPod", **arguments)
    [asked] = kin.asked
    assert isinstance(asked.what, c.Spawn)
    table = PodTable.from_wire(asked.what.table)
    assert (table.name, table.task, table.engine.instruction) == ("kid", "look", "i")
    assert table.budget.usd == 0.5


# -- SendToPod


def test_a_message_to_an_idle_pod_is_a_run() -> None:
    kin = FakeKin(Accepted())
    result = calling(kin, "SendToPod", name="kid", message="go on", queue=True)
    assert kin.asked == [Asked("kid", m.Run(input=(Text(content="go on"),)), LOOK_S)]
    assert result == ToolResult("pod kid has begun")


def test_a_busy_pod_refuses_a_message_and_nothing_is_left_with_it() -> None:
    kin = FakeKin(AlreadyRunning("a run is in progress", trigger="user_send"))
    refused = calling(kin, "SendToPod", name="kid", message="go on")
    assert [type(asked.what) for asked in kin.asked] == [m.Run]
    assert refused.is_error
    assert refused.summary == (
        "execution_failed: pod kid is busy: a run is in progress. WaitForPods waits for it; "
        "queue=true leaves the message for its next request"
    )


def test_a_message_that_may_queue_is_left_with_a_busy_pod() -> None:
    kin = FakeKin(AlreadyRunning("a run is in progress"), Accepted())
    result = calling(kin, "SendToPod", name="kid", message="go on", queue=True)
    assert [(asked.to, asked.what) for asked in kin.asked] == [
        ("kid", m.Run(input=(Text(content="go on"),))),
        ("kid", m.Notify(message="go on", auto_run=True, queued=True)),
    ]
    assert result == ToolResult("pod kid is busy; the message waits for its next request")


@pytest.mark.parametrize("error", [Unreachable("stopped"), Forbidden("not below you")])
def test_a_message_is_queued_for_no_other_reason_than_that_the_pod_is_busy(
    error: PodsupError,
) -> None:
    kin = FakeKin(error)
    assert calling(kin, "SendToPod", name="kid", message="go on", queue=True).is_error
    assert len(kin.asked) == 1


def test_a_message_that_could_not_be_queued_is_an_error() -> None:
    kin = FakeKin(AlreadyRunning("a run is in progress"), Unreachable("it is gone by now"))
    refused = calling(kin, "SendToPod", name="kid", message="go on", queue=True)
    assert refused.summary == "execution_failed: unreachable: it is gone by now"


# -- ReadPodOutput


def say(data: Path, *texts: str) -> None:
    """Write a session in which a pod has said this."""
    path = SessionStore(data).path(SESSION, SEGMENT)
    log = SegmentLog.create(path, SegmentStart(ts=1, session_id=SESSION))
    for number, said in enumerate(texts):
        message = Message(role="assistant", content=said)
        log.append(AssistantItem(ts=number, item=message))
    log.close()


def test_what_a_child_has_said_is_shown_with_its_true_status(tmp_path: Path) -> None:
    say(tmp_path, "one", "two")
    kid = detail("kid", PodStatus.RUNNING, session_id=SESSION)
    kin = FakeKin(pods=(kid,))

    async def main() -> None:
        tools = Tools(kin, tmp_path)
        assert await tools("ReadPodOutput", name="kid") == ToolResult(
            "kid (child): running", "one\n\ntwo"
        )
        kin.pods["kid"] = detail("kid", session_id=SESSION, last_result=RunResult.FINISHED)
        assert await tools("ReadPodOutput", name="kid") == ToolResult(
            "kid (child): idle; last run finished; nothing new"
        )

    run(main())
    assert kin.asked[0] == Asked("", c.SeenPod(name="kid"), LOOK_S)


def test_more_than_one_reading_gives_is_said_to_be_there(tmp_path: Path) -> None:
    say(tmp_path, "x" * MOST_BYTES, "the rest")
    kin = FakeKin(pods=(detail("kid", session_id=SESSION, relation=Relation.DESCENDANT),))

    async def main() -> None:
        tools = Tools(kin, tmp_path)
        first = await tools("ReadPodOutput", name="kid")
        assert first.summary == "kid (descendant): idle; there is more: read again"
        assert first.content == "x" * MOST_BYTES
        assert (await tools("ReadPodOutput", name="kid")).content == "the rest"

    run(main())


def test_a_pod_that_has_no_session_yet_has_said_nothing() -> None:
    kin = FakeKin(pods=(detail("kid", PodStatus.STARTING),))
    assert calling(kin, "ReadPodOutput", name="kid") == ToolResult(
        "kid (child): starting; it has said nothing yet"
    )


def test_a_stopped_child_is_read_from_what_it_has_left(tmp_path: Path) -> None:
    say(tmp_path, "my last words")
    kid = detail(
        "kid", PodStatus.STOPPED, session_id=SESSION, reachable=False, restorable=True, reason="ok"
    )
    result = calling(FakeKin(pods=(kid,)), "ReadPodOutput", tmp_path, name="kid")
    assert result == ToolResult("kid (child): stopped; ok; restorable", "my last words")


@pytest.mark.parametrize("relation", [Relation.PEER, Relation.SELF])
def test_only_what_is_below_a_pod_is_read(tmp_path: Path, relation: Relation) -> None:
    say(tmp_path, "secret")
    kin = FakeKin(pods=(detail("kid", session_id=SESSION, relation=relation),))
    refused = calling(kin, "ReadPodOutput", tmp_path, name="kid")
    assert refused == ToolResult("denied: pod kid is not below you", None, True)


def test_a_session_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    SessionStore(tmp_path).path(SESSION, SEGMENT).mkdir(parents=True)
    kin = FakeKin(pods=(detail("kid", session_id=SESSION),))
    refused = calling(kin, "ReadPodOutput", tmp_path, name="kid")
    assert refused.is_error
    assert refused.summary.startswith("execution_failed: its session cannot be read: ")


# -- WaitForPods


def test_a_wait_for_all_ends_with_the_last_and_shows_each() -> None:
    kin = FakeKin(pods=(detail("one", PodStatus.RUNNING), detail("two", PodStatus.RUNNING)))
    news = iter(
        [
            detail("one", last_result=RunResult.FINISHED),
            detail("two", PodStatus.BACKOFF),
            detail("two", PodStatus.FAILED, reachable=False, restorable=True, reason="exit code 1"),
        ]
    )

    def on_wait() -> None:
        pod = next(news)
        kin.pods[pod.name] = pod

    kin.on_wait = on_wait
    result = calling(kin, "WaitForPods", names=["two", "one"])
    assert result == ToolResult(
        "2 of 2 pods have ended their work",
        "two (child): failed; exit code 1; restorable\none (child): idle; last run finished",
    )
    assert next(news, None) is None


def test_a_wait_for_any_ends_with_the_first_and_shows_the_others_too() -> None:
    kin = FakeKin(pods=(detail("one", PodStatus.RUNNING), detail("two", PodStatus.RUNNING)))

    def on_wait() -> None:
        kin.pods["two"] = detail("two", last_result=RunResult.ERRORED)

    kin.on_wait = on_wait
    result = calling(kin, "WaitForPods", names=["one", "two"], mode="any")
    assert result == ToolResult(
        "1 of 2 pods have ended their work",
        "one (child): running\ntwo (child): idle; last run errored",
    )


@pytest.mark.parametrize("status", PodStatus)
def test_a_wait_lasts_as_long_as_a_pod_may_still_be_working(status: PodStatus) -> None:
    kin = FakeKin(pods=(detail("kid", status),))
    waits: list[PodStatus] = []

    def on_wait() -> None:
        waits.append(kin.pods["kid"].status)
        kin.pods["kid"] = detail("kid")

    kin.on_wait = on_wait
    assert not calling(kin, "WaitForPods", names=["kid"]).is_error
    at_work = {"running", "starting", "stopping", "backoff", "unreachable"}
    assert waits == ([status] if status in at_work else [])


def test_a_wait_that_takes_too_long_is_said_and_is_no_failure() -> None:
    kin = FakeKin(
        pods=(
            detail("one", PodStatus.RUNNING),
            detail("two"),
            detail("three", PodStatus.UNREACHABLE),
        )
    )
    kin.never_news = True
    names = ["one", "two", "three"]
    assert calling(kin, "WaitForPods", names=names, timeout_s=0.05) == ToolResult(
        "after 0.05 s 1 of 3 pods have ended their work; busy: one, three",
        "one (child): running\ntwo (child): idle\nthree (child): unreachable",
    )
    assert kin.waiting == 0


def test_a_wait_can_be_cancelled() -> None:
    kin = FakeKin(pods=(detail("kid", PodStatus.RUNNING),))
    kin.never_news = True

    async def main() -> None:
        waiting = asyncio.create_task(Tools(kin)("WaitForPods", names=["kid"]))
        async with asyncio.timeout(LIMIT_S):
            await kin.waits.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert kin.waiting == 0

    run(main())


def test_a_pod_that_nobody_knows_is_not_waited_for() -> None:
    kin = FakeKin(pods=(detail("kid", PodStatus.RUNNING),))
    kin.never_news = True
    refused = calling(kin, "WaitForPods", names=["kid", "kidd"])
    assert refused.is_error
    assert refused.summary.startswith("denied: unknown_pod: ")


def test_a_pod_that_is_named_twice_is_one() -> None:
    kin = FakeKin(pods=(detail("kid"),))
    result = calling(kin, "WaitForPods", names=["kid", "kid"])
    assert result == ToolResult("1 of 1 pods have ended their work", "kid (child): idle")
    assert len(kin.asked) == 1


# -- StopPod, RestorePod


def stopped(**result: Any) -> c.Started:
    return c.Started(operation="o1", result=result or None)


def test_a_stop_tells_what_may_be_written_again() -> None:
    kin = FakeKin(stopped(reclaimed={"kid": ["/ws/lib", "/ws/doc"], "other": ["/x"]}))
    result = calling(kin, "StopPod", name="kid")
    assert kin.asked == [Asked("", c.Stop(pods=("kid",)), STOP_S)]
    assert result == ToolResult("pod kid is stopped; free again: /ws/lib, /ws/doc")


def test_a_stop_tells_what_those_below_keep() -> None:
    kept = {"kid": {"/ws/lib/sub": "grandkid", "/ws/lib/b": "other"}}
    kin = FakeKin(stopped(reclaimed={"kid": ["/ws/lib"]}, kept=kept))
    assert calling(kin, "StopPod", name="kid") == ToolResult(
        "pod kid is stopped; free again: /ws/lib, "
        "but not /ws/lib/sub (pod grandkid), /ws/lib/b (pod other)"
    )


@pytest.mark.parametrize("done", [stopped(), stopped(reclaimed={}, kept={})])
def test_a_stop_of_a_pod_that_only_read_gives_nothing_back(done: c.Started) -> None:
    assert calling(FakeKin(done), "StopPod", name="kid") == ToolResult(
        "pod kid is stopped; nothing was lent to it"
    )


@pytest.mark.parametrize(
    ("done", "told"),
    [
        (stopped(outcome="restored"), "pod kid is up again"),
        (stopped(outcome="already_live"), "pod kid is live already"),
        (stopped(), "pod kid is up again"),
    ],
)
def test_a_restore_tells_whether_the_pod_had_to_be_started(done: c.Started, told: str) -> None:
    kin = FakeKin(done)
    assert calling(kin, "RestorePod", name="kid") == ToolResult(told)
    assert kin.asked == [Asked("", c.Restore(pod="kid"), SPAWN_S)]


# -- ListPods, InspectPod


def test_the_pods_that_are_seen_are_a_line_each() -> None:
    rows = (
        m.PodRow(
            name="boss",
            relation=Relation.SELF,
            status=PodStatus.RUNNING,
            reachable=True,
            restorable=False,
            scope_summary=ScopeSummary(read=("/etc",), write=("/ws",)),
        ),
        m.PodRow(
            name="kid",
            relation=Relation.CHILD,
            status=PodStatus.FAILED,
            reachable=False,
            restorable=True,
            reason="exit code 1",
        ),
        m.PodRow(
            name="old",
            relation=Relation.PEER,
            status=PodStatus.STOPPED,
            reachable=False,
            restorable=False,
            reason="its session is gone",
        ),
    )
    kin = FakeKin(m.PodRows(pods=rows))
    assert calling(kin, "ListPods") == ToolResult(
        "3 pods",
        "boss (self): running; writes /ws\n"
        "kid (child): failed; exit code 1; restorable\n"
        "old (peer): stopped; its session is gone; not restorable",
    )
    assert kin.asked == [Asked("", c.SeenPods(), LOOK_S)]


def test_a_pod_is_looked_at_closely() -> None:
    kid = detail(
        "kid",
        parent="boss",
        children=("a", "b"),
        peers=("c",),
        incarnation=3,
        last_result=RunResult.ERRORED,
        last_error="the provider failed",
        usage=Usage(input_tokens=1200, output_tokens=34),
        context_tokens=900,
        scope_summary=ScopeSummary(read=("/etc", "/usr"), write=("/ws/lib",)),
    )
    kin = FakeKin(pods=(kid,))
    assert calling(kin, "InspectPod", name="kid") == ToolResult(
        "kid (child): idle; last run errored; writes /ws/lib",
        "parent: boss\nchildren: a, b\npeers: c\nincarnation: 3\n"
        "last error: the provider failed\nused: 1200 tokens in, 34 out\n"
        "context: 900 tokens\nreads: /etc, /usr",
    )
    assert kin.asked == [Asked("", c.SeenPod(name="kid"), LOOK_S)]


def test_what_is_not_known_of_a_pod_has_no_line() -> None:
    content = calling(FakeKin(pods=(detail("kid"),)), "InspectPod", name="kid").content
    assert content == "used: 0 tokens in, 0 out\ncontext: 0 tokens"


# -- SendToPeerPod


def test_a_message_to_a_peer_is_a_notification_that_makes_no_run_of_its_parent() -> None:
    kin = FakeKin(Accepted())
    result = calling(kin, "SendToPeerPod", name="peer", message="hello")
    left = m.Notify(message="hello", auto_run=True, queued=False)
    assert kin.asked == [Asked("peer", left, LOOK_S)]
    assert result == ToolResult("pod peer has the message")


# -- who has them


@pytest.mark.parametrize("has_them", [False, True])
def test_all_nine_are_there_with_the_feature_and_none_without(
    tmp_path: Path, has_them: bool
) -> None:
    birth = Home(tmp_path).birth(1)
    manifest = birth.manifest.model_copy(update={"feature": Feature(pods=has_them)})

    async def main() -> list[str]:
        toolset = build_toolset(
            birth.model_copy(update={"manifest": manifest}),
            life_lock=None,
            support=CageSupport(),
            kin=FakeKin(),
            on_denied=lambda path, layer: None,
            on_defect=lambda error: None,
            keep_tasks=lambda payload: None,
            kept_tasks=lambda: None,
        )
        try:
            return toolset.registry.names()
        finally:
            await toolset.close()

    core = ["Bash", "Edit", "Glob", "Grep", "Read", "Write"]
    assert run(main()) == sorted([*core, *(NINE if has_them else [])])


def test_what_podsup_is_made_of_is_read_only_to_its_pods_whatever_their_scope(
    tmp_path: Path,
) -> None:
    """The next keeper runs it, outside of any cage."""
    home = Home(tmp_path)
    project = Path(podproc.toolset.__file__).parents[1]
    everything = ScopeRule(target=str(project), permission=Permission.WRITE)
    manifest = home.birth(1).manifest.model_copy(update={"scope": Scope(allow=(everything,))})

    async def main() -> None:
        toolset = build_toolset(
            home.birth(1).model_copy(update={"manifest": manifest}),
            life_lock=None,
            support=CageSupport(CageLevel.LANDLOCK),
            kin=FakeKin(),
            on_denied=lambda path, layer: None,
            on_defect=lambda error: None,
            keep_tasks=lambda payload: None,
            kept_tasks=lambda: None,
        )
        try:
            for name in ("podproc/tools/keeper.py", "protocol/new.py", "supervisor/daemon.py"):
                assert toolset.view.permission(str(project / name)) is Permission.READ, name
            assert toolset.view.permission(str(project / "notes")) is Permission.WRITE
            assert toolset.cage is not None
            grants = toolset.cage.order().grants
            assert (str(project), "write") not in grants
            assert (str(project / "docs"), "write") in grants
            assert (str(project / "podproc"), "write") not in grants
        finally:
            await toolset.close()

    run(main())


def test_a_pod_without_the_feature_shows_none_of_them(tmp_path: Path) -> None:
    async def main() -> tuple[str, ...]:
        async with alive(Home(tmp_path)) as life:
            return life.pod.snapshot().greeting.tools

    assert set(run(main())).isdisjoint(NINE)


# -- SpawnPod comes first


@pytest.mark.parametrize("refusal", [None, Conflict("a command of yours runs")])
def test_a_spawn_has_ended_before_the_other_calls_of_its_batch_begin(
    refusal: PodsupError | None,
) -> None:
    spawning = '{"name":"kid","task":"look","scope":[{"target":"lib"}]}'

    async def main() -> None:
        kin = FakeKin(refusal or c.Started(operation="o1"))
        bench = Bench(
            [
                *call("c1", arguments='{"text":"one"}'),
                *call("c2", arguments='{"text":"two"}'),
                *call("c3", "SpawnPod", spawning),
                *end("tool_use"),
            ],
            [*text("done"), *end()],
            tools=(SpawnPod(kin, WS),),
        )
        ran_before: list[str] = []
        kin.on_ask = lambda: ran_before.extend(bench.echo.ran)
        over = await bench.run()
        assert over.ending is Ending.FINISHED
        assert ran_before == []
        assert sorted(bench.echo.ran) == ["one", "two"]
        told = bench.sink.told("starts", "result")
        assert told[:2] == ["starts c3", "result c3"]
        assert sorted(told[2:]) == ["result c1", "result c2", "starts c1", "starts c2"]
        shown = [item for item in bench.model.requests[1].items if isinstance(item, Result)]
        assert [(item.call_id, item.is_error) for item in shown] == [
            *(("c1", False), ("c2", False), ("c3", refusal is not None)),
        ]

    run(main())


def test_spawns_of_one_batch_run_beside_each_other(tmp_path: Path) -> None:
    spawning = '{{"name":"{}","task":"look","scope":[{{"target":"{}"}}]}}'

    async def main() -> None:
        kin = FakeKin(c.Started(operation="o1"), c.Started(operation="o2"))
        most_at_once: list[int] = []
        kin.on_ask = lambda: most_at_once.append(len(kin.asked))
        bench = Bench(
            [
                *call("c1", "SpawnPod", spawning.format("one", "lib")),
                *call("c2"),
                *call("c3", "SpawnPod", spawning.format("two", "doc")),
                *end("tool_use"),
            ],
            [*text("done"), *end()],
            tools=(SpawnPod(kin, os.fspath(tmp_path)),),
        )
        await bench.run()
        assert most_at_once == [2, 2]
        assert bench.sink.told("starts")[-1] == "starts c2"

    run(main())
