"""The tools of a pod that runs pods: spawn, speak to, read, wait for, stop, look at, restore.

They decide nothing. Who may be spawned with what, who may be seen, stopped and spoken to, is the
supervisor's to say, and it says so by the token that asks. Here a call becomes a request, and its
answer a line that a model can act on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field

from podproc.tools.base import Call, Tool, ToolArgs, ToolFailure, ToolResult, off_loop
from podproc.tools.pod_output import BETWEEN, PodOutputs
from protocol import control as c
from protocol import methods as m
from protocol.errors import AlreadyRunning, Conflict, NotAllowed, PodsupError, Unknown
from protocol.scope import Permission
from protocol.segments import Text
from protocol.status import PodStatus, Relation

SPAWN_S = 60.0
STOP_S = 60.0
LOOK_S = 10.0
LOOK_AGAIN_S = 1.0
_BUSY = frozenset(
    {
        PodStatus.RUNNING,
        PodStatus.STARTING,
        PodStatus.STOPPING,
        PodStatus.BACKOFF,
        PodStatus.UNREACHABLE,
    }
)


class Kin(Protocol):
    """The line to the supervisor, and through it to other pods."""

    async def ask(self, control: c.Control, *, timeout_s: float) -> Any:
        """Ask the supervisor; returns the typed reply, raises PodsupError."""

    async def send(self, pod: str, method: m.Method, *, timeout_s: float) -> Any:
        """Send a method to a pod; returns the typed reply, raises PodsupError."""

    async def wait_for_news(self, timeout_s: float) -> None:
        """Return when a child has reported something, and after the timeout at the latest."""


class ScopeRuleArgs(ToolArgs):
    """A rule of a scope."""

    target: str = Field(min_length=1, description="absolute, or relative to the working directory")
    permission: Permission = Permission.WRITE
    recursive: bool = Field(True, description="everything below, or only what is directly in it")


class SpawnPodArgs(ToolArgs):
    """Arguments of SpawnPod."""

    name: str = Field(description="a-z, 0-9, '.', '_' and '-', at most 63; new among all pods")
    task: str = Field(min_length=1, description="what it is to do; it knows nothing else")
    scope: tuple[ScopeRuleArgs, ...] = Field(
        description="what it may write; you cannot write there until it has ended"
    )
    delegation_scope: tuple[ScopeRuleArgs, ...] = Field(
        (), description="what it may lend to children of its own"
    )
    profile: str | None = Field(None, description="the name of a prepared profile")
    instruction: str | None = Field(None, description="how it is to work, for its system prompt")
    cwd: str | None = Field(None, description="its working directory; yours if left out")
    model: str | None = Field(
        None, description="scheme:model id, or an id of your provider; yours if left out"
    )
    budget: dict[str, int | float] | None = Field(None, description="bounds, such as usd or turns")
    stop_jobs: bool = Field(
        False, description="end your own running commands, which could write there"
    )


class SpawnPod:
    """Starts a child."""

    name: ClassVar[str] = "SpawnPod"
    comes_first: ClassVar[bool] = True
    description: ClassVar[str] = (
        "Start another agent as your child and give it a task. It works on its own; you lend it a "
        "part of what you may lend, and may not write there until it has ended. Returns when it "
        "has accepted its task: WaitForPods waits for its work, ReadPodOutput shows it."
    )
    Args: ClassVar[type[SpawnPodArgs]] = SpawnPodArgs

    def __init__(self, kin: Kin, cwd: str) -> None:
        self._kin = kin
        self._cwd = cwd

    async def run(self, args: SpawnPodArgs, call: Call) -> ToolResult:
        """Return once the child has its task; raises ToolFailure with why there is none."""
        spawn = c.Spawn(table=self._table(args), stop_jobs=args.stop_jobs)
        await _asked(self._kin.ask(spawn, timeout_s=SPAWN_S))
        writes = ", ".join(r.target for r in args.scope if r.permission is Permission.WRITE)
        return ToolResult(
            f"pod {args.name} is up and has its task; it writes {writes or 'nothing'}"
        )

    def _table(self, args: SpawnPodArgs) -> dict[str, Any]:
        table: dict[str, Any] = {"name": args.name, "task": args.task}
        for key, rules in (("scope", args.scope), ("delegation_scope", args.delegation_scope)):
            if rules:
                table[key] = {"allow": [self._rule(rule) for rule in rules]}
        if args.instruction is not None:
            table["engine"] = {"instruction": args.instruction}
        if args.model is not None:
            table["model"] = {"model_id": args.model}
        if args.cwd is not None:
            table["cwd"] = os.path.join(self._cwd, args.cwd)
        for key in ("profile", "budget"):
            if (value := getattr(args, key)) is not None:
                table[key] = value
        return table

    def _rule(self, rule: ScopeRuleArgs) -> dict[str, Any]:
        return {
            "target": os.path.join(self._cwd, rule.target),
            "permission": rule.permission.value,
            "recursive": rule.recursive,
        }


class SendToPodArgs(ToolArgs):
    """Arguments of SendToPod."""

    name: str
    message: str = Field(min_length=1)
    queue: bool = Field(False, description="where it is busy, leave it for its next request")


class SendToPod:
    """Submits a run to a child."""

    name: ClassVar[str] = "SendToPod"
    description: ClassVar[str] = (
        "Give one of your pods something to do next. A pod that is busy refuses, unless queue is "
        "true. You are told when it has finished."
    )
    Args: ClassVar[type[SendToPodArgs]] = SendToPodArgs

    def __init__(self, kin: Kin) -> None:
        self._kin = kin

    async def run(self, args: SendToPodArgs, call: Call) -> ToolResult:
        """Return when it is accepted; raises ToolFailure."""
        run = m.Run(input=(Text(content=args.message),))
        try:
            await self._kin.send(args.name, run, timeout_s=LOOK_S)
        except (AlreadyRunning, Conflict) as error:
            if not args.queue:
                raise self._not_now(args.name, error) from error
        except PodsupError as error:
            raise _failure(error) from error
        else:
            return ToolResult(f"pod {args.name} has begun")
        left = m.Notify(message=args.message, queued=True)
        await _asked(self._kin.send(args.name, left, timeout_s=LOOK_S))
        return ToolResult(f"pod {args.name} is busy; the message waits for its next request")

    @staticmethod
    def _not_now(pod: str, error: PodsupError) -> ToolFailure:
        if not isinstance(error, AlreadyRunning):
            return _failure(error)
        return ToolFailure(
            "execution_failed",
            f"pod {pod} is busy: {error}. WaitForPods waits for it; "
            "queue=true leaves the message for its next request",
        )


class PodArgs(ToolArgs):
    """Arguments that name a pod."""

    name: str


class ReadPodOutput:
    """Shows what a child has said."""

    name: ClassVar[str] = "ReadPodOutput"
    description: ClassVar[str] = (
        "Show what one of your pods has said since you last read it, and how it is."
    )
    Args: ClassVar[type[PodArgs]] = PodArgs

    def __init__(self, kin: Kin, outputs: PodOutputs) -> None:
        self._kin = kin
        self._outputs = outputs
        self._turn = asyncio.Lock()

    async def run(self, args: PodArgs, call: Call) -> ToolResult:
        """Return new text and the true status; raises ToolFailure."""
        async with self._turn:
            return await self._read(args)

    async def _read(self, args: PodArgs) -> ToolResult:
        pod = await _look(self._kin, args.name)
        if pod.relation not in (Relation.CHILD, Relation.DESCENDANT):
            raise ToolFailure("denied", f"pod {args.name} is not below you")
        if pod.session_id is None:
            return ToolResult(f"{_line(pod)}; it has said nothing yet")
        try:
            said = await off_loop(self._outputs.read, pod.name, pod.session_id)
        except OSError as error:
            raise ToolFailure("execution_failed", f"its session cannot be read: {error}") from error
        self._outputs.keep(pod.name, said)  # not before: a call that is cancelled has shown nothing
        if not said.texts:
            return ToolResult(f"{_line(pod)}; nothing new")
        more = "; there is more: read again" if said.more else ""
        return ToolResult(f"{_line(pod)}{more}", BETWEEN.join(said.texts))


class WaitForPodsArgs(ToolArgs):
    """Arguments of WaitForPods."""

    names: tuple[str, ...] = Field(min_length=1, max_length=100)
    mode: Literal["all", "any"] = Field("all", description="until each, or one, has ended its work")
    timeout_s: float = Field(600, gt=0, le=86_400)


class WaitForPods:
    """Waits until children are no longer running."""

    name: ClassVar[str] = "WaitForPods"
    description: ClassVar[str] = (
        "Wait until pods are no longer running, and show how each one's work ended."
    )
    Args: ClassVar[type[WaitForPodsArgs]] = WaitForPodsArgs

    def __init__(self, kin: Kin) -> None:
        self._kin = kin

    async def run(self, args: WaitForPodsArgs, call: Call) -> ToolResult:
        """Return each one's state; a timeout is said, and is no failure."""
        is_late = False
        try:
            async with asyncio.timeout(args.timeout_s):
                while not self._is_over(args, pods := await self._look(args.names)):
                    await self._kin.wait_for_news(LOOK_AGAIN_S)
        except TimeoutError:
            is_late = True
            pods = await self._look(args.names)
        busy = [pod.name for pod in pods if pod.status in _BUSY]
        ended = len(pods) - len(busy)
        summary = f"{ended} of {len(pods)} pods have ended their work"
        if is_late:
            still = f"; busy: {', '.join(busy)}" if busy else ""
            summary = f"after {args.timeout_s:g} s {summary}{still}"
        return ToolResult(summary, "\n".join(map(_line, pods)))

    async def _look(self, names: Sequence[str]) -> list[m.PodDetail]:
        return [await _look(self._kin, name) for name in dict.fromkeys(names)]

    @staticmethod
    def _is_over(args: WaitForPodsArgs, pods: Sequence[m.PodDetail]) -> bool:
        ended = [pod.status not in _BUSY for pod in pods]
        return all(ended) if args.mode == "all" else any(ended)


