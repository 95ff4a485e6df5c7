"""`podsup stop`, `kill`, `restart`, `restore`, `delete`: the lives of pods."""

from __future__ import annotations

import click

from protocol import control as c
from supervisor.cli.app import App, command
from supervisor.cli.asking import operate
from supervisor.cli.options import grace_option


def _patience(grace: float | None) -> float:
    return 60.0 if grace is None else 30.0 + 2 * grace


def _said(app: App, verb: str, pods: tuple[str, ...]) -> None:
    said = f"{verb}: {', '.join(pods) or 'every pod'}"
    app.out.lines({"pods": list(pods), "done": verb}, [said])


@command("stop", example="podsup stop alice --grace 2")
@click.argument("pods", metavar="[POD]…", nargs=-1)
@click.option("--all", "all_pods", is_flag=True, help="Every pod of the fleet.")
@grace_option
def stop(app: App, pods: tuple[str, ...], all_pods: bool, grace: float | None) -> None:
    """Stop pods: shutdown, then TERM, then KILL. Returns when nothing they started is left."""
    if bool(pods) == all_pods:
        raise click.UsageError("name pods, or --all")
    control = c.Stop(pods=pods, all_pods=all_pods, grace_s=grace)
    operate(app, control, timeout_s=_patience(grace))
    _said(app, "stopped", pods)


@command("kill", example="podsup kill alice")
@click.argument("pods", metavar="POD…", nargs=-1, required=True)
def kill(app: App, pods: tuple[str, ...]) -> None:
    """Kill pods, with everything they started, without asking them. They are not restarted."""
    operate(app, c.Kill(pods=pods))
    _said(app, "killed", pods)


@command("restart", example="podsup restart alice")
@click.argument("pods", metavar="POD…", nargs=-1, required=True)
@grace_option
def restart(app: App, pods: tuple[str, ...], grace: float | None) -> None:
    """Stop pods and start them again, or start stopped ones. Returns when they are ready."""
    operate(app, c.Restart(pods=pods, grace_s=grace), timeout_s=_patience(grace))
    _said(app, "restarted", pods)


@command("restore", example="podsup restore alice")
@click.argument("pod")
def restore(app: App, pod: str) -> None:
    """Start a stopped pod from what is stored of it. A live one is left as it is."""
    operate(app, c.Restore(pod=pod))
    _said(app, "restored", (pod,))


@command("delete", example="podsup delete alice")
@click.argument("pods", metavar="POD…", nargs=-1, required=True)
def delete(app: App, pods: tuple[str, ...]) -> None:
    """Forget stopped pods. Their sessions stay on disk."""
    operate(app, c.Delete(pods=pods))
    _said(app, "deleted", pods)
