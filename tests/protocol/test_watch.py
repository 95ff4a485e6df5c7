"""Watching: snapshot first, then every event once or a told gap, whatever the wire does."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.events import Event, Status, UnknownEvent
from protocol.lanes import Lanes
from protocol.status import Lane, PodStatus
from protocol.transport.memory import MemoryNet
from protocol.watch import Deliver, Gap, Subscribe, Synced, Unsubscribe, Watch, WatchStep
from protocol.wire import BadFrame, EventHeader, pack
from tests.protocol.garbage import anything
from tests.protocol.watching import Clock, Publisher, Seqs, Viewer, settle


class Scene:
    """A wire, a clock and one publisher."""

    def __init__(self, ring_events: int = 8192) -> None:
        self.net = MemoryNet()
        self.clock = Clock()
        self.pod = Publisher(self.net, self.clock, ring_events)

    def attach(self, *, complete: bool = False) -> Viewer:
        """Return a watcher whose subscriptions are still on their way."""
        return Viewer(self.net, self.clock, complete=complete)

    def viewer(self, *, lanes: tuple[Lane, ...] = tuple(Lane), complete: bool = False) -> Viewer:
        """Return a watcher that has its snapshot."""
        viewer = Viewer(self.net, self.clock, lanes=lanes, complete=complete)
        self.net.pump()
        return viewer

    def publish(self, count: int, lane: Lane = Lane.STREAM) -> None:
        for _ in range(count):
            self.pod.publish(lane)
        self.net.pump()

    def losing(self, count: int, lane: Lane = Lane.STREAM) -> None:
        """Publish events that nobody gets."""
        self.net.lose = lambda frames: True
        self.publish(count, lane)
        self.net.lose = lambda frames: False

    def pass_time(self, seconds: float, *viewers: Viewer) -> None:
        self.clock.now += seconds
        for viewer in viewers:
            viewer.watcher.tick()
        self.net.pump()


def every(nth: int, wanted: Callable[[bytes], bool] = lambda topic: True) -> Callable[..., bool]:
    """Return a rule that loses every nth message whose topic is wanted."""
    seen = 0

    def lose(frames: list[bytes]) -> bool:
        nonlocal seen
        if not wanted(frames[0]):
            return False
        seen += 1
        return seen % nth == 0

    return lose


def is_event(topic: bytes) -> bool:
    return not topic.startswith((b"~", b"replay/"))


# -- the steps themselves


def test_lanes_are_subscribed_first_with_their_slash_and_hello_last() -> None:
    watch = Watch(lambda: "n", (Lane.LOG, Lane.STREAM))
    topics = [step.topic for step in watch.subscribe(0) if isinstance(step, Subscribe)]
    assert topics == [b"log/", b"state/", b"stream/", b"~hello/n"]
    assert topics == sorted(topics), "sent again after a reconnect, the order is the same"


def test_state_is_always_subscribed() -> None:
    topics = [step for step in Watch(lambda: "n", (Lane.LOG,)).subscribe(0)]
    assert Subscribe(b"state/") in topics
    assert Subscribe(b"stream/") not in topics


def test_watch_without_a_snapshot_says_hello_again_after_two_seconds() -> None:
    nonces = iter("abc")
    watch = Watch(lambda: next(nonces))
    watch.subscribe(10)
    assert watch.tick(11.9) == []
    assert watch.tick(12) == [Unsubscribe(b"~hello/a"), Subscribe(b"~hello/b")]
    assert watch.tick(13.9) == []
    assert not watch.is_live


# -- attaching


def test_watcher_that_attaches_at_any_moment_sees_what_the_first_one_saw_from_then_on() -> None:
    rng = random.Random(20)
    scene = Scene()
    first = scene.viewer(complete=True)
    events, moments = 160, 300
    script = ["publish"] * events + ["attach"] * moments
    rng.shuffle(script)
    viewers = []
    for step in script:
        if step == "attach":
            viewers.append(scene.attach())
        else:
            scene.pod.publish(rng.choice(list(Lane)))
        if rng.random() < 0.3:
            scene.pod.drain()
        if viewers and rng.random() < 0.3:
            rng.choice(viewers).watcher.drain()
        if rng.random() < 0.1:
            scene.net.pump()
    scene.net.pump()
    assert len(viewers) == moments
    for viewer in [first, *viewers]:
        viewer.account(scene.pod)
        assert not viewer.gaps()
        (snapshot,) = viewer.snapshots()
        seqs = Seqs.from_wire(snapshot.body).seqs
        for lane in Lane:
            after = [number for number in first.delivered(lane) if number > seqs[lane]]
            assert viewer.delivered(lane) == (first.delivered(lane) if viewer is first else after)
    assert scene.pod.hellos == moments + 1
    assert len(scene.pod.replays) <= len(Lane), "only the complete one ever had to ask"


def test_snapshot_comes_before_every_event_and_contains_those_before_it() -> None:
    scene = Scene()
    scene.publish(5)
    viewer = scene.attach()
    scene.pod.publish(Lane.STREAM)
    scene.publish(2)
    viewer.account(scene.pod)
    assert isinstance(viewer.told[0], Synced)
    assert not viewer.told[0].again


def test_snapshot_goes_to_its_asker_alone() -> None:
    scene = Scene()
    first = scene.viewer()
    scene.viewer()
    assert scene.pod.hellos == 2
    assert len(first.snapshots()) == 1


def test_watcher_of_some_lanes_gets_those_alone() -> None:
    scene = Scene()
    viewer = scene.viewer(lanes=(Lane.LOG,))
    for lane in Lane:
        scene.publish(3, lane)
    assert {told.header.lane for told in viewer.told if isinstance(told, Deliver)} == {
        Lane.LOG,
        Lane.STATE,
    }
    settle(scene.net, scene.pod, scene.clock, viewer)
    viewer.account(scene.pod)


def test_all_lanes_are_delivered_in_order_of_publication_while_nothing_is_lost() -> None:
    scene = Scene()
    viewer = scene.viewer()
    order = [Lane.LOG, Lane.STATE, Lane.STREAM, Lane.STREAM, Lane.LOG, Lane.STATE]
    for lane in order:
        scene.pod.publish(lane)
    scene.net.pump()
    assert [told.header.lane for told in viewer.told if isinstance(told, Deliver)] == order


# -- losses


def test_every_seventh_event_lost_is_fetched_from_the_ring() -> None:
    scene = Scene()
    viewer = scene.viewer()
    scene.net.lose = every(7, is_event)
    rng = random.Random(7)
    for _ in range(500):
        scene.pod.publish(rng.choice(list(Lane)))
        if rng.random() < 0.4:
            scene.net.pump()
    settle(scene.net, scene.pod, scene.clock, viewer)
    viewer.account(scene.pod)
    assert not viewer.gaps()
    for lane in Lane:
        assert viewer.delivered(lane) == list(range(1, scene.pod.history[1][lane] + 1))


def test_every_seventh_message_of_any_kind_lost_still_ends_equal() -> None:
    scene = Scene()
    viewer = scene.viewer(complete=True)
    scene.net.lose = every(7)
    rng = random.Random(77)
    for _ in range(300):
        scene.pod.publish(rng.choice(list(Lane)))
        if rng.random() < 0.4:
            scene.net.pump()
        if rng.random() < 0.1:
            scene.pass_time(1, viewer)
    settle(scene.net, scene.pod, scene.clock, viewer)
    viewer.account(scene.pod)
    assert not viewer.gaps()
    for lane in Lane:
        assert viewer.delivered(lane) == list(range(1, scene.pod.history[1][lane] + 1))


def test_lost_last_event_is_revealed_by_the_tick() -> None:
    scene = Scene()
    viewer = scene.viewer()
    scene.publish(3)
    scene.losing(1)
    assert viewer.delivered(Lane.STREAM) == [1, 2, 3]
    assert viewer.watch.is_live, "nobody can know yet"
    scene.pod.tick()
    scene.net.pump()
    assert viewer.delivered(Lane.STREAM) == [1, 2, 3, 4]


def test_tick_of_what_is_known_asks_for_nothing_and_is_not_delivered() -> None:
    scene = Scene()
    viewer = scene.viewer()
    scene.publish(3)
    told = len(viewer.told)
    scene.pod.tick()
    scene.net.pump()
    assert scene.pod.replays == []
    assert len(viewer.told) == told


def test_gap_that_the_ring_no_longer_holds_is_told_with_its_numbers_and_a_new_snapshot() -> None:
    scene = Scene(ring_events=10)
    viewer = scene.viewer()
    scene.publish(5)
    scene.losing(30)
    scene.publish(1)
    assert viewer.gaps() == [Gap(Lane.STREAM, 6, 36)]
    first, second = viewer.snapshots()
    assert (first.again, second.again) == (False, True)
    assert Seqs.from_wire(second.body).seqs[Lane.STREAM] == 36
    viewer.account(scene.pod)
    scene.publish(2)
    viewer.account(scene.pod)


def test_gap_on_one_lane_says_nothing_of_the_others() -> None:
    scene = Scene(ring_events=5)
    viewer = scene.viewer(complete=True)
    scene.publish(2, Lane.LOG)
    scene.losing(20)
    scene.publish(1)
    scene.publish(2, Lane.LOG)
    settle(scene.net, scene.pod, scene.clock, viewer)
    viewer.account(scene.pod)
    assert {gap.lane for gap in viewer.gaps()} == {Lane.STREAM}
    assert viewer.delivered(Lane.LOG) == [1, 2, 3, 4]


def test_refill_that_is_not_answered_ends_in_another_hello() -> None:
    scene = Scene()
    viewer = scene.viewer()
    scene.publish(1)
    scene.losing(1)
    scene.net.lose = lambda frames: frames[0].startswith(b"replay/")
    scene.publish(1)
    assert not viewer.watch.is_live
    scene.pass_time(1.9, viewer)
    assert len(viewer.snapshots()) == 1
    scene.pass_time(0.1, viewer)
    assert len(viewer.snapshots()) == 2
    scene.net.lose = lambda frames: False
    scene.publish(1)
    viewer.account(scene.pod)


@pytest.mark.timeout(60)
def test_event_that_is_lost_again_and_again_is_not_asked_for_without_a_pause() -> None:
    scene = Scene()
    viewer = scene.viewer(complete=True)
    scene.publish(1)
    scene.losing(1)
    scene.net.lose = lambda frames: b"/text_delta" in frames[1]  # whatever a replay brings
    scene.publish(1)
    for _ in range(20):
        scene.pass_time(1, viewer)
    assert len(scene.pod.replays) < 40
    settle(scene.net, scene.pod, scene.clock, viewer)
    viewer.account(scene.pod)


# -- reconnects


def test_refill_that_is_never_answered_tells_the_gap() -> None:
    scene = Scene()
    viewer = scene.viewer()
    scene.publish(1)
    scene.losing(4)
    scene.net.lose = lambda frames: frames[0].startswith(b"replay/")
    scene.publish(1)
    scene.pass_time(2, viewer)
    assert viewer.gaps() == [Gap(Lane.STREAM, 2, 6)]
    viewer.account(scene.pod)


def test_last_event_lost_with_all_later_ticks_is_found() -> None:
    scene = Scene()
    viewer = scene.viewer()
    scene.publish(3)
    scene.pod.tick()
    scene.net.pump()
    scene.losing(1)
    scene.pass_time(4.9, viewer)
    assert scene.pod.replays == []
    scene.pass_time(0.1, viewer)
    assert viewer.delivered(Lane.STREAM) == [1, 2, 3, 4]


def test_quiet_publisher_is_asked_once_for_what_may_be_lost() -> None:
    scene = Scene()
    viewer = scene.viewer()
    scene.publish(1)
    for _ in range(60):
        scene.pass_time(1, viewer)
    assert len(scene.pod.replays) == len(Lane)
    assert len(viewer.snapshots()) == 1
    scene.publish(1)
    for _ in range(60):
        scene.pass_time(1, viewer)
    assert len(scene.pod.replays) == 2 * len(Lane)


def test_reconnect_brings_a_new_snapshot_by_itself() -> None:
    scene = Scene()
    viewer = scene.viewer()
    scene.publish(2)
    scene.pod.disconnect()
    scene.publish(3)
    scene.pod.reconnect()
    scene.net.pump()
    assert [snapshot.again for snapshot in viewer.snapshots()] == [False, True]
    scene.publish(1)
    viewer.account(scene.pod)
    assert viewer.delivered(Lane.STREAM) == [1, 2, 6]


def test_complete_watch_misses_nothing_over_a_reconnect() -> None:
    scene = Scene()
    scene.publish(2)
    viewer = scene.viewer(complete=True)
    scene.publish(2)
    scene.pod.disconnect()
    scene.publish(3)
    scene.pod.reconnect()
    scene.publish(1)
    viewer.account(scene.pod)
    assert viewer.delivered(Lane.STREAM) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_complete_watch_is_told_what_the_ring_had_lost_before_it_came() -> None:
    scene = Scene(ring_events=4)
    scene.publish(10)
    viewer = scene.viewer(complete=True)
    assert viewer.gaps() == [Gap(Lane.STREAM, 1, 6)]
    viewer.account(scene.pod)
    assert viewer.delivered(Lane.STREAM) == [7, 8, 9, 10]


@pytest.mark.parametrize("complete", [False, True])
def test_new_incarnation_begins_with_its_snapshot_and_its_own_numbers(complete: bool) -> None:
    scene = Scene()
    viewer = scene.viewer(complete=complete)
    scene.publish(5)
    scene.pod.restart()
    scene.publish(2)
    viewer.account(scene.pod)
    assert viewer.snapshots()[-1].header.incarnation == 2


def test_answer_of_a_new_incarnation_to_a_question_for_the_old_one_is_not_taken() -> None:
    scene = Scene()
    viewer = scene.viewer()
    scene.publish(3)
    scene.losing(1)
    scene.net.lose = lambda frames: frames[0].startswith(b"replay/")
    scene.publish(1)
    assert scene.pod.replays, "the old one was asked and its answer is lost"
    scene.net.lose = lambda frames: False
    scene.pod.disconnect()
    scene.pod.restart()
    for _ in range(8):
        scene.pod.publish(Lane.STREAM)
    scene.net.pump()
    settle(scene.net, scene.pod, scene.clock, viewer)
    viewer.account(scene.pod)


def test_events_of_an_older_incarnation_are_not_taken() -> None:
    scene = Scene()
    viewer = scene.viewer()
    scene.publish(1)
    old = scene.pod.lanes
    scene.pod.restart()
    scene.net.pump()
    late = old.publish(Status(status=PodStatus.IDLE), ts_ms=0, now=0)
    scene.pod.send(late)
    scene.net.pump()
    settle(scene.net, scene.pod, scene.clock, viewer)
    viewer.account(scene.pod)


# -- the fleet's lanes


def test_fleets_events_are_followed_by_the_fleets_numbers() -> None:
    watch = Watch(lambda: "n", (Lane.STATE,))
    fleet = Lanes("", 0, epoch=12)
    watch.subscribe(0)
    told: list[WatchStep] = []

    def receive(frames: list[bytes]) -> list[WatchStep]:
        steps = watch.receive(frames, 0)
        told.extend(step for step in steps if isinstance(step, Deliver | Gap))
        return steps

    receive([b"~hello/n", *snapshot_of(fleet)])
    pods = [Lanes(name, 3) for name in ("alice", "bob")]
    for pod in (*pods, *pods):
        topic, _, body = pod.publish(Status(status=PodStatus.IDLE), ts_ms=0, now=0)
        origin = EventHeader(pod=pod.pod, incarnation=3, lane=Lane.STATE, seq=1, ts_ms=0)
        receive(fleet.republish(topic, origin, body, now=0))
    receive(fleet.publish_for("bob", 3, Status(status=PodStatus.FAILED), ts_ms=0, now=0))
    assert [step.header.fleet_seq for step in told if isinstance(step, Deliver)] == [1, 2, 3, 4, 5]
    tick = fleet.tick(ts_ms=0, now=0)
    assert tick is not None
    assert receive(tick) == []


def snapshot_of(lanes: Lanes) -> list[bytes]:
    header = EventHeader(
        pod=lanes.pod,
        incarnation=lanes.incarnation,
        lane=Lane.STATE,
        seq=0,
        ts_ms=0,
        epoch=lanes.epoch,
    )
    return [pack(header), pack(Seqs(seqs=lanes.seqs()))]


# -- what cannot be read


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "body", [{"status": "hibernating"}, {}, [1], b"\xc1"], ids=["word", "field", "list", "garbage"]
)
@pytest.mark.parametrize("is_lost_first", [False, True], ids=["live", "replayed"])
def test_event_that_cannot_be_read_is_carried_as_unknown_and_stops_nothing(
    body: object, is_lost_first: bool
) -> None:
    scene = Scene()
    viewer = scene.viewer()
    lanes = scene.pod.lanes
    header = EventHeader(pod="alice", incarnation=1, lane=Lane.STATE, seq=1, ts_ms=0)
    packed = body if isinstance(body, bytes) else pack(body)
    frames = lanes.republish(b"state/alice/status", header, packed, now=0)
    if not is_lost_first:
        scene.pod.send(frames)
    scene.net.pump()
    scene.pod.send(lanes.publish(Status(status=PodStatus.IDLE), ts_ms=0, now=0))
    scene.net.pump()
    events: list[Event] = [told.event for told in viewer.told if isinstance(told, Deliver)]
    assert [type(event) for event in events] == [UnknownEvent, Status]
    assert isinstance(events[0], UnknownEvent)
    assert events[0].name == "status"
    assert viewer.watch.is_live


def test_topic_that_is_no_text_is_carried_as_unknown() -> None:
    scene = Scene()
    viewer = scene.viewer()
    header = EventHeader(pod="alice", incarnation=1, lane=Lane.STATE, seq=1, ts_ms=0)
    scene.pod.send([b"state/alice/\xff\xfe", pack(header), b""])
    scene.net.pump()
    (event,) = [told.event for told in viewer.told if isinstance(told, Deliver)]
    assert isinstance(event, UnknownEvent)


def test_event_of_another_version_is_none_of_ours() -> None:
    watch = Watch(lambda: "n")
    watch.subscribe(0)
    lanes = Lanes("alice", 1)
    watch.receive([b"~hello/n", *snapshot_of(lanes)], 0)
    header = EventHeader(v=2, pod="alice", incarnation=1, lane=Lane.STATE, seq=1, ts_ms=0)
    with pytest.raises(BadFrame, match="version 2"):
        watch.receive([b"state/alice/shutdown", pack(header), b""], 0)


@pytest.mark.parametrize(
    "body", [{"seqs": 5}, {"seqs": {"state": "many"}}, {"seqs": {"log": None}}, [1], None]
)
def test_snapshot_that_cannot_be_read_is_a_bad_frame_and_changes_nothing(body: object) -> None:
    watch = Watch(lambda: "n")
    watch.subscribe(0)
    header, _ = snapshot_of(Lanes("alice", 1))
    with pytest.raises(BadFrame):
        watch.receive([b"~hello/n", header, pack(body)], 0)
    assert not watch.is_live


topics = st.sampled_from(
    [
        b"~hello/n",
        b"state/alice/status",
        b"state/alice/tick",
        b"replay/n/log/1",
        b"stream/alice/sang",
    ]
)


@settings(max_examples=150)
@given(st.lists(st.tuples(topics, anything, anything, st.booleans(), st.booleans()), max_size=6))
def test_garbage_raises_nothing_but_bad_frame(
    messages: list[tuple[bytes, bytes, bytes, bool, bool]],
) -> None:
    watch = Watch(lambda: "n")
    watch.subscribe(0)
    lanes = Lanes("alice", 3)
    good_header, good_body = snapshot_of(lanes)
    watch.receive([b"~hello/n", good_header, pack({"seqs": {"log": 1}})], 0)
    watch.receive(lanes.publish(Status(status=PodStatus.IDLE), ts_ms=0, now=0), 0)
    for topic, header, body, is_headed, is_replayed in messages:
        frames = [topic, good_header if is_headed else header, body]
        if is_replayed:
            frames.insert(1, b"state/alice/status" if is_headed else b"")
        try:
            watch.receive(frames, 0)
        except BadFrame:
            continue
    assert good_body


# -- anything at all


operations = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(Lane), st.integers(1, 12)),
        st.tuples(st.just("lose"), st.integers(1, 15)),
        st.tuples(st.just("tick"), st.floats(0.1, 2.5)),
        st.tuples(st.just("attach"), st.booleans()),
        st.tuples(st.just("pump")),
        st.tuples(st.just("drain publisher")),
        st.tuples(st.just("drain viewer"), st.integers(0, 3)),
        st.tuples(st.just("disconnect")),
        st.tuples(st.just("reconnect")),
        st.tuples(st.just("restart")),
    ),
    max_size=40,
)


@settings(max_examples=250)
@given(operations, st.sampled_from([3, 20, 8192]))
def test_delivered_and_told_gaps_are_all_that_was_published_in_order(
    steps: list[tuple[object, ...]], ring_events: int
) -> None:
    scene = Scene(ring_events)
    viewers = [scene.attach(), scene.attach(complete=True)]
    left = 0

    def lose(frames: list[bytes]) -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    scene.net.lose = lose
    for step in steps:
        match step:
            case ("publish", Lane() as lane, int(count)):
                for _ in range(count):
                    scene.pod.publish(lane)
            case ("lose", int(count)):
                left = count
            case ("tick", float(seconds)):
                scene.clock.now += seconds
                scene.pod.tick()
                for viewer in viewers:
                    viewer.watcher.tick()
            case ("attach", bool(complete)):
                viewers.append(scene.attach(complete=complete))
            case ("pump",):
                scene.net.pump()
            case ("drain publisher",):
                scene.pod.drain()
            case ("drain viewer", int(which)):
                viewers[which % len(viewers)].watcher.drain()
            case ("disconnect",) if scene.pod.connected:
                scene.pod.disconnect()
            case ("reconnect",):
                scene.pod.reconnect()
            case ("restart",):
                scene.pod.restart()
    settle(scene.net, scene.pod, scene.clock, *viewers)
    for viewer in viewers:
        viewer.account(scene.pod)
