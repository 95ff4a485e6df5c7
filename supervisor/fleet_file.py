"""From a fleet file to the manifests of its pods, or to all that is wrong with it.

A pod's settings lie in layers, each over the one before: what is built in, `[defaults]` of the
user's config, `[defaults]` of the fleet file, the pod's profile, the pod's own table. A single
value of an upper layer hides the lower one, tables are merged key by key, and the rules of scopes
and permissions add up (permission rules of upper layers come first, since the first match decides).

The result is complete: no path, script or default is looked up again when a pod starts. What pods
that are added later need, the defaults and the offered profiles, is in it (`settings`). And it is
whole or not at all: a file with one mistake gives no fleet, but it gives every mistake, since the
values that were refused are left out and the rest is checked to the end.

Nothing here starts, creates or locks anything, and the environment is read for one purpose: to warn
that a key is missing. That two *fleets* claim one directory is not seen here; the scope table
decides that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from protocol.birth import PromptTemplate
from protocol.catalog import NAME as CATALOG
from protocol.catalog import Known, lines_of
from protocol.errors import InvalidRequest, NotSubset
from protocol.manifest import (
    FleetFile,
    FleetTable,
    Permissions,
    PodManifest,
    PodTable,
    Profile,
    SupervisorTable,
    UserConfig,
    unavailable,
    unavailable_in_supervisor,
)
from protocol.names import is_pod_name
from protocol.operator_file import MOST
from protocol.scope import effective_permission
from supervisor.core.descent import exceeds, inherited, narrowed
from supervisor.core.operator_settings import (
    REACH,
    WHERE_MODELS_ARE,
    OperatorSettings,
    PlacedTable,
    names_reach,
    places_of,
    table_at,
)
from supervisor.fleet_checks import beyond_root, check_fleet, check_pod, missing_keys
from supervisor.fleet_layers import Data, Files, Layer, ResolvedPod, merged
from supervisor.init_template import INIT_TEMPLATE
from supervisor.mistakes import Checker, FleetFileInvalid, Mistake, nearest, valid_name
from supervisor.toml_source import Source

__all__ = [
    "FILE_NAME",
    "INIT_TEMPLATE",
    "Fleet",
    "FleetFileInvalid",
    "Mistake",
    "json_schema",
    "load_fleet",
    "nearest",
    "resolve_child",
    "resolve_pod",
]

FILE_NAME = "podsup.toml"
FLEET_FILE = "fleet file"
PROFILES = "profiles"
"""The folder, beside the fleet file or in the user's config, whose profiles pods may name."""

MOST_PROFILES = 256
TEMPLATE = "system.md.j2"
MOST_TEMPLATE = 256 * 1024
_NOTHING_SAID = OperatorSettings()

