"""One record, one line: compact JSON, the checksum last, then the newline that commits it.

    {"kind":"turn_end","ts":1767225600000,"turn_count":3,"crc":"9ae0daaf"}\\n

`crc` is the CRC-32 of the line's bytes before `,"crc"`. It stands at a fixed distance from the end,
so that it is checked on the bytes as they are: a rewrite that copies lines needs no decoding, and
fields of a newer writer keep their place and their value.
"""

from __future__ import annotations

import zlib
from typing import Any

import orjson

from protocol.base import Wire

_MARK = b',"crc":"'
_TAIL = len(_MARK) + len('9ae0daaf"}')


class BadLine(Exception):
    """Bytes that are not a record; `cause` says why."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def encode_line(entry: Wire) -> bytes:
    """Return the line of an entry, newline included.

    Raises TypeError or ValueError for what JSON cannot hold: a lone surrogate, an integer over 64
    bits.
    """
    data = entry.to_wire()
    body = orjson.dumps({"kind": data.pop("kind"), **data})[:-1]
    return b'%b%b%08x"}\n' % (body, _MARK, zlib.crc32(body))


def decode_line(line: bytes) -> dict[str, Any]:
    """Return the fields of a line, with or without newline, less the checksum; raises BadLine."""
    line = line.removesuffix(b"\n")
    if b"%b%08x" % (_MARK, zlib.crc32(line[:-_TAIL])) != line[-_TAIL:-2]:
        raise BadLine(_cause(line))
    try:
        # JSON that ends like this can only be an object with the checksum as its last field.
        fields: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadLine(f"not valid JSON: {error}") from None
    del fields["crc"]
    return fields


def _cause(line: bytes) -> str:
    """Say what is wrong with a line whose checksum is not right, the most telling first."""
    if not line:
        return "an empty line"
    if nuls := line.count(0):
        return f"{nuls} NUL bytes"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"not valid UTF-8: {error.reason} at byte {error.start} of the line"
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return f"not valid JSON: {error}"
    return "its checksum is wrong" if line[-_TAIL:].startswith(_MARK) else "it has no checksum"
