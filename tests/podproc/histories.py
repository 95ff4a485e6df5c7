"""Histories as a session makes them: inputs, answers with calls, their results in any order."""

from __future__ import annotations

from hypothesis import strategies as st

from protocol.entries import Item, LlmUsage, Message, Reasoning, ToolCall, ToolResult


def said(content: str) -> Message:
    """Return what the model has said."""
    return Message(role="assistant", content=content)


def asked(content: str) -> Message:
    """Return what a user has said."""
    return Message(role="user", content=content)


def tool_call(call_id: str, arguments: str = "{}") -> ToolCall:
    """Return a call."""
    return ToolCall(call_id=call_id, name="Read", arguments=arguments)


def tool_result(call_id: str, size: int = 0) -> ToolResult:
    """Return its result, with a body of so many bytes."""
    return ToolResult(call_id=call_id, summary=f"did {call_id}", content="x" * size or None)


def measured_at(history_len: int, tokens: int) -> LlmUsage:
    """Return the figures of a request: so many tokens up to there."""
    return LlmUsage(ts=1, history_len=history_len, input_tokens=tokens)


@st.composite
def rounds(draw: st.DrawFn, *, most: int = 8, largest: int = 6000) -> list[list[Item]]:
    """Return what is appended between two requests, again and again; all calls have results."""
    out: list[list[Item]] = []
    for number in range(draw(st.integers(1, most))):
        new: list[Item] = []
        if draw(st.booleans()) or number == 0:
            role = draw(st.sampled_from(["user", "system"]))
            size = draw(st.integers(0, largest))
            new.append(Message(role=role, content="u" * size))  # type: ignore[arg-type]
        if draw(st.booleans()):
            new.append(Reasoning(text="hm"))
        if draw(st.booleans()):
            new.append(said("a" * draw(st.integers(0, 200))))
        ids = [f"c{number}.{index}" for index in range(draw(st.integers(0, 3)))]
        new += [tool_call(one) for one in ids]
        new += [
            tool_result(one, draw(st.integers(0, largest))) for one in draw(st.permutations(ids))
        ]
        out.append(new)
    return out


def flat(parts: list[list[Item]]) -> list[Item]:
    """Return all items of rounds."""
    return [item for part in parts for item in part]
