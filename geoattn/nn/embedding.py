"""From fields to tokens and back: what a point holds and where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from geoattn.grids import Grid, patches, position_features
from geoattn.grids.checks import integer, positive
from geoattn.grids.sphere import Ints
from geoattn.neighborhoods import Neighborhood
from geoattn.neighborhoods.edges import Edges
from geoattn.nn.checks import check_tokens
from geoattn.nn.table import Table

if TYPE_CHECKING:
    from geoattn.parallel.rows import Rows
    from geoattn.parallel.shards import Shards


class PositionFeatures(nn.Module):
    """Concatenates smooth functions of position to the channels of each token.

    Spherical harmonics of degree 1 to ``degree`` on spheres, Fourier functions on planes: see
    :func:`geoattn.grids.position_features`. ``count`` channels are added; degree 0 adds none.

    Examples
    --------
    >>> seen = ga.nn.PositionFeatures(ga.grids.gaussian(8, 16), degree=2)
    >>> seen(torch.randn(1, 8, 16, 3)).shape, seen.count
    (torch.Size([1, 8, 16, 11]), 8)
    """

    tokenwise = True

    def __init__(
        self,
        grid: Grid,
        degree: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.features = Table(position_features(grid, degree), grid).to(device=device, dtype=dtype)
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

    Examples
    --------
    >>> embed = ga.nn.PatchEmbed(ga.grids.gaussian(8, 16), 2, 3, 32)
    >>> embed(torch.randn(1, 8, 16, 3)).shape
    torch.Size([1, 4, 8, 32])
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
        self.fetch: Rows | None = None
        self.width = members.shape[1] * in_channels
        self.projection = nn.Linear(self.width, dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, *grid.shape, in_channels]`` to ``[B, *coarse_grid.shape, dim]``."""
        check_tokens("x", x, self.grid, self.in_channels)
        rows = x.flatten(1, -2)
        if self.fetch is not None:
            rows = self.fetch(rows)
        together = rows[:, self.members()].reshape(len(x), *self.coarse_grid.shape, self.width)
        tokens: Tensor = self.projection(together)
        return tokens

    def neighborhoods(self) -> Sequence[Neighborhood]:
        """Each patch sees its points."""
        members = np.sort(self.members.original.numpy().reshape(self.coarse_grid.size, -1), axis=1)
        starts = np.arange(0, members.size + 1, members.shape[1])
        return (Edges(self.coarse_grid, self.grid, starts, members.reshape(-1).astype(np.int32)),)

    def divide(self, shards: Shards) -> None:
        """Make the tokens of one of many processes."""
        (links,) = self.neighborhoods()
        self.fetch = shards.rows(links)
        members = self.members.original.numpy().reshape(self.coarse_grid.size, -1)
        own = members[shards.tokens(self.coarse_grid)]
        self.members.replace(self.fetch.places(own.reshape(-1)))
        self.grid, self.coarse_grid = shards.grid(self.grid), shards.grid(self.coarse_grid)


class PatchUnembed(nn.Module):
    """All points of each patch from its token: the mirror image of :class:`PatchEmbed`.

    Examples
    --------
    >>> ga.nn.PatchUnembed(ga.grids.gaussian(8, 16), 2, 32, 3)(torch.randn(1, 4, 8, 32)).shape
    torch.Size([1, 8, 16, 3])
    """

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
        self.spread = Spread(grid, patch).to(device=device)
        self.coarse_grid = self.spread.coarse_grid
        self.projection = nn.Linear(dim, self.spread.side * out_channels, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, *coarse_grid.shape, dim]`` to ``[B, *grid.shape, out_channels]``."""
        check_tokens("x", x, self.coarse_grid, self.dim)
        points: Tensor = self.spread(self.projection(x))
        return points

    def divide(self, shards: Shards) -> None:
        """Make the points of one of many processes."""
        self.grid, self.coarse_grid = shards.grid(self.grid), shards.grid(self.coarse_grid)


class Spread(nn.Module):
    """From patches to their points: knows no more geometry than the patches do.

    ``[B, *coarse_grid.shape, side · C]`` to ``[B, *grid.shape, C]``, where each of the ``side`` points of a
    patch takes its own part of the channels; with ``shared``, ``[B, *coarse_grid.shape, C]`` to the same, and
    each takes all.
    """

    def __init__(self, grid: Grid, patch: int | Sequence[int], shared: bool = False) -> None:
        super().__init__()
        self.grid, self.shared = grid, shared
        self.coarse_grid, members = patches(grid, patch)
        self.side = members.shape[1]
        self.places = Table(np.argsort(members.reshape(-1)))
        self.fetch: Rows | None = None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1, -2)
        if self.fetch is not None:
            rows = self.fetch(rows)
        if self.shared:
            parts = rows.repeat_interleave(self.side, dim=1)
        else:
            parts = rows.reshape(len(x), rows.shape[1] * self.side, x.shape[-1] // self.side)
        # each part goes to one point, so that the gradient is a gather as well, and repeats
        return parts[:, self.places()].reshape(len(x), *self.grid.shape, parts.shape[-1])

    def neighborhoods(self) -> Sequence[Neighborhood]:
        """Each point sees its patch."""
        patch = (self.places.original.numpy() // self.side).astype(np.int32)
        return (Edges(self.grid, self.coarse_grid, np.arange(self.grid.size + 1), patch),)

    def divide(self, shards: Shards) -> None:
        """Make the points of one of many processes."""
        (links,) = self.neighborhoods()
        self.fetch = shards.rows(links)
        own: Ints = self.places.original.numpy()[shards.tokens(self.grid)]
        self.places.replace(self.fetch.places(own // self.side) * self.side + own % self.side)
        self.grid = shards.grid(self.grid)
