"""One pod as the fleet knows it.

Its manifest, its life, its health, and what it last said of itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocol import control as c
from protocol import methods as m
from protocol.base import Wire
from protocol.entries import Usage
from protocol.manifest import PodManifest
from protocol.scope import Permission, ScopeRule, write_rules
from protocol.snapshot import Sandbox, ScopeSummary
from protocol.status import Flag, Relation, RunResult
from supervisor.core.health import Health, HealthLimits, flags
from supervisor.core.life import NO_PROCESS, Life, LifePolicy, Phase

STORY_LINES = 200


class Tombstone(Wire):
    """A child that was deleted: its name, its session, and what its last cause was."""

    name: str
    session_id: str | None = None
    cause: str = ""


NOT_SAID = Sandbox(unprotected=("it has not started yet",))
"""What is known of the cage of a pod that has never said hello."""


@dataclass(slots=True)
class Member:
    """Mutable only inside `Fleet`.

    - `parent`: the recorded one; `core.family` says which one counts
    - `newborn`: it was spawned and has never been ready; `releasing`: its claim is being given back
    - `is_owed`: it was up, and nobody was told yet that it is not any more
    - `heard`: the newest state-lane number whose status was taken
    - `notification_runs`: those without a person's input, in the last minute and the last hour
    """

    manifest: PodManifest
    policy: LifePolicy
    limits: HealthLimits
    parent: str | None = None
    peers: tuple[str, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()
    spawned: bool = False
    newborn: bool = False
    stop_jobs: bool = False
    releasing: bool = False
    is_owed: bool = False
    life: Life = field(default_factory=Life)
    health: Health = field(default_factory=Health)
    own_flags: tuple[Flag, ...] = ()
    heard: int = 0
    notification_runs: tuple[int, int] = (0, 0)
    usage: Usage = field(default_factory=Usage)
    sandbox: Sandbox = NOT_SAID
    turn: int = 0
    context_tokens: int = 0
    context_window: int = 0
    planned: tuple[str, str] | None = None
    session_id: str | None = None
    segment_id: str | None = None
    started_ms: int | None = None
    started_at: float | None = None
    exited_ms: int = 0
    last_result: RunResult | None = None
    last_error: str | None = None
    tasked: bool = False
    task_sent: bool = False
    task_error: str | None = None
    refusal: Mapping[str, Any] = field(default_factory=dict)
    story: deque[c.StoryLine] = field(default_factory=lambda: deque(maxlen=STORY_LINES))

    @property
    def name(self) -> str:
        """The pod's name."""
        return self.manifest.name

    @property
    def is_task_due(self) -> bool:
        """Whether its task still has to be accepted."""
        return bool(self.manifest.task) and not self.tasked and self.task_error is None

    @property
    def is_ready(self) -> bool:
        """Whether it can be spoken to."""
        return self.life.phase is Phase.READY

    def flags(self) -> tuple[Flag, ...]:
        """What stands beside the status."""
        if self.life.phase not in (Phase.READY, Phase.UNREACHABLE):
            return ()
        return tuple(sorted({*self.own_flags, *flags(self.health, self.limits)}))

    def row(self, now: float, *, parent: str | None = None) -> c.PsRow:
        """The pod's row in `ps`."""
        life, health = self.life, self.health
        alive = life.pid is not None and life.phase not in (
            Phase.DEFINED,
            Phase.BACKOFF,
            Phase.STOPPED,
            Phase.FAILED,
            Phase.CLEARING,
        )
        return c.PsRow(
            name=self.name,
            status=life.status,
            flags=self.flags(),
            pid=life.pid if alive else None,
            incarnation=life.incarnation,
            parent=parent,
            model=self.manifest.model.model_id,
            started_at=self.started_ms if alive else None,
            age_s=round(now - self.started_at, 3) if alive and self.started_at else None,
            restarts=life.restarts,
            last_exit=self._last_exit(),
            turn=self.turn,
            context_tokens=self.context_tokens,
            context_window=self.context_window,
            input_tokens=self.usage.input_tokens,
            output_tokens=self.usage.output_tokens,
            cost_usd=self.usage.cost_usd,
            beat_age_s=_rounded(health.beat_age_s(now)) if alive else None,
            progress=health.progress if alive else None,
            scope=scope_summary(self.manifest),
        )

    def detail(
        self,
        now: float,
        *,
        parent: str | None,
        children: Sequence[str],
        caps: Mapping[str, c.Figure],
    ) -> c.StatusRow:
        """The pod, closely."""
        return c.StatusRow(
            **dict(self.row(now, parent=parent)),
            children=tuple(children),
            peers=self.peers,
            usage=self.usage,
            sandbox=self.sandbox,
            caps=c.PodCaps(**caps, **self._runs()),
            last_error=self.last_error or self.task_error,
            endpoint=self.life.endpoint or None if self.is_ready else None,
            session_id=self.session_id,
            segment_id=self.segment_id,
            state_seq=self.heard,
            reason=self.life.reason,
        )

    def seen(self, relation: Relation, *, parent: str | None, children: Sequence[str]) -> m.PodRow:
        """The pod as another pod sees it."""
        says_more = not self.is_ready and self.life.reason != self.life.status
        at_rest = self.life.phase in NO_PROCESS and self.life.phase is not Phase.BACKOFF
        return m.PodRow(
            name=self.name,
            relation=relation,
            status=self.life.status,
            reachable=self.is_ready,
            restorable=at_rest,
            reason=self.life.reason if says_more else None,
            parent=parent,
            scope_summary=scope_summary(self.manifest),
            children=tuple(children),
        )

    def seen_closely(self, row: m.PodRow) -> m.PodDetail:
        """The row of `seen`, and what the supervisor knows besides."""
        return m.PodDetail(
            **dict(row),
            incarnation=self.life.incarnation,
            session_id=self.session_id,
            segment_id=self.segment_id,
            last_result=self.last_result,
            last_error=self.last_error or self.task_error,
            usage=self.usage,
            context_tokens=self.context_tokens,
            peers=self.peers,
        )

    def _runs(self) -> Mapping[str, c.Figure]:
        """How often it ran without a person's input, of how often it may."""
        bounds = self.manifest.max_notification_runs
        minute, hour = self.notification_runs
        return {
            "notification_runs_per_minute": c.Figure(now=minute, most=bounds.per_minute),
            "notification_runs_per_hour": c.Figure(now=hour, most=bounds.per_hour),
        }

    def writes(self) -> tuple[ScopeRule, ...]:
        """What its own tools may write."""
        return write_rules(self.manifest.scope)

    def _last_exit(self) -> c.LastExit | None:
        last = self.life.last_exit
        if last is None:
            return None
        return c.LastExit(code=last.code, signal=last.signal, cause=last.cause, at=self.exited_ms)


def scope_summary(manifest: PodManifest) -> ScopeSummary:
    """The paths that a manifest lets its pod read and write."""
    rules = manifest.scope.allow
    return ScopeSummary(
        read=tuple(r.target for r in rules if r.permission is Permission.READ),
        write=tuple(r.target for r in rules if r.permission is Permission.WRITE),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
