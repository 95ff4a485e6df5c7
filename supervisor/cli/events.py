"""`podsup events`: the fleet's events as they come, gaps shown as such."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from protocol.watch import Deliver, Gap, Synced
from supervisor.cli.app import App, command
from supervisor.cli.asking import with_client

if TYPE_CHECKING:
    from supervisor.client import AsyncClient
    from supervisor.watcher import Told


@command("events", example="podsup events --since 1.0")
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--since", metavar="EPOCH.SEQ", help="Everything after this number that is kept.")
@click.option("--pod", metavar="POD", help="Of one pod only.")
def events(app: App, follow: bool, since: str | None, pod: str | None) -> None:
    """Show the fleet's events, one a line; without -f those that have been and are kept."""
    epoch, seq = _number(since)
    shown: list[dict[str, Any]] = []

    def show(row: dict[str, Any]) -> None:
        if app.out.is_json and not follow:
            shown.append(row)
        elif app.out.form in ("json", "jsonl"):
            app.out.line(row)
        else:
            app.out.put_lines([_line(row)])

    async def listen(client: AsyncClient) -> None:
        queue: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
        newest = 0
        following = await client.watch_fleet(queue, pod=pod, complete=True)
        while True:
            if not follow and following.core.is_live and queue.empty():
                return
            try:
                async with asyncio.timeout(0.5):
                    _, told = await queue.get()
            except TimeoutError:
                if not client.is_supervised:
                    return
                continue
            for row in _rows_of(told, epoch, seq, newest):
                newest = int(row.get("seq", newest))
                show(row)

    with_client(app, listen)
    if app.out.is_json and not follow:
        app.out.document({"events": shown})


def _number(since: str | None) -> tuple[int, int]:
    if since is None:
        return 0, 0
    epoch, _, seq = since.partition(".")
    if not (epoch.isdigit() and seq.isdigit()):
        raise click.UsageError(f"--since wants EPOCH.SEQ, as in 3.120; not {since!r}")
    return int(epoch), int(seq)


def _rows_of(told: Told, epoch: int, seq: int, newest: int) -> list[dict[str, Any]]:
    match told:
        case Synced(header=header) if epoch and header.epoch != epoch:
            return [
                {
                    "type": "gap",
                    "epoch": header.epoch,
                    "reason": f"epoch {epoch} is over; this is epoch {header.epoch}",
                }
            ]
        case Gap(first=first, last=last):
            return [{"type": "gap", "from": first, "to": last, "seq": last}]
        case Deliver(header=header, event=event):
            number = header.fleet_seq or 0
            if header.epoch == epoch and number <= seq:
                return []
            return [
                {
                    "type": "event",
                    "epoch": header.epoch,
                    "seq": number,
                    "ts_ms": header.ts_ms,
                    "pod": header.pod,
                    "incarnation": header.incarnation,
                    "event": event.event,
                    "data": event.to_wire(),
                }
            ]
        case _:
            return []


def _line(row: dict[str, Any]) -> str:
    if row["type"] == "gap":
        return f"-- gap: {row.get('reason') or 'events {from} to {to} are lost'.format(**row)}"
    from datetime import datetime

    at = datetime.fromtimestamp(row["ts_ms"] / 1000).strftime("%H:%M:%S.%f")[:-3]
    data = " ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in row["data"].items()
    )
    return f"{row['epoch']}.{row['seq']:<6} {at} {row['pod'] or '-':<16} {row['event']:<16} {data}"
