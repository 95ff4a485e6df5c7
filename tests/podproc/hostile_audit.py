"""What must be true of a pod when its enemies are done with it, read from its files and its wire.

    faults_of_files     each line is valid; each call has one result, behind it; each run is closed
                        once and a cut one explained once; each message is delivered once, or waits
    faults_of_marks     nothing of an answer that was stopped, no call of one that broke; no call
                        was executed twice, or behind the log's back
    faults_of_wire      one run_end and one status behind it, one error where it failed, one reply
                        for each request

Nothing here asks the product what it thinks, but for reading a line and for the strict scan.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from podproc.engine.history import NOT_STARTED, OUTCOME_UNKNOWN
from protocol.entries import SegmentStart
from protocol.errors import PodsupError
from protocol.session.line import decode_line
from protocol.session.reading import scan
from tests.podproc.hostile import RULES, Do, Ended, HostileHome, Stage
from tests.podproc.pods import Sent

SYNTHETIC = {NOT_STARTED, OUTCOME_UNKNOWN}
REWINDS = {Do.REWIND, Do.REWIND_FAR}
CAUSES = {
    "user": "the user stopped it",
    "shutdown": "the process was shut down",
    "failure": "it ended with an error",
    "crash": "a crash",
}


def audit(stage: Stage) -> list[str]:
    """Return all that is wrong; nothing where all is well."""
    return [
        *stage.faults,
        *stage.model.faults,
        *faults_of_files(stage),
        *faults_of_marks(stage),
        *(fault for life in stage.lives for fault in faults_of_wire(life)),
        *faults_of_ends(stage),
        *faults_of_results(stage),
    ]


# -- files


def faults_of_files(stage: Stage) -> list[str]:
    """Look at the segments, the session's line and the inbox."""
    home, faults = stage.home, []
    for log in home.segments:
        data = log.read_bytes()
        try:
            found = scan(log, data)
        except PodsupError as error:
            faults.append(f"{log.name} is damaged: {error}")
            continue
        if found.torn is not None or found.bounds[-1] != len(data):
            faults.append(f"{log.name} is torn")
    if faults:
        return faults
    entries = list(line_of(home, stage.life.pod._record.segment_id))
    line = Line()
    for entry in entries:
        line.take(entry)
    line.end()
    return [*line.faults, *_faults_of_inbox(home, line, stage)]


def line_of(home: HostileHome, segment_id: str | None) -> Iterator[dict[str, Any]]:
    """Yield the entries of the session's line, from its first segment on."""
    if segment_id is None:
        return
    segments: list[list[dict[str, Any]]] = []
    stop: int | None = None
    while segment_id is not None:
        entries = home.entries(home.log.with_name(f"{segment_id}.jsonl"))[:stop]
        segments.insert(0, entries)
        source = SegmentStart.from_wire(entries[0]).continues
        segment_id, stop = (source.segment_id, source.at_entry) if source else (None, None)
    for entries in segments:
        yield from entries


