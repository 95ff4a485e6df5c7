"""Fleet files as people write them: what good ones resolve to, and how bad ones are explained."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from protocol.manifest import Scheme, SupervisorTable
from protocol.scope import Permission, effective_permission
from supervisor.core.operator_settings import OperatorSettings
from supervisor.fleet_file import (
    INIT_TEMPLATE,
    Fleet,
    FleetFileInvalid,
    Mistake,
    json_schema,
    load_fleet,
    nearest,
    resolve_pod,
)
from supervisor.toml_source import SyntaxMistake, read_source


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return an empty folder with a good name, free of links."""
    folder = Path(os.path.realpath(tmp_path)) / "work"
    folder.mkdir()
    return folder


def load(work: Path, text: str, **environ: str) -> Fleet:
    (work / "podsup.toml").write_text(text)
    return load_fleet(work, config_dir=None, environ=environ)


def mistakes(work: Path, text: str) -> tuple[Mistake, ...]:
    with pytest.raises(FleetFileInvalid) as caught:
        load(work, text)
    return caught.value.mistakes


def only_mistake(work: Path, text: str) -> Mistake:
    (found,) = mistakes(work, text)
    return found


FULL = """
[fleet]
name = "kitchen"
workspace = "site"

[supervisor]
beat_interval_s = 0.5
unreachable_after_s = 8
hang_timeout_s = 40
orphan_policy = "adopt"

[defaults]
restart = "never"
scope = { deny = [{ target = "private", permission = "read" }] }
[defaults.model]
scheme = "openai_chat"
model_id = "local"
base_url = "http://127.0.0.1:8080/v1"
[defaults.engine]
max_turns = 7
instruction = "Be kind."
[[defaults.permissions.rule]]
tool = "*"
action = "allow"

[[pod]]
name = "cook"
profile = "profiles/cook.toml"
task = "Read the menu."
restart = "on-failure"
essential = true
cwd = "stove"
scope = { allow = [{ target = "notes", permission = "write", recursive = false }] }
delegation_scope = { allow = [{ target = "stove/pots", permission = "write" }] }
engine = { max_turns = 40 }
sandbox = { mode = "prefer", network = true, extra_read = ["~/.cache/menu", "shelf"] }
hang_timeout_s = 0
[[pod.permissions.rule]]
tool = "Bash"
pattern = "rm *"
action = "deny"

[[pod]]
name = "waiter"
[pod.model]
scheme = "scripted"
script = "waiter.toml"
chars_per_s = 9
"""
PROFILE = """
description = "One who cooks."
restart = "always"
stop_grace_s = 2
scope = { allow = [{ target = "stove/pans", permission = "write" }] }
engine = { temperature = 0.5, instruction = "Taste it." }
"""
SCRIPT = """
on_exhausted = "repeat_last"
chars_per_s = 1
[[answers]]
match = "menu"
text = "Soup."
tool_calls = [{ name = "Read", arguments = { file_path = "${cwd}/menu" } }]
"""


@pytest.fixture
def full(work: Path) -> Fleet:
    (work / "site/stove").mkdir(parents=True)
    (work / "profiles").mkdir()
    (work / "profiles/cook.toml").write_text(PROFILE)
    (work / "waiter.toml").write_text(SCRIPT)
    return load(work, FULL, OPENAI_API_KEY="k")


def test_full_file_resolves_its_fleet_and_supervisor(full: Fleet, work: Path) -> None:
    assert (full.name, full.file) == ("kitchen", work / "podsup.toml")
    assert full.workspace == work / "site"
    assert full.supervisor.unreachable_after_s == 8
    assert [pod.name for pod in full.pods] == ["cook", "waiter"]
    assert full.warnings == ()
    assert full.unavailable == ()


def test_upper_layers_hide_values_merge_tables_and_add_rules(full: Fleet, work: Path) -> None:
    cook, waiter = full.pods
    assert (cook.restart, waiter.restart) == ("on-failure", "never")
    assert (cook.description, cook.stop_grace_s) == ("One who cooks.", 2)
    assert (cook.engine.max_turns, cook.engine.temperature) == (40, 0.5)
    assert (cook.engine.instruction, waiter.engine.instruction) == ("Taste it.", "Be kind.")
    assert [(rule.tool, rule.action) for rule in cook.permissions.rule] == [
        ("Bash", "deny"),
        ("*", "allow"),
    ]
    site = f"{work}/site"
    assert [(rule.target, rule.permission, rule.recursive) for rule in cook.scope.allow] == [
        (f"{site}/notes", "write", False),
        (f"{site}/stove/pans", "write", True),
        (site, "read", True),
    ]
    assert [rule.target for rule in cook.scope.deny] == [f"{site}/private"]


