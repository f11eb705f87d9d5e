"""timm's MaxViT (Tu et al., 2204.01697): attention in blocks and on grids, and a whole small one."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from originals import Sizes, agree, of_timm, randomised, results, same, windows
from torch import Tensor, nn

import geoattn as ga

maxxvit = of_timm("models.maxxvit")


@cache
def strided(shape: Sizes, size: Sizes) -> ga.relations.Relation:
    """The relative positions among points that lie evenly over the plane."""
    apart = tuple(n // k for n, k in zip(shape, size, strict=True))
    return ga.relations.offsets(ga.window(ga.grids.cartesian(shape), size, dilation=apart))


def ours(part: nn.Module, x: Tensor) -> Tensor:
    """What the ``_partition_attn`` of a part gives for ``[B, H, W, C]``, or ``[B, C, H, W]``."""
    attn, last = part.attn, isinstance(part, maxxvit.PartitionAttentionCl)
    qkv = attn.qkv(x) if last else attn.qkv(x).movedim(1, -1)
    if attn.head_first:
        q, k, v = qkv.unflatten(-1, (attn.num_heads, 3, -1)).unbind(-2)
    else:
        q, k, v = qkv.unflatten(-1, (3, attn.num_heads, -1)).unbind(-3)
    relation = (windows if part.partition_block else strided)(tuple(q.shape[1:3]), part.partition_size)
    if isinstance(attn.rel_pos, maxxvit.RelPosMlp):
        table = attn.rel_pos.mlp(attn.rel_pos.rel_coords_log).flatten(0, 1).T.flip(-1)  # query − key
    elif isinstance(attn.rel_pos, maxxvit.RelPosBias):
        table = attn.rel_pos.relative_position_bias_table.T.flip(-1)
    else:
        table = attn.rel_pos.relative_position_bias_table.flatten(1)  # key − query
    out = ga.attention(q, k, v, relation.hood, relation=relation, relation_bias=table).flatten(-2)
    return attn.proj(out if last else out.movedim(-1, 1))


def convert(model: nn.Module) -> nn.Module:
    """The model with our attention in each part."""
    for part in model.modules():
        if isinstance(part, maxxvit.PartitionAttentionCl | maxxvit.PartitionAttention2d):
            part._partition_attn = partial(ours, part)
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rel_pos_type", ["bias", "bias_tf", "mlp"])
@pytest.mark.parametrize("kind", ["block", "grid"])
def test_parts_agree(kind, rel_pos_type, dtype):
    settings = maxxvit.MaxxVitTransformerCfg(
        dim_head=8, window_size=(4, 6), grid_size=(4, 6), rel_pos_type=rel_pos_type, rel_pos_dim=16
    )
    part = randomised(maxxvit.PartitionAttentionCl(24, kind, settings), dtype)
    if rel_pos_type == "mlp":
        part.attn.rel_pos.mlp.fc2.bias.requires_grad_(
            False
        )  # the same for all keys: its gradient is rounding
    x = torch.randn(2, 12, 18, 24, dtype=dtype)
    agree(partial(ours, part), part._partition_attn, part.attn, x)


def test_whole_models_agree():
    settings = maxxvit.MaxxVitCfg(
        embed_dim=(32, 64),
        depths=(1, 2),
        block_type=("M", "M"),
        stem_width=16,
        transformer_cfg=maxxvit.MaxxVitTransformerCfg(
            rel_pos_type="bias_tf", window_size=(4, 4), grid_size=(4, 4)
        ),
    )
    model = randomised(maxxvit.MaxxVit(settings, img_size=64, num_classes=10), torch.float64)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = results(model, model, [x])
    same(results(convert(model), model, [x]), expected)