_MAKE = "podsup init, which writes a podsup.toml; or go to the folder that has one, or name it"


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet file that is right in every point: what there is to start.

    `unavailable` names what it asks for and this version has not; such a fleet is valid, and must
    not be started.
    """

    name: str
    file: Path
    workspace: Path
    supervisor: SupervisorTable
    pods: tuple[PodManifest, ...]
    settings: OperatorSettings
    warnings: tuple[str, ...]
    unavailable: tuple[str, ...]


def load_fleet(
    path: Path, *, config_dir: Path | None, environ: Mapping[str, str] = os.environ
) -> Fleet:
    """Read a fleet file, or the one in a folder, and resolve every pod in it.

    `config_dir` holds the user's own config.toml, if there is one. Raises FleetFileInvalid with all
    mistakes of all files that take part.
    """
    file = path / FILE_NAME if path.is_dir() else path
    check = Checker()
    files = Files(check)
    if (source := files.read(file, FLEET_FILE)) is None:
        raise FleetFileInvalid(check.mistakes, next_step=None if os.path.lexists(file) else _MAKE)
    data = check.validated(FleetFile, source)
    table = FleetTable.model_validate(data.get("fleet", {}))
    workspace = files.folder(
        source, ("fleet", "workspace"), table.workspace, base=os.path.abspath(file.parent)
    )
    resolve = _Resolver(
        check,
        files,
        fleet=table.name or valid_name(os.path.basename(workspace)) or "fleet",
        workspace=workspace,
        supervisor=SupervisorTable.model_validate(data.get("supervisor", {})),
        defaults=(
            *_user_defaults(check, files, config_dir),
            Layer(source, ("defaults",), data.get("defaults", {})),
        ),
    )
    pods = [resolve(source, number) for number in _pod_numbers(source)]
    check_fleet(check, [pod for pod in pods if pod.own.has("name")])
    manifests = [pod.manifest for pod in pods]
    settings, odd = _fixed(resolve, config_dir, beside=file.parent, pods=manifests)
    _check_links(files, manifests)
    if check.mistakes:
        raise FleetFileInvalid(check.mistakes)
    return Fleet(
        name=resolve.fleet,
        file=Path(os.path.abspath(file)),
        workspace=Path(workspace),
        supervisor=resolve.supervisor,
        pods=tuple(pod.manifest for pod in pods),
        settings=settings,
        warnings=(*missing_keys(pods, environ), *beyond_root(pods), *odd),
        unavailable=(
            *unavailable_in_supervisor(resolve.supervisor),
            *(f"pod '{p.manifest.name}': {what}" for p in pods for what in unavailable(p.manifest)),
        ),
    )


def resolve_pod(
    table: dict[str, Any],
    *,
    fleet: str,
    workspace: str,
    supervisor: SupervisorTable,
    settings: OperatorSettings,
    profile: PlacedTable | None = None,
    others: Sequence[PodManifest] = (),
) -> PodManifest:
    """Resolve one `[[pod]]` table that stands in no file, over the defaults of the fleet's start.

    `profile` is one that was offered at the start. One that the table names is a file, which is
    read now; `others` are pods that may have written there. Raises FleetFileInvalid with all
    mistakes of the table and of the profile, and Forbidden for a file that is not to be read.
    """
    check = Checker()
    files = Files(check)
    resolve = _Resolver(
        check,
        files,
        fleet=fleet,
        workspace=workspace,
        supervisor=supervisor,
        defaults=tuple(map(_layer, settings.defaults)),
        profile=None if profile is None else _layer(profile),
    )
    pod = resolve(Source(Path(workspace, "spawn"), {"pod": [table]}), 0)
    _check_links(files, [*others, pod.manifest])
    if check.mistakes:
        raise FleetFileInvalid(check.mistakes)
    files.require_out_of_reach(others)
    return pod.manifest


def resolve_child(
    table: dict[str, Any],
    parent: PodManifest,
    *,
    supervisor: SupervisorTable,
    settings: OperatorSettings = _NOTHING_SAID,
    profile: PlacedTable | None = None,
    places: Sequence[Mapping[str, Any]] | None = (),
    others: Sequence[PodManifest] = (),
) -> PodManifest:
    """Resolve one `[[pod]]` table of a child: over its profile, over its parent's settings.

    `profile` is one that was offered at the fleet's start; one that the table names is a file of an
    operator, as in `resolve_pod`. `places` is where the operator has models; None is anywhere: the
    operator says it now. Raises FleetFileInvalid with all mistakes, and NotSubset for what the
    parent may not give.
    """
    check = Checker()
    files = Files(check)
    resolve = _Resolver(
        check,
        files,
        fleet=parent.fleet,
        workspace=parent.workspace,
        supervisor=supervisor,
        defaults=tuple(map(_layer, settings.defaults)),
        profile=None if profile is None else _layer(profile),
    )
    pod = resolve.child(Source(Path(parent.workspace, "spawn"), {"pod": [table]}), parent)
    files.check_links([*others, parent, pod.manifest])
    if check.mistakes:
        raise FleetFileInvalid(check.mistakes)
    files.require_out_of_reach([*others, parent])
    if places is None:
        places = places_of(pod.manifest)
    if beyond := exceeds(parent, pod.manifest, places=places):
        raise NotSubset(
            f"{parent.name!r} may not give a child that much: {'; '.join(beyond)}",
            next_step="ask for less, or widen the parent's delegation_scope in the fleet file; its "
            "override_denies frees children of the parent's write denies",
            beyond=beyond,
        )
    return pod.manifest


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a fleet file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **FleetFile.model_json_schema(),
        "title": FILE_NAME,
    }


@dataclass(frozen=True, slots=True)
class _Resolver:
    """What all pods of a file have in common while they are resolved."""

    check: Checker
    files: Files
    _: KW_ONLY
    fleet: str
    workspace: str
    supervisor: SupervisorTable
    defaults: tuple[Layer, ...]
    profile: Layer | None = None

    def __call__(self, source: Source, number: int) -> ResolvedPod:
        """Return one `[[pod]]` of the file; what is wrong with it is recorded and left out."""
        at = ("pod", number)
        own = Layer(source, at, self.check.validated(PodTable, source, at))
        layers = (*self.defaults, *self._profile(own), own)
        workspace = self._workspace(layers)
        settings: Data = {
            "name": f"unnamed-{number + 1}",
            "fleet": self.fleet,
            "workspace": workspace,
            "cwd": workspace,
            "scope": {"allow": [{"target": workspace, "permission": "read"}]},
            "beat_interval_s": self.supervisor.beat_interval_s,
            "hang_timeout_s": self.supervisor.hang_timeout_s,
            "stall_timeout_s": self.supervisor.stall_timeout_s,
            "max_notification_runs": self.supervisor.max_notification_runs.model_dump(),
        }
        for layer in layers:
            settings = merged(settings, self.files.in_place(layer, workspace))
        pod = ResolvedPod(PodManifest.model_validate(settings), layers)
        check_pod(self.check, pod)
        return pod

    def child(self, source: Source, parent: PodManifest) -> ResolvedPod:
        """Return the child that the only `[[pod]]` of a source asks for."""
        at = ("pod", 0)
        own = Layer(source, at, self.check.validated(PodTable, source, at))
        layers = (*self._profile(own), own)
        settings: Data = {**inherited(parent), "name": "unnamed"}
        base = Layer(source, at, settings)
        schemes = [one.data["model"]["scheme"] for one in layers if one.has("model", "scheme")]
        if schemes and schemes[-1] != parent.model.scheme:
            settings["model"] = {}  # where the parent's model is says nothing of another scheme's
        for layer in layers[:-1]:
            self._reach_anew(settings, layer)
        for layer in layers:
            if layer.has("workspace"):
                told = f"a child has its parent's workspace, {parent.workspace}"
                self.check.add(layer.source, (*layer.at, "workspace"), told)
            settings = merged(settings, self.files.in_place(layer, parent.workspace))
        asked = Permissions.model_validate(settings.pop("permissions", {}))
        if not any(layer.has("feature", "pods") for layer in layers):
            lends = bool(settings.get("delegation_scope", {}).get("allow"))
            settings["feature"]["pods"] = parent.feature.pods and lends
        manifest = PodManifest.model_validate(settings)
        policy = narrowed(parent.permissions, asked)
        if manifest.model.scheme is parent.model.scheme:
            layers = (base, *layers)  # the model's id may be the parent's
        pod = ResolvedPod(manifest.model_copy(update={"permissions": policy}), layers)
        check_pod(self.check, pod)
        if effective_permission(pod.manifest.scope, pod.manifest.cwd) is None:
            told = f"the pod could not read {pod.manifest.cwd}"
            self.check.add(*pod.origin("cwd"), told)
        return pod

    def _reach_anew(self, settings: Data, profile: Layer) -> None:
        """Take out where the parent's models are reached, as far as a profile says anything of it.

        Its key is meant for its own address, or for that of `[defaults]`; never for the parent's.
        """
        for keys in WHERE_MODELS_ARE:
            table, said = table_at(settings, keys), table_at(profile.data, keys)
            if table is None or said is None or not names_reach(said):
                continue
            scheme = said.get("scheme", table.get("scheme"))
            for key in REACH:
                table.pop(key, None)
            for under in (table_at(layer.data, keys) or {} for layer in self.defaults):
                if under.get("scheme", scheme) == scheme:
                    table.update({key: under[key] for key in REACH if key in under})

    def offered(self, file: Path) -> PlacedTable | None:
        """Return what a profile says, wherever it is used: with its paths absolute."""
        source = self.files.read(file, "profile")
        return None if source is None else self.placed(self._read_profile(source))

    def look_at_profile(self, file: Path, pods: Sequence[PodManifest]) -> PlacedTable | str:
        """Return what a profile says that nobody has to have, else what is wrong with it.

        Where a pod of the file names it, what is wrong is a mistake of the file already.
        """
        before = self.files.named
        with self.check.aside() as wrong:
            found = self.offered(file)
        if planted := self.files.forget_planted(self.files.named - before, pods):
            return f"a link leads to {planted[0]}, in a folder that a pod may write"
        return str(wrong[0]) if found is None or wrong else found

    def placed(self, layer: Layer) -> PlacedTable:
        """Return a layer as it is kept: with its paths absolute."""
        workspace = self._workspace((layer,))
        table = self.files.in_place(layer, workspace)
        kept = {"workspace": workspace} if layer.has("workspace") else {}
        return PlacedTable(file=os.path.realpath(layer.source.path), table={**table, **kept})

    def _profile(self, own: Layer) -> Iterator[Layer]:
        if self.profile is not None:
            yield self.profile
        if own.has("profile") and (file := self.files.beside(own, "profile")) is not None:
            source = self.files.read(file, "profile")
            if source is not None:
                yield self._read_profile(source)

    def _read_profile(self, source: Source) -> Layer:
        return Layer(source, (), self.check.validated(Profile, source))

    def _workspace(self, layers: tuple[Layer, ...]) -> str:
        for layer in reversed(layers):
            if layer.has("workspace"):
                at, written = (*layer.at, "workspace"), layer.data["workspace"]
                return self.files.folder(layer.source, at, written, base=self.workspace)
        return self.workspace


def _check_links(files: Files, pods: Sequence[PodManifest]) -> None:
    files.check_links(pods)
    files.check_ways(pods)


def _pod_numbers(source: Source) -> list[int]:
    tables = source.data.get("pod")
    tables = tables if isinstance(tables, list) else []
    return [number for number, table in enumerate(tables) if isinstance(table, dict)]


def _fixed(
    resolve: _Resolver, config_dir: Path | None, *, beside: Path, pods: Sequence[PodManifest]
) -> tuple[OperatorSettings, list[str]]:
    """Return what the files of the operator say besides the pods of the fleet file.

    And a warning for each profile that cannot be offered: who may write in its folder could keep
    the fleet down otherwise.
    """
    folders = [beside / PROFILES, *([config_dir / PROFILES] if config_dir else [])]
    found, odd = _profiles_in(folders)
    profiles: dict[str, PlacedTable] = {}
    for name, file in found.items():
        told = resolve.look_at_profile(file, pods)
        if isinstance(told, PlacedTable):
            profiles[name] = told
        else:
            odd.append(f"profile '{name}' is not offered: {told}")
    template, catalog = _of_the_user(resolve, config_dir)
    settings = OperatorSettings(
        defaults=tuple(map(resolve.placed, resolve.defaults)),
        profiles=profiles,
        unusable=tuple(sorted(found.keys() - profiles.keys())),
        template=template,
        catalog=catalog,
        files=resolve.files.taken_part(),
        supervisor=resolve.supervisor,
        bare=_bare(resolve),
    )
    return settings, odd


def _profiles_in(folders: Sequence[Path]) -> tuple[dict[str, Path], list[str]]:
    """Return the files that may be profiles by their names, and a warning of what is left out."""
    found: dict[str, Path] = {}
    odd: list[str] = []
    for folder in folders:
        files = sorted(islice(folder.glob("*.toml"), MOST_PROFILES + 1))
        if len(files) > MOST_PROFILES:
            odd.append(f"{folder} has more than {MOST_PROFILES} profiles; no more are offered")
        for file in files[:MOST_PROFILES]:
            if is_pod_name(file.stem):
                found[file.stem] = file
            elif not file.name.startswith("."):
                odd.append(f"{file} is not offered: a profile's name is like a pod's")
    return found, odd


def _of_the_user(
    resolve: _Resolver, config_dir: Path | None
) -> tuple[PromptTemplate | None, tuple[Known, ...]]:
    """Return the template and the lines of the catalog that lie in the user's config folder."""
    if config_dir is None:
        return None, ()
    file = config_dir / TEMPLATE
    text = resolve.files.text(file, "template", most=MOST_TEMPLATE)
    template = None if text is None else PromptTemplate(file=str(file), text=text)
    file = config_dir / CATALOG
    try:
        lines = lines_of(resolve.files.text(file, "catalog", most=MOST) or "", file)
    except InvalidRequest as error:
        resolve.check.add_mistake(Mistake(file, None, "", error.message))
        return template, ()
    return template, lines


def _bare(resolve: _Resolver) -> PodManifest | None:
    """Return what a pod gets that says nothing of itself; None where the defaults are mistaken."""
    alone = replace(resolve, check=Checker())
    pod = alone(Source(Path(resolve.workspace, "spawn"), {"pod": [{"name": "bare"}]}), 0)
    return None if alone.check.mistakes else pod.manifest


def _layer(kept: PlacedTable) -> Layer:
    return Layer(Source(Path(kept.file), {}), (), kept.table, placed=True)


def _user_defaults(check: Checker, files: Files, config_dir: Path | None) -> Iterator[Layer]:
    file = config_dir / "config.toml" if config_dir else None
    if (
        file is not None
        and os.path.lexists(file)
        and (source := files.read(file, "config")) is not None
    ):
        data = check.validated(UserConfig, source)
        yield Layer(source, ("defaults",), data.get("defaults", {}))
