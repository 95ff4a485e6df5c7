"""What orders the planner gives: by example, and against a model of the kernel on random disks.

Never more: whatever the kernel of `model` lets a command do to the disk, `Territory.at` grants, at
both levels and for all rules.

Not less, for what is on the disk; nothing here is said of devices, nor of what the command's own
folders (`private`) stand in for:

    files       what `at` grants, at both levels and for all rules, unless a rule names something
                below the file, as if it were a folder, or a folder above it is hidden although
                what is in it is not: a denial of reading that is not recursive hides the folders
                in its target with all that is below them.
    folders     with recursive rules only, all of whose targets exist and are no links:
      namespaces  exactly what `at` grants: its names, its entries. An entry cannot be renamed or
                  removed just where less than write holds at or below it.
      landlock    its names can be listed unless a folder below it may not be read; its entries can
                  be changed unless at anything below it less than write holds. So this is what is
                  given up: new, renamed and removed entries in folders that lead to a more
                  restricted place, and the names in folders that lead to a hidden folder.

With other rules folders give less, at both levels: where a target is missing or a link, or a file
that is lent (its borrower may rename another over it, and a mount would be gone), in all
folders that lead to it nothing can be made, renamed, removed; where a rule is not recursive and
would give new folders less, nothing can be made in its target, and its folders may look empty.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from podproc.confine import landlock
from podproc.tools.cage import RealDisk
from podproc.tools.cage_plan import Kind, Order, Territory, plan
from podproc.tools.fsview import ScopeView
from podproc.tools.lends import Lends
from protocol.cage import CageLevel
from protocol.scope import LentRule, Permission, Scope, ScopeRule, effective_permission
from protocol.surroundings import look_around
from tests.podproc.cage.model import (
    Kernel,
    Tree,
    above,
    changed_beyond,
    lies_in,
    made_beyond,
    moved_beyond,
    parent,
    read_beyond,
    written_beyond,
)

LANDLOCK, NAMESPACES = CageLevel.LANDLOCK, CageLevel.NAMESPACES
READ, WRITE = Permission.READ, Permission.WRITE
both_levels = pytest.mark.parametrize("level", [LANDLOCK, NAMESPACES])


def rule(target: str, permission: Permission, *, recursive: bool = True) -> ScopeRule:
    return ScopeRule(target=target, permission=permission, recursive=recursive)


def reading(*targets: str) -> tuple[ScopeRule, ...]:
    return tuple(rule(target, READ) for target in targets)


def writing(*targets: str) -> tuple[ScopeRule, ...]:
    return tuple(rule(target, WRITE) for target in targets)


def scope(*allow: ScopeRule, deny: Iterable[ScopeRule] = ()) -> Scope:
    return Scope(allow=allow, deny=tuple(deny))


def run(tree: Tree, territory: Territory, level: CageLevel) -> Kernel:
    """Give a command under the order that the planner gives for it."""
    return Kernel(tree, plan(territory, tree, level), level)


def can(kernel: Kernel, path: str) -> str:
    """Say in a word what can be done at a path; `new` is for what is not there."""
    if kernel.tree.kind(path) is Kind.NOTHING:
        return "nothing" if kernel.makes(path) is None else "new"
    if kernel.writes(path) or kernel.changes(path):
        return "write"
    return "read" if kernel.reads(path) else "nothing"


def check(kernel: Kernel, **expected: str) -> None:
    """Hold what can be done against what should; `nothing="/a /b"` speaks of two paths."""
    for word, paths in expected.items():
        found = {path: can(kernel, path) for path in paths.split()}
        assert found == dict.fromkeys(found, word), kernel.order


def words(order: Order) -> list[str]:
    """Return the mounts of an order, one line each."""
    return [" ".join(str(part) for part in mount[:2]) for mount in order.mounts]


# -- examples: the scope ---------------------------------------------------------------------------

WORKSPACE = Tree("/w/mine/deep/file /w/text /w/lib/code /home/secret")


@both_levels
def test_a_scope_inside_a_workspace_is_written_and_the_rest_of_it_read(level: CageLevel) -> None:
    kernel = run(WORKSPACE, Territory(scope(*reading("/w"), *writing("/w/mine"))), level)
    check(
        kernel,
        write="/w/mine /w/mine/deep /w/mine/deep/file",
        read="/w /w/text /w/lib /w/lib/code",
        new="/w/mine/new /w/mine/new/new",
        nothing="/home /home/secret / /w/new /w/lib/new /new",
    )
    assert words(kernel.order) == (["write /w/mine"] if level is NAMESPACES else [])
    assert not kernel.moves("/w/mine")
    assert kernel.moves("/w/mine/deep")


@both_levels
@pytest.mark.parametrize("held", ["denied", "lent"])
def test_a_folder_that_may_not_be_written_is_still_read(level: CageLevel, held: str) -> None:
    rules = writing("/w/lib")
    deny, lent = (rules, ()) if held == "denied" else ((), rules)
    kernel = run(WORKSPACE, Territory(scope(*writing("/w"), deny=deny), lent=lent), level)
    check(
        kernel,
        write="/w/text /w/mine /w/mine/deep/file",
        read="/w/lib /w/lib/code",
        new="/w/mine/new",
        nothing="/w/lib/new",
    )
    assert can(kernel, "/w") == ("write" if level is NAMESPACES else "read")
    assert not kernel.moves("/w/lib")


@both_levels
def test_a_folder_that_may_not_be_read_is_not_there(level: CageLevel) -> None:
    kernel = run(WORKSPACE, Territory(scope(*writing("/w"), deny=reading("/w/lib"))), level)
    check(kernel, write="/w/text /w/mine/deep/file", nothing="/w/lib /w/lib/code /w/lib/new")
    assert can(kernel, "/w") == ("write" if level is NAMESPACES else "nothing")
    assert not kernel.moves("/w/lib")


@both_levels
@pytest.mark.parametrize(("denied", "left"), [(WRITE, "read"), (READ, "nothing")])
def test_a_denied_file_stays_where_and_what_it_is(
    level: CageLevel, denied: Permission, left: str
) -> None:
    deny = rule("/w/text", denied)
    kernel = run(WORKSPACE, Territory(scope(*writing("/w"), deny=[deny])), level)
    assert can(kernel, "/w/text") == left
    assert not kernel.moves("/w/text")
    check(kernel, write="/w/lib /w/lib/code", new="/w/lib/new")
    assert can(kernel, "/w/new") == ("new" if level is NAMESPACES else "nothing")
    assert can(kernel, "/w") == ("write" if level is NAMESPACES else "read")


@both_levels
def test_a_file_can_be_all_that_is_written(level: CageLevel) -> None:
    kernel = run(WORKSPACE, Territory(scope(*reading("/w"), *writing("/w/text"))), level)
    check(kernel, write="/w/text", read="/w /w/lib/code", nothing="/w/new /w/text/new")
    assert not kernel.moves("/w/text")


@both_levels
@pytest.mark.parametrize("missing", ["/w/new", "/w/lib/new/deep"])
@pytest.mark.parametrize("held", ["denied", "lent"])
def test_what_is_denied_or_lent_before_it_is_there_cannot_be_made(
    level: CageLevel, held: str, missing: str
) -> None:
    rules = writing(missing)
    deny, lent = (rules, ()) if held == "denied" else ((), rules)
    kernel = run(
        WORKSPACE,
        Territory(
            scope(
                *writing("/w"),
                deny=deny,
            ),
            lent=lent,
        ),
        level,
    )
    check(kernel, write="/w/text /w/lib/code /w/mine", new="/w/mine/new", nothing=missing)
    assert not kernel.moves("/w/lib") or "lib" not in missing
    assert not any(missing in word for word in words(kernel.order))


@both_levels
@pytest.mark.parametrize("denied", [READ, WRITE])
def test_a_denied_link_cannot_be_replaced(level: CageLevel, denied: Permission) -> None:
    tree = Tree("/w/link@ /w/text")
    kernel = run(tree, Territory(scope(*writing("/w"), deny=[rule("/w/link", denied)])), level)
    check(kernel, write="/w/text", nothing="/w/new")
    assert not kernel.moves("/w/link")
    assert not any("link" in word for word in words(kernel.order))


@both_levels
def test_a_scope_that_is_missing_or_a_link_gives_nothing_and_harms_nothing(
    level: CageLevel,
) -> None:
    tree = Tree("/w/link@ /w/text")
    claims = writing("/w/link", "/w/missing")
    kernel = run(tree, Territory(scope(*reading("/w"), *claims)), level)
    check(kernel, read="/w /w/text", nothing="/w/missing /w/link/new")
    assert not kernel.moves("/w/link")


@both_levels
def test_files_but_no_new_folders_where_write_is_not_recursive(level: CageLevel) -> None:
    claim = rule("/w", WRITE, recursive=False)
    kernel = run(WORKSPACE, Territory(scope(*reading("/w"), claim)), level)
    check(kernel, write="/w/text", read="/w/lib /w/lib/code /w/mine/deep/file")
    check(kernel, nothing="/w/new /w/new/new /w/lib/new")


@both_levels
def test_a_rule_that_is_not_recursive_does_not_read_what_lies_deeper(level: CageLevel) -> None:
    kernel = run(WORKSPACE, Territory(scope(rule("/w", READ, recursive=False))), level)
    check(kernel, read="/w/text", nothing="/w/lib/code /w/mine/deep/file")


@both_levels
def test_what_lies_deeper_than_a_denial_that_is_not_recursive_is_written(level: CageLevel) -> None:
    deny = rule("/w", WRITE, recursive=False)
    kernel = run(WORKSPACE, Territory(scope(*writing("/w"), deny=[deny])), level)
    check(kernel, read="/w /w/text", nothing="/w/new", new="/w/lib/new /w/mine/deep/new")
    check(kernel, write="/w/lib/code /w/mine/deep/file /w/mine/deep")
    assert not kernel.moves("/w/lib")


@both_levels
def test_a_scope_of_everything_is_everything_but_what_is_closed(level: CageLevel) -> None:
    tree = Tree("/etc/passwd /product/token /w/text")
    kernel = run(tree, Territory(scope(*writing("/")), closed=("/product",)), level)
    check(kernel, write="/etc /etc/passwd /w/text", new="/w/new")
    check(kernel, nothing="/product /product/token /product/new")
    assert can(kernel, "/") == ("write" if level is NAMESPACES else "nothing")
    assert not kernel.moves("/product")
    if level is NAMESPACES:
        assert kernel.order.mounts == (("write", "/"), ("cover", "/product", []))


@both_levels
def test_everything_is_read_where_the_root_may_be_read(level: CageLevel) -> None:
    kernel = run(WORKSPACE, Territory(scope(*reading("/"), *writing("/w/mine"))), level)
    check(kernel, read="/ /home/secret /w/text", write="/w/mine", nothing="/new /w/new")


@both_levels
def test_where_the_root_is_denied_nothing_is_left(level: CageLevel) -> None:
    territory = Territory(scope(*writing("/", "/w"), deny=reading("/")))
    check(run(WORKSPACE, territory, level), nothing="/ /w /w/text /w/mine /w/new /new")


@both_levels
def test_an_empty_scope_gives_nothing(level: CageLevel) -> None:
    check(run(WORKSPACE, Territory(scope()), level), nothing="/ /w /w/text /w/mine /w/new /new")


def test_only_a_cage_with_terminals_of_its_own_grants_them() -> None:
    grants = {
        level: plan(Territory(scope()), WORKSPACE, level).grants for level in (LANDLOCK, NAMESPACES)
    }
    assert ("/dev/null", "device") in grants[LANDLOCK]
    assert "terminal" not in {word for _, word in grants[LANDLOCK]}
    assert ("/dev/pts", "terminal") in grants[NAMESPACES]


# -- examples: the product's folders ---------------------------------------------------------------

PRODUCT = "/w/.p"
OUTPUTS = "/w/.p/data/pods/me/bash-output"
TEMPORARY = "/w/.p/data/pods/me/cage/tmp"
WITH_PRODUCT = Tree(f"/w/src/main /w/.p/token {OUTPUTS}/log {TEMPORARY}/ /w/.p/data/pods/it/log")


@both_levels
def test_of_the_product_in_a_workspace_only_the_output_is_read(level: CageLevel) -> None:
    has_mounts = level is NAMESPACES
    territory = Territory(
        scope(*writing("/w"), *reading(OUTPUTS)),
        closed=(PRODUCT,),
        opened=(OUTPUTS,),
        own=() if has_mounts else (TEMPORARY,),
    )
    kernel = run(WITH_PRODUCT, territory, level)
    check(
        kernel,
        write="/w/src /w/src/main",
        read=f"{OUTPUTS} {OUTPUTS}/log",
        new="/w/src/new",
        nothing=f"{PRODUCT} {PRODUCT}/token {PRODUCT}/new {PRODUCT}/data/pods/it/log {OUTPUTS}/new",
    )
    assert can(kernel, TEMPORARY) == ("nothing" if has_mounts else "write")
    assert can(kernel, f"{TEMPORARY}/new") == ("nothing" if has_mounts else "new")
    assert not any(kernel.moves(path) for path in above(OUTPUTS))
    if has_mounts:
        assert kernel.order.mounts == (
            ("write", "/w"),
            ("cover", PRODUCT, [("folder", "data/pods/me/bash-output")]),
            ("read", OUTPUTS),
        )


@both_levels
def test_no_rule_opens_the_product_and_the_output_opens_only_for_a_rule(level: CageLevel) -> None:
    claims = writing(f"{PRODUCT}/token", PRODUCT)
    territory = Territory(scope(*claims), closed=(PRODUCT,), opened=(OUTPUTS,))
    kernel = run(WITH_PRODUCT, territory, level)
    check(kernel, nothing=f"{PRODUCT} {PRODUCT}/token /w/src", read=OUTPUTS)
    kernel = run(WITH_PRODUCT, Territory(scope(), closed=(PRODUCT,), opened=(OUTPUTS,)), level)
    check(kernel, nothing=f"{OUTPUTS} {OUTPUTS}/log")


# -- examples: stand-ins for shared folders --------------------------------------------------------

OWN_TMP = {"/tmp": "/room/tmp"}


def test_a_workspace_below_a_stand_in_is_shown_in_it() -> None:
    tree = Tree("/tmp/x/w/mine/file /tmp/x/w/text /tmp/x/other /tmp/other /room/tmp/")
    territory = Territory(
        scope(*reading("/tmp/x/w"), *writing("/tmp/x/w/mine")), closed=("/room",), private=OWN_TMP
    )
    kernel = run(tree, territory, NAMESPACES)
    assert kernel.order.mounts == (
        ("cover", "/room", []),
        ("private", "/tmp", "/room/tmp", [("folder", "x/w")]),
        ("read", "/tmp/x/w"),
        ("write", "/tmp/x/w/mine"),
    )
    check(
        kernel,
        write="/tmp/x/w/mine /tmp/x/w/mine/file",
        read="/tmp/x/w /tmp/x/w/text",
        nothing="/tmp/x/w/new /tmp/other /tmp/x/other /tmp /tmp/x /room/tmp",
    )
    assert kernel.changes_own("/tmp")
    assert kernel.changes_own("/tmp/x")


def test_a_file_and_a_scope_below_stand_ins_are_shown_in_them() -> None:
    tree = Tree("/tmp/notes /tmp/mine/file /tmp/secret /dev/shm/lent/x /room/tmp/ /room/memory/")
    territory = Territory(
        scope(*reading("/tmp/notes"), *writing("/tmp/mine", "/dev/shm/lent")),
        lent=writing("/dev/shm/lent"),
        private={**OWN_TMP, "/dev/shm": "/room/memory"},
    )
    kernel = run(tree, territory, NAMESPACES)
    assert kernel.order.mounts == (
        ("private", "/tmp", "/room/tmp", [("folder", "mine"), ("file", "notes")]),
        ("private", "/dev/shm", "/room/memory", [("folder", "lent")]),
        ("write", "/tmp/mine"),
        ("read", "/tmp/notes"),
        ("read", "/dev/shm/lent"),
    )
    check(kernel, write="/tmp/mine/file", read="/tmp/notes /dev/shm/lent/x", nothing="/tmp/secret")


def test_what_is_denied_in_a_folder_below_a_stand_in_is_denied_there_too() -> None:
    tree = Tree("/tmp/w/a/lib/code /tmp/w/a/hidden/x /tmp/w/text /room/tmp/")
    territory = Territory(
        scope(
            *writing("/tmp/w"), deny=[rule("/tmp/w/a/lib", WRITE), rule("/tmp/w/a/hidden", READ)]
        ),
        private=OWN_TMP,
    )
    kernel = run(tree, territory, NAMESPACES)
    check(kernel, write="/tmp/w /tmp/w/a /tmp/w/text", read="/tmp/w/a/lib/code", new="/tmp/w/new")
    check(kernel, nothing="/tmp/w/a/hidden /tmp/w/a/hidden/x /tmp/w/a/lib/new")
    assert not any(kernel.moves(path) for path in ("/tmp/w", "/tmp/w/a", "/tmp/w/a/lib"))


def test_a_whole_shared_folder_in_the_scope_is_the_pods_own_all_the_same() -> None:
    tree = Tree("/tmp/other /room/tmp/")
    kernel = run(tree, Territory(scope(*writing("/tmp", "/")), private=OWN_TMP), NAMESPACES)
    check(kernel, nothing="/tmp/other /tmp/new", write="/")
    assert kernel.changes_own("/tmp")


def test_a_denial_in_a_stand_in_does_not_show_what_others_have_in_the_shared_folder() -> None:
    tree = Tree("/tmp/other /room/tmp/")
    denied = scope(*writing("/tmp"), deny=writing("/tmp/missing"))
    kernel = run(tree, Territory(denied, private=OWN_TMP), NAMESPACES)
    assert words(kernel.order) == ["private /tmp"]
    check(kernel, nothing="/tmp/other")


def test_a_stand_in_lies_in_the_cover_of_a_folder_above_it() -> None:
    tree = Tree("/var/tmp/w/text /var/log /room/tmp/")
    territory = Territory(
        scope(*reading("/"), deny=reading("/var")), private={"/var/tmp": "/room/tmp"}
    )
    kernel = run(tree, territory, NAMESPACES)
    assert kernel.order.mounts == (
        ("cover", "/var", [("folder", "tmp")]),
        ("private", "/var/tmp", "/room/tmp", []),
    )
    check(kernel, nothing="/var /var/log /var/tmp/w/text")


@pytest.mark.parametrize(
    ("allow", "deny", "path"),
    [
        (rule("/tmp/w", WRITE), (rule("/tmp/w/missing", READ),), "/tmp/w/missing"),
        (rule("/tmp/w", WRITE), (rule("/tmp/w/link", WRITE),), "/tmp/w/link"),
        (rule("/tmp/w", WRITE, recursive=False), (), "/tmp/w/new/new"),
    ],
    ids=["missing", "link", "not-recursive"],
)
def test_below_a_stand_in_too_what_no_mount_holds_back_cannot_be_made(
    allow: ScopeRule, deny: tuple[ScopeRule, ...], path: str
) -> None:
    tree = Tree("/tmp/w/text /tmp/w/link@ /room/tmp/")
    kernel = run(tree, Territory(scope(allow, deny=deny), private=OWN_TMP), NAMESPACES)
    assert kernel.makes(path) is None


# -- examples: mounts ------------------------------------------------------------------------------


def test_every_folder_between_what_is_written_and_what_is_not_is_a_mount_of_its_own() -> None:
    tree = Tree("/w/a/b/lib/code /w/a/b/text /w/a/c/text /w/d/hidden/x")
    deny = [rule("/w/a/b/lib", WRITE), rule("/w/d/hidden", READ)]
    kernel = run(tree, Territory(scope(*writing("/w"), deny=deny)), NAMESPACES)
    assert words(kernel.order) == [
        "write /w",
        "write /w/a",
        "write /w/d",
        "write /w/a/b",
        "cover /w/d/hidden",
        "read /w/a/b/lib",
    ]
    assert not any(kernel.moves(path) for path in ("/w/a", "/w/a/b", "/w/a/b/lib", "/w/d"))
    assert kernel.moves("/w/a/b/text")
    assert kernel.moves("/w/a/c")


def test_folders_between_what_is_read_and_what_is_written_need_no_mount() -> None:
    tree = Tree("/w/a/b/mine/file")
    order = plan(Territory(scope(*reading("/w"), *writing("/w/a/b/mine"))), tree, NAMESPACES)
    assert words(order) == ["write /w/a/b/mine"]


def test_what_holds_above_is_not_mounted_again() -> None:
    claims = [*writing("/w", "/w/lib", "/w/mine/deep"), *reading("/w/text", "/etc")]
    tree = Tree("/w/lib/code /w/mine/deep/file /w/text /etc/passwd")
    assert words(plan(Territory(scope(*claims)), tree, NAMESPACES)) == ["write /w"]


def test_permissions_can_alternate_on_the_way_down() -> None:
    tree = Tree("/a/b/c/d/e/file")
    territory = Territory(
        scope(*writing("/a"), *reading("/a/b/c/d")), closed=("/a/b",), opened=("/a/b/c",)
    )
    territory = Territory(
        territory.scope, closed=("/a/b",), opened=("/a/b/c",), own=("/a/b/c/d/e",)
    )
    kernel = run(tree, territory, NAMESPACES)
    assert words(kernel.order) == ["write /a", "cover /a/b", "read /a/b/c", "write /a/b/c/d/e"]
    check(kernel, write="/a /a/b/c/d/e /a/b/c/d/e/file", read="/a/b/c /a/b/c/d", nothing="/a/b")


# -- examples: what could be written ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (rule("/w", WRITE), True),
        (rule("/w/a/b", WRITE), True),
        (rule("/", WRITE), True),
        (rule("/", WRITE, recursive=False), True),
        (rule("/home", WRITE, recursive=False), False),
        (rule("/other", WRITE), False),
        (rule("/wide", WRITE), False),
        (rule("/w/a", READ), False),
        (rule("/read", WRITE), False),
        (rule("/w/lent", WRITE), False),
        (rule("/w/lent/deep", WRITE, recursive=False), False),
        (rule("/w/denied", WRITE), False),
        (rule("/w/hidden/x", WRITE), False),
        (rule("/w/flat", WRITE, recursive=False), False),
        (rule("/w/flat", WRITE), True),
        (rule("/w/flat/x", WRITE), True),
        (rule("/w/flat/x/y", WRITE), True),
        (rule("/only", WRITE), True),
        (rule("/only/x", WRITE), True),
        (rule("/only/x/y", WRITE), False),
    ],
    ids=lambda value: (
        f"{value.target}{'' if value.recursive else '-flat'}-{value.permission}"
        if isinstance(value, ScopeRule)
        else str(value)
    ),
)
def test_a_command_could_write_what_its_scope_claims_and_nothing_takes_whole(
    asked: ScopeRule, expected: bool
) -> None:
    territory = Territory(
        scope(
            *writing("/w"),
            *reading("/read", "/other"),
            rule("/only", WRITE, recursive=False),
            deny=[rule("/w/denied", WRITE), rule("/w/hidden", READ)],
        ),
        lent=(rule("/w/lent", WRITE), rule("/w/flat", WRITE, recursive=False)),
    )
    for level in (LANDLOCK, NAMESPACES):
        assert plan(territory, Tree(), level).could_write(asked) is expected


# -- examples: what programs need to read ----------------------------------------------------------


def found(home: Path | str, path: str, *closed: Path) -> list[str]:
    """Return what may be read because of a home and a PATH."""
    system = look_around({}, ()).readable()
    around = look_around({"HOME": str(home), "PATH": path}, [str(one) for one in closed])
    return [one for one in around.readable() if one not in system]


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_of_a_folder_of_the_path_its_parent_is_read_too(tmp_path: Path) -> None:
    tools = made(tmp_path / "tools/bin")
    assert found(tmp_path / "home", str(tools)) == [str(tools), str(tools.parent)]


def test_the_home_is_not_read_for_a_folder_of_the_path_in_it(tmp_path: Path) -> None:
    tools = made(tmp_path / "home/bin")
    assert found(tools.parent, str(tools)) == [str(tools)]


def test_the_homes_folder_of_data_is_not_read_for_a_folder_of_the_path_in_it(
    tmp_path: Path,
) -> None:
    tools = made(tmp_path / ".local/bin")
    assert found(tmp_path, str(tools)) == [str(tools)]


def test_neither_the_home_nor_what_is_above_it_is_read_for_being_in_the_path(
    tmp_path: Path,
) -> None:
    home = made(tmp_path / "users/me")
    assert found(home, f"{home}:{home.parent}:{tmp_path}") == []
    assert found(home, str(made(home.parent / "bin"))) == [str(home.parent / "bin")]


def test_what_holds_a_folder_of_the_product_is_not_read_for_a_folder_beside_it(
    tmp_path: Path,
) -> None:
    tools, product = made(tmp_path / "x/bin"), made(tmp_path / "x/state/product")
    assert found(tmp_path / "home", str(tools), product) == [str(tools)]
    assert found(tmp_path / "home", f"{product}:{product.parent}", product) == []


def test_the_root_is_never_read_for_a_folder_below_it(tmp_path: Path) -> None:
    assert found(tmp_path, "/usr:/bin:/") == []


def test_folders_of_the_path_that_are_not_there_or_relative_do_not_count(tmp_path: Path) -> None:
    assert found(tmp_path / "home", f"bin:.::{tmp_path}/x/missing:{tmp_path}/x/../..") == []


def test_a_link_in_the_path_is_read_where_it_leads(tmp_path: Path) -> None:
    tools, links = made(tmp_path / "real/bin"), made(tmp_path / "links")
    (links / "bin").symlink_to(tools)
    assert found(tmp_path / "home", str(links / "bin")) == [str(tools), str(links)]


def test_of_the_home_only_what_git_and_python_need_is_read(tmp_path: Path) -> None:
    git = made(tmp_path / ".config/git")
    made(tmp_path / ".ssh")
    for file in (tmp_path / ".gitconfig", git / "config", git / "credentials"):
        file.touch()
    assert found(tmp_path, "") == [str(tmp_path / ".gitconfig"), str(git / "config")]


def test_a_home_that_is_a_link_is_not_read_for_a_folder_of_the_path_in_it(tmp_path: Path) -> None:
    real = made(tmp_path / "disk/me")
    made(real / "bin")
    (tmp_path / "home").symlink_to(real)
    assert found(tmp_path / "home", f"{tmp_path}/home/bin") == [str(real / "bin")]


# -- random disks and territories ------------------------------------------------------------------

NAMES = ("a", "ab")
PATHS = [
    "/" + "/".join(parts) for depth in (1, 2, 3) for parts in itertools.product(NAMES, repeat=depth)
]
ROOM = {"/room/tmp": Kind.FOLDER, "/room/own": Kind.FOLDER}
ANYWHERE = [
    *above("/room/tmp/new"),
    *above("/room/own/new")[:-2],
    *(path + more for path in PATHS for more in ("", "/new", "/new/new")),
    "/new",
    "/new/new",
]
"""Paths that are there or could be made: beside, in, and deeper than all that rules speak of."""

thoroughly = settings(max_examples=2 * settings().max_examples)

any_path = st.sampled_from(["/", *PATHS])


def any_rules(
    targets: st.SearchStrategy[str], *, most: int, recursive: st.SearchStrategy[bool]
) -> st.SearchStrategy[tuple[ScopeRule, ...]]:
    permission = st.sampled_from(Permission)
    one = st.builds(ScopeRule, target=targets, permission=permission, recursive=recursive)
    return st.lists(one, max_size=most).map(tuple)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    kinds = st.sampled_from([Kind.FOLDER, Kind.FOLDER, *Kind])
    things = dict(ROOM)
    drawn = draw(st.lists(kinds, min_size=len(PATHS), max_size=len(PATHS)))
    for path, kind in zip(PATHS, drawn, strict=True):
        is_in_folder = parent(path) == "/" or things.get(parent(path)) is Kind.FOLDER
        if is_in_folder and kind is not Kind.NOTHING:
            things[path] = kind
    return Tree(things=things)


@st.composite
def grounds(
    draw: st.DrawFn, *, stands_in: bool | None = None, is_plain: bool = False
) -> tuple[Tree, Territory]:
    """Draw a disk and a territory; `is_plain`: recursive rules, all targets there and no links."""
    tree = draw(trees())
    targets = st.sampled_from(sorted(tree.paths())) if is_plain else any_path
    recursive = st.just(True) if is_plain else st.booleans()
    few = st.lists(targets, max_size=1)
    shared = [path for path in ("/a", "/ab", "/a/a") if tree.kind(path) is Kind.FOLDER]
    private: list[str] = []
    if shared and stands_in is not False:
        private = draw(st.lists(st.sampled_from(shared), min_size=int(stands_in or 0), max_size=1))
    return tree, Territory(
        Scope(
            allow=draw(any_rules(targets, most=3, recursive=recursive)),
            deny=draw(any_rules(targets, most=2, recursive=recursive)),
        ),
        lent=draw(any_rules(targets, most=2, recursive=recursive)),
        closed=("/room", *draw(few)),
        opened=tuple(draw(few)),
        own=("/room/own", *draw(few)),
        private=dict.fromkeys(private, "/room/tmp"),
    )


def stood_in(territory: Territory, path: str) -> bool:
    return any(lies_in(path, folder) for folder in territory.private)


def permitted(*, read: bool, write: bool) -> Permission | None:
    return WRITE if write else READ if read else None


def told(tree: Tree, territory: Territory, order: Order) -> str:
    return f"{tree.things}\n{territory}\n{order}"


@thoroughly
@both_levels
@given(ground=grounds(stands_in=False))
def test_never_is_more_read_written_made_or_moved_than_the_territory_grants(
    level: CageLevel, ground: tuple[Tree, Territory]
) -> None:
    tree, territory = ground
    kernel = run(tree, territory, level)
    why = told(tree, territory, kernel.order)
    assert read_beyond(kernel, territory, Kind.FILE) == [], why
    assert written_beyond(kernel, territory) == [], why
    assert changed_beyond(kernel, territory) == [], why
    assert made_beyond(kernel, territory, ANYWHERE) == [], why
    assert moved_beyond(kernel, territory, ANYWHERE) == [], why


@given(grounds(stands_in=True))
def test_never_is_more_of_a_file_read_or_written_with_stand_ins(
    ground: tuple[Tree, Territory],
) -> None:
    tree, territory = ground
    kernel = run(tree, territory, NAMESPACES)
    why = told(tree, territory, kernel.order)
    assert read_beyond(kernel, territory, Kind.FILE) == [], why
    assert written_beyond(kernel, territory) == [], why


@thoroughly
@given(grounds(stands_in=True))
def test_never_is_more_made_or_moved_with_stand_ins(ground: tuple[Tree, Territory]) -> None:
    tree, territory = ground
    kernel = run(tree, territory, NAMESPACES)
    why = told(tree, territory, kernel.order)
    assert changed_beyond(kernel, territory) == [], why
    assert made_beyond(kernel, territory, ANYWHERE) == [], why
    assert moved_beyond(kernel, territory, ANYWHERE) == [], why


@given(grounds(stands_in=True, is_plain=True))
def test_never_is_more_made_or_moved_with_stand_ins_where_all_rules_can_be_mounted(
    ground: tuple[Tree, Territory],
) -> None:
    tree, territory = ground
    kernel = run(tree, territory, NAMESPACES)
    why = told(tree, territory, kernel.order)
    assert changed_beyond(kernel, territory) == [], why
    assert made_beyond(kernel, territory, ANYWHERE) == [], why
    assert moved_beyond(kernel, territory, ANYWHERE) == [], why


@thoroughly
@both_levels
@given(ground=grounds())
def test_never_is_a_folder_listed_that_may_not_be_read(
    level: CageLevel, ground: tuple[Tree, Territory]
) -> None:
    tree, full = ground
    territory = at_level(full, level)
    kernel = run(tree, territory, level)
    why = told(tree, territory, kernel.order)
    assert read_beyond(kernel, territory, Kind.FOLDER) == [], why


@given(grounds())
def test_with_mounts_never_is_a_folder_listed_of_which_nothing_may_be_read(
    ground: tuple[Tree, Territory],
) -> None:
    tree, territory = ground
    kernel = run(tree, territory, NAMESPACES)
    listed = read_beyond(kernel, territory, Kind.FOLDER)
    why = told(tree, territory, kernel.order)
    assert [path for path in listed if territory.within(path) is None] == [], why


def at_level(territory: Territory, level: CageLevel) -> Territory:
    """Return the territory without stand-ins where there are no mounts."""
    if level is NAMESPACES:
        return territory
    return Territory(
        territory.scope, territory.lent, territory.closed, territory.opened, territory.own
    )


@both_levels
@given(ground=grounds())
def test_what_may_be_done_with_a_file_can_be_done(
    level: CageLevel, ground: tuple[Tree, Territory]
) -> None:
    tree, full = ground
    territory = at_level(full, level)
    kernel = run(tree, territory, level)
    places = [one.target for one in territory.rules()]
    places += [*territory.closed, *territory.opened, *territory.own]
    for path in tree.paths():
        is_named_as_folder = any(lies_in(one, path) for one in places if one != path)
        if tree.kind(path) is Kind.FOLDER or stood_in(territory, path) or is_named_as_folder:
            continue
        if any(is_hidden(territory, folder) for folder in above(path)[1:]):
            continue
        held = permitted(read=kernel.reads(path), write=kernel.writes(path))
        assert held is territory.at(path), (path, told(tree, territory, kernel.order))


def is_hidden(territory: Territory, folder: str) -> bool:
    """Say whether a folder may not be read although what is in it may."""
    return territory.at(folder) is None and territory.within(folder) is not None


@thoroughly
@given(grounds(is_plain=True))
def test_with_mounts_recursive_rules_hold_exactly(ground: tuple[Tree, Territory]) -> None:
    tree, territory = ground
    assume(not any(tree.kind(rule.target) is Kind.FILE for rule in territory.lent))
    kernel = run(tree, territory, NAMESPACES)
    for path in tree.paths():
        if stood_in(territory, path):
            continue
        can_write = kernel.writes(path) or kernel.changes(path)
        held = permitted(read=kernel.reads(path), write=can_write)
        why = (path, told(tree, territory, kernel.order))
        assert held is territory.at(path), why
        if path == "/" or any(lies_in(folder, path) for folder in territory.private):
            continue
        below = [territory.at(one) for one in tree.things if lies_in(one, path)]
        may_move = {WRITE} == {territory.at(parent(path)), *below}
        assert kernel.moves(path) is may_move, why


@given(grounds(is_plain=True, stands_in=False))
def test_without_mounts_folders_give_what_all_below_them_gives(
    ground: tuple[Tree, Territory],
) -> None:
    tree, territory = ground
    kernel = run(tree, territory, LANDLOCK)
    for folder in (path for path in tree.paths() if tree.kind(path) is Kind.FOLDER):
        below = [path for path in tree.paths() if lies_in(path, folder)]
        folders = [path for path in below if tree.kind(path) is Kind.FOLDER]
        why = (folder, told(tree, territory, kernel.order))
        assert kernel.reads(folder) is all(territory.at(path) for path in folders), why
        assert kernel.changes(folder) is all(territory.at(path) is WRITE for path in below), why


@both_levels
@given(ground=grounds())
def test_mounts_are_one_for_each_path_and_the_upper_before_the_lower(
    level: CageLevel, ground: tuple[Tree, Territory]
) -> None:
    tree, territory = ground
    paths = [mount[1] for mount in plan(at_level(territory, level), tree, level).mounts]
    assert len(set(paths)) == len(paths)
    for number, path in enumerate(paths):
        assert not any(lies_in(path, later) for later in paths[number + 1 :])


@given(
    grounds(stands_in=False),
    st.builds(
        ScopeRule, target=any_path, permission=st.sampled_from(Permission), recursive=st.booleans()
    ),
)
def test_where_a_command_could_not_write_it_cannot(
    ground: tuple[Tree, Territory], asked: ScopeRule
) -> None:
    tree, full = ground
    territory = Territory(full.scope, full.lent, full.closed, full.opened)
    for level in (LANDLOCK, NAMESPACES):
        kernel = run(tree, territory, level)
        if asked.permission is READ or kernel.order.could_write(asked):
            continue
        region = Scope(allow=(asked,))
        for path in ANYWHERE:
            if effective_permission(region, path):
                assert not kernel.writes(path), (path, told(tree, territory, kernel.order))
                assert kernel.makes(path) is None, (path, told(tree, territory, kernel.order))


# -- what may be listed ----------------------------------------------------------------------------


def test_to_list_a_folder_lists_nothing_that_lies_deeper_than_its_rule() -> None:
    """Landlock lists all below what it lists: what is hidden there is more than what rules name."""
    tree = Tree("/w/lib/hidden/code")
    kernel = run(tree, Territory(scope(rule("/w", READ, recursive=False))), LANDLOCK)
    check(kernel, nothing="/w/lib/hidden")


@both_levels
def test_a_folder_is_not_listed_that_a_denial_of_its_parents_entries_hides(
    level: CageLevel,
) -> None:
    deny = rule("/w", READ, recursive=False)
    kernel = run(Tree("/w/lib/code"), Territory(scope(*reading("/w"), deny=[deny])), level)
    check(kernel, nothing="/w /w/lib /w/lib/code")  # the last is less than the scope grants


@given(grounds())
def test_file_tools_and_commands_are_judged_alike(ground: tuple[Tree, Territory]) -> None:
    """Two gates, one law: the scope, less what is lent, with the product's folders closed."""
    _, full = ground
    territory = Territory(full.scope, full.lent, full.closed, full.opened)
    rules = tuple(LentRule(**dict(rule), pod="kid") for rule in full.lent)
    view = ScopeView(
        Lends(full.scope, rules).permission_at,
        cwd="/",
        closed=full.closed,
        opening=full.opened[0] if full.opened else None,
    )
    for path in ANYWHERE:
        assert view.permission(path) is territory.at(path), path


