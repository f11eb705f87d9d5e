"""timm's HaloNet (Vaswani et al., 2103.12731): blocks of queries that see a halo around them."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
import torch
from originals import agree, of_timm, randomised
from torch import Tensor, nn
from torch.nn import functional as F

import geoattn as ga

halonet = of_timm("layers.halo_attn")


@cache
def blocks(shape: tuple[int, int], block: int, halo: int, step: int) -> ga.relations.Relation:
    """The relative positions of every ``step``-th query and the keys of its block with their halo."""
    queries = ga.grids.cartesian([n // step for n in shape], spacing=step)
    keys = ga.grids.cartesian([n + 2 * halo for n in shape])
    size = block + 2 * halo
    return ga.relations.offsets(
        ga.window(queries, size, stride=block, boundary="clip", key_grid=keys, origin=halo)
    )


def ours(attn: nn.Module, x: Tensor) -> Tensor:
    """What HaloAttn gives for ``[B, C, H, W]``."""
    heads, halo, step = attn.num_heads, attn.halo_size, attn.block_stride
    relation = blocks(tuple(x.shape[2:]), attn.block_size, halo, step)
    q = attn.q(x).movedim(1, -1).unflatten(-1, (heads, -1))
    kv = F.pad(attn.kv(x), (halo,) * 4).movedim(1, -1).unflatten(-1, (heads, -1))
    k, v = kv.split((attn.dim_head_qk, attn.dim_head_v), -1)
    logits = []
    for axis, weights in enumerate((attn.pos_embed.height_rel, attn.pos_embed.width_rel)):
        offset = torch.as_tensor(np.unique(relation.coordinates[:, axis])).long() + halo + attn.win_size - 1
        place = torch.arange(q.shape[1 + axis]) % attn.block_size_ds  # timm goes by places in the block
        index = offset + (step - 1) * place.view(*(1,) * axis, -1, *(1,) * (3 - axis))
        logits.append(torch.take_along_dim(q @ weights.T, index[None], -1))
    table = (logits[0][..., :, None] + logits[1][..., None, :]).flatten(-2)  # as offsets are numbered
    if attn.scale_pos_embed:
        table = table * attn.scale
    out = ga.attention(q, k, v, relation.hood, relation=relation, relation_bias=table)
    return attn.pool(out.flatten(-2).movedim(-1, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 2},
        {"stride": 2, "avg_down": True},
        {"qk_ratio": 0.5, "scale_pos_embed": True, "qkv_bias": True},
    ],
    ids=str,
)
def test_layers_agree(settings, dtype):
    attn = randomised(halonet.HaloAttn(32, num_heads=2, block_size=4, halo_size=3, **settings), dtype)
    x = torch.randn(2, 32, 8, 12, dtype=dtype)
    agree(partial(ours, attn), attn, attn, x)
