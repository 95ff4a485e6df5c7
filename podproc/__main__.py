"""A pod's life from fork to exit: called in the forked child, never run as a program by hand."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import random
import signal
import sys

from pydantic import ValidationError
from setproctitle import setproctitle

from podproc.canonical import opened
from podproc.confine.kernel import no_new_privileges
from podproc.pod import CONFIG_ERROR, Pod
from podproc.tools.base import DuplicateTool
from protocol.birth import Birth
from protocol.cage import CageLevel, CageSupport, chosen_level
from protocol.errors import (
    Internal,
    InvalidRequest,
    InvalidScope,
    NotAllowed,
    PodsupError,
    Unreachable,
)
from protocol.printable import on_one_line
from protocol.session.problems import LogDamaged
from protocol.transport.zeromq import ZmqTransport
from protocol.unfailing import use_unfailing_stderr
from protocol.wire import BadFrame, unpack

PR_SET_CHILD_SUBREAPER = 36
REFUSED = 77
"""Exit code of a pod whose hello was refused: it is not, or no longer, who it says."""


def live(birth_bytes: bytes, life_lock: int, cage: CageSupport) -> int:
    """Live one incarnation; returns the exit code.

    The life lock stays open until the process ends; `cage` is what the zygote has found out.
    """
    random.seed()
    use_unfailing_stderr()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    become_subreaper()
    try:
        birth = Birth.from_wire(unpack(birth_bytes))
    except (ValidationError, BadFrame) as error:
        return _fail("the birth record is not valid", error, CONFIG_ERROR)
    setproctitle(f"podsup pod {birth.manifest.name}")
    if chosen_level(birth.manifest.sandbox, cage) is not CageLevel.NONE:
        no_new_privileges()  # whoever turns the cage off may want sudo
    try:
        with opened(birth.manifest.cwd, "the working directory") as folder:
            os.fchdir(folder)
    except (OSError, InvalidScope) as error:
        return _fail("its working directory cannot be entered", error, CONFIG_ERROR)
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_live(birth, loop, life_lock, cage))
    except (
        InvalidRequest,
        InvalidScope,
        DuplicateTool,
        LogDamaged,
    ) as error:  # the next start would say the same
        return _fail("this pod cannot start", error, CONFIG_ERROR)
    except NotAllowed as error:
        return _fail("the supervisor refused this pod", error, REFUSED)
    except (Internal, Unreachable, OSError) as error:
        return _fail("this pod cannot go on", error, 1)


async def _live(
    birth: Birth, loop: asyncio.AbstractEventLoop, life_lock: int, cage: CageSupport
) -> int:
    transport = ZmqTransport(loop)
    try:
        pod = Pod(birth, transport, life_lock=life_lock, cage=cage)
        gc.freeze()  # a long history is in use to the end: walking it again and again would stall
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, pod.leave)
        return await pod.live()
    finally:
        transport.close()


def become_subreaper() -> None:
    """What the pod's commands leave behind comes back to the pod, not to init."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _fail(what: str, error: Exception, code: int) -> int:
    hint = f"; {error.next_step}" if isinstance(error, PodsupError) and error.next_step else ""
    print(on_one_line(f"podsup: {what}: {error}{hint}"), file=sys.stderr)
    return code
