"""Cutting text without breaking a character. Pure."""

from __future__ import annotations


def cut_text(text: str, limit: int) -> str:
    """Return the text within `limit` UTF-8 bytes, cut between characters, saying what was dropped.

    Half a surrogate pair, as in a file name that is not UTF-8, becomes a question mark.
    """
    data = text.encode("utf-8", "replace")
    kept = data[:limit].decode("utf-8", "ignore")
    dropped = len(data) - len(kept.encode())
    return f"{kept}\n[{dropped} bytes dropped]" if dropped else kept
