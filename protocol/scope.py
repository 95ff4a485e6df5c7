"""Who may read and write where: rules over paths, and the four questions asked of them.

A rule covers a *region*. Recursive: its target and everything below it. Not recursive: its target
and the target's direct children. Paths are compared by components, so `/src` never covers `/src2`.

* **effective**: what a scope grants at one path is the highest matching allow, capped by the lowest
  matching deny: denying write leaves at most read, denying read leaves nothing. The order of rules
  and how specific they are never matter.
* **cover** (may A lend this to B?): one allow rule, alone, contains the whole region with enough
  permission, and no deny that would take the permission away touches the region. Two allow rules
  that together make up the region do not count: what one rule lends, one rule can take back.
* **overlap** (could both write one path?): both rules write and their regions share a path. Two
  regions that share a path always have one target that is an ancestor of the other, or equal to it;
  that is why `clashes` looks only along each target's ancestors and stays linear in the number of
  rules.

Everything but `canonical` and `resolved` is pure and takes *canonical* paths only: absolute, no
links, no `.`, `..` or empty component. A question about any other path is answered with "nothing"
where the answer is a permission, and with `InvalidScope` where a wrong answer could grant
something. Those two are the one door from paths as people write them to such paths, and the only
code here that looks at the file system.

Not guaranteed: that a canonical path stays canonical. A directory can become a link a moment later;
whoever opens a path beneath a rule must open it in a way that follows no link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from protocol.base import Wire
from protocol.errors import InvalidScope

_LONGEST = 4096
_DEEPEST = 256
_MOST_LINKS = 40  # what Linux follows before it answers ELOOP


class Permission(StrEnum):
    """What a rule is about; write implies read."""

    READ = "read"
    WRITE = "write"

    def includes(self, other: Permission) -> bool:
        """Say whether holding this permission is holding the other one, too."""
        return self is Permission.WRITE or other is Permission.READ


class ScopeRule(Wire):
    """A permission over a region; `target` is canonical wherever a rule is stored or asked."""

    target: str
    permission: Permission
    recursive: bool = True


class LentRule(ScopeRule):
    """A rule of which another pod has the use; `pod` is who."""

    pod: str = ""


class Scope(Wire):
    """An authority: what is allowed, less what is denied. Empty means nothing at all."""

    allow: tuple[ScopeRule, ...] = ()
    deny: tuple[ScopeRule, ...] = ()


Claim: TypeAlias = tuple[str, ScopeRule]
"""An owner and one of its rules."""


def components(path: str) -> tuple[str, ...]:
    """Return the components of a canonical path, `()` for the root; else raises InvalidScope."""
    if path == "/":
        return ()
    head, *rest = path.split("/")
    if head or not rest or not {"", ".", ".."}.isdisjoint(rest):
        raise InvalidScope(f"not a canonical path: {path!r}", path=path)
    return tuple(rest)


def effective_permission(scope: Scope, path: str) -> Permission | None:
    """Return what the scope grants at one path, None for nothing.

    It is the highest matching allow under the lowest matching deny. A path that is not canonical
    has no permission.
    """
    try:
        at = components(path)
    except InvalidScope:
        return None
    allowed = {rule.permission for rule in scope.allow if _matches(rule, at)}
    denied = {rule.permission for rule in scope.deny if _matches(rule, at)}
    if not allowed or Permission.READ in denied:
        return None
    return Permission.READ if Permission.WRITE in denied else max(allowed, key=_rank)


def covers(scope: Scope, rule: ScopeRule) -> bool:
    """Say whether the scope may lend the rule: one allow holds it all, no deny takes any of it.

    A deny counts if it would lower what is asked for: denying write does not stand against lending
    read. Raises InvalidScope when a target is not canonical.
    """
    lent = rule.permission
    return any(
        allow.permission.includes(lent) and contains(allow, rule) for allow in scope.allow
    ) and not any(lent.includes(deny.permission) and shares(deny, rule) for deny in scope.deny)


def takes(deny: ScopeRule, rule: ScopeRule) -> bool:
    """Say whether a deny takes away all that a rule is about, be that an allow or another deny."""
    return rule.permission.includes(deny.permission) and contains(deny, rule)


def overlaps(rule_a: ScopeRule, rule_b: ScopeRule) -> bool:
    """Say whether both rules may write one path; raises InvalidScope for a bad target."""
    both_write = rule_a.permission is rule_b.permission is Permission.WRITE
    return both_write and shares(rule_a, rule_b)


def write_rules(scope: Scope) -> tuple[ScopeRule, ...]:
    """Return the allow rules that grant write: what the scope claims, whatever it denies."""
    return tuple(rule for rule in scope.allow if rule.permission is Permission.WRITE)


def contains(outer: ScopeRule, inner: ScopeRule) -> bool:
    """Say whether every path of the inner region lies in the outer one, permissions aside."""
    if outer.recursive:
        return _is_beneath(components(inner.target), components(outer.target))
    return not inner.recursive and components(inner.target) == components(outer.target)


def shares(rule_a: ScopeRule, rule_b: ScopeRule) -> bool:
    """Say whether the two regions have a path in common, permissions aside."""
    upper, lower = sorted((rule_a, rule_b), key=lambda rule: len(components(rule.target)))
    return _matches(upper, components(lower.target))


def clashes(
    claims: Iterable[Claim],
) -> Iterator[tuple[Claim, Claim]]:
    """Yield every pair of (owner, rule) of two owners whose rules overlap, earlier claim first.

    Takes time proportional to rules x path depth plus the pairs found; raises InvalidScope when a
    target is not canonical.
    """
    indexed: dict[tuple[str, ...], list[tuple[int, str, ScopeRule]]] = {}
    writers = (claim for claim in claims if claim[1].permission is Permission.WRITE)
    for number, (owner, rule) in enumerate(writers):
        indexed.setdefault(components(rule.target), []).append((number, owner, rule))
    for target, here in indexed.items():
        for depth in range(len(target) + 1):
            for above in indexed.get(target[:depth], ()):
                for below in here:
                    same_target_once = depth < len(target) or above[0] < below[0]
                    if above[1] != below[1] and same_target_once and overlaps(above[2], below[2]):
                        first, second = sorted((above, below), key=lambda claim: claim[0])
                        yield first[1:], second[1:]


class Resolved(NamedTuple):
    """A canonical path, and where the links lay that led there: canonical paths, too."""

    path: str
    links: tuple[str, ...] = ()


def canonical(path: str, *, cwd: str | None = None) -> str:
    """Return the path absolute and free of links, as far as it exists, with the rest appended.

    Raises InvalidScope like `resolved`.
    """
    return resolved(path, cwd=cwd).path


def resolved(path: str, *, cwd: str | None = None) -> Resolved:
    """Return the canonical path, and the links on the way to it, each by its canonical name.

    Whoever replaces one of them changes where the path leads.

    Looks at the file system, link by link. A link that leads nowhere yet is followed, since
    whatever is made through it will be made there. Raises InvalidScope for an empty path, a
    relative one without an absolute `cwd`, a `..` below what exists, a loop of links, or a
    directory that may not be searched.
    """
    real, links = _resolved(path, cwd)
    return Resolved(real, tuple(link for link, _ in links))


def names_of(path: str, *, cwd: str | None = None) -> tuple[str, ...]:
    """Return every name that a path has while its links are followed, the canonical one last.

    Raises what `canonical` raises.
    """
    real, links = _resolved(path, cwd)
    return (*(f"{link}/{rest}" if rest else link for link, rest in links), real)


def _resolved(path: str, cwd: str | None) -> tuple[str, list[tuple[str, str]]]:
    if not path or "\0" in path:
        raise InvalidScope(f"not a path: {path!r}", path=path)
    if len(path) > _LONGEST or path.count("/") > _DEEPEST:
        raise InvalidScope(f"too long or too deep for a path: {path[:60]}…")
    if not path.startswith("/"):
        if cwd is None or not cwd.startswith("/"):
            raise InvalidScope(f"a relative path means nothing here: {path!r}", path=path)
        path = f"{cwd}/{path}"
    done: list[str] = []
    todo = path.split("/")[::-1]
    exists, links = True, list[tuple[str, str]]()
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not exists:
                raise InvalidScope(f"'..' below what does not exist: {path!r}", path=path)
            del done[-1:]
            continue
        here = "/" + "/".join([*done, part])
        mode = _mode(here, path) if exists else None
        if mode is not None and stat.S_ISLNK(mode):
            links.append((here, "/".join(todo[::-1])))
            if len(links) > _MOST_LINKS:
                raise InvalidScope(f"too many links in {path!r}", path=path)
            target = _link_target(here, path)
            done = [] if target.startswith("/") else done
            todo.extend(target.split("/")[::-1])
            continue
        exists = mode is not None and stat.S_ISDIR(mode)
        done.append(part)
    return "/" + "/".join(done), links


def may_change(scope: Scope, path: str) -> bool:
    """Say whether a scope lets its holder change what is at a path, or an entry of it."""
    rules = [rule for rule in write_rules(scope) if _is_near(rule.target, path)]
    places = [path, f"{path.rstrip('/')}/\0"]
    places += [rule.target for rule in rules if is_beneath(rule.target, path)]
    return bool(rules) and any(
        effective_permission(scope, place) is Permission.WRITE for place in places
    )


def matches(rule: ScopeRule, path: str) -> bool:
    """Say whether a rule speaks of a path; of one that is not canonical none does.

    Raises InvalidScope when the rule's target is not canonical.
    """
    try:
        at = components(path)
    except InvalidScope:
        return False
    return _matches(rule, at)


def is_beneath(path: str, ancestor: str) -> bool:
    """Say whether a canonical path is another one, or lies below it."""
    return ancestor == "/" or path == ancestor or path.startswith(f"{ancestor}/")


def _is_near(path: str, other: str) -> bool:
    return is_beneath(path, other) or is_beneath(other, path)


def _rank(permission: Permission) -> int:
    return 1 if permission is Permission.WRITE else 0


def _is_beneath(path: tuple[str, ...], ancestor: tuple[str, ...]) -> bool:
    return path[: len(ancestor)] == ancestor


def _matches(rule: ScopeRule, path: tuple[str, ...]) -> bool:
    target = components(rule.target)
    return _is_beneath(path, target) and (rule.recursive or len(path) <= len(target) + 1)


def _mode(here: str, asked: str) -> int | None:
    try:
        return os.lstat(here).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidScope(f"{asked!r}: {error.strerror}", path=asked) from error


def _link_target(here: str, asked: str) -> str:
    try:
        return os.readlink(here)
    except OSError as error:
        raise InvalidScope(f"{asked!r}: {error.strerror}", path=asked) from error