class StopPod:
    """Stops a child."""

    name: ClassVar[str] = "StopPod"
    description: ClassVar[str] = (
        "Stop one of your pods, with all it has started, and take back what you lent it. Returns "
        "when nothing of it is left. RestorePod starts it again, with all it remembers."
    )
    Args: ClassVar[type[PodArgs]] = PodArgs

    def __init__(self, kin: Kin) -> None:
        self._kin = kin

    async def run(self, args: PodArgs, call: Call) -> ToolResult:
        """Return what is yours again; raises ToolFailure."""
        done: c.Started = await _asked(self._kin.ask(c.Stop(pods=(args.name,)), timeout_s=STOP_S))
        result = done.result or {}
        freed = result.get("reclaimed", {}).get(args.name, [])
        kept = result.get("kept", {}).get(args.name, {})
        told = f"free again: {', '.join(freed)}" if freed else "nothing was lent to it"
        if kept:
            told += f", but not {', '.join(f'{path} (pod {pod})' for path, pod in kept.items())}"
        return ToolResult(f"pod {args.name} is stopped; {told}")


class NoArgs(ToolArgs):
    """No arguments."""


class ListPods:
    """Lists the visible pods."""

    name: ClassVar[str] = "ListPods"
    description: ClassVar[str] = "List the pods you see: yourself, those below you, your peers."
    Args: ClassVar[type[NoArgs]] = NoArgs

    def __init__(self, kin: Kin) -> None:
        self._kin = kin

    async def run(self, args: NoArgs, call: Call) -> ToolResult:
        """Return a line for each; raises ToolFailure."""
        seen: m.PodRows = await _asked(self._kin.ask(c.SeenPods(), timeout_s=LOOK_S))
        return ToolResult(f"{len(seen.pods)} pods", "\n".join(map(_line, seen.pods)))


