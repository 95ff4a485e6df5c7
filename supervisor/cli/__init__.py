"""The command line: parse, one client call, render. A command's module is imported when it is used."""

from __future__ import annotations


def main() -> None:
    """Run `podsup`; ends the process with the command's exit code."""
    from supervisor.cli.app import run

    run()


__all__ = ["main"]
