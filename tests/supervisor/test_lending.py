"""The questions of a lend: who is asked what, and what an answer, a refusal or silence means."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pytest

from protocol import control as c
from protocol.errors import Conflict, Internal, PodsupError, Timeout, Unreachable
from protocol.methods import ScopeLend
from protocol.scope import LentRule, Permission
from supervisor.background import Background
from supervisor.core.rows import Lends
from supervisor.lending import SILENT_S, Lending
from supervisor.scope_table import ScopeTable
from tests.supervisor.fleets import Driven

T = TypeVar("T")


def lent(pod: str, target: str = "/w/src") -> LentRule:
    return LentRule(target=target, permission=Permission.WRITE, pod=pod)


class Disk:
    """Tasks of the running loop; work on the disk is done at once."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()

    async def on_disk(self, work: Callable[..., T], *args: Any) -> T:
        return work(*args)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        return task


class Table:
    """What each pod has lent by now."""

    def __init__(self) -> None:
        self.rows: dict[str, Lends] = {}

    def lends(self, pods: Iterable[str]) -> dict[str, Lends]:
        return {pod: self.rows.get(pod, Lends()) for pod in pods}


@dataclass(frozen=True)
class Question:
    """One `scope_lend` that was sent."""

    pod: str
    id: str
    method: ScopeLend
    patience_s: float


class Bank:
    """A fleet of a boss, its vice and a clerk, all ready; they answer when they are told to."""

    def __init__(self) -> None:
        self.driven = Driven().add("boss", "vice", "clerk").up("boss", "vice", "clerk")
        self.table = Table()
        self.disk = Disk()
        self.sent: list[Question] = []
        self.at_once: PodsupError | None = None
        self.lending = Lending(
            self.driven.fleet,
            cast(ScopeTable, self.table),
            cast(Background, self.disk),
            self.ask,
        )

    def ask(self, pod: str, request_id: str, method: ScopeLend, patience_s: float) -> None:
        self.sent.append(Question(pod, request_id, method, patience_s))
        if self.at_once is not None:
            self.lending.on_answered(pod, request_id, self.at_once)

    def has_lent(self, pod: str, number: int, *rules: LentRule) -> None:
        self.table.rows[pod] = Lends(rules, number)

    def lend(
        self, *lenders: str, child: str = "kid", stop_jobs: bool = False
    ) -> asyncio.Task[PodsupError | None]:
        whose = frozenset(lenders[:1] if stop_jobs else ())
        return asyncio.create_task(self.lending.lend(child, lenders, stop_jobs_of=whose))

    def answer(self, question: Question, error: PodsupError | None = None) -> bool:
        return self.lending.on_answered(question.pod, question.id, error)

    def asked(self) -> list[str]:
        """Return who was asked, in order, since the last time."""
        names = [question.pod for question in self.sent]
        self.sent.clear()
        return names

    def stop(self, pod: str) -> None:
        self.driven.ask(c.Stop(pods=(pod,)), f"stop {pod}")
        self.driven.gone(pod)

    def restore(self, pod: str) -> None:
        self.driven.ask(c.Restore(pod=pod), f"restore {pod} {self.driven.now}")
        self.driven.join(pod)


async def settle() -> None:
    """Let every task go as far as it can without an answer."""
    for _ in range(10):
        await asyncio.sleep(0)


def in_a_loop(story: Callable[[Bank], Awaitable[None]]) -> Callable[[], None]:
    """Make a test of a story that is told in a loop of its own."""

    async def tell() -> None:
        async with asyncio.timeout(10):
            await story(Bank())

    def test() -> None:
        asyncio.run(tell())

    test.__doc__ = story.__doc__
    return test


# -- asking


@in_a_loop
async def test_each_lender_is_asked_at_once_and_only_the_spawners_commands_are_ended(
    bank: Bank,
) -> None:
    bank.has_lent("boss", 7, lent("kid"), lent("other", "/w/other"))
    bank.has_lent("vice", 3, lent("kid"))
    lending = bank.lend("vice", "boss", stop_jobs=True)
    await settle()
    method = ScopeLend(lent=(lent("kid"),), number=3, stop_jobs=True)
    both = (lent("kid"), lent("other", "/w/other"))
    assert bank.sent == [
        Question("vice", "lend-1-3", method, SILENT_S),
        Question("boss", "lend-1-7", ScopeLend(lent=both, number=7), SILENT_S),
    ]
    assert SILENT_S == 5.0
    lending.cancel()


