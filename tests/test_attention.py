"""The operator's own promises: gradients of any order, empty rows, merging, refusals, repeatability."""

from __future__ import annotations

import matrix
import numpy as np
import torch

import geoattn as ga

GRID = ga.grids.equiangular(4, 5)


def operands(hood=None, *, heads=2, kv_heads=2, dim=4, dim_v=4, batch=2, dtype=torch.float64, seed=0):
    hood = hood or matrix.random_edges(np.random.default_rng(seed), GRID, GRID)
    generator = torch.Generator().manual_seed(seed)
    shapes = (
        (batch, *hood.query_grid.shape, heads, dim),
        (batch, *hood.key_grid.shape, kv_heads, dim),
        (batch, *hood.key_grid.shape, kv_heads, dim_v),
    )
    q, k, v = (torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes)
    return q, k, v, hood


def test_gradients_agree_with_finite_differences():
    q, k, v, hood = operands(heads=4, dim=3, dim_v=2)
    bias = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)

    def finite(q, k, v, bias):
        out, lse = ga.attention(q, k, v, hood, key_bias=bias, return_lse=True)
        return out, torch.where(lse.isinf(), 0.0, lse)

    assert torch.autograd.gradcheck(finite, (q, k, v, bias), fast_mode=True)


def test_second_derivatives_agree_with_finite_differences():
    q, k, v, hood = operands(heads=4, dim=3, dim_v=2)
    bias = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def finite(q, k, v, bias):
        out, lse = ga.attention(q, k, v, hood, key_bias=bias, return_lse=True)
        return out, torch.where(lse.isinf(), 0.0, lse)

    assert torch.autograd.gradgradcheck(finite, (q, k, v, bias), fast_mode=True)
