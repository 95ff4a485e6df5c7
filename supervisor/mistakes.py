"""What is wrong with a configuration file, said so that a person can mend it without a manual.

`Checker` collects every mistake of every file that makes up one fleet; nothing raises at the first.
To go on after a bad table it validates, removes exactly the values that were refused, and validates
what is left: so one wrong key does not hide what the rest of the file says, and a check that needs
two tables (do their scopes overlap?) still sees both.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from protocol.manifest import Section
from supervisor.toml_source import Loc, Source

_ROUNDS = 5  # a refused value can hide another one behind it, not many
_BAD_NAME = "is not a name: use a-z, 0-9, '.', '_' and '-', at most 63, beginning with a-z or 0-9"
_WORDS = {  # TOML's for Python's
    "valid integer": "whole number",
    "valid ": "",
    "tuple": "array",
    "dictionary": "table",
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong with a file; `key` is empty where the file as a whole is meant."""

    file: Path
    line: int | None
    key: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        hint = f" (did you mean '{self.suggestion}'?)" if self.suggestion else ""
        return ": ".join(part for part in (place, self.key, self.message) if part) + hint


class FleetFileInvalid(Exception):
    """A fleet file cannot be used; `mistakes` has every reason, in the order of the file."""

    def __init__(self, mistakes: Iterable[Mistake], *, next_step: str | None = None) -> None:
        self.mistakes = tuple(mistakes)
        self.next_step = next_step
        super().__init__("\n".join(map(str, self.mistakes)))


class Checker:
    """Collects the mistakes of one load, each once."""

    def __init__(self) -> None:
        self._found: dict[Mistake, None] = {}

    def add(self, source: Source, at: Loc, message: str, *, suggestion: str | None = None) -> None:
        """Record a mistake at a place in a file that was read."""
        self.add_mistake(
            Mistake(source.path, source.line_of(at), _key(at), message, suggestion=suggestion)
        )

    def add_mistake(self, mistake: Mistake) -> None:
        """Record a mistake, unless it is there already."""
        self._found.setdefault(mistake)

    @contextmanager
    def aside(self) -> Iterator[list[Mistake]]:
        """Have what is found meanwhile be no mistake of this load; gives it to the caller."""
        known, found = self._found, list[Mistake]()
        self._found = {}
        try:
            yield found
        finally:
            found += self.mistakes
            self._found = known

    @property
    def mistakes(self) -> list[Mistake]:
        """What was found so far, file by file, each in the order of its lines."""
        files = list(dict.fromkeys(mistake.file for mistake in self._found))
        return sorted(self._found, key=lambda found: (files.index(found.file), found.line or 0))

    def validated(self, model: type[Section], source: Source, at: Loc = ()) -> dict[str, Any]:
        """Return what is valid of the table at a place, as plain data; record what is not.

        A required value that is missing stays missing.
        """
        data: Any = source.data
        for step in at:
            data = data[step]
        data = copy.deepcopy(data)
        for attempt in range(_ROUNDS):
            try:
                model.model_validate(data)
            except ValidationError as error:
                details = error.errors(include_url=False)
                if attempt == 0:  # the later ones only follow from what was taken out
                    self._explain(details, model, source, at)
                # what lacks a required value goes as a whole, unless it is the table asked for
                refused = {d["loc"][:-1] if d["type"] == "missing" else d["loc"] for d in details}
                for loc in sorted(refused, reverse=True):
                    _remove(data, loc)
            else:
                break
        return dict(data)

    def _explain(
        self, details: list[ErrorDetails], model: type[Section], source: Source, at: Loc
    ) -> None:
        """Record each refusal, but not that a key is missing where a mistyped one stands for it."""
        meant: set[Loc] = set()
        for detail in details:
            if detail["type"] == "extra_forbidden":
                *table, key = detail["loc"]
                suggestion = nearest(str(key), _keys_at(model, table))
                meant.add((*table, suggestion or ""))
                self.add(
                    source, (*at, *detail["loc"]), f"unknown key '{key}'", suggestion=suggestion
                )
        for detail in details:
            if detail["type"] == "missing" and detail["loc"] not in meant:
                *table, key = detail["loc"]
                self.add(source, (*at, *table), f"needs a '{key}'")
            elif detail["type"] not in ("missing", "extra_forbidden"):
                message, suggestion = _in_words(detail)
                self.add(source, (*at, *detail["loc"]), message, suggestion=suggestion)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that the word was most likely meant to be, None if none is near."""
    from difflib import get_close_matches  # only a mistake needs it

    found = get_close_matches(word.lower(), list(choices), n=1, cutoff=0.5)
    return found[0] if found else None


def valid_name(text: str) -> str | None:
    """Return the text without what a name may not have, None if nothing is left."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("._-")[:63].rstrip("._-")
    return name or None


def _key(at: Loc) -> str:
    return ".".join(step for step in at if isinstance(step, str))


def _in_words(detail: ErrorDetails) -> tuple[str, str | None]:
    """Return what pydantic said in the words of a file's author, and what he may have meant."""
    given = detail["input"]
    shown = f", not {json.dumps(given)}" if isinstance(given, str | int | float) else ""
    context = detail.get("ctx", {})
    match detail["type"]:
        case "string_pattern_mismatch":
            return f"{given!r} {_BAD_NAME}", valid_name(str(given))
        case "enum":
            choices = re.findall(r"'([^']*)'", str(context.get("expected", "")))
            return f"{_plain(detail)}{shown}", nearest(str(given), choices)
        case "value_error":
            return f"{given!r} {context['error']}", None
        case "model_type":
            return f"should be a table{shown}", None
        case "tuple_type" if isinstance(given, dict):
            return f"should be an array of tables: write [[{_key(detail['loc'])}]]", None
        case _:
            return f"{_plain(detail)}{shown}", None


def _plain(detail: ErrorDetails) -> str:
    said = detail["msg"].removeprefix("Input ").removeprefix("Value ")
    for word, ours in _WORDS.items():
        said = said.replace(word, ours)
    return said


def _keys_at(model: type[Section], table: Iterable[str | int]) -> list[str]:
    """Return the keys that the table at a place may have."""
    models = [model]
    for step in table:
        fields = [m.model_fields[step] for m in models if step in m.model_fields]
        if fields:
            models = [m for info in fields for m in _models(info.annotation)]
    return [key for m in models for key in m.model_fields]


def _models(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation  # type: ignore[misc]
    for argument in get_args(annotation):
        yield from _models(argument)


def _remove(data: Any, loc: Loc) -> None:
    """Take the value at a place out of its table or array, as far as the place exists."""
    try:
        for step in loc[:-1]:
            data = data[step]
        if loc:
            del data[loc[-1]]
    except (KeyError, IndexError, TypeError):
        return
