"""Discs and quadrature on lat-lon grids agree with torch-harmonics' attention on the sphere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import geoattn as ga

harmonics = pytest.importorskip("torch_harmonics", reason="the harmonics extra is not installed")

GRIDS = {
    "legendre-gauss": ga.grids.gaussian,
    "equiangular": ga.grids.equiangular,
    "lobatto": ga.grids.lobatto,
}


def heads_last(x, heads):
    batch, channels, *axes = x.shape
    return x.reshape(batch, heads, channels // heads, *axes).movedim((1, 2), (-2, -1))


def angle_without_pairs(query_grid, key_grid, low, high):
    """An angle between low and high, as far as can be from every distance: both closed discs agree."""
    cosines = (query_grid.xyz.reshape(-1, 3) @ key_grid.xyz.reshape(-1, 3).T).clip(-1, 1)
    distances = np.unique(np.arccos(cosines))
    inside = distances[(distances >= low) & (distances <= high)]
    widest = np.diff(inside).argmax()
    return float(inside[widest : widest + 2].mean())


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize(
    ("in_shape", "out_shape"), [((8, 16), (8, 16)), ((12, 24), (6, 12)), ((6, 12), (12, 24))]
)
def test_neighborhood_attention_agrees(kind, in_shape, out_shape):
    from torch_harmonics import NeighborhoodAttentionS2

    torch.manual_seed(0)
    query_grid, key_grid = GRIDS[kind](*out_shape), GRIDS[kind](*in_shape)
    cutoff, heads, channels = angle_without_pairs(query_grid, key_grid, 0.55, 0.7), 2, 8
    layer = NeighborhoodAttentionS2(
        in_channels=channels,
        num_heads=heads,
        in_shape=in_shape,
        out_shape=out_shape,
        grid_in=kind,
        grid_out=kind,
        theta_cutoff=cutoff,
        bias=False,
    )
    query, key, value = torch.randn(2, channels, *out_shape), *torch.randn(2, 2, channels, *in_shape)

    q, k, v = (
        heads_last(torch.nn.functional.conv2d(x, weights), heads)
        for x, weights in ((query, layer.q_weights), (key, layer.k_weights), (value, layer.v_weights))
    )
    hood = ga.geodesic(query_grid, key_grid, radius=math.degrees(cutoff))
    out = ga.attention(q, k, v, hood)
    mixed = torch.nn.functional.conv2d(out.movedim((-2, -1), (1, 2)).flatten(1, 2), layer.proj_weights)
    torch.testing.assert_close(mixed, layer(query, key, value), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", GRIDS)
def test_global_attention_agrees(kind):
    from torch_harmonics import AttentionS2

    torch.manual_seed(0)
    heads, channels, shape = 2, 8, (8, 16)
    layer = AttentionS2(
        in_channels=channels,
        num_heads=heads,
        in_shape=shape,
        out_shape=shape,
        grid_in=kind,
        grid_out=kind,
        bias=False,
    )
    x = torch.randn(2, channels, *shape)
    q, k, v = (
        heads_last(torch.nn.functional.conv2d(x, w), heads)
        for w in (layer.q_weights, layer.k_weights, layer.v_weights)
    )
    out = ga.attention(q, k, v, ga.everything(GRIDS[kind](*shape)))
    mixed = torch.nn.functional.conv2d(out.movedim((-2, -1), (1, 2)).flatten(1, 2), layer.proj_weights)
    torch.testing.assert_close(mixed, layer(x), atol=1e-5, rtol=1e-4)
