"""The profile `session` of scripts/chaos: processes that are killed while they write a session.

One life after the other does random operations on a session's log and inbox (append, sync, cut, go
on in a new segment, reopen; store, settle), meets errors of the disk perhaps, and dies by SIGKILL:
at one of the points of tests/podproc/session/fail_points.py, or from outside at any moment. After
each death the session is opened, twice, and a pod started on a copy of it, twice:

* **Nothing is lost.** All that was answered is there, byte for byte, but for an end that was not.
* **Nothing is invented**, and no call has two results.
* **Opening settles it**: it always works, and a second time finds the same and changes nothing.

A defect that is found ends the run; its line names the seed that shows it again, but for a kill
from outside, which comes when it comes. Nothing is left of it, and no process.
"""

from __future__ import annotations

import argparse

from tests.podproc.session.kills import Tally, kill_for


def session(asked: argparse.Namespace) -> int:
    """Run the stress of the session log; returns the exit code."""
    tally = Tally()
    kill_for(asked.seconds, asked.seed, tally)
    for problem in tally.problems:
        print(problem)
    print(f"session: seed {asked.seed}, {asked.seconds:g} s: {tally.summary()}", flush=True)
    return bool(tally.problems)
