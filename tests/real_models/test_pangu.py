"""Pangu-Weather (Bi et al., 2211.02556): windows in three dimensions, with a bias by level and latitude."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from originals import Projections, agree, boxes, dense, randomised, unboxed
from torch import Tensor, nn

import geoattn as ga

SHAPE, SIZE = (4, 6, 12), (2, 3, 4)
Box = tuple[int, int, int]


@cache
def earth(shape: Box, size: Box, shift: Box) -> ga.relations.Relation:
    """Displacements, counted apart for each level and latitude."""
    levels, sphere = ga.grids.cartesian(shape[0]), ga.grids.equiangular(*shape[1:], poles=False)
    up = ga.window(levels, size[0], stride=size[0], offset=shift[0], boundary="clip")
    around = ga.window(sphere, size[1:], stride=size[1:], offset=shift[1:], boundary="clip")
    return ga.relations.offsets(ga.product(up, around), by=(0, 1))


def ours(layer: Projections, x: Tensor, size: Box, shift: Box) -> Tensor:
    """Earth-specific attention of ``[B, levels, latitudes, longitudes, C]``."""
    relation = earth(x.shape[1:4], size, shift)
    up, south, east, level, row = torch.as_tensor(relation.coordinates.T).long()
    level, row = (level - shift[0]) % x.shape[1], (row - shift[1]) % x.shape[2]
    window = level // size[0] * (x.shape[2] // size[1]) + row // size[1]
    level, row = level % size[0], row % size[1]  # within the window
    pair = (level + (level + up) * size[0]) * size[1] ** 2 + row + (row + south) * size[1]
    table = layer.earth_bias[pair * (2 * size[2] - 1) + size[2] - 1 - east, window].T
    q, k, v = layer.parts(x)
    out = ga.attention(q, k, v, relation.hood, key_weights=None, relation=relation, relation_bias=table)
    return layer.proj(out.flatten(-2))


def published(layer: Projections, x: Tensor, size: Box, shift: Box) -> Tensor:
    """As in the paper's pseudocode: roll, cut, mask what the roll brings together but for longitudes."""
    back = tuple(-s for s in shift)
    z, y, column = (i.flatten() for i in torch.meshgrid(*map(torch.arange, size), indexing="ij"))
    index = (z[:, None] + z * size[0]) * (2 * size[2] - 1) * size[1] ** 2
    index = index + (y[:, None] + y * size[1]) * (2 * size[2] - 1)
    index = index + column[:, None] - column + size[2] - 1
    bias = layer.earth_bias[index]  # [box, box, windows, H]
    bias = bias.unflatten(2, (x.shape[1] // size[0], x.shape[2] // size[1])).permute(2, 3, 4, 0, 1)
    region = torch.zeros(1, *x.shape[1:4], 1)
    for axis in (0, 1):
        n, k, s = x.shape[axis + 1], size[axis], shift[axis]
        if s:
            part = torch.tensor([0] * (n - k) + [1] * (k - s) + [2] * s)
            region = 3 * region + part.view(-1, *(1,) * (3 - axis))
    region = boxes(region, size)[..., 0]
    seen = region[..., None] == region[..., None, :]
    out = dense(layer, boxes(x.roll(back, (1, 2, 3)), size), seen, bias[None, :, :, None])
    return unboxed(out, size).roll(shift, (1, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 1, 2)])
def test_layers_agree(shift, dtype):
    layer = Projections(16, 2)
    windows = SHAPE[0] // SIZE[0] * (SHAPE[1] // SIZE[1])
    entries = SIZE[0] ** 2 * SIZE[1] ** 2 * (2 * SIZE[2] - 1)
    layer.earth_bias = nn.Parameter(torch.zeros(entries, windows, 2))
    randomised(layer, dtype)
    x = torch.randn(2, *SHAPE, 16, dtype=dtype)
    agree(*(partial(f, layer, size=SIZE, shift=shift) for f in (ours, published)), layer, x)