class InspectPod:
    """Looks at one pod."""

    name: ClassVar[str] = "InspectPod"
    description: ClassVar[str] = (
        "Look at one pod closely: its state, last error, usage and children."
    )
    Args: ClassVar[type[PodArgs]] = PodArgs

    def __init__(self, kin: Kin) -> None:
        self._kin = kin

    async def run(self, args: PodArgs, call: Call) -> ToolResult:
        """Return what is known of it; raises ToolFailure."""
        pod = await _look(self._kin, args.name)
        usage = pod.usage
        rows = {
            "parent": pod.parent,
            "children": ", ".join(pod.children),
            "peers": ", ".join(pod.peers),
            "incarnation": pod.incarnation,
            "last error": pod.last_error,
            "used": f"{usage.input_tokens} tokens in, {usage.output_tokens} out",
            "context": f"{pod.context_tokens} tokens",
            "reads": ", ".join(pod.scope_summary.read),
        }
        told = [f"{key}: {value}" for key, value in rows.items() if value]
        return ToolResult(_line(pod), "\n".join(told))


class RestorePod:
    """Starts a stopped pod again."""

    name: ClassVar[str] = "RestorePod"
    description: ClassVar[str] = (
        "Start a stopped pod again: it remembers everything and has the scope that it had."
    )
    Args: ClassVar[type[PodArgs]] = PodArgs

    def __init__(self, kin: Kin) -> None:
        self._kin = kin

    async def run(self, args: PodArgs, call: Call) -> ToolResult:
        """Return whether it had to be started; raises ToolFailure."""
        asked = self._kin.ask(c.Restore(pod=args.name), timeout_s=SPAWN_S)
        done = restored(args.name, await _asked(asked))
        if done.outcome == "already_live":
            return ToolResult(f"pod {args.name} is live already")
        return ToolResult(f"pod {args.name} is up again")


