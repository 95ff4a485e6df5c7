"""Every file that podsup reads for an operator, against everything that may stand in its place.

The table below is the list: a new kind of file is added to it, and is then held to the same.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from protocol.errors import Conflict, Forbidden, InvalidRequest, PodsupError
from protocol.manifest import Model as ModelTable
from protocol.manifest import PodManifest, Scheme
from protocol.operator_file import links_on_the_way, own_users, planted_link
from supervisor.boot import clean_environment
from supervisor.choice import choose_fleet
from supervisor.core.fleet_record import FleetStarted
from supervisor.fleet_file import Fleet, FleetFileInvalid, load_fleet, resolve_pod
from supervisor.identity import Identity
from supervisor.journal import Journal
from supervisor.keys import Keys
from supervisor.paths import Paths, trusted_config

NOBODY = 65534
GIB = 1 << 30


@dataclass(frozen=True)
class Ground:
    """A workspace that its one pod may write, and the user's config folder beside it."""

    work: Path
    config: Path
    others: tuple[PodManifest, ...] | None = None
    profile: str = "spawned.toml"

    def load(self) -> Fleet:
        return load_fleet(self.work, config_dir=self.config)

    def keys(self) -> object:
        pod = PodManifest.model_validate(
            {
                "name": "alice",
                "fleet": "f",
                "workspace": str(self.work),
                "cwd": str(self.work),
                "scope": {"allow": [{"target": str(self.work), "permission": "write"}]},
            }
        )
        model = ModelTable(scheme=Scheme.ANTHROPIC, api_key_file=str(self.work / "key"))
        return Keys({}, [pod]).access(model)

    def spawn(self) -> object:
        fleet = self.load()
        return resolve_pod(
            {"name": "kid", "profile": os.path.abspath(self.work / self.profile)},
            fleet="f",
            workspace=str(self.work),
            supervisor=fleet.supervisor,
            settings=fleet.settings,
            others=fleet.pods if self.others is None else self.others,
        )

    def choose(self) -> object:
        return choose_fleet(Paths.here(str(self.work.parent / "home")), None, self.work)


FLEET_FILE = """
[fleet]
name = "f"
[[pod]]
name = "alice"
profile = "alice.toml"
scope = { allow = [{ target = ".", permission = "write" }] }
"""
ALICE = '[model]\nscript = "script.toml"\n[compaction.model]\nscheme = "anthropic"\n'
ALICE += 'model_id = "m"\napi_key_file = "key"\n'


@dataclass(frozen=True)
class Kind:
    """A file, where it lies, and what reads it."""

    name: str
    read: Callable[[Ground], object]
    is_users: bool = False
    mode: int = 0o644

    def place(self, ground: Ground) -> Path:
        return (ground.config if self.is_users else ground.work) / self.name


KINDS = [
    Kind("podsup.toml", Ground.load),
    Kind("podsup.toml", Ground.choose),
    Kind("alice.toml", Ground.load),
    Kind("script.toml", Ground.load),
    Kind("spawned.toml", Ground.spawn),
    Kind("key", Ground.keys, mode=0o600),
    Kind("config.toml", Ground.load, is_users=True),
    Kind("system.md.j2", Ground.load, is_users=True),
    Kind("catalog.toml", Ground.load, is_users=True),
]
every_kind = pytest.mark.parametrize(
    "kind", KINDS, ids=[f"{one.read.__name__}-{one.name}" for one in KINDS]
)


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    root = Path(os.path.realpath(tmp_path))
    found = Ground(root / "work", root / "home" / "config")
    for folder in (found.work / "profiles", found.config / "profiles"):
        folder.mkdir(parents=True)
    texts = {"podsup.toml": FLEET_FILE, "alice.toml": ALICE, "key": "sk-key", "system.md.j2": "hi"}
    for place in profiles_of(found):
        place.touch()
    for kind in KINDS:
        place = kind.place(found)
        place.write_text(texts.get(kind.name, ""))
        place.chmod(kind.mode)
    return found


def as_fifo(place: Path) -> None:
    place.unlink()
    os.mkfifo(place, 0o600)


