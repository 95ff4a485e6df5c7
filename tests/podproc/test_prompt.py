"""The system prompt: what the built-in template says, and what a broken one does."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.agents_md import AgentsText
from podproc.prompt import MOST, PromptContext, preload, render
from protocol.birth import PromptTemplate
from protocol.errors import InvalidRequest
from protocol.summaries import ScopeSummary

ALICE = PromptContext(
    pod="alice", cwd="/w", workspace="/w", scope=ScopeSummary(write=("/w/a", "/w/b"))
)
FULL = PromptContext(
    pod="alice",
    cwd="/w/sub",
    workspace="/w",
    role="reviewer",
    description="reads",
    instruction="Be brief.",
    language="German",
    scope=ScopeSummary(read=("/r",), write=("/w/a",)),
    delegation=ScopeSummary(write=("/w/lent",)),
    tools=("Bash", "Read"),
    agents_md=(
        AgentsText("/w/AGENTS.md", "root's", "1", 6, 6),
        AgentsText("/w/sub/AGENTS.md", "nearest", "2", 7, 9, "[dropped]"),
    ),
    memory="REMEMBER",
)


def render_with(config: Path, template: str, context: PromptContext = ALICE) -> str:
    """Render an operator's template."""
    return render(context, PromptTemplate(file=str(config / "system.md.j2"), text=template))


def refusal(config: Path, template: str) -> InvalidRequest:
    """Return how a template is refused; it names the file and says what to do."""
    with pytest.raises(InvalidRequest) as refused:
        render_with(config, template)
    error = refused.value
    assert str(config / "system.md.j2") in error.message
    assert error.details["file"] == str(config / "system.md.j2")
    assert "remove it for the built-in one" in (error.next_step or "")
    assert "agents_md" in (error.next_step or "")
    error.to_body()
    return error


def test_a_plain_pod_is_told_who_and_where_it_is_and_what_it_may_write() -> None:
    said = "You are the agent alice. Your working directory is /w. You may write: /w/a, /w/b."
    assert render(ALICE) == said
    nobody = dataclasses.replace(ALICE, scope=ScopeSummary(), instruction="Be good.\n")
    assert render(nobody) == (
        "Be good.\n\n\n"
        "You are the agent alice. Your working directory is /w. You may write: nowhere."
    )


def test_all_that_a_pod_has_is_in_its_prompt() -> None:
    assert render(FULL) == (
        "Be brief.\n\n"
        "You are the agent alice (reviewer). Your working directory is /w/sub. "
        "You may write: /w/a. The workspace is /w. "
        "Pods that you spawn may be given for writing: /w/lent. "
        "Answer in this language: German.\n\n"
        "These files say how to work here. Where they differ the later one counts; "
        "what the user says counts more.\n\n"
        '<agents_md-1 path="/w/AGENTS.md">\nroot\'s\n</agents_md-1>\n\n'
        '<agents_md-1 path="/w/sub/AGENTS.md">\nnearest\n</agents_md-1>\n[dropped]\n\n'
        "REMEMBER"
    )


@given(st.text(max_size=100) | st.sampled_from(["{{ pod }}", "{% raw %}", "{#", "#}", "<b>&\n"]))
def test_an_instruction_is_inserted_as_it_is(text: str) -> None:
    context = dataclasses.replace(ALICE, instruction=text, memory=text)
    said = render(context)
    assert said.startswith(text)
    assert said.endswith(text)


def test_an_operators_template_takes_the_place_of_the_built_in_one(tmp_path: Path) -> None:
    template = (
        "{{ pod }} {{ role }} {{ description }} {{ instruction }} {{ language }} {{ cwd }} "
        "{{ workspace }} {{ scope.read[0] }} {{ delegation.write|join }} {{ tools|join('+') }} "
        "{% for f in agents_md %}{{ f.path }}={{ f.text }}{{ f.sha256 }}{{ f.bytes }} {% endfor %}"
        "{{ memory }} {% for n in range(3) %}{{ n * 2 }}{% endfor %} {{ 2 ** 10 }}"
    )
    assert render_with(tmp_path, template, FULL) == (
        "alice reviewer reads Be brief. German /w/sub /w /r /w/lent Bash+Read "
        "/w/AGENTS.md=root's16 /w/sub/AGENTS.md=nearest27 REMEMBER 024 1024"
    )