class SendToPeerPodArgs(ToolArgs):
    """Arguments of SendToPeerPod."""

    name: str
    message: str = Field(min_length=1)


class SendToPeerPod:
    """Leaves a message for a peer."""

    name: ClassVar[str] = "SendToPeerPod"
    description: ClassVar[str] = (
        "Send a message to a peer, or to your parent. It is told that the message is yours."
    )
    Args: ClassVar[type[SendToPeerPodArgs]] = SendToPeerPodArgs

    def __init__(self, kin: Kin) -> None:
        self._kin = kin

    async def run(self, args: SendToPeerPodArgs, call: Call) -> ToolResult:
        """Return when it is on the receiver's disk; raises ToolFailure."""
        left = m.Notify(message=args.message)
        await _asked(self._kin.send(args.name, left, timeout_s=LOOK_S))
        return ToolResult(f"pod {args.name} has the message")


def pod_tools(kin: Kin, outputs: PodOutputs, *, cwd: str) -> tuple[Tool, ...]:
    """Return the tools of the feature `pods`."""
    return (
        SpawnPod(kin, cwd),
        SendToPod(kin),
        ReadPodOutput(kin, outputs),
        WaitForPods(kin),
        StopPod(kin),
        ListPods(kin),
        InspectPod(kin),
        RestorePod(kin),
        SendToPeerPod(kin),
    )


def restored(name: str, done: c.Started) -> m.Restored:
    """Return what a restore came to: whether the pod had to be started."""
    outcome = (done.result or {}).get("outcome", "restored")
    return m.Restored(name=name, outcome=outcome)


async def _look(kin: Kin, name: str) -> m.PodDetail:
    seen: m.Inspected = await _asked(kin.ask(c.SeenPod(name=name), timeout_s=LOOK_S))
    return seen.pod


async def _asked(asking: Any) -> Any:
    try:
        return await asking
    except PodsupError as error:
        raise _failure(error) from error


def _failure(error: PodsupError) -> ToolFailure:
    """Return a refusal as the model reads it: code, sentence, evidence."""
    kind: Literal["denied", "execution_failed"] = "execution_failed"
    if isinstance(error, NotAllowed | Unknown):
        kind = "denied"
    tail = error.details.get("stderr_tail", "")
    evidence = f"\nthe last lines it printed:\n{tail}" if tail else ""
    return ToolFailure(kind, f"{error.code}: {error.message}{evidence}")


def _line(pod: m.PodRow) -> str:
    parts = [f"{pod.name} ({pod.relation}): {pod.status}"]
    if isinstance(pod, m.PodDetail) and pod.last_result is not None:
        parts.append(f"last run {pod.last_result}")
    if pod.reason:
        parts.append(pod.reason)
    if not pod.reachable:
        parts.append("restorable" if pod.restorable else "not restorable")
    if pod.scope_summary.write:
        parts.append(f"writes {', '.join(pod.scope_summary.write)}")
    return "; ".join(parts)
