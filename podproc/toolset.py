"""The tools of one pod, put together from its birth: scope view, keeper, registry, policy."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podproc.canonical import opened
from podproc.tools.base import Registry, ToolFailure, off_loop
from podproc.tools.belt import confined_to
from podproc.tools.cage import Cage
from podproc.tools.files import Edit, Files, Read, ReadTracker, Write
from podproc.tools.fsview import ScopeView
from podproc.tools.keeper_client import Keeper
from podproc.tools.lends import Lends
from podproc.tools.output import OutputStore
from podproc.tools.pod_output import MOST_BYTES, PodOutputs
from podproc.tools.pods import Kin, pod_tools
from podproc.tools.policy import policy_of
from podproc.tools.search import Glob, Grep
from podproc.tools.shell import Bash, command_environment
from podproc.tools.tasks import Tasks, task_tools
from protocol.birth import Birth
from protocol.cage import CageLevel, CageSupport, chosen_level
from protocol.errors import InvalidScope
from protocol.isolation import PACKAGES, own_root
from protocol.scope import Permission, Scope, ScopeRule, canonical, write_rules
from protocol.snapshot import ScopeSummary


@dataclass(frozen=True, slots=True)
class Sources:
    """The files that a pod's tools have touched, for whoever shows them to its model again."""

    view: ScopeView
    tracker: ReadTracker

    def touched(self) -> list[str]:
        """Return the paths that were read or written, the latest last."""
        return self.tracker.touched()

    def read(self, path: str) -> str | None:
        """Return the text of a file; None where it cannot be read. Blocks."""
        try:
            _, state = self.view.read(path)
            return state.data.decode()
        except (ToolFailure, OSError, UnicodeDecodeError):
            return None


@dataclass(frozen=True, slots=True)
class Toolset:
    """What the pod runs its model's calls with; `close` proves that all of it is gone."""

    registry: Registry
    view: ScopeView
    lends: Lends
    keeper: Keeper
    shell: Bash
    scope: Scope
    sources: Sources
    tasks: Tasks | None = None
    cage: Cage | None = None

    async def close(self) -> None:
        """End every command and everything the commands started."""
        await self.keeper.close()
        await self.shell.close()
        if self.cage is not None:
            with contextlib.suppress(OSError):  # the next start empties it, or says why it cannot
                await off_loop(self.cage.close)


