"""Every format stands every case."""

from __future__ import annotations

import pytest

from tests.podproc.models.matrix import MATRIX, SCHEMES, known


@pytest.mark.parametrize("what", MATRIX)
def test_a_case_is_proved_for_each_format(what: str) -> None:
    for scheme, case in zip(SCHEMES, MATRIX[what], strict=True):
        assert case in known(scheme), f"{scheme} has no case {case}"
