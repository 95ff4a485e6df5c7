"""`podsup models`: how models are spoken to, which keys are there, what is known of models."""

from __future__ import annotations

import os
from typing import Any

import click

from supervisor.cli.app import App, command


@command("models", example="podsup models")
@click.argument("name", required=False)
def models(app: App, name: str | None) -> None:
    """Show each scheme, whether its key is set here, and the catalog of models.

    A key itself is never shown. With NAME only what is known of that model. A fleet uses the
    environment that it was started from, which may be another one.
    """
    from protocol.catalog import load_catalog
    from protocol.manifest import Model, Scheme
    from supervisor.paths import Paths, trusted_config

    schemes: list[dict[str, Any]] = []
    for scheme in Scheme:
        variable = Model(scheme=scheme).key_variable
        there = None if variable is None else bool(os.environ.get(variable))
        schemes.append({"scheme": scheme.value, "key": variable, "key_is_set": there})
    catalog = load_catalog(trusted_config(Paths.here(app.home)))
    known = [
        entry
        for entry in catalog.models
        if name is None or any(catalog.find(s, name) == entry for s in entry.schemes)
    ]
    data = {"schemes": schemes, "catalog": [entry.to_wire() for entry in known]}
    keys = [f"{row['scheme']:<18} {_key(row)}" for row in schemes if name is None]
    rows = [
        f"{entry.match:<20} {', '.join(entry.schemes):<32} {entry.context_window:>10,}"
        f"{'  thinks' if entry.reasoning else ''}"
        for entry in known
    ]
    if name is not None and not known:
        rows = [f"{name}: not in the catalog; it is shown as unknown, with the default window"]
    app.out.lines(data, [*keys, *([""] if keys else []), *rows])


def _key(row: dict[str, Any]) -> str:
    if row["key"] is None:
        return "needs no key"
    return f"{row['key']} {'is set' if row['key_is_set'] else 'is not set'}"