@dataclass
class Line:
    """One walk along the session's line."""

    faults: list[str] = field(default_factory=list)
    open: bool = False
    last: str = ""
    due: str | None = None
    calls: dict[str, str] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    messages: Counter[str] = field(default_factory=Counter)
    place: int = -1

    def fault(self, what: str) -> None:
        """Note what is wrong here."""
        self.faults.append(f"entry {self.place} of the line: {what}")

    def take(self, entry: dict[str, Any]) -> None:
        """Take one entry."""
        self.place += 1
        match entry["kind"]:
            case "segment_start":
                self._on_segment(entry)
            case "invoke":
                self._on_invoke(entry["trigger"])
            case "user_input" | "turn_end":
                self._within(entry["kind"])
            case "llm_usage" if entry.get("purpose") is None:
                self._within("llm_usage")
            case "assistant_item":
                self._within("assistant_item")
                if entry["item"]["kind"] == "tool_call":
                    self._on_call(entry["item"])
            case "tool_result":
                self._on_result(entry["item"])
            case "system_item":
                self._on_system(entry["item"])
            case "run_completed":
                self._within("run_completed")
                self.open, self.last = False, entry["result"]
                stopped_by = "shutdown" if entry.get("reason") == "shutdown" else "user"
                self.due = stopped_by if self.last in ("paused", "cancelled") else None
                if self.last == "finished" and self.unanswered:
                    self.fault(f"a run has finished with open calls {self.unanswered}")
            case "run_errored":
                self._within("run_errored")
                self.open, self.last = False, "errored"
                self.due = "crash" if entry.get("interrupted") else "failure"
            case "paused_turn_abandoned":
                if self.open or self.due or self.unanswered:
                    self.fault("an abandonment of what is open, or not explained")
                if self.last not in ("paused", "cancelled"):
                    self.fault(f"an abandonment of what is {self.last}")
                self.last = "abandoned"

    def end(self) -> None:
        """The line is over."""
        if self.open:
            self.fault("the last run was never closed")
        if self.last not in ("finished", "limit_reached"):
            self.fault(f"the last run, in peace, came to {self.last!r}")
        if self.unanswered:
            self.fault(f"calls {self.unanswered} were never answered")

    def _within(self, what: str) -> None:
        if not self.open:
            self.fault(f"a {what} outside of any run")

    def _on_segment(self, entry: dict[str, Any]) -> None:
        if entry.get("compacted_from"):
            items = entry.get("history", ())
            kept = {item["call_id"] for item in items if item["kind"] == "tool_call"}
            self.unanswered = [one for one in self.unanswered if one in kept]
            self.calls = {one: mark for one, mark in self.calls.items() if one in kept}

    def _on_invoke(self, trigger: str) -> None:
        if self.open:
            self.fault("a run begins in another one")
        if self.unanswered:
            self.fault(f"a run begins with open calls {self.unanswered}")
        if trigger == "resume":
            if self.last != "paused":
                self.fault(f"a run is resumed that is {self.last}")
        elif self.due is not None:
            self.fault(f"a run begins and the cut by {self.due} is not explained")
        self.open, self.due = True, None

    def _on_call(self, call: dict[str, Any]) -> None:
        if call["call_id"] in self.calls:
            self.fault(f"a second call {call['call_id']!r}")
        self.calls[call["call_id"]] = _mark_of(call["arguments"])
        self.unanswered.append(call["call_id"])

    def _on_result(self, result: dict[str, Any]) -> None:
        call_id = result["call_id"]
        if call_id not in self.unanswered:
            self.fault(f"a result for {call_id!r}, which is not open")
        else:
            self.unanswered.remove(call_id)
        if not self.open and result["summary"] not in SYNTHETIC:
            self.fault(f"a result of {call_id!r} behind the end of its run")

    def _on_system(self, item: dict[str, Any]) -> None:
        if item["kind"] == "interrupt":
            if self.open or self.unanswered:
                self.fault("an interrupt note in a run, or before the results")
            if self.due is None:
                self.fault("an interrupt note where nothing is to be explained")
            elif CAUSES[self.due] not in item["body"]:
                self.fault(f"{item['body']!r} is not the cause: {self.due}")
            self.due = None
            return
        self._within(item["kind"])
        if item.get("id") is not None:
            self.messages[item["id"]] += 1


def _mark_of(arguments: str) -> str:
    found = re.search(r'"mark": "([0-9.]+)"', arguments)
    return found[1] if found else ""


def _faults_of_inbox(home: HostileHome, line: Line, stage: Stage) -> list[str]:
    faults = [f"{one} was delivered twice" for one, times in line.messages.items() if times > 1]
    arrived: dict[str, None] = {}
    settled: Counter[str] = Counter()
    for raw in home.inbox.read_bytes().splitlines():
        entry = decode_line(raw)
        if entry["kind"] == "arrived":
            arrived[entry["id"]] = None
        else:
            settled.update(entry["ids"])
    faults += [f"{one} was settled twice" for one, times in settled.items() if times > 1]
    was_rewound = not REWINDS.isdisjoint(stage.done)
    for one in arrived:
        if settled[one] and not line.messages[one] and not was_rewound:
            faults.append(f"{one} is settled, and nobody was told")
        if line.messages[one] and not settled[one]:
            faults.append(f"{one} was delivered and still waits")
    accepted = _accepted_messages(stage)
    return [*faults, *(f"{one} was accepted and is gone" for one in accepted if one not in arrived)]


def _accepted_messages(stage: Stage) -> list[str]:
    """Return the notes that were answered with ok, in lives that are part of the line."""
    sent = [one for life in stage.lives for one in life.sent]
    return [one.id for one in sent if one.what == "reply ok" and one.id.startswith("note ")]


# -- marks


