"""The shell of one pod: sockets, tasks, and the carrying out of what `podproc.turn` says.

One loop, one thread that decides. Each stimulus goes through `Turn.handle`, each instruction is a
small method here, looked up by its type. What takes time (first and last appends of a run, the
engine, an abandonment) is a task of its own that ends by handing in a stimulus; so the loop always
turns, beats prove it, and shutdown, cancel and watchers are answered at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from podproc import turn_terms as t
from podproc.arrivals import arrived, message_id
from podproc.briefing import Briefing
from podproc.clock import new_id, wall_ms
from podproc.compactor import CompactionFailed, Compactor, Summariser, unmatched
from podproc.engine.loop import EngineLoop
from podproc.link import Link, Now
from podproc.models.base import Model
from podproc.models.choice import build_model, prices_of
from podproc.notifications import Inbox
from podproc.output_log import rotate_output
from podproc.pace import Pace, Wait
from podproc.queries import Queries
from podproc.recorder import DIED, Recorder
from podproc.reports import Reports
from podproc.rewinding import Rewinding
from podproc.room import PodRoom
from podproc.segments import Position, Segments
from podproc.tools.task_list import DOMAIN as TASKS
from podproc.toolset import Toolset, build_toolset, summary_of
from podproc.turn import Turn
from podproc.turn_table import is_told
from podproc.watchers import Watchers
from protocol import events as ev
from protocol import methods as m
from protocol.base import Wire
from protocol.birth import Birth
from protocol.cage import CageSupport, describe, is_below, refusal
from protocol.catalog import UNKNOWN
from protocol.control import ClaimSegment, Control, Hello, Progress, Resume, Spawn, Welcome
from protocol.error_body import ErrorBody
from protocol.errors import (
    ErrorCode,
    Internal,
    InvalidRequest,
    PodsupError,
    Timeout,
)
from protocol.lanes import Lanes
from protocol.scope import Permission, effective_permission
from protocol.session.store import SessionStore
from protocol.snapshot import AlertRecord, Greeting, Snapshot
from protocol.status import AlertLevel, AlertSource, PodStatus, RunResult
from protocol.transport import Transport
from protocol.unfailing import print_traceback

JOIN_JOBS_S = 5.0
CLAIM_S = 10.0
CONFIG_ERROR = 78
"""Exit code of a pod whose birth it cannot live with: not retried."""

PostRunJob = Callable[[RunResult], Coroutine[Any, Any, None]]


class PodKin:
    """The line to the supervisor and other pods, as tools use it.

    `link` and `turn` are there when they do.
    """

    def __init__(self, link: Callable[[], Link], turn: Callable[[], Turn]) -> None:
        self._link = link
        self._turn = turn
        self._news = asyncio.Event()

    async def ask(self, control: Control, *, timeout_s: float) -> Any:
        """Ask the supervisor; returns the typed reply, raises PodsupError.

        Spawns are counted, so that they cannot go on for ever without a person's input.
        """
        is_spawn = isinstance(control, Spawn)
        if is_spawn and (refusal := self._turn().spawn(time.monotonic())) is not None:
            raise refusal
        try:
            return await self._link().ask(control, timeout_s=timeout_s)
        except Timeout:
            raise  # it may come about yet
        except PodsupError:
            if is_spawn:
                self._turn().spawn_refused()
            raise

    async def send(self, pod: str, method: m.Method, *, timeout_s: float) -> Any:
        """Send a method to a pod; returns the typed reply, raises PodsupError."""
        return await self._link().send(pod, method, timeout_s=timeout_s)

    async def wait_for_news(self, timeout_s: float) -> None:
        """Return when a child has reported something, and after the timeout at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        self._news.clear()

    def has_news(self) -> None:
        """Wake who waits for it."""
        self._news.set()


