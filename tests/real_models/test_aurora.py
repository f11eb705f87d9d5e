"""Aurora's three-dimensional Swin (Bodnar et al., 2405.13063), with the padding of its inner stages."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
import torch
from originals import Projections, agree, boxes, dense, randomised, unboxed
from torch import Tensor
from torch.nn import functional as F

import geoattn as ga

SIZE = (2, 3, 4)
Box = tuple[int, int, int]


def sides(shape: Box, size: Box) -> list[int]:
    """Padding on both sides of each axis, the last axis first."""
    extra = [-n % k for n, k in zip(shape, size, strict=True)]
    return [0, 0, *(n for e in reversed(extra) for n in (e // 2, e - e // 2))]


@cache
def segments(n: int, size: int, shift: int, around: bool) -> ga.neighborhoods.Neighborhood:
    """Along an axis that was rolled, the windows without what the roll brought together."""
    at = np.arange(n)
    part = np.where(at < n - size, 0, np.where((at < n - shift) & (not around), 1, 2)) if shift else 0 * at
    window = (at + -n % size // 2) // size
    same = (window[:, None] == window) & (part[:, None] == part)
    line = ga.grids.cartesian(n)
    return ga.from_edges(line, line, np.append(0, same.sum(1).cumsum()), np.nonzero(same)[1])


def ours(layer: Projections, x: Tensor, size: Box, shift: Box) -> Tensor:
    """Attention of ``[B, levels, latitudes, longitudes, C]`` within windows; longitudes go around."""
    shape = x.shape[1:4]
    if any(shift):
        hood = ga.product(*map(segments, shape, size, shift, (False, False, True)))
        q, k, v = layer.parts(x.roll(tuple(-s for s in shift), (1, 2, 3)))
        return layer.proj(ga.attention(q, k, v, hood).flatten(-2)).roll(shift, (1, 2, 3))
    around = sides(shape, size)
    q, k, v = layer.parts(F.pad(x, around))  # where nothing is shifted, the padding is seen
    hood = ga.window(ga.grids.cartesian(q.shape[1:4]), size, stride=size)
    out = layer.proj(ga.attention(q, k, v, hood).flatten(-2))
    return F.pad(out, [-n for n in around])


def published(layer: Projections, x: Tensor, size: Box, shift: Box) -> Tensor:
    """Roll, pad, cut as its blocks do; where there is a shift, the padding is a group of its own."""
    group = torch.zeros(1, *x.shape[1:4], 1)
    if any(shift):
        for axis, (k, s) in enumerate(zip(size, shift, strict=True)):
            place = torch.zeros(x.shape[axis + 1])
            place[-k:] = 1
            if axis < 2:  # the last two parts of the longitudes are connected
                place[-s:] = 2
            group = 3 * group + place.view(-1, *(1,) * (3 - axis))
    padding = sides(x.shape[1:4], size)
    group = boxes(F.pad(group, padding, value=-1.0 if any(shift) else 0.0), size)[..., 0]
    seen = group[..., None] == group[..., None, :]
    rolled = F.pad(x.roll(tuple(-s for s in shift), (1, 2, 3)), padding)
    out = F.pad(unboxed(dense(layer, boxes(rolled, size), seen), size), [-n for n in padding])
    return out.roll(shift, (1, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 1, 2)])
@pytest.mark.parametrize("shape", [(4, 6, 12), (3, 5, 10)], ids=["divided", "padded"])
def test_layers_agree(shape, shift, dtype):
    layer = randomised(Projections(16, 2), dtype)
    x = torch.randn(2, *shape, 16, dtype=dtype)
    agree(*(partial(f, layer, size=SIZE, shift=shift) for f in (ours, published)), layer, x)
