"""From fields to tokens: what a point holds and where it lies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geoattn.grids import Grid
from geoattn.nn.harmonics import position_features
from geoattn.nn.table import Table


class PositionFeatures(nn.Module):
    """Concatenates smooth functions of position to the channels of each token.

    Spherical harmonics of degree 1 to ``degree`` on spheres, Fourier functions on planes: see
    :func:`geoattn.nn.harmonics.position_features`. ``count`` channels are added; degree 0 adds none.
    """

    def __init__(self, grid: Grid, degree: int) -> None:
        super().__init__()
        self.features = Table(position_features(grid, degree))
        self.count = self.features.original.shape[-1]

    def forward(self, x: Tensor) -> Tensor:
        """``[B, *grid.shape, channels]`` to ``[B, *grid.shape, channels + count]``."""
        features = self.features().to(x.dtype)
        return torch.cat((x, features.expand(len(x), *features.shape)), dim=-1)
