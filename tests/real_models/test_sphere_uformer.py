"""SphereUFormer (Benny and Wolf, 2412.06968): an icosahedral mesh and a bias sampled from a table of angles.

Its nodes are the mesh's vertices here, as its release allows; its layers have heads of the model's width over
their number, and no positions beside the bias.
"""

from __future__ import annotations

from functools import cache, partial
from math import log

import numpy as np
import pytest
import torch
from originals import Projections, agree, randomised
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.nn import functional as F

import geoattn as ga

LEVEL, HOPS, TABLE = 2, 2, 7


@cache
def near(level: int, hops: int) -> tuple[ga.relations.Relation, np.ndarray]:
    """Each edge with a number of its own, and where the query sees the key: colatitude and longitude."""
    mesh = ga.grids.icosahedral(level)
    relation = ga.relations.edges(ga.k_hop(mesh, hops))
    indptr, key = relation.hood.to_csr()
    query = np.repeat(np.arange(mesh.size), np.diff(indptr))
    lat, east = np.radians(mesh.lat[query]), np.radians(mesh.lon[key] - mesh.lon[query])
    ahead, right = np.cos(np.radians(mesh.lat[key])) * [np.cos(east), np.sin(east)]
    up = np.sin(np.radians(mesh.lat[key]))
    ahead, up = ahead * np.cos(lat) + up * np.sin(lat), up * np.cos(lat) - ahead * np.sin(lat)
    return relation, np.stack((-np.arcsin(up.clip(-1, 1)), np.arctan2(right, ahead)), -1)


def ours(layer: Projections, x: Tensor, level: int, hops: int) -> Tensor:
    """Attention of ``[B, nodes, C]``."""
    relation, angles = near(level, hops)
    places = torch.as_tensor(angles / np.abs(angles).max()).to(x.dtype)
    table = F.grid_sample(layer.table, places[None, None], align_corners=True)[0, :, 0]
    q, k, v = layer.parts(x)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    scale = layer.logit_scale.clamp(max=log(100)).exp()
    out = ga.attention(
        q, k, v, relation.hood, scale=scale, key_weights=None, relation=relation, relation_bias=table
    )
    return layer.proj(out.flatten(-2))


@cache
def gathered(level: int, hops: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keys of each node ``[nodes, K]``, those with fewer again themselves; which are keys; their angles."""
    mesh = ga.grids.icosahedral(level)
    corners = ConvexHull(mesh.xyz).simplices
    near = np.eye(mesh.size, dtype=bool)
    for turn in (1, 2):
        near[corners, np.roll(corners, turn, 1)] = True
    reached = np.linalg.matrix_power(near.astype(int), hops) > 0
    most = reached.sum(1).max()
    index = np.arange(mesh.size)[:, None].repeat(most, 1)
    there = np.arange(most) < reached.sum(1)[:, None]
    index[there] = np.nonzero(reached)[1]
    turns = Rotation.from_euler("zy", np.stack((-mesh.lon, mesh.lat), -1), degrees=True)
    x, y, z = np.moveaxis(turns.as_matrix()[:, None] @ mesh.xyz[index][..., None], -2, 0)[..., 0]
    angles = np.stack((np.arccos(z.clip(-1, 1)) - np.pi / 2, np.arctan2(y, x)), -1)
    return torch.as_tensor(index), torch.as_tensor(there), torch.as_tensor(angles / np.abs(angles).max())


def published(layer: Projections, x: Tensor, level: int, hops: int) -> Tensor:
    """As its release: keys and values are gathered for each node, and what it lacks is masked."""
    index, there, angles = gathered(level, hops)
    q, k, v = layer.parts(x)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    scores = (q[:, :, None] * k[:, index]).sum(-1) * layer.logit_scale.clamp(
        max=log(100)
    ).exp()  # [B, N, K, H]
    bias = F.grid_sample(layer.table, angles[None].to(x.dtype), align_corners=True)  # [1, H, N, K]
    weights = (scores + bias.movedim(1, -1)).masked_fill(~there[..., None], float("-inf")).softmax(2)
    return layer.proj((weights[..., None] * v[:, index]).sum(2).flatten(-2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_layers_agree(dtype):
    layer = Projections(16, 2)
    layer.table = nn.Parameter(torch.zeros(1, 2, TABLE, TABLE))
    layer.logit_scale = nn.Parameter(torch.zeros(2))
    randomised(layer, dtype)
    x = torch.randn(2, 10 * 4**LEVEL + 2, 16, dtype=dtype)
    agree(*(partial(f, layer, level=LEVEL, hops=HOPS) for f in (ours, published)), layer, x)
