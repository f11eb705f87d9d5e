"""Global attention on torch's fused kernels: weights in extra channels, and their accuracy."""

from __future__ import annotations

import matrix
import pytest

import geoattn as ga


def everything(rng):
    return ga.everything(*matrix.random_grids(rng))


@pytest.mark.parametrize("seed", range(4))
def test_random_global_problems_agree_with_the_oracle(seed):
    for case in matrix.cases(seed, 8, neighborhood=everything):
        matrix.check(case, "sdpa")
