"""`podsup logs`: what a pod's process printed, read from its file; no supervisor is needed."""

from __future__ import annotations

import codecs
import time
from pathlib import Path

import click

from protocol.errors import UnknownPod
from supervisor.cli.app import App, command
from supervisor.cli.output import put_result
from supervisor.logs import log_files, tail
from supervisor.paths import Paths, checked_name

LOOK_S = 0.1


@command("logs", example="podsup logs alice -n 20")
@click.argument("pod")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, across restarts.")
@click.option("-p", "--previous", is_flag=True, help="The previous incarnation's.")
@click.option("-n", "--lines", default=200, show_default=True, help="How many last lines.")
def logs(app: App, pod: str, follow: bool, previous: bool, lines: int) -> None:
    """Show the end of what a pod's process printed to stdout and stderr."""
    data = Paths.here(app.home).data
    files = log_files(data, checked_name(pod))
    if previous:
        files = files[:-1]
    if not files:
        raise UnknownPod(
            f"there is no {'earlier ' if previous else ''}log of a pod {pod!r}", pod=pod
        )
    text = tail(files[-1], most=4 * 1024 * 1024, lines=lines)
    if app.out.is_json:
        app.out.document({"pod": pod, "path": str(files[-1]), "text": text})
        return
    put_result(text)
    if follow:
        _follow(data, pod, files[-1])


def _follow(data: Path, pod: str, path: Path) -> None:
    """Print what is added; go on with the next file after a rotation or a restart."""
    file = path.open("rb")
    file.seek(0, 2)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        if chunk := file.read(1 << 16):
            put_result(decoder.decode(chunk))
            continue
        newest = log_files(data, pod)[-1]
        moved = not newest.exists() or newest.stat().st_ino != _inode(file.fileno())
        if moved and newest.exists():
            file.close()
            file = newest.open("rb")
            continue
        time.sleep(LOOK_S)


def _inode(fd: int) -> int:
    import os

    return os.fstat(fd).st_ino
