"""What an operator said stays said: files that an agent changes under a running fleet."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from protocol.cage import CageLevel
from tests.e2e.fleets import answers, bash, fleet
from tests.e2e.test_cage import machine_with
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

SCOPE = 'scope = { allow = [{ target = ".", permission = "write" }] }\n'
LENDS = 'delegation_scope = { allow = [{ target = ".", permission = "write" }] }\n'
OPEN = '[defaults.sandbox]\\nmode = \\"off\\"\\n'
EVIL = '[model]\\nscheme = \\"openai_chat\\"\\nmodel_id = \\"x\\"\\nbase_url = \\"http://127.0.0.1:9/v1\\"\\n'


def spawn(profile: str) -> str:
    """Return an answer that spawns a child with a profile."""
    arguments = f'name = "kid-{profile}", task = "x", scope = [], profile = "{profile}"'
    call = f'{{ name = "SpawnPod", arguments = {{ {arguments} }} }}'
    return f'match = "^{profile}$"\ntool_calls = [{call}]\n'


def alice() -> str:
    """Return a pod that changes what podsup reads, when it is told to."""
    widen = f'printf "{OPEN}" | cat - podsup.toml > new; cat new > podsup.toml; rm new'
    plant = f'mkdir -p profiles; printf "{EVIL}" > profiles/evil.toml'
    return f'"alice"\nfeature = {{ pods = true }}\n{SCOPE}{LENDS}' + answers(
        bash("^widen$", widen), bash("^plant$", plant), spawn("plain"), spawn("evil")
    )


def start(home: Home, text: str) -> None:
    """Write the fleet file and start the fleet."""
    home.write("podsup.toml", text)
    home.podsup("start", "-d", "--wait", "idle", timeout=90)


def sandbox_of(home: Home, pod: str) -> str:
    """Return the level of a pod's sandbox, once it has said it."""

    def probe() -> str:
        return str((home.json("status", pod).get("sandbox") or {}).get("level", ""))

    return str(eventually(probe, f"{pod} tells its sandbox", 30))


def results(home: Home, pod: str) -> str:
    return home.podsup("session", "show", pod).stdout


@pytest.mark.timeout(500)
@pytest.mark.parametrize("level", [CageLevel.NAMESPACES, CageLevel.LANDLOCK])
def test_files_that_an_agent_changed_say_nothing_until_a_person_looked(
    home: Home, level: CageLevel
) -> None:
    file = home.work / "podsup.toml"
    with machine_with(home, level):
        home.write("profiles/plain.toml", 'role = "plain"\n')
        start(home, fleet(alice()))
        exposed = {row["file"]: row["pods"] for row in home.json("check")["exposed"]}
        assert exposed == {str(file): ["alice"], str(home.work / "profiles/plain.toml"): ["alice"]}
        for told in ("plain", "widen", "plant", "evil"):
            home.podsup("run", "alice", told, "--wait", timeout=90)
        is_held = level is CageLevel.NAMESPACES
        assert file.read_text().startswith("[defaults.sandbox]") is not is_held
        assert (home.work / "profiles/evil.toml").exists()
        said = results(home, "alice")
        assert "no profile is named 'evil'; there are: plain" in said
        pods = {row["name"] for row in home.json("ps")["pods"]}
        assert "kid-plain" in pods
        assert "kid-evil" not in pods
        home.podsup("spawn", "later", "--wait", timeout=60)
        assert sandbox_of(home, "later") == level.value, "the defaults are those of the start"
        open_ways = json.dumps(home.json("status", "alice"))
        assert (str(file) in open_ways) is not is_held
        home.podsup("down", timeout=90)

        refused = home.podsup("start", "-d", ok=6)
        assert "profile 'evil' is new" in refused.stderr
        assert ("sandbox.mode: was prefer, is off" in refused.stderr) is not is_held
        assert "podsup start --accept-changes" in refused.stderr
        document = json.loads(home.podsup("-o", "json", "start", "-d", ok=6).stdout)
        assert str(home.work / "profiles/evil.toml") in document["error"]["details"]["files"]
        home.podsup("start", "-d", "--wait", "ready", "--accept-changes", timeout=90)
        assert sandbox_of(home, "alice") == ("namespaces" if is_held else "none")
        home.podsup("down", timeout=90)
        home.podsup("start", "-d", "--wait", "ready", timeout=90)  # nothing is new any more


@pytest.mark.timeout(240)
def test_file_that_names_another_fleet_is_the_same_file(home: Home) -> None:
    text = fleet(f'"alice"\n{SCOPE}sandbox = {{ mode = "off" }}\n' + answers('text = "hi"'))
    start(home, text)
    home.podsup("down", timeout=90)
    home.write("podsup.toml", text.replace('"e2e"', '"another"'))
    refused = home.podsup("start", "-d", ok=6)
    assert "fleet: was e2e, is another" in refused.stderr


@pytest.mark.timeout(240)
def test_operator_whose_files_no_pod_may_write_is_never_asked(home: Home) -> None:
    narrow = '"alice"\nscope = { allow = [{ target = "out", permission = "write" }] }\n'
    start(home, fleet(narrow + answers('text = "hi"')))
    home.podsup("down", timeout=90)
    start(home, fleet(f'"alice"\n{SCOPE}sandbox = {{ mode = "off" }}\n' + answers('text = "hi"')))
    assert sandbox_of(home, "alice") == "none"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("command", ["ps", "check", "down", "status alice", "start -d"])
def test_fleet_file_that_is_a_fifo_holds_no_command_up(home: Home, command: str) -> None:
    os.mkfifo(home.work / "podsup.toml", 0o600)
    done = home.podsup(*command.split(), ok=None)
    assert done.returncode in (2, 5)
    assert "podsup.toml" in done.stderr
    assert "is not a regular file" in done.stderr


@pytest.mark.timeout(240)
def test_down_ends_no_fleet_that_a_file_of_another_folder_names(home: Home) -> None:
    start(home, fleet('"alice"\n' + answers('text = "hi"')))
    other = home.root / "other"
    other.mkdir()
    (other / "podsup.toml").write_text('[fleet]\nname = "e2e"\n')
    ours, home.work = home.work, other
    try:
        refused = home.podsup("down", ok=6)
        assert f"is the fleet of {ours}, not of {other}" in refused.stderr
        forged = os.path.relpath(other, home.home / "data/fleets")
        Path(other, "podsup.toml").write_text(f'[fleet]\nname = "{forged}"\n')
        assert "not a name" in home.podsup("down", ok=2).stderr
    finally:
        home.work = ours
    assert home.json("ps")["pods"][0]["name"] == "alice"