def faults_of_marks(stage: Stage) -> list[str]:
    """Trace what is on disk, and what was executed, to the answers where it came from."""
    asked = {one.number: one for one in stage.model.asked}
    stopped = stopped_answers(stage)
    texts: Counter[str] = Counter()
    calls: set[str] = set()
    for log in stage.home.segments:
        for entry in stage.home.entries(log):
            if entry["kind"] != "assistant_item":
                continue
            item = entry["item"]
            if item["kind"] == "tool_call":
                calls.add(_mark_of(item["arguments"]))
            elif mark := (item.get("content") or item.get("text") or "").strip("<>"):
                texts[mark] += 1
    calls.discard("")
    faults = []
    for mark in texts:
        number, _, part = mark.partition(".")
        if int(number) in stopped:
            faults.append(f"text {mark} is of an answer that was stopped")
        if int(part) > 90:
            faults.append(f"text {mark} came behind the end of its answer")
    executed = _executions(stage.home)
    for mark in {*calls, *executed}:
        number, _, part = mark.partition(".")
        if not asked[int(number)].has_ended:
            faults.append(f"call {mark} is of an answer that never ended")
        if int(part) > 90:
            faults.append(f"call {mark} came behind the end of its answer")
    faults += [f"call {one} was executed {n} times" for one, n in executed.items() if n > 1]
    if REWINDS.isdisjoint(stage.done):
        faults += [f"call {one} was executed and is not logged" for one in executed.keys() - calls]
    return [*faults, *_faults_of_synthetic(stage, executed)]


def _faults_of_synthetic(stage: Stage, executed: Counter[str]) -> Iterator[str]:
    """Nothing that had begun is said to have had no effect."""
    for log in stage.home.segments:
        marks: dict[str, str] = {}
        for entry in stage.home.entries(log):
            item = entry.get("item", {})
            if item.get("kind") == "tool_call":
                marks[item["call_id"]] = _mark_of(item["arguments"])
            elif item.get("summary") == NOT_STARTED and executed[marks.get(item["call_id"], "")]:
                yield f"call {item['call_id']} was executed and is said to have had no effect"


def _executions(home: HostileHome) -> Counter[str]:
    if not home.executions.exists():
        return Counter()
    return Counter(row.split(" ")[0] for row in home.executions.read_text().splitlines())


def stopped_answers(stage: Stage) -> set[int]:
    """Return the requests whose answer was cut by a pause, a cancel or a shutdown."""
    lives = {life.number: life for life in stage.lives}
    found: set[int] = set()
    for one in stage.model.asked:
        if one.has_ended or not one.was_closed or one.for_summary:
            continue
        for sent in lives[one.life].sent[one.place :]:
            if sent.what in ("llm_continuation", "llm_retry", "run_end errored"):
                break  # it was silent for too long
            if sent.what.startswith("run_end"):
                found.add(one.number)
                break
    return found


# -- the wire


STATUS_AFTER = {
    "finished": {"idle", "running"},
    "limit_reached": {"idle", "running"},
    "errored": {"idle", "running"},
    "paused": {"paused"},
    "cancelled": {"idle"},
    "rolled_back": {"idle"},
}
OF_A_RUN = {
    *("turn_start", "llm_call_start", "text_delta", "text_done", "thinking_start"),
    *("thinking_delta", "thinking_done", "tool_call_start", "tool_call_done"),
    *("tool_output_delta", "tool_result", "llm_retry", "llm_continuation", "llm_call_end"),
    *("turn_end", "entry assistant_item", "entry turn_end", "user_message"),
}


def faults_of_wire(life: Ended) -> list[str]:
    """Look at one life as it was told."""
    faults: list[str] = []
    errors = 0
    is_open = False
    owed: str | None = None
    is_first = True  # the run that the process before left open is closed without an invoke

    def fault(what: str) -> None:
        faults.append(f"life {life.number}: {what}")

    for sent in life.sent:
        name = sent.what
        if name == "invoke_start":
            if is_open or (owed and "running" not in STATUS_AFTER[owed]):
                fault("a run begins before the end of another one was told")
            is_open, is_first, errors = True, False, 0
        elif name == "error":
            errors += 1
        elif name.startswith("run_end"):
            result = name.split()[1]
            if not (is_open or (is_first and result == "errored")):
                fault(f"a second {name}")
            if errors != (result == "errored"):
                fault(f"{errors} errors before {name}")
            if result == "rolled_back" and sent.body.get("input") is None:
                fault("a run was taken back without its input")
            is_open, is_first, owed = False, False, result
        elif name.startswith("status"):
            status = name.split()[1]
            if owed is not None and status not in STATUS_AFTER[owed]:
                fault(f"{name} behind run_end {owed}")
            if owed is None and is_open and status != "running":
                fault(f"{name} in a run")
            owed = None
        elif name in OF_A_RUN and not is_open:
            fault(f"a {name} outside of any run")
    return [*faults, *_faults_of_replies(life)]


