"""What one request shows of the history: results in call order, old bulk left out. Pure.

Nothing here changes the history. Large results of tools lose their body once they are old, never
their summary. How far back that goes depends on the history's full size alone and moves in coarse
steps: between two steps each request begins with exactly what the one before it showed, so that a
provider's prompt cache goes on working.

    oldest ──── pruned ────┤boundary├──── shown whole ──── newest
                           moves by `step`, stays `keep` or more behind the end

Should a request still not fit into the model's window (compaction has failed, or is off), bodies
are left out oldest first until it does, small ones too: whoever asks says how much is too much, and
before which place all of them are gone already. A call keeps its result in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from podproc.engine.estimate import BYTES_PER_TOKEN, size_of
from podproc.engine.history import in_call_order
from protocol.entries import Item, ToolResult

LARGE = 1024
"""Bytes of a body that is worth pruning."""

OMITTED = "[left out here: {size} bytes of an old result; run the tool again if you need them]"


@dataclass(frozen=True, slots=True)
class Projection:
    """How requests of a model with a context window of so many tokens are cut."""

    window: int

    @property
    def step(self) -> int:
        """Bytes by which the boundary moves."""
        return max(1, self.window * BYTES_PER_TOKEN // 8)

    @property
    def keep(self) -> int:
        """Bytes at the end that are always shown whole, as far as the window lets them."""
        return self.window * BYTES_PER_TOKEN // 4

    def __call__(
        self, history: Iterable[Item], *, bare: int = 0, over_by: int = 0
    ) -> tuple[Item, ...]:
        """Return the items to ask with.

        The first `bare` have no body at all; `over_by` tokens are too many for the window even so.
        """
        items = in_call_order(history)
        shown = _without_bodies(items, self.boundary(items), larger_than=LARGE)
        shown = (*map(_bare, shown[:bare]), *shown[bare:])
        return _fitting(shown, over_by * BYTES_PER_TOKEN) if over_by > 0 else shown

    def boundary(self, items: Sequence[Item]) -> int:
        """Return the number of items before which large bodies are left out."""
        sizes = [size_of(item) for item in items]
        end = sum(sizes) // self.step * self.step - self.keep
        passed = 0
        for index, size in enumerate(sizes):
            passed += size
            if passed > end:
                return index
        return len(items)


def _without_bodies(items: Sequence[Item], boundary: int, *, larger_than: int) -> tuple[Item, ...]:
    old = (_without_body(item, larger_than) for item in items[:boundary])
    return (*old, *items[boundary:])


def _without_body(item: Item, larger_than: int) -> Item:
    if not isinstance(item, ToolResult) or item.content is None:
        return item
    size = len(item.content.encode("utf-8", "replace"))
    note = OMITTED.format(size=size)
    return (
        item if size <= max(larger_than, len(note)) else item.model_copy(update={"content": note})
    )


def _bare(item: Item) -> Item:
    if isinstance(item, ToolResult) and item.content is not None:
        return item.model_copy(update={"content": None})
    return item


def _fitting(items: tuple[Item, ...], too_much: int) -> tuple[Item, ...]:
    """Leave out the oldest bodies until so many bytes are gone, or none is left."""
    out = list(items)
    for index, item in enumerate(items):
        if too_much <= 0:
            break
        out[index] = _bare(item)
        too_much -= size_of(item) - size_of(out[index])
    return tuple(out)
