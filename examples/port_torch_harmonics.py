"""Run a torch-harmonics model on geoattn: its attention layers replaced, its weights kept, outputs compared.

    python examples/port_torch_harmonics.py

Give a checkpoint of ``SphericalTransformer(…)`` to load your own weights:

    python examples/port_torch_harmonics.py --weights model.pt --dim 32
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch_harmonics.examples.models import SphericalTransformer

from geoattn.compat.torch_harmonics import convert


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
        bias=True,
    )
    if options.weights:
        model.load_state_dict(torch.load(options.weights, map_location="cpu", weights_only=True))
    model.eval()
    fields = torch.randn(2, 3, *shape)
    with torch.no_grad():
        expected = model(fields)
        count = len(convert(model).converted)
        found = model(fields)
    difference = float((found - expected).abs().max() / expected.abs().max())
    print(
        f"{count} attention layers ported; largest difference of the outputs: {difference:.1e} of the largest"
    )
    return difference


if __name__ == "__main__":
    main()
