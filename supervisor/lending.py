"""Asking lenders, and telling them what is theirs again: the three steps of a lend.

    1  the rows say it    a child's row is reserved below its parent's
    2  the lender agrees  `scope_lend`, all that it has lent from now on: it writes there no more
    3  the child is made  only then

What is sent is read from the table each time and numbered there, so a message that comes late says
nothing: the pod keeps the newest. A lender that refuses, or is silent for five seconds, does not
lend; the row goes, and the others are told so. Who cannot be told that something is its own again
is told when it can be: until then it writes less than it may, never more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Set

from protocol.errors import Conflict, PodsupError, Unreachable
from protocol.methods import ScopeLend
from supervisor.background import Background, say
from supervisor.core.fleet import Fleet
from supervisor.core.rows import Lends
from supervisor.scope_table import ScopeTable

SILENT_S = 5.0

Ask = Callable[[str, str, ScopeLend, float], None]
"""Send (pod, request id, method, patience in seconds); answered through `on_answered`."""


class Lending:
    """The lends of one fleet. `ask` sends; its answers come to `on_answered`."""

    def __init__(self, fleet: Fleet, table: ScopeTable, background: Background, ask: Ask) -> None:
        self._fleet = fleet
        self._table = table
        self._background = background
        self._ask = ask
        self._asked: dict[tuple[str, str], asyncio.Future[PodsupError | None]] = {}
        self._untold: set[str] = set()

    async def lend(
        self, child: str, lenders: Iterable[str], *, stop_jobs_of: Set[str | None]
    ) -> PodsupError | None:
        """Ask all at once whether the child may have what was reserved; return a refusal.

        Only commands of `stop_jobs_of` are ended: nobody ends those of a pod above the spawner.
        """
        names = list(lenders)
        lends = await self._background.on_disk(self._table.lends, names)
        answers = await asyncio.gather(
            *(self._tell(one, lends[one], stop_jobs=one in stop_jobs_of) for one in names)
        )
        for name, refusal in zip(names, answers, strict=True):
            if refusal is not None:
                return self._in_words(name, child, refusal)
        return None

    async def give_back(self, lenders: Iterable[str]) -> None:
        """Send each what it has lent now; who does not take it is told later.

        The answers are not awaited: whatever a pod is sent after this, it reads after this.
        """
        names = [name for name in lenders if name in self._fleet.members]
        ready = [name for name in names if self._fleet.members[name].is_ready]
        self._untold.update(set(names) - set(ready))
        if not ready:
            return
        lends = await self._background.on_disk(self._table.lends, ready)
        for name in ready:
            self._background.spawn(self._tell_again(name, lends[name]))
        await asyncio.sleep(0)  # each is sent in its task's first step

    async def _tell_again(self, pod: str, lends: Lends) -> None:
        self._untold.discard(pod)
        if await self._tell(pod, lends) is not None:
            self._untold.add(pod)

    async def settle(self, pod: str) -> None:
        """Tell a pod what it has lent now, where it could not be told before."""
        if pod in self._untold:
            await self.give_back([pod])

    def retell(self) -> None:
        """Tell those that could not be told and can be now; what is away learns it by its hello."""
        members = self._fleet.members
        due = {name for name in self._untold if name in members and members[name].is_ready}
        self._untold = {name for name in self._untold - due if name in members}
        if due:
            self._background.spawn(self.give_back(sorted(due)))

    def on_answered(self, pod: str, request_id: str, error: PodsupError | None) -> bool:
        """Take the answer to a `scope_lend`; False when it is none."""
        answer = self._asked.pop((pod, request_id), None)
        if answer is not None and not answer.done():
            answer.set_result(error)
        return answer is not None

    async def _tell(self, pod: str, lends: Lends, *, stop_jobs: bool = False) -> PodsupError | None:
        request_id = f"lend-{self._fleet.epoch}-{lends.number}"
        if (pod, request_id) in self._asked:
            return await asyncio.shield(self._asked[pod, request_id])
        answer = asyncio.get_running_loop().create_future()
        self._asked[pod, request_id] = answer
        method = ScopeLend(lent=lends.lent, number=lends.number, stop_jobs=stop_jobs)
        self._ask(pod, request_id, method, SILENT_S)
        refusal: PodsupError | None = await asyncio.shield(answer)
        if refusal is not None and not isinstance(refusal, Conflict):
            say(f"{pod}: scope_lend {lends.number} was not answered: {refusal}")
        return refusal

    @staticmethod
    def _in_words(lender: str, child: str, refusal: PodsupError) -> PodsupError:
        if isinstance(refusal, Conflict):
            return Conflict(
                f"{lender} cannot lend {child!r} its scope: {refusal}",
                next_step=refusal.next_step,
                **{**refusal.details, "lender": lender},
            )
        return Unreachable(
            f"{lender} does not answer and so cannot lend {child!r} its scope: {refusal}",
            next_step=f"podsup status {lender}",
            lender=lender,
        )
