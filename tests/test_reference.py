"""The reference backend against the dense float64 oracle."""

from __future__ import annotations

import pytest

from geoattn import testing


@pytest.mark.parametrize("seed", range(6))
def test_random_problems_agree_with_the_oracle(seed):
    for case in testing.cases(seed, 8):
        testing.check(case, "reference")
