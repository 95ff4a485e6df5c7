"""What commands find around their scope, given what the pods of their fleet may write."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.scope import Permission, Scope, ScopeRule, may_change
from protocol.surroundings import USUAL_PATH, Surroundings, around, changeable, look_around

WRITE, READ = Permission.WRITE, Permission.READ


def writes(*targets: Path | str, recursive: bool = True, deny: tuple[str, ...] = ()) -> Scope:
    return Scope(
        allow=tuple(
            ScopeRule(target=str(t), permission=WRITE, recursive=recursive) for t in targets
        ),
        deny=tuple(ScopeRule(target=t, permission=WRITE) for t in deny),
    )


def seen(home: Path, path: str, pod: str, **scopes: Scope) -> Surroundings:
    """Return what a pod of a fleet has around it, which is known by its scopes alone."""
    found = look_around({"HOME": str(home), "PATH": path}, [])
    changers = {name: changeable(found, [scope]) for name, scope in scopes.items()}
    return around(found, pod, changers, scopes[pod])


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (writes("/w"), True),
        (writes("/w/bin"), True),
        (writes("/w/bin/tool"), True),
        (writes("/w", recursive=False), True),
        (writes("/", recursive=False), False),
        (writes("/w/bin", recursive=False), True),
        (writes("/w/bind"), False),
        (writes("/w", deny=("/w/bin",)), False),
        (writes("/w", deny=("/w/bin/tool",)), True),
        (writes("/w/bin/tool", deny=("/w",)), False),
        (Scope(allow=(ScopeRule(target="/w", permission=READ),)), False),
        (Scope(), False),
    ],
)
def test_scope_may_change_a_folder_that_it_reaches(scope: Scope, expected: bool) -> None:
    assert may_change(scope, "/w/bin") is expected


def test_folder_of_path_that_another_pod_may_write_is_lost(tmp_path: Path) -> None:
    for name in ("alice/bin", "bob/bin", "tools/bin", "home"):
        (tmp_path / name).mkdir(parents=True)
    own, others, free = (tmp_path / f"{name}/bin" for name in ("alice", "bob", "tools"))
    path = f"{own}:{others}:{free}::relative:/usr/bin"
    scopes = {"alice": writes(tmp_path / "alice"), "bob": writes(tmp_path / "bob")}
    alice = seen(tmp_path / "home", path, "alice", **scopes)
    assert alice.path.split(":") == [str(own), str(free), "/usr/bin"]
    assert alice.programs.split(":") == [str(free), "/usr/bin"], "podsup trusts no pod, not its own"
    assert {str(free), str(free.parent)} <= {*alice.readable}
    assert {str(own), str(others), str(others.parent)}.isdisjoint(alice.readable)


def test_system_folders_stay_readable_whoever_may_write_them(tmp_path: Path) -> None:
    found = seen(tmp_path, "/usr/bin", "bob", alice=writes("/"), bob=Scope())
    assert found.path == found.programs == USUAL_PATH, "there is no other"
    assert "/usr" in found.readable


@pytest.mark.parametrize("folder", ["/usr/sbin", "/usr/local/bin", "/opt", "/etc"])
def test_folder_of_path_in_the_system_is_lost_like_others(tmp_path: Path, folder: str) -> None:
    """A workspace may lie there, which it does in containers."""
    found = seen(tmp_path, f"{folder}:/bin", "bob", alice=writes(folder), bob=Scope())
    assert folder not in found.path.split(":")
    assert found.path == found.programs == "/usr/bin"


def test_path_without_any_folder_is_the_usual_one(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    found = seen(tmp_path, str(tmp_path / "w"), "bob", alice=writes(tmp_path), bob=Scope())
    assert found.path == found.programs == USUAL_PATH, "an empty PATH would be the current folder"


@pytest.mark.parametrize("where", ["w/venv", "w/venv/bin"])
def test_link_that_a_pod_may_replace_leads_nowhere(tmp_path: Path, where: str) -> None:
    """Whether it was a link from the start, or a pod made it one, cannot be told."""
    home, work = tmp_path / "home", tmp_path / "w"
    (home / ".ssh/bin").mkdir(parents=True)
    work.mkdir()
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).symlink_to(home / ".ssh")
    for pod in ("alice", "bob"):
        found = seen(home, f"{work}/venv/bin:/usr/bin", pod, alice=writes(work), bob=Scope())
        assert not [one for one in found.readable if one.startswith(str(home / ".ssh"))]
        assert found.programs == "/usr/bin"


def test_link_that_no_pod_may_replace_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "tools-1/bin").mkdir(parents=True)
    (tmp_path / "tools").symlink_to("tools-1")
    found = seen(tmp_path / "home", f"{tmp_path}/tools/bin", "alice", alice=Scope())
    assert found.path == str(tmp_path / "tools-1/bin")
    assert str(tmp_path / "tools-1") in found.readable
