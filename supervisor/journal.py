"""A fleet's journal on disk: what the next supervisor must know, line by line.

`core.fleet_record` says what the records mean; here they are kept. One supervisor writes, which
holds the fleet's single-instance lock; anybody of this user may read. Tokens stand in it: mode
0600, in a folder 0700.

A record is durable when `append` returns, and not there at all when it raises. Opening the journal
rewrites it without its history.

The journal must never be what keeps a fleet from being ended. So reading does not fail on what it
finds: a damaged line, an unterminated end, a kind of record that a newer version wrote are each
skipped with an alert, and the file as it was stays beside it as `journal.jsonl.bak`. A disk too
full to rewrite the journal is an alert, too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from protocol.errors import Conflict
from supervisor import jsonl
from supervisor.background import say
from supervisor.core.fleet_record import KINDS, FleetRecord, Record, fold, snapshot
from supervisor.durable import write_all, write_atomically
from supervisor.paths import make_private_dir

JOURNAL = "journal.jsonl"
_OF_STARTS = (b"fleet_started", b"settings_fixed", b"spawned")
MOST_FLEETS = 256
"""Fleets of one home whose journals are looked at, the newest first."""


def read(path: Path) -> tuple[list[Record], list[str]]:
    """Return the records and an alert for each thing that was skipped; no file is no records."""
    records, alerts, _ = _parsed(path)
    return records, alerts


def started_fleets(folder: Path) -> list[FleetRecord]:
    """Return what the journals below a folder say of fleets that were started, newest first."""
    newest = sorted(folder.glob(f"*/{JOURNAL}"), key=_age)[:MOST_FLEETS]
    return [record for record in map(_folded, newest) if record.fixed is not None]


def refuse_foreign(record: FleetRecord, workspace: str) -> None:
    """Raise Conflict, naming both folders, when the fleet's record is that of another workspace."""
    if record.workspace not in ("", workspace):
        raise Conflict(
            f"fleet {record.fleet!r} belongs to {record.workspace}, not to {workspace}",
            next_step="use another fleet name, or --fresh to begin anew here",
            recorded=record.workspace,
            asked=workspace,
        )


class Journal:
    """The journal of a fleet, open for writing: one process, one thread at a time.

    `record` is what it says now, `alerts` what was skipped at the opening. Raises OSError where the
    file cannot be opened at all, Internal when its folder is not ours alone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        make_private_dir(path.parent)
        records, self.alerts, whole_lines = _parsed(path)
        self.record: FleetRecord = fold(records)
        try:
            write_atomically(
                path,
                b"".join(_line(record) for record in snapshot(self.record)),
                keep=path.with_name(f"{path.name}.bak") if self.alerts else None,
            )
        except OSError as error:
            self.alerts.append(f"{path} keeps its history: {error.strerror}")
        else:
            whole_lines = path.stat().st_size
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self._size = whole_lines

    def append(self, *records: Record) -> None:
        """Write the records, all or none, and sync them; takes 0.1 ms, so not on an event loop.

        Raises OSError, after which the journal and `record` are as before.
        """
        data = b"".join(_line(record) for record in records)
        self._cut()
        try:
            write_all(self._fd, data)
            os.fdatasync(self._fd)
        except BaseException:
            with suppress(OSError):  # the next append tries again, and must succeed
                self._cut()
            raise
        self._size += len(data)
        self.record = fold(records, self.record)

    def note(self, *records: Record) -> None:
        """Write records that nothing may wait for; where the disk refuses, that is an alert only.

        What they would have told the next supervisor it can find out: a life lock proves a death.
        """
        try:
            self.append(*records)
        except OSError as error:
            say(f"alert: {self._path}: a record was not written: {error.strerror or error}")

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _cut(self) -> None:
        """Take away what an earlier append, or an earlier process, left unfinished."""
        if os.fstat(self._fd).st_size != self._size:
            os.ftruncate(self._fd, self._size)


def _folded(path: Path) -> FleetRecord:
    """Return what a journal says of its last start, and no more: there may be many journals."""
    try:
        return fold(_parsed(path, _OF_STARTS)[0])
    except OSError:
        return FleetRecord()


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


def _parsed(path: Path, words: Sequence[bytes] = (b"",)) -> tuple[list[Record], list[str], int]:
    """Return records, alerts, and the bytes that are whole lines; of lines that have a word."""
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], [], 0
    records: list[Record] = []
    alerts = []
    for number, line in enumerate(lines, start=1):
        if not any(word in line for word in words):
            continue
        try:
            records.append(_record(line))
        except ValueError as error:
            alerts.append(f"{path}:{number}: {error}; the line was skipped")
    if rest:
        alerts.append(f"{path}: the last line has no end; its {len(rest)} bytes were skipped")
    return records, alerts, sum(len(line) + 1 for line in lines)


def _record(line: bytes) -> Record:
    data = jsonl.decode(line)
    kind = KINDS.get(str(data.get("kind")))
    if kind is None:
        raise ValueError(f"unknown kind {data.get('kind')!r}")
    return kind.from_wire(data)


def _line(record: Record) -> bytes:
    return jsonl.encode(record.to_wire())
