"""From a fleet file to the manifests of its pods, or to all that is wrong with it.

A pod's settings lie in layers, each over the one before: what is built in, `[defaults]` of the
user's config, `[defaults]` of the fleet file, the pod's profile, the pod's own table. A single
value of an upper layer hides the lower one, tables are merged key by key, and the rules of scopes
and permissions add up (permission rules of upper layers come first, since the first match decides).

Each layer is first put in its place, alone, because a relative path means something only where it
was written: `script`, `api_key_file` and `profile` beside their own file, scope targets, `cwd` and
the folders of the sandbox in the pod's workspace. A path that climbs out with `..` is refused; who
wants to reach outside says so with an absolute path, or one below `~`. Only then are the layers
merged, and the result is complete: no path, script or default is looked up again when a pod starts.

Nothing here starts, creates or locks anything, and the environment is read for one purpose: to warn
that a key is missing. That two *fleets* claim one directory is not seen here; the scope table
decides that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from protocol.errors import InvalidScope
from protocol.manifest import (
    FleetFile,
    FleetTable,
    PodManifest,
    PodTable,
    Profile,
    Scheme,
    Script,
    SupervisorTable,
    UserConfig,
    unavailable,
    unavailable_in_supervisor,
)
from protocol.scope import canonical, clashes, write_rules
from supervisor.mistakes import Checker, FleetFileInvalid, Mistake, nearest, valid_name
from supervisor.toml_source import Loc, Source, SyntaxMistake, read_source

__all__ = [
    "FILE_NAME",
    "INIT_TEMPLATE",
    "Fleet",
    "FleetFileInvalid",
    "Mistake",
    "json_schema",
    "load_fleet",
    "nearest",
]

FILE_NAME = "podsup.toml"

INIT_TEMPLATE = """\
# A fleet of pods. `podsup check` says what is wrong with this file, `podsup start` runs it.

[fleet]
# name = "review"               # default: the name of this folder
# workspace = "."               # where pods work, and what relative paths start from

[supervisor]
# hang_timeout_s = 60           # a pod silent for so long is ended and started again; 0 = never

# What every pod has unless it says otherwise.
[defaults.model]
scheme = "scripted"             # the embedded model: no key, no network; it echoes or plays answers
# scheme = "anthropic"          # or openai_chat, openai_responses, gemini
# model_id = "claude-sonnet-4-6"
# api_key_env = "MY_KEY"        # default: ANTHROPIC_API_KEY, OPENAI_API_KEY or GEMINI_API_KEY

[[pod]]
name = "hello"
task = "Say hello in a file."   # delivered once; without it the pod waits to be spoken to
restart = "on-failure"          # never | on-failure | always
# A pod reads its workspace, and writes only here:
scope = { allow = [{ target = "out/hello", permission = "write" }] }
# engine = { max_turns = 40, instruction = "Be brief." }
# profile = "profiles/writer.toml"   # settings to share between pods, in a file of their own

# What the embedded model answers, in order. Without answers it says `echo: <what you said>`.
[[pod.model.answers]] text = "Writing it." tool_calls = [ { name = "Write", arguments = { file_path
= "${cwd}/out/hello/hello.txt", content = "hello from ${pod}\\n" } }, ] [[pod.model.answers]] text =
"Done."
"""  # noqa: E501

_Data = dict[str, Any]
_ADDING_UP = {
    ("scope", "allow"),
    ("scope", "deny"),
    ("delegation_scope", "allow"),
    ("delegation_scope", "deny"),
    ("permissions", "rule"),
}


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet file that is right in every point: what there is to start.

    `unavailable` names what it asks for and this version has not; such a fleet is valid but must
    not start.
    """

    name: str
    file: Path
    workspace: Path
    supervisor: SupervisorTable
    pods: tuple[PodManifest, ...]
    warnings: tuple[str, ...]
    unavailable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Layer:
    """A table of settings and where it stands."""

    source: Source
    at: Loc
    data: _Data

    def has(self, *keys: str) -> bool:
        """Say whether the layer itself gives this value."""
        table: Any = self.data
        for key in keys:
            if not isinstance(table, dict) or key not in table:
                return False
            table = table[key]
        return True


