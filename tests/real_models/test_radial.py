"""Radial Attention (Li et al., 2506.19852): windows that are halved where the distance in time doubles."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
import torch
from originals import Projections, agree, dense, randomised
from torch import Tensor

import geoattn as ga

FRAMES, TOKENS = 12, 4


@cache
def radial(frames: int, tokens: int) -> ga.neighborhoods.Neighborhood:
    """The union over octaves of the distance in time of frames at it and a window for it."""
    time, line = ga.grids.cartesian(frames), ga.grids.cartesian(tokens)
    distance = np.abs(np.arange(frames)[:, None] - np.arange(frames))
    parts = []
    for octave in range(frames.bit_length()):
        near = (2**octave <= distance.clip(1)) & (distance.clip(1) < 2 ** (octave + 1))
        if 2**octave > tokens:  # only the same token, of some of the frames
            near &= distance % -(-(2**octave) // tokens) == 0
        times = ga.from_edges(time, time, np.append(0, near.sum(1).cumsum()), np.nonzero(near)[1])
        width = 2 * max(tokens // 2**octave, 1) - 1
        parts.append(ga.product(times, ga.window(line, width, boundary="clip")))
    return ga.union(*parts)


def ours(layer: Projections, x: Tensor) -> Tensor:
    """Attention of ``[B, frames, tokens, C]``."""
    q, k, v = layer.parts(x)
    return layer.proj(ga.attention(q, k, v, radial(*x.shape[1:3])).flatten(-2))


@cache
def seen(frames: int, tokens: int) -> Tensor:
    """The paper's mask of all pairs: frames i and j, tokens k and m."""
    i, k, j, m = np.ogrid[:frames, :tokens, :frames, :tokens]
    octave = 2 ** np.floor(np.log2(np.maximum(np.abs(i - j), 1)))
    within = (octave <= tokens) & (np.abs(k - m) + 1 <= tokens / octave)
    alone = (np.abs(i - j) % np.ceil(octave / tokens) == 0) & (k == m)
    return torch.as_tensor((within | alone).reshape(frames * tokens, -1))


def published(layer: Projections, x: Tensor) -> Tensor:
    """Attention of all pairs, masked."""
    return dense(layer, x.flatten(1, 2), seen(*x.shape[1:3])).view(x.shape)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_layers_agree(dtype):
    layer = randomised(Projections(16, 2), dtype)
    x = torch.randn(2, FRAMES, TOKENS, 16, dtype=dtype)
    agree(*(partial(f, layer) for f in (ours, published)), layer, x)
