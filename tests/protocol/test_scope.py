"""The scope algebra against a brute-force model: regions as plain sets of paths of a small tree."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import InvalidScope
from protocol.scope import (
    Permission,
    Scope,
    ScopeRule,
    canonical,
    clashes,
    components,
    covers,
    effective_permission,
    overlaps,
    write_rules,
)

NAMES = ("a", "ab")
DEEPEST_TARGET = 2
TREE = ["/"] + [
    "/" + "/".join(parts)
    for depth in range(1, DEEPEST_TARGET + 3)
    for parts in itertools.product(NAMES, repeat=depth)
]
TARGETS = [path for path in TREE if path == "/" or path.count("/") <= DEEPEST_TARGET]

rules = st.builds(
    ScopeRule,
    target=st.sampled_from(TARGETS),
    permission=st.sampled_from(Permission),
    recursive=st.booleans(),
)
scopes = st.builds(
    Scope,
    allow=st.lists(rules, max_size=3).map(tuple),
    deny=st.lists(rules, max_size=2).map(tuple),
)


def region(rule: ScopeRule) -> set[str]:
    """Return the paths of the tree that a rule is about, found by text alone."""
    below = rule.target.rstrip("/") + "/"
    found = {path for path in TREE if path.startswith(below)} | {rule.target}
    if not rule.recursive:
        found = {path for path in found if path == rule.target or "/" not in path[len(below) :]}
    return found


def granted(scope: Scope, path: str) -> set[Permission]:
    """Return the permissions that the rules leave at a path, one permission at a time."""
    left = set()
    for wanted in Permission:
        allowed = any(path in region(r) and r.permission.includes(wanted) for r in scope.allow)
        denied = any(path in region(r) and wanted.includes(r.permission) for r in scope.deny)
        if allowed and not denied:
            left.add(wanted)
    return left


def rule(target: str, permission: str = "write", *, recursive: bool = True) -> ScopeRule:
    return ScopeRule(target=target, permission=Permission(permission), recursive=recursive)


@given(scopes)
def test_effective_permission_equals_the_model_at_every_path(scope: Scope) -> None:
    for path in TREE:
        held = effective_permission(scope, path)
        assert {p for p in Permission if held and held.includes(p)} == granted(scope, path)


@given(scopes)
def test_effective_permission_exceeds_no_allow_and_passes_no_deny(scope: Scope) -> None:
    for path in TREE:
        held = effective_permission(scope, path)
        if held is None:
            continue
        assert any(path in region(r) and r.permission.includes(held) for r in scope.allow)
        for deny in scope.deny:
            assert path not in region(deny) or not held.includes(deny.permission)


@given(scopes, rules)
def test_cover_implies_that_every_path_of_the_rule_is_granted(
    scope: Scope, asked: ScopeRule
) -> None:
    if covers(scope, asked):
        assert all(asked.permission in granted(scope, path) for path in region(asked))


@given(scopes, rules)
def test_cover_is_one_allow_that_holds_it_all_and_no_deny_that_touches_it(
    scope: Scope, asked: ScopeRule
) -> None:
    held = any(
        r.permission.includes(asked.permission) and region(asked) <= region(r) for r in scope.allow
    )
    touched = any(
        asked.permission.includes(r.permission) and region(asked) & region(r) for r in scope.deny
    )
    assert covers(scope, asked) == (held and not touched)


@given(rules, rules)
def test_overlap_is_symmetric_and_equals_the_model(one: ScopeRule, other: ScopeRule) -> None:
    both_write = one.permission == other.permission == Permission.WRITE
    assert overlaps(one, other) == overlaps(other, one)
    assert overlaps(one, other) == (both_write and bool(region(one) & region(other)))


@given(st.lists(st.tuples(st.sampled_from("xyz"), rules), max_size=8))
def test_clashes_are_exactly_the_overlapping_pairs_of_different_owners(
    claims: list[tuple[str, ScopeRule]],
) -> None:
    wanted = [
        (one, other)
        for one, other in itertools.combinations(claims, 2)
        if one[0] != other[0] and overlaps(one[1], other[1])
    ]
    found = list(clashes(claims))
    assert sorted(map(repr, found)) == sorted(map(repr, wanted))


def test_components_are_compared_whole() -> None:
    scope = Scope(allow=(rule("/work/src"),))
    assert effective_permission(scope, "/work/src/x") is Permission.WRITE
    assert effective_permission(scope, "/work/src2") is None
    assert not overlaps(rule("/work/src"), rule("/work/src2"))


def test_two_allow_rules_that_only_together_contain_a_request_do_not_cover_it() -> None:
    scope = Scope(allow=(rule("/w", recursive=False), rule("/w/a")))
    assert not covers(scope, rule("/w"))


def test_write_rules_are_the_allow_rules_that_write() -> None:
    scope = Scope(allow=(rule("/a", "read"), rule("/b")), deny=(rule("/c"),))
    assert write_rules(scope) == (rule("/b"),)


@pytest.mark.parametrize("path", ["", "a", "./a", "/a/../b", "/a/./b", "/a//b", "/a/", "//"])
def test_a_path_that_is_not_canonical_has_no_permission_and_enters_no_rule(path: str) -> None:
    everything = Scope(allow=(rule("/"),))
    assert effective_permission(everything, path) is None
    with pytest.raises(InvalidScope):
        covers(everything, rule(path))
    with pytest.raises(InvalidScope):
        overlaps(rule("/"), rule(path))


def test_write_includes_read_and_read_does_not_include_write() -> None:
    assert Permission.WRITE.includes(Permission.READ)
    assert not Permission.READ.includes(Permission.WRITE)


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tree with links of every sort: inside, outside, upward, chained, dangling, looping."""
    root = Path(os.path.realpath(tmp_path_factory.mktemp("scope")))
    (root / "real/deep").mkdir(parents=True)
    (root / "real/file").write_text("x")
    (root / "real/deep/up").symlink_to("../..")
    (root / "link").symlink_to("real")
    (root / "far").symlink_to(root / "real/deep")
    (root / "chain").symlink_to("link/deep")
    (root / "dangling").symlink_to("real/later/on")
    (root / "loop").symlink_to("loop")
    return root


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (".", ""),
        ("link", "real"),
        ("link/file", "real/file"),
        ("chain/up/far", "real/deep"),
        ("real/../link/deep/", "real/deep"),
        ("far/../file", "real/file"),
        ("link/new/file", "real/new/file"),
        ("dangling/x", "real/later/on/x"),
        ("real/file/x", "real/file/x"),
    ],
)
def test_canonical_resolves_what_exists_and_appends_the_rest(
    linked: Path, written: str, meant: str
) -> None:
    wanted = str(linked / meant)
    assert canonical(written, cwd=str(linked)) == wanted
    assert canonical(f"{linked}/{written}") == wanted


