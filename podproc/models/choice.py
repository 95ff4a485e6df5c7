"""Which adapter speaks to the model that a manifest names."""

from __future__ import annotations

from podproc.models.base import Model, Places
from podproc.models.scripted import ScriptedModel
from protocol.birth import Birth
from protocol.errors import InvalidRequest
from protocol.manifest import Model as ModelTable
from protocol.manifest import Scheme


def build_model(table: ModelTable, birth: Birth) -> Model:
    """Return the adapter of a scheme; raises InvalidRequest for one that is not built in."""
    manifest = birth.manifest
    if table.scheme is not Scheme.SCRIPTED:
        raise InvalidRequest(f"model.scheme {table.scheme}: not available in this version")
    places = Places(
        pod=manifest.name,
        cwd=manifest.cwd,
        workspace=manifest.workspace,
        fleet=manifest.fleet,
        incarnation=birth.incarnation,
    )
    return ScriptedModel(table, places)
