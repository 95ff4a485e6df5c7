"""A subscription carried out: the steps of `protocol.watch` on a real socket."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from protocol.transport import Transport
from protocol.watch import Deliver, Gap, Subscribe, Synced, Unsubscribe, Watch, WatchStep
from protocol.wire import BadFrame

Told = Synced | Deliver | Gap
"""What a watcher tells its user."""


class Watcher:
    """Follows one publisher until closed.

    `tick` it now and then, so that nothing lost stays lost.
    """

    def __init__(
        self,
        transport: Transport,
        endpoint: str,
        watch: Watch,
        *,
        on_told: Callable[[Told], None],
        clock: Callable[[], float],
    ) -> None:
        self._watch = watch
        self._on_told = on_told
        self._clock = clock
        self._socket = transport.subscriber(self._on_frames)
        self._socket.connect(endpoint)
        self._run(watch.subscribe(clock()))

    @property
    def core(self) -> Watch:
        """What is followed, and how far."""
        return self._watch

    def tick(self) -> None:
        """Ask again where an answer is missing."""
        self._run(self._watch.tick(self._clock()))

    def drain(self) -> None:
        """Take what has arrived."""
        self._socket.drain()

    def close(self) -> None:
        """Follow no more."""
        self._socket.close()

    def _on_frames(self, frames: list[bytes]) -> None:
        try:
            steps = self._watch.receive(frames, self._clock())
        except (BadFrame, ValidationError):
            return  # nothing this version can read; the numbers will show that it is missing
        self._run(steps)

    def _run(self, steps: list[WatchStep]) -> None:
        for step in steps:
            match step:
                case Subscribe(topic):
                    self._socket.subscribe(topic)
                case Unsubscribe(topic):
                    self._socket.unsubscribe(topic)
                case Synced() | Deliver() | Gap():
                    self._on_told(step)
