"""What a watcher of a pod is told, as the rows of `-o jsonl`."""

from __future__ import annotations

from typing import Any

from protocol.watch import Deliver, Gap, Synced


def row_of(told: Synced | Deliver | Gap) -> dict[str, Any] | None:
    """Return the row of what is news; None for what the fleet only passes on of the pod's own."""
    match told:
        case Synced(header=header, body=body) if header.epoch is None:
            return {"type": "snapshot", "incarnation": header.incarnation, "data": body}
        case Gap(lane=lane, first=first, last=last):
            return {"type": "gap", "lane": lane, "from": first, "to": last}
        case Deliver(header=header, event=event) if _is_news(told):
            return {
                "type": "event",
                "pod": header.pod,
                "incarnation": header.incarnation,
                "lane": header.lane,
                "seq": header.seq,
                "ts_ms": header.ts_ms,
                "event": event.event,
                "data": event.to_wire(),
            }
        case _:
            return None


def _is_news(told: Deliver) -> bool:
    """Whether it is the pod's own word, or the fleet's; not the pod's, passed on by the fleet."""
    return told.header.epoch is None or told.header.seq == 0
