"""What a pod may send and ask, by what the target is to it: the paragraph on authority, as tables.

The broker is given a made-up family, so that nothing but its own decision is looked at.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocol.base import Wire
from protocol.control import (
    CONTROLS,
    Control,
    Kill,
    RegisterPeers,
    ReportUp,
    Restore,
    SeenPod,
    Spawn,
    StatusOf,
    Stop,
)
from protocol.error_body import ErrorBody
from protocol.errors import NotVisible, UnknownPod
from protocol.methods import METHODS, Accepted, Notify, RegisterPeer, Run
from protocol.pod_events import TurnEnded
from protocol.segments import Text
from protocol.status import PodStatus, Relation, RunResult
from protocol.wire import (
    ForwardHeader,
    ReplyHeader,
    RequestHeader,
    message,
    pack,
    read_header,
    unpack,
)
from supervisor.broker import Broker, ControlAsked, Out, Principal, Send

ME, OP = "me", "operator"
KNOWN: dict[str, Relation] = {
    ME: Relation.SELF,
    "child": Relation.CHILD,
    "grandchild": Relation.DESCENDANT,
    "peer": Relation.PEER,
}
"""What each is to `me`. `parent` and `stranger` are pods of the fleet, `nobody` is none."""

EVERYBODY = (*KNOWN, "parent", "stranger")
TARGETS = (*EVERYBODY, "nobody")
BELOW = ("child", "grandchild")
SEEN = tuple(KNOWN)
SUPERVISORS_OWN = ("scope_lend", "pod_event")


class Family:
    """What pods are to `me`; to everybody else they are nothing."""

    def relation(self, seer: str, other: str) -> Relation | None:
        return KNOWN.get(other) if seer == ME else None

    def is_parent(self, other: str, child: str) -> bool:
        return (other, child) == ("parent", ME)

    def require_seen(self, seer: str, name: str) -> None:
        if name not in EVERYBODY:
            raise UnknownPod(f"no pod is named {name}", pod=name)
        if self.relation(seer, name) is None:
            raise NotVisible(f"pod {name} is not to be seen", pod=name)


class Desk:
    """A broker to which all of the fleet are connected."""

    def __init__(self) -> None:
        self.broker = Broker(self.presence, Family())
        self.broker.trust_operator("op-token")
        for name in EVERYBODY:
            self.broker.trust_pod(name, 1, f"{name}-token")
            self.broker.bind(name.encode(), Principal(name, 1))

    def presence(self, name: str) -> tuple[int, bool]:
        if name not in EVERYBODY:
            raise UnknownPod(f"no pod is named {name}", pod=name)
        return 1, True

    def say(self, to: str, method: str, body: Wire | bytes | None, sender: str) -> str:
        """Return what becomes of a request: `allowed`, or the code it is refused with."""
        (out,) = self.outs(to, method, body, sender)
        return outcome(out, self.route(sender))

    def outs(self, to: str, method: str, body: Wire | bytes | None, sender: str) -> list[Out]:
        token = "op-token" if sender == OP else f"{sender}-token"
        header = RequestHeader(id="r", to=to, method=method, token=token)
        return self.broker.on_frames(self.route(sender), message(header, body), 0.0)

    def control(self, control: Control, sender: str = ME) -> str:
        """Return what becomes of a control."""
        return self.say("", control.method, control, sender)

    @staticmethod
    def route(sender: str) -> bytes:
        return sender.encode()


def outcome(out: Out, asker: bytes) -> str:
    if isinstance(out, ControlAsked):
        return "allowed"
    assert isinstance(out, Send)
    if out.call is not None:
        return "allowed"
    assert out.route == asker
    assert not read_header(unpack(out.frames[0]), ReplyHeader).ok
    return str(ErrorBody.from_wire(unpack(out.frames[1])).code)


@pytest.fixture
def desk() -> Desk:
    return Desk()


# -- methods, from pod to pod


def expected_of_a_method(to: str, method: str) -> str:
    """Say what the paragraph says."""
    if method in SUPERVISORS_OWN:
        return "forbidden"
    if to == ME or to in BELOW:
        return "allowed"
    return "allowed" if method == "notify" and to in ("peer", "parent") else "forbidden"


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"register_peer"}))
def test_pod_sends_anything_below_and_a_notification_to_parent_and_peers(
    desk: Desk, method: str, to: str
) -> None:
    note = Notify(message="look") if method == "notify" else None
    assert desk.say(to, method, note, ME) == expected_of_a_method(to, method)


@pytest.mark.parametrize("to", TARGETS)
def test_method_that_nobody_knows_goes_only_where_anything_goes(desk: Desk, to: str) -> None:
    assert desk.say(to, "sing", None, ME) == expected_of_a_method(to, "sing")


@pytest.mark.parametrize("sender", ["child", "peer", "parent", "stranger"])
def test_right_of_one_is_not_the_right_of_the_other(desk: Desk, sender: str) -> None:
    """Who is below, beside or above a pod has no right to it by that."""
    for method in ("run", "cancel", "notify"):
        assert desk.say(ME, method, None, sender) == "forbidden"


def test_what_is_sent_to_kin_carries_the_senders_name_and_not_its_token(desk: Desk) -> None:
    for to in (ME, *BELOW, "peer", "parent"):
        (send,) = desk.outs(to, "notify", Notify(message="look"), ME)
        assert isinstance(send, Send)
        assert read_header(unpack(send.frames[0]), ForwardHeader).sender == ME
        assert b"me-token" not in b"".join(send.frames)
        desk.broker.on_frames(to.encode(), reply(), 0.0)


def reply() -> list[bytes]:
    return message(ReplyHeader(id="r", ok=True, status=PodStatus.IDLE, seq=1), Accepted())


@pytest.mark.parametrize("method", SUPERVISORS_OWN)
@pytest.mark.parametrize("sender", [OP, *EVERYBODY])
def test_what_the_supervisor_alone_may_send_is_nobodys(
    desk: Desk, method: str, sender: str
) -> None:
    """A lend or an end that a pod could tell would free what another still writes."""
    for to in TARGETS:
        assert desk.say(to, method, None, sender) == "forbidden"


def test_operator_sends_anything_to_anybody(desk: Desk) -> None:
    run = Run(input=(Text(content="go"),))
    for to in EVERYBODY:
        assert desk.say(to, "run", run, OP) == "allowed"
    assert desk.say("nobody", "run", run, OP) == "unknown_pod"


# -- controls, from a pod to the supervisor


TURN = TurnEnded(pod_name="x", result=RunResult.FINISHED)


@pytest.mark.parametrize(
    ("control", "allowed", "otherwise"),
    [
        (lambda pod: Stop(pods=(pod,)), BELOW, "forbidden"),
        (lambda pod: Stop(pods=(pod,), grace_s=0.0), BELOW, "forbidden"),
        (lambda pod: Kill(pods=(pod,)), BELOW, "forbidden"),
        (lambda pod: Spawn(table={"name": "new"}, parent=pod), (ME, *BELOW), "forbidden"),
        (lambda pod: RegisterPeers(source="child", peer=pod), BELOW, "forbidden"),
        (lambda pod: RegisterPeers(source=pod, peer="child"), BELOW, "forbidden"),
        (lambda pod: Restore(pod=pod), SEEN, "not_visible"),
        (lambda pod: StatusOf(pod=pod), SEEN, "not_visible"),
        (lambda pod: SeenPod(name=pod), TARGETS, "decided by the fleet"),
    ],
    ids=["stop", "stop now", "kill", "spawn", "peer", "peer of", "restore", "status", "inspect"],
)
@pytest.mark.parametrize("pod", TARGETS)
def test_pod_acts_on_what_is_below_it_and_looks_at_what_it_sees(
    desk: Desk,
    pod: str,
    control: Callable[[str], Control],
    allowed: tuple[str, ...],
    otherwise: str,
) -> None:
    refused = "unknown_pod" if (otherwise, pod) == ("not_visible", "nobody") else otherwise
    assert desk.control(control(pod)) == ("allowed" if pod in allowed else refused)


@pytest.mark.parametrize("control", [Stop, Kill])
@pytest.mark.parametrize("other", [pod for pod in TARGETS if pod not in BELOW])
def test_one_that_is_not_below_spoils_the_whole_of_what_is_asked(
    desk: Desk, control: type[Stop | Kill], other: str
) -> None:
    assert desk.control(control(pods=BELOW)) == "allowed"
    assert desk.control(control(pods=(*BELOW, other))) == "forbidden"
    assert desk.control(control(pods=(other, *BELOW))) == "forbidden"


@pytest.mark.parametrize(
    "control",
    [Stop(), Stop(all_pods=True), Stop(all_pods=True, pods=("child",)), Kill(pods=())],
    ids=["stop none", "stop all", "stop all by name", "kill none"],
)
def test_pod_may_not_stop_everybody_nor_name_nobody(desk: Desk, control: Control) -> None:
    assert desk.control(control) == "forbidden"


@pytest.mark.parametrize(
    ("parent", "expected"), [(None, "allowed"), (ME, "allowed"), ("", "forbidden")]
)
def test_pod_that_names_no_parent_spawns_below_itself(
    desk: Desk, parent: str | None, expected: str
) -> None:
    assert desk.control(Spawn(table={"name": "new"}, parent=parent)) == expected


def test_pod_restores_a_peer_and_gains_nothing_by_it(desk: Desk) -> None:
    assert desk.control(Restore(pod="peer")) == "allowed"
    for control in (Stop(pods=("peer",)), Kill(pods=("peer",))):
        assert desk.control(control) == "forbidden"
    assert desk.say("peer", "run", None, ME) == "forbidden"


def test_pod_reports_and_looks_around_without_naming_anybody(desk: Desk) -> None:
    assert desk.control(ReportUp(event_id="e", event=TURN)) == "allowed"
    assert desk.control(CONTROLS["list_pods"]()) == "allowed"


@pytest.mark.parametrize("method", ["pod_event", "list_pods", "inspect_pod", "claim_segment"])
def test_what_a_pod_asks_of_itself_is_no_operators(desk: Desk, method: str) -> None:
    assert desk.say("", method, None, OP) == "forbidden"


@pytest.mark.parametrize("method", ["restart", "delete", "down", "apply", "reload", "reclaim"])
def test_what_is_the_operators_alone_is_not_even_for_what_is_below(desk: Desk, method: str) -> None:
    body = pack({"pods": ["child"], "pod": "child"})
    assert desk.say("", method, body, ME) == "forbidden"
    assert desk.say("", method, body, "stranger") == "forbidden"


# -- peers, as a method of a pod


@pytest.mark.parametrize("peer", TARGETS)
@pytest.mark.parametrize("source", TARGETS)
def test_pod_makes_peers_of_two_that_are_below_it(desk: Desk, source: str, peer: str) -> None:
    outcome = desk.say(source, "register_peer", RegisterPeer(name=peer), ME)
    assert outcome == ("allowed" if source in BELOW and peer in BELOW else "forbidden")


def test_peers_that_are_made_by_method_are_a_control_of_the_fleet(desk: Desk) -> None:
    for sender in (ME, OP):
        (asked,) = desk.outs("child", "register_peer", RegisterPeer(name="grandchild"), sender)
        assert isinstance(asked, ControlAsked)
        assert asked.control == RegisterPeers(source="child", peer="grandchild")
        assert asked.sender.name == sender


def test_operator_makes_peers_of_any_two(desk: Desk) -> None:
    for source in EVERYBODY:
        assert desk.say(source, "register_peer", RegisterPeer(name="peer"), OP) == "allowed"


def test_body_of_a_registration_that_cannot_be_read_is_told_only_to_who_may_ask(
    desk: Desk,
) -> None:
    assert desk.say("child", "register_peer", pack({"name": 5}), ME) == "invalid_request"
    assert desk.say("peer", "register_peer", pack({"name": 5}), ME) == "forbidden"
