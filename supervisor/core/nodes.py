"""Folders by what they are, not by name: one folder with two names is one place. Pure.

A bind mount, or a disk that does not tell upper from lower case, gives one folder two names,
neither of them a link. So a write rule's target is known by its *line*, too: one node, which is a
text for (device, inode, boot), for the root and each folder down to the target, as far as they
exist. A target that does not exist is its nearest existing ancestor and the components that are
missing.

Two targets that lie at or below each other by their nodes may name one path, whatever their names.
A common ancestor alone means nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from protocol.scope import Claim, ScopeRule, components

SEPARATOR = " "


class Place(NamedTuple):
    """A rule's target by its nodes.

    `end` is the last node, `missing` the components below it that do not exist, and `below` says
    for each node which component of the target comes next: "" for none.
    """

    end: str
    missing: tuple[str, ...]
    below: Mapping[str, str]


Placed: TypeAlias = tuple[str, ScopeRule, Place | None]
"""An owner, one of its rules, and the rule's place."""


def place_of(rule: ScopeRule, text: str) -> Place | None:
    """Return the place of a rule from the line that a row has for it; None where it has none."""
    if not text:
        return None
    line, parts = text.split(SEPARATOR), components(rule.target)
    return Place(line[-1], parts[len(line) - 1 :], dict(zip(line, (*parts, ""), strict=False)))


def may_meet(one: Place, other: Place) -> bool:
    """Say whether one of two targets may lie at or below the other; quick, and rather yes."""
    return _leads_to(one, other) or _leads_to(other, one)


def _leads_to(upper: Place, lower: Place) -> bool:
    below = lower.below.get(upper.end)
    return below is not None and (not upper.missing or below == upper.missing[0])


def may_share(rule_a: ScopeRule, a: Place | None, rule_b: ScopeRule, b: Place | None) -> bool:
    """Say whether two rules speak of one path, by what their targets are."""
    if a is None or b is None:
        return False
    return _reaches(rule_a, a, rule_b, b) or _reaches(rule_b, b, rule_a, a)


def clashes(claims: Iterable[Placed]) -> Iterator[tuple[Claim, Claim]]:
    """Yield pairs of (owner, rule) of two owners whose rules may share a path, earlier claim first.

    Like `protocol.scope.clashes`, it does not compare each claim with each other one.
    """
    ends: dict[tuple[str, tuple[str, ...]], list[tuple[int, Placed]]] = {}
    numbered = [(number, one) for number, one in enumerate(claims)]
    for number, one in numbered:
        if (place := one[2]) is not None:
            ends.setdefault((place.end, place.missing), []).append((number, one))
    for number, lower in numbered:
        for end in _ends_above(lower[1], lower[2]):
            for other, upper in ends.get(end, ()):
                if upper[0] != lower[0] and may_share(*upper[1:], *lower[1:]):
                    first, second = sorted(((number, lower), (other, upper)), key=lambda o: o[0])
                    yield first[1][:2], second[1][:2]


def _ends_above(rule: ScopeRule, place: Place | None) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every place at or above a target, as a target there would be known."""
    parts = components(rule.target)
    for depth, node in enumerate(place.below if place else ()):
        for end in range(depth, len(parts) + 1):
            yield node, parts[depth:end]


def _reaches(upper_rule: ScopeRule, upper: Place, lower_rule: ScopeRule, lower: Place) -> bool:
    """Say whether the lower rule's target lies in the region of the upper one."""
    if not _leads_to(upper, lower):
        return False
    depth = [*lower.below].index(upper.end)
    below = components(lower_rule.target)[depth:]
    if below[: len(upper.missing)] != upper.missing:
        return False
    return upper_rule.recursive or len(below) <= len(upper.missing) + 1
