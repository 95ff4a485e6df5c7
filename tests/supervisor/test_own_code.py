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
    assert all(os.path.realpath(one) == one and one != "/" for one in code)


def test_what_starts_with_an_interpreter_is_own_code_in_a_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone, other = tmp_path / "clone", tmp_path / "other"
    for name in isolation.PACKAGES:
        (clone / name).mkdir(parents=True)
    other.mkdir()
    monkeypatch.setattr(isolation, "elsewhere", [str(clone), str(other)])
    for folder, found in ((clone, own_code()), (other, start_files())):
        names = {Path(one).name for one in found if Path(one).parent == folder}
        assert names == {
            f"{stem}{suffix}"
            for stem in ("sitecustomize", "usercustomize")
            for suffix in ("", *all_suffixes())
        }


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
