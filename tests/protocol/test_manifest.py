"""The manifest: its defaults, what it refuses, the way over the wire, what is not built yet."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from protocol.manifest import (
    Feature,
    FleetFile,
    Limits,
    Model,
    PodManifest,
    PodTable,
    Restart,
    Script,
    Section,
    SupervisorTable,
    unavailable,
    unavailable_in_supervisor,
)
from protocol.names import is_pod_name
from protocol.scope import Permission

BARE = {"name": "a", "fleet": "f", "workspace": "/w", "cwd": "/w"}


def manifest(**settings: Any) -> PodManifest:
    return PodManifest.model_validate(BARE | settings)


def refused(model: type[Section], data: dict[str, Any]) -> set[str]:
    """Return the keys that a model refuses in some data."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(data)
    return {".".join(map(str, error["loc"])) for error in caught.value.errors()}


def test_bare_manifest_has_the_documented_defaults() -> None:
    pod = manifest()
    assert pod.restart is Restart.ON_FAILURE
    assert not pod.essential
    assert pod.success_codes == (0,)
    assert (pod.stop_grace_s, pod.supervisor_wait_s, pod.hang_timeout_s) == (5, 300, 60)
    assert pod.scope.allow == pod.delegation_scope.allow == ()
    assert (pod.model.scheme, pod.model.on_exhausted, pod.model.answers) == ("scripted", "echo", ())
    assert pod.sandbox.mode == "prefer"
    assert pod.engine.tool_output == 65536
    timeouts = pod.engine.timeouts
    assert (timeouts.headers_s, timeouts.first_event_s, timeouts.idle_s) == (20, 30, 60)
    assert timeouts.run_s is None
    assert unavailable(pod) == []


@pytest.mark.parametrize("name", ["a", "0", "a-b_c.d", "x" * 63])
def test_name_of_small_letters_digits_and_three_signs_is_good(name: str) -> None:
    assert is_pod_name(name)
    assert manifest(name=name).name == name


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "..", "../x", "a/b", "a b", "x" * 64, "a\n"])
def test_name_that_could_leave_its_folder_or_confuse_a_shell_is_refused(name: str) -> None:
    assert not is_pod_name(name)
    assert refused(PodManifest, BARE | {"name": name}) == {"name"}


@given(st.text(max_size=70))
def test_model_and_function_agree_on_every_name(name: str) -> None:
    try:
        manifest(name=name)
    except ValidationError:
        assert not is_pod_name(name)
    else:
        assert is_pod_name(name)


def test_unknown_keys_are_refused_at_every_depth() -> None:
    data = {
        "nam": 1,
        "name": "x",
        "engine": {"retry": {"atempts": 2}},
        "scope": {"allow": [{"target": "a", "permission": "read", "recursiv": True}]},
        "model": {"answers": [{"txt": ""}]},
    }
    assert refused(PodTable, data) == {
        "nam",
        "engine.retry.atempts",
        "scope.allow.0.recursiv",
        "model.answers.0.txt",
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("essential", 1),
        ("essential", "true"),
        ("stop_grace_s", "5"),
        ("stop_grace_s", -1),
        ("engine", {"max_turns": "40"}),
        ("engine", {"max_turns": 4.0}),
        ("engine", {"max_turns": 0}),
        ("restart", "sometimes"),
        ("model", {"answers": [{"match": "("}]}),
        ("model", {"answers": [{"chunk": 0}]}),
        ("compaction", {"threshold": 1.5}),
        ("limits", {"nice": 20}),
    ],
)
def test_value_that_only_looks_right_is_refused(key: str, value: Any) -> None:
    assert {found.split(".")[0] for found in refused(PodTable, {"name": "x", key: value})} == {key}


@pytest.mark.parametrize(
    ("written", "size"),
    [(10, 10), ("10", 10), ("10B", 10), ("2GiB", 2 << 30), ("64 KiB", 65536), ("3MB", 3_000_000)],
)
def test_sizes_are_bytes_or_bear_a_unit(written: int | str, size: int) -> None:
    assert Limits.model_validate({"memory": written}).memory == size


@pytest.mark.parametrize("written", ["", "2 gibs", "-1", "1.5GiB", -1, True, 1.0])
def test_sizes_that_are_no_sizes_are_refused(written: Any) -> None:
    assert refused(Limits, {"memory": written}) == {"memory"}


