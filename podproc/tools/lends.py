"""What this pod has lent: where it may not write for now, and who may.

The supervisor says it, whole, each time: everything that is lent from now on, under a number; the
newest number wins. A lend takes effect here before it is answered:

    granted no more      file tools that begin now are refused, with the borrower's name
    ends                 file tools in flight there are waited for
    named                commands that run could write there: they are not caged, so any of them
    answered             accepted, when none is left; `stop_jobs` ends them first

With a refusal nothing has changed. What is given back needs no such care.
"""

from __future__ import annotations

import asyncio

from podproc.tools.base import off_loop
from podproc.tools.fsview import ScopeView
from podproc.tools.keeper_client import Job, Keeper, KeeperError
from protocol.errors import Conflict
from protocol.methods import ScopeLend
from protocol.scope import LentRule, Permission, Scope, ScopeRule, effective_permission

PATIENCE_S = 3.0
"""How long file tools and commands may take to end; the supervisor waits five seconds."""

LISTED = 5


class Lends:
    """The lends of one pod, and what its scope is without them."""

    def __init__(self, scope: Scope, lent: tuple[LentRule, ...] = (), number: int = 0) -> None:
        self._scope = scope
        self._turn = asyncio.Lock()
        self.lent = lent
        self.number = number

    def permission_at(self, path: str) -> Permission | None:
        """Return what the pod's tools may do at a canonical path now; for any thread."""
        granted = effective_permission(self._scope, path)
        if granted is Permission.WRITE and self._borrower(path) is not None:
            return Permission.READ
        return granted

    def explain(self, path: str) -> str | None:
        """Say who has the use of a path that is lent."""
        rule = self._borrower(path)
        if rule is None:
            return None
        return f"{rule.target} is lent to pod {rule.pod} until it has ended; StopPod ends it"

    def _borrower(self, path: str) -> LentRule | None:
        return next((rule for rule in self.lent if _holds(rule, path)), None)

    def take_over(self, lent: tuple[LentRule, ...], number: int) -> None:
        """Take over what the supervisor says at a hello; an older number says nothing."""
        if number >= self.number:
            self.lent, self.number = lent, number

    async def lend(self, asked: ScopeLend, view: ScopeView, keeper: Keeper) -> None:
        """Have it take effect; raises Conflict, and nothing has changed then."""
        if asked.number <= self.number:
            return
        new = [rule for rule in asked.lent if rule not in self.lent]
        if not new:
            self.take_over(asked.lent, asked.number)
            return
        async with self._turn:
            if asked.number <= self.number:
                return
            before = self.lent
            self.lent, self.number = (*asked.lent, *before), asked.number
            try:
                await self._clear(new, asked.stop_jobs, view, keeper)
            except BaseException:
                if self.number == asked.number:
                    self.lent = before
                raise
            if self.number == asked.number:
                self.lent = asked.lent

    async def _clear(
        self, new: list[LentRule], stop_jobs: bool, view: ScopeView, keeper: Keeper
    ) -> None:
        def concerns(path: str) -> bool:
            return any(_holds(rule, path) for rule in new)

        if writing := await off_loop(view.wait_for_writes, concerns, PATIENCE_S):
            raise Conflict(f"it still writes {', '.join(writing)}", next_step="try again")
        try:
            jobs = await keeper.jobs()
            if jobs and stop_jobs:
                await keeper.stop_all("what it could write was lent, and stop_jobs asked for this")
                jobs = await keeper.jobs()
        except KeeperError:
            jobs = []  # it died, and all of them with it
        if jobs:
            raise Conflict(
                f"commands of it run that could write there: {_listed(jobs)}",
                next_step="wait for them, or end them: --stop-jobs, or stop_jobs=true",
                jobs=[{"command": job.command, "age_s": job.age_s} for job in jobs],
            )


def _holds(rule: ScopeRule, path: str) -> bool:
    return effective_permission(Scope(allow=(rule,)), path) is not None


def _listed(jobs: list[Job]) -> str:
    named = [f"{job.command} ({job.age_s:.0f} s)" for job in jobs[:LISTED]]
    more = [f"and {len(jobs) - LISTED} more"] if len(jobs) > LISTED else []
    return "; ".join([*named, *more])
