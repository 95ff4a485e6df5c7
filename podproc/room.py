"""What the turn loop asks for before each request: that it fits, and what it shows.

Where no compaction makes room, a request loses its oldest bodies. The figures of such a request are
small, the history that it was cut from is not: what it did not show is not shown by the next one
either, or each second request would be too large. A new process, and one whose history was cut
or begins anew, cannot know what older figures are of: it goes by size until it has figures of its
own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from podproc.compactor import Compactor
from podproc.engine.estimate import context_tokens
from podproc.engine.projection import Projection
from podproc.recorder import Recorder
from protocol.entries import Item, LlmUsage
from protocol.status import AlertLevel

Prepare = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    """A run that needs no preparation."""


class PodRoom:
    """The room of one pod's requests. `prepare` is what the present run begins with."""

    def __init__(self, record: Recorder, compactor: Compactor, window: int) -> None:
        self._record = record
        self._compactor = compactor
        self._window = window
        self._project = Projection(window)
        self._was_over = False
        self._usage = record.state.usage_history
        self._has_figures = False
        self._bare = 0  # items without a body in the request that was measured last
        self._asked_bare = 0  # and in the one that was made last
        self.prepare: Prepare = _nothing

    async def before_run(self) -> None:
        """Compact where it is due, then resolve what the input refers to."""
        self._was_over = False
        await self._compactor.before_run()
        await self.prepare()

    async def between_turns(self, *, shown: bool) -> None:
        """Compact where the next request would come too near to the window."""
        await self._compactor.between_turns(shown=shown)

    def project(self, history: Sequence[Item]) -> tuple[Item, ...]:
        """Return what a request shows; where it would not fit, with the oldest bodies left out."""
        state = self._record.state
        self._follow(state.usage_history)
        plain = self._project(history, bare=self._bare)
        tokens = self._record.context_tokens()
        if not self._has_figures:
            tokens = max(tokens, context_tokens(plain, (), prompt=state.system_prompt or ""))
        over_by = tokens - self._window
        if over_by <= 0:
            self._asked_bare = self._bare
            return plain
        if not self._was_over:
            self._was_over = True
            self._record.alert(
                AlertLevel.WARN,
                f"the history is about {over_by} tokens over the model's window of {self._window}: "
                "the oldest results of tools are left out of the request",
            )
        shown = self._project(history, bare=self._bare, over_by=over_by)
        changed = (i for i in reversed(range(len(plain))) if shown[i] != plain[i])
        self._asked_bare = max(self._bare, next(changed, -1) + 1)
        return shown

    def _follow(self, usage: tuple[LlmUsage, ...]) -> None:
        """Take in what was measured since, or that the history is another one now."""
        before, self._usage = self._usage, usage
        if usage[: len(before)] != before or not usage:
            self._bare, self._has_figures = 0, False
        elif len(usage) > len(before):
            self._bare = self._asked_bare
            self._has_figures = True
