"""timm's Swin Transformer V2 (Liu et al., 2111.09883): its blocks, and SwinV2-T."""

from __future__ import annotations

from functools import partial
from math import log, log2

import pytest
import torch
from originals import agree, cropped, of_timm, padded, randomised, results, same, windows
from torch import Tensor, nn
from torch.nn import functional as F

import geoattn as ga

swin = of_timm("models.swin_transformer_v2")


def ours(block: nn.Module, x: Tensor) -> Tensor:
    """What a block's ``_attn`` gives for ``[B, H, W, C]``."""
    attn, shape, size = block.attn, x.shape[1:3], block.window_size
    x = padded(x, size, block.shift_size)
    relation = windows(x.shape[1:3], size, block.shift_size)
    reference = [m or n for m, n in zip(attn.pretrained_window_size, size, strict=True)]
    steps = torch.tensor(-relation.coordinates).float()  # query − key, rounded as timm's
    steps = steps / (torch.tensor(reference) - 1).clamp(min=1) * 8
    table = attn.cpb_mlp((steps.sign() * (steps.abs() + 1).log2() / log2(8)).to(x.dtype))
    bias = torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
    q, k, v = F.linear(x, attn.qkv.weight, bias).unflatten(-1, (3, attn.num_heads, -1)).unbind(-3)
    out = ga.attention(
        F.normalize(q, dim=-1),
        F.normalize(k, dim=-1),
        v,
        relation.hood,
        scale=attn.logit_scale.flatten().clamp(max=log(100)).exp(),
        relation=relation,
        relation_bias=16 * table.T.sigmoid(),
    )
    return cropped(attn.proj(out.flatten(-2)), shape, block.shift_size)


def convert(model: nn.Module) -> nn.Module:
    """The model with our attention in each block."""
    for block in model.modules():
        if isinstance(block, swin.SwinTransformerV2Block):
            block._attn = partial(ours, block)
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("shape", [(16, 24), (12, 17)], ids=["divided", "padded"])
def test_blocks_agree(shape, shift, dtype):
    pretrained = 6 if shift else 0
    block = swin.SwinTransformerV2Block(
        24, shape, 3, window_size=8, shift_size=shift, pretrained_window_size=pretrained
    )
    randomised(block, dtype)
    if dtype == torch.float64:  # in float32 scores of a hundred are rounded by more than 1e-5
        block.attn.logit_scale.data[0] = 5.0  # beyond the clamp
    x = torch.randn(2, *shape, 24, dtype=dtype)
    agree(partial(ours, block), block._attn, block.attn, x)


@pytest.mark.parametrize("size", [(128, 128), (80, 112)], ids=["divided", "padded"])
def test_swinv2_t_agrees(size):
    model = randomised(swin.swinv2_tiny_window8_256(img_size=size, num_classes=10), torch.float64)
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = results(model, model, [x])
    same(results(convert(model), model, [x]), expected)
