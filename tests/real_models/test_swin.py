"""timm's Swin Transformer (Liu et al., 2103.14030): its blocks, and Swin-T."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from originals import agree, cropped, of_timm, padded, randomised, results, same, windows
from torch import Tensor, nn

import geoattn as ga

swin = of_timm("models.swin_transformer")


def ours(block: nn.Module, x: Tensor) -> Tensor:
    """What a block's ``_attn`` gives for ``[B, H, W, C]``."""
    attn, shape = block.attn, x.shape[1:3]
    x = padded(x, block.window_size, block.shift_size)
    q, k, v = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).unbind(-3)
    relation = windows(x.shape[1:3], block.window_size, block.shift_size)
    table = attn.relative_position_bias_table.T.flip(-1)  # timm's counts query − key
    out = ga.attention(q, k, v, relation.hood, relation=relation, relation_bias=table)
    return cropped(attn.proj(out.flatten(-2)), shape, block.shift_size)


def convert(model: nn.Module) -> nn.Module:
    """The model with our attention in each block."""
    for block in model.modules():
        if isinstance(block, swin.SwinTransformerBlock):
            block._attn = partial(ours, block)
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("shape", [(14, 21), (12, 17)], ids=["divided", "padded"])
def test_blocks_agree(shape, shift, dtype):
    block = randomised(swin.SwinTransformerBlock(24, shape, 3, window_size=7, shift_size=shift), dtype)
    x = torch.randn(2, *shape, 24, dtype=dtype)
    agree(partial(ours, block), block._attn, block.attn, x)


@pytest.mark.parametrize("size", [(112, 112), (80, 112)], ids=["divided", "padded"])
def test_swin_t_agrees(size):
    model = randomised(swin.swin_tiny_patch4_window7_224(img_size=size, num_classes=10), torch.float64)
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = results(model, model, [x])
    same(results(convert(model), model, [x]), expected)
