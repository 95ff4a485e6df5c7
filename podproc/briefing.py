"""What a model is told that nobody typed: the system prompt, and what an input refers to.

The prompt is rendered once per segment, from the template, the AGENTS.md files and what the pod may
do; which files those were, and their hashes, is logged beside it. References are checked before a
run is accepted and resolved when it has begun: what they led to then is what the log holds and what
every later request shows. All reading is done off the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from podproc import agents_md, prompt, references
from podproc.recorder import Recorder
from podproc.tools.base import off_loop
from podproc.toolset import Toolset, summary_of
from protocol.birth import Birth
from protocol.errors import PodsupError
from protocol.segments import Segment
from protocol.status import AlertLevel, AlertSource

AGENTS_MD = "agents_md"
"""The domain of the hashes of the AGENTS.md files that a prompt was rendered with."""


class Briefing:
    """The prompt and the references of one pod."""

    def __init__(self, birth: Birth, tools: Toolset, record: Recorder) -> None:
        self._birth = birth
        self._tools = tools
        self._record = record
        self._places = references.places_of(birth, tools.view)
        self._files: dict[str, Any] | None = None

    async def system_prompt(self) -> str:
        """Return the prompt of a new segment; raises InvalidRequest for a broken template."""
        manifest = self._birth.manifest
        found = await off_loop(
            agents_md.collect, self._tools.view, workspace=manifest.workspace, cwd=manifest.cwd
        )
        for alert in found.alerts:
            self._record.alert(AlertLevel.WARN, alert, AlertSource.AGENTS_MD)
        self._files = found.payload() if found.texts else None
        context = prompt.PromptContext(
            pod=manifest.name,
            cwd=manifest.cwd,
            workspace=manifest.workspace,
            role=manifest.role or "",
            description=manifest.description,
            instruction=manifest.engine.instruction or "",
            language=manifest.engine.language or "",
            scope=summary_of(manifest.scope),
            delegation=summary_of(manifest.delegation_scope),
            tools=tuple(self._tools.registry.names()),
            agents_md=found.texts,
        )
        return await off_loop(prompt.render, context, self._birth.template)

    def log_files(self) -> None:
        """Log the hashes of what the newest prompt was made of, once."""
        files, self._files = self._files, None
        if files is None or files == self._record.kept(AGENTS_MD):
            return
        try:
            self._record.keep(AGENTS_MD, files)
        except PodsupError as error:
            self._record.alert(AlertLevel.WARN, str(error), AlertSource.AGENTS_MD)

    async def check(self, segments: Sequence[Segment]) -> None:
        """Raise InvalidRequest for an input that no run can begin with."""
        if any(segment.kind == "workflow_invoke" for segment in segments):
            await off_loop(references.check, segments, self._places)

    async def resolve(self, segments: Sequence[Segment]) -> None:
        """Log what an input refers to, as system items; what cannot be had is an alert."""
        if all(segment.kind in ("text", "paste") for segment in segments):
            return
        resolved = await off_loop(references.resolve, segments, self._places)
        for alert in resolved.alerts:
            self._record.alert(AlertLevel.WARN, alert, AlertSource.POD)
        self._record.commit_system(*resolved.items)
