"""Lines of JSON that know when they are damaged: the last key of each is a checksum of the rest.

    {"kind":"desired","pod":"alice","desired":"up","crc":"9ae0daaf"}

The checksum is the CRC-32, as eight hex digits, of the line's bytes before `,"crc"`. It is there
against a torn or scribbled line that still reads as JSON; it is no protection against an author.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

import orjson

_SEALED = re.compile(rb'(.+),"crc":"([0-9a-f]{8})"\}', re.DOTALL)


def encode(record: Mapping[str, Any]) -> bytes:
    """Return one line, its newline last; the record has at least one key, and none is `crc`."""
    body = orjson.dumps(record)[:-1]
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def decode(line: bytes) -> dict[str, Any]:
    """Return the record of a line without its newline; raises ValueError saying what is wrong."""
    sealed = _SEALED.fullmatch(line)
    if sealed is None:
        raise ValueError("no checksum at the end")
    if zlib.crc32(sealed[1]) != int(sealed[2], 16):
        raise ValueError("the checksum does not match")
    record: dict[str, Any] = orjson.loads(sealed[1] + b"}")
    return record
