"""The click application: its commands, the options all of them share, and the one place errors end.

`COMMANDS` is a table of names and where each lives, so that `podsup ps` imports `ps` and nothing
else. An error is printed once, here: cause, evidence, next command; with `-o json` as a document on
stdout too. A user's mistake never shows a traceback.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

from protocol.errors import Internal, Interrupted, InvalidRequest, PodsupError
from supervisor.cli import exit_codes
from supervisor.cli.output import (
    OUTPUTS,
    Output,
    flush_results,
    give_up_streams,
    report_crash,
    take_streams,
)
from supervisor.version import VERSION

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("fleet_files", "Write a commented podsup.toml to start from."),
    "check": ("fleet_files", "Validate a fleet file."),
    "start": ("start", "Start a supervisor and its fleet."),
    "down": ("down", "End a fleet, whether its supervisor lives or not."),
    "spawn": ("spawn", "Start one more pod."),
    "run": ("run", "Submit a turn to a pod."),
    "notify": ("run", "Leave a notification for a pod."),
    "pause": ("control", "Stop a pod's run and keep it resumable."),
    "resume": ("control", "Continue a paused run."),
    "cancel": ("control", "Stop a pod's run, or give up a paused one."),
    "compact": ("control", "Compact a pod's history now."),
    "rewind": ("control", "Take back an input and what followed."),
    "attach": ("attach", "Show a pod's history and live stream; type to run."),
    "wait": ("wait", "Wait for pods."),
    "ps": ("look", "Show the fleet."),
    "tree": ("look", "Show the fleet as a tree."),
    "status": ("look", "Show one pod closely."),
    "why": ("look", "Show how a pod came to its state."),
    "locks": ("look", "Show who may write where."),
    "logs": ("logs", "Show what a pod's process printed."),
    "session": ("session", "Show, export, repair or replay a pod's history."),
    "events": ("events", "Show the fleet's events."),
    "stop": ("lifecycle", "Stop pods."),
    "kill": ("lifecycle", "Kill pods with everything they started."),
    "restart": ("lifecycle", "Restart pods; their sessions continue."),
    "restore": ("lifecycle", "Start a stopped pod again."),
    "delete": ("lifecycle", "Forget stopped pods; their sessions stay."),
    "peer": ("family", "Make two pods see each other."),
    "reclaim": ("family", "Remove the claims of pods that are proven dead."),
    "models": ("models", "Show schemes, which keys are there, and what is known of models."),
    "doctor": ("doctor", "Find what is wrong, and how to mend it."),
}


@dataclass(slots=True)
class App:
    """What every command gets: the shared options."""

    home: str | None = None
    fleet: str | None = None
    output: str = "table"

    @property
    def out(self) -> Output:
        """Where results go, in the form asked for."""
        return Output(self.output)


class Failed(Exception):
    """End with this code; everything has been said."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Commands(click.Group):
    """Finds a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"supervisor.cli.{COMMANDS[cmd_name][0]}")
        found: click.Command = getattr(module, cmd_name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in COMMANDS])


def _take_output(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(App).output = value


def _take(name: str, ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        setattr(ctx.ensure_object(App), name, value)


def _option(*names: str, take: Callable[..., None], **kw: Any) -> Callable[[Any], Any]:
    return click.option(*names, expose_value=False, callback=take, **kw)


output_option = _option(
    "-o",
    "--output",
    "output",
    take=_take_output,
    type=click.Choice(OUTPUTS),
    help="The form of the result.",
)


form_option = _option(
    "-o", "output", take=_take_output, type=click.Choice(OUTPUTS), help="The form of the result."
)
"""The same for a command whose --output is a file."""


def command(
    name: str,
    *,
    example: str,
    short: str | None = None,
    form: Callable[[Any], Any] = output_option,
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command that gets the `App` first; `example` is shown by --help and runs.

    `short` is what a list of commands says of one that is part of a group.
    """

    def wrap(function: Callable[..., None]) -> click.Command:
        made = click.command(
            name,
            short_help=short or COMMANDS[name][1],
            epilog=f"Example: {example}",
            help=function.__doc__,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        return made(form(click.pass_obj(function)))

    return wrap


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@_option("--home", take=partial(_take, "home"), metavar="DIR", help="Where podsup keeps its files.")
@_option("--fleet", take=partial(_take, "fleet"), metavar="NAME", help="The fleet to talk to.")
@output_option
@click.version_option(VERSION, prog_name="podsup")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Supervise fleets of LLM agents.

    Each is one OS process with its own session and write scope.
    """
    ctx.ensure_object(App)


def run(args: list[str] | None = None) -> None:
    """Run a command line and end the process with its exit code."""
    take_streams()
    app = App()
    sys.excepthook = report_crash
    sys.exit(_run(app, sys.argv[1:] if args is None else args))


def _run(app: App, args: list[str]) -> int:
    try:
        cli.main(args=args, prog_name="podsup", obj=app, standalone_mode=False)
        flush_results()
    except Failed as failed:
        return failed.code
    except PodsupError as error:
        return _report(app, error, exit_codes.code_of(error))
    except click.exceptions.Abort:
        return _report(app, Interrupted("interrupted"), 130)
    except click.exceptions.Exit as left:
        return left.exit_code
    except click.ClickException as error:
        if "json" in args:
            app.output = "json"
        refusal = InvalidRequest(error.format_message(), next_step=_usage(error))
        return _report(app, refusal, exit_codes.USAGE)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        give_up_streams()
        return exit_codes.DONE
    except OSError as error:
        return _report(app, _of_the_system(error), exit_codes.FAILED)
    except Exception as error:
        if type(error).__name__ == "ValidationError":  # a value no message can carry, such as NaN
            return _report(app, InvalidRequest(str(error)), exit_codes.USAGE)
        if type(error).__name__ != "FleetFileInvalid":
            raise
        return _report(app, _mistakes(error), exit_codes.CONFIGURATION)
    return exit_codes.DONE


def _of_the_system(error: OSError) -> PodsupError:
    try:
        flush_results()  # click prints --help and --version itself
    except Internal as full:
        return full
    said = error.strerror or str(error)
    return Internal(said if error.filename is None else f"{said}: {error.filename}")


def _usage(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    return f"{ctx.command_path} --help" if ctx is not None else "podsup --help"


def _mistakes(error: Any) -> PodsupError:
    rows = [
        {
            "file": str(m.file),
            "line": m.line,
            "key": m.key,
            "message": m.message,
            "suggestion": m.suggestion,
            "text": str(m),
        }
        for m in error.mistakes
    ]
    return InvalidRequest(str(error), next_step=error.next_step, mistakes=rows)


def _report(app: App, error: PodsupError, code: int) -> int:
    app.out.error(error)
    return code
