"""How many tokens a history is. Pure, and without a tokenizer.

Where a request was measured, its figures count: what it was asked with and what it answered, up to
the item behind its answer. Between two measured places tokens are spread over the items by their
size, behind the last one four bytes are a token, and so they are where nothing was measured. What a
history was pruned by since does not show before the next request is measured: the estimate is on
the safe side. Figures of nothing at all, as some servers give them, are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from protocol.entries import Item, LlmUsage, Message, Reasoning, ToolCall, ToolResult

BYTES_PER_TOKEN = 4
PER_ITEM = 16
"""Bytes that a provider's format adds to an item, roughly."""


def size_of(item: Item) -> int:
    """Return the bytes of an item as a model reads it."""
    match item:
        case Message(content=content):
            texts: tuple[str | None, ...] = (content,)
        case ToolCall(name=name, arguments=arguments):
            texts = (name, arguments)
        case ToolResult(summary=summary, content=content):
            texts = (summary, content)
        case Reasoning(text=text, summary=summary, encrypted_content=hidden, signature=signature):
            texts = (text, summary, hidden, signature)
        case _:
            texts = (str(item),)
    return PER_ITEM + sum(_bytes(text) for text in texts if text)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def size_of_all(items: Iterable[Item]) -> int:
    """Return the bytes of items as a model reads them."""
    return sum(map(size_of, items))


def measured(usage: LlmUsage) -> int:
    """Return the tokens of the history behind an answer: what it was asked with, and itself."""
    return (
        usage.input_tokens
        + usage.output_tokens
        + usage.cache_read_tokens
        + usage.cache_write_tokens
    )


def context_tokens(
    items: Sequence[Item], usage_history: Sequence[LlmUsage], *, prompt: str = ""
) -> int:
    """Return the tokens of the next request; `prompt` counts where nothing was measured."""
    last = next((one for one in reversed(usage_history) if measured(one)), None)
    if last is None:
        return (_bytes(prompt) + size_of_all(items)) // BYTES_PER_TOKEN
    return measured(last) + size_of_all(items[last.history_len :]) // BYTES_PER_TOKEN


def item_tokens(items: Sequence[Item], usage_history: Sequence[LlmUsage]) -> list[int]:
    """Return the tokens of each item: interpolated where measured, by size where not."""
    sizes = [size_of(item) for item in items]
    tokens = [size // BYTES_PER_TOKEN for size in sizes]
    figures = ((one.history_len, measured(one)) for one in usage_history)
    places = [(0, 0), *(place for place in figures if place[1])]
    for (start, before), (stop, after) in pairwise(places):
        total, grown = sum(sizes[start:stop]), after - before
        if grown <= 0 or total == 0:
            continue  # it was pruned in between: the sizes are the better guess
        for index in range(start, min(stop, len(items))):
            tokens[index] = grown * sizes[index] // total
    return tokens
