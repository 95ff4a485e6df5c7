"""The broker as a pure class: who may say what to whom, and that every request has one answer."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from protocol import control as c
from protocol.base import Wire
from protocol.control import (
    CONTROLS,
    ClaimSegment,
    Control,
    Hello,
    ListFleet,
    Ping,
    Progress,
    Resume,
    StatusOf,
    Stop,
    Welcome,
)
from protocol.error_body import ErrorBody
from protocol.errors import Conflict, Internal, Timeout, UnknownPod, Unreachable
from protocol.methods import METHODS, Accepted, Notify, RegisterPeer, ScopeLend
from protocol.status import PodStatus
from protocol.wire import (
    MAX_HEADER_BYTES,
    VERSION,
    BeatHeader,
    ForwardHeader,
    ReplyHeader,
    RequestHeader,
    WhoHeader,
    message,
    pack,
    read_header,
    unpack,
)
from supervisor.broker import (
    BeatSeen,
    Broker,
    ControlAsked,
    HelloAsked,
    Out,
    OwnAnswered,
    Principal,
    ReplySeen,
    Send,
    StrangerSaidHello,
)
from tests.protocol.samples import SAMPLES

OP, OP2, ALICE, BOB, STRANGER = b"op", b"op2", b"alice", b"bob", b"stranger"
NOTE = Notify(message="look")
NESTED = b"\xdd\x00\x0f\x00\x00" + b"\x90" * 0x0F0000
"""An array of a million arrays: each byte becomes an object."""
CONTROL_SAMPLES = {s.method: s for s in SAMPLES if isinstance(s, Control)}


class Fleet:
    """A broker between an operator and three pods; `carol` has not said hello."""

    def __init__(self, **options: Any) -> None:
        self.pods = {"alice": (1, True), "bob": (1, True), "carol": (1, True)}
        self.broker = Broker(self.presence, **options)
        self.broker.trust_operator("op-token")
        for name in self.pods:
            self.broker.trust_pod(name, 1, f"{name}-token")
        for name in ("alice", "bob"):
            self.broker.bind(name.encode(), Principal(name, 1))

    def presence(self, name: str) -> tuple[int, bool]:
        if name not in self.pods:
            raise UnknownPod(f"no pod {name}", pod=name)
        return self.pods[name]

    def ask(
        self,
        to: str,
        method: str = "notify",
        body: Wire | bytes | None = NOTE,
        *,
        token: str = "op-token",
        route: bytes = OP,
        request_id: str = "r",
        now: float = 0,
        deadline_ms: int | None = None,
    ) -> list[Out]:
        header = RequestHeader(
            id=request_id, to=to, method=method, token=token, deadline_ms=deadline_ms
        )
        return self.broker.on_frames(route, message(header, body), now)

    def reply(
        self, route: bytes = ALICE, request_id: str = "r", *, ok: bool = True, body: Any = None
    ) -> list[Out]:
        header = ReplyHeader(id=request_id, ok=ok, status=PodStatus.RUNNING, seq=3)
        return self.broker.on_frames(route, message(header, body or Accepted()), 0)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def only(outs: list[Out]) -> Out:
    (out,) = outs
    return out


def refusal(outs: list[Out], route: bytes = OP, request_id: str = "r") -> ErrorBody:
    """Return the error of the one reply that these are."""
    out = only(outs)
    assert isinstance(out, Send)
    assert out.route == route
    header = read_header(unpack(out.frames[0]), ReplyHeader)
    assert (header.id, header.ok) == (request_id, False)
    return ErrorBody.from_wire(unpack(out.frames[1]))


def forwarded(outs: list[Out]) -> tuple[Send, ForwardHeader]:
    """Return the one request that is handed on, and its header."""
    out = only(outs)
    assert isinstance(out, Send)
    assert out.call is not None
    return out, read_header(unpack(out.frames[0]), ForwardHeader)


# -- handing on


def test_request_is_handed_on_with_its_sender_and_without_its_token(fleet: Fleet) -> None:
    send, header = forwarded(fleet.ask("alice", deadline_ms=700))
    assert send.route == ALICE
    assert header == ForwardHeader(id="r", sender="operator", method="notify", deadline_ms=700)
    assert "token" not in unpack(send.frames[0])
    assert b"op-token" not in b"".join(send.frames)


def test_body_for_a_pod_is_never_decoded(fleet: Fleet) -> None:
    send, _ = forwarded(fleet.ask("alice", body=b"\xc1 no msgpack"))
    assert send.frames[1] == b"\xc1 no msgpack"


def test_method_nobody_knows_is_the_pods_to_refuse(fleet: Fleet) -> None:
    _, header = forwarded(fleet.ask("alice", "sing"))
    assert header.method == "sing"


def test_reply_goes_back_to_the_asker_as_the_pod_wrote_it(fleet: Fleet) -> None:
    fleet.ask("alice")
    seen, send = fleet.reply(body={"accepted": True})
    assert isinstance(seen, ReplySeen)
    assert (seen.sender, seen.header.status, seen.header.seq) == (
        Principal("alice", 1),
        PodStatus.RUNNING,
        3,
    )
    assert isinstance(send, Send)
    assert send.route == OP
    assert unpack(send.frames[1]) == {"accepted": True}


def test_requests_of_one_sender_keep_their_order(fleet: Fleet) -> None:
    ids = [forwarded(fleet.ask("alice", request_id=str(n)))[1].id for n in range(20)]
    assert ids == [str(n) for n in range(20)]


# -- who may what


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("to", ["bob", "carol", "nobody"])
def test_pod_may_not_send_to_another_pod_and_learns_nothing_of_it(
    fleet: Fleet, to: str, method: str
) -> None:
    error = refusal(fleet.ask(to, method, token="alice-token", route=ALICE), ALICE)
    assert error.code == "forbidden"


@pytest.mark.parametrize(
    "method", sorted(set(METHODS) - {"scope_lend", "pod_event", "register_peer"})
)
def test_pod_may_send_to_itself(fleet: Fleet, method: str) -> None:
    send, header = forwarded(fleet.ask("alice", method, token="alice-token", route=ALICE))
    assert (send.route, header.sender) == (ALICE, "alice")


def test_pod_may_not_make_itself_a_peer_of_another(fleet: Fleet) -> None:
    outs = fleet.ask(
        "alice", "register_peer", RegisterPeer(name="bob"), token="alice-token", route=ALICE
    )
    assert refusal(outs, ALICE).code == "forbidden"


@pytest.mark.parametrize("method", ["scope_lend", "pod_event"])
@pytest.mark.parametrize(("token", "route"), [("op-token", OP), ("alice-token", ALICE)])
def test_what_comes_from_the_supervisor_alone_is_nobodys_to_send(
    fleet: Fleet, method: str, token: str, route: bytes
) -> None:
    assert refusal(fleet.ask("alice", method, token=token, route=route), route).code == "forbidden"


@pytest.mark.parametrize("method", sorted(set(CONTROLS) - {"hello"}))
def test_operator_may_use_every_control_but_those_of_pods(fleet: Fleet, method: str) -> None:
    outs = fleet.ask("", method, CONTROL_SAMPLES[method])
    if "operator" in CONTROLS[method].rights:
        asked = only(outs)
        assert isinstance(asked, ControlAsked)
        assert (asked.route, asked.request_id, asked.sender.name) == (OP, "r", "operator")
        assert asked.control == CONTROL_SAMPLES[method]
    else:
        assert refusal(outs).code == "forbidden"


@pytest.mark.parametrize("method", sorted(set(CONTROLS) - {"hello"}))
def test_pod_may_only_ask_what_concerns_itself(fleet: Fleet, method: str) -> None:
    control = c.Restore(pod="alice") if method == "restore" else CONTROL_SAMPLES[method]
    outs = fleet.ask("", method, control, token="bob-token", route=BOB)
    if method in ("ping", "claim_segment", "list_pods", "inspect_pod", "pod_event"):
        assert isinstance(only(outs), ControlAsked)
    else:
        hidden = method in ("status", "restore")
        assert refusal(outs, BOB).code == ("not_visible" if hidden else "forbidden")


def test_pod_may_look_at_itself_and_at_nobody_else(fleet: Fleet) -> None:
    for pod, allowed in (("alice", True), ("bob", False), ("nobody", False)):
        outs = fleet.ask("", "status", StatusOf(pod=pod), token="alice-token", route=ALICE)
        if allowed:
            assert isinstance(only(outs), ControlAsked)
        else:
            assert refusal(outs, ALICE).code == "not_visible"


def test_pod_may_neither_stop_nor_kill_itself_or_its_supervisor(fleet: Fleet) -> None:
    for method, body in (("stop", Stop(pods=("alice",))), ("down", None), ("reload", None)):
        outs = fleet.ask("", method, body, token="alice-token", route=ALICE)
        assert refusal(outs, ALICE).code == "forbidden"


@pytest.mark.parametrize("token", ["", "forged", "alice-tokeN", "op-token "])
@pytest.mark.parametrize(("to", "method"), [("alice", "notify"), ("", "ping"), ("", "down")])
def test_forged_token_may_nothing(fleet: Fleet, token: str, to: str, method: str) -> None:
    for route in (STRANGER, ALICE, OP):
        error = refusal(fleet.ask(to, method, token=token, route=route), route)
        assert error.code == "forbidden"
        assert token == "" or token not in error.message


def test_token_counts_not_the_connection(fleet: Fleet) -> None:
    """A pod that got hold of the operator's connection is still a pod."""
    assert refusal(fleet.ask("bob", token="alice-token", route=OP)).code == "forbidden"


