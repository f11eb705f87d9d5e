"""GenCast's mesh transformer (Price et al., 2312.15796): what a few edges of an icosahedral mesh reach."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from originals import Projections, agree, dense, randomised
from scipy.spatial import ConvexHull
from torch import Tensor

import geoattn as ga

MESH, HOPS = ga.grids.icosahedral(2), 3


def ours(layer: Projections, x: Tensor) -> Tensor:
    """Attention of ``[B, nodes, C]``."""
    q, k, v = layer.parts(x)
    out = ga.attention(q, k, v, ga.k_hop(MESH, HOPS), key_weights=None)
    return layer.proj(out.flatten(-2))


def published(layer: Projections, x: Tensor) -> Tensor:
    """Masked by a power of the mesh's adjacency; its triangles are the faces of the hull of its nodes."""
    corners = torch.as_tensor(ConvexHull(MESH.xyz).simplices).long()
    near = torch.eye(MESH.size)
    near[corners, corners.roll(1, 1)] = 1
    near[corners.roll(1, 1), corners] = 1
    return dense(layer, x, torch.linalg.matrix_power(near, HOPS) > 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_layers_agree(dtype):
    layer = randomised(Projections(16, 2), dtype)
    x = torch.randn(2, MESH.size, 16, dtype=dtype)
    agree(*(partial(f, layer) for f in (ours, published)), layer, x)
