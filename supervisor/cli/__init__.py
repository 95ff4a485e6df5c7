"""The command line: parse, one client call, render.

A command's module is imported when it is used.
"""

from __future__ import annotations

import os


def main() -> None:
    """Run `podsup`; ends the process with the command's exit code."""
    from protocol import isolation

    isolation.close_import_path()  # before anything else is imported
    isolation.without_python(os.environ)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them costs 13 ms
    from supervisor.cli.app import run

    run()


__all__ = ["main"]
