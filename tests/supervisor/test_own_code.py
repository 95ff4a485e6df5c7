"""What podsup runs and imports, which no pod may write."""

from __future__ import annotations

import os
import sys
from importlib.machinery import all_suffixes
from pathlib import Path

import pytest

from protocol import isolation
from protocol.manifest import PodManifest
from protocol.scope import Permission, Scope, ScopeRule, is_beneath
from supervisor.own_code import own_code, start_files, warnings
from tests.supervisor.fleets import manifest


def writing(target: Path | str) -> PodManifest:
    rule = ScopeRule(target=str(target), permission=Permission.WRITE)
    return manifest("alice").model_copy(update={"scope": Scope(allow=(rule,))})


def test_every_folder_of_the_import_path_is_own_code() -> None:
    code = own_code()
    wanted = [
        *isolation.kept(sys.path),
        *(f"{isolation.own_root()}/{n}" for n in isolation.PACKAGES),
    ]
    for path in (*wanted, sys.prefix, sys.base_prefix, os.path.realpath(sys.executable)):
        if os.path.exists(path):
            assert any(is_beneath(os.path.realpath(path), one) for one in code), path
    for one in code:
        assert one != "/"
        assert os.path.lexists(one)
        assert os.path.realpath(os.path.dirname(one)) == os.path.dirname(one)


@pytest.mark.parametrize("what", ["executable", "prefix", "argv"])
def test_link_on_the_way_to_the_interpreter_is_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The interpreter runs by the name that it was called by: to replace a link replaces it."""
    real, link = tmp_path / "envs/bin", tmp_path / "w/.venv"
    real.mkdir(parents=True)
    (real / "python").touch()
    link.parent.mkdir()
    link.symlink_to(tmp_path / "envs")
    at = str(link / "bin/python")
    monkeypatch.setattr(sys, what, {"prefix": str(link), "argv": [at]}.get(what, at))
    assert str(link) in own_code()
    (said,) = warnings([writing(tmp_path / "w")])
    assert str(link) in said


def test_own_code_names_nothing_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deny of what is not there would keep commands from making anything beside it."""
    clone, later = tmp_path / "clone", tmp_path / "later"
    for name in isolation.PACKAGES:
        (clone / name).mkdir(parents=True)
    monkeypatch.setattr(isolation, "elsewhere", [str(clone), str(later)])
    assert all(map(os.path.lexists, own_code()))
    names = {f"{s}{x}" for s in ("sitecustomize", "usercustomize") for x in ("", *all_suffixes())}
    for folder in (clone, later):
        assert {Path(one).name for one in start_files() if Path(one).parent == folder} == names
        (said,) = warnings([writing(folder)])
        assert f"alice may write {folder}, from which Python imports" in said


def test_scope_that_holds_own_code_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (said,) = warnings([writing(os.path.realpath(sys.prefix))])
    assert said.startswith("read-only to alice, since podsup runs it: ")
    assert os.path.realpath(sys.prefix) in said
    assert not [*warnings([writing(tmp_path)])]
    monkeypatch.setattr(isolation, "elsewhere", [str(tmp_path)])
    (said,) = warnings([writing(tmp_path)])
    assert f"alice may write {tmp_path}, from which Python imports" in said