def test_token_of_the_incarnation_before_is_worth_nothing(fleet: Fleet) -> None:
    fleet.broker.trust_pod("alice", 2, "alice-2-token")
    outs = fleet.ask("", "ping", Ping(), token="alice-token", route=ALICE)
    assert refusal(outs, ALICE).code == "forbidden"
    assert isinstance(
        only(fleet.ask("", "ping", Ping(), token="alice-2-token", route=ALICE)), ControlAsked
    )


def test_token_of_a_pod_that_is_gone_is_worth_nothing(fleet: Fleet) -> None:
    fleet.broker.drop_pod("alice")
    outs = fleet.ask("", "ping", Ping(), token="alice-token", route=ALICE)
    assert refusal(outs, ALICE).code == "forbidden"


def test_pod_that_is_called_operator_is_no_operator(fleet: Fleet) -> None:
    fleet.pods["operator"] = (1, True)
    fleet.broker.trust_pod("operator", 1, "sly-token")
    assert (
        refusal(fleet.ask("alice", token="sly-token", route=STRANGER), STRANGER).code == "forbidden"
    )
    outs = fleet.ask("", "down", token="sly-token", route=STRANGER)
    assert refusal(outs, STRANGER).code == "forbidden"


# -- hello


def hello(pod: str = "carol", incarnation: int = 1) -> Hello:
    return Hello(
        pod=pod,
        incarnation=incarnation,
        endpoint="ipc:///r/e",
        pid=7,
        resume=Resume(status=PodStatus.IDLE),
    )


