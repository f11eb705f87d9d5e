"""The model: a transformer over discs on the sphere. Change it as you like."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import geoattn as ga


class OwnModel(nn.Module):
    """``[B, channels, *grid.shape]`` to the same.

    Tokens are patches of ``patch × patch`` points; blocks attend within discs, of the radius and of twice
    the radius in turn.
    """

    def __init__(
        self,
        grid: ga.grids.Grid,
        channels: int = 1,
        dim: int = 32,
        depth: int = 2,
        heads: int = 4,
        radius: float = 30.0,
        patch: int = 2,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.position = ga.nn.PositionFeatures(grid, degree=2)
        self.embed = ga.nn.PatchEmbed(grid, patch, channels + self.position.count, dim)
        coarse = ga.nn.patches(grid, patch).grid
        hoods = [ga.geodesic(coarse, radius=radius), ga.geodesic(coarse, radius=2 * radius)]
        self.blocks = nn.Sequential(
            *(
                ga.nn.Block(dim, heads, hoods[i % 2], position="directional", drop_path=drop_path)
                for i in range(depth)
            )
        )
        self.norm = nn.LayerNorm(dim)
        self.out = ga.nn.PatchUnembed(grid, patch, dim, channels)

    def forward(self, fields: Tensor) -> Tensor:
        tokens = self.embed(self.position(fields.movedim(1, -1)))
        change: Tensor = self.out(self.norm(self.blocks(tokens))).movedim(-1, 1)
        return fields + change


def weighted_error(found: Tensor, true: Tensor, grid: ga.grids.Grid) -> Tensor:
    """Mean square over the sphere: each point counts by its area."""
    share = torch.as_tensor(grid.weights / grid.weights.sum(), dtype=found.dtype, device=found.device)
    return ((found - true).square() * share).sum((-2, -1)).mean()