def test_paths_are_resolved_from_where_each_kind_starts(full: Fleet, work: Path) -> None:
    cook, waiter = full.pods
    assert (cook.workspace, cook.cwd) == (f"{work}/site", f"{work}/site/stove")
    assert waiter.cwd == waiter.workspace
    assert cook.delegation_scope.allow[0].target == f"{work}/site/stove/pots"
    home = os.path.realpath(os.path.expanduser("~"))
    assert cook.sandbox.extra_read == (f"{home}/.cache/menu", f"{work}/site/shelf")


def test_timeouts_come_from_the_supervisor_unless_a_pod_has_its_own(full: Fleet) -> None:
    cook, waiter = full.pods
    assert (cook.hang_timeout_s, waiter.hang_timeout_s) == (0, 40)
    assert cook.beat_interval_s == waiter.beat_interval_s == 0.5


def test_script_becomes_answers_and_yields_to_what_the_pod_says(full: Fleet) -> None:
    model = full.pods[1].model
    assert model.scheme is Scheme.SCRIPTED
    assert (model.on_exhausted, model.chars_per_s) == ("repeat_last", 9)
    assert model.answers[0].tool_calls[0].arguments == {"file_path": "${cwd}/menu"}


def test_json_script_is_played_too(work: Path) -> None:
    (work / "s.json").write_text(json.dumps({"answers": [{"text": "one"}]}))
    fleet = load(work, "[[pod]]\nname = 'a'\nmodel = { script = 's.json' }\n")
    assert fleet.pods[0].model.answers[0].text == "one"


def test_profile_looks_for_its_script_beside_itself(work: Path) -> None:
    (work / "far").mkdir()
    (work / "far/p.toml").write_text("model = { script = 's.toml' }")
    (work / "far/s.toml").write_text("answers = [{ text = 'far' }]")
    fleet = load(work, "[[pod]]\nname = 'a'\nprofile = 'far/p.toml'\n")
    assert fleet.pods[0].model.answers[0].text == "far"


def test_user_config_lies_under_the_fleets_defaults(work: Path, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "config.toml").write_text("[defaults]\nrole = 'mine'\nstop_grace_s = 1\n")
    (work / "podsup.toml").write_text("[defaults]\nstop_grace_s = 2\n[[pod]]\nname = 'a'\n")
    (pod,) = load_fleet(work, config_dir=config).pods
    assert (pod.role, pod.stop_grace_s) == ("mine", 2)


