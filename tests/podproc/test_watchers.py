"""The publishing side of a pod: what is in flight, and snapshots that fit what follows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.watchers import OUTPUT_TAIL, Blocks, Watchers
from protocol import events as ev
from protocol.lanes import Lanes
from protocol.snapshot import Greeting, Snapshot, TextBlock, ThinkingBlock, ToolCallBlock
from protocol.status import Lane, PodStatus
from protocol.transport import Subscriber
from protocol.transport.memory import MemoryNet, MemoryTransport
from protocol.watch import Deliver, Gap, Subscribe, Synced, Unsubscribe, Watch, WatchStep
from protocol.wire import EventHeader, read_body, read_header, unpack

ENDPOINT = "mem://alice"

# -- what is in flight ----------------------------------------------------------------------------


def blocks(*events: ev.Event) -> Blocks:
    made = Blocks()
    for event in events:
        made.on_event(event)
    return made


def args_delta(call_id: str, json: str) -> ev.ToolCallArgsDelta:
    return ev.ToolCallArgsDelta(id=call_id, json_=json)


@pytest.mark.parametrize(
    "event",
    [
        ev.TextDelta(block=1, text="x"),
        ev.ThinkingStart(block=1),
        ev.ToolCallStart(id="c1", name="Read"),
    ],
    ids=lambda event: event.event,
)
def test_a_block_enters_with_its_start(event: ev.Event) -> None:
    assert len(blocks(event).view().blocks) == 1


@pytest.mark.parametrize(
    "event",
    [
        ev.TurnStart(turn=1),
        ev.LlmCallStart(llm_call=1),
        ev.ToolOutputDelta(id="never begun", stream="stdout", text="x"),
        ev.TextDone(block=1, text=""),
        ev.Status(status=PodStatus.RUNNING),
        ev.LogCut(segment_id="s", head_entries=1, reason="rewind"),
    ],
    ids=lambda event: event.event,
)
def test_nothing_else_makes_a_block(event: ev.Event) -> None:
    assert blocks(event).view().blocks == ()


def test_text_grows_by_its_deltas_and_is_finished_by_its_end() -> None:
    made = blocks(ev.TextDelta(block=4, text="hel"), ev.TextDelta(block=4, text="lo"))
    assert made.view().blocks == (TextBlock(block=4, text="hello"),)
    made.on_event(ev.TextDone(block=4, text="hello"))
    assert made.view().blocks == (TextBlock(block=4, text="hello", finished=True),)


def test_thinking_is_there_before_it_shows_any_text() -> None:
    made = blocks(ev.ThinkingStart(block=4))
    assert made.view().blocks == (ThinkingBlock(block=4, text=""),)
    made.on_event(ev.ThinkingDelta(block=4, text="hm"))
    made.on_event(ev.ThinkingDone(block=4, text="hm."))
    assert made.view().blocks == (ThinkingBlock(block=4, text="hm.", finished=True),)


def test_a_call_is_pending_then_streams_its_arguments_then_runs() -> None:
    def state() -> str:
        [block] = made.view().blocks
        assert isinstance(block, ToolCallBlock)
        return f"{block.state} {block.name} {block.args} {block.output_tail}".strip()

    made = blocks(ev.ToolCallStart(id="c1", name="Bash"))
    assert state() == "pending Bash"
    made.on_event(args_delta("c1", '{"comm'))
    assert state() == 'streaming_args Bash {"comm'
    made.on_event(args_delta("c1", 'and":1}'))
    made.on_event(ev.ToolCallDone(id="c1", name="Bash", arguments='{"command":1}'))
    assert state() == 'pending Bash {"command":1}'
    made.run_call("c1", "Bash", '{"command":1}')
    assert state() == 'running Bash {"command":1}'
    made.on_event(ev.ToolOutputDelta(id="c1", stream="stdout", text="one\n"))
    made.on_event(ev.ToolOutputDelta(id="c1", stream="stderr", text="two"))
    assert state() == 'running Bash {"command":1} one\ntwo'


def test_of_the_output_only_the_end_is_kept() -> None:
    made = Blocks()
    made.run_call("c1", "Bash", "{}")
    for number in range(3000):
        made.on_event(ev.ToolOutputDelta(id="c1", stream="stdout", text=f"{number}\n"))
    [block] = made.view().blocks
    assert isinstance(block, ToolCallBlock)
    assert len(block.output_tail) == OUTPUT_TAIL
    assert block.output_tail.endswith("2998\n2999\n")


def test_a_block_leaves_with_its_entry_and_only_that_one() -> None:
    made = blocks(ev.TextDelta(block=1, text="a"), ev.TextDelta(block=2, text="b"))
    made.leave(1)
    made.leave("nobody")
    assert made.view().blocks == (TextBlock(block=2, text="b"),)


def test_a_call_leaves_with_its_result() -> None:
    made = Blocks()
    made.run_call("c1", "Bash", "{}")
    made.leave("c1")
    made.on_event(ev.ToolOutputDelta(id="c1", stream="stdout", text="too late"))
    assert made.view().blocks == ()


def test_the_end_of_a_run_clears_what_is_left() -> None:
    made = blocks(ev.TextDelta(block=1, text="a"), ev.ToolCallStart(id="c1", name="Read"))
    made.clear()
    assert made.view().blocks == ()


def test_blocks_are_shown_in_the_order_they_began() -> None:
    made = blocks(
        ev.ThinkingStart(block=7),
        ev.TextDelta(block=3, text="a"),
        ev.ToolCallStart(id="c1", name="Read"),
        ev.ThinkingDelta(block=7, text="hm"),
    )
    assert [block.kind for block in made.view().blocks] == ["thinking", "text", "tool_call"]


# -- watching ------------------------------------------------------------------------------------


class Stage:
    """A publisher, and watchers on one in-memory net."""

    def __init__(self) -> None:
        self.net = MemoryNet()
        self.alerts = 0
        self.now = 0.0
        self.lanes = Lanes("alice", 3)
        self.watchers = Watchers(
            MemoryTransport(self.net),
            ENDPOINT,
            self.lanes,
            snapshot=self.snapshot,
            monotonic=lambda: self.now,
            wall_ms=lambda: 1,
        )

    def snapshot(self) -> Snapshot:
        greeting = Greeting(
            pod_name="alice", incarnation=3, cwd="/w", workspace="/w", provider="p", model="m"
        )
        return Snapshot(
            greeting=greeting,
            status=PodStatus.IDLE,
            head_entries=self.alerts,
            in_flight=self.watchers.blocks.view(),
            seqs=self.lanes.seqs(),
        )

    def say(self, *turns: int) -> None:
        for turn in turns:
            self.watchers.publish(ev.TurnStart(turn=turn))

    def raw(self, *topics: str) -> tuple[Subscriber, list[list[bytes]]]:
        """Return a bare subscriber and what it got."""
        got: list[list[bytes]] = []
        subscriber = MemoryTransport(self.net).subscriber(got.append)
        subscriber.connect(ENDPOINT)
        for topic in topics:
            subscriber.subscribe(topic.encode())
        self.net.pump()
        return subscriber, got


class Fan:
    """A watcher that does all that a watcher does."""

    _names = itertools.count()

    def __init__(self, stage: Stage) -> None:
        self.turns: list[int] = []
        self.snapshots: list[dict[str, Any]] = []
        self.gaps: list[Gap] = []
        self._stage = stage
        self._socket = MemoryTransport(stage.net).subscriber(self._on_frames)
        self._socket.connect(ENDPOINT)
        self._watch = Watch(lambda: f"n{next(self._names)}")
        self._do(self._watch.subscribe(stage.now))

    def tick(self) -> None:
        self._do(self._watch.tick(self._stage.now))

    def _on_frames(self, frames: list[bytes]) -> None:
        self._do(self._watch.receive(frames, self._stage.now))

    def _do(self, steps: list[WatchStep]) -> None:
        for step in steps:
            match step:
                case Subscribe(topic):
                    self._socket.subscribe(topic)
                case Unsubscribe(topic):
                    self._socket.unsubscribe(topic)
                case Synced(_, body):
                    assert isinstance(body, dict)
                    self.snapshots.append(body)
                case Deliver(_, event):
                    if isinstance(event, ev.TurnStart):
                        self.turns.append(event.turn)
                case Gap():
                    self.gaps.append(step)


def test_a_hello_is_answered_on_its_own_topic_to_the_asker_alone() -> None:
    stage = Stage()
    _, other = stage.raw("stream/", "state/", "log/")
    stage.say(1, 2)
    _, got = stage.raw("~hello/mine")
    [[topic, header, body]] = got
    assert topic == b"~hello/mine"
    assert read_header(unpack(header), EventHeader).incarnation == 3
    assert read_body(body)["seqs"] == {"state": 0, "log": 0, "stream": 2}
    assert all(not frames[0].startswith(b"~hello") for frames in other)


def test_a_snapshot_and_the_numbers_it_names_belong_together() -> None:
    stage = Stage()
    stage.watchers.publish(ev.TextDelta(block=1, text="be"))
    _, got = stage.raw("~hello/one")
    stage.watchers.publish(ev.TextDelta(block=1, text="fore"))
    _, later = stage.raw("~hello/two")
    shown = [read_body(frames[-1]) for frames in (*got, *later)]
    assert [(one["in_flight"]["blocks"][0]["text"], one["seqs"]["stream"]) for one in shown] == [
        ("be", 1),
        ("before", 2),
    ]


@pytest.mark.parametrize("topic", ["~hello", "stream/", "nonsense/1/2/3", "replay/n/nolane/1"])
def test_an_ordinary_or_malformed_subscription_is_not_answered(topic: str) -> None:
    _, got = Stage().raw(topic)
    assert got == []


def test_an_unsubscription_is_not_answered() -> None:
    stage = Stage()
    subscriber, got = stage.raw("~hello/n")
    subscriber.unsubscribe(b"~hello/n")
    stage.net.pump()
    assert len(got) == 1


def test_a_watcher_gets_the_state_and_then_every_event_once() -> None:
    stage = Stage()
    stage.say(1, 2)
    fan = Fan(stage)
    stage.net.pump()
    stage.say(3, 4)
    stage.net.pump()
    assert len(fan.snapshots) == 1
    assert fan.turns == [3, 4]


def test_an_event_between_the_subscription_and_the_snapshot_is_in_one_of_them() -> None:
    stage = Stage()
    fan = Fan(stage)
    stage.say(1)
    stage.net.pump()
    stage.say(2)
    stage.net.pump()
    assert fan.snapshots[0]["seqs"]["stream"] == 1
    assert fan.turns == [2]


def test_a_lost_event_is_fetched_from_the_ring() -> None:
    stage = Stage()
    fan = Fan(stage)
    stage.net.pump()
    stage.net.lose = lambda frames: frames[0].startswith(b"stream/")
    stage.say(1, 2)
    stage.net.lose = lambda frames: False
    stage.say(3)
    stage.net.pump()
    assert fan.turns == [1, 2, 3]
    assert fan.gaps == []


def test_a_lost_last_event_is_noticed_by_the_tick() -> None:
    stage = Stage()
    fan = Fan(stage)
    stage.net.pump()
    stage.net.lose = lambda frames: frames[0].startswith(b"stream/")
    stage.say(1)
    stage.net.lose = lambda frames: False
    stage.watchers.tick()
    stage.net.pump()
    assert fan.turns == [1]


@pytest.mark.parametrize(("after_s", "ticks"), [(0.0, 1), (3.0, 1), (3.1, 0)])
def test_ticks_come_only_while_there_is_something_to_miss(after_s: float, ticks: int) -> None:
    stage = Stage()
    stage.say(1)
    _, got = stage.raw("state/")
    stage.now = after_s
    stage.watchers.tick()
    stage.net.pump()
    assert len(got) == ticks


def test_a_pod_that_said_nothing_does_not_tick() -> None:
    stage = Stage()
    _, got = stage.raw("state/")
    stage.watchers.tick()
    stage.net.pump()
    assert got == []


def test_a_lost_snapshot_is_asked_for_again() -> None:
    stage = Stage()
    fan = Fan(stage)
    stage.net.lose = lambda frames: True
    stage.net.pump()
    stage.net.lose = lambda frames: False
    stage.now = 2.5
    fan.tick()
    stage.net.pump()
    assert len(fan.snapshots) == 1


def test_nobody_watching_costs_nothing_and_a_closed_publisher_answers_nobody() -> None:
    stage = Stage()
    stage.say(*range(100))
    stage.watchers.close()
    _, got = stage.raw("~hello/n")
    assert got == []


@given(
    st.lists(
        st.one_of(
            st.just("say"), st.just("pump"), st.just("lose"), st.just("keep"), st.just("tick")
        ),
        max_size=60,
    )
)
def test_whatever_is_lost_a_watcher_has_everything_once_and_in_order(steps: list[str]) -> None:
    stage = Stage()
    fan = Fan(stage)
    stage.net.pump()
    numbers = itertools.count(1)
    actions: dict[str, Callable[[], None]] = {
        "say": lambda: stage.say(next(numbers)),
        "pump": stage.net.pump,
        "tick": stage.watchers.tick,
    }
    for step in steps:
        match step:
            case "lose":
                stage.net.lose = lambda frames: True
            case "keep":
                stage.net.lose = lambda frames: False
            case _:
                actions[step]()
    stage.net.lose = lambda frames: False
    for _ in range(4):  # as time goes on: what was not answered is asked for again
        stage.now += 2.5
        stage.watchers.tick()
        stage.net.pump()
        fan.tick()
        stage.net.pump()
    seen_in_snapshots = fan.snapshots[-1]["seqs"][Lane.STREAM.value]
    said = next(numbers) - 1
    if len(fan.snapshots) == 1:
        assert fan.turns == list(range(1, said + 1))
    else:
        assert fan.turns == sorted(set(fan.turns))
        assert seen_in_snapshots <= said
