"""Run a command on a machine that lacks something: `python -m tests.support.without CALL… -- …`.

The named system calls do not exist for the command and all it starts, which is what an older
kernel, or a container's own filter, would make of them.
"""

from __future__ import annotations

import errno
import os
import sys

from podproc.confine import seccomp
from podproc.confine.kernel import no_new_privileges

UNSHARE = "unshare"
LANDLOCK = "landlock_create_ruleset"
_MORE = {LANDLOCK: 444}


def main(argv: list[str]) -> None:
    """Take the calls away and become the command."""
    end = argv.index("--")
    rules = [seccomp.Rule(call, errno.EPERM) for call in argv[:end]]
    machine = seccomp.this_machine()
    program = seccomp.assemble(rules, machine, seccomp.numbers(machine) | _MORE)
    no_new_privileges()
    seccomp.install(program)
    os.execvp(argv[end + 1], argv[end + 1 :])


if __name__ == "__main__":
    main(sys.argv[1:])