def test_mistake_in_the_user_config_names_that_file(work: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[defaults]\nrestart = 'alway'\n")
    (work / "podsup.toml").write_text("")
    with pytest.raises(FleetFileInvalid) as caught:
        load_fleet(work, config_dir=tmp_path)
    (found,) = caught.value.mistakes
    assert (found.file.name, found.line, found.suggestion) == ("config.toml", 2, "always")


def test_pod_without_anything_may_read_its_workspace_and_write_nowhere(work: Path) -> None:
    (pod,) = load(work, "[[pod]]\nname = 'a'\n").pods
    assert effective_permission(pod.scope, f"{work}/any/file") is Permission.READ
    assert effective_permission(pod.scope, "/etc/passwd") is None


def test_scope_targets_are_stored_with_their_links_resolved(work: Path) -> None:
    (work / "real").mkdir()
    (work / "link").symlink_to("real")
    rule = "{ target = 'link/new', permission = 'write' }"
    (pod,) = load(work, f"[[pod]]\nname = 'a'\nscope = {{ allow = [{rule}] }}\n").pods
    assert pod.scope.allow[0].target == f"{work}/real/new"


@pytest.mark.parametrize("permission", ["write", "read"])
def test_deny_on_a_link_denies_both_names(work: Path, permission: str) -> None:
    """Whatever the path passes through: a link at its end, on its way, and a link to a link."""
    (work / "real/sub").mkdir(parents=True)
    (work / "one").symlink_to("real")
    (work / "two").symlink_to("one")
    scope = "scope = {{ allow = [{{ target = '.', permission = 'write' }}], deny = [{}] }}"
    for written, real, links in (
        ("one", "real", ["one"]),
        ("one/sub", "real/sub", ["one"]),
        ("two/sub/new", "real/sub/new", ["two", "one"]),
        ("real", "real", []),
    ):
        rule = f"{{ target = '{written}', permission = '{permission}' }}"
        (pod,) = load(work, f"[[pod]]\nname = 'a'\n{scope.format(rule)}\n").pods
        assert [(r.target, r.permission) for r in pod.scope.deny] == [
            (f"{work}/{real}", permission),
            *((f"{work}/{link}", "write") for link in links),
        ]
        for link in links:
            may = effective_permission(pod.scope, f"{work}/{link}")
            assert may is Permission.READ, "nobody replaces it"


def test_link_on_an_allowed_path_is_allowed_by_no_name_of_its_own(work: Path) -> None:
    (work / "real").mkdir()
    (work / "link").symlink_to("real")
    rule = "{ target = 'link', permission = 'write' }"
    (pod,) = load(work, f"[[pod]]\nname = 'a'\nscope = {{ allow = [{rule}] }}\n").pods
    assert effective_permission(pod.scope, f"{work}/link") is Permission.READ


@pytest.mark.parametrize("name", ["big", "nobody:x", "anthropic:", ":x"])
def test_delegation_model_without_a_scheme_is_a_mistake(work: Path, name: str) -> None:
    found = only_mistake(work, f"[[pod]]\nname = 'a'\ndelegation_models = ['{name}']\n")
    assert found.key == "pod.delegation_models"
    assert "scheme:model id" in found.message
    assert "anthropic" in found.message


def test_caps_reach_the_supervisor_and_the_pods(work: Path) -> None:
    text = "[supervisor]\nmax_children = 2\nmax_notification_runs = { per_hour = 7 }\n"
    found = load(work, f"{text}[[pod]]\nname = 'a'\n")
    assert (found.supervisor.max_children, found.supervisor.max_depth) == (2, 4)
    bounds = found.pods[0].max_notification_runs
    assert (bounds.per_minute, bounds.per_hour) == (30, 7)
    for key in ("max_children", "max_tree", "max_depth"):
        assert "greater than" in only_mistake(work, f"[supervisor]\n{key} = 0\n").message


@pytest.mark.parametrize(
    ("folder", "name"), [("My Fleet!", "my-fleet"), ("ok-1.2", "ok-1.2"), ("...", "fleet")]
)
def test_fleet_is_named_after_its_folder(work: Path, folder: str, name: str) -> None:
    (work / folder).mkdir()
    assert load(work / folder, "").name == name


def test_template_of_init_loads_cleanly_and_could_start(work: Path) -> None:
    fleet = load(work, INIT_TEMPLATE)
    assert [pod.name for pod in fleet.pods] == ["hello"]
    assert (fleet.warnings, fleet.unavailable) == ((), ())
    assert fleet.pods[0].scope.allow[0].target == f"{work}/out/hello"


def test_commented_keys_of_the_template_are_right_as_well(work: Path) -> None:
    (work / "profiles").mkdir()
    (work / "profiles/writer.toml").write_text("")
    text = re.sub(r"^scheme = .*\n", "", INIT_TEMPLATE, flags=re.M)
    text = re.sub(r"^# (?=\w+ = )", "", text, flags=re.M)
    text = text.replace("[[pod.model.answers]]", "[[ignored]]").split("# What the embedded")[0]
    fleet = load(work, text, MY_KEY="k")
    assert fleet.pods[0].model.scheme is Scheme.ANTHROPIC
    assert fleet.pods[0].engine.max_turns == 40


# ---- bad files -----------------------------------------------------------------------------------


def test_unknown_key_is_named_with_its_line_and_the_nearest_key(work: Path) -> None:
    found = only_mistake(work, "[[pod]]\nnam = 'x'\n")
    assert (found.line, found.key, found.suggestion) == (2, "pod.nam", "name")
    assert str(found).endswith("podsup.toml:2: pod.nam: unknown key 'nam' (did you mean 'name'?)")


def test_nearest_key_is_looked_for_in_the_table_that_has_the_mistake(work: Path) -> None:
    text = """
[fleet]
nane = "x"
[supervisor]
hang_timeout = 3
[defaults.engine.retry]
atempts = 1
[[pod]]
name = "a"
[pod.model]
schema = "scripted"
[[pod.model.answers]]
text = "one"
[[pod.model.answers]]
tool_call = []
[pod.feature]
pod = true
[pods]
"""
    assert [(found.line, found.suggestion) for found in mistakes(work, text)] == [
        (3, "name"),
        (5, "hang_timeout_s"),
        (7, "attempts"),
        (11, "scheme"),
        (15, "tool_calls"),
        (17, "pods"),
        (18, "pod"),
    ]


def test_two_pods_of_one_name_are_named(work: Path) -> None:
    found = only_mistake(work, "[[pod]]\nname = 'twin'\n[[pod]]\nname = 'twin'\n")
    assert "'twin'" in found.message
    assert "line 2" in found.message
    assert found.line == 4


def test_bad_name_is_shown_with_a_good_one(work: Path) -> None:
    found = only_mistake(work, "[[pod]]\nname = '../x'\n")
    assert "'../x'" in found.message
    assert (found.line, found.suggestion) == (2, "x")


def test_pod_without_a_name_is_told_so(work: Path) -> None:
    found = only_mistake(work, "\n[[pod]]\ntask = 'x'\n")
    assert (found.line, found.message) == (2, "needs a 'name'")


@pytest.mark.parametrize(("text", "line"), [("[fleet\n", 1), ("\na = 'b", 2), ("a = [\n1,\n", 2)])
def test_syntax_mistake_says_its_line(work: Path, text: str, line: int) -> None:
    found = only_mistake(work, text)
    assert found.line == line
    assert f"line {line}" in found.message


def test_file_that_is_not_text_is_a_mistake(work: Path) -> None:
    (work / "podsup.toml").write_bytes(b"# fine\n\xff\n")
    with pytest.raises(FleetFileInvalid) as caught:
        load_fleet(work, config_dir=None)
    assert caught.value.mistakes[0].line == 2


def test_file_that_is_not_there_is_a_mistake(work: Path) -> None:
    with pytest.raises(FleetFileInvalid, match=r"podsup\.toml: No such file") as refused:
        load_fleet(work, config_dir=None)
    assert str(refused.value.next_step).startswith("podsup init")


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("model = { script = 'gone.toml' }", "gone.toml"),
        ("profile = 'gone.toml'", "gone.toml"),
        ("cwd = 'gone'", "gone"),
        ("workspace = 'gone'", "gone"),
        ("cwd = '../work'", "../work"),
        ("profile = 'a/../../p.toml'", "a/../../p.toml"),
        ("scope = { allow = [{ target = '..', permission = 'read' }] }", "'..'"),
        ("scope = { allow = [{ target = '/none/../x', permission = 'read' }] }", "/none/../x"),
        ("sandbox = { extra_write = ['../out'] }", "../out"),
    ],
)
def test_path_that_leads_nowhere_or_out_is_named_with_its_line(
    work: Path, line: str, names: str
) -> None:
    found = only_mistake(work, f"[[pod]]\nname = 'a'\n{line}\n")
    assert names in found.message
    assert found.line == 3


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("cwd = 'in/link'", "cwd"),
        ("workspace = 'in/link'", "workspace"),
        ("scope = { allow = [{ target = 'in/link', permission = 'write' }] }", "target"),
        ("scope = { allow = [{ target = 'in/link/new', permission = 'read' }] }", "target"),
        ("scope = { deny = [{ target = 'in/link', permission = 'read' }] }", "target"),
        ("delegation_scope = { allow = [{ target = 'in/link', permission = 'read' }] }", "target"),
        ("sandbox = { extra_read = ['in/link'] }", "extra_read"),
        ("sandbox = { extra_write = ['in/link'] }", "extra_write"),
    ],
)
def test_relative_path_that_a_link_leads_out_is_a_mistake(work: Path, line: str, key: str) -> None:
    outside = work.parent / "outside"
    outside.mkdir()
    (work / "in").mkdir()
    (work / "in/link").symlink_to("../../outside")
    found = only_mistake(work, f"[[pod]]\nname = 'a'\n{line}\n")
    assert f"{work}/in/link is a link to {outside}" in found.message
    assert (found.line, key in found.key) == (3, True)
    load(work, f"[[pod]]\nname = 'a'\n{line.replace('in/link', str(work / 'in/link'))}\n")


