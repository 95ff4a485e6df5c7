"""`podsup session show`, `export`, `fsck`, `replay`: a pod's history as it is on disk.

None of them needs a supervisor or a pod, and only `fsck --repair` changes anything. What is shown
is the session's line: the segments that lead to the active one, as one story.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol.errors import Internal, InvalidRequest
from supervisor.cli import exit_codes
from supervisor.cli.app import App, Failed, command, form_option
from supervisor.cli.output import is_terminal, note, put_drawn, put_stored
from supervisor.paths import Paths

if TYPE_CHECKING:
    from protocol.session.lineage import Part, Row
    from supervisor.session_fsck import Examined, Repaired
    from supervisor.sessions import PodSession

MOST_ROWS = 200
"""Entries that `show` prints without --all."""


@click.group(
    "session",
    no_args_is_help=False,
    epilog="Example: podsup session show alice",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def session() -> None:
    """Look at a pod's history on disk, whether the pod lives or not."""


# -- show ------------------------------------------------------------------------------------------


@command("show", example="podsup session show alice", short="Show the history of a pod's session.")
@click.argument("pod")
@click.option("--segment", metavar="ID", help="This segment alone, whether it is active or not.")
@click.option("--all", "everything", is_flag=True, help="All of it, not only the end.")
def show(app: App, pod: str, segment: str | None, everything: bool) -> None:
    """Show the history of a pod's session, and what it amounts to. Reads only.

    A line that cannot be read is shown as such, with its number and byte offset.
    """
    from protocol.session.lineage import rows
    from supervisor.drawing import note as noted
    from supervisor.session_view import Drawing, header_lines, plain_row, summarize
    from supervisor.sessions import is_live

    paths = Paths.here(app.home)
    found = _found(app, paths, pod)
    line = _line(found, segment)
    told = list(rows(found.store, found.session_id, line, repeats=True))
    about = summarize(told, is_live=is_live(paths, found.meta))
    shown = [row for row in told if not row.is_repeat or segment is not None]
    first = 0 if everything else max(0, len(shown) - MOST_ROWS)
    match app.output:
        case "json":
            entries = [plain_row(row) for row in shown[first:]]
            app.out.document(_document(found, line, about, earlier=first, entries=entries))
        case "jsonl":
            for row in shown[first:]:
                app.out.line(plain_row(row))
        case "name":
            app.out.put_lines(part.segment_id for part in line)
        case _:
            segments = [part.segment_id for part in line]
            app.out.put_lines([*header_lines(pod, found.session_id, segments, about), ""])
            drawing = Drawing()
            drawn = [drawing.draw(row) for row in shown]  # the first ones name calls for the last
            if first:
                put_drawn([noted(f"{first} earlier entries: podsup session show {pod} --all")])
            for lines in drawn[first:]:
                put_drawn(lines)


def _document(found: PodSession, line: Sequence[Part], about: Any, **more: Any) -> dict[str, Any]:
    return {
        "pod": found.pod,
        "session_id": found.session_id,
        "segment_id": line[-1].segment_id,
        "segments": [
            {"segment_id": part.segment_id, "stop": part.stop, "trouble": part.trouble}
            for part in line
        ],
        "state": about.state,
        "head_entries": about.entries,
        "bad": about.bad,
        "missing": about.missing,
        "inputs": about.inputs,
        "turn_count": about.turns,
        "usage": about.usage.model_dump(mode="json"),
        **more,
    }


# -- export ----------------------------------------------------------------------------------------


@command(
    "export",
    example="podsup session export alice --format markdown",
    short="Write the history in another form.",
    form=form_option,
)
@click.argument("pod")
@click.option(
    "--format",
    "form",
    type=click.Choice(("markdown", "jsonl", "openai", "anthropic")),
    default="markdown",
    show_default=True,
    help="For people, as it is on disk, or as messages of an API.",
)
@click.option("--output", "target", metavar="FILE", help="Write it there; a file is replaced.")
def export(app: App, pod: str, form: str, target: str | None) -> None:
    """Write the history of a pod's session in another form, on stdout or into a file.

    jsonl is lossless: the lines as they stand on disk. What another form cannot carry is said in
    one line on stderr. A file is written whole or not at all.
    """
    from protocol.session.lineage import raw_lines, rows

    found = _found(app, Paths.here(app.home), pod)
    line = found.line()
    if form == "jsonl":
        data = list(raw_lines(found.store, found.session_id, line))
        said = _raw_troubles(line, data)
    else:
        from supervisor.session_export import FORMS

        told = rows(found.store, found.session_id, line)
        made = FORMS[form](told, f"Session of pod {pod}")
        data, said = [made.text.encode()], f"not in {form}: {'; '.join(made.lacks)}"
    if target is None:
        put_stored(data)
    else:
        _to_file(Path(target), data)
    if said:
        note(said)


