"""The layers of a pod's settings: where each stands, and what it means there.

A relative path means something only where it was written, so each layer is put in its place before
any are merged: `profile`, `script` and `api_key_file` beside their own file, scope targets, `cwd`
and the folders of the sandbox in the pod's workspace. A path that climbs out with `..`, or through
a link, is refused; who means to reach outside writes an absolute path, or one below `~`. A link
that one of the pods may replace is no way to a folder that is given: at the next start it would
lead where the pod wants.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

from protocol.errors import Forbidden, InvalidScope
from protocol.manifest import PodManifest, Script
from protocol.operator_file import planted_link, read_operator_file
from protocol.scope import Resolved, canonical, is_beneath, resolved
from supervisor.core.operator_settings import ReadFile
from supervisor.core.widening import writers
from supervisor.mistakes import Checker, Mistake
from supervisor.toml_source import Loc, Source, SyntaxMistake, read_source

Data: TypeAlias = dict[str, Any]
"""A table of a file: valid in itself, and plain."""

_ADDING_UP = {
    ("scope", "allow"),
    ("scope", "deny"),
    ("delegation_scope", "allow"),
    ("delegation_scope", "deny"),
    ("permissions", "rule"),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A table of settings and where it stands; `placed`: its paths are absolute already."""

    source: Source
    at: Loc
    data: Data
    placed: bool = False

    def has(self, *keys: str) -> bool:
        """Say whether the layer itself gives this value."""
        table: Any = self.data
        for key in keys:
            if not isinstance(table, dict) or key not in table:
                return False
            table = table[key]
        return True


@dataclass(frozen=True, slots=True)
class ResolvedPod:
    """A manifest with the layers it came from, lowest first, for whoever finds a mistake in it."""

    manifest: PodManifest
    layers: tuple[Layer, ...]

    @property
    def own(self) -> Layer:
        """The pod's own table."""
        return self.layers[-1]

    def origin(self, *keys: str) -> tuple[Source, Loc]:
        """Return where the value in force was written; the pod's own table if nowhere."""
        for layer in reversed(self.layers):
            if layer.has(*keys):
                return layer.source, (*layer.at, *keys)
        return self.own.source, self.own.at


def merged(lower: Data, upper: Data, table: tuple[str, ...] = ()) -> Data:
    """Return the lower settings with the upper ones laid over them.

    Values replace, tables merge, rules add up with the upper ones first.
    """
    result = dict(lower)
    for key, value in upper.items():
        under, here = lower.get(key), (*table, key)
        if isinstance(value, dict) and isinstance(under, dict):
            result[key] = merged(under, value, here)
        elif here in _ADDING_UP and under is not None:
            result[key] = [*value, *under]
        else:
            result[key] = value
    return result


