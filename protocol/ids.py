"""Identifiers: UUIDv7, so that names sort by the time they were given out."""

from __future__ import annotations


def uuid7(now_ms: int, random: bytes) -> str:
    """Return a UUIDv7 text from epoch milliseconds and ten random bytes or more (RFC 9562)."""
    if len(random) < 10:
        raise ValueError("uuid7 needs ten random bytes")
    value = bytearray(now_ms.to_bytes(6, "big") + random[:10])
    value[6] = (value[6] & 0x0F) | 0x70
    value[8] = (value[8] & 0x3F) | 0x80
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def time_of(uuid: str) -> int:
    """Return the epoch milliseconds at which a UUIDv7 was given out."""
    return int(uuid[:8] + uuid[9:13], 16)
