"""What a supervisor is started with, and the starting.

One process, one message in, one message out.

The command that starts a fleet has read and checked its file; the daemon gets the result over its
stdin and says over an inherited pipe whether it is up. So a file is read once, and every refusal
reaches the person who typed the command.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from protocol.base import Wire
from protocol.environment import OF_SUPERVISORS
from protocol.error_body import ErrorBody, error_from_body
from protocol.errors import Internal
from protocol.isolation import isolated
from protocol.manifest import PodManifest, SupervisorTable
from supervisor.core.operator_settings import OperatorSettings


class Boot(Wire):
    """One fleet to supervise; paths absolute. `wait` is `ready` or `idle`.

    What the first operation awaits. `own_code` and `start_files` are what no pod may write.
    """

    fleet: str
    file: str
    workspace: str
    home: str | None = None
    supervisor: SupervisorTable = SupervisorTable()
    pods: tuple[PodManifest, ...] = ()
    settings: OperatorSettings = OperatorSettings()
    fresh: bool = False
    operation: str
    wait: str = "ready"
    atomic: bool = False
    own_code: tuple[str, ...] = ()
    start_files: tuple[str, ...] = ()
    keys: dict[str, str] = Field(default_factory=dict, repr=False)


class Up(Wire):
    """The daemon's one word to whoever started it."""

    pid: int
    error: ErrorBody | None = None


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment a supervisor and all that it starts may have.

    /proc shows it to every process of this user.
    """
    return {name: value for name, value in environ.items() if name in OF_SUPERVISORS}


def launch(boot: Boot, log: Path) -> int:
    """Start the daemon and return its pid once it answers.

    Raises the PodsupError it refused with.
    """
    reading, writing = os.pipe()
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    with os.fdopen(os.open(log, flags, 0o600), "ab") as output:
        daemon = subprocess.Popen(
            isolated("supervisor.daemon", str(writing)),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd="/",
            env=clean_environment(os.environ),
            pass_fds=[writing],
            start_new_session=True,
        )
    os.close(writing)
    assert daemon.stdin is not None
    try:
        daemon.stdin.write(boot.model_dump_json(by_alias=True).encode())
        daemon.stdin.close()
    except BrokenPipeError:
        pass  # it says why, or its log does
    try:
        with os.fdopen(reading, "rb") as answer:
            said = answer.read()
    except KeyboardInterrupt:
        daemon.terminate()
        raise
    if not said:
        daemon.wait()
        raise Internal(
            f"the supervisor ended while it started (exit code {daemon.returncode})",
            next_step=f"see {log}",
        )
    up = Up.from_wire(json.loads(said))
    if up.error is not None:
        daemon.wait()
        raise error_from_body(up.error)
    return up.pid
