"""The pod's publishing side: lanes, snapshots on hello, replays, and what is in flight.

Everything a pod publishes goes through `Watchers.publish`, on the loop's thread, so that a snapshot
built in one uninterrupted step and the numbers it names belong together. A slow or dead watcher
costs nothing: PUB drops for it, and it refills from the ring or asks for a new snapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol import events as ev
from protocol.lanes import HelloAsked, Lanes, ReplayAsked, read_subscription
from protocol.snapshot import Block, InFlight, Snapshot, TextBlock, ThinkingBlock, ToolCallBlock
from protocol.transport import Publisher, Transport

OUTPUT_TAIL = 4096


@dataclass(slots=True)
class _Writing:
    """A block that is being written; pieces are joined when somebody looks."""

    kind: str
    pieces: list[str] = field(default_factory=list)
    name: str = ""
    state: str = "pending"
    finished: bool = False
    output: str = ""


class Blocks:
    """The blocks that have begun and whose entry is not published yet, in order of their start."""

    def __init__(self) -> None:
        self._blocks: dict[int | str, _Writing] = {}

    def on_event(self, event: ev.Event) -> None:
        """Follow the stream lane."""
        match event:
            case ev.TextDelta(block=block, text=text):
                self._at(block, "text").pieces.append(text)
            case ev.ThinkingStart(block=block):
                self._at(block, "thinking")
            case ev.ThinkingDelta(block=block, text=text):
                self._at(block, "thinking").pieces.append(text)
            case ev.TextDone(block=block, text=text) if text:
                done = self._at(block, "text")
                done.pieces, done.finished = [text], True
            case ev.ThinkingDone(block=block, text=text):
                done = self._at(block, "thinking")
                done.pieces, done.finished = [text], True
            case ev.ToolCallStart(id=call_id, name=name):
                self._at(call_id, "tool_call").name = name
            case ev.ToolCallArgsDelta(id=call_id, json_=piece):
                call = self._at(call_id, "tool_call")
                call.pieces.append(piece)
                call.state = "streaming_args"
            case ev.ToolCallDone(id=call_id, arguments=arguments):
                call = self._at(call_id, "tool_call")
                call.pieces, call.state = [arguments], "pending"
            case ev.ToolOutputDelta(id=call_id, text=text) if call_id in self._blocks:
                call = self._blocks[call_id]
                call.state = "running"
                call.output = (call.output + text)[-OUTPUT_TAIL:]
            case _:
                pass

    def run_call(self, call_id: str, name: str, arguments: str) -> None:
        """The call's entry is committed and its tool is about to run.

        It stays in flight until its result.
        """
        self._blocks[call_id] = _Writing("tool_call", [arguments], name, "running")

    def leave(self, block: int | str) -> None:
        """The block's entry is being published."""
        self._blocks.pop(block, None)

    def clear(self) -> None:
        """A run ended or was taken back: what is left goes without an event."""
        self._blocks.clear()

    def view(self) -> InFlight:
        """Return the wire form."""
        return InFlight(blocks=tuple(_block(key, w) for key, w in self._blocks.items()))

    def _at(self, key: int | str, kind: str) -> _Writing:
        if key not in self._blocks:
            self._blocks[key] = _Writing(kind)
        return self._blocks[key]


def _block(key: int | str, writing: _Writing) -> Block:
    text = "".join(writing.pieces)
    match writing.kind:
        case "text":
            return TextBlock(block=int(key), text=text, finished=writing.finished)
        case "thinking":
            return ThinkingBlock(block=int(key), text=text, finished=writing.finished)
        case _:
            return ToolCallBlock.from_wire(
                {
                    "id": str(key),
                    "name": writing.name,
                    "args": text,
                    "state": writing.state,
                    "output_tail": writing.output,
                }
            )


class Watchers:
    """The XPUB of one incarnation."""

    def __init__(
        self,
        transport: Transport,
        endpoint: str,
        lanes: Lanes,
        *,
        snapshot: Callable[[], Snapshot],
        monotonic: Callable[[], float],
        wall_ms: Callable[[], int],
    ) -> None:
        self.blocks = Blocks()
        self.endpoint = endpoint
        self._lanes = lanes
        self._snapshot = snapshot
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._socket: Publisher = transport.publisher(endpoint, self._on_subscription)

    def publish(self, event: ev.Event) -> None:
        """Number an event and send it to whoever watches."""
        self.blocks.on_event(event)
        self._socket.send(self._lanes.publish(event, ts_ms=self._wall_ms(), now=self._monotonic()))

    def tick(self) -> None:
        """Once a second: tell the newest numbers, so that a lost last event is noticed."""
        frames = self._lanes.tick(ts_ms=self._wall_ms(), now=self._monotonic())
        if frames is not None:
            self._socket.send(frames)

    def close(self) -> None:
        """Close the socket; what is on its way gets the transport's linger."""
        self._socket.close()

    def _on_subscription(self, topic: bytes, is_on: bool) -> None:
        asked = read_subscription(topic) if is_on else None
        match asked:
            case HelloAsked():
                self._socket.send(
                    self._lanes.snapshot(asked, self._snapshot(), ts_ms=self._wall_ms())
                )
            case ReplayAsked():
                for frames in self._lanes.replay(asked, ts_ms=self._wall_ms()):
                    self._socket.send(frames)
            case None:
                pass
