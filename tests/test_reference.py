"""The reference backend against the dense float64 oracle."""

from __future__ import annotations

import matrix
import pytest


@pytest.mark.parametrize("seed", range(6))
def test_random_problems_agree_with_the_oracle(seed):
    for case in matrix.cases(seed, 8):
        matrix.check(case, "reference")