class Files:
    """Reads the files of one load, each once, and turns what is written in them into paths.

    A mistake is given to the checker, and the answer is then None or the next best thing.
    """

    def __init__(self, check: Checker) -> None:
        self._check = check
        self._sources: dict[Path, Source | Mistake] = {}
        self._named: dict[Path, str] = {}
        self._led: list[tuple[Source, Loc, str]] = []

    def read(self, file: Path, kind: str) -> Source | None:
        """Return what a file says; `kind` is what people call it."""
        if file not in self._sources:
            self._named.setdefault(file, kind)
            self._sources[file] = _source_of(file)
        found = self._sources[file]
        if isinstance(found, Mistake):
            self._check.add_mistake(found)  # each time: whoever asks may look at it aside
            return None
        return found

    def text(self, file: Path, kind: str, *, most: int) -> str | None:
        """Return the text of a file that is no table; None where there is none."""
        self._named.setdefault(file, kind)
        try:
            data = read_operator_file(file, most=most)
            self._sources[file] = Source(file, {}, sha256=sha256(data).hexdigest())
            return data.decode("utf-8-sig")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            told = f"is not UTF-8 text (at line {line})"
            self._check.add_mistake(Mistake(file, line, "", told))
        except OSError as error:
            self._check.add_mistake(Mistake(file, None, "", error.strerror or str(error)))
        return None

    def taken_part(self) -> tuple[ReadFile, ...]:
        """Return every file that is there, by its canonical path; a key is not read."""
        return tuple(
            ReadFile(path=os.path.realpath(file), kind=kind, sha256=self._digest(file))
            for file, kind in sorted(self._named.items())
            if os.path.isfile(file)
        )

    def _digest(self, file: Path) -> str:
        source = self._sources.get(file)
        return source.sha256 if isinstance(source, Source) else ""

    def check_links(self, pods: Sequence[PodManifest]) -> None:
        """Record each file that a link leads to which one of the pods may replace."""
        for file in self._named:
            link = self._planted(file, pods)
            if link is not None:
                told = f"{_replaceable(link, pods)}; put the file itself there, {_ELSEWHERE}"
                self._check.add_mistake(Mistake(file, None, "", told))

    def check_ways(self, pods: Sequence[PodManifest]) -> None:
        """Record each folder that is given where one of the pods may replace a link to it.

        What a child is given needs no such check: wherever it is, its parent may give it.
        """
        for source, at, link in self._led:
            if writers(pods, link):
                told = f"{_replaceable(link, pods)}; name the folder itself, {_ELSEWHERE}"
                self._check.add(source, at, told)

    @property
    def named(self) -> frozenset[Path]:
        """The files that take part until now."""
        return frozenset(self._named)

    def forget_planted(self, files: Iterable[Path], pods: Sequence[PodManifest]) -> list[Path]:
        """Have files take no part that a link leads to which one of the pods may replace."""
        planted = [file for file in files if self._planted(file, pods) is not None]
        for file in planted:
            del self._named[file]
        return planted

    @staticmethod
    def _planted(file: Path, pods: Sequence[PodManifest]) -> str | None:
        return planted_link(file, lambda path: bool(writers(pods, path)))

    def require_out_of_reach(self, pods: Sequence[PodManifest]) -> None:
        """Raise Forbidden for a file that is read now, and that one of the pods may write."""
        for file in self._named:
            path = os.path.realpath(file)
            if those := writers(pods, path):
                raise Forbidden(
                    f"{path} lies where {', '.join(pod.name for pod in those)} may write, and was "
                    "not fixed when the fleet was started",
                    next_step="look at it, then copy it to the profiles folder of the user's "
                    "config, or to where no pod may write",
                    path=path,
                )

    def folder(self, source: Source, at: Loc, written: str, *, base: str) -> str:
        """Return the canonical path of a folder; the base after a mistake."""
        path = self._canonical(source, at, written, base)
        if path and not os.path.isdir(path):
            self._check.add(source, at, f"'{written}' is not a folder ({path})")
        return path or base

    def beside(self, layer: Layer, *keys: str) -> Path | None:
        """Return the path of the file that a value names, beside the file that it stands in."""
        table = layer.data
        for key in keys[:-1]:
            table = table[key]
        written: str = table[keys[-1]]
        path = self._joined(layer.source, (*layer.at, *keys), written, _folder_of(layer))
        if path is None:
            return None
        if not os.path.lexists(path):
            self._check.add(layer.source, (*layer.at, *keys), f"there is no file {path}")
            return None
        return layer.source.path.parent / os.path.expanduser(written)

    def in_place(self, layer: Layer, workspace: str) -> Data:
        """Return the layer's settings with absolute paths, and a script's answers for its name."""
        data = {key: value for key, value in layer.data.items() if key not in _WHERE}
        if layer.placed:
            return data
        if "cwd" in data:
            at = (*layer.at, "cwd")
            data["cwd"] = self.folder(layer.source, at, data["cwd"], base=workspace)
        if "model" in data:
            data["model"] = self._played(layer, self._with_key(layer, "model"))
        for key in ("compaction", "memory"):
            if layer.has(key, "model"):
                data[key] = {**data[key], "model": self._with_key(layer, key, "model")}
        for key in {"scope", "delegation_scope"} & data.keys():
            sides = {"allow", "deny"} & data[key].keys()
            data[key] = data[key] | {
                side: list(self._rules(layer, key, side, workspace)) for side in sides
            }
        if "sandbox" in data:
            opened = {"extra_read", "extra_write"} & data["sandbox"].keys()
            data["sandbox"] = data["sandbox"] | {
                key: list(self._opened(layer, key, workspace)) for key in opened
            }
        return data

    def _with_key(self, layer: Layer, *keys: str) -> Data:
        """Return a model table with the path of its key file absolute."""
        model: Data = layer.data
        for key in keys:
            model = model[key]
        if "api_key_file" not in model:
            return model
        at = (*layer.at, *keys, "api_key_file")
        path = self._joined(layer.source, at, model["api_key_file"], _folder_of(layer))
        if path is not None:
            self._named.setdefault(Path(path), "key file")
        return {**model, "api_key_file": path}

    def _played(self, layer: Layer, model: Data) -> Data:
        """Return a model table with its script's answers in place of the script's name."""
        if "script" not in model:
            return model
        if "answers" in model:
            at = (*layer.at, "model", "answers")
            self._check.add(layer.source, at, "give a script or answers, not both")
        model = {key: value for key, value in model.items() if key != "script"}
        file = self.beside(layer, "model", "script")
        if file is None or (source := self.read(file, "script")) is None:
            return model
        return {"answers": [], **self._check.validated(Script, source), **model}

    def _rules(self, layer: Layer, key: str, side: str, workspace: str) -> Iterator[Data]:
        for number, rule in enumerate(layer.data[key][side]):
            at = (*layer.at, key, side, number, "target")
            target = self._canonical(layer.source, at, rule["target"], workspace)
            if target is not None:
                yield {**rule, "target": target}
            if target is not None and side == "deny":
                yield from self._names_on(os.path.expanduser(rule["target"]), workspace)

    @staticmethod
    def _names_on(written: str, workspace: str) -> Iterator[Data]:
        """Yield a deny of each link on a denied path: to replace one would lead the path away."""
        for link in resolved(written, cwd=workspace).links:
            yield {"target": link, "permission": "write", "recursive": False}

    def _opened(self, layer: Layer, key: str, workspace: str) -> Iterator[str]:
        for number, written in enumerate(layer.data["sandbox"][key]):
            at = (*layer.at, "sandbox", key, number)
            path = self._canonical(layer.source, at, written, workspace)
            if path is not None:
                yield path

    def _canonical(self, source: Source, at: Loc, written: str, base: str) -> str | None:
        path = self._joined(source, at, written, base)
        if path is None:
            return None
        is_relative = not os.path.isabs(os.path.expanduser(written))
        try:
            place = resolved(path)
            if is_relative:
                _require_inside(written, place, canonical(base))
        except InvalidScope as error:
            self._check.add(source, at, error.message)
            return None
        if not ("deny" in at or (is_relative and at[-1] == "cwd")):  # neither gives anything
            self._led += ((source, at, link) for link in place.links)
        return place.path

    def _joined(self, source: Source, at: Loc, written: str, base: str) -> str | None:
        """Return the path, absolute; None if it climbs out of its base."""
        path = os.path.expanduser(written)
        if not os.path.isabs(path) and os.path.normpath(path).split("/")[0] == "..":
            told = f"'{written}' leads out of {base} with '..'; an absolute path may"
            self._check.add(source, at, told)
            return None
        return os.path.join(base, path)


_ELSEWHERE = "or the link where no pod may write"


def _replaceable(link: str, pods: Sequence[PodManifest]) -> str:
    names = ", ".join(pod.name for pod in writers(pods, link))
    return f"{link} is a link in a folder that {names} may write, so it can lead anywhere"


def _source_of(file: Path) -> Source | Mistake:
    try:
        return read_source(file)
    except SyntaxMistake as error:
        return Mistake(file, error.line, "", error.message)
    except OSError as error:
        return Mistake(file, None, "", error.strerror or str(error))


_WHERE = frozenset({"workspace", "profile"})  # say where the rest is, and are used up by then


def _require_inside(written: str, place: Resolved, base: str) -> None:
    """Raise InvalidScope for a relative path that a link has led out of its base."""
    if is_beneath(place.path, base):
        return
    leads_to = ((link, canonical(link)) for link in place.links)
    link, where = next((one for one in leads_to if not is_beneath(one[1], base)), (base, base))
    raise InvalidScope(
        f"'{written}' leads out of {base}: {link} is a link to {where}; an absolute path may"
    )


def _folder_of(layer: Layer) -> str:
    return os.path.abspath(layer.source.path.parent)
