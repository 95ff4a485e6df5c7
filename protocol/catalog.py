"""What is known of models, besides their price: how large their window is, whether they think.

A table in TOML, shipped beside this file; an operator's own goes before it. A model that stands in
neither can be used: it is shown as of provider `unknown`, with the default window, until the fleet
file says better (`model.context_window`).
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from protocol.errors import InvalidRequest
from protocol.manifest import Scheme, Section
from protocol.operator_file import read_operator_file

DEFAULT_WINDOW = 200_000
UNKNOWN = "unknown"
OWN = Path(__file__).with_name("catalog.toml")
NAME = "catalog.toml"
_MEND = "mend the file, or move it away"


class Known(Section):
    """One line of the catalog: models whose name fits `match`."""

    match: Annotated[str, Field(min_length=1)]
    schemes: tuple[Scheme, ...]
    context_window: Annotated[int, Field(ge=1)]
    max_output: Annotated[int, Field(ge=1)] | None = None
    reasoning: bool = False


class _File(Section):
    model: tuple[Known, ...] = ()


class Catalog:
    """All that is known, the first that fits counts."""

    def __init__(self, models: Iterable[Known]) -> None:
        self.models = tuple(models)

    def find(self, scheme: Scheme, model_id: str) -> Known | None:
        """Return what is known of a model; a provider's prefix (`vendor/name`) may stand before."""
        name = model_id.rpartition("/")[2]
        for known in self.models:
            if scheme in known.schemes and fnmatchcase(name, known.match):
                return known
        return None


def load_catalog(config_dir: str | Path = "") -> Catalog:
    """Return the shipped catalog behind the operator's; raises InvalidRequest for a broken one."""
    return catalog_of(own_lines(Path(config_dir) / NAME) if config_dir else ())


def catalog_of(own: Iterable[Known]) -> Catalog:
    """Return the shipped catalog behind an operator's lines."""
    return Catalog((*own, *_shipped()))


def own_lines(path: Path) -> tuple[Known, ...]:
    """Return the lines of an operator's file, none without one; raises InvalidRequest."""
    try:
        text = read_operator_file(path).decode()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise InvalidRequest(f"{path}: {why}", next_step=_MEND) from error
    return lines_of(text, path)


def lines_of(text: str, path: Path) -> tuple[Known, ...]:
    """Return the lines of a text; raises InvalidRequest naming the file it is from."""
    try:
        return _File.from_wire(tomllib.loads(text)).model
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        why = f"{where}: {first['msg']}"
    except RecursionError:
        why = "its tables and arrays are nested too deeply"
    except ValueError as error:
        why = str(error)
    raise InvalidRequest(f"{path}: {why}", next_step=_MEND)


@functools.cache
def _shipped() -> tuple[Known, ...]:
    return _File.from_wire(tomllib.loads(OWN.read_text("utf-8"))).model
