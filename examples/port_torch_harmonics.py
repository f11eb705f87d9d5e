"""Run a torch-harmonics model on geoattn: its attention layers replaced, its weights kept, outputs compared.

    python examples/port_torch_harmonics.py

Give a checkpoint of ``SphericalTransformer(…)`` to load your own weights:

    python examples/port_torch_harmonics.py --weights model.pt --dim 32
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_harmonics import NeighborhoodAttentionS2
from torch_harmonics.examples.models import SphericalTransformer

import geoattn as ga

#: torch-harmonics' name of a grid → ours
GRIDS = {
    "legendre-gauss": ga.grids.gaussian,
    "equiangular": ga.grids.equiangular,
    "lobatto": ga.grids.lobatto,
}


class ChannelsFirst(nn.Module):
    """Self-attention of fields ``[B, channels, nlat, nlon]``, as torch-harmonics lays them out."""

    def __init__(self, attention: ga.nn.Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x.movedim(1, -1)).movedim(-1, 1)


def port(layer: NeighborhoodAttentionS2, kind: str) -> ChannelsFirst:
    """The same attention by geoattn; torch-harmonics keeps its matrices as 1×1 convolutions."""
    grid = GRIDS[kind](layer.nlat_in, layer.nlon_in)
    biased, normed = layer.q_bias is not None, layer.q_norm_weights is not None
    ours = ga.nn.Attention(
        layer.in_channels,
        layer.num_heads,
        ga.geodesic(grid, radius=math.degrees(layer.theta_cutoff)),
        head_dim=layer.k_channels // layer.num_heads,
        qk_norm=normed,
        bias=biased,
    )
    state = {
        "qkv.weight": torch.cat((layer.q_weights, layer.k_weights, layer.v_weights))[:, :, 0, 0],
        "out.weight": layer.proj_weights[:, :, 0, 0],
    }
    if biased:
        state |= {
            "qkv.bias": torch.cat((layer.q_bias, layer.k_bias, layer.v_bias)),
            "out.bias": layer.proj_bias,
        }
    if normed:  # theirs is the departure from 1
        state |= {
            "query_norm.weight": 1 + layer.q_norm_weights,
            "key_norm.weight": 1 + layer.k_norm_weights,
        }
    ours.load_state_dict(state)
    return ChannelsFirst(ours)


def port_all(model: nn.Module, kind: str) -> int:
    """Replace every neighborhood self-attention in ``model``; returns how many there were."""
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, NeighborhoodAttentionS2):
                setattr(parent, name, port(child, kind))
                count += 1
    return count


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="a state_dict of the model; random weights without it")
    parser.add_argument("--dim", type=int, default=32, help="its embed_dim (%(default)s)")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    kind, shape = "legendre-gauss", (24, 48)
    model = SphericalTransformer(
        img_size=shape,
        grid=kind,
        grid_internal=kind,
        scale_factor=1,
        embed_dim=options.dim,
        num_layers=2,
        num_heads=4,
        theta_cutoff=math.radians(21.0),
        bias=True,
    )
    if options.weights:
        model.load_state_dict(torch.load(options.weights, map_location="cpu", weights_only=True))
    model.eval()
    fields = torch.randn(2, 3, *shape)
    with torch.no_grad():
        expected = model(fields)
        count = port_all(model, kind)
        found = model(fields)
    difference = float((found - expected).abs().max() / expected.abs().max())
    print(
        f"{count} attention layers ported; largest difference of the outputs: {difference:.1e} of the largest"
    )
    return difference


if __name__ == "__main__":
    main()
