"""Stripes of panoramas as EGformer's (Yun et al., 2304.07803): along parallels and along meridians.

Half of the heads each, with a bias of the distance on the sphere, which shrinks along a parallel near a pole.
"""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from originals import Projections, agree, dense, randomised
from torch import Tensor, nn

import geoattn as ga

SHAPE = (6, 12)


@cache
def stripes(
    shape: tuple[int, int],
) -> tuple[ga.neighborhoods.Neighborhood, tuple[ga.relations.Relation, ...]]:
    """Parallels, whose displacements differ by latitude, and meridians."""
    sphere = ga.grids.equiangular(*shape, poles=False)
    hood = ga.heads(ga.window(sphere, (1, shape[1])), ga.window(sphere, (shape[0], 1), stride=(shape[0], 1)))
    along, across = hood.parts
    return hood, (ga.relations.offsets(along, by=0), ga.relations.offsets(across))


def ours(layer: Projections, x: Tensor) -> Tensor:
    """Attention of ``[B, latitudes, longitudes, C]``."""
    hood, relations = stripes(x.shape[1:3])
    (_, east, row), (south, _) = (x.new_tensor(relation.coordinates.T) for relation in relations)
    step, turn = torch.pi / x.shape[1], 2 * torch.pi / x.shape[2]
    distances = (
        2 * ((row + 0.5) * step).sin() * (east * turn / 2).sin().abs(),
        2 * (south * step / 2).sin().abs(),
    )
    tables = [slope[:, None] * d for slope, d in zip(layer.slopes.chunk(2), distances, strict=True)]
    q, k, v = layer.parts(x)
    out = ga.attention(q, k, v, hood, key_weights=None, relation=relations, relation_bias=tables)
    return layer.proj(out.flatten(-2))


def published(layer: Projections, x: Tensor) -> Tensor:
    """All pairs, of which each half of the heads sees its stripes; distances through space."""
    down, across = (i.flatten() for i in torch.meshgrid(*map(torch.arange, SHAPE), indexing="ij"))
    polar = (down.double() + 0.5) * torch.pi / SHAPE[0]
    azimuth = across.double() * 2 * torch.pi / SHAPE[1]
    points = torch.stack((polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()), -1)
    distance = (points[:, None] - points).norm(dim=-1).to(x.dtype)
    hidden = torch.stack([line[:, None] != line for line in (down, down, across, across)])
    bias = (layer.slopes[:, None, None] * distance).masked_fill(hidden, float("-inf"))
    everything = torch.ones(len(down), len(down), dtype=torch.bool)
    return dense(layer, x.flatten(1, 2), everything, bias).view(x.shape)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_layers_agree(dtype):
    layer = Projections(32, 4)
    layer.slopes = nn.Parameter(torch.zeros(4))
    randomised(layer, dtype)
    x = torch.randn(2, *SHAPE, 32, dtype=dtype)
    agree(*(partial(f, layer) for f in (ours, published)), layer, x)
