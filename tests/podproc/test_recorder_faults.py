"""A recorder and an inbox on a disk that fails or dies: mirror and file agree, all is told once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from podproc.notifications import Arrived, Inbox
from podproc.recorder import Recorder
from podproc.segments import Position, Segments
from podproc.session.log import SegmentLog
from podproc.turn_terms import ClosePrevious, RunKind, RunPlan
from protocol import entries as en
from protocol.errors import PodsupError
from protocol.segments import Text
from protocol.session.line import decode_line
from protocol.session.store import SessionStore
from protocol.status import RunResult, Trigger
from tests.podproc.session.disk import Killed
from tests.podproc.session.fail_points import ERRORS, POINTS, FailingFiles, Fault
from tests.podproc.session.histories import CONFIG, IN_MEMORY, SEGMENT, SESSION, copied

WAYS = (
    *("begin", "begin", "begin", "say", "call", "result", "keep", "store", "store", "drain"),
    *("drain", "end", "end", "take_back", "rewind", "restart", "fork"),
)


def anywhere(points: Sequence[str]) -> list[str]:
    """Return the points of the table whatever recipe they belong to."""
    return sorted({f"any.{point.split('.', 1)[1]}" for point in points})


class Desk:
    """What a pod does with its recorder and inbox, and what it was told."""

    def __init__(self, root: Path, files: FailingFiles) -> None:
        self._root = root
        self._files = files
        self._count = 0
        self._records: list[Recorder] = []
        self._named = SEGMENT
        self.stored: set[str] = set()
        self.told: set[str] = set()
        self._taken: set[str] = set()
        self._is_running = False
        files.recipe = "any"

    def play(self, steps: Sequence[str]) -> bool:
        """Do all; False where it died."""
        try:
            asyncio.run(self._play(steps))
        except Killed:
            return False
        finally:
            for record in self._records:
                if record._log is not None:
                    record._log._thread.close()
            self._files.bury()
        return True

    async def _play(self, steps: Sequence[str]) -> None:
        await self.start()
        for step in steps:
            try:
                await self._do(step)
            except (PodsupError, OSError):
                if self._files.is_dead:
                    raise Killed from None
            self.check()
        self.record.close()

    async def start(self) -> None:
        """Come up as a pod does."""
        self._taken, self._is_running = set(), False
        for attempt in range(6):
            segments = Segments(
                SessionStore(self._root),
                Position(SESSION, self._named),
                wall_ms=lambda: 1_790_000_000_000,
                claim=self._claim,
                files=self._files,
            )
            record = Recorder(
                segments, wall_ms=lambda: 1, system_prompt=self._prompt, config=CONFIG
            )
            self._records.append(record)
            try:
                record.open()
                path = self._root / "pods" / "alice" / "inbox.jsonl"
                logged = record.state.delivered
                record.inbox = Inbox(path, logged=logged, files=self._files)
                await record.close_crash(None)
            except (PodsupError, OSError):
                if self._files.is_dead:
                    raise Killed from None
                assert attempt < 5
                record.close()
                continue
            self.record = record
            break
        shown = {getattr(item, "content", "") for item in self.record.state.history}
        again = self.waiting() & (self.told | shown)
        assert not again, f"told again: {again}"
        lost = self.stored - self.waiting() - self.told - self.record.state.delivered
        assert not lost, f"lost: {lost}"

    async def _prompt(self) -> str:
        return "be brief"

    async def _claim(self, session_id: str, segment_id: str) -> None:
        self._named = segment_id

    def waiting(self) -> set[str]:
        """Return the ids of what waits."""
        assert self.record.inbox is not None
        return set(self.record.inbox._waiting)

    async def _do(self, step: str) -> None:
        record = self.record
        assert record.inbox is not None
        self._count += 1
        key = f"{step}{self._count}"
        match step:
            case "begin" if not self._is_running:
                plan = RunPlan(RunKind.RUN, Trigger.USER_SEND, input=(Text(content=key),))
                await record.begin(plan, ClosePrevious.RESULTS_AND_NOTE)
                record.publish_begin()
                self._is_running = True
            case "say" if self._is_running:
                record.commit_item(en.Message(role="assistant", content=key))
            case "call" if self._is_running:
                record.commit_item(en.ToolCall(call_id=key, name="Read", arguments="{}"))
                record.start_call(key)
            case "result" if self._is_running and record.state.unanswered:
                call_id = record.state.unanswered[0].call_id
                record.commit_result(en.ToolResult(call_id=call_id, summary=key))
            case "keep" if record.session_id is not None:
                record.keep("domain", {"value": key})
            case "store":
                item = en.SystemItem(kind="notification", body=key)
                message = Arrived(ts=1, id=key, item=item, wakes=True, request=key)
                record.inbox.store(message, run=record.run_number)
                self.stored.add(key)
            case "drain" if self._is_running:
                before = self.waiting()
                try:
                    record.drain_notifications()
                finally:
                    self._taken |= before - self.waiting()
            case "end" if self._is_running:
                await self._end()
            case "take_back" if self._is_running:
                self._is_running = False
                try:
                    await record.take_back()
                except PodsupError:
                    record.inbox.release()
                    raise
                self._taken = set()
            case "rewind" if not self._is_running and record.state.user_segments:
                await record.rewind_to(record.state.user_segments[-1].entry_index - 1)
            case "restart":
                record.close()
                await self.start()
            case "fork" if record._log is not None:
                with record._log.path.open("ab") as other:
                    other.write(b"of another hand")
                self._is_running = False
                record.inbox.release()

    async def _end(self) -> None:
        record = self.record
        assert record.inbox is not None
        self._is_running = False
        try:
            await record.end(RunResult.FINISHED, None, None, abandon=False)
        except PodsupError:
            record.inbox.release()
            raise
        self.told |= self._taken
        self._taken = set()
        record.inbox.settle(1)

    def check(self) -> None:
        """Compare the mirror with the file, and count what was told."""
        log = self.record._log
        if log is None or not log.is_usable:
            return
        with copied(self._root) as copy:
            path = copy / log.path.relative_to(self._root)
            fresh, restored = SegmentLog.open(path)
            fresh.close()
            assert restored.state == self.record.state
            entries = [decode_line(line) for line in path.read_bytes().splitlines()]
        ids = [e["item"].get("id") for e in entries if e["kind"] == "system_item"]
        twice = [one for one, count in Counter(ids).items() if one is not None and count > 1]
        assert not twice, f"shown twice: {twice}"
        results = [e["item"]["call_id"] for e in entries if e["kind"] == "tool_result"]
        assert len(results) == len(set(results)), "a call has two results"


@given(
    st.lists(st.sampled_from(WAYS), max_size=30),
    st.lists(
        st.builds(
            Fault,
            st.sampled_from(anywhere(ERRORS)),
            st.sampled_from((errno.EIO, errno.ENOSPC)),
            st.integers(1, 12),
        ),
        max_size=3,
    ),
    st.none() | st.tuples(st.sampled_from(anywhere(list(POINTS))), st.integers(1, 12)),
)
@example(["store", "begin", "drain", "fork", "begin", "restart"], [], None)
@example(["store", "begin", "drain", "restart", "fork", "begin", "restart"], [], None)
def test_whatever_fails_or_dies_mirror_and_file_agree_and_nothing_is_told_twice_or_lost(
    steps: list[str], errors: list[Fault], death: tuple[str, int] | None
) -> None:
    faults = [*errors, *([Fault(death[0], None, death[1])] if death else ())]
    with tempfile.TemporaryDirectory(prefix="ps", dir=IN_MEMORY) as folder:
        root = Path(folder) / "data"
        root.mkdir()
        desk = Desk(root, FailingFiles(*faults))
        if not desk.play(steps):
            with contextlib.suppress(Killed):
                desk._files = FailingFiles()
                desk._files.recipe = "any"
                assert desk.play(["begin", "drain", "end", "restart"])
