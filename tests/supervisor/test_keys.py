"""Keys of providers: where they come from, what is said where one is missing, and where none is."""

from __future__ import annotations

import os
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.birth import Access
from protocol.environment import OF_SUPERVISORS
from protocol.errors import InvalidRequest
from protocol.manifest import Model, PodManifest
from supervisor.boot import Boot, clean_environment
from supervisor.keys import Keys, MissingKey, collect
from tests.support.home import Home

SECRET = "sk-very-secret-4711"


def model(**settings: Any) -> Model:
    return Model.model_validate({"scheme": "anthropic", "model_id": "m", **settings})


def manifest(**settings: Any) -> PodManifest:
    table = {"name": "alice", "fleet": "f", "workspace": "/w", "cwd": "/w"}
    return PodManifest.model_validate({**table, "model": model(**settings)})


def test_a_scripted_model_needs_no_key() -> None:
    assert Keys({}).access(Model()) is None


def test_a_key_is_the_variables_of_the_scheme_or_the_one_that_is_named() -> None:
    keys = Keys({"ANTHROPIC_API_KEY": SECRET, "MINE": "other"})
    assert keys.access(model()) == Access(api_key=SECRET)
    assert keys.access(model(api_key_env="MINE")) == Access(api_key="other")


def test_an_address_is_the_manifests_and_else_the_environments() -> None:
    keys = Keys({"ANTHROPIC_API_KEY": SECRET, "ANTHROPIC_BASE_URL": "http://a"})
    assert keys.access(model()) == Access(api_key=SECRET, base_url="http://a")
    assert keys.access(model(base_url="http://b")) == Access(api_key=SECRET, base_url="http://b")


