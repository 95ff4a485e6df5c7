"""Two names of one folder are one place to the scope table."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.scope import Permission, Scope, ScopeRule, components, shares
from supervisor.core.nodes import SEPARATOR, Place, clashes, may_meet, may_share, place_of
from supervisor.nodes import nodes_of

WRITE = Permission.WRITE
FOLDERS = ["/", "/a", "/a/x", "/a/x/y", "/b", "/c"]
"""What exists in the model; everything else does not yet."""
ALIASES = {"/m": "/a", "/b/m": "/a/x"}
"""Names of folders that are mounted there, too."""

paths = st.lists(st.sampled_from("abcmxy"), max_size=4).map(lambda parts: "/" + "/".join(parts))
rules = st.builds(ScopeRule, target=paths, permission=st.just(WRITE), recursive=st.booleans())


def really(path: str) -> str:
    """Return the one name of what a path of the model names."""
    for name, folder in ALIASES.items():
        if path == name or path.startswith(f"{name}/"):
            return folder + path[len(name) :]
    return path


def place(rule: ScopeRule) -> Place | None:
    """Return what `nodes_of` would say of it, were the model a disk."""
    parts = components(rule.target)
    names = [really("/" + "/".join(parts[:depth])) for depth in range(len(parts) + 1)]
    there = next((n for n, name in enumerate(names) if name not in FOLDERS), len(names))
    return place_of(rule, SEPARATOR.join(names[:there]))


def known(rule: ScopeRule) -> ScopeRule:
    return rule.model_copy(update={"target": really(rule.target)})


@given(rules, rules)
def test_two_rules_share_what_their_real_folders_share(a: ScopeRule, b: ScopeRule) -> None:
    one, other = place(a), place(b)
    assert one is not None
    assert other is not None
    by_node = may_share(a, one, b, other)
    assert by_node == may_share(b, other, a, one)
    assert not by_node or may_meet(one, other)
    told = shares(a, b) or by_node
    if shares(known(a), known(b)):
        assert told
    elif not shares(a, b):
        assert not told, "a common ancestor alone means nothing"


@given(st.lists(st.tuples(st.sampled_from(["p", "q", "r"]), rules), max_size=6))
def test_clashes_are_the_pairs_that_share(claims: list[tuple[str, ScopeRule]]) -> None:
    lined = [(owner, rule, place(rule)) for owner, rule in claims]
    found = {*clashes(lined)}
    wanted = {
        (a[:2], b[:2])
        for i, a in enumerate(lined)
        for b in lined[i + 1 :]
        if a[0] != b[0] and may_share(a[1], a[2], b[1], b[2])
    }
    assert found == wanted


def test_row_without_nodes_counts_by_name_alone() -> None:
    rule = ScopeRule(target="/a", permission=WRITE)
    assert place_of(rule, "") is None
    assert not may_share(rule, None, rule, place(rule))


@pytest.fixture
def mounted() -> Iterator[tuple[Path, Path]]:
    """Yield two names of one folder; skips where nothing may be mounted."""
    with tempfile.TemporaryDirectory(prefix="ps", dir="/tmp") as folder:
        one, other = Path(folder, "one"), Path(folder, "other")
        one.mkdir()
        other.mkdir()
        if subprocess.run(["mount", "--bind", one, other], capture_output=True).returncode:
            pytest.skip("nothing may be mounted here")
        try:
            yield one, other
        finally:
            subprocess.run(["umount", other], check=True)


def scope(*targets: Path) -> Scope:
    return Scope(allow=tuple(ScopeRule(target=str(t), permission=WRITE) for t in targets))


def test_bind_mount_is_one_place_with_what_it_shows(mounted: tuple[Path, Path]) -> None:
    one, other = mounted
    held = scope(one, other, one / "new/deep", other / "new", other / "else")
    placed = [
        (rule.target, rule, place_of(rule, text))
        for rule, text in zip(held.allow, nodes_of(held), strict=True)
    ]
    found = {(a[0], b[0]) for a, b in clashes(placed)}
    deep, new, other_new = str(one / "new/deep"), str(other / "new"), str(other / "else")
    assert (str(one), str(other)) in found
    assert (deep, new) in found
    assert (deep, other_new) not in found


def test_lines_follow_no_link_and_end_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    (text,) = nodes_of(scope(tmp_path / "link/passwd/more"))
    last = text.split(SEPARATOR)[-1]
    etc = os.stat("/etc")
    assert last.split(":")[1] != f"{etc.st_ino:x}"
