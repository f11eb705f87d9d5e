"""From fields to tokens and back: what a point holds and where it lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from geoattn.grids import Grid, patches, position_features
from geoattn.grids.checks import integer, positive
from geoattn.nn.checks import check_tokens
from geoattn.nn.table import Table


class PositionFeatures(nn.Module):
    """Concatenates smooth functions of position to the channels of each token.

    Spherical harmonics of degree 1 to ``degree`` on spheres, Fourier functions on planes: see
    :func:`geoattn.grids.position_features`. ``count`` channels are added; degree 0 adds none.
    """

    def __init__(
        self,
        grid: Grid,
        degree: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.features = Table(position_features(grid, degree)).to(device=device, dtype=dtype)
        self.count = self.features.original.shape[-1]

    def forward(self, x: Tensor) -> Tensor:
        """``[B, *grid.shape, channels]`` to ``[B, *grid.shape, channels + count]``."""
        features = self.features().to(x.dtype)
        return torch.cat((x, features.expand(len(x), *features.shape)), dim=-1)


class PatchEmbed(nn.Module):
    """One token for each rectangular patch: a linear map of all channels of its points.

    Parameters
    ----------
    grid
        Where the fields live; :func:`geoattn.grids.patches` lists the kinds that have patches.
    patch
        Points along each side of a patch, one number or one per axis; 1 embeds each point.
    in_channels, dim
        Channels of a point and of a token.

    Attributes
    ----------
    coarse_grid
        The grid of the tokens.
    """

    def __init__(
        self,
        grid: Grid,
        patch: int | Sequence[int],
        in_channels: int,
        dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        in_channels, dim = integer("in_channels", in_channels), integer("dim", dim)
        positive(in_channels=in_channels, dim=dim)
        self.grid, self.in_channels = grid, in_channels
        self.coarse_grid, members = patches(grid, patch)
        self.members = Table(members.reshape(-1)).to(device=device)
        self.width = members.shape[1] * in_channels
        self.projection = nn.Linear(self.width, dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, *grid.shape, in_channels]`` to ``[B, *coarse_grid.shape, dim]``."""
        check_tokens("x", x, self.grid, self.in_channels)
        points = x.flatten(1, -2)[:, self.members()]
        together = points.reshape(len(x), *self.coarse_grid.shape, self.width)
        tokens: Tensor = self.projection(together)
        return tokens


class PatchUnembed(nn.Module):
    """All points of each patch from its token: the mirror image of :class:`PatchEmbed`."""

    def __init__(
        self,
        grid: Grid,
        patch: int | Sequence[int],
        dim: int,
        out_channels: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dim, out_channels = integer("dim", dim), integer("out_channels", out_channels)
        positive(dim=dim, out_channels=out_channels)
        self.grid, self.dim, self.out_channels = grid, dim, out_channels
        self.coarse_grid, members = patches(grid, patch)
        self.places = Table(np.argsort(members.reshape(-1))).to(device=device)
        self.projection = nn.Linear(dim, members.shape[1] * out_channels, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, *coarse_grid.shape, dim]`` to ``[B, *grid.shape, out_channels]``."""
        check_tokens("x", x, self.coarse_grid, self.dim)
        points: Tensor = self.projection(x).reshape(len(x), self.grid.size, self.out_channels)
        return points[:, self.places()].reshape(len(x), *self.grid.shape, self.out_channels)
