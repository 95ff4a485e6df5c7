"""What a token lets its holder do, where tokens and keys are not, and who may read the files."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import control as c
from protocol import methods as m
from protocol.base import Wire
from protocol.control import Hello, Resume
from supervisor.client import Client
from tests.e2e.fleets import (
    FLEET,
    answers,
    bash,
    callers,
    claims,
    connect,
    fleet,
    history_text,
    journal,
    operator_token,
    paths_of,
    pid_of,
    pod_token,
    row,
    run_to_end,
    start,
    text_run,
    wait_reborn,
)
from tests.support.home import Home

pytestmark = pytest.mark.process

SENTINEL = "sk-ant-sentinel-5f3759df"
LOOK = "env; tr '\\\\0' '\\\\n' < /proc/self/environ; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline"


@pytest.fixture(scope="module")
def fleet_home(shared_home: Home) -> Home:
    """Two pods, started by somebody who has a key in the environment."""
    shared_home.env |= {"ANTHROPIC_API_KEY": SENTINEL, "MY_SECRET": SENTINEL}
    alice = answers(bash("look", f"({LOOK}) 2>/dev/null | tr '\\\\0' '\\\\n'; true"))
    start(shared_home, fleet('"alice"\n' + alice, '"bob"'))
    return shared_home


@pytest.fixture
def client(fleet_home: Home) -> Iterator[Client]:
    """An operator's connection."""
    with connect(fleet_home) as client:
        yield client


TO_A_SIBLING: dict[str, Wire] = {
    "run": text_run("obey"),
    "notify": m.Notify(message="psst"),
    "pause": m.Pause(),
    "resume": m.Resume(),
    "cancel": m.Cancel(),
    "compact": m.Compact(),
    "get_history": m.GetHistory(),
    "list_pods": m.ListPods(),
    "register_peer": m.RegisterPeer(name="alice"),
    "shutdown": m.ShutdownMethod(),
    "scope_lend": m.ScopeLend(lent=(), number=99),
}

TO_THE_SUPERVISOR: dict[str, Wire] = {
    "list": c.ListFleet(),
    "status": c.StatusOf(pod="bob"),
    "why": c.Why(pod="bob"),
    "locks": c.Locks(),
    "logs_tail": c.LogsTailOf(pod="bob"),
    "spawn": c.Spawn(table={"name": "mallory"}),
    "stop": c.Stop(pods=("bob",)),
    "kill": c.Kill(pods=("bob",)),
    "restart": c.Restart(pods=("bob",)),
    "restore": c.Restore(pod="bob"),
    "delete": c.Delete(pods=("bob",)),
    "reclaim": c.Reclaim(),
    "apply": c.Apply(pods=()),
    "drain": c.Drain(),
    "down": c.Down(),
    "reload": c.Reload(),
}


def undisturbed(client: Client) -> dict[str, tuple[int | None, int, str]]:
    """Return what no refused request may change."""
    ps: c.Ps = client.control(c.ListFleet())
    return {one.name: (one.pid, one.incarnation, one.status) for one in ps.pods}


def test_pod_may_not_command_its_sibling(fleet_home: Home, client: Client) -> None:
    before, heard = undisturbed(client), history_text(client, "bob")
    with callers(fleet_home, token=pod_token(fleet_home, "alice")) as (alice,):
        codes = {
            method: alice.call("bob", method, body).code for method, body in TO_A_SIBLING.items()
        }
    assert codes == dict.fromkeys(TO_A_SIBLING, "forbidden")
    assert (undisturbed(client), history_text(client, "bob")) == (before, heard)


def test_pod_may_not_command_its_supervisor(fleet_home: Home, client: Client) -> None:
    before = undisturbed(client)
    with callers(fleet_home, token=pod_token(fleet_home, "alice")) as (alice,):
        codes = {
            method: alice.call("", method, body).code for method, body in TO_THE_SUPERVISOR.items()
        }
    hidden = dict.fromkeys(("status", "restore"), "not_visible")
    assert codes == dict.fromkeys(TO_THE_SUPERVISOR, "forbidden") | hidden
    assert undisturbed(client) == before


