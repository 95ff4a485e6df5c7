"""The command line: parse, one client call, render.

A command's module is imported when it is used.
"""

from __future__ import annotations

import os


def main() -> None:
    """Run `podsup`; ends the process with the command's exit code."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them costs 13 ms
    from supervisor.cli.app import run

    run()


__all__ = ["main"]
