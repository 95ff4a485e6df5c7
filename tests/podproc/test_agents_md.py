"""Which AGENTS.md files a pod is given, in which order, and what is said of the others."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.agents_md import MOST_OF_ALL, MOST_OF_ONE, AgentsFiles, AgentsText, collect
from protocol.scope import Scope
from tests.podproc.tooling import rule, view_of


class Tree:
    """A workspace with a pod in `a/b` that may read it, less what is denied."""

    def __init__(self, root: Path) -> None:
        self.root = root / "ws"
        self.cwd = self.root / "a/b"
        self.cwd.mkdir(parents=True)

    def write(self, path: str, content: str | bytes) -> Path:
        """Make a file below the workspace."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def collect(self, *deny: str, cwd: Path | None = None) -> AgentsFiles:
        """Collect with a scope that lets read everything but some paths."""
        here = cwd or self.cwd
        denied = tuple(rule(self.root / path, "read") for path in deny)
        scope = Scope(allow=(rule(self.root.parent, "read"),), deny=denied)
        return collect(view_of(scope, here), workspace=str(self.root), cwd=str(here))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_the_nearest_file_comes_last(tree: Tree) -> None:
    for folder in (".", "a", "a/b", "a/c", ".."):
        tree.write(f"{folder}/AGENTS.md", f"of {folder}")
    found = tree.collect()
    assert [text.text for text in found.texts] == ["of .", "of a", "of a/b"]
    assert found.texts[2].path == str(tree.cwd / "AGENTS.md")
    assert found.alerts == ()


def test_claude_md_is_read_where_a_folder_has_no_agents_md(tree: Tree) -> None:
    tree.write("AGENTS.md", "root's")
    tree.write("CLAUDE.md", "not this")
    tree.write("a/CLAUDE.md", "a's")
    tree.write("a/b/agents.md", "nor this")
    assert [text.text for text in tree.collect().texts] == ["root's", "a's"]


def test_a_cwd_outside_the_workspace_has_its_own_alone(tree: Tree) -> None:
    tree.write("AGENTS.md", "root's")
    tree.write("../AGENTS.md", "above")
    tree.write("../ws2/AGENTS.md", "beside")
    file = tree.write("../ws2/deep/AGENTS.md", "its own")
    assert [t.text for t in tree.collect(cwd=file.parent.resolve()).texts] == ["its own"]


def test_a_workspace_named_by_a_link_is_the_same(tree: Tree) -> None:
    tree.write("AGENTS.md", "root's")
    link = tree.root.parent / "link"
    link.symlink_to(tree.root)
    view = view_of(Scope(allow=(rule(tree.root, "read"),)), tree.cwd)
    (text,) = collect(view, workspace=str(link), cwd=str(link / "a")).texts
    assert text.path == str(tree.root / "AGENTS.md")


def test_hashes_and_sizes_are_of_what_was_used(tree: Tree) -> None:
    whole = ("x" + "ä" * MOST_OF_ONE).encode()
    file = tree.write("AGENTS.md", whole)
    (text,) = (found := tree.collect()).texts
    used = whole[: MOST_OF_ONE - 1]
    assert text == AgentsText(
        path=str(file),
        text=used.decode(),
        sha256=hashlib.sha256(used).hexdigest(),
        bytes=len(used),
        size=len(whole),
        note=f"[dropped: {len(whole) - len(used)} of {len(whole)} bytes; to go on: "
        f'Read with file_path "{file}" and offset 1]',
    )
    assert found.alerts == (f"{file}: {len(used)} of {len(whole)} bytes are used",)
    assert text.block.endswith(f"</agents_md-1>\n{text.note}")
    (logged,) = found.payload()["files"]
    assert logged == {
        "path": str(file),
        "sha256": text.sha256,
        "bytes": len(used),
        "size": len(whole),
    }


def test_the_far_ones_give_way_where_they_are_too_much_together(tree: Tree) -> None:
    deep = tree.root / "1/2/3/4"
    deep.mkdir(parents=True)
    for depth, folder in enumerate((".", "1", "1/2", "1/2/3", "1/2/3/4")):
        tree.write(f"{folder}/AGENTS.md", f"{depth}" * (MOST_OF_ONE - 100 * (depth == 4)))
    found = tree.collect(cwd=deep)
    assert [(t.text[0], t.bytes) for t in found.texts] == [
        ("1", 100),
        ("2", MOST_OF_ONE),
        ("3", MOST_OF_ONE),
        ("4", MOST_OF_ONE - 100),
    ]
    assert sum(t.bytes for t in found.texts) == MOST_OF_ALL
    assert [alert.partition(": ")[2] for alert in found.alerts] == [
        f"0 of {MOST_OF_ONE} bytes are used",
        f"100 of {MOST_OF_ONE} bytes are used",
    ]


def test_what_may_not_be_read_is_left_out_with_an_alert(tree: Tree) -> None:
    file = tree.write("AGENTS.md", "secret")
    tree.write("CLAUDE.md", "not in its place")
    tree.write("a/AGENTS.md", "a's")
    found = tree.collect("AGENTS.md", "a/b")
    assert [text.text for text in found.texts] == ["a's"]
    assert found.alerts == (f"{file} is left out: this pod may not read {file}: outside its scope",)


def test_what_is_no_text_file_is_left_out_with_an_alert(tree: Tree) -> None:
    os.mkfifo(tree.root / "AGENTS.md")
    (tree.root / "a/AGENTS.md").mkdir()
    tree.write("a/b/AGENTS.md", b"\0\1")
    found = tree.collect()
    assert found.texts == ()
    reasons = ("is not a regular file", "is a directory", "is a binary file")
    assert all(reason in alert for reason, alert in zip(reasons, found.alerts, strict=True))


def test_one_file_is_given_once_whatever_links_lead_to_it(tree: Tree) -> None:
    tree.write("AGENTS.md", "shared")
    (tree.root / "a/AGENTS.md").symlink_to("../AGENTS.md")
    (tree.root / "a/b/CLAUDE.md").symlink_to("../AGENTS.md")
    assert [text.text for text in tree.collect().texts] == ["shared"]


def test_an_empty_file_is_nothing(tree: Tree) -> None:
    tree.write("AGENTS.md", "")
    assert tree.collect() == AgentsFiles()


def test_folders_that_cannot_be_had_raise_nothing(tree: Tree) -> None:
    view = view_of(Scope(), tree.cwd)
    for cwd in ("", "relative", "/none/here", "a\0b", str(tree.cwd)):
        assert collect(view, workspace=str(tree.root), cwd=cwd).texts == ()


@given(st.text(max_size=50))
def test_no_text_of_a_folder_closes_its_block(text: str) -> None:
    for said in (text, f"</agents_md-1>\n{text}", f"{text}\n<agents_md-1 path=''>"):
        shown = AgentsText("/w/AGENTS.md", said, "", 0, 0).block
        name = shown[1:].partition(" ")[0]
        assert shown.casefold().count(name) == 2
        assert shown.endswith(f"</{name}>")
