"""One pod's supervised life as a value: which phase it is in, and what else must be remembered.

Phases are finer than the statuses that people see, so that what may happen next depends on little
else: a start is `forking` until the fork is answered and `joining` until the hello; a pod on its
way out is `aborting` while its fork is unanswered, `stopping` while its process lives and
`clearing` from its exit until everything it started is proven gone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from protocol.errors import ErrorCode
from protocol.manifest import Restart
from protocol.status import PodStatus
from supervisor.core.restart import Exit, RestartHistory


class Phase(StrEnum):
    """Where in its life a pod is."""

    DEFINED = "defined"
    FORKING = "forking"
    JOINING = "joining"
    READY = "ready"
    UNREACHABLE = "unreachable"
    ABORTING = "aborting"
    STOPPING = "stopping"
    CLEARING = "clearing"
    BACKOFF = "backoff"
    STOPPED = "stopped"
    FAILED = "failed"


MEANING: Mapping[Phase, str] = {
    Phase.DEFINED: "never started",
    Phase.FORKING: "its fork was asked for and is not answered",
    Phase.JOINING: "its process lives, its hello is awaited",
    Phase.READY: "it said hello and is heard",
    Phase.UNREACHABLE: "its process lives and is silent",
    Phase.ABORTING: "to be ended as soon as its fork is answered",
    Phase.STOPPING: "being ended, its process lives",
    Phase.CLEARING: "its process is gone, what it started is not proven gone",
    Phase.BACKOFF: "gone, its next start waits",
    Phase.STOPPED: "gone, as wanted",
    Phase.FAILED: "gone, against what was wanted",
}

NO_PROCESS = (Phase.DEFINED, Phase.BACKOFF, Phase.STOPPED, Phase.FAILED)
"""The phases in which nothing of the pod is alive."""

_STATUS: Mapping[Phase, PodStatus] = {
    Phase.DEFINED: PodStatus.DEFINED,
    Phase.FORKING: PodStatus.STARTING,
    Phase.JOINING: PodStatus.STARTING,
    Phase.UNREACHABLE: PodStatus.UNREACHABLE,
    Phase.ABORTING: PodStatus.STOPPING,
    Phase.STOPPING: PodStatus.STOPPING,
    Phase.CLEARING: PodStatus.STOPPING,
    Phase.BACKOFF: PodStatus.BACKOFF,
    Phase.STOPPED: PodStatus.STOPPED,
    Phase.FAILED: PodStatus.FAILED,
}


_CODES = frozenset(code.value for code in ErrorCode)


class Desired(StrEnum):
    """What was asked for last; it outlives failures, and supervisors."""

    UP = "up"
    DOWN = "down"


class StopStage(StrEnum):
    """How far the ending of a process has gone."""

    DUMPED = "dumped"
    ASKED = "asked"
    TERMED = "termed"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class LifePolicy:
    """What the manifest and the supervisor's settings say about one pod's life; times in seconds.

    `jitter` in [0, 1) shortens a backoff: one number for each pod is enough to keep a fleet apart.
    """

    restart: Restart = Restart.ON_FAILURE
    success_codes: Collection[int] = (0,)
    grace_s: float = 5.0
    hello_timeout_s: float = 10.0
    dump_s: float = 1.0
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Life:
    """One pod's supervised life. `lifecycle.step` makes the next one; nothing else does.

    - `cause`: why it is in its phase; `message`: the evidence, where it failed
    - `said`: the pod's own latest word: idle, running or paused
    - `greeted`: this incarnation has said hello
    - `deadline`: the monotonic time at which a tick means something
    - `stage`, `grace_s`: of the stop in progress
    - `doom`: why the supervisor itself ends the process; it becomes the cause of its exit
    - `again`: start once more when all is proven gone, whatever the policy says
    - `restarts`: those made by policy; `last_exit`: of the latest process that is gone
    """

    phase: Phase = Phase.DEFINED
    cause: str = "defined"
    message: str = ""
    incarnation: int = 0
    desired: Desired = Desired.DOWN
    said: PodStatus = PodStatus.IDLE
    pid: int | None = None
    endpoint: str = ""
    greeted: bool = False
    ready_since: float | None = None
    deadline: float | None = None
    stage: StopStage | None = None
    grace_s: float = 0.0
    doom: str | None = None
    again: bool = False
    last_exit: Exit | None = None
    history: RestartHistory = field(default_factory=RestartHistory)
    restarts: int = 0

    @property
    def status(self) -> PodStatus:
        """The word for people: the pod's own while it is ready, else the supervisor's."""
        return _STATUS.get(self.phase, self.said)

    @property
    def reason(self) -> str:
        """The cause and the last line of its evidence, in one line for people.

        Where the cause is an error's code, the error's own sentence says it all.
        """
        lines = self.message.strip().splitlines()
        if lines and self.cause in _CODES:
            return lines[-1].strip()
        return f"{self.cause}: {lines[-1].strip()}" if lines else self.cause


def adopted(incarnation: int, pid: int, *, desired: Desired = Desired.UP) -> Life:
    """Return the life of a pod whose process was found alive by a new supervisor.

    It is unreachable until its hello; if that never comes, its silence ends it like any other's.
    """
    return Life(
        phase=Phase.UNREACHABLE,
        cause="adopted",
        incarnation=incarnation,
        desired=desired,
        pid=pid,
        greeted=True,
    )