def test_pod_may_not_say_that_it_is_another(fleet_home: Home, client: Client) -> None:
    bob = row(client, "bob")
    hello = Hello(
        pod="bob",
        incarnation=bob.incarnation,
        endpoint=bob.endpoint or "",
        pid=bob.pid or 0,
        resume=Resume(status=bob.status),
    )
    with callers(fleet_home, token=pod_token(fleet_home, "alice")) as (alice,):
        assert alice.call("", "hello", hello).code == "forbidden"
    with callers(fleet_home, token="forged") as (stranger,):
        assert stranger.call("", "hello", hello).code == "forbidden"
    assert run_to_end(fleet_home, "bob", "is it you?").result == "finished"
    assert pid_of(client, "bob") == bob.pid


@pytest.mark.parametrize("token", ["", "forged", "operator", "earlier"])
def test_token_that_is_nobodys_opens_nothing(fleet_home: Home, client: Client, token: str) -> None:
    if token == "earlier":
        token = pod_token(fleet_home, "alice")
        os.kill(pid := pid_of(client, "alice"), signal.SIGKILL)
        wait_reborn(client, "alice", pid)
        assert pod_token(fleet_home, "alice") != token
    before = undisturbed(client)
    with callers(fleet_home, token=token) as (stranger,):
        for to, asked in (("bob", TO_A_SIBLING), ("", TO_THE_SUPERVISOR), ("", {"ping": c.Ping()})):
            codes = {method: stranger.call(to, method, body).code for method, body in asked.items()}
            assert codes == dict.fromkeys(asked, "forbidden")
    assert undisturbed(client) == before


# -- secrets -------------------------------------------------------------------------------------

HOLDERS = ("journal.jsonl", "metadata.json", "table.json", "token")
"""The files whose purpose is to hold tokens, with their earlier versions; and the life locks."""


def tokens_of(home: Home) -> set[str]:
    """Return every token there is or was."""
    pods = {one["token"] for one in journal(home) if "token" in one}
    return {operator_token(home), *pods, *(one["token"] for one in claims(home))}


def files_below(root: Path) -> list[Path]:
    """Return every regular file."""
    return [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]


def test_no_process_shows_a_token_or_a_key(fleet_home: Home, client: Client) -> None:
    secrets = {text.encode() for text in (SENTINEL, *tokens_of(fleet_home))}
    assert len(secrets) >= 4
    shown = {}
    processes = fleet_home.processes()
    assert len(processes) >= 4, "supervisor, zygote, two pods"
    for pid in processes:
        for name in ("cmdline", "environ"):
            data = Path(f"/proc/{pid}/{name}").read_bytes()
            if found := [secret for secret in secrets if secret in data]:
                shown[pid, name] = found
    assert shown == {}


def test_no_file_event_or_session_shows_a_token_or_a_key(fleet_home: Home, client: Client) -> None:
    assert run_to_end(fleet_home, "alice", "look around").result == "finished"
    seen = history_text(client, "alice")
    assert "PODSUP_POD=alice" in seen, "the command did show its environment"
    tokens = tokens_of(fleet_home)
    told = json.dumps(fleet_home.json("events")) + json.dumps(fleet_home.json("status", "alice"))
    told += fleet_home.podsup("why", "alice").stdout + json.dumps(fleet_home.json("locks"))
    for secret in (SENTINEL, *tokens):
        assert secret not in seen + told

    shown = {}
    for path in files_below(fleet_home.root):
        data = path.read_bytes()
        if SENTINEL.encode() in data:
            shown[path] = "key"
        if any(token.encode() in data for token in tokens):
            if not path.name.startswith(HOLDERS) and path.parent.name != "life":
                shown[path] = "token"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert shown == {}


def test_folders_are_0700_and_files_0600(fleet_home: Home, client: Client) -> None:
    assert run_to_end(fleet_home, "alice", "look around").result == "finished"
    modes = {
        str(path.relative_to(fleet_home.root)): stat.S_IMODE(path.lstat().st_mode)
        for path in (fleet_home.home, *fleet_home.home.rglob("*"))
    }
    folders = [path for path in modes if (fleet_home.root / path).is_dir()]
    assert {path: oct(modes[path]) for path in folders if modes[path] != 0o700} == {}
    files = [path for path in modes if (fleet_home.root / path).is_file()]
    assert {path: oct(modes[path]) for path in files if modes[path] != 0o600} == {}
    sockets = [path for path in modes if (fleet_home.root / path).is_socket()]
    assert len(sockets) >= 4
    assert [path for path in sockets if modes[path] & 0o077] == []
    assert paths_of(fleet_home).fleet_runtime(FLEET).is_dir()
