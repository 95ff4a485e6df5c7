"""What this machine can confine commands with, as a process of the pod's side finds it out."""

from __future__ import annotations

import subprocess

import orjson

from protocol.cage import CageSupport
from protocol.isolation import isolated

LOOKING_S = 20


def cage_support() -> CageSupport:
    """Have the pod's side try it, in a process of its own; raises OSError or ValueError."""
    argv = isolated("podproc.confine.support")
    try:
        done = subprocess.run(argv, cwd="/", capture_output=True, timeout=LOOKING_S, check=True)
    except subprocess.SubprocessError as error:
        raise OSError(f"{argv[-1]}: {error}") from error
    return CageSupport.found(orjson.loads(done.stdout))
