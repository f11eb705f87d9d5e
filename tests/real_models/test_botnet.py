"""timm's Bottleneck Transformer (Srinivas et al., 2101.11605): everything, with relative positions."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from originals import agree, of_timm, randomised
from torch import Tensor, nn

import geoattn as ga

botnet = of_timm("layers.bottleneck_attn")


@cache
def everywhere(shape: tuple[int, int]) -> ga.relations.Relation:
    """The relative positions of all pairs."""
    return ga.relations.offsets(ga.everything(ga.grids.cartesian(shape)))


def ours(attn: nn.Module, x: Tensor) -> Tensor:
    """What BottleneckAttn gives for ``[B, C, H, W]``."""
    relation = everywhere(tuple(x.shape[2:]))
    parts = attn.qkv(x).movedim(1, -1).split((attn.dim_out_qk, attn.dim_out_qk, attn.dim_out_v), -1)
    q, k, v = (part.unflatten(-1, (attn.num_heads, -1)) for part in parts)
    down, right = q @ attn.pos_embed.height_rel.T, q @ attn.pos_embed.width_rel.T
    table = (down[..., :, None] + right[..., None, :]).flatten(-2)  # as offsets are numbered
    if attn.scale_pos_embed:
        table = table * attn.scale
    out = ga.attention(q, k, v, relation.hood, relation=relation, relation_bias=table)
    return attn.pool(out.flatten(-2).movedim(-1, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 2, "qkv_bias": True}, {"qk_ratio": 0.5, "scale_pos_embed": True}],
    ids=str,
)
def test_layers_agree(settings, dtype):
    attn = randomised(botnet.BottleneckAttn(32, feat_size=(6, 8), **settings), dtype)
    x = torch.randn(2, 32, 6, 8, dtype=dtype)
    agree(partial(ours, attn), attn, attn, x)
