"""What references resolve to, what refuses a run, and what a file cannot do to its reader."""

from __future__ import annotations

import os
import re
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from podproc import references
from podproc.escaping import plain, quoted
from podproc.excerpt import block, excerpt
from podproc.queries import complete_path
from podproc.references import MOST_OF_ALL, MOST_OF_ONE, Places, check, complete_slug, resolve
from podproc.tools.fsview import BIGGEST_FILE
from protocol import methods as m
from protocol.errors import InvalidRequest
from protocol.scope import Scope
from protocol.segments import FileRef, KnowledgeRef, Segment, Text, UnknownSegment, WorkflowInvoke
from tests.podproc.pods import Home, alive, drive
from tests.podproc.tooling import rule, view_of


class Desk:
    """A workspace, a config folder beside it, and a pod that may read the workspace."""

    def __init__(self, root: Path, *, deny: tuple[str, ...] = ()) -> None:
        self.root = root
        self.workspace, self.config = root / "ws", root / "config"
        self.cwd = self.workspace / "sub"
        self.cwd.mkdir(parents=True)
        self.config.mkdir()
        allow = (rule(self.workspace, "read"),)
        self.scope = Scope(allow=allow, deny=tuple(rule(root / name, "read") for name in deny))
        self.places = Places(
            view_of(self.scope, self.cwd, closed=(str(self.config),)),
            str(self.cwd),
            str(self.workspace),
            str(self.config),
        )

    def write(self, path: str, content: str | bytes) -> Path:
        """Make a file below the root."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def workflow(self, slug: str, content: str, *, users: bool = False) -> Path:
        """Make a workflow of the workspace, or of the user."""
        folder = "config/workflows" if users else "ws/.podsup/workflows"
        return self.write(f"{folder}/{slug}.md", content)

    def bodies(self, *segments: Segment) -> list[str]:
        """Resolve without an alert and return the bodies."""
        resolved = resolve(segments, self.places)
        assert resolved.alerts == ()
        return [item.body for item in resolved.items]

    def refusal(self, slug: str) -> InvalidRequest:
        """Return how an invocation is refused."""
        with pytest.raises(InvalidRequest) as refused:
            check([WorkflowInvoke(slug=slug)], self.places)
        return refused.value


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def unavailable(desk: Desk, segment: Segment) -> str:
    """Return the alert of a reference that cannot be had; the placeholder says the same."""
    (item,), (alert,) = (got := resolve([segment], desk.places)).items, got.alerts
    assert "[not available: " in item.body
    assert alert.partition(": ")[2][:200] in item.body
    alert.encode()
    item.body.encode()
    return alert


# ---- files


def test_each_reference_becomes_one_item_in_order(desk: Desk) -> None:
    desk.write("ws/sub/a.py", "print('ä')\n")
    desk.write("ws/knowledge/db/schema.md", "# Tables")
    desk.workflow("release", "1. tag\n")
    got = resolve(
        [
            Text(content="see "),
            FileRef(path="a.py"),
            KnowledgeRef(slug="db/schema"),
            FileRef(path="./a.py"),
            WorkflowInvoke(slug="release"),
            FileRef(path=str(desk.cwd / "a.py")),
            KnowledgeRef(slug="db/schema"),
            WorkflowInvoke(slug="release"),
        ],
        desk.places,
    )
    assert got.alerts == ()
    assert [(item.kind, item.body) for item in got.items] == [
        (
            "file_attachment",
            "<file_attachment-1 path=\"a.py\">\nprint('ä')\n</file_attachment-1>",
        ),
        ("knowledge", '<knowledge-1 slug="db/schema">\n# Tables\n</knowledge-1>'),
        ("workflow", '<workflow-1 slug="release">\n1. tag\n</workflow-1>'),
    ]


def test_text_alone_resolves_to_nothing(desk: Desk) -> None:
    assert resolve([Text(content="@a #b /c")], desk.places) == references.Resolved()


def test_a_long_file_is_cut_between_characters_and_says_how_to_read_on(desk: Desk) -> None:
    desk.write("ws/sub/long.txt", "x\n" + "ä" * MOST_OF_ONE)
    (body,) = desk.bodies(FileRef(path="long.txt"))
    shown, _, note = body.partition("\n</file_attachment-1>\n")
    text = shown.partition("\n")[2]
    assert len(text.encode()) == MOST_OF_ONE
    assert text == "x\n" + "ä" * (MOST_OF_ONE // 2 - 1)
    size = 2 * MOST_OF_ONE + 2
    assert note == (
        f"[dropped: {size - MOST_OF_ONE} of {size} bytes; to go on: "
        'Read with file_path "long.txt" and offset 2]'
    )


def test_a_submission_shares_its_bytes_and_tells_of_what_is_left_out(desk: Desk) -> None:
    for number in range(5):
        desk.write(f"ws/sub/{number}", f"{number}" * MOST_OF_ONE)
    desk.write("ws/sub/small", "tiny")
    files = [FileRef(path=str(number)) for number in range(5)]
    bodies = desk.bodies(*files, FileRef(path="small"))
    assert sum(map(len, bodies)) < MOST_OF_ALL + 2000
    assert all("dropped" not in body for body in bodies[:4])
    assert f"{MOST_OF_ONE} of {MOST_OF_ONE} bytes" in bodies[4]
    assert "4 of 4 bytes" in bodies[5]


def test_workflows_have_their_bytes_before_files(desk: Desk) -> None:
    for number in range(5):
        desk.write(f"ws/sub/{number}", "x" * MOST_OF_ONE)
    desk.workflow("do", "y" * 1000)
    bodies = desk.bodies(*(FileRef(path=str(n)) for n in range(5)), WorkflowInvoke(slug="do"))
    assert bodies[5].count("y") == 1000
    assert "1000 of 65536 bytes" in bodies[3]


def test_a_folder_shows_its_names_directories_first(desk: Desk) -> None:
    for name in ("b", "a", "dir/x", ".git/config", ".env"):
        desk.write(f"ws/sub/box/{name}", "")
    assert desk.bodies(FileRef(path="box")) == [
        '<file_attachment-1 path="box" type="directory">\ndir/\na\nb\n</file_attachment-1>\n'
        "[2 hidden]"
    ]
    for number in range(250):
        desk.write(f"ws/sub/full/{number:03}", "")
    (full,) = desk.bodies(FileRef(path="full/"))
    assert full.splitlines()[1:-2] == [f"{number:03}" for number in range(200)]
    assert full.endswith("\n[50 more names; to see them: Glob]")
    (desk.cwd / "none").mkdir()
    assert desk.bodies(FileRef(path="none"))[0].endswith("\n[empty]")


def test_a_folder_shows_only_what_may_be_read(tmp_path: Path) -> None:
    desk = Desk(tmp_path, deny=("ws/secret",))
    desk.write("ws/secret/key", "k")
    desk.write("ws/open", "o")
    (body,) = desk.bodies(FileRef(path=".."))
    assert body.splitlines()[1:-1] == ["sub/", "open"]


def test_a_binary_file_is_a_line(desk: Desk) -> None:
    desk.write("ws/sub/logo.png", b"\x89PNG\r\n\0\0" + bytes(100_000))
    (body,) = desk.bodies(FileRef(path="logo.png"))
    assert "\n[binary file of 100008 bytes, not shown]\n" in body
    assert len(body) < 200


def test_bytes_that_are_no_text_are_replaced_and_counted_as_they_are(desk: Desk) -> None:
    desk.write("ws/sub/latin", b"\xe9" * MOST_OF_ONE)
    (body,) = desk.bodies(FileRef(path="latin"))
    assert body.count("\ufffd") == MOST_OF_ONE // 3
    assert f"{MOST_OF_ONE - MOST_OF_ONE // 3} of {MOST_OF_ONE} bytes" in body


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("gone.py", "does not exist"),
        ("gone/too.py", "does not exist"),
        ("a.py/below", "does not exist"),
        ("fifo", "not a regular file"),
        ("socket", "No such device or address"),
        ("../../config/system.md.j2", "outside its scope"),
        ("out", "outside its scope"),
        ("/dev/zero", "outside its scope"),
        ("loop", "too many links"),
        ("", "not a path"),
        ("a\0b", "not a path"),
        ("half\ud800pair", "surrogates"),
        ("line\nbreak", r'line\nbreak" does not exist'),
        ("x" * 300, "File name too long"),
        ("d/" * 300, "too long or too deep"),
        ("y" * 100_000, "too long or too deep"),
    ],
)
def test_a_file_that_cannot_be_had_is_an_alert_and_a_placeholder(
    desk: Desk, path: str, reason: str
) -> None:
    desk.write("ws/sub/a.py", "a")
    os.mkfifo(desk.cwd / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(desk.cwd, os.O_PATH)
        listening.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    (desk.cwd / "out").symlink_to(desk.write("elsewhere", "secret"))
    (desk.cwd / "loop").symlink_to("loop")
    alert = unavailable(desk, FileRef(path=path))
    assert reason in alert
    assert "\n" not in alert
    assert len(alert) <= 710


def test_a_device_in_the_scope_is_not_read(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    view = view_of(Scope(allow=(rule(Path("/dev"), "read"),)), Path("/dev"))
    got = resolve([FileRef(path="/dev/zero")], Places(view, "/dev", str(desk.workspace)))
    assert got.alerts == ("@/dev/zero: /dev/zero is not a regular file",)


def test_a_name_that_is_not_utf8_is_shown_and_found(desk: Desk) -> None:
    name = b"caf\xe9\n.txt"
    (desk.cwd / "odd").mkdir()
    (desk.cwd / "odd" / os.fsdecode(name)).write_text("content")
    (listing,) = desk.bodies(FileRef(path="odd"))
    assert listing.splitlines()[1] == r'"caf\xe9\n.txt"'
    (body,) = desk.bodies(FileRef(path=os.fsdecode(b"odd/" + name)))
    assert body.splitlines()[0] == r'<file_attachment-1 path="odd/caf\xe9\n.txt">'
    assert body.splitlines()[1] == "content"


def test_a_huge_file_is_read_at_its_beginning_alone(desk: Desk) -> None:
    file = desk.write("ws/sub/huge", "start\n")
    os.truncate(file, BIGGEST_FILE * 4)
    real, head = desk.places.view.head("huge", 6)
    assert (real, head.data, head.size) == (str(file), b"start\n", BIGGEST_FILE * 4)
    with file.open("r+b") as sparse:
        sparse.write(b"x" * (MOST_OF_ONE + 10))
    (body,) = desk.bodies(FileRef(path="huge"))
    assert "it is too big for Read, use Grep" in body


def test_a_file_that_grows_while_it_is_read_has_an_end(desk: Desk) -> None:
    file = desk.write("ws/sub/growing", "")
    stop = threading.Event()

    def grow() -> None:
        with file.open("ab", buffering=0) as out:
            while not stop.is_set() and out.tell() < 32 * 1024 * 1024:
                out.write(b"more\n" * 1000)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        for _ in range(20):
            (body,) = desk.bodies(FileRef(path="growing"))
            assert len(body) < MOST_OF_ONE + 500
    finally:
        stop.set()
        writer.join()


def test_a_virtual_file_without_a_size_is_shown(tmp_path: Path) -> None:
    view = view_of(Scope(allow=(rule(Path("/proc"), "read"),)), Path("/proc"))
    places = Places(view, "/proc", str(tmp_path))
    (item,) = resolve([FileRef(path="sys/kernel/ostype")], places).items
    assert item.body.splitlines()[1:] == ["Linux", "</file_attachment-1>"]


def test_too_many_references_are_resolved_up_to_a_number_workflows_among_them(desk: Desk) -> None:
    desk.workflow("do", "it")
    many = [FileRef(path=f"none{number}") for number in range(300)]
    got = resolve([*many, WorkflowInvoke(slug="do")], desk.places)
    assert len(got.items) == references.MOST_REFERENCES
    assert [item.kind for item in got.items[-2:]] == ["file_attachment", "workflow"]
    assert got.alerts[0] == "301 references: 100 of them are resolved"
    with pytest.raises(InvalidRequest, match="101 workflows at once"):
        check([WorkflowInvoke(slug=f"w{n}") for n in range(101)], desk.places)


def test_unknown_input_is_an_alert_and_no_item(desk: Desk) -> None:
    image = UnknownSegment.model_validate({"kind": "image\n", "data": "…"})
    got = resolve([image, image], desk.places)
    assert got.items == ()
    assert got.alerts == (r'input of an unknown kind, "image\n": the model sees a placeholder',)


# ---- knowledge and workflows


def test_knowledge_that_cannot_be_had_is_an_alert_and_a_placeholder(desk: Desk) -> None:
    desk.write("ws/knowledge/blob.md", b"\0")
    desk.write("secret.md", "s")
    (desk.workspace / "knowledge/leak.md").symlink_to(desk.root / "secret.md")
    desk.write("ws/notes.md", "n")
    (desk.workspace / "knowledge/aside.md").symlink_to(desk.workspace / "notes.md")
    (desk.workspace / "knowledge/folder.md").mkdir()
    for slug, reason in {
        "none": "does not exist",
        "../notes": "a slug is made of",
        "Upper": "a slug is made of",
        "a//b": "a slug is made of",
        "": "a slug is made of",
        "blob": "is a binary file",
        "leak": "it leads out of",
        "aside": "it leads out of",
        "folder": "is a directory",
    }.items():
        assert reason in unavailable(desk, KnowledgeRef(slug=slug)), slug


def test_knowledge_outside_the_scope_is_an_alert(tmp_path: Path) -> None:
    desk = Desk(tmp_path, deny=("ws/knowledge",))
    desk.write("ws/knowledge/plan.md", "p")
    assert "outside its scope" in unavailable(desk, KnowledgeRef(slug="plan"))
    assert complete_slug("knowledge", "", desk.places) == []


def test_a_link_within_its_folder_is_followed(desk: Desk) -> None:
    desk.write("ws/knowledge/new.md", "n")
    (desk.workspace / "knowledge/old.md").symlink_to("new.md")
    assert "\nn\n" in desk.bodies(KnowledgeRef(slug="old"))[0]


def test_the_workspace_has_its_say_before_the_user(desk: Desk) -> None:
    desk.workflow("fix", "the workspace's")
    desk.workflow("fix", "the user's", users=True)
    desk.workflow("mine", "my own", users=True)
    segments = [WorkflowInvoke(slug="fix"), WorkflowInvoke(slug="mine")]
    check(segments, desk.places)
    fix, mine = desk.bodies(*segments)
    assert ("workspace's" in fix, "my own" in mine) == (True, True)


def test_front_matter_is_no_part_of_the_text(desk: Desk) -> None:
    desk.workflow("w", '\ufeff---\r\ndescription: "Do it: well"\r\nuser: TRUE\r\n---\r\n# Go\r\n')
    assert desk.bodies(WorkflowInvoke(slug="w")) == [
        '<workflow-1 slug="w" description="Do it: well">\n# Go\r\n</workflow-1>'
    ]


def test_a_workflow_that_cannot_be_followed_refuses_the_run(desk: Desk) -> None:
    desk.workflow("good", "g")
    desk.workflow("inner", "---\nuser: false\n---\nx")
    desk.workflow("odd", "---\nuser: maybe\n---\nx")
    desk.workflow("open", "---\nuser: false\nx")
    desk.workflow("big", "x" * (MOST_OF_ONE + 1))
    desk.write("ws/.podsup/workflows/latin.md", b"\xe9")
    desk.write("ws/.podsup/workflows/zero.md", b"a\0")
    desk.write("secret.md", "s")
    desk.workflow("leak", "not in the place of a link that leads out", users=True)
    (desk.workspace / ".podsup/workflows/leak.md").symlink_to(desk.root / "secret.md")
    os.mkfifo(desk.workspace / ".podsup/workflows/pipe.md")
    for slug, reason in {
        "none": "there is none of this name",
        "../../secret": "a slug is made of",
        "a/../good": "a slug is made of",
        "Good\n": "a slug is made of",
        "x" * 300: "a slug is made of",
        "inner": "is not for users",
        "odd": "user is true or false",
        "open": "no '---' closes its front matter",
        "big": f"more than {MOST_OF_ONE} bytes",
        "latin": "is not UTF-8",
        "zero": "binary",
        "leak": "it leads out of",
        "pipe": "not a regular file",
    }.items():
        refused = desk.refusal(slug)
        assert reason in refused.message, slug
        assert "good" in (refused.next_step or "")
        assert "good" in refused.details["known"]
        assert "inner" not in refused.details["known"]
        refused.to_body()
    check([WorkflowInvoke(slug="good"), FileRef(path="none")], desk.places)


def test_a_refusal_without_any_workflow_says_where_to_write_one(desk: Desk) -> None:
    refused = desk.refusal("none")
    assert refused.next_step == "write .podsup/workflows/<slug>.md"


def test_workflows_together_have_a_bound(desk: Desk) -> None:
    for number in range(5):
        desk.workflow(f"w{number}", "x" * MOST_OF_ONE)
    five = [WorkflowInvoke(slug=f"w{number}") for number in range(5)]
    check([*five[:4], five[0]], desk.places)
    with pytest.raises(InvalidRequest, match="327680 bytes together"):
        check(five, desk.places)
    assert len(resolve(five, desk.places).alerts) == 1


def test_a_workspace_that_may_not_be_read_leaves_the_users_workflows(tmp_path: Path) -> None:
    desk = Desk(tmp_path, deny=("ws/.podsup",))
    desk.workflow("fix", "the workspace's")
    assert "may not read" in desk.refusal("fix").message
    desk.workflow("fix", "the user's", users=True)
    check([WorkflowInvoke(slug="fix")], desk.places)
    assert "the user's" in desk.bodies(WorkflowInvoke(slug="fix"))[0]


def test_a_workflow_that_went_away_after_the_check_is_a_placeholder(desk: Desk) -> None:
    file = desk.workflow("fix", "x")
    check([WorkflowInvoke(slug="fix")], desk.places)
    file.unlink()
    assert "there is none of this name" in unavailable(desk, WorkflowInvoke(slug="fix"))


# ---- completions


def values(desk: Desk, kind: references.SlugKind, prefix: str = "") -> list[str]:
    """Return the completed slugs."""
    return [row.value for row in complete_slug(kind, prefix, desk.places)]


def test_slugs_complete_by_prefix_sorted(desk: Desk) -> None:
    for slug in ("style", "db/schema", "db/keys", "Upper", ".hidden/x", "db-notes"):
        desk.write(f"ws/knowledge/{slug}.md", "")
    desk.write("ws/knowledge/picture.png", "")
    os.mkfifo(desk.workspace / "knowledge/pipe.md")
    (desk.workspace / "knowledge/leak.md").symlink_to("/etc/passwd")
    assert values(desk, "knowledge") == ["db-notes", "db/keys", "db/schema", "style"]
    assert values(desk, "knowledge", "db/") == ["db/keys", "db/schema"]
    assert values(desk, "knowledge", "db/s") == ["db/schema"]
    assert values(desk, "knowledge", "../") == []


def test_workflows_complete_from_both_folders_for_users_only(desk: Desk) -> None:
    desk.workflow("fix", "x")
    desk.workflow("inner", "---\nuser: false\n---\n" + "x" * 30_000)
    desk.workflow("broken", "---\nuser: perhaps\n---\n")
    desk.workflow("large", "x" * (MOST_OF_ONE + 1))
    desk.workflow("long", "---\ndescription: d\n---\n" + "ä" * 20_000)
    for slug in ("fix", "inner", "zeal"):
        desk.workflow(slug, "x", users=True)
    assert values(desk, "workflow") == ["fix", "long", "zeal"]
    assert values(desk, "workflow", "z") == ["zeal"]


def test_completions_have_an_end(desk: Desk) -> None:
    for number in range(130):
        desk.write(f"ws/knowledge/k{number:03}.md", "")
        desk.write(f"ws/sub/f{number:03}", "")
    assert values(desk, "knowledge") == [f"k{number:03}" for number in range(100)]
    assert len(complete_path(desk.places.view, "f")) == 100


def paths(desk: Desk, prefix: str = "") -> list[tuple[str, bool]]:
    """Return the completed paths."""
    return [(row.value, row.is_dir) for row in complete_path(desk.places.view, prefix)]


def test_paths_complete_below_the_cwd_directories_first(tmp_path: Path) -> None:
    desk = Desk(tmp_path, deny=("ws/sub/secret", "ws/private"))
    for name in ("b.py", "a.py", "src/x.py", "src/y.py", ".env", ".git/config", "secret/key"):
        desk.write(f"ws/sub/{name}", "")
    desk.write("ws/private/key", "")
    desk.write("ws/sub/" + os.fsdecode(b"b\xe9"), "")
    (desk.cwd / "s-out").symlink_to(desk.write("elsewhere", "x"))
    (desk.cwd / "s-link").symlink_to("src")
    assert paths(desk) == [("s-link", True), ("src", True), ("a.py", False), ("b.py", False)]
    assert paths(desk, "s") == [("s-link", True), ("src", True)]
    assert paths(desk, "src/") == [("src/x.py", False), ("src/y.py", False)]
    assert paths(desk, "s-link/x") == [("s-link/x.py", False)]
    assert paths(desk, ".") == [(".git", True), (".env", False)]
    assert paths(desk, "./a") == [("./a.py", False)]
    assert paths(desk, "../") == [("../sub", True)]
    assert paths(desk, f"{desk.cwd}/a") == [(f"{desk.cwd}/a.py", False)]


@pytest.mark.parametrize("prefix", ["/", "../../", "none/", "a\0/", "\ud800/x", "secret/k", "//"])
def test_a_prefix_that_leads_nowhere_completes_to_nothing(tmp_path: Path, prefix: str) -> None:
    desk = Desk(tmp_path, deny=("ws/sub/secret",))
    desk.write("ws/sub/secret/key", "")
    assert paths(desk, prefix) == []


def test_a_pod_completes_references_of_each_kind(tmp_path: Path) -> None:
    house = Home(tmp_path)
    for file in ("knowledge/style.md", ".podsup/workflows/fix.md", "sub/a.py"):
        (house.work / file).parent.mkdir(parents=True)
        (house.work / file).touch()

    async def main() -> None:
        async with alive(house) as life:
            for kind, prefix, value in (
                ("knowledge", "st", "style"),
                ("workflow", "", "fix"),
                ("file", "sub/", "sub/a.py"),
            ):
                asked = m.ListCompletions.from_wire({"kind": kind, "prefix": prefix})
                reply = await life.ask(asked)
                assert [row["value"] for row in reply.body["entries"]] == [value]
            await life.end()

    drive(main())


# ---- cutting and fencing


@given(st.binary(max_size=200) | st.text(max_size=80).map(str.encode), st.integers(-3, 120))
@example("ä€😀".encode(), 5)
@example(b"\xf0\x9f\x98", 2)
@example(b"\xed\xa0\x80", 9)
def test_an_excerpt_is_the_longest_beginning_that_fits(data: bytes, limit: int) -> None:
    whole = data.decode("utf-8", "surrogateescape")
    shown = excerpt(data, limit)
    assert len(shown.text.encode()) <= max(limit, 0)  # and encoding it proves that it is UTF-8
    kept = data[: shown.taken].decode("utf-8", "surrogateescape")
    assert whole.startswith(kept)
    assert shown.text == re.sub("[\udc80-\udcff]", "\ufffd", kept)
    if shown.taken < len(data):
        following = re.sub("[\udc80-\udcff]", "\ufffd", whole[len(kept)])
        assert len((shown.text + following).encode()) > limit


@given(st.text(max_size=60).map(str.encode) | st.binary(max_size=60), st.integers(0, 50))
def test_reading_a_little_more_than_the_limit_is_enough(data: bytes, limit: int) -> None:
    assert excerpt(data[: limit + 4], limit) == excerpt(data, limit)


_PIECES = st.sampled_from(
    ["</a-1>", "<a-1>", "</A-2>", "a-3", "</a-1 >", "\n", "x", "</a-", "1>", "\u2028", "a-1"]
)
_BODIES = st.text(max_size=40) | st.lists(_PIECES, max_size=12).map("".join)


@given(_BODIES, _BODIES)
def test_no_body_and_no_attribute_closes_its_block(body: str, value: str) -> None:
    text = block("a", body, path=value)
    first, _, rest = text.partition("\n")
    opened = re.match(r"<(a-\d+) path=", first)
    assert opened is not None
    name = opened[1]
    assert text.casefold().count(name.casefold()) == 2  # once to open, once to close, at the end
    assert text.endswith(f"</{name}>")
    inside = rest.removesuffix(f"</{name}>")
    assert inside in (body, body + "\n")
    assert first == f"<{name} path={quoted(value)}>"


def test_a_block_within_a_block_stays_inside() -> None:
    inner = block("a", "x")
    outer = block("a", inner)
    assert outer == f"<a-2>\n{inner}\n</a-2>"
    assert block("a", outer).startswith("<a-3>\n")


@given(st.text(max_size=80) | st.binary(max_size=80).map(os.fsdecode))
def test_what_is_said_of_a_name_stays_on_one_line_and_is_utf8(name: str) -> None:
    for said in (plain(name), quoted(name)):
        said.encode()
        assert len(said.splitlines()) <= 1
    assert '"' not in quoted(name)[1:-1].replace(r"\\", "").replace(r"\"", "")