@pytest.mark.parametrize(
    "written",
    ["", "a\0b", "loop", "loop/x", "real/none/../x", "none/..", "real/file/..", "dangling/.."],
)
def test_canonical_refuses_what_has_no_certain_meaning(linked: Path, written: str) -> None:
    with pytest.raises(InvalidScope):
        canonical(written, cwd=str(linked))


@pytest.mark.parametrize("cwd", [None, "", "here"])
def test_canonical_refuses_a_relative_path_without_an_absolute_folder(cwd: str | None) -> None:
    with pytest.raises(InvalidScope):
        canonical("a", cwd=cwd)


def test_canonical_of_the_root_and_above_is_the_root() -> None:
    assert canonical("/") == canonical("/..") == canonical("///.") == "/"


PARTS = ["real", "deep", "up", "link", "far", "chain", "dangling", "loop", "file", "new", "..", "."]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=6))
def test_canonical_is_idempotent_and_agrees_with_the_kernel(linked: Path, parts: list[str]) -> None:
    try:
        path = canonical("/".join(parts), cwd=str(linked))
    except InvalidScope:
        return
    assert canonical(path) == path
    assert components(path) is not None
    if os.path.exists(linked / "/".join(parts)):
        assert path == os.path.realpath(linked / "/".join(parts), strict=True)


@pytest.mark.parametrize("path", ["/" + "a" * 5000, "/a" * 300], ids=["long", "deep"])
def test_canonical_refuses_what_no_system_could_open(path: str) -> None:
    with pytest.raises(InvalidScope, match="too long or too deep"):
        canonical(path)
