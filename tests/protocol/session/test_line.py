"""The line codec, read by an outsider and against every kind of damage."""

from __future__ import annotations

import re
import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.entries import Extension, TurnEnd, UnknownEntry
from protocol.session.line import BadLine, decode_line, encode_line
from tests.podproc.session.disk import said

CRC = re.compile(rb',\s*"crc"\s*:\s*"?([0-9a-fA-F]+)"?\s*\}$')

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(payload=st.dictionaries(st.text(), json_values, max_size=4))
def test_an_outside_reader_finds_one_line_with_the_right_checksum(
    payload: dict[str, object],
) -> None:
    entry = Extension(ts=1, domain='","crc":"00000000"}', payload=payload)
    line = encode_line(entry)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    found = CRC.search(line.rstrip(b"\n"))
    assert found is not None
    assert int(found[1], 16) == zlib.crc32(line[: found.start()])
    assert decode_line(line) == entry.to_wire()


def test_a_line_begins_with_its_kind_and_has_no_spaces() -> None:
    line = encode_line(TurnEnd(ts=12, turn_count=3))
    assert re.fullmatch(
        rb'\{"kind":"turn_end","ts":12,"turn_count":3,"crc":"[0-9a-f]{8}"\}\n', line
    )


def test_fields_of_a_newer_writer_come_through() -> None:
    entry = UnknownEntry.from_wire({"kind": "dream", "ts": 5, "depth": 3})
    assert decode_line(encode_line(entry)) == {"kind": "dream", "ts": 5, "depth": 3}


def with_crc(body: bytes) -> bytes:
    return b'%b,"crc":"%08x"}' % (body, zlib.crc32(body))


GOOD = encode_line(said("grüß dich"))


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b"\n", "an empty line"),
        (GOOD[:20] + bytes(10) + GOOD[30:], "10 NUL bytes"),
        (GOOD.replace("ü".encode(), b"\xc3(("), "not valid UTF-8"),
        (GOOD[:30] + b"\n", "not valid JSON"),
        (GOOD.replace(b"dich", b"mich"), "its checksum is wrong"),
        (b'{"kind":"turn_end","ts":1,"turn_count":1}\n', "it has no checksum"),
        (with_crc(b'{"kind":'), "not valid JSON"),
        (with_crc(b'["turn_end"')[:-1] + b"]", "not valid JSON"),
    ],
)
def test_a_bad_line_is_refused_with_its_cause(line: bytes, cause: str) -> None:
    with pytest.raises(BadLine) as caught:
        decode_line(line)
    assert cause in caught.value.cause


@given(position=st.integers(0, len(GOOD) - 2), byte=st.integers(0, 255))
def test_no_changed_byte_goes_unnoticed(position: int, byte: int) -> None:
    if GOOD[position] == byte:
        return
    with pytest.raises(BadLine):
        decode_line(GOOD[:position] + bytes([byte]) + GOOD[position + 1 :])


@pytest.mark.parametrize("value", ["\ud800", 2**64])
def test_what_json_cannot_hold_is_refused_before_it_is_written(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode_line(Extension(ts=1, domain="d", payload={"value": value}))
    assert orjson.loads(GOOD)
