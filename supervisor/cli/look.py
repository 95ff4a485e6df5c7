"""`podsup ps`, `tree`, `status`, `why`, `locks`: see the fleet."""

from __future__ import annotations

from typing import Any

import click

from supervisor.cli.app import App, command
from supervisor.cli.asking import ask, with_client
from supervisor.cli.output import StatusWord, ago, terminal_width


@command("ps", example="podsup ps -o json")
def ps(app: App) -> None:
    """Show every pod of the fleet, stopped and failed ones too."""
    data = ask(app, "list")
    columns = (
        "NAME",
        "STATUS",
        "PID",
        "INC",
        "AGE",
        "RESTARTS",
        "TURN",
        "CONTEXT",
        "COST",
        "DOING",
    )
    app.out.rows(data, "pods", columns, (_line(pod) for pod in data["pods"]))


def _line(pod: dict[str, Any]) -> tuple[str, ...]:
    window = pod["context_window"]
    share = f"{100 * pod['context_tokens'] // window}%" if window else "-"
    cost = "-" if pod["cost_usd"] is None else f"${pod['cost_usd']:.2f}"
    status = pod["status"] + "".join(f"+{flag}" for flag in pod["flags"])
    doing = (pod["progress"] or {}).get("what", "-")
    return (
        pod["name"],
        status,
        str(pod["pid"] or "-"),
        str(pod["incarnation"]),
        ago(pod["age_s"]),
        str(pod["restarts"]),
        str(pod["turn"]),
        share,
        cost,
        doing,
    )


@command("tree", example="podsup tree")
def tree(app: App) -> None:
    """Show who spawned whom, and what each may write."""
    data = ask(app, "list")
    head = f"{data['fleet']} (supervisor pid {data['supervisor']['pid']})"
    app.out.lines(data, [(head,), *_branches(data["pods"], None, "")])


def _branches(pods: list[dict[str, Any]], parent: str | None, indent: str) -> list[tuple[str, ...]]:
    below = [pod for pod in pods if pod["parent"] == parent]
    lines: list[tuple[str, ...]] = []
    for number, pod in enumerate(below, 1):
        last = number == len(below)
        writes = ", ".join(pod["scope"]["write"]) or "nothing"
        lines.append(
            (
                f"{indent}{'└─ ' if last else '├─ '}{pod['name']}  ",
                StatusWord(pod["status"]),
                f"  writes {writes}",
            )
        )
        lines += _branches(pods, pod["name"], indent + ("   " if last else "│  "))
    return lines


@command("status", example="podsup status alice")
@click.argument("pod")
def status(app: App, pod: str) -> None:
    """Show one pod closely: what it does, what it holds, what went wrong last."""
    from protocol import control as c
    from protocol.errors import Unreachable

    async def look(client: Any) -> tuple[Any, dict[str, Any]]:
        row: c.StatusRow = await client.control(c.StatusOf(pod=pod))
        try:
            return row, await client.snapshot(pod) if row.endpoint else {}
        except Unreachable:
            return row, {}

    row, seen = with_client(app, look)
    data: dict[str, Any] = row.model_dump(mode="json")
    for key in ("endpoint", "state_seq"):
        data.pop(key)
    data["greeting"] = seen.get("greeting")
    data["in_flight"] = seen.get("in_flight") or {"blocks": []}
    data["alerts"] = seen.get("alerts") or []
    if data["greeting"]:
        data["sandbox"] = data["greeting"]["sandbox"]
    app.out.lines(data, _status_lines(data, width=terminal_width()))


