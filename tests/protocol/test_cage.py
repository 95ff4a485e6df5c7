"""What a pod gets of what the machine has: every combination of setting and support."""

from __future__ import annotations

import pytest

from protocol import cage
from protocol.cage import CageLevel, CageSupport
from protocol.manifest import Sandbox

SUPPORT = {
    level: CageSupport(level, ("landlock: ABI 4, and 6 is needed",), bounds_processes=True)
    for level in CageLevel
}


@pytest.mark.parametrize(
    ("mode", "least", "has", "gets"),
    [
        ("off", "landlock", "namespaces", "none"),
        ("off", "namespaces", "none", "none"),
        ("prefer", "landlock", "namespaces", "namespaces"),
        ("prefer", "landlock", "landlock", "landlock"),
        ("prefer", "namespaces", "landlock", "landlock"),
        ("prefer", "namespaces", "none", "none"),
        ("require", "landlock", "namespaces", "namespaces"),
        ("require", "landlock", "landlock", "landlock"),
        ("require", "landlock", "none", None),
        ("require", "namespaces", "namespaces", "namespaces"),
        ("require", "namespaces", "landlock", None),
        ("require", "namespaces", "none", None),
    ],
)
def test_a_pod_gets_the_strongest_level_or_is_refused(
    mode: str, least: str, has: str, gets: str | None
) -> None:
    settings = Sandbox.model_validate({"mode": mode, "level": least})
    support = SUPPORT[CageLevel(has)]
    why = cage.refusal(settings, support)
    if gets is None:
        assert why is not None
        assert f"asks for level {least} at least, and this machine has {has}" in why
        assert "ABI 4, and 6 is needed" in why
    else:
        assert why is None
        assert cage.chosen_level(settings, support) == gets
        assert cage.describe(settings, support).level == gets


@pytest.mark.parametrize("mode", ["off", "prefer", "require"])
@pytest.mark.parametrize("level", CageLevel)
def test_only_who_would_rather_have_a_cage_and_gets_none_is_warned(
    mode: str, level: CageLevel
) -> None:
    settings = Sandbox.model_validate({"mode": mode})
    is_warned = mode == "prefer" and level is CageLevel.NONE
    assert cage.is_below(settings, SUPPORT[level]) is is_warned


ALWAYS = {cage.STAT, cage.SHARED, cage.FIFO, cage.REPLACED}
"""What level `namespaces` never closes."""


def left_open(level: CageLevel, support: CageSupport | None = None, **settings: object) -> set[str]:
    found = cage.describe(Sandbox.model_validate(settings), support or SUPPORT[level])
    return set(found.unprotected)


def test_each_level_names_what_it_leaves_open() -> None:
    assert left_open(CageLevel.NONE) == {cage.UNCAGED}
    assert left_open(CageLevel.LANDLOCK) == {
        *(cage.UNSEEN, cage.STAT, cage.SHARED),
        *(cage.MEMORY, cage.COUNTED, cage.DEVICE),
    }
    assert left_open(CageLevel.NAMESPACES) == ALWAYS


def test_what_the_machine_cannot_bound_and_what_root_can_read_is_named() -> None:
    support = CageSupport(CageLevel.NAMESPACES, is_root=True, bounds_processes=False)
    assert left_open(CageLevel.NAMESPACES, support) - ALWAYS == {cage.ROOT, cage.BOMB}


def test_what_is_opened_on_request_is_named_with_what_it_gives_away() -> None:
    opened = left_open(
        CageLevel.NAMESPACES,
        network=True,
        unix_sockets=True,
        extra_read=["/r"],
        extra_write=["/w"],
    )
    assert opened - ALWAYS == {
        cage.NETWORK,
        cage.SOCKETS,
        "extra_read: /r can be read",
        "extra_write: /w can be written, and nobody arbitrates between pods there",
    }
    assert cage.FLEET in left_open(CageLevel.LANDLOCK, unix_sockets=True)


def test_what_was_found_by_looking_becomes_values() -> None:
    fields = {"level": "landlock", "missing": ["namespaces: unshare: Operation not permitted"]}
    found = CageSupport.found(fields | {"is_root": False, "is_alone": False})
    assert (found.level, found.is_root) == (CageLevel.LANDLOCK, False)
    assert found.missing == ("namespaces: unshare: Operation not permitted",)
