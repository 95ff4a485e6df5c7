"""Routing, rights and tokens: frames in, sends and facts out.

No sockets here, so that it can be tested whole.

    operator ─ request(token, to) ─►┌────────┐─ forward(from) ─► pod
             ◄─────── reply ────────│ Broker │◄──── reply ──────
                                    └────┬───┘
                  control for the fleet, hello, beat, what a reply's header says of its pod

A sender's name is what its token says, and a route belongs to a token: it is bound by `hello` and
by nothing else. Bodies for pods are never decoded. Every request that is taken gets exactly one
answer, from its target or from here: when the target cannot be reached, dies, or lets the deadline
pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pydantic import ValidationError

from protocol.base import Wire
from protocol.calls import OPERATOR, Full, Pending, Relay
from protocol.control import (
    CONTROLS,
    ClaimSegment,
    Control,
    Hello,
    Kill,
    Ping,
    RegisterPeers,
    ReportUp,
    Restore,
    SeenPod,
    SeenPods,
    Spawn,
    StatusOf,
    Stop,
    decode_control,
)
from protocol.error_body import ErrorBody, error_from_body
from protocol.errors import (
    BadRequest,
    Forbidden,
    Internal,
    InvalidRequest,
    NotVisible,
    Overloaded,
    PodsupError,
    Timeout,
    Unreachable,
    UnsupportedVersion,
)
from protocol.methods import Notify, RegisterPeer
from protocol.status import Relation
from protocol.wire import (
    DEFAULT_DEADLINE_MS,
    MAX_BODY_BYTES,
    MAX_STRANGER_BYTES,
    BadFrame,
    BeatHeader,
    ForwardHeader,
    Frames,
    ReplyHeader,
    RequestHeader,
    WhoHeader,
    body_of,
    header_fields,
    message,
    pack,
    read_body,
    read_header,
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a token stands for: an operator, or one incarnation of a pod.

    What it may do follows from `is_operator`, never from its name.
    """

    name: str
    incarnation: int = 0
    is_operator: bool = False


# -- what comes out


@dataclass(frozen=True, slots=True)
class Send:
    """Send frames; `call` must be answered from here when that fails."""

    route: bytes
    frames: list[bytes]
    call: Pending | None = None


@dataclass(frozen=True, slots=True)
class ControlAsked:
    """A control whose sender may use it; answer with `Broker.reply`."""

    route: bytes
    sender: Principal
    request_id: str
    control: Control


@dataclass(frozen=True, slots=True)
class HelloAsked:
    """A pod introduces its connection; answer with `Broker.reply`, after `bind`."""

    route: bytes
    sender: Principal
    request_id: str
    hello: Hello


@dataclass(frozen=True, slots=True)
class StrangerSaidHello:
    """A hello whose token nobody gave out: reported, never killed."""

    pod: str
    pid: int


@dataclass(frozen=True, slots=True)
class BeatSeen:
    """A beat of a connection that said hello."""

    sender: Principal
    header: BeatHeader


@dataclass(frozen=True, slots=True)
class ReplySeen:
    """What a pod's reply says of its state."""

    sender: Principal
    header: ReplyHeader


@dataclass(frozen=True, slots=True)
class OwnAnswered:
    """A request of the supervisor's own has its answer; `error` is None when it was taken."""

    pod: str
    request_id: str
    error: PodsupError | None = None


Out: TypeAlias = (
    Send | ControlAsked | HelloAsked | StrangerSaidHello | BeatSeen | ReplySeen | OwnAnswered
)


def _error_in(frames: Frames) -> PodsupError:
    try:
        return error_from_body(ErrorBody.from_wire(read_body(body_of(frames))))
    except (ValidationError, BadFrame, BadRequest) as problem:
        return Internal(f"a refusal that cannot be read: {problem}")


Presence: TypeAlias = Callable[[str], tuple[int, bool]]
"""(incarnation, may be spoken to) of a pod; raises UnknownPod."""


class Family(Protocol):
    """What pods are to each other."""

    def relation(self, seer: str, other: str) -> Relation | None:
        """Return what the other is to a pod, None where it does not see it."""

    def is_parent(self, other: str, child: str) -> bool:
        """Say whether a pod may write to the other as to its parent."""

    def require_seen(self, seer: str, name: str) -> None:
        """Raise UnknownPod or NotVisible."""