GIVES = [
    "cwd = '{}'",
    "workspace = '{}'",
    "scope = {{ allow = [{{ target = '{}', permission = 'write' }}] }}",
    "scope = {{ allow = [{{ target = '{}/new', permission = 'read' }}] }}",
    "delegation_scope = {{ allow = [{{ target = '{}', permission = 'read' }}] }}",
    "sandbox = {{ extra_read = ['{}'] }}",
    "sandbox = {{ extra_write = ['{}/new'] }}",
]
"""What a pod is given of a folder."""

WRITER = [
    "scope = {{ allow = [{{ target = '{}', permission = 'write' }}] }}",
    "delegation_scope = {{ allow = [{{ target = '{}', permission = 'write' }}] }}",
    "sandbox = {{ extra_write = ['{}'] }}",
]
"""How a pod may write in a folder."""


@pytest.mark.parametrize("gives", GIVES)
@pytest.mark.parametrize("writer", WRITER)
def test_folder_is_given_through_no_link_that_a_pod_may_replace(
    work: Path, gives: str, writer: str
) -> None:
    """At the next start it would lead where the pod wants; who may write may be another pod."""
    (outside := work.parent / "outside").mkdir()
    (work / "in").mkdir()
    (link := work / "in/link").symlink_to(outside)
    given = f"[[pod]]\nname = 'a'\n{gives.format(link)}\n"
    (found,) = {
        m.message for m in mistakes(work, f"{given}[[pod]]\nname = 'b'\n{writer.format(work)}\n")
    }
    assert found.startswith(f"{link} is a link in a folder that b may write")
    assert "name the folder itself" in found
    load(work, f"{given}[[pod]]\nname = 'b'\n{writer.format(work / 'elsewhere')}\n")