@in_a_loop
async def test_lend_is_agreed_when_every_lender_has_agreed_and_not_before(bank: Bank) -> None:
    """Pitfall 34: until the last has said that it writes there no more, nobody else may."""
    lending = bank.lend("vice", "boss")
    await settle()
    vice, boss = bank.sent
    assert bank.answer(boss)
    await settle()
    assert not lending.done()
    assert bank.answer(vice)
    assert await lending is None


@in_a_loop
async def test_lend_that_nobody_could_write_in_until_now_asks_nobody(bank: Bank) -> None:
    assert await bank.lend() is None
    assert bank.sent == []


# -- refused


@in_a_loop
async def test_refusal_names_the_lender_and_keeps_its_code_evidence_and_advice(
    bank: Bank,
) -> None:
    lending = bank.lend("boss")
    await settle()
    jobs = [{"pid": 7, "command": "make", "age_s": 3.0}]
    bank.answer(bank.sent[0], Conflict("make runs", next_step="wait for it", jobs=jobs))
    refusal = await lending
    assert isinstance(refusal, Conflict)
    assert refusal.message == "boss cannot lend 'kid' its scope: make runs"
    assert refusal.next_step == "wait for it"
    assert refusal.details == {"lender": "boss", "jobs": jobs}


@in_a_loop
async def test_lender_that_is_silent_cannot_lend(bank: Bank) -> None:
    lending = bank.lend("boss")
    await settle()
    bank.answer(bank.sent[0], Timeout("pod boss did not answer in time"))
    refusal = await lending
    assert isinstance(refusal, Unreachable)
    assert refusal.message.startswith("boss does not answer and so cannot lend 'kid' its scope")
    assert refusal.next_step == "podsup status boss"
    assert refusal.details == {"lender": "boss"}


@in_a_loop
async def test_lender_that_cannot_be_asked_at_all_cannot_lend(bank: Bank) -> None:
    """The answer comes before the question is over."""
    bank.at_once = Unreachable("pod boss has no connection")
    assert isinstance(await bank.lend("boss"), Unreachable)


@in_a_loop
async def test_one_refusal_is_enough_and_the_nearest_is_told(bank: Bank) -> None:
    lending = bank.lend("clerk", "vice", "boss")
    await settle()
    clerk, vice, boss = bank.sent
    bank.answer(boss, Timeout("late"))
    bank.answer(clerk)
    bank.answer(vice, Conflict("make runs"))
    refusal = await lending
    assert isinstance(refusal, Conflict)
    assert refusal.details["lender"] == "vice"


@in_a_loop
async def test_refused_lend_may_be_asked_again_and_agreed(bank: Bank) -> None:
    for error in (Conflict("make runs"), None):
        lending = bank.lend("boss")
        await settle()
        assert bank.answer(bank.sent.pop(), error)
        assert (await lending is None) == (error is None)


# -- one number, one question


@in_a_loop
async def test_two_lends_of_one_number_share_one_question_and_its_answer(bank: Bank) -> None:
    bank.has_lent("boss", 4, lent("one"), lent("two"))
    for error in (None, Conflict("make runs")):
        first, second = bank.lend("boss", child="one"), bank.lend("boss", child="two")
        await settle()
        (question,) = bank.sent
        bank.answer(question, error)
        outcomes = await asyncio.gather(first, second)
        assert [isinstance(one, Conflict) for one in outcomes] == [error is not None] * 2
        bank.sent.clear()


@in_a_loop
async def test_shared_question_outlives_one_that_waits_for_it_no_more(bank: Bank) -> None:
    first, second = bank.lend("boss", child="one"), bank.lend("boss", child="two")
    await settle()
    second.cancel()
    await settle()
    bank.answer(bank.sent[0])
    assert await first is None
    assert second.cancelled()


@in_a_loop
async def test_lends_of_two_numbers_are_two_questions(bank: Bank) -> None:
    bank.has_lent("boss", 1, lent("one"))
    first = bank.lend("boss", child="one")
    await settle()
    bank.has_lent("boss", 2, lent("one"), lent("two"))
    second = bank.lend("boss", child="two")
    await settle()
    earlier, later = bank.sent
    assert (earlier.id, later.id) == ("lend-1-1", "lend-1-2")
    bank.answer(later, Conflict("make runs"))
    await settle()
    assert second.done()
    assert not first.done()
    bank.answer(earlier)
    assert await first is None


@in_a_loop
async def test_two_pods_of_one_number_are_asked_both(bank: Bank) -> None:
    lending = bank.lend("boss", "vice")
    await settle()
    assert len({question.id for question in bank.sent}) == 1
    boss, vice = bank.sent
    bank.answer(boss)
    await settle()
    assert not lending.done()
    bank.answer(vice)
    assert await lending is None


# -- answers that mean nothing


