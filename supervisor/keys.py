"""Where the keys of providers are: in the environment that a fleet is started from, or in a file.

A key goes from there to the supervisor, over its stdin, and to a pod over the channel on which it
is born. It is never in a manifest, a record, an argument or the environment of what a fleet starts.
A file is read at each start of a pod, so a key can be changed without stopping the fleet.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from protocol.birth import Access
from protocol.errors import InvalidRequest
from protocol.manifest import Model, PodManifest, Scheme

MISSING = "missing_key"
"""Why a pod without its key is `failed`: it is not tried again."""

MOST = 64 * 1024

_BASE_URLS = {
    Scheme.ANTHROPIC: "ANTHROPIC_BASE_URL",
    Scheme.OPENAI_CHAT: "OPENAI_BASE_URL",
    Scheme.OPENAI_RESPONSES: "OPENAI_BASE_URL",
}


class MissingKey(InvalidRequest):
    """A model whose key is not there."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message, next_step=next_step, cause=MISSING)


def models_of(manifest: PodManifest) -> Iterable[Model]:
    """Return the models that a pod speaks to: its own, and the one that writes its summaries."""
    own, summaries = manifest.model, manifest.compaction.model
    return (own,) if summaries is None else (own, summaries)


def collect(pods: Iterable[PodManifest], environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment the models of a fleet, and of pods added later, may need."""
    named = {m.key_variable for pod in pods for m in models_of(pod)}
    return {
        name: value
        for name, value in environ.items()
        if value and (name in named or name.endswith(("_API_KEY", "_BASE_URL")))
    }


class Keys:
    """The keys of one fleet; they are not shown."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def access(self, model: Model) -> Access | None:
        """Return how a model is reached; None where nothing is needed.

        Raises MissingKey naming the variable or the file, never a value.
        """
        if model.scheme is Scheme.SCRIPTED:
            return None
        variable = _BASE_URLS.get(model.scheme, "")
        return Access(
            api_key=self._key(model), base_url=model.base_url or self._values.get(variable)
        )

    def _key(self, model: Model) -> str:
        if model.api_key_file is not None:
            return _of_file(model.api_key_file)
        variable = model.key_variable or ""
        if not (key := self._values.get(variable)):
            raise MissingKey(
                f"{variable} is not set where the fleet was started",
                f"set {variable}, then podsup down and podsup start; or name a file in "
                "model.api_key_file",
            )
        return key


def _of_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            key = file.read(MOST).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingKey(
            f"the key file {path} cannot be read: {error}", "mend it, then podsup restart the pod"
        ) from error
    if found.st_mode & 0o077:
        raise MissingKey(
            f"the key file {path} may be read by others (mode {found.st_mode & 0o777:o})",
            f"chmod 600 {path}, then podsup restart the pod",
        )
    if not key or len(key.split()) != 1:
        raise MissingKey(
            f"the key file {path} does not hold one key and nothing else",
            "mend it, then podsup restart the pod",
        )
    return key
