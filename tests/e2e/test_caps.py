"""What bounds agents that nobody watches, with real processes: their children and their runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from protocol.entries import Invoke, ToolResultEntry
from supervisor.client import Client
from tests.e2e.fleets import DEADLINE_S, answers, connect, fleet, history, start
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = pytest.mark.process


@pytest.fixture
def home() -> Iterator[Home]:
    found = Home()
    try:
        yield found
    finally:
        found.down()
        found.remove()


def calls(match: str, *wanted: tuple[str, dict[str, Any]]) -> str:
    """Return an answer with these tool calls, whenever the input is like this."""
    named = ", ".join(
        f"{{ name = {json.dumps(tool)}, arguments = {json.dumps(arguments).replace(': ', ' = ')} }}"
        for tool, arguments in wanted
    )
    return f"match = {json.dumps(match)}\nrepeat = true\ntool_calls = [{named}]\n"


def results(client: Client, pod: str) -> list[Any]:
    """Return the results of a pod's tools so far."""
    return [one.item for one in history(client, pod) if isinstance(one, ToolResultEntry)]


def caps(home: Home, pod: str) -> dict[str, Any]:
    """Return how far a pod has used its caps."""
    found: dict[str, Any] = home.json("status", pod)["caps"]
    return found


BOSS = (
    '"boss"\nfeature = { pods = true }\n'
    'delegation_scope = { allow = [{ target = "d", permission = "write" }] }\n'
)


def test_children_of_one_answer_stop_at_the_cap(home: Home) -> None:
    spawns = [("SpawnPod", {"name": f"k{n}", "task": "x", "scope": []}) for n in range(8)]
    text = fleet(
        BOSS + answers(calls("^go$", *spawns)),
        supervisor="max_children = 3",
    )
    start(home, text)
    with connect(home) as client:
        client.run("boss", "go", timeout_s=2 * DEADLINE_S)
        told = [one.summary for one in results(client, "boss") if one.is_error]
        assert len(told) == 5
        most = "pod boss has 3 children alive, and supervisor.max_children is 3"
        assert all(most in one for one in told)
        assert caps(home, "boss")["children"] == {"now": 3, "most": 3}
        assert "children 3 of 3, tree 3 of 64, depth 0 of 4" in home.podsup("status", "boss").stdout
        denied = home.podsup("spawn", "k9", "--parent", "boss", ok=None)
        assert denied.returncode != 0
        assert "supervisor.max_children is 3" in denied.stderr
        home.podsup("spawn", "top")
        home.podsup("stop", "k0")
        home.podsup("spawn", "k9", "--parent", "boss")
        refused = home.podsup("restore", "k0", ok=None)
        assert "supervisor.max_children is 3" in refused.stderr


def peer(name: str, other: str) -> str:
    ball = ("SendToPeerPod", {"name": other, "message": "ball"})
    return (
        f'"{name}"\nfeature = {{ pods = true }}\n'
        f'delegation_scope = {{ allow = [{{ target = "{name}", permission = "write" }}] }}\n'
        + answers(calls("ball", ball), 'match = "has the message"\nrepeat = true\ntext = "ok"\n')
    )


def test_peers_that_answer_each_other_stop_and_a_person_lets_them_go_on(home: Home) -> None:
    bounds = "max_notification_runs = { per_minute = 4, per_hour = 4 }"
    start(home, fleet(peer("alice", "bob"), peer("bob", "alice"), supervisor=bounds))
    home.podsup("peer", "alice", "bob")
    with connect(home) as client:

        def begun(pod: str) -> int:
            return sum(1 for one in history(client, pod) if isinstance(one, Invoke))

        def alerts(pod: str) -> list[str]:
            return [one["message"] for one in client.snapshot(pod)["alerts"]]

        def held() -> str | None:
            pods = ("alice", "bob")
            return next((pod for pod in pods if any("runs began" in a for a in alerts(pod))), None)

        client.run("alice", "ball", timeout_s=DEADLINE_S)
        eventually(held, "one of them is held", DEADLINE_S)
        pod = held()
        assert pod is not None
        invokes = [one for one in history(client, pod) if isinstance(one, Invoke)]
        unasked = [one for one in invokes if not one.has_person]
        assert len(unasked) == 4
        (told,) = [one for one in alerts(pod) if "waits with its notifications" in one]
        assert "supervisor.max_notification_runs.per_hour is 4" in told
        assert f"podsup run {pod}" in told
        eventually(
            lambda: caps(home, pod)["notification_runs_per_hour"] == {"now": 4, "most": 4},
            "status shows the figure",
            DEADLINE_S,
        )

        before = begun(pod)
        home.podsup("restart", pod)
        eventually(lambda: held() == pod, "the count outlives its process", DEADLINE_S)
        assert begun(pod) == before
        client.run(pod, "look", timeout_s=DEADLINE_S)
        assert begun(pod) > before


def test_denied_link_is_neither_replaced_nor_written_through(home: Home) -> None:
    (home.work / "real").mkdir()
    (home.work / "sub").mkdir()
    (home.work / "link").symlink_to("real")
    pod = (
        '"alice"\nscope = { allow = [{ target = ".", permission = "write" }], '
        'deny = [{ target = "link", permission = "write" }] }\n'
    )
    tries = [
        ("Bash", {"command": "rm link && mkdir link"}),
        ("Bash", {"command": "ln -sfn sub link"}),
        ("Bash", {"command": "mv link gone"}),
        ("Bash", {"command": "echo x > link/f"}),
        ("Write", {"file_path": "link/f", "content": "x"}),
        ("Write", {"file_path": "real/f", "content": "x"}),
    ]
    own = ("Bash", {"command": "echo x > sub/f"})
    start(
        home, fleet(pod + answers(*(calls(f"^{n}$", one) for n, one in enumerate([*tries, own]))))
    )
    with connect(home) as client:
        for number in range(len(tries) + 1):
            client.run("alice", str(number), timeout_s=DEADLINE_S)
        told = results(client, "alice")
    assert [one.is_error for one in told] == [True] * len(tries) + [False], told
    assert os.readlink(home.work / "link") == "real"
    assert os.listdir(home.work / "real") == []