def test_link_in_a_folder_of_the_own_scope_gives_nothing_more(work: Path) -> None:
    (work / "other").mkdir()
    (work / "own").mkdir()
    (work / "own/link").symlink_to("../other")
    rules = ", ".join(
        f"{{ target = '{target}', permission = 'write' }}" for target in ("own", "own/link")
    )
    found = only_mistake(work, f"[[pod]]\nname = 'a'\nscope = {{ allow = [{rules}] }}\n")
    assert "that a may write" in found.message
    allow = [{"target": str(work), "permission": "write"}]
    for table in (
        {"sandbox": {"extra_read": ["own/link"]}, "scope": {"allow": allow}},
        {"scope": {"allow": [*allow, {"target": "own/link", "permission": "write"}]}},
    ):
        with pytest.raises(FleetFileInvalid, match="a link in a folder that b may write"):
            resolve_pod(
                {"name": "b", **table},
                fleet="work",
                workspace=str(work),
                supervisor=SupervisorTable(),
                settings=OperatorSettings(),
            )


def test_relative_path_may_follow_a_link_inside(work: Path) -> None:
    (work / "in").mkdir()
    (work / "link").symlink_to("in")
    fleet = load(work, "[[pod]]\nname = 'a'\ncwd = 'link'\n")
    assert fleet.pods[0].cwd == str(work / "in")


def test_pods_of_one_folder_with_two_names_are_a_mistake(work: Path) -> None:
    (work / "one").touch()
    os.link(work / "one", work / "two")
    pod = (
        "[[pod]]\nname = '{}'\nscope = {{ allow = [{{ target = '{}', permission = 'write' }}] }}\n"
    )
    found = only_mistake(work, pod.format("a", "one") + pod.format("b", "two"))
    assert "'a' and 'b' may both write" in found.message


def test_workspace_of_the_fleet_that_is_no_folder_is_a_mistake(work: Path) -> None:
    found = only_mistake(work, "[fleet]\nworkspace = 'podsup.toml'\n")
    assert (found.line, found.key) == (2, "fleet.workspace")


def test_mistake_in_a_script_names_the_script_and_its_line(work: Path) -> None:
    (work / "s.toml").write_text("[[answers]]\ntext = 'a'\n[[answers]]\nmatch = '('\n")
    found = only_mistake(work, "[[pod]]\nname = 'a'\nmodel = { script = 's.toml' }\n")
    assert (found.file.name, found.line) == ("s.toml", 4)
    assert "is no regular expression" in found.message


