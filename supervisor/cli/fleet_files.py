"""`podsup init` and `podsup check`: fleet files, before anything is started."""

from __future__ import annotations

from pathlib import Path

import click

from protocol.errors import Conflict
from supervisor.cli.app import App, command
from supervisor.cli.output import note


@command("init", example="podsup init my-fleet")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
def init(app: App, folder: Path) -> None:
    """Write a commented podsup.toml into DIR (default: this folder). An existing one is kept."""
    from supervisor.fleet_file import FILE_NAME, INIT_TEMPLATE

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE_NAME
    try:
        with file.open("x") as out:
            out.write(INIT_TEMPLATE)
    except FileExistsError:
        raise Conflict(
            f"{file} exists already, and is kept", next_step=f"podsup check {file}"
        ) from None
    app.out.text({"file": str(file)}, f"wrote {file}; next: podsup start {file} -d")


@command("check", example="podsup check podsup.toml")
@click.argument("file", metavar="[FILE]", default="podsup.toml", type=click.Path(path_type=Path))
def check(app: App, file: Path) -> None:
    """Validate a fleet file: each mistake with its line and the nearest valid key.

    Starts nothing.
    """
    from supervisor import own_code
    from supervisor.fleet_file import load_fleet
    from supervisor.paths import Paths

    fleet = load_fleet(file, config_dir=Paths.here(app.home).config)
    warnings = [
        *fleet.warnings,
        *own_code.warnings(fleet.pods),
        *(f"start will refuse this: {what}" for what in fleet.unavailable),
    ]
    for warning in warnings:
        note(f"warning: {warning}")
    pods = [pod.name for pod in fleet.pods]
    data = {
        "fleet": fleet.name,
        "file": str(fleet.file),
        "workspace": str(fleet.workspace),
        "pods": pods,
        "warnings": warnings,
    }
    app.out.text(data, f"{file}: fleet {fleet.name}, {len(pods)} pods: {', '.join(pods) or 'none'}")
