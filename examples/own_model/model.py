"""The model: a transformer over discs on the sphere. Change it as you like."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

import geoattn as ga


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OwnConfig(ga.models.ModelConfig, kind="own_model"):
    """What defines the model: runs and files keep it, and build the model from it again.

    Tokens are patches of ``patch × patch`` points; blocks attend within discs, of the radius and of twice
    the radius in turn.
    """

    grid: ga.grids.Grid
    channels: int = 1
    dim: int = 32
    depth: int = 2
    heads: int = 4
    radius: float = 30.0
    patch: int = 2
    drop_path: float = 0.0

    def build(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> OwnModel:
        return OwnModel(self).to(device, dtype)


class OwnModel(ga.models.Model):
    """``[B, channels, *grid.shape]`` to the same."""

    def __init__(self, config: OwnConfig) -> None:
        super().__init__()
        self.config = config
        grid, dim = config.grid, config.dim
        self.position = ga.nn.PositionFeatures(grid, degree=2)
        self.embed = ga.nn.PatchEmbed(grid, config.patch, config.channels + self.position.count, dim)
        coarse = self.embed.coarse_grid
        hoods = [ga.geodesic(coarse, radius=radius) for radius in (config.radius, 2 * config.radius)]
        self.blocks = nn.Sequential(
            *(
                ga.nn.Block(
                    dim, config.heads, hoods[i % 2], position="directional", drop_path=config.drop_path
                )
                for i in range(config.depth)
            )
        )
        self.norm = nn.LayerNorm(dim)
        self.out = ga.nn.PatchUnembed(grid, config.patch, dim, config.channels)

    def forward(self, fields: Tensor) -> Tensor:
        tokens = self.embed(self.position(fields.movedim(1, -1)))
        change: Tensor = self.out(self.norm(self.blocks(tokens))).movedim(-1, 1)
        return fields + change