def test_shared_file_with_a_mistake_is_reported_once(work: Path) -> None:
    (work / "p.toml").write_text("restart = 'x'\n")
    found = only_mistake(
        work, "".join(f"[[pod]]\nname = '{name}'\nprofile = 'p.toml'\n" for name in "abc")
    )
    assert found.file.name == "p.toml"


def test_circle_of_dependencies_is_shown_as_a_path(work: Path) -> None:
    text = "".join(
        f"[[pod]]\nname = '{name}'\ndepends_on = [{{ pod = '{other}', until = 'ready' }}]\n"
        for name, other in [("hen", "egg"), ("chick", "egg"), ("egg", "hen"), ("ego", "ego")]
    )
    first, second = mistakes(work, text)
    assert "hen -> egg -> hen" in first.message
    assert first.line == 3
    assert "ego -> ego" in second.message


def test_path_of_a_long_circle_follows_the_needs(work: Path) -> None:
    text = "".join(
        f"[[pod]]\nname = '{name}'\ndepends_on = [{{ pod = '{other}' }}]\n"
        for name, other in [("b", "c"), ("c", "a"), ("a", "b")]
    )
    assert "b -> c -> a -> b" in only_mistake(work, text).message


def test_dependency_on_nobody_suggests_somebody(work: Path) -> None:
    text = "[[pod]]\nname = 'indexer'\n[[pod]]\nname = 'b'\ndepends_on = [{ pod = 'indexr' }]\n"
    found = only_mistake(work, text)
    assert (found.line, found.suggestion) == (5, "indexer")


def writer(name: str, target: str) -> str:
    rule = f"{{ target = '{target}', permission = 'write' }}"
    return f"[[pod]]\nname = '{name}'\nscope = {{ allow = [{rule}] }}\n"


def test_overlapping_write_scopes_name_both_pods_and_the_directory(work: Path) -> None:
    found = only_mistake(work, writer("left", "dir") + writer("right", "dir/e"))
    assert "'left' and 'right'" in found.message
    assert f"{work}/dir/e" in found.message
    assert (found.line, found.key) == (6, "pod.scope.allow")


def test_link_does_not_hide_an_overlap(work: Path) -> None:
    (work / "dir").mkdir()
    (work / "alias").symlink_to("dir")
    assert "'a' and 'b'" in only_mistake(work, writer("a", "dir") + writer("b", "alias/x")).message


def test_neighbours_and_readers_do_not_overlap(work: Path) -> None:
    fleet = load(work, writer("a", "dir") + writer("b", "dir2") + "[[pod]]\nname = 'c'\n")
    assert len(fleet.pods) == 3


def test_spawning_without_anything_to_lend_is_a_mistake(work: Path) -> None:
    found = only_mistake(work, "[[pod]]\nname = 'a'\nfeature = { pods = true }\n")
    assert (found.line, found.key) == (3, "pod.feature.pods")
    assert "delegation_scope" in found.message


def test_answers_for_a_model_that_plays_none_are_a_mistake(work: Path) -> None:
    text = "[defaults.model]\nscheme = 'anthropic'\nmodel_id = 'x'\n[[pod]]\nname = 'a'\n"
    found = only_mistake(work, text + "model = { answers = [{ text = 'x' }] }\n")
    assert (found.line, found.key) == (6, "pod.model.answers")


def test_real_model_needs_to_be_named(work: Path) -> None:
    found = only_mistake(work, "[[pod]]\nname = 'a'\nmodel = { scheme = 'anthropic' }\n")
    assert "'model_id'" in found.message


def test_missing_key_is_a_warning_that_names_the_variable_and_the_pods(work: Path) -> None:
    model = "[defaults.model]\nscheme = 'anthropic'\nmodel_id = 'x'\n"
    pods = "[[pod]]\nname = 'a'\n[[pod]]\nname = 'b'\n"
    assert load(work, model + pods).warnings == ("ANTHROPIC_API_KEY is not set, needed by a, b",)
    assert load(work, model + pods, ANTHROPIC_API_KEY="k").warnings == ()


