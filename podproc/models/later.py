"""What SDKs and their HTTP client import only when they are used: for a process that forks pods."""

from __future__ import annotations

import contextlib
import importlib

_LATER = (
    "anyio._backends._asyncio",
    "anyio.streams.tls",
    "concurrent.futures.thread",
    "h11",
    "httpcore2",
    "httpcore2._backends.auto",
    "truststore",
)


def preload() -> None:
    """Import it now."""
    for name in _LATER:
        with contextlib.suppress(ImportError):  # it is an inner part of a library: it may go
            importlib.import_module(name)
