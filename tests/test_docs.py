"""The documents say what the code is: commands, keys, codes, files, links, the lifecycle table.

A sentence that promises too much is not found here; a name that does not exist is.
`python -m tests.test_docs` writes the lifecycle table into its page.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from protocol.errors import ErrorCode
from protocol.manifest import Engine, FleetTable, PodTable, Script, ScriptedAnswer, SupervisorTable
from supervisor.cli.app import COMMANDS, App, cli
from supervisor.cli.exit_codes import OF_ERROR
from supervisor.core.lifecycle import render_table
from supervisor.fleet_file import load_fleet

PROJECT = Path(__file__).parents[1]
PACKAGES = ("protocol", "podproc", "supervisor")
DOCUMENTS = sorted(
    [
        *PROJECT.glob("*.md"),
        *PROJECT.glob("docs/**/*.md"),
        *PROJECT.glob("examples/**/*.md"),
        *(PROJECT / package / "README.md" for package in PACKAGES),
    ]
)
LIFECYCLE = PROJECT / "docs/lifecycle.md"
MARKS = ("<!-- lifecycle: begin -->\n", "<!-- lifecycle: end -->\n")

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?:protocol|podproc|supervisor|tests|scripts|docs|examples)/[\w./-]*")
_MACHINE = re.compile(r"(?<![\w~.<>])/(?:work|root|home|Users|mnt|srv)/|/tmp/(?!podsup-)")

every_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT))
)


def blocks_of(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language; "" is none."""
    return [body for found, body in _FENCED.findall(text) if found == language]


def words_of(text: str) -> list[str]:
    """Return what stands between single backticks."""
    return _INLINE.findall(_FENCED.sub("", text).replace(r"\|", "|"))


def section_of(text: str, heading: str) -> str:
    """Return the part of a document below a heading, up to the next one of its level."""
    level = heading.split()[0]
    _, _, rest = text.partition(f"\n{heading}\n")
    assert rest, f"there is no section {heading!r}"
    return re.split(rf"^{level} ", rest, flags=re.MULTILINE)[0]