# -- the model -------------------------------------------------------------------------------------


def test_the_disk_in_memory_answers_as_the_real_one(tmp_path: Path) -> None:
    root = os.path.realpath(tmp_path)
    made(tmp_path / "folder/deep")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("folder")
    memory = Tree(f"{root}/folder/deep/ {root}/file {root}/link@")
    names = ("", "/folder", "/folder/deep", "/file", "/file/x", "/link", "/link/deep", "/no/no")
    for path in (root + name for name in names):
        assert memory.kind(path) is RealDisk().kind(path), path
        if memory.kind(path) is Kind.FOLDER:
            assert sorted(memory.entries(path)) == sorted(RealDisk().entries(path))


def test_the_model_sees_what_a_planner_without_care_gives_away() -> None:
    """A folder above a denied one, not pinned: it is moved away, and the denied one made anew."""
    tree = Tree("/w/a/denied/code")
    territory = Territory(scope(*writing("/w"), deny=writing("/w/a/denied")))
    order = Order((("write", "/w"), ("read", "/w/a/denied")), (("/w", "write"),))
    kernel = Kernel(tree, order, NAMESPACES)
    assert written_beyond(kernel, territory) == []
    assert moved_beyond(kernel, territory, ["/w/a/denied"]) == ["/w/a"]
    assert made_beyond(kernel, territory, ["/w/a/denied"]) == [("/w/a/denied", "/w/a")]
    assert landlock.RIGHTS["list"] & landlock.READ_FILE == 0
