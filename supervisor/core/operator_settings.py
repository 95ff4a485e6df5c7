"""What an operator has said, fixed when a fleet is started. Pure.

The files of an operator may lie where an agent writes. So they are read once, by the command that
starts the fleet, and what they said is a value from then on: it travels to the supervisor, stands
in the fleet's journal, and is what every later spawn, restore and restart goes by. A file that
changes says nothing until the operator starts the fleet again.

    defaults    the layers that lie under every pod: the user's, then the fleet file's
    profiles    what pods may name as a profile of their children
    template    of the system prompt, where the operator has one
    catalog     the operator's own lines
    unusable    profiles that no pod may name: something is wrong with them
    files       all that was read, by canonical path
    supervisor  the bounds of the fleet
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from protocol.base import Wire
from protocol.birth import PromptTemplate
from protocol.catalog import Known
from protocol.manifest import Model, PodManifest, SupervisorTable

WHERE_MODELS_ARE = (("model",), ("compaction", "model"), ("memory", "model"))
"""The tables of a pod's settings that say where a model is and which key it gets."""


class PlacedTable(Wire):
    """A table of settings as a file has it, with its paths absolute and its script read."""

    file: str
    table: dict[str, Any] = Field(default_factory=dict)


class ReadFile(Wire):
    """A file that took part; `kind` names it for people."""

    path: str
    kind: str
    sha256: str


class OperatorSettings(Wire):
    """All that the files of an operator say, besides the pods of the fleet file themselves.

    `bare` is what a pod gets that is added later and says nothing of itself.
    """

    defaults: tuple[PlacedTable, ...] = ()
    profiles: dict[str, PlacedTable] = Field(default_factory=dict)
    unusable: tuple[str, ...] = ()
    template: PromptTemplate | None = None
    catalog: tuple[Known, ...] = ()
    files: tuple[ReadFile, ...] = ()
    supervisor: SupervisorTable = SupervisorTable()
    bare: PodManifest | None = None

    def model_tables(self) -> tuple[dict[str, Any], ...]:
        """Return every table in which the operator says where a model is."""
        layers = (*self.defaults, *self.profiles.values())
        tables = [table for layer in layers for table in _model_tables(layer.table)]
        return (*tables, *self._reached_by_default())

    def _reached_by_default(self) -> Iterator[dict[str, Any]]:
        """Yield the tables of profiles with an address, or a key, that `[defaults]` add."""
        for keys in WHERE_MODELS_ARE:
            under: dict[str, Any] = {}
            for layer in self.defaults:
                table = table_at(layer.table, keys) or {}
                under.update({key: table[key] for key in REACH if key in table})
            for profile in self.profiles.values():
                said = table_at(profile.table, keys)
                if under and said is not None and names_reach(said):
                    yield {**under, **_place_in(said)}


PLACE = ("scheme", "ref", "base_url", "api_key_env", "api_key_file", "price")
"""The keys of a model that say where it is, which key it is sent, and what that costs."""

REACH = ("base_url", "api_key_env", "api_key_file")
"""The keys of a place that belong together: which address is sent which key."""

NO_PLACE = ("model_id", "context_window", "on_exhausted", "chars_per_s", "answers")
"""The keys of a model that send nothing anywhere."""


def place_of(model: Model) -> dict[str, Any]:
    """Return where a model is, as plain data with every key."""
    return model.model_dump(mode="json", include=set(PLACE))


def without_answers(manifest: PodManifest) -> PodManifest:
    """Return a manifest without what a scripted model says: it is long, and gives nothing."""
    return manifest.model_copy(update={"model": manifest.model.model_copy(update={"answers": ()})})


def models_with_keys(manifest: PodManifest) -> Iterator[tuple[str, Model]]:
    """Yield each model of a pod, with the key under which it stands."""
    for keys in WHERE_MODELS_ARE:
        found: Any = manifest
        for key in keys:
            found = getattr(found, key, None)
        if isinstance(found, Model):
            yield ".".join(keys), found


def places_of(manifest: PodManifest) -> tuple[dict[str, Any], ...]:
    """Return where the models of a pod are, each with every key."""
    return tuple(place_of(model) for _, model in models_with_keys(manifest))


def names_reach(table: Mapping[str, Any]) -> bool:
    """Say whether a table of a model names a key or an address."""
    return any(key in table for key in REACH)


def table_at(settings: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """Return the table that stands under keys; None where there is none."""
    found: Any = settings
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def laid_over(place: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a model is when a table says more, or something else, of its place.

    A table that names a key or an address takes none of either from the place.
    """
    if names_reach(table):
        place = {key: value for key, value in place.items() if key not in REACH}
    price = table.get("price")
    if price is not None:
        table = {**table, "price": {**(place["price"] or {}), **price}}
    return place_of(Model.model_validate({**place, **table}))


def _model_tables(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for keys in WHERE_MODELS_ARE:
        if (found := table_at(table, keys)) is not None:
            yield _place_in(found)


def _place_in(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key in PLACE}
