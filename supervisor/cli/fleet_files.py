"""`podsup init` and `podsup check`: fleet files, before anything is started."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

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
        with open(file, "x", opener=partial(os.open, mode=0o644)) as out:
            out.write(INIT_TEMPLATE)
    except FileExistsError:
        raise Conflict(
            f"{file} exists already, and is kept", next_step=f"podsup check {file}"
        ) from None
    app.out.lines({"file": str(file)}, [f"wrote {file}; next: podsup start {file} -d"])


HELD = (
    "file tools may not change it; commands cannot at sandbox level `namespaces`, at a lower level "
    "they can"
)
"""What keeps a pod from changing an operator's file that lies in its scope."""


@command("check", example="podsup check podsup.toml")
@click.argument("file", metavar="[FILE]", default="podsup.toml", type=click.Path(path_type=Path))
def check(app: App, file: Path) -> None:
    """Validate a fleet file: each mistake with its line and the nearest valid key.

    Starts nothing.
    """
    from supervisor import own_code
    from supervisor.core.widening import writers
    from supervisor.fleet_file import load_fleet
    from supervisor.paths import Paths, trusted_config

    fleet = load_fleet(file, config_dir=trusted_config(Paths.here(app.home)))
    warnings = [
        *fleet.warnings,
        *own_code.warnings(fleet.pods),
        *(f"start will refuse this: {what}" for what in fleet.unavailable),
    ]
    for warning in warnings:
        note(f"warning: {warning}")
    exposed: list[dict[str, Any]] = [
        {"file": one.path, "kind": one.kind, "pods": [pod.name for pod in those]}
        for one in fleet.settings.files
        if (those := writers(fleet.pods, one.path))
    ]
    for row in exposed:
        names = ", ".join(row["pods"])
        note(f"{row['file']} ({row['kind']}) lies where {names} may write: {HELD}")
    pods = [pod.name for pod in fleet.pods]
    data = {
        "fleet": fleet.name,
        "file": str(fleet.file),
        "workspace": str(fleet.workspace),
        "pods": pods,
        "warnings": warnings,
        "exposed": exposed,
    }
    said = f"{file}: fleet {fleet.name}, {len(pods)} pods: {', '.join(pods) or 'none'}"
    app.out.lines(data, [said])
