"""Two tools that show what a summary of a history leaves out: for the engine that writes one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from podproc.engine.compaction import text_of
from podproc.tools.base import Call, ToolArgs, ToolFailure, ToolResult
from protocol.entries import Item

MOST_ITEMS = 50
MOST_HITS = 50
MOST_BYTES = 8192
LINE = 200


class ReadHistoryArgs(ToolArgs):
    """Arguments of ReadHistory."""

    first: int = Field(ge=0, description="number of the first item")
    count: int = Field(10, ge=1, le=MOST_ITEMS, description="how many items")


class ReadHistory:
    """Shows items of the history whole."""

    name: ClassVar[str] = "ReadHistory"
    description: ClassVar[str] = "Show items of the history, by their numbers."
    Args: ClassVar[type[ToolArgs]] = ReadHistoryArgs

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    async def run(self, args: ReadHistoryArgs, call: Call) -> ToolResult:
        """Return the items; raises ToolFailure behind the last one."""
        if args.first >= len(self._items):
            raise ToolFailure("invalid_argument", f"the last item is {len(self._items) - 1}")
        shown = self._items[args.first : args.first + args.count]
        text = "\n".join(
            text_of(i, item, most=MOST_BYTES) for i, item in enumerate(shown, args.first)
        )
        return ToolResult(f"{len(shown)} items from {args.first}", text)


class SearchHistoryArgs(ToolArgs):
    """Arguments of SearchHistory."""

    text: str = Field(min_length=1, description="what to look for, upper and lower case alike")


class SearchHistory:
    """Finds the items in which a text stands."""

    name: ClassVar[str] = "SearchHistory"
    description: ClassVar[str] = "Find the items of the history in which a text stands."
    Args: ClassVar[type[ToolArgs]] = SearchHistoryArgs

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    async def run(self, args: SearchHistoryArgs, call: Call) -> ToolResult:
        """Return a line for each item that has it, the latest ones."""
        wanted = re.compile(re.escape(args.text), re.IGNORECASE)
        hits: list[str] = []
        for index, item in enumerate(self._items):
            text = text_of(index, item, most=1 << 20)
            if (found := wanted.search(text)) is not None:
                start = max(0, found.start() - LINE // 2)
                line = " ".join(text[start : start + LINE].split())
                hits.append(line if start == 0 else f"[{index}] …{line}")
        if not hits:
            return ToolResult("nothing found")
        return ToolResult(f"{len(hits)} items", "\n".join(hits[-MOST_HITS:]))
