"""A spherical transformer of one's own, from the parts in ``ga.nn``: ERA5's points in, HEALPix inside.

    python examples/custom_transformer.py

Attention leads from lat-lon points to an equal-area mesh, works there over discs of growing radius, and
leads back. On this random field it learns to turn the sphere by 15 degrees of longitude.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import geoattn as ga


class Sandwich(nn.Module):
    """``[B, channels, *grid.shape]`` to the same, by way of a mesh."""

    def __init__(self, grid: ga.grids.Grid, mesh: ga.grids.Grid, channels: int, dim: int, heads: int) -> None:
        super().__init__()
        self.position = ga.nn.PositionFeatures(grid, degree=3)
        self.embed = nn.Linear(channels + self.position.count, dim)
        self.to_mesh = ga.nn.Resample(mesh, grid, "attention", dim=dim, num_heads=heads)
        self.blocks = nn.Sequential(
            *(
                ga.nn.Block(dim, heads, ga.geodesic(mesh, radius=radius), position="harmonic")
                for radius in (25.0, 50.0)
            )
        )
        self.to_grid = ga.nn.Resample(grid, mesh, "attention", dim=dim, num_heads=heads)
        self.out = nn.Linear(dim, channels)

    def forward(self, fields: Tensor) -> Tensor:
        tokens = self.embed(self.position(fields.movedim(1, -1)))
        there_and_back = self.to_grid(self.blocks(self.to_mesh(tokens)))
        return self.out(tokens + there_and_back).movedim(-1, 1)


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps (%(default)s)")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    grid, mesh = ga.grids.equiangular(13, 24), ga.grids.healpix(4)
    model = Sandwich(grid, mesh, channels=1, dim=32, heads=4)
    print(f"{grid!r} → {mesh!r}: {sum(p.numel() for p in model.parameters()):,} parameters")

    weights = torch.tensor(grid.weights / grid.weights.sum(), dtype=torch.float32)
    smooth = ga.nn.position_features(grid, 4)
    waves = torch.tensor(smooth, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(options.steps + 1):
        fields = (waves @ torch.randn(waves.shape[-1], 8)).movedim(-1, 0)[:, None]
        error = ((model(fields) - fields.roll(1, -1)).square() * weights).sum((-2, -1)).mean()
        change = ((fields - fields.roll(1, -1)).square() * weights).sum((-2, -1)).mean()
        if step % 40 == 0:
            print(f"step {step:3}: error {error / change:.3f} of what leaving the field alone would cost")
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    return float(error.detach() / change)


if __name__ == "__main__":
    main()
