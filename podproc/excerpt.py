"""What a model is shown of a file: its first bytes as text, in a block that it cannot close. Pure.

Files are data, not instructions to us: one may be cut anywhere, hold any bytes, and have been
written to look like the end of its own block and the beginning of another one. So the name of a
block's tag gets the first number with which it does not occur in what the block holds, in capitals
or not. That depends on the content alone: the same file is shown the same way each time, which
keeps a provider's prompt cache.

Not guaranteed: that a model is not taken in by text that only resembles a tag.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import count

from podproc.escaping import quoted
from podproc.tools.fsview import BIGGEST_FILE, FileHead

SPARE = 4
"""Read this many bytes more than are shown: the longest character that a limit can cut."""

_NOT_UTF8 = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Text of at most the bytes asked for, and how many bytes of the file it stands for."""

    text: str
    taken: int


def excerpt(data: bytes, limit: int) -> Excerpt:
    """Return as much of the data as fits, in whole characters; the limit is in bytes of UTF-8.

    A byte that is not UTF-8 becomes one replacement character, which takes three bytes.
    """
    exact = data.decode("utf-8", "surrogateescape")
    clean = _NOT_UTF8.sub("\ufffd", exact)  # of the same length, so that a cut can be mapped back
    kept = clean.encode()[: max(limit, 0)].decode("utf-8", "ignore")
    return Excerpt(kept, len(exact[: len(kept)].encode("utf-8", "surrogateescape")))


def is_binary(data: bytes) -> bool:
    """Say whether the data is no text: it holds a zero byte."""
    return b"\0" in data


def rest_of(head: FileHead, shown: Excerpt, path: str) -> str | None:
    """Return what was dropped of a file and how to read it; None where nothing was."""
    if shown.taken == max(head.size, len(head.data)):
        return None
    # What grew while it was read, and what the kernel makes up, has no size that could be told.
    told = head.size >= len(head.data)
    dropped = f"{head.size - shown.taken} of {head.size} bytes" if told else "the rest"
    how = f"Read with file_path {quoted(path)} and offset {shown.text.count(chr(10)) + 1}"
    if head.size > BIGGEST_FILE:
        how = "it is too big for Read, use Grep"
    return f"[dropped: {dropped}; to go on: {how}]"


def block(tag: str, body: str, /, **attributes: str) -> str:
    """Return the body between two tags that it cannot close; attributes are escaped."""
    said = "".join(f" {name}={quoted(value)}" for name, value in attributes.items())
    inside = f"{said}\n{body}".casefold()
    name = next(name for n in count(1) if (name := f"{tag}-{n}") not in inside)
    end = "" if body.endswith("\n") or not body else "\n"
    return f"<{name}{said}>\n{body}{end}</{name}>"
