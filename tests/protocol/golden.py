"""The golden rows: what each message class looks like on the wire, as checked in beside this file.

A row is the class's fields (its JSON schema, without prose), the required ones, and the msgpack
bytes of its sample. Manifest and birth are left out: they pass between processes of one
installation, and have tests of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protocol import control, entries, events, methods, wire
from protocol.base import Wire
from tests.protocol.samples import REVISION, SAMPLES

FOLDER = Path(__file__).parent / "golden"
VERSIONS = FOLDER / "versions.json"
LEFT_OUT = {"protocol.manifest", "protocol.birth", "protocol.catalog", "protocol.surroundings"}
BASES = {
    "parts.Shown",
    "controls.Control",
    "entries._Entry",
    "events.Event",
    "events.LogEvent",
    "events.StateEvent",
    "events.StreamEvent",
    "headers._Header",
    "methods.Method",
    "parts.OpenWire",
}
"""Never sent as they are."""

GROUPS: dict[str, tuple[type[Wire], ...]] = {
    "methods": (methods.Method,),
    "controls": (control.Control,),
    "events": (events.Event,),
    "entries": (entries._Entry, entries.UnknownEntry),
    "headers": (wire._Header,),
    "parts": (Wire,),
}
"""One file for each, by what a class is and not by where it stands: that may change."""

CLASSES_BY_NAME = (methods.METHODS, control.CONTROLS, events.EVENTS)
PROSE = {"title", "description"}
EMPTY: tuple[object, ...] = ({}, [])

Row = dict[str, Any]


def name_of(cls: type[Wire]) -> str:
    """Return `<group>.<class>`."""
    group = next(group for group, bases in GROUPS.items() if issubclass(cls, bases))
    return f"{group}.{cls.__name__}"


def message_classes() -> dict[str, type[Wire]]:
    """Return every class of the protocol that is sent, by name."""
    return {
        name_of(cls): cls
        for cls in _below(Wire)
        if cls.__module__.startswith("protocol.")
        and cls.__module__ not in LEFT_OUT
        and name_of(cls) not in BASES
    }


def _below(cls: type[Wire]) -> Iterator[type[Wire]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _below(sub)


def fields_of(cls: type[Wire]) -> tuple[Row, list[str]]:
    """Return the class's own properties and the required ones."""
    schema = cls.model_json_schema()
    fields = schema.get("properties", {})
    return {name: _without_prose(field) for name, field in fields.items()}, schema.get(
        "required", []
    )


def _without_prose(schema: Any) -> Any:
    match schema:
        case dict():
            return {
                key: _without_prose(value)
                for key, value in schema.items()
                # Whether an empty default is shown depends on how it is written.
                if key not in PROSE and not (key == "default" and value in EMPTY)
            }
        case list():
            return [_without_prose(part) for part in schema]
        case _:
            return schema


def row_of(sample: Wire) -> Row:
    """Return what the sample and its class look like now."""
    fields, required = fields_of(type(sample))
    return {"fields": fields, "required": required, "bytes": wire.pack(sample).hex()}


def read_rows() -> dict[str, Row]:
    """Return the checked-in rows by class."""
    files = [path for path in FOLDER.glob("*.json") if path != VERSIONS]
    return {
        f"{path.stem}.{name}": row
        for path in files
        for name, row in json.loads(path.read_text()).items()
    }


def read_versions() -> dict[str, int]:
    """Return the version and revision the rows were written at."""
    versions: dict[str, int] = json.loads(VERSIONS.read_text())
    return versions


def versions_now() -> dict[str, int]:
    """Return what the code says."""
    return {"version": wire.VERSION, "revision": REVISION}


def render() -> dict[str, str]:
    """Return the text of every golden file, by its name, as it would be written now."""
    groups: dict[str, list[str]] = {}
    for sample in SAMPLES:
        group, _, name = name_of(type(sample)).partition(".")
        row = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in row_of(sample).items())
        groups.setdefault(group, []).append(f"{json.dumps(name)}: {{\n  {row}}}")
    texts = {f"{group}.json": "{" + ",\n".join(rows) + "}\n" for group, rows in groups.items()}
    return texts | {VERSIONS.name: json.dumps(versions_now()) + "\n"}
