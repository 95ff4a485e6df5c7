"""`supervisor` is also the import name of another project on PyPI: refuse to share it."""

from __future__ import annotations

from importlib.metadata import packages_distributions

from protocol.errors import Conflict


def other_owners() -> list[str]:
    """Return the distributions besides podsup that provide the import name `supervisor`."""
    owners = packages_distributions().get("supervisor", [])
    return sorted({name for name in owners if name != "podsup"})


def require_own_name() -> None:
    """Raise Conflict when another distribution provides `supervisor`.

    Whose code runs is then luck.
    """
    if others := other_owners():
        raise Conflict(
            f"the import name 'supervisor' is also provided by {', '.join(others)} in this "
            "environment, so it is luck whose code runs",
            next_step="install podsup in an environment of its own: pipx install podsup",
        )