def test_one_mistake_hides_no_other(work: Path) -> None:
    text = f"""
supervisr = 1
[fleet]
name = "No Name"
[[pod]]
name = "a"
restart = "alwys"
engine = {{ max_turns = "40", instruction = 3 }}
scope = {{ allow = [{{ target = "x" }}, {{ target = "dir", permission = "wright" }}] }}
[[pod]]
task = "no name"
model = {{ script = "gone.toml" }}
{writer("b", "dir")}
{writer("c", "dir/e")}
[[pod]]
name = "d"
depends_on = [{{ pod = "a", until = "tomorrow" }}, {{ pod = "dd" }}]
"""
    told = [(found.line, found.key) for found in mistakes(work, text)]
    assert sorted(told) == [
        (2, "supervisr"),
        (4, "fleet.name"),
        (7, "pod.restart"),
        (8, "pod.engine.instruction"),
        (8, "pod.engine.max_turns"),
        (9, "pod.scope.allow"),
        (9, "pod.scope.allow.permission"),
        (10, "pod"),
        (12, "pod.model.script"),
        (19, "pod.scope.allow"),
        (23, "pod.depends_on"),
        (23, "pod.depends_on.until"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[pod]\nname = 'a'\n", "write [[pod]]"),
        ("pod = 3\n", "array"),
        ("pod = [3]\n", "should be a table, not 3"),
        ("fleet = 'x'\n", 'should be a table, not "x"'),
        ("[[pod]]\nname = 'a'\nessential = 'yes'\n", 'should be a boolean, not "yes"'),
        ("[[pod]]\nname = 'a'\nsuccess_codes = [true]\n", "should be a whole number, not true"),
        ("[[pod]]\nname = 'a'\nlogs = { size = 'much' }\n", "a number of bytes"),
        ("[[pod]]\nname = 3\n", "should be a string, not 3"),
        ("[[pod]]\nname = 'a'\nmodel = { answers = [{ tool_calls = [{ name = 'x', "
         "arguments = { at = 2020-01-01 } }] }] }\n", "JSON"),
    ],
)  # fmt: skip
def test_wrong_type_is_told_in_the_words_of_the_file(work: Path, text: str, says: str) -> None:
    assert says in " ".join(map(str, mistakes(work, text)))


def test_many_writers_of_one_folder_are_told_once_each(work: Path) -> None:
    text = "".join(writer(f"p{number}", ".") for number in range(300))
    assert len(mistakes(work, text)) == 299


def test_nearest_is_none_when_nothing_is_near() -> None:
    assert nearest("nam", ["name", "task"]) == "name"
    assert nearest("zzz", ["name", "task"]) is None


def test_schema_knows_every_table_and_refuses_unknown_keys() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == {"fleet", "supervisor", "defaults", "pod"}
    assert schema["$defs"]["PodTable"]["required"] == ["name"]
    assert all(
        definition["additionalProperties"] is False
        for definition in schema["$defs"].values()
        if definition.get("type") == "object"
    )
    json.dumps(schema)


# ---- where things stand --------------------------------------------------------------------------

STRANGE = '''# not a [table]
title = "a # b" # [no]
[a . "b.c"]
text = """
[x]
y = 1 \\""" still
"""
raw = \'\'\'
k = "
\'\'\'
list = [ # one [
  "]", { z = "=" },
]
under.it = 1
[[a.rows]]
n = 1
[[a.rows.cells]]
m = 1
[[a.rows]]
  [a.rows.sub]
  "q r" = 2
'''


def test_lines_are_found_in_a_file_that_makes_it_hard(work: Path) -> None:
    (work / "x.toml").write_text(STRANGE)
    source = read_source(work / "x.toml")
    for at, line in {
        ("title",): 2,
        ("a", "b.c"): 3,
        ("a", "b.c", "text"): 4,
        ("a", "b.c", "raw"): 8,
        ("a", "b.c", "list"): 11,
        ("a", "b.c", "list", 1, "z"): 11,
        ("a", "b.c", "under", "it"): 14,
        ("a", "rows"): 15,
        ("a", "rows", 0, "n"): 16,
        ("a", "rows", 0, "cells", 0, "m"): 18,
        ("a", "rows", 1): 19,
        ("a", "rows", 1, "sub", "q r"): 21,
    }.items():
        assert source.line_of(at) == line, at
    assert source.line_of(("x",)) is None


def test_json_that_is_no_object_is_a_syntax_mistake(work: Path) -> None:
    (work / "x.json").write_text("[1]")
    with pytest.raises(SyntaxMistake):
        read_source(work / "x.json")