@in_a_loop
async def test_stale_answer_is_ignored(bank: Bank) -> None:
    lending = bank.lend("boss")
    await settle()
    (question,) = bank.sent
    for pod, id in (("boss", "lend-1-99"), ("vice", question.id), ("boss", "lend-2-0")):
        assert not bank.lending.on_answered(pod, id, None)
    await settle()
    assert not lending.done()
    assert bank.answer(question)
    assert await lending is None
    assert not bank.answer(question, Conflict("too late")), "it was answered"


@in_a_loop
async def test_answer_to_another_question_of_the_supervisors_is_not_taken(bank: Bank) -> None:
    assert not bank.lending.on_answered("boss", "task", None)


@in_a_loop
async def test_answer_to_a_lend_that_was_given_up_harms_nobody(bank: Bank) -> None:
    lending = bank.lend("boss")
    await settle()
    lending.cancel()
    await settle()
    assert bank.answer(bank.sent[0])


# -- giving back


@in_a_loop
async def test_giving_back_is_sent_before_anything_that_is_sent_after_it(bank: Bank) -> None:
    bank.has_lent("boss", 8, lent("other"))
    await bank.lending.give_back(["boss", "vice"])
    method = ScopeLend(lent=(lent("other"),), number=8)
    assert bank.sent == [
        Question("boss", "lend-1-8", method, SILENT_S),
        Question("vice", "lend-1-0", ScopeLend(lent=(), number=0), SILENT_S),
    ]
    for question in bank.sent:
        bank.answer(question)
    await settle()
    bank.lending.retell()
    await settle()
    assert bank.asked() == ["boss", "vice"], "who has taken it is not told again"


@in_a_loop
async def test_pod_that_is_away_is_told_when_it_is_back_and_only_once(bank: Bank) -> None:
    """Pitfall 24: a parent that was away when its child ended does not stay read-only."""
    bank.stop("boss")
    await bank.lending.give_back(["boss", "vice"])
    assert bank.asked() == ["vice"]
    bank.lending.retell()
    await settle()
    assert bank.asked() == [], "it is still away"

    bank.restore("boss")
    bank.has_lent("boss", 9, lent("later"))
    bank.lending.retell()
    await settle()
    (question,) = bank.sent
    assert (question.pod, question.method.number) == ("boss", 9), "what is true by now"
    bank.answer(question)
    await settle()
    bank.asked()
    bank.lending.retell()
    await settle()
    assert bank.asked() == []


@pytest.mark.parametrize(
    "error", [Timeout("late"), Conflict("make runs"), Unreachable("no connection"), Internal("?")]
)
def test_giving_back_that_was_not_taken_is_told_again(error: PodsupError) -> None:
    async def story(bank: Bank) -> None:
        await bank.lending.give_back(["boss"])
        for _ in range(3):
            await settle()
            (question,) = bank.sent
            bank.sent.clear()
            bank.answer(question, error)
            await settle()
            bank.lending.retell()
        await settle()
        bank.answer(bank.sent.pop())
        await settle()
        bank.lending.retell()
        await settle()
        assert bank.sent == []

    in_a_loop(story)()


@in_a_loop
async def test_giving_back_that_waits_for_its_answer_is_not_told_twice(bank: Bank) -> None:
    await bank.lending.give_back(["boss"])
    for _ in range(3):
        bank.lending.retell()
        await settle()
    assert bank.asked() == ["boss"]


@in_a_loop
async def test_pod_that_is_about_to_be_spoken_to_is_told_first_what_it_may_write(
    bank: Bank,
) -> None:
    """Who reads that its child is gone, and writes there at once, must not be refused."""
    bank.stop("boss")
    await bank.lending.give_back(["boss", "vice"])
    bank.restore("boss")
    assert bank.asked() == ["vice"]
    await bank.lending.settle("vice")
    assert bank.asked() == [], "it knows"
    await bank.lending.settle("boss")
    assert bank.asked() == ["boss"]


@in_a_loop
async def test_pod_that_the_fleet_has_no_more_is_told_nothing(bank: Bank) -> None:
    await bank.lending.give_back(["nobody"])
    bank.stop("boss")
    await bank.lending.give_back(["boss"])
    bank.driven.ask(c.Delete(pods=("boss",)), "delete")
    bank.lending.retell()
    bank.driven.add("boss")
    bank.restore("boss")
    bank.lending.retell()
    await settle()
    assert bank.asked() == [], "this is another boss"


@in_a_loop
async def test_giving_back_to_nobody_that_is_there_asks_the_table_nothing(bank: Bank) -> None:
    for pod in ("boss", "vice"):
        bank.stop(pod)
    await bank.lending.give_back(["boss", "vice"])
    assert bank.sent == []
    assert bank.disk.tasks == set()
