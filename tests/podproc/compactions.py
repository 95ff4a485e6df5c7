"""A model that is pod and summariser in one, with figures that fit, and a supervisor that waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from podproc.engine.compaction import HEADINGS
from podproc.engine.estimate import BYTES_PER_TOKEN, size_of_all
from podproc.models import base
from protocol.entries import Message, ToolResult, Usage
from protocol.manifest import Compaction
from tests.podproc.engines import Move, PlayedModel, call, end, text
from tests.podproc.pods import Home, Life, Sent

WINDOW = 8000
"""Tokens: compacted over 6000 before a run, and over 7200 between turns."""

RULES = Compaction()
BY_HAND = Compaction(auto=False)
DONE: list[Move] = [*text("done"), *end()]
SUMMARY: list[Move] = [*text("## Done\nNearly all of it."), *end()]


def bulk(name: str, tokens: int) -> str:
    """Return a text of so many tokens that begins with its name."""
    return f"{name} " + "x" * (tokens * BYTES_PER_TOKEN - len(name) - 1)


def lines(letter: str, tokens: int) -> str:
    """Return a file's text of about so many tokens, as it is read."""
    return (letter * 73 + "\n") * (tokens * BYTES_PER_TOKEN // 80)


def is_for_summary(request: base.ModelRequest) -> bool:
    """Whether a request asks for a summary."""
    return HEADINGS[0] in request.system_prompt and "SearchHistory" in str(request.tools)


class Minds:
    """Plays for the pod and, by another list, for its summariser; figures are the real sizes."""

    provider = "played"
    model_id = "played"

    def __init__(
        self,
        *plays: list[Move],
        summaries: tuple[list[Move], ...] = (),
        window: int = WINDOW,
        bytes_per_token: float = BYTES_PER_TOKEN,
        beside: int = 0,
    ) -> None:
        self.context_window = window
        self.pod = PlayedModel(*plays)
        self.summariser = PlayedModel(*summaries)
        self._per_token = bytes_per_token
        self._beside = beside

    async def stream(self, request: base.ModelRequest) -> AsyncIterator[base.ModelEvent]:
        """Play the next list of whom it is for."""
        by = self.summariser if is_for_summary(request) else self.pod
        tokens = self.tokens(request)
        played = by.stream(request)
        try:
            async for event in played:
                if isinstance(event, base.Figures) and by is self.pod:
                    yield base.Figures(Usage(input_tokens=tokens, output_tokens=2), event.answer)
                else:
                    yield event
        finally:
            await played.aclose()  # type: ignore[attr-defined]

    async def close(self) -> None:
        """Nothing is open."""

    def tokens(self, request: base.ModelRequest) -> int:
        """Return how large a request is, as the provider counts."""
        size = len(request.system_prompt.encode()) + size_of_all(request.items)
        return int(size / self._per_token) + self._beside

    def shown(self, number: int = -1) -> list[str]:
        """Return what the pod's model was asked with: texts, and results with their bodies."""
        out: list[str] = []
        for item in self.pod.requests[number].items:
            match item:
                case Message(content=content):
                    out.append(content)
                case ToolResult(summary=summary, content=content):
                    out.append(f"{summary}: {content}")
                case _:
                    out.append(item.kind)
        return out


def reads(path: Path | str, call_id: str = "c1") -> list[Move]:
    """Return an answer that reads a file."""
    return [*call(call_id, "Read", f'{{"file_path":"{path}"}}'), *end("tool_use")]


def told(life: Life) -> list[str]:
    """Return in words what was told of compactions, segments, runs and status."""
    return life.words(
        "compact_start", "compact_done", "compact_failed", "segment_rotated", "run_end", "status"
    )


def errors(life: Life) -> list[str]:
    """Return why compactions have failed."""
    return [one.body["error"] for one in life.told("compact_failed")]


def alerts(life: Life) -> list[str]:
    """Return what people were told."""
    return [one.body["message"] for one in life.told("alert")]


def hold_claims(life: Life) -> list[Callable[[], None]]:
    """Let the supervisor keep claims to itself; each can be answered by calling it."""
    really = life._on_claim
    held: list[Callable[[], None]] = []

    def hold(route: bytes, request_id: str, segment_id: str) -> None:
        held.append(partial(really, route, request_id, segment_id))

    life._on_claim = hold  # type: ignore[method-assign]
    return held


def texts(home: Home, log: Path | None = None) -> list[str]:
    """Return the history that a segment begins with, as texts."""
    return [item.get("content") or item["kind"] for item in home.entries(log)[0].get("history", [])]


def inputs(home: Home, log: Path | None = None) -> list[str]:
    """Return the first words of the inputs that stand in a segment."""
    return [
        entry["segments"][0]["content"].split()[0]
        for entry in home.entries(log)
        if entry["kind"] == "user_input"
    ]


def once(life: Life, what: str, do: Callable[[], object]) -> None:
    """Do something the first time that something is told."""

    def look(sent: Sent) -> None:
        if sent.what == what:
            life.net.on_sent = lambda _: None
            do()

    life.net.on_sent = look
