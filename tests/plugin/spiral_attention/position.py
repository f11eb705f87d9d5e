"""A position scheme."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from geoattn.grids import Grid
from geoattn.nn import Position


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Closeness(Position, kind="closeness"):
    """Adds ``slope`` · cos γ to the score of a key at great-circle angle γ."""

    slope: float = 2.0

    def module(self, query_grid: Grid, key_grid: Grid, num_heads: int, head_dim: int) -> nn.Module:
        return _Product(self.slope, query_grid, key_grid)


class _Product(nn.Module):
    def __init__(self, slope: float, query_grid: Grid, key_grid: Grid) -> None:
        super().__init__()
        for name, grid, factor in (("query", query_grid, slope), ("key", key_grid, 1.0)):
            self.register_buffer(name, torch.tensor(factor * grid.xyz[..., None, :]), persistent=False)

    def forward(self, q: Tensor, k: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        query, key = (self.query / scale).to(q.dtype), self.key.to(k.dtype)
        return (
            torch.cat((q, query.expand(*q.shape[:-1], 3)), dim=-1),
            torch.cat((k, key.expand(*k.shape[:-1], 3)), dim=-1),
        )
