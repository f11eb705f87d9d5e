"""Stripes of panoramas as EGformer's (Yun et al., 2304.07803): along parallels and along meridians.

Its bias is there: a tenth of the distance through the unit sphere, positive eastward and southward, with rows
and columns where its release puts them. Its weights are not: 1 − cos of scores of unit length, instead of a
softmax. Its blocks look along one of the two; here half of the heads do each.
"""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from originals import Projections, agree, randomised
from torch import Tensor

import geoattn as ga

SHAPE = (6, 12)


@cache
def stripes(
    shape: tuple[int, int],
) -> tuple[ga.neighborhoods.Neighborhood, tuple[ga.relations.Relation, ...]]:
    """Parallels, whose displacements differ by latitude, and meridians; neither closes on itself."""
    plane, (down, across) = ga.grids.cartesian(shape), shape
    hood = ga.heads(
        ga.window(plane, (1, across), stride=(1, across)), ga.window(plane, (down, 1), stride=(down, 1))
    )
    return hood, (ga.relations.offsets(hood.parts[0], by=0), ga.relations.offsets(hood.parts[1]))


def ours(layer: Projections, x: Tensor) -> Tensor:
    """Attention of ``[B, latitudes, longitudes, C]``."""
    down, across = x.shape[1:3]
    hood, relations = stripes((down, across))
    (_, east, row), (south, _) = (x.new_tensor(relation.coordinates.T) for relation in relations)
    chords = (
        0.2 * (torch.pi * row / down).sin() * (torch.pi * east / (across - 1)).sin().abs() * east.sign(),
        0.2 * (torch.pi / 2 * south / (down - 1)).sin(),
    )
    tables = [chord.expand(layer.num_heads // 2, -1) for chord in chords]
    q, k, v = layer.parts(x)
    out = ga.attention(q, k, v, hood, scale=1.0, key_weights=None, relation=relations, relation_bias=tables)
    return layer.proj(out.flatten(-2))


def published(layer: Projections, x: Tensor) -> Tensor:
    """Rows and columns cut apart, each half of the heads within its own."""
    down, across = x.shape[1:3]
    outs = []
    for heads, length in ((0, across), (1, down)):
        q, k, v = (part.chunk(2, -2)[heads] for part in layer.parts(x))  # [B, rows, columns, H / 2, D]
        if heads:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        turn = torch.linspace(0, length, length, dtype=x.dtype) * (1 if heads else 2) * torch.pi / length
        apart = turn - turn[:, None]  # key − query
        chord = (2 * (1 - apart.cos())).sqrt() * apart.sign()
        if not heads:
            chord = (torch.arange(down, dtype=x.dtype) * torch.pi / down).sin()[:, None, None, None] * chord
        q, k, v = (part.transpose(-2, -3) for part in (q, k, v))  # [B, stripes, H / 2, tokens, D]
        out = (q @ k.mT + 0.1 * chord).softmax(-1) @ v
        out = out.transpose(-2, -3)
        outs.append(out.transpose(1, 2) if heads else out)
    return layer.proj(torch.cat(outs, -2).flatten(-2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_layers_agree(dtype):
    layer = randomised(Projections(32, 4), dtype)
    x = torch.randn(2, *SHAPE, 32, dtype=dtype)
    agree(*(partial(f, layer) for f in (ours, published)), layer, x)