def cells_of(text: str) -> Iterator[list[str]]:
    """Yield the cells of each table row."""
    for line in text.replace(r"\|", "/").splitlines():
        if line.startswith("|") and not line.startswith("|--"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def anchors_of(text: str) -> set[str]:
    """Return the anchors of a document's headings, as they are made on the web."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_of(args: list[str]) -> tuple[str | None, list[str]]:
    """Return the command of a line and what follows it, less the options shared by all."""
    rest = list(args)
    while rest and rest[0].strip("[]").startswith("-"):
        shared = {name for option in cli.params for name in option.opts}
        assert rest[0].strip("[]") in shared, f"podsup has no option {rest[0]}"
        del rest[:2]
    return (rest[0], rest[1:]) if rest else (None, [])


def found_command(name: str) -> click.Command:
    """Return a command by name; fails for one that does not exist."""
    assert name in COMMANDS, f"there is no command `podsup {name}`"
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def found_below(name: str, rest: list[str]) -> tuple[click.Command, list[str]]:
    """Return a command, that of a group where one is named, and what follows it."""
    command = found_command(name)
    while isinstance(command, click.Group) and rest and rest[0].islower():
        assert rest[0] in command.commands, f"there is no command `podsup {name} {rest[0]}`"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def every_command() -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its whole name, those of groups, too."""
    for name in COMMANDS:
        command = found_command(name)
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", one) for below, one in command.commands.items())


def check_synopsis(line: str) -> None:
    """Check the command and the options of a line that may have brackets and placeholders."""
    name, rest = command_of(line.split()[1:])
    if name is None or not name.islower():  # podsup COMMAND …
        return
    command, rest = found_below(name, rest)
    known = {option for param in command.params for option in param.opts}
    known |= {"--help", "-h"}
    for word in rest:
        option = word.strip("[]()…,").partition("=")[0]
        if option.startswith("-") and len(option) > 1:
            assert option in known, f"{line!r}: `podsup {name}` has no option {option}"


def check_command(line: str) -> None:
    """Check a line that is meant to be typed: click takes it."""
    name, rest = command_of(shlex.split(line, comments=True)[1:])
    assert name is not None, line
    command, rest = found_below(name, rest)
    with command.make_context(name, rest, obj=App()):
        pass


def typed_in(block: str) -> Iterator[str]:
    """Yield the podsup commands of a block: those after a prompt, or all lines without one."""
    lines = block.splitlines()
    has_prompts = any(line.startswith("$ ") for line in lines)
    for line in lines:
        if has_prompts and not line.startswith("$ "):
            continue
        line = line.removeprefix("$ ")
        if line.startswith("podsup "):
            yield line


@every_document
def test_every_command_of_a_document_exists_with_its_options(document: Path) -> None:
    text = document.read_text()
    for block in [*blocks_of(text, ""), *blocks_of(text, "console"), *blocks_of(text, "sh")]:
        for line in typed_in(block):
            (check_synopsis if "[" in line else check_command)(line)
    for word in words_of(text):
        if word.startswith("podsup "):
            check_synopsis(word)


def test_a_command_that_does_not_exist_is_found() -> None:
    for line in (
        "podsup fly alice",
        "podsup ps --wings",
        "podsup -x ps",
        "podsup session fly",
        "podsup session fsck alice --wings",
    ):
        with pytest.raises(AssertionError, match=r"no (command|option)"):
            check_synopsis(line)
    with pytest.raises(click.UsageError):
        check_command("podsup stop alice --grace soon")


def test_the_command_page_names_every_command_and_every_option() -> None:
    text = (PROJECT / "docs/cli.md").read_text()
    for name, command in every_command():
        assert f"`podsup {name}" in text, f"podsup {name} is not in docs/cli.md"
        for param in command.params:
            if isinstance(param, click.Option):
                known = "|".join(map(re.escape, param.opts))
                told = re.search(rf"(?<![\w-])({known})(?![\w-])", text)
                assert told, f"podsup {name} {param.opts[-1]} is not in docs/cli.md"


def test_the_lifecycle_page_shows_the_table_of_the_code() -> None:
    _, _, rest = LIFECYCLE.read_text().partition(MARKS[0])
    assert rest.partition(MARKS[1])[0] == render_table(), "run: python -m tests.test_docs"


def test_the_table_of_exit_codes_holds_every_error_code() -> None:
    text = (PROJECT / "docs/cli.md").read_text()
    rows = {row[0]: row[2] for row in cells_of(section_of(text, "## Exit codes")) if len(row) == 3}
    assert set(OF_ERROR) == set(ErrorCode)
    for code, exit_code in OF_ERROR.items():
        assert f"`{code}`" in rows[str(exit_code)], f"{code} ends with {exit_code}"


def test_the_fleet_file_page_names_every_key() -> None:
    text = (PROJECT / "docs/fleet-file.md").read_text()
    named = {part for word in words_of(text) for part in re.findall(r"\w+", word)}
    for model in (FleetTable, SupervisorTable, PodTable, Engine, Script, ScriptedAnswer):
        missing = model.model_fields.keys() - named
        assert not missing, f"{model.__name__}: {', '.join(sorted(missing))}"


@every_document
def test_every_toml_example_is_valid(document: Path, tmp_path: Path) -> None:
    for block in blocks_of(document.read_text(), "toml"):
        assert tomllib.loads(block)
        if "[fleet]" in block:
            (tmp_path / "podsup.toml").write_text(block)
            assert load_fleet(tmp_path, config_dir=None).unavailable == ()


@every_document
def test_every_link_within_the_repository_leads_somewhere(document: Path) -> None:
    for link in _LINK.findall(_FENCED.sub("", document.read_text())):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = document.parent / file if file else document
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors_of(target.read_text()), f"{link} has no heading"


@every_document
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    for word in words_of(text):
        if _PATH.fullmatch(word):
            near = (PROJECT / word, document.parent / word)
            assert any(path.exists() for path in near), f"there is no {word}"


def test_the_code_map_covers_the_packages() -> None:
    words = words_of(section_of((PROJECT / "ARCHITECTURE.md").read_text(), "## Code map"))
    named = {word for word in words if _PATH.fullmatch(word)}
    assert {f"{package}/" for package in PACKAGES} < named
    for package in PACKAGES:
        for folder in (p.parent for p in (PROJECT / package).glob("*/__init__.py")):
            inside = f"{folder.relative_to(PROJECT)}/"
            assert any(word.startswith(inside) for word in named), f"{inside} is not in the map"


def test_every_name_that_architecture_and_decisions_cite_is_defined() -> None:
    sources = "\n".join(
        path.read_text()
        for folder in (*PACKAGES, "tests")
        for path in (PROJECT / folder).rglob("*.py")
    )
    found = re.findall(r"(?:def|class) (\w+)|^(\w+)(?::[^=\n]+)? = ", sources, re.MULTILINE)
    defined = {name for pair in found for name in pair}
    architecture = (PROJECT / "ARCHITECTURE.md").read_text()
    cited = words_of(section_of(architecture, "## The way a message travels"))
    cited += words_of(section_of(architecture, "## Invariants, and where each is enforced"))
    for decision in PROJECT.glob("docs/adr/0*.md"):
        cited += words_of(decision.read_text().partition("**Evidence.**")[2])
    for word in cited:
        if re.fullmatch(r"_\w+|test_\w+|[A-Z]\w*\.\w+", word):
            missing = [name for name in word.split(".") if name not in defined]
            assert not missing, f"{word}: nothing is named {missing[0]}"


def test_decisions_are_numbered_listed_and_whole() -> None:
    folder = PROJECT / "docs/adr"
    pages = sorted(folder.glob("0*.md"))
    assert [page.name[:4] for page in pages] == [f"{n:04}" for n in range(1, len(pages) + 1)]
    index = (folder / "README.md").read_text()
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"# {page.name[:4]} ")
        assert f"({page.name})" in index
        for part in ("Context", "Decision", "Consequences", "Evidence"):
            assert f"**{part}.**" in text, f"{page.name} has no {part.lower()}"


@every_document
def test_no_document_names_a_path_of_somebodys_machine(document: Path) -> None:
    found = _MACHINE.search(document.read_text())
    assert found is None, f"{found[0] if found else ''}"


def write_lifecycle() -> None:
    """Put the table of the code into its page."""
    before, _, rest = LIFECYCLE.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    LIFECYCLE.write_text(before + MARKS[0] + render_table() + MARKS[1] + after)


if __name__ == "__main__":
    write_lifecycle()