@dataclass(frozen=True, slots=True)
class _Pod:
    """A resolved pod with its layers, lowest first, for whoever has a mistake to report."""

    manifest: PodManifest
    layers: tuple[_Layer, ...]
    is_named: bool

    def origin(self, *keys: str) -> tuple[Source, Loc]:
        """Return where the value in force was written; the pod's own table if nowhere."""
        for layer in reversed(self.layers):
            if layer.has(*keys):
                return layer.source, (*layer.at, *keys)
        return self.layers[-1].source, self.layers[-1].at


def load_fleet(
    path: Path, *, config_dir: Path | None, environ: Mapping[str, str] = os.environ
) -> Fleet:
    """Read a fleet file, or the one in a folder, and resolve every pod in it.

    `config_dir` holds the user's own config.toml, if there is one. Raises FleetFileInvalid with all
    mistakes of all files that take part.
    """
    return _Loader(environ).load(path / FILE_NAME if path.is_dir() else path, config_dir)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a fleet file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **FleetFile.model_json_schema(),
        "title": FILE_NAME,
    }


class _Loader:
    """One load: the mistakes so far, and each file read once."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._check = Checker()
        self._sources: dict[Path, Source | None] = {}

    def load(self, file: Path, config_dir: Path | None) -> Fleet:
        source = self._read(file)
        if source is None:
            self._check.raise_if_any()
            raise AssertionError("a file that cannot be read is a mistake")
        data = self._check.validated(FleetFile, source)
        fleet = FleetTable.model_validate(data.get("fleet", {}))
        supervisor = SupervisorTable.model_validate(data.get("supervisor", {}))
        workspace = self._folder(
            source, ("fleet", "workspace"), fleet.workspace, base=os.path.abspath(file.parent)
        )
        name = fleet.name or valid_name(os.path.basename(workspace)) or "fleet"
        lowest = [*self._user_defaults(config_dir)]
        if "defaults" in data:
            lowest.append(_Layer(source, ("defaults",), data["defaults"]))
        tables = source.data.get("pod")
        pods = [
            self._pod(source, number, lowest, fleet=name, workspace=workspace, under=supervisor)
            for number, table in enumerate(tables if isinstance(tables, list) else [])
            if isinstance(table, dict)
        ]
        self._check_together([pod for pod in pods if pod.is_named])
        self._check.raise_if_any()
        return Fleet(
            name=name,
            file=Path(os.path.abspath(file)),
            workspace=Path(workspace),
            supervisor=supervisor,
            pods=tuple(pod.manifest for pod in pods),
            warnings=tuple(self._missing_keys(pods)),
            unavailable=(
                *unavailable_in_supervisor(supervisor),
                *(f"pod '{p.manifest.name}': {u}" for p in pods for u in unavailable(p.manifest)),
            ),
        )

    def _read(self, file: Path) -> Source | None:
        """Return the file's source, None after a mistake; each file is read once."""
        if file not in self._sources:
            self._sources[file] = None
            try:
                self._sources[file] = read_source(file)
            except SyntaxMistake as error:
                self._check.add_mistake(Mistake(file, error.line, "", error.message))
            except OSError as error:
                self._check.add_mistake(Mistake(file, None, "", error.strerror or str(error)))
        return self._sources[file]

    def _user_defaults(self, config_dir: Path | None) -> Iterator[_Layer]:
        file = config_dir / "config.toml" if config_dir else None
        if file is None or not file.exists() or (source := self._read(file)) is None:
            return
        data = self._check.validated(UserConfig, source)
        yield _Layer(source, ("defaults",), data.get("defaults", {}))

    def _pod(
        self,
        source: Source,
        number: int,
        lowest: list[_Layer],
        *,
        fleet: str,
        workspace: str,
        under: SupervisorTable,
    ) -> _Pod:
        """Resolve one `[[pod]]`; what is wrong with it is recorded and left out."""
        own = _Layer(
            source, ("pod", number), self._check.validated(PodTable, source, ("pod", number))
        )
        layers = [*lowest, *self._profile(own), own]
        for layer in layers:
            if layer.has("workspace"):
                workspace = self._folder(
                    layer.source,
                    (*layer.at, "workspace"),
                    layer.data["workspace"],
                    base=workspace,
                )
        merged: _Data = {}
        for layer in layers:
            merged = _merged(merged, self._in_place(layer, workspace))
        merged.pop("profile", None)
        merged.setdefault("name", f"unnamed-{number + 1}")
        merged.setdefault("hang_timeout_s", under.hang_timeout_s)
        merged.setdefault("stall_timeout_s", under.stall_timeout_s)
        scope = merged.setdefault("scope", {})
        readable = {"target": workspace, "permission": "read", "recursive": True}
        scope["allow"] = [*scope.get("allow", []), readable]
        merged |= {"fleet": fleet, "workspace": workspace, "beat_interval_s": under.beat_interval_s}
        merged.setdefault("cwd", workspace)
        pod = _Pod(PodManifest.model_validate(merged), tuple(layers), own.has("name"))
        self._check_alone(pod)
        return pod

    def _profile(self, own: _Layer) -> Iterator[_Layer]:
        if not own.has("profile"):
            return
        file = self._file(own, ("profile",), own.data["profile"])
        if file is not None and (source := self._read(file)) is not None:
            yield _Layer(source, (), self._check.validated(Profile, source))

    def _in_place(self, layer: _Layer, workspace: str) -> _Data:
        """Return the layer's settings with every path absolute and the script played into answers."""
        data = dict(layer.data)
        data.pop("workspace", None)
        if "cwd" in data:
            data["cwd"] = self._folder(
                layer.source, (*layer.at, "cwd"), data["cwd"], base=workspace
            )
        if "model" in data:
            data["model"] = self._model(layer, data["model"])
        for key in ("compaction", "memory"):
            if "model" in data.get(key, {}):
                data[key] = {**data[key], "model": self._with_key(layer, data[key]["model"], key)}
        for key in ("scope", "delegation_scope"):
            if key in data:
                data[key] = {
                    side: list(self._rules(layer, (key, side), rules, workspace))
                    for side, rules in data[key].items()
                }
        sandbox = data.get("sandbox", {})
        for key in {"extra_read", "extra_write"} & sandbox.keys():
            at = (*layer.at, "sandbox", key)
            paths = [self._canonical(layer.source, at, path, workspace) for path in sandbox[key]]
            sandbox = {**sandbox, key: [path for path in paths if path]}
            data["sandbox"] = sandbox
        return data

    def _model(self, layer: _Layer, model: _Data) -> _Data:
        """Return a model table with its script's answers in place of the script's name."""
        model = dict(self._with_key(layer, model))
        if "script" not in model:
            return model
        if "answers" in model:
            self._check.add(
                layer.source, (*layer.at, "model", "answers"), "give a script or answers, not both"
            )
        file = self._file(layer, ("model", "script"), model.pop("script"))
        if file is None or (source := self._read(file)) is None:
            return model
        return {"answers": [], **self._check.validated(Script, source), **model}

    def _with_key(self, layer: _Layer, model: _Data, *above: str) -> _Data:
        if "api_key_file" not in model:
            return model
        at = (*layer.at, *above, "model", "api_key_file")
        base = os.path.abspath(layer.source.path.parent)
        return {
            **model,
            "api_key_file": self._joined(layer.source, at, model["api_key_file"], base),
        }

    def _rules(
        self, layer: _Layer, keys: tuple[str, str], rules: Iterable[_Data], workspace: str
    ) -> Iterator[_Data]:
        for number, rule in enumerate(rules):
            at = (*layer.at, *keys, number, "target")
            target = self._canonical(layer.source, at, rule["target"], workspace)
            if target is not None:
                yield {**rule, "target": target}

    def _joined(self, source: Source, at: Loc, written: str, base: str) -> str | None:
        """Return the path, absolute; None after a mistake if it climbs out of its base."""
        path = os.path.expanduser(written)
        if not os.path.isabs(path) and os.path.normpath(path).split("/")[0] == "..":
            told = f"'{written}' leads out of {base} with '..': if it is meant, write it absolute"
            self._check.add(source, at, told)
            return None
        return os.path.join(base, path)

    def _canonical(self, source: Source, at: Loc, written: str, base: str) -> str | None:
        path = self._joined(source, at, written, base)
        try:
            return path and canonical(path)
        except InvalidScope as error:
            self._check.add(source, at, error.message)
            return None

    def _folder(self, source: Source, at: Loc, written: str, *, base: str) -> str:
        """Return the folder's canonical path; the base after a mistake."""
        path = self._canonical(source, at, written, base)
        if path and not os.path.isdir(path):
            self._check.add(source, at, f"'{written}' is not a folder ({path})")
        return path or base

    def _file(self, layer: _Layer, keys: tuple[str, ...], written: str) -> Path | None:
        """Return the path of a file named beside the layer's own; None after a mistake."""
        folder = layer.source.path.parent
        if self._joined(layer.source, (*layer.at, *keys), written, os.path.abspath(folder)) is None:
            return None
        file = folder / os.path.expanduser(written)
        if file.is_file():
            return file
        self._check.add(layer.source, (*layer.at, *keys), f"there is no file '{file}'")
        return None

    def _check_alone(self, pod: _Pod) -> None:
        manifest, own = pod.manifest, pod.layers[-1]
        model = manifest.model
        if model.scheme is not Scheme.SCRIPTED:
            if not any(p.has("model", "model_id") or p.has("model", "ref") for p in pod.layers):
                told = f"scheme '{model.scheme}' needs a 'model_id'"
                self._check.add(*pod.origin("model", "scheme"), told)
            for key in ("script", "answers"):
                if own.has("model", key):
                    told = f"is only for scheme 'scripted', and this pod's is '{model.scheme}'"
                    self._check.add(*pod.origin("model", key), told)
        if manifest.feature.pods and not manifest.delegation_scope.allow:
            told = "needs a delegation_scope: without one the pod has nothing to lend"
            self._check.add(*pod.origin("feature", "pods"), told)
        if manifest.feature.memory and manifest.memory is None:
            self._check.add(*pod.origin("feature", "memory"), "needs a [memory] table")

    def _check_together(self, pods: list[_Pod]) -> None:
        by_name: dict[str, _Pod] = {}
        for pod in pods:
            name = pod.manifest.name
            if by_name.setdefault(name, pod) is not pod:
                source, at = by_name[name].origin("name")
                told = (
                    f"'{name}' is the name of two pods (the other one: line {source.line_of(at)})"
                )
                self._check.add(*pod.origin("name"), told)
        self._check_dependencies(by_name)
        claims = [
            (p.manifest.name, r) for p in by_name.values() for r in write_rules(p.manifest.scope)
        ]
        reported = set[str]()
        for (first, theirs), (second, ours) in clashes(claims):
            if second not in reported:
                reported.add(second)
                told = f"pods '{first}' and '{second}' may both write {_deeper(theirs.target, ours.target)}"
                self._check.add(*by_name[second].origin("scope", "allow"), told)

    def _check_dependencies(self, pods: Mapping[str, _Pod]) -> None:
        needs: dict[str, list[str]] = {}
        for name, pod in pods.items():
            wanted = [dependency.pod for dependency in pod.manifest.depends_on]
            needs[name] = [other for other in wanted if other in pods]
            for other in wanted:
                if other not in pods:
                    self._check.add(
                        *pod.origin("depends_on"),
                        f"there is no pod '{other}'",
                        suggestion=nearest(other, pods),
                    )
        while cycle := _cycle(needs):
            told = f"a circle: {' -> '.join(cycle)}"
            self._check.add(*pods[cycle[0]].origin("depends_on"), told)
            needs[cycle[0]].remove(cycle[1])

    def _missing_keys(self, pods: Iterable[_Pod]) -> Iterator[str]:
        needed: dict[str, list[str]] = {}
        for pod in pods:
            model, name = pod.manifest.model, pod.manifest.name
            if model.api_key_file and not os.path.isfile(model.api_key_file):
                needed.setdefault(f"there is no key file {model.api_key_file}", []).append(name)
            elif model.key_variable and not self._environ.get(model.key_variable):
                needed.setdefault(f"{model.key_variable} is not set", []).append(name)
        for told, names in needed.items():
            yield f"{told}, needed by {', '.join(names)}"


def _merged(lower: _Data, upper: _Data, table: tuple[str, ...] = ()) -> _Data:
    """Return the lower settings with the upper ones laid over them."""
    result = dict(lower)
    for key, value in upper.items():
        under, here = lower.get(key), (*table, key)
        if isinstance(value, dict) and isinstance(under, dict):
            result[key] = _merged(under, value, here)
        elif here in _ADDING_UP and under is not None:
            result[key] = [*value, *under]
        else:
            result[key] = value
    return result


def _cycle(needs: Mapping[str, list[str]]) -> list[str] | None:
    """Return one circle of names, each needing the next, first again as last; None if there is none."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1][:0:-1]
        first = min(range(len(circle)), key=lambda n: list(needs).index(circle[n]))
        return [*circle[first:], *circle[: first + 1]]
    return None


def _deeper(one: str, other: str) -> str:
    return max(one, other, key=len)