def as_folder(place: Path) -> None:
    place.unlink()
    place.mkdir()


def as_sparse(place: Path) -> None:
    os.truncate(place, GIB)


def as_foreign(place: Path) -> None:
    if os.geteuid():
        pytest.skip("only root gives a file away")
    os.chown(place, NOBODY, NOBODY)


def as_everybodys(place: Path) -> None:
    place.chmod(0o666)


def as_no_text(place: Path) -> None:
    place.write_bytes(b"\xff\xfe")


STAND_INS = [
    (as_fifo, "is not a regular file"),
    (as_folder, "is not a regular file"),
    (as_sparse, "more than"),
    (as_foreign, "belongs to user"),
    (as_everybodys, "may be written by others"),
    (as_no_text, "UTF-8"),
]
every_stand_in = pytest.mark.parametrize(
    ("stand_in", "told"), STAND_INS, ids=[one.__name__ for one, _ in STAND_INS]
)


def test_files_of_the_table_are_read_where_they_are_good(ground: Ground) -> None:
    for kind in KINDS:
        kind.read(replace(ground, others=()))


@every_kind
@every_stand_in
@pytest.mark.timeout(180)
def test_bad_file_is_a_clean_mistake_and_holds_nothing_up(
    ground: Ground, kind: Kind, stand_in: Callable[[Path], None], told: str
) -> None:
    if kind.read is Ground.choose and stand_in is as_no_text:
        pytest.skip("such a file names no fleet, and is passed over")
    if kind.read is Ground.choose and stand_in is as_foreign:
        pytest.skip("no more than a name is taken from it")
    place = kind.place(ground)
    stand_in(place)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((FleetFileInvalid, PodsupError)) as refused:
        kind.read(ground)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024, "KiB"
    assert str(place) in str(refused.value)
    assert told in str(refused.value)


@every_kind
def test_link_that_a_pod_may_have_made_is_refused_by_its_name(ground: Ground, kind: Kind) -> None:
    if kind.is_users or kind.read is Ground.choose:
        pytest.skip("no pod writes there, or nothing but a name is taken from it")
    place = kind.place(ground)
    elsewhere = ground.work.parent / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    with pytest.raises((FleetFileInvalid, PodsupError), match=f"{place}.* link") as refused:
        kind.read(ground)
    assert "pod may" in str(refused.value) or "alice may write" in str(refused.value)


def test_link_of_an_operator_is_followed_where_no_pod_writes(ground: Ground) -> None:
    elsewhere = ground.work.parent / "elsewhere"
    place = ground.config / "config.toml"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    assert str(elsewhere) in {file.path for file in ground.load().settings.files}


PROFILES = ("profiles/kid.toml", "profiles/user.toml")


def profiles_of(ground: Ground) -> list[Path]:
    return [ground.work / PROFILES[0], ground.config / PROFILES[1]]


@every_stand_in
@pytest.mark.timeout(60)
def test_bad_profile_that_no_pod_names_is_not_offered(
    ground: Ground, stand_in: Callable[[Path], None], told: str
) -> None:
    for place in profiles_of(ground):
        stand_in(place)
    fleet = ground.load()
    assert fleet.settings.profiles == {}
    assert fleet.settings.unusable == ("kid", "user")
    for place, said in zip(profiles_of(ground), fleet.warnings, strict=True):
        assert "is not offered" in said
        assert str(place) in said
        assert told in said


BAD_WORDS = ["]", "[database]\nurl = 'x'\n", 'model.script = "none"\n', 'model.script = "bad"\n']


@pytest.mark.parametrize("text", BAD_WORDS)
def test_broken_profile_keeps_no_fleet_down_unless_it_is_named(ground: Ground, text: str) -> None:
    (ground.work / "profiles/bad").write_text("]")
    (ground.work / PROFILES[0]).write_text(text)
    (ground.work / "profiles/more.toml").write_text(text)
    (ground.work / "profiles/good.toml").write_text("")
    fleet = ground.load()
    assert set(fleet.settings.profiles) == {"good", "user"}
    assert len(fleet.warnings) == 2
    (ground.work / "alice.toml").write_text(text.replace('"', '"profiles/'))
    with pytest.raises(FleetFileInvalid):
        ground.load()


