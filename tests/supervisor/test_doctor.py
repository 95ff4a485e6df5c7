"""`podsup doctor`: what each check says of what it sees, and that a crash is seen."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.cage import CageLevel, CageSupport
from supervisor import diagnosis as d
from supervisor import life_lock
from supervisor.cli.doctor import CHECKS
from supervisor.paths import fleet_id, make_private_dir
from tests.support.home import Home
from tests.support.waiting import eventually, wait_for_exit

GIB = 1024**3
ALICE = ("alice", 41)
LEFT = d.Orphaned("review", 40, [ALICE, ("bob", None)])
SETTLED = d.Orphaned("old", 39)


@pytest.mark.parametrize(
    ("judge", "seen", "state", "words"),
    [
        (d.import_name, [], "ok", "only podsup"),
        (d.import_name, ["supervisor"], "problem", "provided by supervisor"),
        (d.python_version, (3, 11, 0), "ok", "3.11.0"),
        (d.python_version, (3, 10, 9), "problem", "3.10.9 is too old"),
        (d.kernel_features, {}, "ok", "pidfd"),
        (d.kernel_features, {"flock": "not supported"}, "problem", "flock: not supported"),
        (d.folders, [], "ok", "0700"),
        (d.folders, [d.Trouble("/h is a link", "move it")], "problem", "/h is a link"),
        (d.socket_paths, [], "ok", "short"),
        (d.socket_paths, [d.Trouble("it has 120 bytes")], "problem", "120 bytes"),
        (d.disk_space, {"/d": 5 * GIB}, "ok", "5.0 GiB free for /d"),
        (d.disk_space, {"/d": 5 * GIB, "/s": GIB // 2}, "warning", "512 MiB free for /s"),
        (d.disk_space, {"/d": 0}, "problem", "0 MiB"),
        (d.open_files, 5000, "ok", "enough for 1000 pods"),
        (d.open_files, 1024, "warning", "enough for 204 pods"),
        (d.ripgrep, "/usr/bin/rg", "ok", "/usr/bin/rg"),
        (d.ripgrep, None, "warning", "more slowly"),
        (d.model_keys, {"A_KEY": False}, "ok", "none is set"),
        (d.model_keys, {"A_KEY": True, "B_KEY": False}, "ok", "set: A_KEY"),
        (d.sandbox, CageSupport(missing=("no Landlock",)), "warning", "no Landlock"),
        (d.sandbox, CageSupport(), "warning", "not caged"),
        (d.sandbox, CageSupport(CageLevel.LANDLOCK), "warning", "mode, owner, times"),
        (d.sandbox, CageSupport(CageLevel.NAMESPACES), "ok", "level namespaces"),
        (d.supervisors, {}, "ok", "no fleet"),
        (d.supervisors, {"review": True}, "ok", "running: review"),
        (d.supervisors, {"review": False}, "warning", "does not listen: review"),
        (d.scope_table, [], "ok", "readable"),
        (d.scope_table, [d.Holder("alice", "/h", 41, "alive")], "ok", "readable"),
        (d.scope_table, [d.Holder("alice", "/h", 41, "dead")], "warning", "alice (pid 41, /h)"),
        (d.scope_table, [d.Holder("bob", "/h", 4, "unverifiable")], "warning", "keep their claims"),
        (d.scope_table, d.Trouble("damaged"), "problem", "damaged"),
        (d.journals, d.Journals(), "ok", "every fleet"),
        (d.journals, d.Journals([LEFT]), "problem", "alice (pid 41), bob (pid unknown)"),
        (d.journals, d.Journals([SETTLED]), "warning", "without a supervisor or a live pod: old"),
        (d.journals, d.Journals(damage=["j:3: skipped"]), "warning", "j:3: skipped"),
        (d.stale_sockets, {}, "ok", "none"),
        (d.stale_sockets, {"review": ["/r/c.sock"]}, "warning", "/r/c.sock"),
        (d.metadata, [], "ok", "readable"),
        (d.metadata, [d.Trouble("m cannot be read")], "problem", "m cannot be read"),
        (d.sessions, {}, "ok", "whole"),
        (d.sessions, {"s.jsonl": "it is empty"}, "warning", "s.jsonl: it is empty"),
        (d.strangers, d.Strangers(), "ok", "none"),
        (d.strangers, d.Strangers([d.Stranger("l.1", [7, 8])]), "warning", "pid 7, 8 holds l.1"),
        (d.strangers, d.Strangers(told=["a stranger says"]), "warning", "a stranger says"),
    ],
)
def test_a_check_says_how_bad_it_is_and_why(
    judge: Callable[[Any], d.Finding], seen: Any, state: str, words: str
) -> None:
    finding = judge(seen)

    assert finding.state == state
    assert words in finding.text


@pytest.mark.parametrize(
    ("finding", "mend"),
    [
        (d.journals(d.Journals([LEFT])), "podsup --fleet review down"),
        (
            d.journals(d.Journals([LEFT, SETTLED])),
            "podsup --fleet review down; podsup --fleet old down",
        ),
        (
            d.scope_table([d.Holder("alice", "/h", 41, "dead")]),
            "podsup down, or podsup start, in /h",
        ),
        (
            d.stale_sockets({"review": ["/r/c.sock"], "": ["/q/c.sock"]}),
            "podsup --fleet review down; rm /q/c.sock",
        ),
        (d.folders([d.Trouble("a", "mend it"), d.Trouble("b", "mend it")]), "mend it"),
    ],
)
def test_a_finding_says_how_to_mend_it(finding: d.Finding, mend: str) -> None:
    assert finding.mend == mend


def test_every_finding_bears_the_name_of_its_check(home: Home) -> None:
    names = [row["name"] for row in home.json("doctor")["findings"]]

    assert names == [check.name for check in CHECKS]


def test_doctor_changes_nothing_and_shows_no_value_of_a_key(home: Home) -> None:
    home.env["ANTHROPIC_API_KEY"] = "sk-not-to-be-seen"

    said = home.podsup("doctor").stdout + json.dumps(home.json("doctor"))

    assert "ANTHROPIC_API_KEY" in said
    assert "sk-not" not in said
    assert list(home.home.iterdir()) == []


def test_doctor_finds_what_is_damaged(home: Home) -> None:
    """All at once: one look that fails must not hide what the next would see."""
    files = {
        "data/fleets/review/journal.jsonl": "no record\n",
        "data/pods/alice/metadata.json": "{}",
        "data/sessions/s/1.jsonl": '{"kind":"invoke","crc":"00000000"}\n',
        "data/sessions/t/1.jsonl": '{"kind":"inv',
        "scope/table.json": "{",
    }
    home.home.joinpath("run").mkdir(mode=0o755)
    for name, text in files.items():
        path = home.home / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text)

    findings = by_name(home, ok=1)

    assert {name for name, row in findings.items() if row["state"] == "problem"} == {
        "folders",
        "scope table",
        "pod records",
    }
    assert "open to other users" in findings["folders"]["text"]
    assert "journal.jsonl:1" in findings["journals"]["text"]
    assert "s/1.jsonl: the last record is damaged" in findings["sessions"]["text"]
    assert "t/1.jsonl: the last record has no end" in findings["sessions"]["text"]


def test_the_mend_of_a_given_home_names_that_home(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "data/pods/alice/metadata.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")

    said = home.podsup("--home", str(tmp_path), "doctor", ok=1).stdout

    assert f"podsup --home {tmp_path} start --fresh" in said


def test_doctor_finds_what_nobody_accounts_for(home: Home) -> None:
    folder = make_private_dir(home.home / "run" / fleet_id("review"))
    life = make_private_dir(home.home / "scope" / "life")
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(stale := folder / "c.sock"))
    held = life_lock.take(life / "0123456789abcdef.1")
    try:
        findings = by_name(home)
    finally:
        os.close(held)
        stale.unlink()

    assert findings["sockets"]["text"] == f"nobody listens on {stale}"
    assert findings["sockets"]["mend"] == f"rm {stale}"
    assert findings["strangers"]["text"].startswith(f"pid {os.getpid()} holds {life}")


@pytest.mark.process
def test_doctor_names_the_pods_that_outlive_their_killed_supervisor(home: Home) -> None:
    home.write("podsup.toml", '[fleet]\nname = "review"\n[[pod]]\nname = "alice"\n')
    home.podsup("start", "-d", "--wait", "idle")
    ps = home.json("ps")
    assert by_name(home)["supervisors"]["text"] == "running: review"

    os.kill(supervisor := ps["supervisor"]["pid"], signal.SIGKILL)
    wait_for_exit(supervisor)
    pod = ps["pods"][0]["pid"]
    left = eventually(lambda: by_name(home, ok=1)["journals"], "doctor sees that it is gone")

    assert f"its supervisor (pid {supervisor}) is gone, alive: alice (pid {pod})" in left["text"]
    assert left["mend"] == "podsup --fleet review down"
    home.podsup(*left["mend"].split()[1:])
    assert {row["state"] for row in by_name(home).values()} <= {"ok", "warning"}
    assert by_name(home)["journals"]["state"] == "ok"


def by_name(home: Home, ok: int = 0) -> dict[str, dict[str, Any]]:
    """Return the findings of `podsup doctor`, which ends with `ok`."""
    said = home.json("doctor", ok=ok)
    assert said["schema"] == 1
    return {row["name"]: row for row in said["findings"]}
