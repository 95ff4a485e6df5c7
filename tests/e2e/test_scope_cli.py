"""Who may write where, as an operator meets it: refusals that name the holder, claims that go."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocol import events as ev
from protocol.entries import ToolResultEntry
from tests.e2e.fleets import (
    FLEET,
    answers,
    claims,
    connect,
    fleet,
    history,
    row,
    run_to_end,
    start,
)
from tests.support.home import Home

pytestmark = pytest.mark.process


def write_call(match: str, path: str) -> str:
    """Return an answer that writes a file."""
    call = f'{{ name = "Write", arguments = {{ file_path = "{path}", content = "mine\\n" }} }}'
    return f'match = "{match}"\ntool_calls = [{call}]'


def writer(name: str, target: str) -> str:
    """Return a pod that may write one folder."""
    return f'"{name}"\nscope = {{ allow = [{{ target = "{target}", permission = "write" }}] }}\n'


def results(home: Home, pod: str) -> list[Any]:
    """Return the pod's tool results."""
    with connect(home) as client:
        entries = history(client, pod)
    return [entry.item for entry in entries if isinstance(entry, ToolResultEntry)]


def test_write_outside_of_the_scope_is_refused_and_the_same_write_inside_works(home: Home) -> None:
    untouched = home.write("secret.txt", "as it was\n")
    home.write("out/old.txt", "as it was\n")
    inside, outside = "${workspace}/out/new.txt", "${workspace}/secret.txt"
    sneaky = "${workspace}/out/../secret.txt"
    script = answers(
        write_call("inside", inside),
        write_call("outside", outside),
        write_call("sneaky", sneaky),
        write_call("link", "${workspace}/out/link"),
    )
    (home.work / "out/link").symlink_to(untouched)
    start(home, fleet(writer("alice", "out") + script))

    for text in ("inside", "outside", "sneaky", "link"):
        assert run_to_end(home, "alice", text).result == "finished", text
    found = results(home, "alice")
    assert [one.is_error for one in found] == [False, True, True, True]
    assert (home.work / "out/new.txt").read_text() == "mine\n"
    assert untouched.read_text() == "as it was\n"
    assert (home.work / "out/link").is_symlink()

    events = home.json("events")["events"]
    denied = [one["data"] for one in events if one["event"] == ev.ScopeDenied.event]
    assert str(untouched) in [one["path"] for one in denied]


def assert_names(home: Home, error: dict[str, Any], pod: str) -> None:
    """Assert that a refusal says whose it is: the pod, its pid, its folder."""
    (held,) = (one for one in claims(home) if one["pod"] == pod)
    assert error["error"]["code"] == "write_conflict"
    for evidence in (pod, str(held["identity"]["pid"]), held["scope_allow"][0]["target"]):
        assert evidence in error["error"]["message"], evidence


def test_pod_spawned_into_a_held_scope_is_refused_and_the_holder_named(home: Home) -> None:
    start(home, fleet(writer("alice", "src")))
    with connect(home) as client:
        alice = row(client, "alice").pid
    for name, path in (("same", "src"), ("below", "src/deep"), ("above", ".")):
        error = home.json("spawn", name, "--write", path, "--wait", ok=6)
        assert_names(home, error, "alice")
    said = home.podsup("spawn", "again", "--write", "src", "--wait", ok=6)
    assert "alice" in said.stderr
    assert str(alice) in said.stderr
    home.podsup("spawn", "beside", "--write", "other", "--wait")
    assert sorted(one["pod"] for one in claims(home)) == ["alice", "beside"]
    with connect(home) as client:
        assert row(client, "alice").pid == alice


def test_refused_conflict_has_its_holders_as_data(home: Home) -> None:
    start(home, fleet(writer("alice", "src")))
    error = home.json("spawn", "rival", "--write", "src/deep", "--wait", ok=6)
    (holder,) = error["error"]["details"]["holders"]
    assert holder["pod"] == "alice"
    assert holder["pid"] == claims(home)[0]["identity"]["pid"]
    assert holder["rule"]["target"] == str(home.work / "src/deep")
    assert holder["holder_rule"]["target"] == str(home.work / "src")


@pytest.mark.parametrize("where", ["the same home", "another home"])
def test_second_fleet_that_would_write_what_the_first_holds_is_refused_and_ends(
    home: Home, where: str
) -> None:
    start(home, fleet(writer("alice", "src")))
    target = home.work / "src"
    second = home.write(
        "second/podsup.toml",
        f'[fleet]\nname = "second"\n[[pod]]\nname = {writer("rival", str(target))}',
    )
    options = ["--home", str(home.root / "h2")] if where == "another home" else []
    error = home.json(*options, "start", str(second), "-d", "--wait", "idle", ok=6)
    assert_names(home, error, "alice")
    said = home.podsup(*options, "start", str(second), "-d", "--wait", "idle", ok=6)
    assert "alice" in said.stderr
    done = home.podsup(*options, "--fleet", "second", "ps", ok=4)
    assert done.stdout == ""
    assert [one["pod"] for one in claims(home)] == ["alice"]

    home.podsup("--fleet", FLEET, "down")
    assert claims(home) == []
    home.podsup(*options, "start", str(second), "-d", "--wait", "idle")
    assert [one["pod"] for one in claims(home)] == ["rival"]
    home.podsup(*options, "--fleet", "second", "down")


def test_claims_and_life_locks_are_gone_after_stop_and_after_down(home: Home) -> None:
    start(home, fleet(writer("alice", "a"), writer("bob", "b")))
    life = home.home / "scope/life"
    assert sorted(one["pod"] for one in claims(home)) == ["alice", "bob"]
    assert len(list(life.iterdir())) == 2

    home.podsup("stop", "alice")
    assert [one["pod"] for one in claims(home)] == ["bob"]
    assert home.json("locks")["allocations"][0]["pod"] == "bob"
    home.podsup("spawn", "carol", "--write", "a", "--wait")

    home.podsup("down")
    assert claims(home) == []
    assert list(life.iterdir()) == []
    assert json.loads((home.home / "scope/table.json").read_text())["allocations"] == []
