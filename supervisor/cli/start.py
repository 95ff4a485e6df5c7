"""`podsup start`: a supervisor and its fleet, in the background or followed until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol import control as c
from protocol import events as ev
from protocol.error_body import error_from_body
from protocol.errors import InvalidRequest, PodsupError, Timeout, Unreachable
from protocol.watch import Deliver
from supervisor.boot import Boot, launch
from supervisor.cli import exit_codes
from supervisor.cli.app import App, Failed, command
from supervisor.cli.asking import Progress
from supervisor.cli.output import note
from supervisor.client import AsyncClient
from supervisor.fleet_file import Fleet, load_fleet
from supervisor.foreign import require_own_name
from supervisor.keys import collect
from supervisor.logs import log_files
from supervisor.looked_at import require_looked_at
from supervisor.own_code import own_code, start_files, warnings
from supervisor.paths import Paths, make_private_dir, trusted_config
from supervisor.reach import is_listening, new_id

if TYPE_CHECKING:
    from supervisor.watcher import Told


@command("start", example="podsup start -d --wait idle")
@click.argument("file", metavar="[FILE]", default="podsup.toml", type=click.Path(path_type=Path))
@click.option("-d", "--detach", is_flag=True, help="Return when the supervisor answers.")
@click.option("--wait", type=click.Choice(["ready", "idle"]), help="With -d: wait for every pod.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait.")
@click.option("--atomic", is_flag=True, help="If one pod cannot start, none stays.")
@click.option("--fresh", is_flag=True, help="File old sessions away and begin new ones.")
@click.option("--accept-changes", is_flag=True, help="Take what the files give more than before.")
def start(
    app: App,
    file: Path,
    detach: bool,
    wait: str | None,
    timeout: float,
    atomic: bool,
    fresh: bool,
    accept_changes: bool,
) -> None:
    """Start the fleet of FILE (default: podsup.toml). Sessions continue where they were."""
    if wait and not detach:
        raise click.UsageError("--wait needs -d: in the foreground the fleet is shown as it lives")
    if atomic and not wait:
        raise click.UsageError(
            "--atomic needs -d --wait: somebody must see whether every pod started"
        )
    require_own_name()
    paths = Paths.here(app.home)
    fleet = load_fleet(file, config_dir=trusted_config(paths))
    for warning in (*fleet.warnings, *warnings(fleet.pods)):
        note(f"warning: {warning}")
    if fleet.unavailable:
        for what in fleet.unavailable:
            note(f"{fleet.file}: {what}")
        app.out.error(InvalidRequest("the fleet asks for what this version has not"))
        raise Failed(exit_codes.CONFIGURATION)
    if not accept_changes:
        require_looked_at(fleet, paths)
    boot = Boot(
        fleet=fleet.name,
        file=str(fleet.file),
        workspace=str(fleet.workspace),
        home=app.home and os.path.abspath(app.home),
        supervisor=fleet.supervisor,
        pods=fleet.pods,
        settings=fleet.settings,
        fresh=fresh,
        operation=new_id(),
        wait=wait or "ready",
        atomic=atomic,
        keys=collect(fleet.pods, os.environ),
        own_code=own_code(),
        start_files=start_files(),
    )
    pid = launch(boot, _supervisor_log(paths, fleet))
    app.fleet = fleet.name
    if detach:
        asyncio.run(_detached(app, boot, pid, wait, timeout))
    else:
        asyncio.run(_foreground(app, boot, pid))


def _supervisor_log(paths: Paths, fleet: Fleet) -> Path:
    paths.control_socket(fleet.name)
    make_private_dir(paths.data)
    folder = paths.data / "fleets"
    folder.mkdir(mode=0o700, exist_ok=True)
    return make_private_dir(folder / fleet.name) / "supervisor.log"


async def _detached(app: App, boot: Boot, pid: int, wait: str | None, timeout: float) -> None:
    if wait is None:
        _say_started(app, boot, pid)
        return
    async with AsyncClient.connect(boot.fleet, home=app.home) as client:
        queue: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
        await client.watch_fleet(queue, pod="")
        try:
            await client.wait_operation(
                boot.operation, queue, timeout_s=timeout, on_progress=Progress()
            )
        except PodsupError as error:
            code = exit_codes.code_of(error)
            failed = error.details.get("pods", {})
            nothing_started = {p.name for p in boot.pods} <= set(failed)
            if nothing_started or (boot.atomic and code != exit_codes.TIMED_OUT):
                await _end(client, pid)
                error.next_step = _without_supervisor(error.next_step, client.paths.data)
            app.out.error(error)
            raise Failed(_start_code(error, code)) from None
    _say_started(app, boot, pid)


def _without_supervisor(step: str | None, data: Path) -> str | None:
    """Return the step for who has no supervisor to ask any more."""
    asked, _, pod = (step or "").partition("podsup why ")
    if asked or not pod:
        return step
    return f"podsup logs {pod}" if log_files(data, pod) else None


def _start_code(error: PodsupError, code: int) -> int:
    """A conflict and an overdue wait keep their codes; every other failed start is 1."""
    return code if code in (exit_codes.CONFLICT, exit_codes.TIMED_OUT) else exit_codes.FAILED


def _say_started(app: App, boot: Boot, pid: int) -> None:
    data = {"fleet": boot.fleet, "supervisor": {"pid": pid}, "pods": [p.name for p in boot.pods]}
    said = f"fleet {boot.fleet} is up (supervisor pid {pid}); podsup ps shows it"
    app.out.lines(data, [said])


async def _foreground(app: App, boot: Boot, pid: int) -> None:
    """Show what happens until the fleet ends or Ctrl-C ends it."""
    note(f"fleet {boot.fleet}: supervisor pid {pid}; Ctrl-C ends the fleet")
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    code = exit_codes.DONE
    async with AsyncClient.connect(boot.fleet, home=app.home) as client:
        queue: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
        await client.watch_fleet(queue, complete=True)
        ending = asyncio.create_task(asked.wait())
        while is_listening(client.paths.control_socket(boot.fleet)):
            getting = asyncio.create_task(queue.get())
            await asyncio.wait({getting, ending}, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                told = getting.result()[1]
                code = _show(told, code, {p.name for p in boot.pods if p.essential})
                if (failed := _nothing_started(told, boot)) is not None:
                    code = failed
                    asked.set()
            else:
                getting.cancel()
            if ending.done():
                await _end(client, pid)
                break
        ending.cancel()
    if code:
        raise Failed(code)


def _nothing_started(told: Any, boot: Boot) -> int | None:
    """The exit code of a fleet none of whose pods could start; None while that is not known."""
    event = told.event if isinstance(told, Deliver) else None
    if not isinstance(event, ev.Operation) or event.id != boot.operation or event.error is None:
        return None
    failed = set((event.error.details or {}).get("pods", {}))
    if not {p.name for p in boot.pods} <= failed or any(p.essential for p in boot.pods):
        return None
    error = error_from_body(event.error)
    return _start_code(error, exit_codes.code_of(error))


def _show(told: Any, code: int, essential: set[str]) -> int:
    """Print one line for what matters; an essential pod that failed decides the exit code."""
    if not isinstance(told, Deliver):
        return code
    pod = told.header.pod
    match told.event:
        case ev.PodReady(pid=pid):
            note(f"{pod}: ready (pid {pid})")
        case ev.Status(status=status):
            note(f"{pod}: {status}")
        case ev.RunEnd(result=result, error=error):
            note(f"{pod}: run {result}" + (f": {error.message}" if error else ""))
        case ev.PodExited(cause=cause):
            note(f"{pod}: {cause}")
        case ev.PodBackoff(wait_s=wait_s):
            note(f"{pod}: starts again in {wait_s:.1f} s")
        case ev.PodFailed(cause=cause, message=message):
            note(f"{pod}: failed: {cause} {message}".rstrip())
            return exit_codes.FLEET_FAILED if pod in essential else code
        case ev.Alert(message=message, level=level):
            note(f"{pod}: {level}: {message}")
        case _:
            pass
    return code


async def _end(client: AsyncClient, pid: int) -> None:
    """End the fleet and wait until its supervisor process is gone."""
    with suppress(Unreachable):  # it went before it could answer
        await client.operate(c.Down(), timeout_s=60.0, on_progress=Progress())
    await wait_gone(pid)


async def wait_gone(pid: int, timeout_s: float = 10.0) -> None:
    """Return when a process is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(pidfd, gone.set)
    try:
        async with asyncio.timeout(timeout_s):
            await gone.wait()
    except TimeoutError:
        raise Timeout(
            f"the supervisor (pid {pid}) is still there", next_step="podsup doctor"
        ) from None
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