class Strangers:
    """A family in which nobody knows anybody."""

    def relation(self, seer: str, other: str) -> Relation | None:
        """Return SELF for oneself."""
        return Relation.SELF if seer == other else None

    def is_parent(self, other: str, child: str) -> bool:
        """Say no."""
        return False

    def require_seen(self, seer: str, name: str) -> None:
        """Raise NotVisible for all others."""
        if seer != name:
            raise NotVisible(f"pod {name} is not visible to {seer}")


BELOW = (Relation.CHILD, Relation.DESCENDANT)


class Broker:
    """The routing of one supervisor.

    `presence` is asked about each target, `family` about what a pod may do to it.
    """

    def __init__(
        self,
        presence: Presence,
        family: Family | None = None,
        *,
        body_limit: int = MAX_BODY_BYTES,
    ) -> None:
        self._presence = presence
        self._family: Family = family or Strangers()
        self._body_limit = body_limit
        self._principals: dict[str, Principal] = {}
        self._tokens: dict[str, str] = {}
        self._routes: dict[str, tuple[int, bytes]] = {}
        self._senders: dict[bytes, Principal] = {}
        self.relay = Relay()
        self.counts: Counter[str] = Counter()

    # -- who is who

    def trust_operator(self, token: str) -> None:
        """Let this token stand for an operator."""
        self._principals[token] = Principal(OPERATOR, is_operator=True)

    def trust_pod(self, name: str, incarnation: int, token: str) -> None:
        """Let this token stand for an incarnation; the one before is worth nothing from now on."""
        self._principals.pop(self._tokens.pop(name, ""), None)
        self._tokens[name] = token
        self._principals[token] = Principal(name, incarnation)

    def bind(self, route: bytes, pod: Principal) -> None:
        """The connection has said hello with the pod's token."""
        old = self._routes.get(pod.name)
        if old is not None:
            self._senders.pop(old[1], None)
            self.relay.reconnected(pod.name)
        self._routes[pod.name] = (pod.incarnation, route)
        self._senders[route] = pod

    def drop_pod(self, name: str) -> list[Out]:
        """The pod's process is gone: answer what waits for it, forget its token and route."""
        self._principals.pop(self._tokens.pop(name, ""), None)
        bound = self._routes.pop(name, None)
        if bound is not None:
            self._senders.pop(bound[1], None)
        gone = Unreachable(f"pod {name} ended before it answered", next_step=f"podsup why {name}")
        return [out for call in self.relay.drop(name) for out in self._refuse(call, gone)]

    # -- frames

    def on_frames(self, route: bytes, frames: Frames, now: float) -> list[Out]:
        """Take one message; garbage is counted and dropped."""
        try:
            fields = header_fields(frames)
            match fields.get("type"):
                case "request":
                    return self._on_request(route, read_header(fields, RequestHeader), frames, now)
                case "reply":
                    return self._on_reply(route, read_header(fields, ReplyHeader), frames)
                case "beat":
                    return self._on_beat(route, read_header(fields, BeatHeader))
                case other:
                    raise BadFrame(f"type {other!r}")
        except BadFrame:
            self.counts["garbage"] += 1
            return []
        except UnsupportedVersion as error:
            self.counts["other_version"] += 1
            return self._answer_unversioned(route, frames, error)

    def _answer_unversioned(
        self, route: bytes, frames: Frames, error: UnsupportedVersion
    ) -> list[Out]:
        fields = read_body(frames[0])
        request_id = fields.get("id")
        if fields.get("type") != "request" or not isinstance(request_id, str):
            return []
        return [self._error(route, request_id, error)]

    def _on_request(
        self, route: bytes, header: RequestHeader, frames: Frames, now: float
    ) -> list[Out]:
        self.counts["requests"] += 1
        sender = self._principals.get(header.token)
        try:
            if sender is None:
                raise Forbidden(
                    "the token is not one that this supervisor gave out",
                    next_step="connect again: a restarted supervisor has a new token",
                )
            body = body_of(frames, self._body_limit)
            if header.to == "":
                return self._on_control(route, sender, header, body)
            if header.method == RegisterPeer.method:
                return self._on_peer(route, sender, header, body)
            self._require_right(sender, header)
            return self._forward(route, sender, header, body, now)
        except BadFrame as problem:
            return [self._error(route, header.id, InvalidRequest(str(problem)))]
        except PodsupError as error:
            stranger: list[Out] = []
            if sender is None and header.to == "" and header.method == Hello.method:
                stranger = self._stranger(frames)
            return [*stranger, self._error(route, header.id, error)]

    def _stranger(self, frames: Frames) -> list[Out]:
        try:
            hello = Hello.from_wire(read_body(body_of(frames, MAX_STRANGER_BYTES)))
        except (ValidationError, BadFrame, PodsupError):
            return []
        return [StrangerSaidHello(hello.pod, hello.pid)]

    def _on_control(
        self, route: bytes, sender: Principal, header: RequestHeader, body: bytes
    ) -> list[Out]:
        known = CONTROLS.get(header.method)
        if known is None:
            raise InvalidRequest(f"the supervisor has no control {header.method!r}")
        role = OPERATOR if sender.is_operator else "pod"
        if role not in known.rights:
            raise Forbidden(f"{sender.name} may not ask the supervisor to {header.method}")
        try:
            control = decode_control(header.method, read_body(body))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidRequest(f"{header.method}: {where}: {first['msg']}") from error
        if isinstance(control, Hello):
            if (control.pod, control.incarnation) != (sender.name, sender.incarnation):
                raise Forbidden("the token is another pod's")
            return [HelloAsked(route, sender, header.id, control)]
        self._require_target(sender, control)
        return [ControlAsked(route, sender, header.id, control)]

    def _on_peer(
        self, route: bytes, sender: Principal, header: RequestHeader, body: bytes
    ) -> list[Out]:
        """Take the method of a pod for what it is: a change of two records that are not its own."""
        if not sender.is_operator and self._family.relation(sender.name, header.to) not in BELOW:
            raise Forbidden(f"pod {sender.name} may not make peers of what is not below it")
        try:
            asked = RegisterPeer.from_wire(read_body(body))
        except ValidationError as error:
            raise InvalidRequest(f"register_peer: {error.errors()[0]['msg']}") from error
        control = RegisterPeers(source=header.to, peer=asked.name)
        self._require_target(sender, control)
        return [ControlAsked(route, sender, header.id, control)]

    def _require_target(self, sender: Principal, control: Control) -> None:
        """A pod may look at what it sees, and act on what is below it."""
        if sender.is_operator:
            return
        me = sender.name
        match control:
            case Ping() | ClaimSegment() | SeenPods() | SeenPod() | ReportUp():
                return
            case StatusOf(pod=pod) | Restore(pod=pod):
                self._family.require_seen(me, pod)
                return
            case Spawn(parent=parent) if parent in (None, me):
                return
            case Spawn(parent=parent):
                targets = [parent or me]
            case Stop(all_pods=False, pods=pods) | Kill(pods=pods):
                targets = list(pods)
            case RegisterPeers(source=source, peer=peer):
                targets = [source, peer]
            case _:
                targets = []
        if not targets or any(self._family.relation(me, pod) not in BELOW for pod in targets):
            raise Forbidden(f"pod {me} may not {control.method} what is not below it")

    def _require_right(self, sender: Principal, header: RequestHeader) -> None:
        """A pod may send to itself and what is below it; to parent and peers, a notification."""
        if header.method in ("scope_lend", "pod_event"):
            raise Forbidden(f"{header.method} comes from the supervisor only")
        if sender.is_operator:
            return
        known = self._family.relation(sender.name, header.to)
        if known is Relation.SELF or known in BELOW:
            return
        may_notify = known is Relation.PEER or self._family.is_parent(header.to, sender.name)
        if not may_notify:
            raise Forbidden(f"pod {sender.name} may not send to {header.to}")
        if header.method != Notify.method:
            raise Forbidden(f"pod {sender.name} may only notify {header.to}")

    # -- to pods and back

    def _forward(
        self, route: bytes, sender: Principal, header: RequestHeader, body: bytes, now: float
    ) -> list[Out]:
        incarnation, may_speak = self._presence(header.to)
        bound = self._routes.get(header.to)
        if not may_speak or bound is None or bound[0] != incarnation:
            raise Unreachable(
                f"pod {header.to} cannot be spoken to now",
                next_step=f"podsup why {header.to}",
                pod=header.to,
            )
        deadline_ms = DEFAULT_DEADLINE_MS if header.deadline_ms is None else header.deadline_ms
        call = Pending(sender.name, header.id, header.to, route, now + deadline_ms / 1000)
        return self._admit(call, bound[1], header.method, header.deadline_ms, body)

    def ask(
        self, pod: str, request_id: str, method: str, body: Wire, *, deadline: float
    ) -> list[Out]:
        """Send a request of the supervisor's own; its answer comes as `OwnAnswered`."""
        bound = self._routes.get(pod)
        if bound is None:
            gone = Unreachable(f"pod {pod} has no connection", pod=pod)
            return [OwnAnswered(pod, request_id, gone)]
        call = Pending("", request_id, pod, b"", deadline)
        try:
            return self._admit(call, bound[1], method, None, pack(body))
        except Overloaded as error:
            return [OwnAnswered(pod, request_id, error)]

    def _admit(
        self, call: Pending, to: bytes, method: str, deadline_ms: int | None, body: bytes
    ) -> list[Out]:
        admitted = self.relay.admit(call)
        if isinstance(admitted, Full):
            raise Overloaded(f"{admitted.what}; nothing was queued, try again later")
        if not admitted:
            return []
        header = ForwardHeader(
            id=call.request_id, sender=call.sender, method=method, deadline_ms=deadline_ms
        )
        return [Send(to, [pack(header), body], call)]

    def undeliverable(self, call: Pending) -> list[Out]:
        """The transport refused the frames: nobody there, or its queue is full."""
        if self.relay.answer(call.target, call.request_id) is None:
            return []
        error = Unreachable(
            f"pod {call.target} does not take messages now",
            next_step=f"podsup status {call.target}",
        )
        return self._refuse(call, error)

    def _on_reply(self, route: bytes, header: ReplyHeader, frames: Frames) -> list[Out]:
        sender = self._senders.get(route)
        if sender is None:
            self.counts["stray_replies"] += 1
            return []
        seen: list[Out] = [ReplySeen(sender, header)]
        call = self.relay.answer(sender.name, header.id)
        if call is None:
            self.counts["late_replies"] += 1
            return seen
        if call.asker:
            seen.append(Send(call.asker, [bytes(frame) for frame in frames]))
        else:
            error = None if header.ok else _error_in(frames)
            seen.append(OwnAnswered(sender.name, header.id, error))
        return seen

    def _on_beat(self, route: bytes, header: BeatHeader) -> list[Out]:
        sender = self._senders.get(route)
        if sender is None:
            return [Send(route, message(WhoHeader()))]
        return [BeatSeen(sender, header)]

    def expire(self, now: float) -> list[Out]:
        """Answer what has waited too long; a reply that comes later is dropped."""
        out: list[Out] = []
        for call in self.relay.expire(now):
            error = Timeout(
                f"pod {call.target} did not answer in time; the request may still take effect",
                next_step=f"podsup status {call.target}",
            )
            out += self._refuse(call, error)
        return out

    # -- answers

    def reply(self, route: bytes, request_id: str, body: Wire, *, ok: bool = True) -> Send:
        """Answer a control."""
        return Send(route, message(ReplyHeader(id=request_id, ok=ok), body))

    def refuse(self, route: bytes, request_id: str, error: PodsupError) -> Send:
        """Answer a control with an error."""
        return self._error(route, request_id, error)

    def _refuse(self, call: Pending, error: PodsupError) -> list[Out]:
        if call.asker:
            return [self._error(call.asker, call.request_id, error)]
        return [OwnAnswered(str(call.target), call.request_id, error)]

    @staticmethod
    def _error(route: bytes, request_id: str, error: PodsupError) -> Send:
        return Send(route, message(ReplyHeader(id=request_id, ok=False), error.to_body()))
