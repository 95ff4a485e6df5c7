"""What is remembered of each pod when none of its processes lives: `pods/<name>/metadata.json`.

The record names the fleet and the workspace it belongs to. A pod of the same name in another
workspace is another pod, and would otherwise go on with this one's session; so `save` does not
replace a foreign record, and `refuse_foreign` says the same before anything is started.

Nothing is deleted here. A record that is not wanted any more is filed away below `pods/.filed/`,
which no name of a pod can be, and its sessions stay where they are.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from protocol.base import Wire
from protocol.errors import Conflict, Internal
from supervisor.core.fleet_record import Wish
from supervisor.core.member import Tombstone
from supervisor.durable import locked, sync_folder, write_atomically
from supervisor.paths import checked_name, make_private_dir

SCHEMA = 1


class PodMetadata(Wire):
    """All that is durable of one pod; the manifest is the resolved one, as plain data.

    Its children are those that name it as their parent; `reclaimed` are the ones that were deleted.
    """

    version: int = Field(default=SCHEMA, alias="schema")
    name: str
    fleet: str
    workspace: str
    parent: str | None = None
    session_id: str
    segment_id: str
    incarnation: int
    manifest: dict[str, Any]
    reclaimed: tuple[Tombstone, ...] = ()
    peers: tuple[str, ...] = ()
    tasked: bool = False
    created_ms: int
    spawned: bool = True
    desired: Wish = "up"


class PodStore:
    """The records of all pods of a home. Every method blocks, for about a millisecond.

    Names are checked before they become paths: what is no name raises InvalidRequest.
    """

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir / "pods"

    def load(self, name: str) -> PodMetadata | None:
        """Return a pod's record, None when there is none; raises Internal when it is damaged."""
        path = self._path(name)
        try:
            data = orjson.loads(path.read_bytes())
            if (schema := data.get("schema")) != SCHEMA:
                raise ValueError(f"schema {schema!r}, not {SCHEMA}")
            return PodMetadata.from_wire(data)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, AttributeError) as error:
            raise Internal(
                f"{path} cannot be read: {error}",
                next_step="`podsup start --fresh` files it away and begins a new session",
                path=str(path),
            ) from error

    def save(self, meta: PodMetadata) -> None:
        """Replace a pod's record; raises Conflict when it is another fleet's or workspace's."""
        path = self._path(meta.name)
        make_private_dir(self._dir)
        with self._locked(meta.name):
            if (known := self.load(meta.name)) is not None:
                refuse_foreign(known, fleet=meta.fleet, workspace=meta.workspace)
            make_private_dir(path.parent)
            write_atomically(path, orjson.dumps(meta.to_wire(), option=orjson.OPT_INDENT_2))

    def names(self) -> list[str]:
        """Return the pods that have a record, sorted."""
        return sorted(path.parent.name for path in self._dir.glob("[!.]*/metadata.json"))

    def file_away(self, name: str) -> Path | None:
        """Move a pod's record aside, a damaged one too; return where to, None if there was none."""
        source = self._path(name).parent
        if not source.exists():
            return None
        filed = make_private_dir(self._dir / ".filed")
        with self._locked(name):
            taken = [int(path.suffix[1:]) for path in filed.glob(f"{name}.[0-9]*")]
            target = filed / f"{name}.{max(taken, default=0) + 1}"
            try:
                source.rename(target)
            except FileNotFoundError:  # somebody else did
                return None
        sync_folder(filed)
        sync_folder(self._dir)
        return target

    def _path(self, name: str) -> Path:
        return self._dir / checked_name(name) / "metadata.json"

    def _locked(self, name: str) -> AbstractContextManager[None]:
        return locked(
            self._dir / f".{name}.lock"
        )  # not in the pod's folder, which may be filed away


def refuse_foreign(meta: PodMetadata, *, fleet: str, workspace: str) -> None:
    """Raise Conflict, naming both folders, unless the pod belongs to this fleet and workspace."""
    if (meta.fleet, meta.workspace) != (fleet, workspace):
        raise Conflict(
            f"pod {meta.name!r} belongs to fleet {meta.fleet!r} in {meta.workspace}, "
            f"not to fleet {fleet!r} in {workspace}",
            next_step="--fresh files its record away and begins a new session; or use another name",
            recorded={"fleet": meta.fleet, "workspace": meta.workspace},
            asked={"fleet": fleet, "workspace": workspace},
        )