def _faults_of_replies(life: Ended) -> Iterator[str]:
    shutdown = next((n for n, one in enumerate(life.sent) if one.what == "shutdown"), None)
    in_peace = not life.was_killed and shutdown is None
    asked, replied = Counter(life.posted), Counter[str]()
    for sent in life.sent:
        if sent.what.startswith("reply"):
            replied[sent.id] += 1
    for one, times in asked.items():
        if replied[one] > times:
            yield f"life {life.number}: {one} was asked {times} times, answered {replied[one]}"
        if not replied[one] and in_peace:
            yield f"life {life.number}: {one} was never answered"


def faults_of_ends(stage: Stage) -> Iterator[str]:
    """Each run that was accepted has one run_end, unless a kill came between log and wire."""
    accepted: dict[str, Ended] = {}
    ends: Counter[str] = Counter()
    was_rewound = not REWINDS.isdisjoint(stage.done)
    for life in stage.lives:
        for sent in life.sent:
            if sent.what == "reply ok" and _is_run(sent, life):
                accepted.setdefault(sent.id, life)
            if sent.what.startswith("run_end") and sent.body.get("request_id"):
                ends[sent.body["request_id"]] += 1
    taken_back = {
        sent.body.get("request_id")
        for life in stage.lives
        for sent in life.sent
        if sent.what == "run_end rolled_back"
    }
    for one, times in ends.items():
        # What the log no longer has, a later process takes for new when it is sent again.
        if times > 1 and one not in taken_back and not was_rewound:
            yield f"{times} run_ends of {one}"
    for one, life in accepted.items():
        if not ends[one] and not (life.was_killed and _is_closed_on_disk(life, one)):
            yield f"no run_end of {one}"


def faults_of_results(stage: Stage) -> Iterator[str]:
    """A run is what it says: finished behind a whole answer, internal for a defect alone."""
    for life in stage.lives:
        turns = 0
        asked = [a for a in stage.model.asked if a.life == life.number and not a.for_summary]
        for place, sent in enumerate(life.sent):
            match sent.what:
                case "invoke_start":
                    turns = 0
                case "turn_start":
                    turns += 1
                case "run_end finished":
                    last = [one for one in asked if one.place <= place][-1]
                    if not last.has_ended or last.is_truncated:
                        yield f"life {life.number}: finished behind the half answer {last.number}"
                case "run_end limit_reached" if sent.body["reason"] == "max_turns":
                    if turns != RULES.max_turns:
                        yield f"life {life.number}: max_turns after {turns} turns"
                case "run_end errored":
                    error = sent.body["error"]
                    if error["code"] == "internal" and not error["message"].startswith("Defect"):
                        yield f"life {life.number}: {error['message']!r} is an internal error"


def _is_run(sent: Sent, life: Ended) -> bool:
    """Whether a run or a resume was taken: it is the request that an `invoke` names."""
    return any(
        one.what == "invoke_start" and one.body.get("request_id") == sent.id for one in life.sent
    )


def _is_closed_on_disk(life: Ended, request_id: str) -> bool:
    is_open: str | None = None
    for _, data in life.disk:
        for raw in data.splitlines():
            entry = decode_line(raw)
            match entry["kind"]:
                case "segment_start":
                    carried = entry.get("carried") or {}
                    is_open = (carried.get("open_run") or {}).get("request_id")
                case "invoke":
                    is_open = entry.get("request_id")
                case "run_completed" | "run_errored":
                    is_open = None
    # A run that was taken back is neither open nor there.
    return is_open != request_id


def story(stage: Stage) -> str:
    """Say in words what happened, for a test that fails."""
    rows = [f"steps: {', '.join(stage.done)}"]
    for life in stage.lives:
        rows.append(f"life {life.number}{' (killed)' if life.was_killed else ''}:")
        rows += [f"  {one.what} {one.id}" for one in life.sent if one.what != "text_delta"]
    for log in stage.home.segments:
        rows.append(log.stem)
        for entry in stage.home.entries(log):
            shown = {key: entry[key] for key in entry if key not in ("config", "system_prompt")}
            rows.append(f"  {json.dumps(shown)[:200]}")
    return "\n".join(rows)
