"""timm's GCViT (Hatamizadeh et al., 2206.09959): windows, and windows that all have the same queries."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from originals import agree, of_timm, randomised, results, same, windows
from torch import Tensor, nn

import geoattn as ga

gcvit = of_timm("models.gcvit")


def ours(block: nn.Module, x: Tensor, q_global: Tensor | None = None) -> Tensor:
    """What ``_window_attn`` gives for ``[B, H, W, C]``, and queries ``[B, h, w, C]`` of one window."""
    attn, shape = block.attn, tuple(x.shape[1:3])
    relation = windows(shape, block.window_size)
    if attn.use_global:
        k, v = attn.qkv(x).unflatten(-1, (2, attn.num_heads, -1)).unbind(-3)
        down, right = (n // m for n, m in zip(shape, block.window_size, strict=True))
        q = q_global.tile(1, down, right, 1).unflatten(-1, (attn.num_heads, -1))
    else:
        q, k, v = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).unbind(-3)
    table = attn.rel_pos.relative_position_bias_table.T.flip(-1)  # timm's counts query − key
    out = ga.attention(q, k, v, relation.hood, relation=relation, relation_bias=table)
    return attn.proj(out.flatten(-2))


def convert(model: nn.Module) -> nn.Module:
    """The model with our attention in each block."""
    for block in model.modules():
        if isinstance(block, gcvit.GlobalContextVitBlock):
            block._window_attn = partial(ours, block)
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("use_global", [False, True])
def test_blocks_agree(use_global, dtype):
    block = gcvit.GlobalContextVitBlock(24, (14, 21), 3, window_size=7, use_global=use_global)
    randomised(block, dtype)
    inputs = [torch.randn(2, 14, 21, 24, dtype=dtype)]
    if use_global:
        inputs.append(torch.randn(2, 7, 7, 24, dtype=dtype))
    agree(partial(ours, block), block._window_attn, block.attn, *inputs)


def test_whole_models_agree():
    model = gcvit.GlobalContextVit(
        img_size=64, num_classes=10, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=(8, 4)
    )
    randomised(model, torch.float64)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = results(model, model, [x])
    same(results(convert(model), model, [x]), expected)
