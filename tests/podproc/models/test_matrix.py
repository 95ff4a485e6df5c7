"""Every format stands every case that it has: the tests that are named exist."""

from __future__ import annotations

import pytest

from tests.podproc.models.anthropic_cases import CASE_IDS
from tests.podproc.models.matrix import MATRIX, SCHEMES
from tests.support.providers.openai_cases import CASES


def cases_of(scheme: str) -> set[str]:
    if scheme == "anthropic":
        return set(CASE_IDS)
    return {case.id for case in CASES if scheme in case.schemes}


@pytest.mark.parametrize("what", MATRIX)
def test_a_case_of_the_matrix_is_a_case_of_its_format(what: str) -> None:
    for scheme, case in zip(SCHEMES, MATRIX[what], strict=True):
        if case is not None and "::" not in case:
            assert case in cases_of(scheme), f"{scheme} has no case {case}"
