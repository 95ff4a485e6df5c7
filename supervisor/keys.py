"""Where the keys of providers are: in the environment that a fleet is started from, or in a file.

A key goes from there to the supervisor, over its stdin, and to a pod over the channel on which it
is born. It is never in a manifest, a record, an argument or the environment of what a fleet starts.
A file is read at each start of a pod, so a key can be changed without stopping the fleet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from protocol.birth import Access
from protocol.errors import InvalidRequest
from protocol.manifest import Model, PodManifest, Scheme
from protocol.operator_file import planted_link, read_operator_file
from supervisor.core.widening import writers

MISSING = "missing_key"
"""Why a pod without its key is `failed`: it is not tried again."""

MOST = 64 * 1024

_TAKEN = "_API_KEY"
"""How a variable ends that is taken along whether a pod names it or not."""

_BASE_URLS = {
    Scheme.ANTHROPIC: "ANTHROPIC_BASE_URL",
    Scheme.OPENAI_CHAT: "OPENAI_BASE_URL",
    Scheme.OPENAI_RESPONSES: "OPENAI_BASE_URL",
}


class MissingKey(InvalidRequest):
    """A model whose key is not there."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message, next_step=next_step, cause=MISSING, mend=next_step)


def models_of(manifest: PodManifest) -> Iterable[Model]:
    """Return the models that a pod speaks to: its own, and the one that writes its summaries."""
    own, summaries = manifest.model, manifest.compaction.model
    return (own,) if summaries is None else (own, summaries)


def collect(pods: Iterable[PodManifest], environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment the models of a fleet, and of pods added later, may need."""
    named = {m.key_variable for pod in pods for m in models_of(pod)}
    return {
        name: value.encode("utf-8", "replace").decode()
        for name, value in environ.items()
        if value and (name in named or name.endswith((_TAKEN, "_BASE_URL")))
    }


class Keys:
    """The keys of one fleet; they are not shown. `pods` may have put a link to a key's file."""

    def __init__(self, values: Mapping[str, str], pods: Sequence[PodManifest] = ()) -> None:
        self._values = dict(values)
        self._pods = pods

    def access(self, model: Model) -> Access | None:
        """Return how a model is reached; None where nothing is needed.

        Raises MissingKey naming the variable or the file, never a value.
        """
        if model.scheme is Scheme.SCRIPTED:
            return None
        variable = _BASE_URLS.get(model.scheme, "")
        url = model.base_url or self._values.get(variable)
        if url is not None and "@" in url.partition("://")[2].partition("/")[0]:
            raise InvalidRequest(
                "the base_url of a model must not hold a user or a key",
                next_step="put the key into the environment or a file: see docs/models.md",
            )
        return Access(api_key=self._key(model), base_url=url)

    def _key(self, model: Model) -> str:
        if model.api_key_file is not None:
            return _of_file(model.api_key_file, self._pods)
        variable = model.key_variable or ""
        if not (key := self._values.get(variable, "").strip()):
            unnamed = "" if variable.endswith(_TAKEN) else ", or no pod of its file named it then"
            raise MissingKey(
                f"{variable} was not set where the fleet was started{unnamed}",
                f"export {variable}=…, then podsup start (podsup down before it, if the fleet "
                "runs); or name a file in model.api_key_file",
            )
        if not _is_plain(key):
            raise MissingKey(
                f"what {variable} holds is no key: a key is one word of plain characters",
                f"set {variable} anew, then podsup down and podsup start",
            )
        return key


def _is_plain(key: str) -> bool:
    """Whether it can be one: it goes into a header of a request, and is looked for in texts."""
    return bool(key) and all("!" <= character <= "~" for character in key)


def _of_file(path: str, pods: Sequence[PodManifest]) -> str:
    again = "then podsup restart the pod"
    if (link := planted_link(path, lambda one: bool(writers(pods, one)))) is not None:
        raise MissingKey(
            f"the key file {path} is reached by {link}, a link that a pod may replace",
            f"name the file itself, {again}",
        )
    try:
        key = read_operator_file(path, most=MOST, forbidden=0o077).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise MissingKey(
            f"the key file {path} cannot be read: {why}", f"mend it, {again}"
        ) from error
    if not _is_plain(key):
        raise MissingKey(
            f"the key file {path} does not hold one key and nothing else", f"mend it, {again}"
        )
    return key
