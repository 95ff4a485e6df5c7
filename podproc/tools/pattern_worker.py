"""Holds a regular expression against texts, in a process that may be killed. A program of its own.

`re` cannot be interrupted, and holds the interpreter while it looks: a pattern that backtracks
without end must not do that in a pod. Started by `podproc.tools.patterns`, which says what the two
tell each other; uses the standard library alone.
"""

from __future__ import annotations

import json
import re
import resource
import struct
import sys
from collections.abc import Iterator
from itertools import islice

CPU_S = 120
MOST_HITS = 100_000
"""Lines of one text that are told."""

MEMORY = 4 * 1024**3


def hits_of(regex: re.Pattern[str], text: str, *, multiline: bool) -> list[int]:
    """Return the numbers, from 0, of the lines that match: the first MOST_HITS."""
    if not multiline:
        found = (number for number, line in enumerate(lines_of(text)) if regex.search(line))
        return list(islice(found, MOST_HITS))
    hits: set[int] = set()
    at = line = 0
    for match in regex.finditer(text):
        line += text.count("\n", at, match.start())
        at = match.start()
        last = line + match.group().removesuffix("\n").count("\n")
        hits.update(islice(range(line, last + 1), MOST_HITS))
        if len(hits) >= MOST_HITS:
            break
    return sorted(hits)[:MOST_HITS]


def lines_of(text: str) -> Iterator[str]:
    """Yield the lines of a text, one after the other: there may be as many as it has characters."""
    at = 0
    while (end := text.find("\n", at)) >= 0:
        yield text[at:end]
        at = end + 1
    yield text[at:]


def _next() -> str | None:
    head = sys.stdin.buffer.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack(">Q", head)
    return sys.stdin.buffer.read(size).decode("utf-8", "surrogatepass")


def _say(value: object) -> None:
    sys.stdout.buffer.write(json.dumps(value).encode() + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Take a pattern, then texts, until there are no more."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    order = json.loads(_next() or "{}")
    try:
        regex = re.compile(order["pattern"], order["flags"])
    except (re.error, RecursionError, OverflowError) as error:
        _say(f"{error}" or type(error).__name__)
        return
    _say(None)
    while (text := _next()) is not None:
        _say(hits_of(regex, text, multiline=order["multiline"]))


if __name__ == "__main__":
    main()
