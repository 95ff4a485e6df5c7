"""What a tool is, and the registry through which every call goes.

A tool is a pydantic model for its arguments, an async function and a description. Whatever goes
wrong in a call becomes a result that the model can read and react to; only a cancellation passes
through:

    what                                     result
    unknown name, bad JSON, bad arguments    invalid_argument
    refused by the policy or the scope       denied
    the tool tried and failed                execution_failed
    a defect in the tool                     execution_failed, and handed to `on_defect`

Checks run in order: arguments, policy, scope (inside the tool), tool. Arguments that cannot be
parsed are never replaced by defaults: a tool runs with what the model said or not at all.
"""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from podproc.engine.text import cut_text as cut_text

P = ParamSpec("P")
T = TypeVar("T")

FailureKind: TypeAlias = Literal["invalid_argument", "execution_failed", "denied"]
Policy: TypeAlias = Callable[[str, BaseModel], Awaitable[str | None]]
"""Asked before each call with the tool's name and arguments; a text is a refusal. May wait."""

CONTENT_LIMIT = 64 * 1024
SUMMARY_LIMIT = 2048
_FIRST_LINE = 400
_CANCEL_GRACE_S = 1.5


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave: one or two lines that are always kept, and bulk that may be pruned."""

    summary: str
    content: str | None = None
    is_error: bool = False


class ToolFailure(Exception):
    """Raised by a tool to end its call with an error the model can read."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class Call:
    """One call in progress. `emit(stream, text)` streams output; only from the loop's thread."""

    call_id: str
    emit: Callable[[str, str], None]


class ToolArgs(BaseModel):
    """The base of all arguments: an argument nobody knows is an error, not a wish."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Tool(Protocol):
    """A tool: three constants, and `run`, which gets an instance of `Args`.

    One that has `comes_first` set is run before the other calls of its batch.
    """

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def Args(self) -> type[BaseModel]: ...

    async def run(self, args: Any, call: Call) -> ToolResult:
        """Do the work or raise ToolFailure; a cancellation ends it and its processes in 2 s."""
        ...


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """What a model is told of a tool; `parameters` is a JSON Schema."""

    name: str
    description: str
    parameters: dict[str, Any]


class DuplicateTool(Exception):
    """Two owners registered tools of one name."""

    def __init__(self, name: str, owner: str, other: str) -> None:
        super().__init__(f"two tools are named {name!r}: one of {owner}, one of {other}")
        self.name = name
        self.owners = (owner, other)


class Registry:
    """All tools of a pod, by name."""

    def __init__(
        self,
        *,
        policy: Policy | None = None,
        on_defect: Callable[[Exception], None],
        content_limit: int = CONTENT_LIMIT,
    ) -> None:
        self._policy = policy
        self._on_defect = on_defect
        self._content_limit = content_limit
        self._tools: dict[str, tuple[Tool, str]] = {}

    def register(self, tool: Tool, owner: str) -> None:
        """Add a tool; raises DuplicateTool naming both owners."""
        if tool.name in self._tools:
            raise DuplicateTool(tool.name, self._tools[tool.name][1], owner)
        self._tools[tool.name] = (tool, owner)

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(self._tools)

    def schemas(self) -> list[ToolSchema]:
        """Return what a model request says of the tools, sorted by name."""
        tools = (self._tools[name][0] for name in self.names())
        return [ToolSchema(t.name, t.description, _schema(t.Args)) for t in tools]

    def schema_bytes(self) -> int:
        """Return about how much a request says of the tools, in bytes."""
        return sum(
            len(one.name) + len(one.description) + len(json.dumps(one.parameters))
            for one in self.schemas()
        )

    def comes_first(self, name: str) -> bool:
        """Say whether a call of this tool is run before the others of its batch."""
        tool = self._tools.get(name)
        return tool is not None and getattr(tool[0], "comes_first", False)

    async def call(self, name: str, arguments: str | Mapping[str, Any], call: Call) -> ToolResult:
        """Run a tool with JSON text or parsed arguments; raises nothing but CancelledError."""
        try:
            tool = self._find(name)
            args = _parse(tool.Args, arguments)
            refusal = await self._policy(name, args) if self._policy else None
            if refusal is not None:
                raise ToolFailure("denied", refusal)
            result = await tool.run(args, call)
        except ToolFailure as failure:
            result = _error(failure.kind, failure.message)
        except Exception as defect:
            self._on_defect(defect)
            result = _error("execution_failed", f"{type(defect).__name__}: {defect}")
        return self._presentable(result)

    def _find(self, name: str) -> Tool:
        if name not in self._tools:
            known = ", ".join(self.names()) or "none"
            raise ToolFailure("invalid_argument", f"no tool is named {name!r}; there are: {known}")
        return self._tools[name][0]

    def _presentable(self, result: ToolResult) -> ToolResult:
        content = result.content
        return ToolResult(
            cut_text(result.summary, SUMMARY_LIMIT),
            None if content is None else cut_text(content, self._content_limit),
            result.is_error,
        )


async def off_loop(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work in a thread.

    A cancelled caller waits up to 1.5 s for the work to end before the cancellation goes on, so
    that what was started before a run's end is not still writing after it.
    """
    return await off_loop_until(lambda stop: work(*args, **kwargs))


async def off_loop_until(work: Callable[[threading.Event], T]) -> T:
    """Run blocking work as `off_loop` does; the event is set when the caller is cancelled."""
    stop = threading.Event()
    future = asyncio.get_running_loop().run_in_executor(None, work, stop)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop.set()
        done, _ = await asyncio.wait({future}, timeout=_CANCEL_GRACE_S)
        for ended in done:
            ended.exception()  # nobody is left to hear of it
        raise


def _parse(model: type[BaseModel], arguments: str | Mapping[str, Any]) -> BaseModel:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise ToolFailure(
                "invalid_argument", f"the arguments are not valid JSON: {error}"
            ) from error
    if not isinstance(arguments, Mapping):
        kind = type(arguments).__name__
        raise ToolFailure("invalid_argument", f"the arguments must be a JSON object, not {kind}")
    try:
        return model.model_validate(dict(arguments))
    except ValidationError as error:
        raise ToolFailure("invalid_argument", _explain(error)) from error


def _explain(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, part['loc'])) or 'arguments'}: {part['msg']}"
        for part in error.errors(include_url=False, include_input=False)
    )


def _error(kind: FailureKind, message: str) -> ToolResult:
    first = message.strip().partition("\n")[0]
    short = first[:_FIRST_LINE]
    return ToolResult(f"{kind}: {short}", None if short == message.strip() else message, True)


@functools.cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    for part in (schema, *schema.get("properties", {}).values()):
        part.pop("title", None)  # repeats the name; every request would pay for it
    schema.pop("description", None)
    return schema