def build_toolset(
    birth: Birth,
    *,
    life_lock: int | None,
    support: CageSupport,
    kin: Kin,
    on_denied: Callable[[str, str], None],
    on_defect: Callable[[Exception], None],
    keep_tasks: Callable[[dict[str, Any]], None],
    kept_tasks: Callable[[], Mapping[str, Any] | None],
) -> Toolset:
    """Make the directories, the view and the tools; raises OSError, InvalidScope, DuplicateTool.

    `kin` is the line to the supervisor and to other pods, for the tools that need it.
    `keep_tasks` and `kept_tasks` are the log's side of `Tasks`.
    """
    manifest = birth.manifest
    output_dir = Path(birth.data_dir) / "pods" / manifest.name / "bash-output"
    output_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    scope = _less(_with_output_rule(manifest.scope, str(output_dir)), _own_code(birth))
    for rule in write_rules(scope):
        with opened(rule.target, "the scope's target", make=True):
            pass
    of_tools = _less(scope, (*birth.start_files, *birth.protected))
    lends = Lends(of_tools, birth.lent, birth.lend_number)
    view = ScopeView(
        lends.permission_at,
        explain=lambda path: _operators(path, birth.protected) or lends.explain(path),
        cwd=manifest.cwd,
        closed=birth.product_dirs,
        opening=str(output_dir),
        belt=confined_to,
    )
    bare = command_environment(
        {
            **os.environ,
            "PATH": birth.surroundings.path,
            "PODSUP_POD": manifest.name,
            "PODSUP_FLEET": manifest.fleet,
            "PODSUP_INCARNATION": str(birth.incarnation),
            "PODSUP_COOKIE": birth.cookie,
        }
    )
    cage = _cage(birth, support, scope, lends, str(output_dir))
    environment = bare if cage is None else cage.environment(bare)
    registry = Registry(
        policy=policy_of(manifest.permissions, cwd=manifest.cwd, workspace=manifest.workspace),
        on_defect=on_defect,
        content_limit=manifest.engine.tool_output,
    )
    keeper = Keeper(environment=bare, life_lock=life_lock, cage=cage)
    files = Files(view, ReadTracker(), on_denied=on_denied)
    shell = Bash(
        keeper,
        cwd=manifest.cwd,
        environment=environment,
        store=OutputStore(str(output_dir)),
        judge=lambda path: _refused(path, view) if cage else None,
        on_denied=on_denied,
        confined=cage.about if cage else "",
        programs=birth.surroundings.programs,
    )
    for tool in (
        Read(files),
        Write(files),
        Edit(files),
        Glob(view),
        Grep(view, keeper=keeper, environment=environment, programs=birth.surroundings.programs),
        shell,
    ):
        registry.register(tool, "core")
    if manifest.feature.pods:
        most = min(MOST_BYTES, max(manifest.engine.tool_output - 256, 256))
        outputs = PodOutputs(Path(birth.data_dir), most=most)
        for one in pod_tools(kin, outputs, cwd=manifest.cwd):
            registry.register(one, "pods")
    tasks: Tasks | None = None
    if manifest.feature.tasks:
        tasks = Tasks(keep_tasks, kept_tasks)
        for one in task_tools(tasks):
            registry.register(one, "tasks")
    sources = Sources(view, files.tracker)
    return Toolset(registry, view, lends, keeper, shell, scope, sources, tasks, cage)


def summary_of(scope: Scope) -> ScopeSummary:
    """Return the paths that a scope lets read and write, for people."""
    return ScopeSummary(
        read=tuple(r.target for r in scope.allow if r.permission is Permission.READ),
        write=tuple(r.target for r in scope.allow if r.permission is Permission.WRITE),
    )


def _cage(
    birth: Birth,
    support: CageSupport,
    scope: Scope,
    lends: Lends,
    output_dir: str,
) -> Cage | None:
    settings = birth.manifest.sandbox
    level = chosen_level(settings, support)
    if level is CageLevel.NONE:
        return None
    return Cage(
        level,
        settings,
        scope=scope,
        lent=lambda: lends.lent,
        closed=birth.product_dirs,
        protected=birth.protected,
        opened=output_dir,
        room=os.path.join(os.path.dirname(output_dir), "cage"),
        readable=birth.surroundings.readable,
    )


def _refused(path: str, view: ScopeView) -> str | None:
    """Return the canonical path of what the scope does not let be written. Blocks."""
    try:
        real = canonical(path, cwd=view.cwd)
    except InvalidScope:
        return None
    return None if view.permission(real) is Permission.WRITE else real


def _with_output_rule(scope: Scope, output_dir: str) -> Scope:
    rule = ScopeRule(target=canonical(output_dir), permission=Permission.READ)
    return scope.model_copy(update={"allow": (*scope.allow, rule)})


def _own_code(birth: Birth) -> set[str]:
    """Return what this program is made of: the next keeper runs it, outside any cage."""
    packages = (f"{own_root()}/{name}" for name in PACKAGES)
    here = {canonical(path) for path in (*packages, sys.prefix, sys.base_prefix)}
    return (
        here | set(birth.own_code) | {path for path in birth.start_files if os.path.lexists(path)}
    )


def _less(scope: Scope, paths: Iterable[str]) -> Scope:
    """Return a scope that lets nothing be written at some paths."""
    deny = (ScopeRule(target=path, permission=Permission.WRITE) for path in sorted(paths))
    return scope.model_copy(update={"deny": (*scope.deny, *deny)})


def _operators(path: str, files: Sequence[str]) -> str | None:
    return f"{path} says what podsup does; only the operator changes it" if path in files else None
