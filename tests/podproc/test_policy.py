"""Which calls the operator's rules allow: a rule about a path means the file, whatever its name."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podproc.tools.files import EditArgs, ReadArgs, WriteArgs
from podproc.tools.policy import policy_of
from podproc.tools.search import GlobArgs, GrepArgs
from podproc.tools.shell import BashArgs
from protocol.errors import InvalidScope
from protocol.manifest import Permissions
from protocol.scope import canonical


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with `no/a` and `yes/a`, and links that lead from one name to another."""
    root = Path(os.path.realpath(tmp_path_factory.mktemp("policy")))
    for folder in ("w/no/deep", "w/yes", "w/sub", "out"):
        (root / folder).mkdir(parents=True)
    (root / "w/in").symlink_to("no")
    (root / "w/yes/leak").symlink_to("../no/a")
    (root / "w/away").symlink_to(root / "out")
    (root / "w/here").symlink_to(".")
    return root


def refused(
    ground: Path, tool: str, args: Any, *rules: tuple[str, str, str], cwd: str = "w"
) -> bool:
    """Say whether the rules, tried in order, refuse a call; what none matches is allowed."""
    permissions = Permissions.model_validate(
        {"rule": [dict(zip(("tool", "pattern", "action"), rule, strict=True)) for rule in rules]}
    )
    check = policy_of(permissions, cwd=str(ground / cwd), workspace=str(ground / "w"))

    async def ask() -> str | None:
        return await check(tool, args)

    return asyncio.run(ask()) is not None


def args_of(tool: str, path: str) -> Any:
    """Return a call of a path tool."""
    match tool:
        case "Read":
            return ReadArgs(file_path=path)
        case "Write":
            return WriteArgs(file_path=path, content="x")
        case "Edit":
            return EditArgs(file_path=path, old_string="a", new_string="b")
        case "Glob":
            return GlobArgs(pattern="*", path=path)
        case _:
            return GrepArgs(pattern="x", path=path)


TOOLS = ("Read", "Write", "Edit", "Glob", "Grep")
NAMES = ("no/a", "./no/a", "no/./a", "yes/../no/a", "{w}/no/a", "{w}/yes/../no/a", "in/a", "./in/a")
MORE = ("here/no/a", "{w}/here/in/a", "//{w}/no/a", "no//a", "here/yes/leak", "yes/leak")


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("pattern", ["no*", "no/*", "{w}/no/*", "*/no/a"])
@pytest.mark.parametrize("name", [*NAMES, *MORE])
def test_deny_holds_under_every_name(ground: Path, tool: str, pattern: str, name: str) -> None:
    where = str(ground / "w")
    rule = (tool, pattern.format(w=where), "deny")
    assert refused(ground, tool, args_of(tool, name.format(w=where)), rule)
    assert not refused(ground, tool, args_of(tool, "yes/a"), rule)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    ("name", "is_allowed"),
    [
        ("yes/a", True),
        ("./yes/a", True),
        ("{w}/yes/a", True),
        ("here/yes/a", True),
        ("yes/../no/a", False),
        ("yes/leak", False),
        ("away/yes/a", False),
        ("no/a", False),
    ],
)
def test_allow_holds_for_the_file_alone(
    ground: Path, tool: str, name: str, is_allowed: bool
) -> None:
    name = name.format(w=ground / "w")
    rules = ((tool, "yes/*", "allow"), (tool, "*", "deny"))
    args = GrepArgs(pattern="yes/x", path=name) if tool == "Grep" else args_of(tool, name)
    assert refused(ground, tool, args, *rules) is not is_allowed


def test_deny_on_a_link_holds_by_its_own_name(ground: Path) -> None:
    for name in ("away/a", "./away/a", "here/away/a", "here/here/away/a"):
        assert refused(ground, "Write", args_of("Write", name), ("Write", "away/*", "deny"))


def test_paths_are_read_from_the_working_folder(ground: Path) -> None:
    for name in ("../no/a", "./../no/a"):
        assert refused(ground, "Read", args_of("Read", name), ("Read", "no*", "deny"), cwd="w/sub")
    assert refused(ground, "Read", args_of("Read", "x"), ("Read", "sub/x", "deny"), cwd="w/sub")
    assert refused(ground, "Read", args_of("Read", "x"), ("Read", "x", "deny"), cwd="w/sub")


@pytest.mark.parametrize("pattern", ["no/*", "./no/**", "{w}/no/*", "yes/../no/*", "in/*"])
def test_globs_pattern_is_a_path_too(ground: Path, pattern: str) -> None:
    args = GlobArgs(pattern=pattern.format(w=ground / "w"))
    assert refused(ground, "Glob", args, ("Glob", "no*", "deny"))
    assert refused(ground, "Glob", args, ("Glob", "yes*", "allow"), ("Glob", "*", "deny"))
    inside = GlobArgs(pattern="yes/*.py")
    assert not refused(ground, "Glob", inside, ("Glob", "yes*", "allow"), ("Glob", "*", "deny"))
    climbs = GlobArgs(pattern="yes/*/../../no/*")
    assert refused(ground, "Glob", climbs, ("Glob", "yes*", "allow"), ("Glob", "*", "deny"))


def test_greps_expression_counts_for_refusals(ground: Path) -> None:
    args = GrepArgs(pattern="password", path="yes")
    assert refused(ground, "Grep", args, ("Grep", "pass*", "deny"))
    assert refused(ground, "Grep", args, ("Grep", "pass*", "allow"), ("Grep", "*", "deny"))


def test_command_is_held_against_its_text(ground: Path) -> None:
    rule = ("Bash", "rm *", "deny")
    assert refused(ground, "Bash", BashArgs(command="rm no"), rule)
    assert not refused(ground, "Bash", BashArgs(command="ls no"), rule)


STEPS = st.lists(
    st.sampled_from(["no", "yes", "sub", "in", "here", "deep", ".", "..", "", "a"]), max_size=6
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TOOLS), STEPS)
def test_no_name_of_a_denied_file_passes(ground: Path, tool: str, steps: list[str]) -> None:
    name = "/".join(steps) or "."
    try:
        real = canonical(name.lstrip("/") or ".", cwd=str(ground / "w"))
    except InvalidScope:
        return  # the tool itself refuses such a path
    rule = (tool, f"{ground}/w/no*", "deny")
    args = args_of(tool, name.lstrip("/") or ".")
    if f"{real}/".startswith(f"{ground}/w/no/"):
        assert refused(ground, tool, args, rule)
