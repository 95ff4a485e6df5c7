"""What a notification or a child's report puts into the inbox. Pure."""

from __future__ import annotations

from collections.abc import Callable

from podproc import turn_terms as t
from podproc.notifications import Arrived
from protocol import methods as m
from protocol.calls import OPERATOR
from protocol.entries import SystemItem
from protocol.pod_events import line_for_model


def _is_pod(sender: str) -> bool:
    return sender not in ("", OPERATOR)


def message_id(request: t.Request) -> str:
    """Return what a message is known by; two pods may choose the same id for theirs.

    No name of a pod has a space in it, so no id that a pod chooses can pass for another one's.
    """
    if _is_pod(request.sender):
        return f"{request.id} from {request.sender}"
    return request.id


def _from_pod(sender: str, message: str) -> str:
    """Return a message with its sender's name; no line of it can pass for another one's."""
    return "\n  ".join(f"Message from pod {sender}: {message}".splitlines())


def arrived(
    request: t.Request, wakes: bool, *, ts: int, knows: Callable[[str], bool]
) -> Arrived | None:
    """Return what a request puts into the inbox at `ts` (epoch ms).

    None where it tells only what is known.
    """
    events: tuple[str, ...] = ()
    match request.method:
        case m.Notify(message=message, queued=queued, news=news):
            is_pods = _is_pod(request.sender)
            body = _from_pod(request.sender, message) if is_pods else message
            news = () if is_pods else news
            if news and not (unknown := [one for one in news if not knows(one.event_id)]):
                return None
            if news:
                events = tuple(one.event_id for one in unknown)
                body = "\n".join([body, *(one.line for one in unknown)])
            item = SystemItem(kind="notification", body=body)
            key = message_id(request)
            from_parent = queued and is_pods
        case m.PodEventMethod(event_id=event_id, event=event):
            item = SystemItem(kind="pod_event", body=line_for_model(event))
            key = event_id
            from_parent = False
        case other:
            raise AssertionError(other.method)
    return Arrived(
        ts=ts,
        id=key,
        item=item,
        wakes=wakes,
        request=key,
        from_parent=from_parent,
        events=events,
    )