def test_each_field_of_the_context_may_be_named_and_nothing_else(tmp_path: Path) -> None:
    for field in dataclasses.fields(PromptContext):
        render_with(tmp_path, f"{{{{ {field.name} }}}}")
    for name in ("now", "lipsum", "date", "environ", "config"):
        assert f"'{name}' is undefined" in refusal(tmp_path, f"{{{{ {name} }}}}").message


def test_two_renderings_are_the_same() -> None:
    assert render(FULL) == render(FULL)


@pytest.mark.parametrize(
    ("template", "line", "cause"),
    [
        ("one\n{% if %}", 2, "Expected an expression"),
        ("one\n\n{{ pod", 3, "unexpected end of template"),
        ("{% endfor %}", 1, "unknown tag 'endfor'"),
        ("one\ntwo {{ nope }}", 2, "'nope' is undefined"),
        ("\n{{ scope.nope }}", 2, "has no attribute 'nope'"),
        ("{{ [1]|random }}", 1, "No filter named 'random'"),
        ("\n{{ ''.__class__.__mro__ }}", 2, "is unsafe"),
        ("{{ scope.model_copy() }}", 1, "is unsafe"),
        ("{{ range.__globals__ }}", 1, "is unsafe"),
        ("{{ self.__init__ }}", 1, "is unsafe"),
        ("{{ '{0.__class__}'.format(pod) }}", 1, "is unsafe"),
        ("{% include 'x' %}", 1, "no loader"),
        ("{% extends '/etc/passwd' %}", 1, "no loader"),
        ("\n{% import 'x' as y %}", 2, "no loader"),
        ("{{ 1 / 0 }}", 1, "division by zero"),
        ("{{ pod() }}", 1, "not callable"),
        ("{% for n in range(10 ** 9) %}{% endfor %}", 1, "more than 100000 steps"),
        ("{% for a in range(999) %}{% for b in range(999) %}{% endfor %}{% endfor %}", 1, "steps"),
        ("\n{{ range(10 ** 9)|list }}", 2, "more than 100000 steps"),
        ("{{ 'x' * 10 ** 9 }}", 1, "a product of more than"),
        ("{{ 10 ** 9 * [1] }}", 1, "a product of more than"),
        ("{{ 10 ** 999 }}", 1, "a power above"),
        ("{{ 9 ** 64 ** 64 }}", 1, "too high a number"),
        ("{{ pod ** 2 }}", 1, "abs()"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", 1, "recursion"),
        ("{% for n in range(9) %}{{ 'x' * 99999 }}{% endfor %}", None, "more than 262144 bytes"),
        ("x" * (MOST + 1), None, "more than 262144 bytes"),
        ("{{" + "(" * 3000 + "1" + ")" * 3000 + "}}", None, ""),
        ("{% if 1 %}" * 200 + "x" + "{% endif %}" * 200, None, ""),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else None,
)
def test_a_template_that_does_not_work_names_its_line_and_cause(
    tmp_path: Path, template: str, line: int | None, cause: str
) -> None:
    error = refusal(tmp_path, template)
    assert error.details.get("line") == line
    assert cause in error.message
    assert (f", line {line}:" in error.message) == (line is not None)
    assert len(error.message) < 2000


def test_a_prompt_can_always_be_stored(tmp_path: Path) -> None:
    odd = dataclasses.replace(ALICE, cwd="/w/" + os.fsdecode(b"\xe9"))
    assert "/w/?" in render(odd)
    assert render_with(tmp_path, "{{ '\\ud800' }}") == "?"


def test_a_render_after_a_failure_has_its_own_budget(tmp_path: Path) -> None:
    refusal(tmp_path, "{% for n in range(10 ** 9) %}{% endfor %}")
    loop = "{% for n in range(99999) %}{% endfor %}ok"
    assert [render_with(tmp_path, loop) for _ in range(2)] == ["ok", "ok"]


def test_jinja_is_imported_by_the_first_rendering_or_by_preload() -> None:
    code = (
        "import sys, podproc.prompt as p; assert 'jinja2' not in sys.modules; p.preload(); "
        "before = set(sys.modules); "
        "p.render(p.PromptContext('a', '/w', '/w')); "
        "assert set(sys.modules) == before, set(sys.modules) - before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    preload()
