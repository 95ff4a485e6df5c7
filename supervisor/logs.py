"""Where a pod's process output is, and the end of it."""

from __future__ import annotations

import os
from pathlib import Path

TAIL_BYTES = 4096


def open_log(data: Path, pod: str, incarnation: int) -> int:
    """Open the log file of a new incarnation for appending.

    The descriptor is handed to its process.
    """
    folder = data / "logs" / pod
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(folder / f"{incarnation}.log", flags, 0o600)


def log_files(data: Path, pod: str) -> list[Path]:
    """Return the log files of a pod's incarnations, oldest first; rotated parts are left out."""
    files = (data / "logs" / pod).glob("*.log")
    return sorted((f for f in files if f.stem.isdigit()), key=lambda path: int(path.stem))


def tail(path: Path, *, most: int = TAIL_BYTES, lines: int | None = None) -> str:
    """Return the last bytes of a log, in whole lines if it has any; "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            data = file.read(most)
    except OSError:
        return ""
    if size > most and b"\n" in data:
        data = data[data.index(b"\n") + 1 :]
    text = data.decode("utf-8", "replace")
    return text if lines is None else "".join(text.splitlines(keepends=True)[-lines:])
