"""What podsup's own processes import, and from where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.isolation import PACKAGES, isolated, kept, left_out, own_root, without_python

LIBRARY = os.path.dirname(os.__file__)


@pytest.mark.parametrize(
    ("folder", "is_kept"),
    [
        (LIBRARY, True),
        (f"{LIBRARY}/lib-dynload", True),
        (f"{os.path.dirname(LIBRARY)}/python311.zip", True),
        ("", False),
        (".", False),
        ("site-packages", False),
        ("/home/me/project", False),
        ("/home/me/project/site-packages/..", False),
        (f"{LIBRARY}2", False),
    ],
)
def test_import_path_keeps_only_the_library_and_sites(folder: str, is_kept: bool) -> None:
    assert kept([folder, folder]) == ([folder] if is_kept else [])


@pytest.mark.parametrize("name", ["site-packages", "dist-packages"])
def test_import_path_keeps_sites_only_once_they_are_there(tmp_path: Path, name: str) -> None:
    """Whoever made it would decide what is in it."""
    site = tmp_path / name
    assert (kept([str(site)]), left_out([str(site)])) == ([], [str(site)])
    site.mkdir()
    assert (kept([str(site)]), left_out([str(site)])) == ([str(site)], [])


def test_folders_left_out_are_named_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = left_out(["", LIBRARY, str(tmp_path / "none"), str(tmp_path)])
    assert found == [str(tmp_path), str(tmp_path / "none")]


def test_no_variable_for_python_is_left() -> None:
    names = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONINSPECT")
    environment = dict.fromkeys((*names, "PATH"), "x")
    without_python(environment)
    assert environment == {"PATH": "x"}


@pytest.mark.process
def test_isolated_program_imports_nothing_of_the_user(tmp_path: Path) -> None:
    """It has the packages of podsup, its installed ones, and the standard library."""
    mark = tmp_path / "mark"
    for name in ("sitecustomize", "usercustomize", "re2", "json", "msgpack", "protocol"):
        (tmp_path / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write('{name} ')")
    done = subprocess.run(
        isolated("podproc.confine.support"),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONINSPECT": "1"},
        capture_output=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert "level" in json.loads(done.stdout)
    assert not mark.exists()


@pytest.mark.process
def test_isolated_program_finds_only_our_packages_in_a_clone(tmp_path: Path) -> None:
    """A module beside them is not importable, though a package is."""
    (tmp_path / "re2.py").write_text("raise SystemExit('it ran')")
    for name in PACKAGES:
        (tmp_path / name).symlink_to(Path(own_root(), name).resolve())
    (tmp_path / "probe").mkdir()
    program = (
        "import sys\n"
        "from protocol import isolation\n"
        "isolation.close_import_path(sys.argv[1])\n"
        "import podproc, supervisor\n"
        "from importlib.util import find_spec\n"
        "print([find_spec(name) is None for name in ('re2', 'probe', 'podproc')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{own_root()}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[True, True, False]", done.stderr
