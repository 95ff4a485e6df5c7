"""What the turn loop asks for before each request: that it fits, and what it shows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from podproc.compactor import Compactor
from podproc.engine.projection import Projection
from podproc.recorder import Recorder
from protocol.entries import Item
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
        over_by = self._record.context_tokens() - self._window
        if over_by > 0 and not self._was_over:
            self._was_over = True
            self._record.alert(
                AlertLevel.WARN,
                f"the history is about {over_by} tokens over the model's window of {self._window}: "
                "the oldest results of tools are left out of the request",
            )
        return self._project(history, over_by=over_by)