def test_hello_with_its_own_token_is_asked_for_and_binds_nothing_yet(fleet: Fleet) -> None:
    asked = only(fleet.ask("", "hello", hello(), token="carol-token", route=b"c"))
    assert asked == HelloAsked(b"c", Principal("carol", 1), "r", hello())
    assert refusal(fleet.ask("carol")).code == "unreachable"
    fleet.broker.bind(b"c", Principal("carol", 1))
    send = fleet.broker.reply(b"c", "r", Welcome(number=4))
    assert unpack(send.frames[1]) == {"lent": [], "number": 4}
    assert forwarded(fleet.ask("carol"))[0].route == b"c"


@pytest.mark.parametrize(("pod", "incarnation"), [("alice", 1), ("carol", 2), ("nobody", 1)])
def test_hello_with_another_pods_token_is_forbidden(
    fleet: Fleet, pod: str, incarnation: int
) -> None:
    outs = fleet.ask("", "hello", hello(pod, incarnation), token="carol-token", route=b"c")
    assert refusal(outs, b"c").code == "forbidden"
    assert forwarded(fleet.ask("alice"))[0].route == ALICE


def test_hello_of_an_operator_is_forbidden(fleet: Fleet) -> None:
    assert refusal(fleet.ask("", "hello", hello())).code == "forbidden"