def _raw_troubles(line: Sequence[Part], data: Iterable[bytes]) -> str:
    from protocol.session.line import BadLine, decode_line
    from supervisor.session_view import counted

    bad = 0
    for one in data:
        try:
            decode_line(one)
        except BadLine:
            bad += 1
    said = [f"segment {part.segment_id}: {part.trouble}" for part in line if part.trouble]
    said += [f"{counted(bad, 'damaged line')}: copied as on disk"] if bad else []
    return "; ".join(said)


def _to_file(target: Path, data: Iterable[bytes]) -> None:
    """Replace the file, durably; raises Internal, and then nothing new is there."""
    from supervisor.durable import sync_folder, write_all

    path = Path(os.path.realpath(target))
    beside = path.with_name(f".podsup-export-{secrets.token_hex(8)}")
    is_whole = False
    try:
        if _is_special(path):
            with path.open("wb", buffering=0) as file:
                for chunk in data:
                    write_all(file.fileno(), chunk)
            return
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for chunk in data:
                write_all(fd, chunk)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(beside, path)
        is_whole = True
        sync_folder(path.parent)
    except OSError as error:
        raise Internal(
            f"{target} was not written: {error.strerror or error}",
            next_step="nothing of it was left there; name another FILE",
            path=str(target),
            errno=errno.errorcode.get(error.errno or 0),
        ) from error
    finally:
        if not is_whole:
            beside.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    """Whether something stands there that is written to and not replaced: a device, a pipe."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return not stat.S_ISREG(mode)


# -- fsck ------------------------------------------------------------------------------------------


@command(
    "fsck", example="podsup session fsck alice", short="Check the log of a session, and repair it."
)
@click.argument("pod")
@click.option("--repair", "mend", is_flag=True, help="Move what is bad aside; delete nothing.")
def fsck(app: App, pod: str, mend: bool) -> None:
    """Check every segment of a pod's session; 1 where something is wrong.

    With --repair what is bad is moved to SEGMENT.torn-N beside the log, and the pod can start
    again. It is refused (6) while a pod holds the session.
    """
    from supervisor.session_fsck import carry_out, prepare
    from supervisor.sessions import held

    paths = Paths.here(app.home)
    found = _found(app, paths, pod)
    repaired: list[Repaired] = []
    if mend:
        logs = [found.store.path(found.session_id, segment) for segment in found.segments]
        ready = [prepare(log, session_id=found.session_id) for log in logs]
        with held(paths, found):
            repaired = [carry_out(one) for one in ready if one is not None]
    rows = [_checked(found, segment) for segment in found.segments]
    troubles = _line_troubles(found)
    is_clean = not troubles and all(row["condition"] == "ok" for row in rows)
    data = {
        "pod": pod,
        "session_id": found.session_id,
        "segment_id": found.segment_id,
        "clean": is_clean,
        "segments": rows,
        "missing": troubles,
        "repaired": [_plain(one) for one in repaired],
    }
    match app.output:
        case "json":
            app.out.document(data)
        case "jsonl":
            for row in rows:
                app.out.line(row)
        case "name":
            app.out.put_lines(row["segment_id"] for row in rows if row["condition"] != "ok")
        case _:
            _print_checked(app, found, rows, troubles, repaired)
            if not is_clean:
                note(_advice(pod, rows))
    if not is_clean:
        raise Failed(exit_codes.FAILED)


def _checked(found: PodSession, segment: str) -> dict[str, Any]:
    from supervisor.session_fsck import aside_files, examine

    path = found.store.path(found.session_id, segment)
    seen: Examined = examine(path, path.read_bytes())
    problem = seen.problem
    return {
        "segment_id": segment,
        "active": segment == found.segment_id,
        "condition": str(seen.condition),
        "entries": seen.entries,
        "bytes": seen.size,
        "bad": seen.bad,
        "unterminated": seen.tail,
        "problem": None
        if problem is None
        else {"line": problem.line, "offset": problem.offset, "cause": problem.cause},
        "aside": [one.name for one in aside_files(path)],
        "path": str(path),
    }


def _line_troubles(found: PodSession) -> list[str]:
    """Return what is wrong between segments: one that is gone, one that continues itself."""
    from protocol.session.lineage import LineLoops

    try:
        parts = found.line()
    except LineLoops as loop:
        return [loop.cause]
    there = set(found.segments)
    return [
        f"segment {part.segment_id}, which the next one continues: {part.trouble}"
        for part in parts
        if part.trouble and part.segment_id not in there
    ]


def _plain(one: Repaired) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(one)


def _print_checked(
    app: App,
    found: PodSession,
    rows: Sequence[dict[str, Any]],
    troubles: Sequence[str],
    repaired: Sequence[Repaired],
) -> None:
    app.out.put_lines(f"repaired {one.segment_id}: {_done(one)}" for one in repaired)
    app.out.put_lines([f"{found.pod}: session {found.session_id}"])
    app.out.table(
        ("SEGMENT", "ENTRIES", "BYTES", "CONDITION"),
        [
            (
                row["segment_id"],
                str(row["entries"]),
                str(row["bytes"]),
                row["condition"] + (", active" if row["active"] else ""),
            )
            for row in rows
        ],
    )
    app.out.put_lines(f"  {row['segment_id']}: {text}" for row in rows for text in _words(row))
    app.out.put_lines(f"  missing: {trouble}" for trouble in troubles)


def _words(row: dict[str, Any]) -> Iterator[str]:
    from supervisor.session_view import counted

    if problem := row["problem"]:
        more = f"; {row['bad']} bad lines in all" if row["bad"] > 1 else ""
        where = f"line {problem['line']}, byte {problem['offset']}"
        yield f"{row['condition']} at {where}: {problem['cause']}{more}"
    if row["unterminated"]:
        yield f"{counted(row['unterminated'], 'byte')} behind the last record: never committed"
    if row["aside"]:
        yield f"moved aside before: {', '.join(row['aside'])}"


def _done(one: Repaired) -> str:
    from supervisor.session_view import counted

    said: list[str] = []
    if one.moved_to:
        said.append(f"{counted(one.moved, 'byte')} moved to {one.moved_to}")
    if one.closed:
        said.append(f"{counted(one.closed, 'call')} answered whose result was damaged")
    if one.has_new_start:
        said.append("it begins anew: its system prompt and what it continued are lost")
    return "; ".join(said)


def _advice(pod: str, rows: Sequence[dict[str, Any]]) -> str:
    conditions = {row["condition"] for row in rows}
    if "newer" in conditions:
        return "next: use the version of podsup that wrote it"
    if conditions <= {"ok"}:
        return "next: nothing can be repaired; what is there stays usable"
    if conditions <= {"ok", "unterminated", "torn"}:
        return "next: nothing that was promised is lost; the pod mends it when it starts"
    return f"next: podsup session fsck {pod} --repair"


# -- replay ----------------------------------------------------------------------------------------


class Factor(click.FloatRange):
    """A factor from 0 on; `nan` passes every comparison and is refused by name."""

    name = "factor"

    def __init__(self) -> None:
        super().__init__(0)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the factor, or fail as a usage error."""
        factor: float = super().convert(value, param, ctx)
        if math.isnan(factor):
            self.fail(f"{value!r} is no factor", param, ctx)
        return factor


