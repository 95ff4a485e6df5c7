"""The system prompt: a template, rendered once per segment with what a pod is and may do.

The built-in template is `prompts/system.md.j2`; an operator's `system.md.j2` in the config folder
takes its place. The supervisor reads it when the fleet is started, and gives it to each pod at its
birth. Templates are jinja's, in its sandbox, without a loader: one file, no includes. They get the
fields of `PromptContext` and nothing that differs from one rendering to the next: no clock, no
chance, no environment. The same pod gets the same prompt, which is what a provider's cache lives
on. What is inserted, an instruction say, is text and never rendered itself.

A template that does not work refuses the run with its file and line. `range`, powers, products of
texts and the size of the result are bounded, against mistakes. Not guaranteed: that a template
written to use up time or memory does not; it is the operator's own file.

Jinja is imported here only, and at the first rendering unless `preload` did it before.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sized
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podproc.agents_md import AgentsText
from podproc.escaping import plain
from protocol.birth import PromptTemplate
from protocol.errors import InvalidRequest
from protocol.summaries import ScopeSummary

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment

TEMPLATE = "system.md.j2"
BUILT_IN = Path(__file__).with_name("prompts") / TEMPLATE
MOST = 256 * 1024
"""Bytes of what a template becomes."""

_MOST_STEPS = 100_000
_HIGHEST_POWER = 64
_HIGHEST_BASE = 1 << 64
_NOTHING = ScopeSummary.model_construct()
_CHANGING = ("random",)
_GLOBALS = ("dict", "namespace", "cycler", "joiner")


@dataclass(frozen=True, slots=True)
class PromptContext:
    """What a template may name. Paths are absolute, `tools` sorted, `memory` "" without any."""

    pod: str
    cwd: str
    workspace: str
    role: str = ""
    description: str = ""
    instruction: str = ""
    language: str = ""
    scope: ScopeSummary = _NOTHING
    delegation: ScopeSummary = _NOTHING
    tools: tuple[str, ...] = ()
    agents_md: tuple[AgentsText, ...] = ()
    memory: str = ""


def render(context: PromptContext, template: PromptTemplate | None = None) -> str:
    """Return the system prompt; raises InvalidRequest naming file, line, cause and next step.

    `template` is the operator's, in place of the built-in one.
    """
    if template is None:
        return _rendered(_built_in(), context, str(BUILT_IN))
    return _rendered(_compiled(template.text, template.file), context, template.file)


def preload() -> None:
    """Import jinja and compile the built-in template, so that no pod has to: for the zygote."""
    import jinja2.debug  # noqa: F401  # which jinja imports with the first error

    _built_in()


@functools.cache
def _built_in() -> Template:
    return _compiled(BUILT_IN.read_text("utf-8"), str(BUILT_IN))


def _compiled(source: str, path: str) -> Template:
    from jinja2 import TemplateSyntaxError

    environment = _environment()
    try:
        code = environment.compile(source, path, path)
    except TemplateSyntaxError as error:
        raise _broken(path, error.lineno, error.message or "syntax error") from error
    except (RecursionError, MemoryError, OverflowError, SyntaxError, ValueError) as error:
        raise _broken(path, None, _cause(error)) from error  # Python's own limits on what it made
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


@functools.cache
def _environment() -> SandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" and (abs(right) > _HIGHEST_POWER or abs(left) > _HIGHEST_BASE):
                raise SecurityError(f"a power above {_HIGHEST_POWER}, or of too high a number")
            if operator == "*" and _copies(left, right) > MOST:
                raise SecurityError(f"a product of more than {MOST} parts")
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            if isinstance(obj, ScopeSummary):  # a model has methods that are none of a template's
                return attr in ScopeSummary.model_fields
            return super().is_safe_attribute(obj, attr, value)

    environment = Environment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    for name in _CHANGING:
        del environment.filters[name]
    for name in environment.globals.keys() - set(_GLOBALS):
        del environment.globals[name]
    return environment


def _copies(left: Any, right: Any) -> int:
    """Return how many parts a product of a text or a list and a number has; 0 for numbers."""
    for side, times in ((left, right), (right, left)):
        if isinstance(side, Sized) and isinstance(times, int):
            return len(side) * times
    return 0


def _rendered(template: Template, context: PromptContext, path: str) -> str:
    values = {field.name: getattr(context, field.name) for field in fields(context)}
    size = 0
    pieces: list[str] = []
    try:
        for piece in template.generate(values, range=_bounded_range()):
            size += len(piece.encode("utf-8", "replace"))
            if size > MOST:
                raise _broken(path, None, f"the prompt has more than {MOST} bytes")
            pieces.append(piece)
    except InvalidRequest:
        raise
    except Exception as error:  # whatever a template does wrong surfaces as what Python says to it
        raise _broken(path, _line_of(error, path), _cause(error)) from error
    return "".join(pieces).encode("utf-8", "replace").decode()


def _bounded_range() -> Any:
    """Return a `range` of which one rendering gets 100,000 steps, nested loops and all."""
    left = _MOST_STEPS

    def bounded(*bounds: int) -> Iterator[int]:
        nonlocal left
        for number in range(*bounds):
            left -= 1
            if left < 0:
                raise OverflowError(f"range: more than {_MOST_STEPS} steps in one template")
            yield number

    return bounded


def _line_of(error: BaseException, path: str) -> int | None:
    """Return the line of the template that an error came from: jinja puts it into the traceback."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _cause(error: BaseException) -> str:
    return plain(str(error)) or type(error).__name__


def _broken(path: str, line: int | None, cause: str) -> InvalidRequest:
    where = path if line is None else f"{path}, line {line}"
    names = ", ".join(field.name for field in fields(PromptContext))
    return InvalidRequest(
        f"the template of the system prompt does not work: {where}: {cause}",
        next_step=f"mend it, or remove it for the built-in one; it may name: {names}",
        file=path,
        line=line,
    )
