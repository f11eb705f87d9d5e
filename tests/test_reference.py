"""The reference backend against the dense float64 oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn import testing


@pytest.mark.parametrize("seed", range(6))
def test_random_problems_agree_with_the_oracle(seed):
    for case in testing.cases(seed, 8):
        testing.check(case, "reference")


def test_products_with_points_run_in_the_reference_and_twice_differentiated():
    hood = ga.product(ga.window(ga.grids.cartesian(3), 3), ga.nearest(ga.grids.icosahedral(0), k=5))
    q, k, v = torch.randn(3, 1, *hood.query_grid.shape, 1, 2, dtype=torch.float64)
    mask = torch.zeros(hood.query_grid.size, hood.key_grid.size, dtype=torch.bool)
    for query, rows in enumerate(np.split(hood.to_csr().indices, hood.to_csr().indptr[1:-1])):
        mask[query, rows] = True
    score = (q.reshape(36, 2) @ k.reshape(36, 2).T * 2**-0.5).masked_fill(~mask, -torch.inf)
    expected = score.softmax(-1) @ v.reshape(36, 2)
    found = ga.attention(q, k, v, hood, key_weights=None, backend="reference")
    torch.testing.assert_close(found.reshape(36, 2), expected)

    def call(q):
        return ga.attention(q, k, v, hood, key_weights=None, backend="reference")

    assert torch.autograd.gradgradcheck(call, q.requires_grad_(), nondet_tol=0.0, fast_mode=True)
