"""Where podsup's processes import from: the interpreter's own folders, and installed packages.

Whatever Python imports runs with the user's rights, outside of every sandbox. So the import path
holds only folders that no pod may write: the standard library, and folders named `site-packages` or
`dist-packages`. The folder of a clone is not one of them: `OwnPackages` finds our three packages
there, and nothing that lies beside them. `PYTHONPATH`, the current folder and lines of `.pth` files
that lead anywhere else are left out.

What podsup starts with Python is this file, run with `-I -S`: no site, no `sitecustomize`, no
variable of the environment has a say.

    python -I -S isolation.py FOLDERS ROOT MODULE [ARGUMENT…]

It imports the standard library alone, since it runs before anything else can be found.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, MutableMapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

PACKAGES = ("podproc", "protocol", "supervisor")
elsewhere: list[str] = []
"""What `close_import_path` took out of this process's import path."""

SITES = ("site-packages", "dist-packages")
VARIABLES = "PYTHON"
"""How the names of all variables begin that change what Python runs."""


class OwnPackages:
    """Finds podsup's own packages in the folder that holds them, and nothing else there."""

    def __init__(self, root: str) -> None:
        self._root = root

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where one of our packages is; None for every other module."""
        return PathFinder.find_spec(name, [self._root]) if name in PACKAGES else None


def own_root() -> str:
    """Return the folder that holds podsup's packages."""
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def kept(path: Iterable[str]) -> list[str]:
    """Return the folders of an import path that podsup imports from; pods may not write them.

    A folder of packages that is not there yet is none: it would be whoever's that makes it.
    """
    return list(dict.fromkeys(one for one in path if _is_kept(one)))


def left_out(path: Iterable[str]) -> list[str]:
    """Return the other folders of an import path, there or not: what lies there may be a pod's."""
    return list(dict.fromkeys(os.path.abspath(one) for one in path if not _is_kept(one)))


def isolated(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module's `main`, importing from where we do."""
    sites = os.pathsep.join(one for one in sys.path if _is_site(one))
    flags = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
    own = os.path.abspath(__file__)
    return [sys.executable, *flags, own, sites, own_root(), module, *arguments]


def without_python(environment: MutableMapping[str, str]) -> None:
    """Take every variable out of an environment that changes what Python runs."""
    for name in [name for name in environment if name.startswith(VARIABLES)]:
        del environment[name]


def close_import_path(root: str | None = None) -> None:
    """Have this process import from nowhere else any more."""
    elsewhere[:] = left_out(sys.path)
    sys.path[:] = kept(sys.path)
    sys.meta_path.insert(0, OwnPackages(root or own_root()))


def _is_kept(folder: str) -> bool:
    return _is_library(folder) or (_is_site(folder) and os.path.isdir(folder))


def _is_site(folder: str) -> bool:
    return folder.startswith("/") and os.path.basename(folder) in SITES


def _is_library(path: str) -> bool:
    """Say whether a path is the standard library, a folder in it, or its archive beside it."""
    library = os.path.dirname(os.__file__)
    is_archive = path.endswith(".zip") and os.path.dirname(path) == os.path.dirname(library)
    return path == library or path.startswith(f"{library}/") or is_archive


def main() -> None:
    """Run a module's `main` as the head of this file says."""
    sites, root, module, *arguments = sys.argv[1:]
    sys.path += [one for one in sites.split(os.pathsep) if one]
    close_import_path(root)
    sys.argv = [module, *arguments]
    sys.exit(importlib.import_module(module).main())


if __name__ == "__main__":
    main()