def test_a_key_file_is_read_at_each_start(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    keys = Keys({})
    assert keys.access(model(api_key_file=str(path))) == Access(api_key=SECRET)
    path.write_text("new")
    assert keys.access(model(api_key_file=str(path))) == Access(api_key="new")


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        (None, 0o600, "cannot be read"),
        (b"\xff\xfe", 0o600, "cannot be read"),
        (b"", 0o600, "does not hold one key"),
        (b"two keys", 0o600, "does not hold one key"),
        (SECRET.encode(), 0o644, "may be read by others"),
    ],
)
def test_a_key_file_that_is_no_good_is_named_and_not_shown(
    tmp_path: Path, content: bytes | None, mode: int, told: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(MissingKey, match=told) as caught:
        Keys({}).access(model(api_key_file=str(path)))
    assert str(path) in caught.value.message
    assert SECRET not in f"{caught.value} {caught.value.next_step} {caught.value.details}"


def test_a_key_that_is_not_set_is_named_by_its_variable() -> None:
    with pytest.raises(MissingKey, match=r"MINE was not set .* no pod of its file named") as caught:
        Keys({"ANTHROPIC_API_KEY": SECRET}).access(model(api_key_env="MINE"))
    assert SECRET not in str(caught.value)


def test_a_missing_key_says_what_to_type() -> None:
    with pytest.raises(MissingKey, match=r"^ANTHROPIC_API_KEY was not set [a-z ]+$") as caught:
        Keys({}).access(model())
    assert str(caught.value.next_step).startswith("export ANTHROPIC_API_KEY=…, then podsup start")
    assert caught.value.details["mend"] == caught.value.next_step


@pytest.mark.parametrize("value", ["sk-one two", "sk-\u00e4", "sk-\x00", "\ufffd"])
def test_what_can_be_no_key_is_refused_before_it_can_be_shown(value: str) -> None:
    with pytest.raises(MissingKey, match="is no key") as caught:
        Keys({"ANTHROPIC_API_KEY": value}).access(model())
    assert value not in str(caught.value)


def test_the_line_end_behind_a_key_is_no_part_of_it() -> None:
    assert Keys({"ANTHROPIC_API_KEY": f"{SECRET}\n"}).access(model()) == Access(api_key=SECRET)


def test_a_key_file_that_nobody_writes_to_holds_nothing_up(tmp_path: Path) -> None:
    path = tmp_path / "key"
    os.mkfifo(path, 0o600)
    with pytest.raises(MissingKey, match="is not a regular file"):
        Keys({}).access(model(api_key_file=str(path)))


def test_an_address_with_a_user_in_it_is_refused_without_showing_it() -> None:
    url = f"http://u:{SECRET}@host/v1"
    with pytest.raises(InvalidRequest, match="must not hold") as caught:
        Keys({"ANTHROPIC_API_KEY": "k"}).access(model(base_url=url))
    assert SECRET not in f"{caught.value} {caught.value.next_step} {caught.value.details}"


def test_an_environment_that_is_no_text_does_not_keep_a_fleet_from_starting() -> None:
    kept = collect([], {"ANTHROPIC_API_KEY": "sk-\udcff"})
    Boot(fleet="f", file="/f", workspace="/w", operation="o", keys=kept).model_dump_json()


def test_only_what_models_may_need_is_taken_from_an_environment() -> None:
    environ = {
        "ANTHROPIC_API_KEY": SECRET,
        "MINE": "named",
        "OPENAI_BASE_URL": "http://a",
        "AWS_SECRET_ACCESS_KEY": "not ours",
        "PATH": "/bin",
        "GEMINI_API_KEY": "",
    }
    assert collect([manifest(api_key_env="MINE")], environ) == {
        "ANTHROPIC_API_KEY": SECRET,
        "MINE": "named",
        "OPENAI_BASE_URL": "http://a",
    }


def test_what_holds_a_key_does_not_show_it() -> None:
    boot = Boot(fleet="f", file="/f", workspace="/w", operation="o", keys={"K": SECRET})
    access = Access(api_key=SECRET)
    assert SECRET not in f"{boot!r} {boot} {access!r} {access} {Keys({'K': SECRET})!r}"
    assert SECRET in boot.model_dump_json(), "it travels"


def test_nothing_that_a_fleet_starts_has_a_key_in_its_environment() -> None:
    environ = dict(os.environ) | {"ANTHROPIC_API_KEY": SECRET}
    assert SECRET not in clean_environment(environ).values()


@given(st.dictionaries(st.text(string.ascii_letters + string.digits + "_", min_size=1), st.text()))
def test_a_variable_that_is_not_named_reaches_nothing_that_a_fleet_starts(
    environ: dict[str, str],
) -> None:
    names = {f"{before}{name}" for name in environ for before in ("", "LC_", "PODSUP_", "XDG_")}
    seen = clean_environment(dict.fromkeys([*names, *FOREIGN, "PATH", "LC_ALL"], "x"))
    assert seen.keys() <= OF_SUPERVISORS
    assert seen.keys() >= {"PATH", "LC_ALL"}
    assert not seen.keys() & set(FOREIGN)


FOREIGN = (
    *("DATABASE_URL", "GH_PAT", "LC_MYPAT", "AWS_ACCESS_KEY_ID", "PYTHONPATH", "PYTHONSTARTUP"),
    *("PYTHONHOME", "LD_PRELOAD", "LD_AUDIT", "BASH_ENV", "SSH_AUTH_SOCK", "OPENAI_CUSTOM_HEADERS"),
)


@pytest.mark.process
def test_no_process_of_a_fleet_holds_a_variable_of_its_operator(home: Home) -> None:
    home.env |= dict.fromkeys(FOREIGN, "/nowhere") | {"DATABASE_URL": SECRET, "GH_PAT": SECRET}
    for name in ("LD_PRELOAD", "LD_AUDIT", "PYTHONHOME", "PYTHONPATH"):
        del home.env[name]  # the command itself would mind
    home.write(
        "podsup.toml",
        '[fleet]\nname = "e"\n[[pod]]\nname = "alice"\n[pod.model]\nscheme = "scripted"\n'
        "[[pod.model.answers]]\nrepeat = true\n"
        'tool_calls = [{ name = "Bash", arguments = { command = "sleep 9", background = true } }]\n'
        '[[pod.model.answers]]\nrepeat = true\ntext = "done"\n',
    )
    home.podsup("start", "-d", "--wait", "idle")
    home.podsup("run", "alice", "go", "--timeout", "20", ok=None)
    found = home.processes()
    assert len(found) > 2
    for pid in found:
        try:
            held = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        assert SECRET.encode() not in held, found[pid]
        names = {entry.partition(b"=")[0].decode() for entry in held.split(b"\0") if entry}
        assert not names & set(FOREIGN), found[pid]
