"""No file or pipe is read whole whose size somebody else decides."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import podproc
import protocol
import supervisor

KERNEL = "a text that the kernel makes and bounds, or a file of the system"
OWN = "a file that only podsup writes, in a folder of its own"
PIPE = "what a process of podsup's own says, once or in frames"
OPERATOR = "the operator's own words or file, read by a command or at the start"

WHOLE = {
    "podproc/confine/cell.py:_bound_watches": KERNEL,
    "podproc/prompt.py:_built_in": OWN,
    "podproc/tools/keeper.py:_has_shares_of_sessions": KERNEL,
    "podproc/tools/keeper.py:_stat": KERNEL,
    "podproc/tools/keeper.py:children": KERNEL,
    "podproc/zygote.py:serve": PIPE,
    "protocol/catalog.py:_shipped": OWN,
    "supervisor/boot.py:launch": PIPE,
    "supervisor/choice.py:_recorded_workspace": OWN,
    "supervisor/cli/doctor.py:_rows": OWN,
    "supervisor/cli/doctor.py:_try_children": KERNEL,
    "supervisor/cli/down.py:_ask": OWN,
    "supervisor/cli/run.py:notify": OPERATOR,
    "supervisor/cli/run.py:run": OPERATOR,
    "supervisor/cli/session.py:_checked": OWN,
    "supervisor/client.py:__init__": OWN,
    "supervisor/daemon.py:main": PIPE,
    "supervisor/identity.py:_here": KERNEL,
    "supervisor/identity.py:_start_ticks": KERNEL,
    "supervisor/journal.py:_parsed": OWN,
    "supervisor/life_lock.py:noted": OWN,
    "supervisor/pod_store.py:load": OWN,
    "supervisor/processes.py:_children_by_scan": KERNEL,
    "supervisor/processes.py:_receive": PIPE,
    "supervisor/processes.py:children_of": KERNEL,
    "supervisor/quick.py:ask_once": OWN,
    "supervisor/recovery.py:_has_locked": KERNEL,
    "supervisor/scope_table.py:_read": OWN,
    "supervisor/session_fsck.py:prepare": OWN,
    "supervisor/takeover.py:_take_instance_lock": OWN,
}
"""Where a file is read without a bound, and why nobody can make it large."""


def unbounded(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield each call that reads all there is of a file, a pipe or a stream."""
    for node in ast.walk(tree):
        match node:
            case ast.Await(value=ast.Call() as call):
                call.args.append(ast.Constant(1))  # a reader of the loop: it returns a piece
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="read_text" | "read_bytes" | "readlines")):
                yield node
            case ast.Call(func=ast.Attribute(attr="read"), args=[]):
                yield node


def places() -> Iterator[str]:
    """Yield `file:function` of each such call in the product."""
    for package in (podproc, protocol, supervisor):
        root = Path(package.__file__ or "").parent
        for file in root.rglob("*.py"):
            if "escapes" in file.parts:
                continue  # programs that try to break out, and what they are tried on
            tree = ast.parse(file.read_text())
            names = {
                call: function.name
                for function in ast.walk(tree)
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
                for call in ast.walk(function)
            }
            for call in unbounded(tree):
                yield f"{file.relative_to(root.parent)}:{names.get(call, '')}"


def test_the_search_finds_each_way_to_read_all() -> None:
    source = "f.read()\np.read_text()\np.read_bytes()\nf.readlines()\nf.read(5)\nr = await f.read()"
    assert len(list(unbounded(ast.parse(source)))) == 4


def test_whatever_is_read_whole_is_bounded_by_who_wrote_it() -> None:
    assert set(places()) == set(WHOLE)