def test_hello_with_a_token_nobody_gave_out_is_refused_and_reported(fleet: Fleet) -> None:
    stranger, refused = fleet.ask("", "hello", hello(), token="forged", route=STRANGER)
    assert stranger == StrangerSaidHello("carol", 7)
    assert refusal([refused], STRANGER).code == "forbidden"


@pytest.mark.parametrize("to", ["", "alice"])
@pytest.mark.parametrize("method", ["hello", "spawn", "notify", "run", "register_peer"])
def test_nothing_of_a_large_body_is_decoded_before_its_sender_is_known(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, to: str, method: str
) -> None:
    seen: list[int] = []

    def unpack(data: bytes, **how: Any) -> Any:
        seen.append(len(data))
        return msgpack_unpackb(data, **how)

    msgpack_unpackb = msgpack.unpackb
    monkeypatch.setattr(msgpack, "unpackb", unpack)
    for body in (NESTED, pack({"pod": "carol", "pid": 7, "incarnation": 1, "x": "y" * 10**6})):
        for token in ("forged", ""):
            outs = fleet.ask(to, method, body, token=token, route=STRANGER)
            assert refusal(outs, STRANGER).code == "forbidden"
    assert max(seen) <= MAX_HEADER_BYTES


def test_a_hello_that_nests_deeper_than_a_stack_is_refused(fleet: Fleet) -> None:
    deep = b"\x91" * 60_000 + b"\xc0"
    assert refusal(fleet.ask("", "hello", deep, token="x", route=STRANGER), STRANGER)
    assert refusal(fleet.ask("", "hello", deep, token="carol-token", route=b"c"), b"c").code == (
        "invalid_request"
    )


def test_hello_nobody_can_read_is_refused_by_its_field(fleet: Fleet) -> None:
    outs = fleet.ask("", "hello", Ping(), token="carol-token", route=b"c")
    error = refusal(outs, b"c")
    assert error.code == "invalid_request"
    assert "hello" in error.message
    only(fleet.ask("", "hello", b"\xc1", token="forged", route=STRANGER))


def test_new_connection_of_a_pod_takes_over_and_the_old_one_is_a_stranger(fleet: Fleet) -> None:
    fleet.broker.bind(b"a2", Principal("alice", 1))
    assert forwarded(fleet.ask("alice"))[0].route == b"a2"
    assert fleet.reply(ALICE) == []
    assert fleet.broker.counts["stray_replies"] == 1
    assert len(fleet.reply(b"a2")) == 2


def test_pod_whose_connection_is_of_an_older_incarnation_is_unreachable(fleet: Fleet) -> None:
    fleet.pods["alice"] = (2, True)
    assert refusal(fleet.ask("alice")).code == "unreachable"


# -- every request has an answer


def test_unknown_pod_is_answered_at_once(fleet: Fleet) -> None:
    error = refusal(fleet.ask("nobody"))
    assert (error.code, error.details) == ("unknown_pod", {"pod": "nobody"})


