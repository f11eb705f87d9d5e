"""HEAL-SWIN (Carlsson et al., 2307.07313): windows along the nested order of HEALPix pixels."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
import torch
from originals import Projections, agree, dense, randomised
from torch import Tensor, nn

import geoattn as ga

NSIDE, WINDOW, SHIFT = 4, 16, 8


def places(pixel):
    """Row and column in a window of 4×4: every other bit of the nested number."""
    return pixel >> 1 & 1 | pixel >> 2 & 2, pixel & 1 | pixel >> 1 & 2


@cache
def nested(nside: int, window: int, shift: int) -> ga.relations.Relation:
    """Relative rows and columns, query − key, in windows of consecutive pixels."""
    pixels = ga.grids.healpix(nside)
    hood = ga.curve_window(pixels, window, stride=window, curve="nested", offset=shift, boundary="clip")
    indptr, key = hood.to_csr()
    query = np.repeat(np.arange(pixels.size), np.diff(indptr))
    down, right = (
        a - b + 3 for a, b in zip(*(places((n - shift) % window) for n in (query, key)), strict=True)
    )
    return ga.relations.labels(hood, down * 7 + right)


def ours(layer: Projections, x: Tensor, shift: int) -> Tensor:
    """Attention of ``[B, pixels, C]``."""
    relation = nested(NSIDE, WINDOW, shift)
    q, k, v = layer.parts(x)
    out = ga.attention(q, k, v, relation.hood, relation=relation, relation_bias=layer.bias.T)
    return layer.proj(out.flatten(-2))


def published(layer: Projections, x: Tensor, shift: int) -> Tensor:
    """The pixels rolled along nested order and cut; what the roll brings together is masked."""
    spread = torch.tensor([[int(f"{n:04b}"[0::2], 2), int(f"{n:04b}"[1::2], 2)] for n in range(WINDOW)])
    apart = spread[:, None] - spread + 3
    bias = layer.bias[apart[..., 0] * 7 + apart[..., 1]].permute(2, 0, 1)
    first = torch.zeros(x.shape[1])
    first[len(first) - shift :] = 1
    first = first.view(-1, WINDOW)
    seen = first[..., None] == first[..., None, :]
    out = dense(layer, x.roll(-shift, 1).unflatten(1, (-1, WINDOW)), seen, bias)
    return out.flatten(1, 2).roll(shift, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shift", [0, SHIFT])
def test_layers_agree(shift, dtype):
    layer = Projections(16, 2)
    layer.bias = nn.Parameter(torch.zeros(49, 2))
    randomised(layer, dtype)
    x = torch.randn(2, 12 * NSIDE**2, 16, dtype=dtype)
    agree(*(partial(f, layer, shift=shift) for f in (ours, published)), layer, x)
