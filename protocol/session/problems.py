"""What can go wrong with a session log, each with the file, the cause in words and the next step.

    LogProblem (internal)
     ├─ LogDamaged      a terminated line that cannot be what was written; also line and byte offset
     ├─ AppendFailed    nothing was added; the log is as it was and may be used again
     ├─ RewriteFailed   the old log still stands; it may be used again
     └─ LogBroken       what is on disk is unknown or not ours alone: final for this file

After `LogBroken` nothing is tried on the same file again: runs are refused until the pod starts
anew.
"""

from __future__ import annotations

import errno
from pathlib import Path

from pydantic import ValidationError

from protocol.errors import Internal

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def in_words(error: BaseException) -> str:
    """Return one line that says what happened, with the system's name of it where it has one."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror} ({errno.errorcode.get(error.errno, error.errno)})"
    if isinstance(error, ValidationError):
        fields = ((".".join(map(str, e["loc"])), e["msg"]) for e in error.errors())
        return "; ".join(f"{name}: {what}" if name else what for name, what in fields)
    if isinstance(error, KeyError):
        return f"{error.args[0]}: field required"
    return str(error) or type(error).__name__


class LogProblem(Internal):
    """Base of all of them; `cause` is one line in words."""

    def __init__(
        self, message: str, *, file: Path, cause: str, next_step: str, **details: int
    ) -> None:
        super().__init__(
            f"{message}: {cause}", next_step=next_step, file=str(file), cause=cause, **details
        )
        self.file = file
        self.cause = cause


class LogDamaged(LogProblem):
    """A line that must be readable is not; `line` counts from 1, `offset` is its first byte."""

    def __init__(self, file: Path, *, line: int, offset: int, cause: str) -> None:
        super().__init__(
            f"session log {file} is damaged at line {line}, byte {offset}",
            file=file,
            cause=cause,
            next_step="podsup session fsck POD --repair moves what is bad aside; "
            "podsup start --fresh files the session away and begins anew",
            line=line,
            offset=offset,
        )
        self.line = line
        self.offset = offset


class AppendFailed(LogProblem):
    """Nothing was written, or what was written is taken back."""

    def __init__(self, file: Path, error: Exception) -> None:
        super().__init__(
            f"nothing was added to session log {file}",
            file=file,
            cause=in_words(error),
            next_step=_next_step(file, error),
        )


class RewriteFailed(LogProblem):
    """A new log could not be put in place; what stood there before still does."""

    def __init__(self, file: Path, error: Exception) -> None:
        super().__init__(
            f"session log {file} could not be written anew",
            file=file,
            cause=in_words(error),
            next_step=_next_step(file, error),
        )


class LogBroken(LogProblem):
    """This file is given up: it takes no record any more."""

    def __init__(self, file: Path, cause: str) -> None:
        super().__init__(
            f"session log {file} takes no more records",
            file=file,
            cause=cause,
            next_step="look at the disk and its kernel messages, then podsup restart the pod",
        )


def _next_step(file: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        if error.errno in _FULL:
            return f"free space on the file system of {file.parent}, then send the request again"
        return f"look at the disk under {file.parent}, then send the request again"
    return "report this as a defect: the record cannot be written as JSON"
