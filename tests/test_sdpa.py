"""Global attention on torch's fused kernels: weights in extra channels, and their accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn import testing
from geoattn.backends import sdpa


def everything(rng):
    return ga.everything(*testing.random_grids(rng))


@pytest.mark.parametrize("seed", range(4))
def test_random_global_problems_agree_with_the_oracle(seed):
    for case in testing.cases(seed, 8, neighborhood=everything):
        testing.check(case, "sdpa")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_accuracy_of_the_weights(dtype):
    """With equal scores the exponential of the lse is the sum of the weights: the area of the sphere."""
    grid = ga.grids.gaussian(48, 96)
    q = torch.zeros(1, 48, 96, 1, 16, dtype=dtype)
    _, lse = ga.attention(q, q, q, ga.everything(grid), return_lse=True, backend="sdpa")
    area = lse.double().exp().sub(4 * np.pi).abs().max().item() / (4 * np.pi)
    assert area < 2e-5  # rounding log w to the dtype would cost 3e-2 (bfloat16) or 3e-3 (float16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pieces_sum_to_the_number_they_were_cut_from(dtype):
    x = torch.randn(1000) * 12
    found = sdpa._pieces(x, dtype, sdpa.PIECES[dtype]).float().sum(-1)
    assert (found - x).abs().max() <= 12 * 2**-20


def test_a_bias_beyond_the_range_of_half_precision_still_hides():
    grid = ga.grids.gaussian(4, 8)
    q = torch.randn(1, 4, 8, 2, 8, dtype=torch.float16)
    bias = torch.zeros(4, 8)
    bias[0] = -1e5
    found = ga.attention(q, q, q, ga.everything(grid), key_bias=bias, backend="sdpa")
    true = ga.attention(q, q, q, ga.everything(grid), key_mask=bias == 0, backend="sdpa")
    torch.testing.assert_close(found, true)
