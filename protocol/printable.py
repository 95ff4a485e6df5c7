"""Text from outside as it may stand on a terminal. Pure, and cheap to import.

What a model, a file's name, a tool or a provider says must not drive the terminal of who reads it.
A control character is shown as its picture (␛ for escape). What only reorders, hides or breaks text
is shown as its number. What cannot be encoded becomes `?`. All of it is done once or many times
alike.

Not changed: U+200C and U+200D, which Persian, the Indic scripts and emoji are written with, and
U+FE0F, which makes a sign an emoji.
"""

from __future__ import annotations

_UNSEEN = (
    *(0xAD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5),
    *range(0x180B, 0x1810),
    0x200B,
    *(0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *(0x2800, 0x3164),
    *range(0xFE00, 0xFE0F),
    *(0xFEFF, 0xFFA0),
    *range(0xFFF0, 0xFFFC),
    *range(0x1BCA0, 0x1BCA4),
    *range(0x1D173, 0x1D17B),
    *range(0xE0000, 0xE01F0),
)
"""What turns the direction, breaks a line, or is not seen: fillers, variation selectors, tags.

Unicode calls nearly all of it Default_Ignorable_Code_Point; U+2800 is a letter of blank braille.
"""

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