def test_pod_that_may_not_be_spoken_to_is_unreachable_with_a_next_step(fleet: Fleet) -> None:
    fleet.pods["alice"] = (1, False)
    error = refusal(fleet.ask("alice"))
    assert error.code == "unreachable"
    assert error.next == "podsup why alice"


def test_pod_that_never_said_hello_is_unreachable(fleet: Fleet) -> None:
    assert refusal(fleet.ask("carol")).code == "unreachable"


def test_request_the_transport_refused_is_answered_unreachable_once(fleet: Fleet) -> None:
    send, _ = forwarded(fleet.ask("alice"))
    assert send.call is not None
    assert refusal(fleet.broker.undeliverable(send.call)).code == "unreachable"
    assert fleet.broker.undeliverable(send.call) == []
    assert fleet.broker.expire(1e9) == []


def test_requests_that_wait_for_a_pod_that_ends_are_answered_unreachable(fleet: Fleet) -> None:
    fleet.ask("alice", request_id="1")
    fleet.ask("alice", request_id="2", route=OP2)
    fleet.ask("bob", request_id="3")
    first, second = fleet.broker.drop_pod("alice")
    assert refusal([first], OP, "1").code == "unreachable"
    assert refusal([second], OP2, "2").code == "unreachable"
    assert fleet.broker.drop_pod("alice") == []
    assert refusal(fleet.ask("alice")).code == "unreachable"
    assert len(fleet.reply(BOB, "3")) == 2, "others are not affected"


@pytest.mark.parametrize(("deadline_ms", "seconds"), [(None, 30.0), (1500, 1.5), (0, 0.0)])
def test_request_without_an_answer_times_out_and_the_late_reply_is_dropped_and_counted(
    fleet: Fleet, deadline_ms: int | None, seconds: float
) -> None:
    fleet.ask("alice", now=100, deadline_ms=deadline_ms)
    assert fleet.broker.relay.next_deadline() == 100 + seconds
    assert fleet.broker.expire(99.9 + seconds) == []
    assert refusal(fleet.broker.expire(100 + seconds)).code == "timeout"
    assert fleet.broker.expire(1e9) == []
    (seen,) = fleet.reply()
    assert isinstance(seen, ReplySeen), "what it says of the pod is still taken over"
    assert fleet.broker.counts["late_replies"] == 1


def test_second_reply_to_a_request_is_dropped(fleet: Fleet) -> None:
    fleet.ask("alice")
    assert len(fleet.reply()) == 2
    (seen,) = fleet.reply()
    assert isinstance(seen, ReplySeen)


def test_reply_of_a_pod_that_was_not_asked_reaches_nobody(fleet: Fleet) -> None:
    fleet.ask("alice")
    (seen,) = fleet.reply(BOB)
    assert isinstance(seen, ReplySeen)
    assert len(fleet.reply(ALICE)) == 2


def test_repeated_request_is_handed_on_once_and_the_newest_connection_is_answered(
    fleet: Fleet,
) -> None:
    forwarded(fleet.ask("alice", now=0))
    assert fleet.ask("alice", route=OP2, now=5) == []
    _, send = fleet.reply()
    assert isinstance(send, Send)
    assert send.route == OP2


def test_answered_request_that_is_repeated_is_handed_on_again(fleet: Fleet) -> None:
    """The memory of what was done lives in the pod."""
    fleet.ask("alice")
    fleet.reply()
    forwarded(fleet.ask("alice"))


def test_repeating_does_not_keep_a_request_from_timing_out(fleet: Fleet) -> None:
    for second in range(0, 30, 5):
        fleet.ask("alice", now=second)
    assert refusal(fleet.broker.expire(30)).code == "timeout"


