"""What this pod has lent: where it may not write for now, and who may.

The supervisor says it, whole, each time: everything that is lent from now on, under a number; the
newest number wins. A lend takes effect here before it is answered:

    granted no more      file tools that begin now are refused, with the borrower's name
    ends                 file tools in flight there are waited for
    named                commands that run whose cage lets them write there; of uncaged ones, any
    answered             accepted, when none is left; `stop_jobs` ends them first

With a refusal nothing has changed. What is given back needs no such care.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from podproc.tools.base import off_loop
from podproc.tools.fsview import ScopeView
from podproc.tools.keeper_client import Job, Keeper
from protocol.errors import Conflict
from protocol.methods import ScopeLend
from protocol.scope import LentRule, Permission, Scope, effective_permission, matches

PATIENCE_S = 2.0
"""How long file tools, and then commands, may take to end; the supervisor waits five seconds."""

LISTED = 5


class Lends:
    """The lends of one pod, and what its scope is without them.

    - `_said`: the newest statement; `_clear`: the rules where nothing of this pod writes any more
    - `_pending`: the rules that are being cleared; `lent`: where writes are refused, which is both
    """

    def __init__(self, scope: Scope, lent: tuple[LentRule, ...] = (), number: int = 0) -> None:
        self._scope = scope
        self._turn = asyncio.Lock()
        self._said = self._clear = lent
        self._pending: tuple[LentRule, ...] = ()
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
        return next((rule for rule in self.lent if matches(rule, path)), None)

    def take_over(
        self, lent: tuple[LentRule, ...], number: int, *, nothing_runs: bool = False
    ) -> None:
        """Take over what the supervisor says at a hello; an older number says nothing.

        It agrees to nothing, but at the first hello, before anything of this pod runs.
        """
        if number >= self.number:
            self._state(lent, number)
            if nothing_runs:
                self._clear = lent

    async def lend(self, asked: ScopeLend, view: ScopeView, keeper: Keeper) -> None:
        """Have it take effect; raises Conflict, and nothing has changed then.

        What only gives back takes effect at once, whatever is waited for; the answer still means
        that all of it is clear.
        """
        if asked.number > self.number and not self._new(asked, (*self._clear, *self._pending)):
            self._state(asked.lent, asked.number)
            if not self._new(asked, self._clear):
                return
        async with self._turn:
            new = self._new(asked, self._clear)
            if asked.number <= self.number and self._new(asked, self._said):
                self._refuse_as_old(asked)
            self._set_pending(new)
            try:
                await self._make_clear(new, asked.stop_jobs, view, keeper)
                self._clear = (*self._clear, *new)
            finally:
                self._set_pending(())
            if asked.number > self.number:
                self._state(asked.lent, asked.number)
            elif any(rule not in self._said for rule in new):
                self._refuse_as_old(asked)

    @staticmethod
    def _new(asked: ScopeLend, known: tuple[LentRule, ...]) -> tuple[LentRule, ...]:
        return tuple(rule for rule in asked.lent if rule not in known)

    def _refuse_as_old(self, asked: ScopeLend) -> NoReturn:
        """An older word is agreed to only where it says nothing that is not in force."""
        told = f"this pod was told of newer lends: number {self.number}, not {asked.number}"
        raise Conflict(told)

    def _state(self, lent: tuple[LentRule, ...], number: int) -> None:
        self._said, self.number = lent, number
        self._clear = tuple(rule for rule in self._clear if rule in lent)
        self._set_pending(self._pending)

    def _set_pending(self, rules: tuple[LentRule, ...]) -> None:
        self._pending = rules
        self.lent = (*self._said, *(rule for rule in rules if rule not in self._said))

    async def _make_clear(
        self, new: tuple[LentRule, ...], stop_jobs: bool, view: ScopeView, keeper: Keeper
    ) -> None:
        def concerns(path: str) -> bool:
            return any(matches(rule, path) for rule in new)

        if not new:
            return
        if writing := await off_loop(view.wait_for_writes, concerns, PATIENCE_S):
            raise Conflict(f"it still writes {', '.join(writing)}", next_step="try again")
        try:
            async with asyncio.timeout(PATIENCE_S):
                jobs = await _writers(keeper, new)
                if jobs and stop_jobs:
                    await keeper.stop_all("what it could write was lent, and stop_jobs says so")
                    jobs = await _writers(keeper, new)
        except TimeoutError as error:
            raise Conflict(
                "whether commands of it still run cannot be known: their keeper does not answer",
                next_step="try again, or end the pod",
            ) from error
        if jobs:
            raise Conflict(
                f"commands of it run that could write there: {_listed(jobs)}",
                next_step="wait for them, or end them: --stop-jobs, or stop_jobs=true",
                jobs=[{"command": job.command, "age_s": job.age_s} for job in jobs],
            )


async def _writers(keeper: Keeper, rules: tuple[LentRule, ...]) -> list[Job]:
    jobs = await keeper.running()
    return jobs if keeper.could_write(rules) else []


def _listed(jobs: list[Job]) -> str:
    named = [f"{job.command} ({job.age_s:.0f} s)" for job in jobs[:LISTED]]
    more = [f"and {len(jobs) - LISTED} more"] if len(jobs) > LISTED else []
    return "; ".join([*named, *more])
