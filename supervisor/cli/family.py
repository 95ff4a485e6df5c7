"""`podsup peer`, `reclaim`: who sees whom; settling the dead."""

from __future__ import annotations

import click

from protocol import control as c
from supervisor.cli.app import App, command
from supervisor.cli.asking import with_client


@command("peer", example="podsup peer alice bob")
@click.argument("pod")
@click.argument("other")
def peer(app: App, pod: str, other: str) -> None:
    """Make two pods see each other and exchange messages. Neither owns the other."""
    control = c.RegisterPeers(source=pod, peer=other)
    made = with_client(app, lambda client: client.control(control))
    app.out.lines(made.to_wire(), [f"{pod} and {other} are peers"])


@command("reclaim", example="podsup reclaim")
@click.argument("pod", required=False)
def reclaim(app: App, pod: str | None) -> None:
    """Remove the claims of pods that are proven dead, of all fleets of this user or of one pod.

    It happens by itself where a claim stands in somebody's way, and when a pod ends. What is not
    proven dead is left, and so is what its supervisor may start again.
    """
    settled: c.Reclaimed = with_client(app, lambda client: client.control(c.Reclaim(pod=pod)))
    lines = [f"reclaimed: {', '.join(settled.reclaimed) or 'nothing'}"]
    lines += [f"  left {name}: {why}" for name, why in settled.left.items()]
    app.out.lines(settled.to_wire(), lines)