class Pod:
    """One incarnation. Built before anything is announced.

    `live` announces it and returns at its end.
    """

    def __init__(
        self,
        birth: Birth,
        transport: Transport,
        *,
        life_lock: int | None = None,
        cage: CageSupport | None = None,
        model: Model | None = None,
        post_run_jobs: tuple[PostRunJob, ...] = (),
    ) -> None:
        self._birth = birth
        self._manifest = birth.manifest
        support = cage or CageSupport()
        if (why := refusal(self._manifest.sandbox, support)) is not None:
            raise InvalidRequest(why, next_step="podsup doctor shows what is missing")
        scope, files = self._manifest.scope, birth.protected
        exposed = [one for one in files if effective_permission(scope, one) is Permission.WRITE]
        self._sandbox = describe(self._manifest.sandbox, support, exposed)
        self._transport = transport
        self._post_run_jobs = post_run_jobs
        self._tasks: set[asyncio.Task[None]] = set()
        self._jobs: set[asyncio.Task[None]] = set()
        self._engine_task: asyncio.Task[None] | None = None
        self._early: list[t.Request] | None = []
        self._unrotated = False
        self._gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._doing = Progress(what="idle", since_ms=wall_ms())
        store = SessionStore(Path(birth.data_dir))
        self._record = Recorder(
            Segments(
                store,
                Position(birth.session_id, birth.segment_id),
                wall_ms=wall_ms,
                claim=self._claim,
            ),
            wall_ms=wall_ms,
            system_prompt=self._system_prompt,
            config=self._config(),
        )
        self._record.open()
        pod_dir = Path(birth.data_dir) / "pods" / self._manifest.name
        self._inbox = Inbox(pod_dir / "inbox.jsonl", logged=self._record.state.delivered)
        self._record.inbox = self._inbox
        self._kin = PodKin(lambda: self._link, lambda: self._turn)
        self._tools: Toolset = build_toolset(
            birth,
            life_lock=life_lock,
            support=support,
            kin=self._kin,
            on_denied=lambda path, layer: self._record.emit(ev.ScopeDenied(path=path, layer=layer)),
            on_defect=self._on_defect,
            keep_tasks=lambda payload: self._record.keep(TASKS, payload),
            kept_tasks=lambda: self._record.kept(TASKS),
        )
        if (tasks := self._tools.tasks) is not None:
            self._record.reminder = tasks.reminder.on_request
        self._briefing = Briefing(birth, self._tools, self._record)
        self._model = model or build_model(self._manifest.model, birth.access, birth)
        self._warn_of_unknown_model()
        if is_below(self._manifest.sandbox, support):
            self._warn_of_no_cage(support)
        self._warn_of_what_moved()
        self._compactor = self._make_compactor()
        self._room = PodRoom(self._record, self._compactor, self._model.context_window)
        self._engine = EngineLoop(
            model=self._model,
            registry=self._tools.registry,
            recorder=self._record,
            rules=self._manifest.engine,
            system_prompt=lambda: self._record.state.system_prompt or "",
            clock=time.monotonic,
            dice=random.random,
            progress=self._progress,
            room=self._room,
            cost=prices_of(self._manifest.model, self._birth).of,
            cache_key=lambda: self._record.segment_id or "",
        )
        restored = PodStatus.PAUSED if self._record.state.paused else PodStatus.IDLE
        self._turn = Turn(restored, self._pace())
        self._hold: tuple[asyncio.TimerHandle, AlertRecord] | None = None
        self._rewinding = Rewinding(store, self._record)
        self._queries = Queries(birth, self._record, self._tools, self._kin, store, self._rewinding)
        self._compaction: asyncio.Task[None] | None = None
        self._reports = Reports(birth, self._record, self._ask, self._spawn)
        self._lanes = Lanes(self._manifest.name, birth.incarnation)
        self._watchers = Watchers(
            transport,
            birth.events_endpoint,
            self._lanes,
            snapshot=self.snapshot,
            monotonic=time.monotonic,
            wall_ms=wall_ms,
        )
        self._record.watchers = self._watchers
        self._link = Link(
            transport,
            birth.control_endpoint,
            token=birth.token,
            hello=self._hello,
            on_request=self._on_request,
            on_welcome=self._on_welcome,
            now=self._now,
            clock=time.monotonic,
            new_id=new_id,
        )

    # -- life

    async def live(self) -> int:
        """Say hello, close a crash, answer until told to leave; returns the exit code."""
        await self._adopted()
        if self._gone.done():
            return await self._gone
        self._beat()
        try:
            self._record.note_config()
        except PodsupError as error:
            self._record.alert(AlertLevel.WARN, str(error), AlertSource.POD)
        await self._close_crash()
        early, self._early = self._early or [], None
        for request in early:
            self._on_request(request)
        if (trigger := self._inbox.waking()) is not None:
            self.feed(t.Woken(trigger))
        return await self._gone

    async def _close_crash(self) -> None:
        """Close a run that the end of the process before has cut, and tell what is still owed."""
        record = self._record
        cut = record.state.open_run
        from_parent = self._inbox.has_taken_from_parent()
        tells = cut is not None and is_told(cut.trigger, consumed_parents=from_parent)
        await record.close_crash(self._reports.next_id() if tells else None)
        self._settle_inbox()
        if cut is not None:
            error = ErrorBody(code=ErrorCode.INTERRUPTED, message=DIED)
            self._publish_end(RunResult.ERRORED, cut.request_id, None, error)
        self._set_status(t.SetStatus(self._turn.state.status))
        self._reports.send_owed()

    def leave(self) -> None:
        """Take SIGTERM or SIGINT: the same as `shutdown`."""
        self.feed(t.LeaveAsked())

    async def _adopted(self) -> None:
        """Say hello until the supervisor answers or the pod is to leave; raises its refusal."""
        answers = (self._link.welcome, self._gone)
        while not any(answer.done() for answer in answers):
            self._link.say_hello()
            await asyncio.wait(answers, timeout=2.0, return_when=asyncio.FIRST_COMPLETED)
        if self._link.welcome.done():
            self._link.welcome.result()

    def _on_welcome(self, said: Welcome) -> None:
        is_first = not self._link.welcome.done()
        self._tools.lends.take_over(said.lent, said.number, nothing_runs=is_first)

    def feed(self, stimulus: t.Stimulus) -> None:
        """Let the machine decide, and carry it out in order."""
        for instruction in self._turn.handle(stimulus, time.monotonic()):
            self._do(instruction)

    def _on_request(self, request: t.Request) -> None:
        if self._early is not None:
            self._early.append(request)  # came with the welcome: a cut run is to be closed first
        elif self._repeated(request):
            self._link.reply(request, m.Accepted())
        else:
            self.feed(t.Asked(request))

    def _repeated(self, request: t.Request) -> bool:
        """Whether an earlier incarnation took this very request: the log and the inbox remember."""
        match request.method:
            case m.Run() | m.Resume():
                return request.id in self._record.state.request_ids
            case m.Notify():
                return self._inbox.knows(message_id(request))
            case m.PodEventMethod(event_id=event_id):
                return self._inbox.knows(event_id)
            case _:
                return False

    # -- carrying out

    def _do(self, instruction: t.Instruction) -> None:
        match instruction:
            case t.Reply(request, None, result):
                self._link.reply(request, result or m.Accepted())
            case t.Reply(request, error):
                assert error is not None
                self._link.refuse(request, error)
            case t.Answer(request):
                self._spawn(self._answer(request))
            case t.Store(request, wakes):
                self._store(request, wakes)
            case t.RecordChild():
                self._kin.has_news()  # who there is, the supervisor says
            case t.Begin(plan, close):
                self._spawn(self._begin(plan, close))
            case t.PublishBegin():
                self._record.publish_begin()
            case t.SetStatus():
                self._set_status(instruction)
            case t.Hold(wait):
                self._hold_runs(wait)
            case t.EndHold():
                self._end_hold()
            case t.StartEngine(plan, stop):
                self._start_engine(plan, stop)
            case t.StopEngine(wish):
                if self._engine_task is not None:
                    self._engine.stop_for(wish)
                    self._engine_task.cancel()
            case t.Close():
                self._spawn(self._close(instruction))
            case t.PublishRunEnd(plan, result, reason, error_body):
                taken = plan.input if result is RunResult.ROLLED_BACK else None
                self._publish_end(result, plan.request_id, reason, error_body, taken)
            case t.Report(result, error_body):
                self._reports.send(result, error_body)
            case t.StartPostRunJobs(result):
                for job in self._post_run_jobs:
                    self._spawn(self._run_job(job, result), self._jobs)
            case t.Abandon(request):
                self._spawn(self._abandon(request))
            case t.StartCompaction():
                self._compaction = self._spawn(self._compact())
                self._compaction.add_done_callback(self._on_compaction_done)
            case t.StopCompaction():
                if self._compaction is not None:
                    self._compaction.cancel()
            case t.PublishCompaction(new_segment_id, error_text):
                self._record.emit(
                    ev.CompactDone(new_segment_id=new_segment_id)
                    if new_segment_id
                    else ev.CompactFailed(error=error_text or "")
                )
            case t.Rewind(request):
                self._spawn(self._rewind(request))
            case t.PublishRewind(done):
                self._record.emit(
                    ev.RewindApplied(
                        segment_id=done.segment_id,
                        head_entries=done.head_entries,
                        input=done.input,
                        summary=done.summary,
                    )
                )
            case t.Leave():
                self._spawn(self._leave())

    def _spawn(
        self,
        work: Coroutine[Any, Any, None],
        among: set[asyncio.Task[None]] | None = None,
    ) -> asyncio.Task[None]:
        tasks = self._tasks if among is None else among
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            print_traceback(error)
            if not self._gone.done():
                self._gone.set_result(1)

    def _store(self, request: t.Request, wakes: bool) -> None:
        message = arrived(request, wakes, ts=wall_ms(), knows=self._inbox.knows)
        if message is None:
            self.feed(t.Stored(request, wakes=False))
            return
        try:
            alert = self._inbox.store(message, run=self._record.run_number)
        except PodsupError as error:
            self._link.refuse(request, error)
            return
        if alert is not None:
            self._record.alert(AlertLevel.WARN, alert, AlertSource.POD)
        self._kin.has_news()
        self.feed(t.Stored(request, wakes))

    def _pace(self) -> Pace:
        """Return how often it ran of late without a person's input, as the log tells."""
        ages = ((wall_ms() - ts) / 1000 for ts in self._record.state.unasked)
        return Pace.restored(self._manifest.max_notification_runs, ages, time.monotonic())

    def _hold_runs(self, wait: Wait) -> None:
        """Tell people once why nothing begins, and look again when there is room."""
        loop, name = asyncio.get_running_loop(), self._manifest.name
        timer = loop.call_later(wait.seconds, self._look_again)
        if self._hold is not None:
            self._hold[0].cancel()
            self._hold = (timer, self._hold[1])
            return
        told = (
            f"pod {name} waits with its notifications: {wait.cause}. They stay in its inbox and "
            f"are taken in {wait.seconds:.0f} s, or at once after: podsup run {name}"
        )
        self._hold = (timer, self._record.alert(AlertLevel.WARN, told, AlertSource.POD))

    def _look_again(self) -> None:
        if (trigger := self._inbox.waking()) is not None:
            self.feed(t.Woken(trigger))

    def _end_hold(self) -> None:
        if self._hold is not None:
            timer, alert = self._hold
            self._hold = None
            timer.cancel()
            self._record.withdraw(alert)

    async def _begin(self, plan: t.RunPlan, close: t.ClosePrevious) -> None:
        try:
            await self._briefing.check(plan.input)
            await self._record.begin(plan, close)
        except PodsupError as error:
            self.feed(t.BeginFailed(error))
        except OSError as error:
            self.feed(t.BeginFailed(Internal(f"the session cannot be written: {error}")))
        else:
            self.feed(t.Begun())
            self._briefing.log_files()

    def _start_engine(self, plan: t.RunPlan, stop: t.StopWish | None) -> None:
        if stop is not None:
            self.feed(t.RunOver(t.Ending.STOPPED, output=False))
            return
        self._room.prepare = partial(self._briefing.resolve, plan.input)
        self._engine_task = self._spawn(self._run_engine())
        self._engine_task.add_done_callback(self._on_engine_done)

    def _on_engine_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before its first step: the engine itself never got to say so
            self._engine_task = None
            self.feed(t.RunOver(t.Ending.STOPPED, output=False))

    async def _run_engine(self) -> None:
        over = await self._engine.run()
        self._engine_task = None
        self.feed(over)

    async def _close(self, end: t.Close) -> None:
        self._progress("closing the run")
        error: ErrorBody | None = None
        from_parent = self._inbox.has_taken_from_parent()
        tells = is_told(end.plan.trigger, consumed_parents=from_parent)
        try:
            if end.result is RunResult.ROLLED_BACK:
                await self._record.take_back()
            else:
                report = self._reports.begin() if tells else None
                await self._record.end(
                    end.result,
                    end.reason,
                    end.error,
                    abandon=end.abandon,
                    report=report,
                )
        except PodsupError as failure:
            error = failure.to_body()
            self._record.alert(AlertLevel.ERROR, f"the end of a run was not logged: {failure}")
        waiting = self._inbox.waking()
        arrived = self._inbox.waking(since_run=self._record.run_number) is not None
        from_parent = self._inbox.has_taken_from_parent()
        if error:
            self._inbox.release()
        else:
            self._settle_inbox()
        self._progress("idle")
        self.feed(
            t.Closed(waiting=waiting, arrived=arrived, consumed_report=from_parent, error=error)
        )

    def _settle_inbox(self) -> None:
        """Mark what the last run has consumed."""
        try:
            self._inbox.settle(wall_ms())
            self._inbox.shrink(wall_ms())
        except PodsupError as failure:  # the log has what was consumed: nothing comes twice
            self._record.alert(AlertLevel.WARN, str(failure), AlertSource.POD)

    async def _abandon(self, request: t.Request) -> None:
        try:
            await self._record.abandon()
        except PodsupError as error:
            self.feed(t.Abandoned(request, Internal(f"the abandonment was not logged: {error}")))
        else:
            self.feed(t.Abandoned(request))

    async def _rewind(self, request: t.Request) -> None:
        assert isinstance(request.method, m.RewindTo)
        self._progress("rewinding")
        self._settle_inbox()  # what the log is about to lose must not come again
        try:
            done = await self._rewinding.apply(request.method)
        except PodsupError as error:
            self.feed(t.RewindOver(request, error=error))
        except OSError as error:
            unread = Internal(f"the session cannot be read: {error}")
            self.feed(t.RewindOver(request, error=unread))
        else:
            self.feed(t.RewindOver(request, done))
        self._progress("idle")

    async def _compact(self) -> None:
        self._record.emit(ev.CompactStart())
        try:
            done = await self._compactor.compact()  # a cancel that comes too late is no end of it
        except CompactionFailed as failure:
            self.feed(t.CompactionOver(error=failure.message))
        else:
            self.feed(t.CompactionOver(new_segment_id=done.segment_id))
        finally:
            self._progress("idle")

    def _on_compaction_done(self, task: asyncio.Task[None]) -> None:
        self._compaction = None
        if task.cancelled():
            self.feed(t.CompactionOver(error="cancelled"))

    async def _ask(self, control: Control, timeout_s: float, request_id: str) -> Any:
        return await self._link.ask(control, timeout_s=timeout_s, request_id=request_id)

    async def _claim(self, session_id: str, segment_id: str) -> None:
        """Have the supervisor move the claim on the session; raises PodsupError."""
        claim = ClaimSegment(session_id=session_id, segment_id=segment_id)
        await self._kin.ask(claim, timeout_s=CLAIM_S)

    async def _answer(self, request: t.Request) -> None:
        try:
            result: Wire = await self._queries.answer(request)
        except PodsupError as error:
            self._link.refuse(request, error)
        except OSError as error:
            self._link.refuse(request, Internal(f"the session cannot be read: {error}"))
        else:
            self._link.reply(request, result)

    async def _run_job(self, job: PostRunJob, result: RunResult) -> None:
        try:
            await job(result)
        except Exception as error:
            message = f"a job after the run failed: {type(error).__name__}: {error}"
            self._record.emit(ev.ErrorEvent(code=ErrorCode.INTERNAL, message=message))
            self._record.alert(AlertLevel.ERROR, message, AlertSource.POD)

    async def _leave(self) -> None:
        self._progress("leaving")
        self._end_hold()
        self._record.emit(ev.Shutdown())
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=min(JOIN_JOBS_S, self._manifest.stop_grace_s))
        for job in list(self._jobs):
            job.cancel()
        await self._tools.close()
        await self._reports.close()
        await self._model.close()
        self._record.close()
        if not self._gone.done():
            self._gone.set_result(0)

    # -- telling

    def _set_status(self, status: t.SetStatus) -> None:
        self._record.emit(ev.Status(status=status.status, flags=status.flags))

    def _publish_end(
        self,
        result: RunResult,
        request_id: str | None,
        reason: str | None,
        error: ErrorBody | None,
        taken: tuple[Any, ...] | None = None,
    ) -> None:
        if error is not None:
            self._record.emit(ev.ErrorEvent(code=error.code, message=error.message))
        self._record.emit(
            ev.RunEnd(result=result, request_id=request_id, reason=reason, input=taken, error=error)
        )

    def _beat(self) -> None:
        if self._gone.done():
            return
        asyncio.get_running_loop().call_later(self._birth.beat_interval_s, self._beat)
        runs = self._turn.state.pace.counts(time.monotonic())
        self._link.beat(self._manifest.name, self._birth.incarnation, self._doing, runs)
        self._watchers.tick()
        problem = rotate_output(self._manifest.logs)
        if problem is not None and not self._unrotated:  # told once until it is well again
            self._record.alert(AlertLevel.WARN, problem, AlertSource.POD)
        self._unrotated = problem is not None

    def _progress(self, what: str) -> None:
        self._doing = Progress(what=what, since_ms=wall_ms())

    def _now(self) -> Now:
        return Now(self._turn.state.status, self._lanes.seqs())

    def _hello(self) -> Hello:
        state = self._record.state
        return Hello(
            pod=self._manifest.name,
            incarnation=self._birth.incarnation,
            endpoint=self._birth.events_endpoint,
            pid=os.getpid(),
            sandbox=self._sandbox,
            resume=Resume(
                status=self._turn.state.status,
                session_id=self._record.session_id,
                segment_id=self._record.segment_id,
                turn=state.turn_count,
                context_tokens=self._record.context_tokens(),
                context_window=self._model.context_window,
                usage=state.usage,
                tasked="task" in state.request_ids,
            ),
        )

    def snapshot(self) -> Snapshot:
        """The pod at this moment, in one uninterrupted step."""
        return Snapshot(
            segment_id=self._record.segment_id,
            head_entries=self._record.shown_entries,
            tail=self._record.tail(),
            greeting=self._greeting(),
            status=self._turn.state.status,
            flags=self._turn.state.flags,
            in_flight=self._watchers.blocks.view(),
            alerts=tuple(self._record.alerts),
            seqs=self._lanes.seqs(),
            usage=self._record.state.usage,
        )

    def _greeting(self) -> Greeting:
        return Greeting(
            pod_name=self._manifest.name,
            incarnation=self._birth.incarnation,
            cwd=self._manifest.cwd,
            workspace=self._manifest.workspace,
            provider=self._model.provider,
            model=self._model.model_id,
            scope_summary=summary_of(self._tools.scope),
            delegation_summary=summary_of(self._manifest.delegation_scope),
            sandbox=self._sandbox,
            tools=tuple(self._tools.registry.names()),
            context_window=self._model.context_window,
            context_tokens=self._record.context_tokens(),
        )

    def _warn_of_unknown_model(self) -> None:
        table = self._manifest.model
        if self._model.provider == UNKNOWN and table.context_window is None:
            self._record.alert(
                AlertLevel.WARN,
                f"the catalog does not know {table.model_id}: its window is taken to be "
                f"{self._model.context_window} tokens; model.context_window says better",
                AlertSource.POD,
            )

    def _warn_of_no_cage(self, support: CageSupport) -> None:
        why = "; ".join(support.missing) or "nobody has looked what this machine can do"
        told = f"{'; '.join(self._sandbox.unprotected)} ({why})"
        self._record.alert(AlertLevel.WARN, told, AlertSource.POD)

    def _warn_of_what_moved(self) -> None:
        """Name what commands may not read or write, since it is a link by now."""
        for path in self._tools.cage.moved() if self._tools.cage else ():
            told = f"{path} is a link, or below one, by now: commands may not use it"
            self._record.alert(AlertLevel.WARN, told, AlertSource.POD)

    def _make_compactor(self) -> Compactor:
        manifest, own, birth = self._manifest, self._model, self._birth
        table = manifest.compaction.model
        model = own if table is None else build_model(table, birth.summary_access, birth)

        def used() -> frozenset[int]:
            if table is not None:
                return frozenset()
            return self._record.used_answers() | unmatched(manifest.model.answers)

        return Compactor(
            self._record,
            manifest.compaction,
            Summariser(
                model,
                manifest.engine,
                used,
                prices_of(table or manifest.model, birth).of,
                is_pods_own=table is None,
            ),
            self._tools.sources,
            window=own.context_window,
            prompt=self._system_prompt,
            open_tasks=lambda: self._tools.tasks.open_text() if self._tools.tasks else None,
            installed=lambda: self._briefing.log_files(),
            tools_bytes=self._tools.registry.schema_bytes,
            clock=time.monotonic,
            dice=random.random,
            progress=self._progress,
        )

    async def _system_prompt(self) -> str:
        return await self._briefing.system_prompt()

    def _config(self) -> dict[str, Any]:
        return {
            "model": {
                "scheme": self._manifest.model.scheme.value,
                "model_id": self._manifest.model.model_id,
            },
            "engine": self._manifest.engine.to_wire(),
        }

    def _on_defect(self, error: Exception) -> None:
        print_traceback(error)
        self._record.alert(
            AlertLevel.ERROR, f"a tool failed unexpectedly: {type(error).__name__}: {error}"
        )


def build_validators() -> None:
    """Build what is otherwise built at first use, so that no pod has to: for the zygote."""
    from pydantic import BaseModel

    from protocol.entries import decode_entry
    from protocol.session.replay import fold

    todo: list[type[BaseModel]] = [BaseModel]
    while todo:
        model = todo.pop()
        todo += model.__subclasses__()
        if model.__module__.partition(".")[0] in ("protocol", "podproc"):
            model.model_rebuild()
    first = {"kind": "user_input", "ts": 0, "segments": [{"kind": "text", "content": ""}]}
    decode_entry(first)
    fold([first])