def test_file_that_has_no_name_of_a_profile_is_passed_over(ground: Ground) -> None:
    for name in ("._kid.toml", "Kid.toml", "operator.toml"):
        (ground.work / "profiles" / name).write_bytes(b"\0]")
    (ground.work / "profiles/.#kid.toml").symlink_to("me@host.1:2")
    fleet = ground.load()
    assert set(fleet.settings.profiles) == {"kid", "user"}
    assert fleet.settings.unusable == ()
    assert len(fleet.warnings) == 2, "of those that somebody may have meant"


@pytest.mark.parametrize("name", [PROFILES[0], "profiles/script"])
def test_profile_behind_a_planted_link_is_not_offered(ground: Ground, name: str) -> None:
    (ground.work / PROFILES[0]).write_text('model.script = "script"\n')
    place, elsewhere = ground.work / name, ground.work.parent / "elsewhere"
    (ground.work / "profiles/script").touch()
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    fleet = ground.load()
    assert set(fleet.settings.profiles) == {"user"}
    assert "a link leads to" in fleet.warnings[0]
    assert str(elsewhere) not in {file.path for file in fleet.settings.files}


def test_named_profile_in_a_folder_that_became_a_link_is_refused(ground: Ground) -> None:
    (ground.work / "alice.toml").rename(ground.work / "profiles/alice.toml")
    text = FLEET_FILE.replace("alice.toml", "profiles/alice.toml")
    (ground.work / "podsup.toml").write_text(text)
    (ground.work / "profiles").rename(ground.work.parent / "mine")
    (ground.work / "profiles").symlink_to("../mine")
    with pytest.raises(FleetFileInvalid, match=r"profiles is a link in a folder that alice may"):
        ground.load()


def test_file_that_a_pod_may_write_is_not_read_at_a_spawn(ground: Ground) -> None:
    with pytest.raises(Forbidden, match=r"spawned.toml lies where alice may write") as refused:
        ground.spawn()
    assert "copy it" in (refused.value.next_step or "")
    (ground.work / "spawned.toml").rename(ground.work.parent / "spawned.toml")
    mine = replace(ground, profile="../spawned.toml")
    mine.spawn()
    (ground.work.parent / "spawned.toml").write_text('model.script = "work/script.toml"\n')
    with pytest.raises(Forbidden, match=r"script.toml lies where alice may write"):
        mine.spawn()


def test_links_on_the_way_are_named_where_they_lie(tmp_path: Path) -> None:
    root = Path(os.path.realpath(tmp_path))
    (root / "a/b").mkdir(parents=True)
    (root / "one").symlink_to("a")
    (root / "a/two").symlink_to(root / "a/b")
    (root / "a/b/round").symlink_to("round")
    found = [*links_on_the_way(f"{root}/one/two/x/../file")]
    assert found == [f"{root}/one", f"{root}/a/two"]
    assert planted_link(f"{root}/one/f", lambda path: path == f"{root}/one") == f"{root}/one"
    assert planted_link(f"{root}/one/f", lambda path: False) is None
    assert len([*links_on_the_way(f"{root}/a/b/round")]) < 50


def test_of_too_many_profiles_some_are_offered(ground: Ground) -> None:
    for number in range(300):
        (ground.work / "profiles" / f"{number}.toml").touch()
    fleet = ground.load()
    assert "more than 256 profiles" in fleet.warnings[0]
    assert len(fleet.settings.profiles) == 256 + len(["user"])


def test_file_nested_without_end_is_a_mistake(ground: Ground) -> None:
    (ground.work / "podsup.toml").write_text("x = " + "[" * 100_000)
    with pytest.raises(FleetFileInvalid, match="nested too deeply"):
        ground.load()


# -- the folders


