"""The fork server: one thread, everything imported, garbage frozen; it only forks.

Every pod is forked from here, in about the time the kernel needs to copy a page table, instead of
paying a second of imports each. What makes that safe:

  - exactly one thread and no ZeroMQ context, ever; it refuses to fork otherwise;
  - `gc.collect(); gc.freeze()` before the first fork: else one in a child copies every page;
  - the child keeps stdio (its log file) and its life lock, and closes every other descriptor;
  - what the zygote hides of its memory the child shows: its user looks at pods, not at keys here.

It watches its children without reaping them (`WNOWAIT`): a pid stays a zombie, and so cannot be
reused, until the supervisor has settled the death and says `reap`. When the zygote dies its
children, dead or alive, become the supervisor's (a subreaper) with their status intact; when its
channel closes it exits. Messages: `protocol.transport.fork_channel`.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from podproc.confine.support import look
from protocol.cage import CageSupport
from protocol.manifest import Scheme
from protocol.memory_dumps import hide_memory, leave_no_core, show_memory
from protocol.transport.fork_channel import ChannelClosed, MessageReader, send_message
from protocol.unfailing import print_traceback, use_unfailing_stderr


def preload(schemes: Sequence[Scheme] = ()) -> None:
    """Import all that a pod needs: nothing new may be imported after the fork.

    `schemes` are those of the fleet's models, whose adapters are needed, too.
    """
    import asyncio.base_events  # noqa: F401
    import ctypes  # noqa: F401
    import random  # noqa: F401

    import podproc.__main__
    import podproc.models.choice
    import podproc.pod
    import podproc.prompt

    podproc.pod.build_validators()
    podproc.prompt.preload()
    podproc.models.choice.preload(schemes)


class Zygote:
    """Serves one supervisor over one channel."""

    def __init__(self, channel: socket.socket, cage: CageSupport) -> None:
        self._channel = channel
        self._cage = cage
        self._reader = MessageReader(channel)
        self._children: dict[int, int] = {}
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)

    def serve(self) -> None:
        """Fork on request until the channel closes."""
        send_message(self._channel, {"op": "ready", "pid": os.getpid()})
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._channel.fileno():
                    for message, fds in self._reader.read():
                        self._on_message(message, fds)
                else:
                    self._on_exit(fd)

    def _on_message(self, message: dict[str, Any], fds: list[int]) -> None:
        match message["op"]:
            case "fork":
                self._fork(message, fds)
            case "reap":
                self._reap(int(message["pid"]))

    def _fork(self, message: dict[str, Any], fds: list[int]) -> None:
        reply: dict[str, Any] = {"op": "fork_failed", "id": message["id"]}
        try:
            if len(fds) != message["fds"]:
                raise RuntimeError("its descriptors got lost: the zygote has too many open")
            log, life_lock = fds
            if (threads := len(os.listdir("/proc/self/task"))) != 1:
                raise RuntimeError(f"the zygote has {threads} threads")
            pid = os.fork()
            if pid == 0:
                self._become_pod(message["birth"], log, life_lock)
            pidfd = _open_or_end(pid)
        except (OSError, RuntimeError) as error:
            send_message(self._channel, reply | {"error": str(error)})
            return
        finally:
            for fd in fds:
                os.close(fd)
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        send_message(
            self._channel,
            {"op": "forked", "id": message["id"], "pid": pid, "fds": 1},
            [pidfd],
        )

    def _become_pod(self, birth: bytes, log: int, life_lock: int) -> None:
        """Never returns: the child lives and ends here."""
        code = 70
        try:
            show_memory()
            os.setsid()
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            for fd in (int(name) for name in os.listdir("/proc/self/fd")):
                if fd > 2 and fd != life_lock:
                    try:
                        os.close(fd)
                    except OSError:
                        continue  # the listing's own descriptor
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            from podproc.__main__ import live

            code = live(birth, life_lock, self._cage)
        except BaseException as error:
            print_traceback(error)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _on_exit(self, pidfd: int) -> None:
        """Report a death; the zombie stays until `reap`."""
        pid = self._children.get(pidfd)
        if pid is None:
            return  # it was reaped in this very turn
        try:
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            self._forget(pidfd)
            return  # somebody else reaped it: its status is lost
        if result is None:
            return
        self._forget(pidfd)
        by_code = result.si_code == os.CLD_EXITED
        send_message(
            self._channel,
            {"op": "exited", "pid": pid, "code" if by_code else "signal": result.si_status},
        )

    def _forget(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        del self._children[pidfd]
        os.close(pidfd)

    def _reap(self, pid: int) -> None:
        """Reap a dead child, which tells its status first if that was not told yet."""
        for pidfd in [fd for fd, child in self._children.items() if child == pid]:
            self._on_exit(pidfd)
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return  # reaped before: the request was repeated


def _open_or_end(pid: int) -> int:
    """Return a new child's pidfd; without one it may not live. Raises OSError."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def main() -> None:
    """Run as `python -m podproc.zygote FD [SCHEME…]`; ends when the channel closes."""
    use_unfailing_stderr()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    leave_no_core()
    cage = CageSupport.found(look())  # it forks, and nothing is cheaper to fork than this
    hide_memory()  # not before: a child without it cannot make its user namespace
    preload([Scheme(name) for name in sys.argv[2:]])
    gc.collect()
    gc.freeze()
    try:
        Zygote(channel, cage).serve()
    except ChannelClosed:
        return


if __name__ == "__main__":
    main()
