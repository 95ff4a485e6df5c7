"""All that a pod is given at its fork, besides descriptors.

Who it is, where it speaks, what it continues.

The supervisor writes it, the zygote hands it on unread, the pod validates it before anything else.
The token is the pod's authority; it travels over the socketpair only, never in argv, environment or
a file.
"""

from __future__ import annotations

from pydantic import Field

from protocol.base import Wire
from protocol.catalog import Known
from protocol.manifest import PodManifest
from protocol.scope import LentRule
from protocol.surroundings import Surroundings


class Access(Wire):
    """How a provider is reached. Shown nowhere."""

    api_key: str = Field(repr=False)
    base_url: str | None = None


class PromptTemplate(Wire):
    """The operator's template of the system prompt; `file` is where it was read."""

    file: str
    text: str


class Birth(Wire):
    """One incarnation of one pod. Paths are absolute; times in seconds.

    `protected` are the files that the operator wrote: whatever its scope says, the pod's tools may
    not change them. `template` and `catalog` are the operator's, where there are any.
    `own_code` is what podsup runs or imports, canonical: no pod may write it. `start_files` would
    be imported by the interpreter of `podsup` itself if they were there.
    """

    manifest: PodManifest
    pod_id: str
    incarnation: int
    token: str = Field(repr=False)
    cookie: str
    control_endpoint: str
    events_endpoint: str
    data_dir: str
    product_dirs: tuple[str, ...]
    config_dir: str = ""
    protected: tuple[str, ...] = ()
    template: PromptTemplate | None = None
    catalog: tuple[Known, ...] = ()
    surroundings: Surroundings = Surroundings()
    own_code: tuple[str, ...] = ()
    start_files: tuple[str, ...] = ()
    session_id: str
    segment_id: str
    beat_interval_s: float = 1.0
    parent: str | None = None
    lent: tuple[LentRule, ...] = ()
    lend_number: int = 0
    access: Access | None = Field(default=None, repr=False)
    summary_access: Access | None = Field(default=None, repr=False)