def test_script_has_every_way_to_answer_and_to_fail() -> None:
    script = Script.model_validate(
        {
            "on_exhausted": "repeat_last",
            "chars_per_s": 100,
            "answers": [
                {
                    "match": "^hello",
                    "thinking": "hm",
                    "text": "hi",
                    "tool_calls": [
                        {"name": "Bash", "arguments": {"command": "ls", "deep": [1, {}]}}
                    ],
                    "usage": {"input_tokens": 120, "cache_read_tokens": 100},
                    "repeat": True,
                    "delay_ms": 5,
                    "chunk": 4,
                    "fail": {"status": 529, "retry_after_s": 1, "message": "overloaded"},
                    "fail_times": 2,
                    "cut_after": 20,
                    "no_terminal_event": True,
                    "hang_s": 30,
                    "stop_reason": "max_tokens",
                },
                {},
            ],
        }
    )
    first, second = script.answers
    assert first.tool_calls[0].arguments == {"command": "ls", "deep": [1, {}]}
    assert first.fail is not None
    assert (first.fail.status, first.fail.retry_after_s) == (529, 1)
    assert (second.match, second.chunk, second.fail_times, second.repeat) == (None, 16, None, False)


def test_manifest_survives_the_wire() -> None:
    pod = manifest(
        scope={"allow": [{"target": "/w", "permission": "write"}]},
        model={"answers": [{"text": "é", "fail": {"status": 500}}]},
        depends_on=[{"pod": "b"}],
        mcp={"servers": {"s": {"command": "x", "env": {"A": "b"}}}},
        permissions={"rule": [{"tool": "Bash", "action": "deny"}]},
    )
    assert PodManifest.from_wire(json.loads(json.dumps(pod.to_wire()))) == pod
    assert pod.scope.allow[0].permission is Permission.WRITE


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({}, None),
        ({"scheme": "anthropic"}, "ANTHROPIC_API_KEY"),
        ({"scheme": "openai_responses"}, "OPENAI_API_KEY"),
        ({"scheme": "gemini"}, "GEMINI_API_KEY"),
        ({"scheme": "openai_chat", "api_key_env": "MINE"}, "MINE"),
        ({"scheme": "openai_chat", "api_key_file": "/k"}, None),
    ],
)
def test_model_knows_which_variable_holds_its_key(settings: Any, variable: str | None) -> None:
    assert Model.model_validate(settings).key_variable == variable


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"feature": {name: True}}, f"feature.{name}")
        for name in Feature.model_fields
        if name not in ("tickets", "pods", "tasks")
    ]
    + [
        ({"model": {"ref": "big"}}, "model.ref"),
        ({"feature": {"tickets": {"enabled": True}}}, "feature.tickets"),
        ({"mcp": {"servers": {"s": {"url": "http://x"}}}}, "mcp"),
        ({"mcp": {"trust": True}}, "mcp"),
        ({"hooks": [{"at": "run_end", "command": ["x"]}]}, "hooks"),
        ({"plugins": ["p"]}, "plugins"),
        ({"budget": {"usd": 0}}, "budget"),
        ({"limits": {"nice": 5}}, "limits"),
        ({"depends_on": [{"pod": "b"}]}, "depends_on"),
        ({"permissions": {"default_action": "ask"}}, "permissions.default_action"),
        ({"permissions": {"rule": [{"tool": "*", "action": "ask"}]}}, "permissions.rule"),
    ],
)
def test_what_is_not_built_is_named_by_its_key(settings: dict[str, Any], key: str) -> None:
    (told,) = unavailable(manifest(**settings))
    assert told.startswith(f"{key}: not available in this version")


@pytest.mark.parametrize("name", ["pods", "tasks"])
def test_features_that_are_built_are_available(name: str) -> None:
    assert unavailable(manifest(feature={name: True})) == []


def test_a_required_cage_is_available_in_this_version() -> None:
    assert unavailable(manifest(sandbox={"mode": "require", "level": "namespaces"})) == []


def test_sections_that_only_set_something_up_turn_nothing_on() -> None:
    settings = {
        "memory": {},
        "web": {},
        "feature": {"tickets": {"access": "lifecycle"}},
        "permissions": {"rule": [{"tool": "Bash", "action": "deny"}]},
        "sandbox": {"mode": "off", "network": True},
    }
    assert unavailable(manifest(**settings)) == []


def test_supervisor_table_names_what_is_not_built() -> None:
    table = SupervisorTable.model_validate({"orphan_policy": "stop", "budget": {"usd": 1}})
    assert unavailable_in_supervisor(SupervisorTable()) == []
    assert [told.split(":")[0] for told in unavailable_in_supervisor(table)] == [
        "supervisor.orphan_policy",
        "supervisor.budget",
    ]


def test_empty_fleet_file_is_valid_as_written() -> None:
    file = FleetFile()
    assert file.supervisor.orphan_policy == "adopt"
    assert file.pod == ()
