"""Which adapter speaks to the model that a manifest names.

An adapter, and with it its provider's SDK, is imported when a model of its scheme is made, and not
before; the fork server imports those of its fleet beforehand.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Protocol

from podproc.models import later, prices
from podproc.models.base import Model, Places, Reach
from podproc.models.prices import Prices
from podproc.models.scripted import ScriptedModel
from protocol.birth import Access, Birth
from protocol.catalog import DEFAULT_WINDOW, UNKNOWN, catalog_of
from protocol.errors import InvalidRequest
from protocol.manifest import Model as ModelTable
from protocol.manifest import Scheme

ADAPTERS = {
    Scheme.ANTHROPIC: ("podproc.models.anthropic_messages", "make"),
    Scheme.OPENAI_CHAT: ("podproc.models.openai_chat", "make"),
    Scheme.GEMINI: ("podproc.models.openai_chat", "make_gemini"),
    Scheme.OPENAI_RESPONSES: ("podproc.models.openai_responses", "make"),
}
"""Where each scheme's adapter is made."""


class Maker(Protocol):
    """Makes an adapter."""

    def __call__(self, reach: Reach) -> Model: ...


def build_model(table: ModelTable, access: Access | None, birth: Birth) -> Model:
    """Return the adapter of a scheme; raises InvalidRequest where nothing says how."""
    if table.scheme is Scheme.SCRIPTED:
        return _scripted(table, birth)
    if access is None:
        raise InvalidRequest(f"model {table.model_id}: nothing says how it is reached")
    known = catalog_of(birth.catalog).find(table.scheme, table.model_id)
    reach = Reach(
        model_id=table.model_id,
        api_key=access.api_key,
        base_url=access.base_url,
        context_window=table.context_window or (known.context_window if known else DEFAULT_WINDOW),
        provider=table.scheme.value if known else UNKNOWN,
    )
    module, name = ADAPTERS[table.scheme]
    make: Maker = getattr(importlib.import_module(module), name)
    return make(reach)


def prices_of(table: ModelTable, birth: Birth) -> Prices:
    """Return the prices of a model; behind an address of its own a name may mean anything."""
    access = birth.access if table == birth.manifest.model else birth.summary_access
    is_listed = access is not None and access.base_url is None
    return Prices(table.scheme, table.model_id, table.price, is_listed=is_listed)


def _scripted(table: ModelTable, birth: Birth) -> Model:
    manifest = birth.manifest
    places = Places(
        pod=manifest.name,
        cwd=manifest.cwd,
        workspace=manifest.workspace,
        fleet=manifest.fleet,
        incarnation=birth.incarnation,
    )
    return ScriptedModel(table, places)


def preload(schemes: Iterable[Scheme]) -> None:
    """Import what models of these schemes need: for the fork server."""
    for scheme in schemes:
        if scheme is not Scheme.SCRIPTED:
            importlib.import_module(ADAPTERS[scheme][0])
            later.preload()
            prices.preload()
