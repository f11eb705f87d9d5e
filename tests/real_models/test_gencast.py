"""GenCast's mesh transformer (Price et al., 2312.15796): what a few edges of an icosahedral mesh reach."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from originals import Projections, agree, dense, randomised
from scipy.spatial import ConvexHull
from torch import Tensor

import geoattn as ga

LEVEL, HOPS = 2, 3


@cache
def hood(level: int, hops: int) -> ga.neighborhoods.Neighborhood:
    return ga.k_hop(ga.grids.icosahedral(level), hops)


def ours(layer: Projections, x: Tensor, level: int, hops: int) -> Tensor:
    """Attention of ``[B, nodes, C]``."""
    q, k, v = layer.parts(x)
    out = ga.attention(q, k, v, hood(level, hops), key_weights=None)
    return layer.proj(out.flatten(-2))


@cache
def seen(level: int, hops: int) -> Tensor:
    """A power of the mesh's adjacency; its triangles are the faces of the hull of its nodes."""
    nodes = ga.grids.icosahedral(level).xyz
    corners = torch.as_tensor(ConvexHull(nodes).simplices).long()
    near = torch.eye(len(nodes))
    near[corners, corners.roll(1, 1)] = 1
    near[corners.roll(1, 1), corners] = 1
    reached = near
    for _ in range(hops - 1):
        reached = (reached @ near > 0).float()
    return reached > 0


def published(layer: Projections, x: Tensor, level: int, hops: int) -> Tensor:
    """Attention of all pairs, masked."""
    return dense(layer, x, seen(level, hops))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_layers_agree(dtype):
    layer = randomised(Projections(16, 2), dtype)
    x = torch.randn(2, 10 * 4**LEVEL + 2, 16, dtype=dtype)
    agree(*(partial(f, layer, level=LEVEL, hops=HOPS) for f in (ours, published)), layer, x)
