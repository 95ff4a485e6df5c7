"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.home import Home


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Home]:
    """A home for all tests of a file that do not disturb each other; nothing of it may be left."""
    home = Home()
    try:
        yield home
        home.down()
    finally:
        home.remove()