def test_33rd_request_of_one_sender_is_overloaded_and_not_handed_on(fleet: Fleet) -> None:
    for number in range(32):
        forwarded(fleet.ask("alice", request_id=str(number)))
    assert refusal(fleet.ask("alice")).code == "overloaded"
    forwarded(fleet.ask("alice", token="alice-token", route=ALICE))
    fleet.reply(request_id="5")
    forwarded(fleet.ask("alice", request_id="again"))


def test_257th_request_for_one_pod_is_overloaded(fleet: Fleet) -> None:
    for number in range(256):
        forwarded(fleet.ask("alice", request_id=str(number), route=b"op%d" % (number // 32)))
    assert refusal(fleet.ask("alice", route=b"another"), b"another").code == "overloaded"
    forwarded(fleet.ask("bob"))


def test_body_over_the_limit_is_too_large_and_the_connection_kept() -> None:
    fleet = Fleet(body_limit=100)
    error = refusal(fleet.ask("alice", body=b"x" * 101))
    assert (error.code, error.details) == ("too_large", {"size": 101, "limit": 100})
    forwarded(fleet.ask("alice", body=b"x" * 100))


@pytest.mark.parametrize(
    ("method", "body", "says"),
    [
        ("sing", None, "sing"),
        ("status", None, "pod"),
        ("logs_tail", b"\x81\xa3pod\x05", "pod"),
        ("kill", b"\xc1", ""),
        ("kill", pack([1, 2]), "kill"),
        ("run", None, "run"),
    ],
)
def test_control_that_cannot_be_understood_is_an_invalid_request(
    fleet: Fleet, method: str, body: bytes | None, says: str
) -> None:
    error = refusal(fleet.ask("", method, body))
    assert error.code == "invalid_request"
    assert says in error.message


def test_control_is_answered_by_reply_or_refuse(fleet: Fleet) -> None:
    asked = only(fleet.ask("", "list", ListFleet()))
    assert isinstance(asked, ControlAsked)
    done = fleet.broker.reply(asked.route, asked.request_id, Accepted())
    assert read_header(unpack(done.frames[0]), ReplyHeader).ok
    refused = fleet.broker.refuse(asked.route, asked.request_id, Conflict("not now"))
    assert refusal([refused]).code == "conflict"


# -- the supervisor's own requests

LEND = ScopeLend(lent=(), number=1)


def own(fleet: Fleet, pod: str = "alice", request_id: str = "own") -> list[Out]:
    return fleet.broker.ask(pod, request_id, "scope_lend", LEND, deadline=5)


def test_own_request_says_it_is_the_supervisors_and_is_answered_to_it(fleet: Fleet) -> None:
    _, header = forwarded(own(fleet))
    assert (header.sender, header.method) == ("", "scope_lend")
    _, answered = fleet.reply(request_id="own")
    assert answered == OwnAnswered("alice", "own")


def test_refusal_of_an_own_request_comes_as_its_error(fleet: Fleet) -> None:
    own(fleet)
    body = Conflict("still writing").to_body()
    _, answered = fleet.reply(request_id="own", ok=False, body=body)
    assert isinstance(answered, OwnAnswered)
    assert isinstance(answered.error, Conflict)


def test_refusal_that_cannot_be_read_is_an_internal_error(fleet: Fleet) -> None:
    own(fleet)
    _, answered = fleet.reply(request_id="own", ok=False, body=b"\xc1")
    assert isinstance(answered, OwnAnswered)
    assert isinstance(answered.error, Internal)


def test_own_request_is_told_when_its_pod_ends_or_says_nothing(fleet: Fleet) -> None:
    own(fleet)
    ended = only(fleet.broker.drop_pod("alice"))
    assert isinstance(ended, OwnAnswered)
    assert isinstance(ended.error, Unreachable)
    own(fleet, "bob")
    late = only(fleet.broker.expire(5))
    assert isinstance(late, OwnAnswered)
    assert isinstance(late.error, Timeout)


def test_own_request_to_a_pod_without_a_connection_has_an_answer(fleet: Fleet) -> None:
    answered = only(own(fleet, "carol"))
    assert isinstance(answered, OwnAnswered)
    assert isinstance(answered.error, Unreachable)


def test_own_request_to_a_pod_with_too_much_waiting_has_an_answer_and_raises_nothing(
    fleet: Fleet,
) -> None:
    for number in range(256):
        fleet.ask("alice", request_id=str(number), route=b"op%d" % (number // 32))
    outs = own(fleet)
    assert len(outs) == 1


# -- beats, garbage, other versions

BEAT = BeatHeader(
    pod="bob", incarnation=9, seq=1, status=PodStatus.IDLE, progress=Progress(what="idle")
)


def test_beat_is_the_connections_whatever_name_it_gives(fleet: Fleet) -> None:
    beat = only(fleet.broker.on_frames(ALICE, message(BEAT), 0))
    assert beat == BeatSeen(Principal("alice", 1), BEAT)


def test_beat_of_a_connection_that_said_no_hello_is_answered_who(fleet: Fleet) -> None:
    asked = only(fleet.broker.on_frames(STRANGER, message(BEAT), 0))
    assert asked == Send(STRANGER, message(WhoHeader()))


def test_reply_of_a_connection_that_said_no_hello_is_counted_and_dropped(fleet: Fleet) -> None:
    fleet.ask("alice")
    assert fleet.reply(STRANGER) == []
    assert fleet.broker.counts["stray_replies"] == 1
    assert len(fleet.reply()) == 2


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"\xc1", b""],
        [pack({"v": 1, "type": "song"}), b""],
        [pack({"v": 1, "type": []}), b""],
        [pack({"v": 1, "type": "request"}), b""],
        [pack({"v": 1, "type": "who"}), b""],
        [pack({"v": 1, "type": "reply", "id": "r", "ok": "perhaps"}), b""],
        [pack({"v": 1, "type": "beat"}), b""],
        [pack(RequestHeader(id="r", to="alice", method="run"))] * 5,
    ],
)
def test_garbage_is_counted_and_dropped(fleet: Fleet, frames: list[bytes]) -> None:
    assert fleet.broker.on_frames(OP, frames, 0) == []
    assert fleet.broker.counts["garbage"] == 1


def test_request_of_another_version_is_answered_with_both_versions(fleet: Fleet) -> None:
    frames = message(RequestHeader(v=2, id="r", to="alice", method="run", token="op-token"), NOTE)
    error = refusal(fleet.broker.on_frames(OP, frames, 0))
    assert error.code == "unsupported_version"
    assert error.details == {"theirs": 2, "ours": VERSION}
    assert fleet.broker.counts["other_version"] == 1


@pytest.mark.parametrize("kind", ["reply", "beat", "who", "event"])
def test_what_is_no_request_gets_no_answer_whatever_its_version(fleet: Fleet, kind: str) -> None:
    """Two programs of different versions would answer each other's answers for ever."""
    frames = [pack({"v": 2, "type": kind, "id": "r", "ok": True}), b""]
    assert fleet.broker.on_frames(ALICE, frames, 0) == []
    assert fleet.broker.counts["other_version"] == 1


@pytest.mark.parametrize("request_id", [None, 5, []])
def test_request_of_another_version_without_an_id_is_counted_and_dropped(
    fleet: Fleet, request_id: object
) -> None:
    frames = [pack({"v": 2, "type": "request", "id": request_id}), b""]
    assert fleet.broker.on_frames(OP, frames, 0) == []


def test_claim_of_a_segment_is_the_senders_by_its_token(fleet: Fleet) -> None:
    claim = ClaimSegment(session_id="s", segment_id="g")
    asked = only(fleet.ask("", "claim_segment", claim, token="alice-token", route=BOB))
    assert isinstance(asked, ControlAsked)
    assert asked.sender == Principal("alice", 1)
