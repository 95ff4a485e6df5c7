"""`podsup spawn`: one more pod in a running fleet."""

from __future__ import annotations

import os
from typing import Any

import click

from protocol import control as c
from supervisor.cli.app import App, command
from supervisor.cli.asking import operate, with_client


@command("spawn", example='podsup spawn dave --task "Say hello." --write out/dave --wait')
@click.argument("name")
@click.option("--task", help="What it is to do; delivered once in the life of its session.")
@click.option("--write", multiple=True, metavar="PATH", help="What it may write.")
@click.option("--read", multiple=True, metavar="PATH", help="What it may read besides.")
@click.option("--delegate", multiple=True, metavar="PATH", help="What it may lend to children.")
@click.option("--profile", metavar="FILE", help="A manifest without a name, laid under this one.")
@click.option("--cwd", metavar="DIR", help="Its working directory.")
@click.option("--parent", metavar="POD", help="Make it a child of this pod.")
@click.option("--stop-jobs", is_flag=True, help="End the parent's commands that stand in the way.")
@click.option("--wait", is_flag=True, help="Return when it is ready and has its task.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait.")
def spawn(
    app: App,
    name: str,
    task: str | None,
    write: tuple[str, ...],
    read: tuple[str, ...],
    delegate: tuple[str, ...],
    profile: str | None,
    cwd: str | None,
    parent: str | None,
    stop_jobs: bool,
    wait: bool,
    timeout: float,
) -> None:
    """Start one more pod. It belongs to the fleet until it is deleted."""
    table: dict[str, Any] = {"name": name}
    if task is not None:
        table["task"] = task
    allow = [_rule(path, "write") for path in write] + [_rule(path, "read") for path in read]
    if allow:
        table["scope"] = {"allow": allow}
    if delegate:
        table["delegation_scope"] = {"allow": [_rule(path, "write") for path in delegate]}
    for key, path in (("profile", profile), ("cwd", cwd)):
        if path is not None:
            table[key] = os.path.abspath(path)
    control = c.Spawn(table=table, parent=parent, stop_jobs=stop_jobs)
    if wait:
        operate(app, control, timeout_s=timeout)
        app.out.lines({"pod": name, "state": "ready"}, [f"{name} is ready"])
    else:
        started: c.Started = with_client(app, lambda client: client.control(control))
        data = {"pod": name, "state": "starting", "operation": started.operation}
        app.out.lines(data, [f"{name} is starting; podsup why {name}"])


def _rule(path: str, permission: str) -> dict[str, Any]:
    return {"target": os.path.abspath(path), "permission": permission}
