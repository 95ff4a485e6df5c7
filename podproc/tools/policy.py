"""The permission policy: which calls the operator's rules allow. Pure."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pydantic import BaseModel

from podproc.tools.base import Policy
from protocol.manifest import Action, Permissions

_SUBJECT = ("command", "file_path", "pattern", "path", "url", "query", "name")


def subject_of(args: BaseModel) -> str:
    """Return what a rule's pattern is held against.

    The argument that says what the call is about.
    """
    for name in _SUBJECT:
        value = getattr(args, name, None)
        if isinstance(value, str):
            return value
    return ""


def policy_of(permissions: Permissions) -> Policy:
    """Return the check of every call: the first rule that matches decides, else the default."""

    async def check(tool: str, args: BaseModel) -> str | None:
        subject = subject_of(args)
        for rule in permissions.rule:
            if fnmatchcase(tool, rule.tool) and fnmatchcase(subject, rule.pattern):
                return _refusal(rule.action, f"rule {rule.tool} {rule.pattern!r}")
        return _refusal(permissions.default_action, "the default action")

    return check


def _refusal(action: Action, why: str) -> str | None:
    return None if action is Action.ALLOW else f"the permission policy says no ({why})"