@pytest.mark.parametrize("folder", ["home", "home/config", "home/config/profiles"])
def test_folder_of_settings_that_others_may_write_is_refused(ground: Ground, folder: str) -> None:
    paths = Paths.here(str(ground.work.parent / "home"))
    assert trusted_config(paths) == ground.config
    place = ground.work.parent / folder
    place.chmod(0o777)
    with pytest.raises(PodsupError, match=f"{place} may be written by others"):
        trusted_config(paths)
    place.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(place, NOBODY, NOBODY)
        with pytest.raises(PodsupError, match=f"{place} belongs to user {NOBODY}"):
            trusted_config(paths)


def test_link_of_another_user_to_the_config_folder_is_refused(ground: Ground) -> None:
    paths = Paths.here(str(ground.work.parent / "home"))
    ground.config.rename(ground.work.parent / "mine")
    ground.config.symlink_to("../mine")
    trusted_config(paths)
    if os.geteuid() == 0:
        os.lchown(ground.config, NOBODY, NOBODY)
        with pytest.raises(PodsupError, match=f"is a link of user {NOBODY}"):
            trusted_config(paths)


# -- the name in a file


@pytest.mark.parametrize(
    "name", ["../../w/j", "/etc", "", "A", "a/b", ".", "..", "operator", "a\0"]
)
def test_name_in_a_file_is_a_name_or_refused(ground: Ground, name: str) -> None:
    text = '[fleet]\nname = "' + name.replace("\0", "\\u0000") + '"\n'
    (ground.work / "podsup.toml").write_text(text)
    with pytest.raises(InvalidRequest, match="not a name"):
        ground.choose()


def test_name_in_a_file_is_that_of_a_fleet_of_its_workspace(ground: Ground) -> None:
    paths = Paths.here(str(ground.work.parent / "home"))
    journal = Journal(paths.journal("f"))
    who = Identity(machine_id="m", pid_ns=1, boot_id="b", pid=1, start_ticks=1)
    for workspace, epoch in ((ground.work, 1), (ground.work.parent, 2)):
        assert ground.choose() == "f"
        journal.append(
            FleetStarted(fleet="f", workspace=str(workspace), supervisor=who, epoch=epoch)
        )
    journal.close()
    with pytest.raises(Conflict, match="but that is the fleet of") as refused:
        ground.choose()
    assert "--fleet f" in (refused.value.next_step or "")
    assert choose_fleet(paths, "f", ground.work) == "f", "an operator may name any fleet"


# -- root, and who typed sudo

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")


@only_root
@every_kind
def test_file_of_who_typed_sudo_is_roots_own(
    ground: Ground, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(kind.place(ground), NOBODY, NOBODY)
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    kind.read(replace(ground, others=()))  # as if no pod could write it


@only_root
@pytest.mark.parametrize("asked", ["", "1", "x", "-65534"])
def test_refusal_of_a_foreign_file_tells_root_what_to_type(
    ground: Ground, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ground.work / "podsup.toml"
    os.chown(place, NOBODY, 7)
    monkeypatch.setenv("SUDO_UID", asked)
    with pytest.raises(FleetFileInvalid) as refused:
        ground.load()
    told = str(refused.value)
    assert f"docker run --user {NOBODY}:7" in told
    assert f"setpriv --reuid {NOBODY} --regid 7" in told
    assert told.endswith(f"chown 0 {place}")


def test_sudo_uid_means_nothing_to_who_is_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "77")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert own_users() == {1000, 0}


def test_supervisor_is_told_who_typed_sudo() -> None:
    assert clean_environment({"SUDO_UID": "77", "SUDO_COMMAND": "x"}) == {"SUDO_UID": "77"}


@only_root
def test_fleet_of_a_folder_is_named_whoever_owns_its_file(ground: Ground) -> None:
    os.chown(ground.work / "podsup.toml", NOBODY, NOBODY)
    assert ground.choose() == "f"


@only_root
def test_root_is_warned_where_its_commands_can_write_nothing(ground: Ground) -> None:
    assert ground.load().warnings == ()
    os.chown(ground.work, NOBODY, NOBODY)
    (told,) = ground.load().warnings
    assert told.startswith(f"{ground.work} belongs to user {NOBODY}")
    assert "commands of alice" in told
    ground.work.chmod(0o777)
    assert ground.load().warnings == ()
