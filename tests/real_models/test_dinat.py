"""DiNAT (Hassani and Shi, 2209.15001) of transformers, whose NATTEN is geoattn.compat.natten."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec

import pytest
import torch
from originals import agree, randomised, results, same
from torch import Tensor, nn

import geoattn as ga
import geoattn.compat.natten


def modeling():
    """The module of transformers, with this package's NATTEN for as long as it is imported."""
    if not find_spec("transformers"):
        pytest.skip(
            "transformers is not installed (pip install transformers==4.53.3), whose DiNAT is run",
            allow_module_level=True,
        )
    finders, before = list(sys.meta_path), {}
    for name in [name for name in sys.modules if name.split(".")[0] == "natten"]:
        before[name] = sys.modules.pop(name)
    try:
        geoattn.compat.natten.install(replace=True)
        from transformers.models.dinat import modeling_dinat
    finally:
        sys.meta_path[:] = finders
        for name in [name for name in sys.modules if name.split(".")[0] == "natten"]:
            del sys.modules[name]
        sys.modules.update(before)
    if not hasattr(modeling_dinat.NeighborhoodAttention, "transpose_for_scores"):
        pytest.skip("this transformers' DiNAT fails in itself; 4.53.3 works", allow_module_level=True)
    return modeling_dinat


dinat = modeling()


@cache
def neighbors(shape: tuple[int, int], size: int, dilation: int) -> ga.relations.Relation:
    """The relative positions in dilated neighborhoods."""
    return ga.relations.offsets(ga.window(ga.grids.cartesian(shape), size, dilation=dilation))


def ours(attn: nn.Module, x: Tensor, output_attentions: bool = False) -> tuple[Tensor]:
    """What NeighborhoodAttention gives for ``[B, H, W, C]``."""
    relation = neighbors(x.shape[1:3], attn.kernel_size, attn.dilation)
    heads = attn.num_attention_heads
    q, k, v = (part(x).unflatten(-1, (heads, -1)) for part in (attn.query, attn.key, attn.value))
    out = ga.attention(q, k, v, relation.hood, relation=relation, relation_bias=attn.rpb.flatten(1))
    return (out.flatten(-2),)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dilation", [1, 2])
def test_layers_agree(dilation, dtype):
    attn = dinat.NeighborhoodAttention(dinat.DinatConfig(), 24, 3, 3, dilation)
    randomised(attn, dtype)
    attn.key.bias.requires_grad_(False)  # it shifts all scores of a query alike: its gradient is rounding
    x = torch.randn(2, 7, 9, 24, dtype=dtype)
    agree(lambda x: ours(attn, x)[0], lambda x: attn(x)[0], attn, x)


def test_whole_models_agree(monkeypatch):
    config = dinat.DinatConfig(
        embed_dim=16, depths=[2, 2], num_heads=[2, 4], kernel_size=3, dilations=[[1, 4], [2, 1]], num_labels=5
    )
    model = randomised(dinat.DinatForImageClassification(config), torch.float64)
    for name, p in model.named_parameters():
        p.requires_grad_(not name.endswith("key.bias"))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)

    def logits(x):
        return model(x).logits

    expected = results(logits, model, [x])
    monkeypatch.setattr(dinat.NeighborhoodAttention, "forward", ours)
    same(results(logits, model, [x]), expected)
