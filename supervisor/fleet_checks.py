"""What can be wrong with pods that are well formed: alone, and with each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import chain

from protocol.manifest import SandboxMode, Scheme
from protocol.scope import clashes, write_rules
from supervisor.core import nodes
from supervisor.core.nodes import place_of
from supervisor.fleet_layers import ResolvedPod
from supervisor.keys import models_of
from supervisor.mistakes import Checker, nearest
from supervisor.nodes import nodes_of


def check_pod(check: Checker, pod: ResolvedPod) -> None:
    """Record where one pod's settings contradict each other."""
    manifest, model = pod.manifest, pod.manifest.model
    if model.scheme is not Scheme.SCRIPTED:
        layers = pod.layers
        if not any(one.has("model", "model_id") or one.has("model", "ref") for one in layers):
            told = f"scheme '{model.scheme}' needs a 'model_id'"
            check.add(*pod.origin("model", "scheme"), told)
        for key in ("script", "answers"):
            if pod.own.has("model", key):
                told = f"is only for scheme 'scripted', and this pod's is '{model.scheme}'"
                check.add(*pod.origin("model", key), told)
    if manifest.feature.pods and not manifest.delegation_scope.allow:
        told = "needs a delegation_scope: without one the pod has nothing to lend"
        check.add(*pod.origin("feature", "pods"), told)
    if manifest.feature.memory and manifest.memory is None:
        check.add(*pod.origin("feature", "memory"), "needs a [memory] table")


def check_fleet(check: Checker, pods: Sequence[ResolvedPod]) -> None:
    """Record equal names, dependencies on nobody or in a circle, and scopes that overlap."""
    by_name: dict[str, ResolvedPod] = {}
    for pod in pods:
        other = by_name.setdefault(pod.manifest.name, pod)
        if other is not pod:
            source, at = other.origin("name")
            told = f"'{pod.manifest.name}' is the name of the pod at line {source.line_of(at)}, too"
            check.add(*pod.origin("name"), told)
    _check_dependencies(check, by_name)
    _check_scopes(check, by_name)


def missing_keys(pods: Iterable[ResolvedPod], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield one line for each API key that is not there, with the pods that need it."""
    needed: dict[str, list[str]] = {}
    named = ((pod.manifest.name, model) for pod in pods for model in models_of(pod.manifest))
    for name, model in named:
        if model.api_key_file and not os.path.isfile(model.api_key_file):
            needed.setdefault(f"there is no key file {model.api_key_file}", []).append(name)
        elif model.key_variable and not environ.get(model.key_variable):
            needed.setdefault(f"{model.key_variable} is not set", []).append(name)
    for told, names in needed.items():
        yield f"{told}, needed by {', '.join(names)}"


def beyond_root(pods: Iterable[ResolvedPod]) -> Iterator[str]:
    """Yield, for root, each write target in which commands in a sandbox can write nothing.

    Root's power over other users' files is left outside of a sandbox; the file tools have it.
    """
    if os.geteuid() != 0:
        return
    for pod in pods:
        if pod.manifest.sandbox.mode is SandboxMode.OFF:
            continue
        for rule in write_rules(pod.manifest.scope):
            if (owner := _other_owner(rule.target)) is not None:
                yield (
                    f"{rule.target} belongs to user {owner}: root in a sandbox has no power over "
                    f"it, so commands of {pod.manifest.name} write nothing there"
                )


def _other_owner(path: str) -> int | None:
    """Return who else alone may write a file or folder; None where root may as anybody may."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    by_group = about.st_mode & 0o020 and about.st_gid in {os.getegid(), *os.getgroups()}
    return None if about.st_uid == 0 or by_group or about.st_mode & 0o002 else about.st_uid


def _check_scopes(check: Checker, pods: Mapping[str, ResolvedPod]) -> None:
    placed = [
        (name, rule, place_of(rule, text))
        for name, pod in pods.items()
        for rule, text in zip(
            write_rules(pod.manifest.scope), nodes_of(pod.manifest.scope), strict=True
        )
    ]
    by_name = clashes((name, rule) for name, rule, _ in placed)
    told_of = set[str]()  # once per pod: a thousand pods of one folder make half a million pairs
    for (first, theirs), (second, ours) in chain(by_name, nodes.clashes(placed)):
        if second not in told_of:
            told_of.add(second)
            shared = max(theirs.target, ours.target, key=len)
            told = f"pods '{first}' and '{second}' may both write {shared}"
            check.add(*pods[second].origin("scope", "allow"), told)


def _check_dependencies(check: Checker, pods: Mapping[str, ResolvedPod]) -> None:
    needs: dict[str, list[str]] = {}
    for name, pod in pods.items():
        wanted = dict.fromkeys(dependency.pod for dependency in pod.manifest.depends_on)
        needs[name] = [other for other in wanted if other in pods]
        for other in wanted.keys() - pods.keys():
            told = f"there is no pod '{other}'"
            check.add(*pod.origin("depends_on"), told, suggestion=nearest(other, pods))
    while circle := _circle(needs):
        check.add(*pods[circle[0]].origin("depends_on"), f"a circle: {' -> '.join(circle)}")
        needs[circle[0]].remove(circle[1])


def _circle(needs: Mapping[str, list[str]]) -> list[str] | None:
    """Return names that need each other in a circle, the first again as last; None if none do."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1][:0:-1]  # it comes closed, and the needed one first
        order = list(needs)
        first = min(range(len(circle)), key=lambda number: order.index(circle[number]))
        return [*circle[first:], *circle[: first + 1]]
    return None
