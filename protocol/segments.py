"""Input segments: the typed pieces of one user submission, and their flattening to text.

A reference stays a reference in the log (`file_ref`, `knowledge_ref`, `workflow_invoke`); what it
resolved to is a system item of its own after the user message. A kind from a newer writer is
carried as `unknown` with its data, so that nothing a person typed is dropped on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Tag, model_validator

from protocol.base import OpenWire, Wire, kind_or_unknown


class Text(Wire):
    """Typed text, verbatim."""

    kind: Literal["text"] = "text"
    content: str


class Paste(Wire):
    """Pasted text, verbatim; viewers may fold it to `[paste #id: lines]`."""

    kind: Literal["paste"] = "paste"
    id: int
    chars: int
    lines: int
    content: str


class FileRef(Wire):
    """`@path`: a file to show to the model, relative to the pod's cwd."""

    kind: Literal["file_ref"] = "file_ref"
    path: str


class KnowledgeRef(Wire):
    """`#slug`: a knowledge page of the workspace."""

    kind: Literal["knowledge_ref"] = "knowledge_ref"
    slug: str


class WorkflowInvoke(Wire):
    """`/slug`: a workflow to follow; one that cannot be resolved refuses the run."""

    kind: Literal["workflow_invoke"] = "workflow_invoke"
    slug: str


class UnknownSegment(OpenWire):
    """A segment kind this version does not know.

    `original` names it, the other fields stay as they came.
    """

    kind: Literal["unknown"] = "unknown"
    original: str = ""

    @model_validator(mode="before")
    @classmethod
    def _keep_kind(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("kind") != "unknown":
            return {**data, "original": str(data.get("kind", "")), "kind": "unknown"}
        return data


_KNOWN = frozenset({"text", "paste", "file_ref", "knowledge_ref", "workflow_invoke"})

Segment: TypeAlias = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[Paste, Tag("paste")]
    | Annotated[FileRef, Tag("file_ref")]
    | Annotated[KnowledgeRef, Tag("knowledge_ref")]
    | Annotated[WorkflowInvoke, Tag("workflow_invoke")]
    | Annotated[UnknownSegment, Tag("unknown")],
    Discriminator(kind_or_unknown(_KNOWN)),
]


def flatten(segments: Iterable[Segment]) -> str:
    """Return the text the model reads: text and paste verbatim, references as typed, in order."""
    return "".join(_as_typed(segment) for segment in segments)


def _as_typed(segment: Segment) -> str:
    match segment:
        case Text(content=content) | Paste(content=content):
            return content
        case FileRef(path=path):
            return f"@{path}"
        case KnowledgeRef(slug=slug):
            return f"#{slug}"
        case WorkflowInvoke(slug=slug):
            return f"/{slug}"
        case UnknownSegment(original=original):
            return f"[unknown input: {original}]"