def _status_lines(data: dict[str, Any], *, width: int) -> list[str]:
    progress = data["progress"] or {}
    last = data["last_exit"]
    lines = [
        f"{data['name']}: {data['status']}" + "".join(f"+{flag}" for flag in data["flags"]),
        f"  why        {data['reason']}",
        *([f"  parent     {data['parent']}"] if data["parent"] else []),
        f"  process    pid {data['pid'] or '-'}, incarnation {data['incarnation']}, "
        f"age {ago(data['age_s'])}, restarts {data['restarts']}",
        f"  doing      {progress.get('what', '-')}",
        f"  model      {data['model']}",
        f"  context    {data['context_tokens']} of {data['context_window']} tokens, "
        f"turn {data['turn']}",
        f"  used       {data['input_tokens']} in, {data['output_tokens']} out, cost "
        + ("unknown" if data["cost_usd"] is None else f"${data['cost_usd']:.4f}"),
        f"  session    {data['session_id'] or 'not begun'}",
        f"  writes     {', '.join(data['scope']['write']) or 'nothing'}",
        f"  reads      {', '.join(data['scope']['read']) or 'nothing'}",
        *(f"  {key:<10} {', '.join(data[key])}" for key in ("children", "peers") if data[key]),
        *_caps_lines(data["caps"]),
        *_sandbox_lines(data["sandbox"], width),
    ]
    if data["greeting"]:
        lines += _fitted(f"  tools      {', '.join(data['greeting']['tools'])}", width)
    if last:
        lines.append(f"  last exit  {last['cause']}")
    if data["last_error"]:
        lines.append(f"  last error {data['last_error']}")
    lines += [f"  in flight  {_block(block)}" for block in data["in_flight"]["blocks"]]
    lines += [f"  alert      {alert['level']}: {alert['message']}" for alert in data["alerts"]]
    return lines


_INDENT = " " * len("  sandbox    ")


def _fitted(text: str, width: int, *, indent: str = _INDENT) -> list[str]:
    """Return a line as lines that fit; words stay whole, as paths must."""
    from textwrap import wrap

    room = max(width, 2 * len(indent))
    return wrap(
        text, room, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _sandbox_lines(sandbox: dict[str, Any], width: int) -> list[str]:
    """Return the level, and below it one by one what it leaves open."""
    items = sandbox["unprotected"]
    return [
        f"  sandbox    {sandbox['level']}" + (", which leaves open:" if items else ""),
        *(
            line
            for item in items
            for line in _fitted(f"{_INDENT}- {item}", width, indent=f"{_INDENT}  ")
        ),
    ]


def _caps_lines(caps: dict[str, Any] | None) -> list[str]:
    """Return how far a pod has used its caps; nothing where its supervisor does not say."""
    if caps is None:
        return []

    def used(key: str) -> str:
        return f"{caps[key]['now']} of {caps[key]['most']}"

    return [
        f"  caps       children {used('children')}, tree {used('tree')}, depth {used('depth')}",
        f"  unasked    {used('notification_runs_per_minute')} a minute, "
        f"{used('notification_runs_per_hour')} an hour",
    ]


def _block(block: dict[str, Any]) -> str:
    if block["kind"] == "tool_call":
        return f"{block['name']} {block['args'][:60]} ({block['state']})"
    return f"{block['kind']}: {block['text'][-60:]!r}"


@command("why", example="podsup why alice")
@click.argument("pod")
def why(app: App, pod: str) -> None:
    """Show how a pod came to its state: each change with its cause, oldest first."""
    from datetime import datetime

    story = ask(app, "why", pod=pod)
    lines = [f"{pod} is {story['status']}"]
    for line in story["lines"]:
        at = datetime.fromtimestamp(line["at"] / 1000).strftime("%H:%M:%S.%f")[:-3]
        change = f"{line['before']} -> {line['after']}"
        lines.append(f"  {at}  #{line['incarnation']:<3} {change:<24} {line['why']}")
    if story["stderr_tail"]:
        lines.append("  the last lines it printed:")
        lines += [f"    {text}" for text in story["stderr_tail"].splitlines()[-20:]]
    app.out.lines(story, lines)


@command("locks", example="podsup locks")
def locks(app: App) -> None:
    """Show every allocation of this user: who may write where, in all fleets and homes."""
    data = ask(app, "locks")
    rows = (
        (
            row["pod"],
            row["state"],
            str(row["pid"] or "-"),
            str(row["incarnation"]),
            ", ".join(r["target"] for r in row["scope_allow"] if r["permission"] == "write") or "-",
            row["home"],
        )
        for row in data["allocations"]
    )
    app.out.rows(data, "allocations", ("POD", "STATE", "PID", "INC", "WRITES", "HOME"), rows)
