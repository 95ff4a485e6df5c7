"""Text from outside as it may stand on a terminal. Pure, and cheap to import.

What a model, a file's name, a tool or a provider says must not drive the terminal of who reads it.
A control character is shown as its picture (␛ for escape). What only reorders, hides or breaks text
is shown as its number. What cannot be encoded becomes `?`. All of it is done once or many times
alike.

Not changed: U+200C and U+200D, which Persian, the Indic scripts and emoji are written with.
"""

from __future__ import annotations

_UNSEEN = (
    0xAD,
    0x061C,
    0x180E,
    0x200B,
    *(0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    0xFEFF,
    *range(0xFFF9, 0xFFFC),
    *range(0xE0000, 0xE0080),
)
"""What turns the direction, breaks a line, or is not seen; the last are the tags."""

_SURROGATES = range(0xD800, 0xE000)

_SHOWN: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: "␡",
    **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)},
    **{code: f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}" for code in _UNSEEN},
}
_IN_A_LINE = {**_SHOWN, ord("\n"): "␊", ord("\t"): "␉"}


def printable(text: str) -> str:
    """Return the text without anything that drives a terminal; newlines and tabs stay."""
    return _encodable(text.replace("\r\n", "\n").translate(_SHOWN))


def on_one_line(text: str) -> str:
    """Return the text as a part of one line: newlines and tabs are shown, too."""
    return _encodable(text.translate(_IN_A_LINE))


def json_printable(document: str) -> str:
    """Return a JSON text that says the same in characters that every terminal may be given."""
    return document.translate(_IN_JSON)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _json_escape(code: int) -> str:
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


_IN_JSON = {code: _json_escape(code) for code in (0x7F, *range(0x80, 0xA0), *_UNSEEN, *_SURROGATES)}
