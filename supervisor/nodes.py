"""What the targets of a claim are, looked up when it is made (`supervisor.core.nodes`)."""

from __future__ import annotations

import os

from protocol.scope import Scope, components, write_rules
from supervisor.core.nodes import SEPARATOR
from supervisor.identity import boot


def nodes_of(scope: Scope) -> tuple[str, ...]:
    """Return the lines of a scope's write rules, in their order. Blocks; follows no link."""
    return tuple(_line(rule.target) for rule in write_rules(scope))


def _line(target: str) -> str:
    path = ""
    nodes = [_node("/")]
    for part in components(target):
        path = f"{path}/{part}"
        try:
            nodes.append(_node(path))
        except OSError:  # it is not there, or cannot be looked at: the rest counts by name
            break
    return SEPARATOR.join(nodes)


def _node(path: str) -> str:
    """Return what is at a path; devices have other numbers after a boot, and elsewhere."""
    found = os.lstat(path)
    return f"{found.st_dev:x}:{found.st_ino:x}:{boot()[:8]}"