@command("replay", example="podsup session replay alice --speed 10", short="Play the history back.")
@click.argument("pod")
@click.option(
    "--speed",
    metavar="X",
    type=Factor(),
    default=1.0,
    show_default=True,
    help="How much faster than it was; 0 does not wait.",
)
@click.option(
    "--until", metavar="N", type=click.IntRange(1), help="End with what followed input N."
)
def replay(app: App, pod: str, speed: float, until: int | None) -> None:
    """Play a session back in its own time; no pause is longer than two seconds.

    Ctrl-C ends it. Without a terminal nothing is waited for. N is the number that
    `podsup rewind POD --list` gives an input.
    """
    from protocol.session.lineage import rows
    from supervisor.session_view import Drawing, plain_row, timeline

    if app.output == "json":
        raise click.UsageError("one JSON document: podsup session show -o json; -o jsonl plays")
    found = _found(app, Paths.here(app.home), pod)
    told = rows(found.store, found.session_id, found.line())
    drawing = Drawing()

    def put(row: Row) -> None:
        if app.output == "jsonl":
            app.out.line(plain_row(row))
        else:
            put_drawn(drawing.draw(row))

    pace = speed if is_terminal() else 0.0
    with contextlib.suppress(KeyboardInterrupt):
        play(timeline(told, speed=pace, until=until), put, time.sleep)


def play(beats: Iterable[Any], put: Callable[[Row], None], sleep: Callable[[float], None]) -> None:
    """Put each row after its pause."""
    for beat in beats:
        if beat.wait_s > 0:
            sleep(beat.wait_s)
        put(beat.row)


# -- what they share -------------------------------------------------------------------------------


def _found(app: App, paths: Paths, pod: str) -> PodSession:
    from supervisor.sessions import find_session

    return find_session(paths, pod, app.fleet)


def _line(found: PodSession, segment: str | None) -> list[Part]:
    """Return the session's line, or the one segment that is named."""
    from protocol.session.lineage import part_of

    if segment is None:
        return found.line()
    if segment not in found.segments:
        raise InvalidRequest(
            f"the session of pod {found.pod!r} has no segment {segment!r}",
            next_step="its segments: " + ", ".join(found.segments),
            segments=list(found.segments),
        )
    return [part_of(found.store, found.session_id, segment)]


for _made in (show, export, fsck, replay):
    session.add_command(_made)
