"""Nothing that an agent may write is imported or run by podsup: a real fleet, seen from outside."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from podproc.confine.support import look
from protocol import isolation
from protocol.cage import CageLevel, CageSupport
from tests.e2e.fleets import answers, bash, below, command_of, connect, fleet, pid_of, start
from tests.e2e.test_cage import machine_with
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

if CageSupport.found(look()).level is not CageLevel.NAMESPACES:
    pytest.skip("this machine has no namespaces to cage with", allow_module_level=True)

SITES = [Path(one) for one in sys.path if Path(one).name in isolation.SITES]
FOLDERS = [
    Path(os.__file__).parent,
    *SITES,
    *(Path(isolation.own_root(), name) for name in isolation.PACKAGES),
    Path(sys.prefix, "bin"),
    Path(os.path.realpath(sys.executable)).parent,
]
PROBE = "podsup_probe.py"


def write(path: Path) -> str:
    return f'{{ name = "Write", arguments = {{ file_path = "{path}", content = "x" }} }}'


def everything(home: Home) -> str:
    """Return a pod whose scope is the root, and which tries to write into each folder."""
    tries = "; ".join(f"touch {folder}/{PROBE}" for folder in FOLDERS)
    calls = ", ".join(write(folder / PROBE) for folder in (*FOLDERS, home.work))
    rows = [
        bash("^command$", f"{tries}; touch {home.work}/control"),
        f'match = "^tools$"\nrepeat = true\ntool_calls = [{calls}]',
        bash("^stay$", "sleep 4246 >/dev/null 2>&1 &"),
    ]
    scope = 'scope = { allow = [{ target = "/", permission = "write" }] }\n'
    return f'"alice"\n{scope}{answers(*rows)}'


@pytest.fixture(scope="module", params=[CageLevel.NAMESPACES, CageLevel.LANDLOCK])
def home(request: pytest.FixtureRequest) -> Iterator[Home]:
    """A fleet whose workspace is on PYTHONPATH, with files that must not be imported."""
    home = Home()
    try:
        for name in ("sitecustomize", "usercustomize", "re2", "msgpack", "zmq", "supervisor"):
            text = f"open({str(home.root / 'mark')!r}, 'a').write({name!r})\n"
            home.write(f"{name}.py", text)
        with machine_with(home, request.param):
            inner = {"PYTHONPATH": str(home.work), "PYTHONINSPECT": "", "PYTHONUSERBASE": "/none"}
            if request.param is CageLevel.NAMESPACES:
                home.env = {**home.env, **inner}
            start(home, fleet(everything(home)))
            yield home
        home.down()
    finally:
        home.remove()


def python_below(pid: int) -> Iterator[int]:
    """Yield the processes of a fleet that run Python."""
    for one in (pid, *below(pid)):
        try:
            if "python" in os.path.basename(os.readlink(f"/proc/{one}/exe")):
                yield one
        except OSError:
            continue


def test_every_python_of_a_fleet_is_isolated(home: Home) -> None:
    home.podsup("run", "alice", "stay", "--wait")
    with connect(home) as client:
        pod = pid_of(client, "alice")
    supervisor = home.json("ps")["supervisor"]["pid"]
    eventually(lambda: below(pod), "the keeper is there")
    found = [*python_below(supervisor)]
    assert {supervisor, pod} <= {*found}
    assert len(found) >= 4, "the supervisor, its fork server, a pod and its keeper"
    for pid in found:
        command = command_of(pid)
        is_fork = command.startswith("podsup pod ")  # of the fork server, which is isolated
        assert is_fork or "-I" in command.split(), command
        names = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert not [name for name in names if name.startswith(b"PYTHON")], command
    assert not (home.root / "mark").exists()


def test_no_folder_of_the_import_path_takes_a_file_of_a_pod(home: Home) -> None:
    try:
        home.podsup("run", "alice", "command", "--wait")
        home.podsup("run", "alice", "tools", "--wait")
        assert (home.work / "control").exists()
        assert (home.work / PROBE).exists()
        assert not [folder for folder in FOLDERS if (folder / PROBE).exists()]
    finally:
        for folder in FOLDERS:
            (folder / PROBE).unlink(missing_ok=True)


def test_start_tells_that_a_scope_holds_own_code(home: Home) -> None:
    said = home.podsup("check").stderr
    assert "read-only to alice, since podsup runs it: " in said
    assert json.dumps(sys.base_prefix).strip('"') in said
