"""Names and messages on one line, whatever they hold: a file's name may forge lines. Pure."""

from __future__ import annotations

import re

_MESSAGE = 600
_LONGEST_VALUE = 4096
_LONGEST_NAME = 64 * 1024
_UNPRINTABLE = re.compile(
    "[\0-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def name_of(path: str) -> str:
    """Return a path as it is, or in double quotes with escapes where it could be misread."""
    is_plain = _UNPRINTABLE.search(path) is None and not path.startswith('"')
    return path if is_plain else f'"{_escaped(path, _LONGEST_NAME, quote=True)}"'


def quoted(value: str) -> str:
    """Return a value in double quotes, on one line, however it was made."""
    return f'"{_escaped(value, _LONGEST_VALUE, quote=True)}"'


def plain(message: str, most: int = _MESSAGE) -> str:
    """Return a message on one line of bounded length: a file's name may hold anything."""
    return _escaped(message, most, quote=False)


def _escaped(text: str, most: int, *, quote: bool) -> str:
    if quote:
        text = text.replace("\\", r"\\").replace('"', r"\"")
    clean = _UNPRINTABLE.sub(_as_escape, text)
    half = most // 2  # of a long message the end matters, too: there is the reason
    return clean if len(clean) <= most else f"{clean[:half]}…{clean[-half:]}"


def _as_escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a name that is not UTF-8
        code -= 0xDC00
    return {9: r"\t", 10: r"\n", 13: r"\r"}.get(code) or (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )
