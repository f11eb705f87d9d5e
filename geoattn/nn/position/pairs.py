"""Relative position as a bias for every pair: an entry of a table for each number of a relation.

The scheme reads off a neighborhood which pairs share a bias. It is exact in any precision, since nothing
passes through the channels.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from geoattn import relations
from geoattn.grids import Grid, SphericalGrid
from geoattn.grids.sphere import Floats
from geoattn.neighborhoods import Neighborhood
from geoattn.neighborhoods.heads import Heads
from geoattn.nn.position.base import Position
from geoattn.nn.table import Table
from geoattn.relations import Relation


class PairBias(nn.Module):
    """Makes the table of a relation: ``forward() -> [heads, relation.count]``.

    Examples
    --------
    >>> hood = ga.window(ga.grids.cartesian((8, 8)), 3)
    >>> bias = ga.nn.Attention(16, 2, hood, position="offsets").position
    >>> isinstance(bias, ga.nn.PairBias), bias().shape
    (True, torch.Size([2, 25]))
    """

    tokenwise = True

    def __init__(self, relation: Relation) -> None:
        super().__init__()
        self.relation = relation

    def extra_repr(self) -> str:
        return f"{self.relation!r}"


class PairBiases(nn.Module):
    """One for each part of a neighborhood of heads; relations and tables are tuples then."""

    tokenwise = True

    def __init__(self, parts: list[PairBias]) -> None:
        super().__init__()
        self.relation = tuple(part.relation for part in parts)
        self.parts = nn.ModuleList(parts)

    def forward(self) -> tuple[Tensor, ...]:
        return tuple(part() for part in self.parts)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PairPosition(Position):
    """A scheme that adds a bias for every pair; one of your own gives :meth:`bias`.

    Examples
    --------
    >>> isinstance(ga.nn.Offsets(), ga.nn.PairPosition)
    True
    """

    @abstractmethod
    def bias(self, hood: Neighborhood, num_heads: int) -> PairBias:
        """The module that makes the table, on the relation of its choice.

        Raises
        ------
        TypeError
            If the scheme does not fit the neighborhood.
        """

    def build(self, hood: Neighborhood, num_heads: int, head_dim: int) -> nn.Module:
        if isinstance(hood, Heads):
            return PairBiases([self.bias(part, num_heads // len(hood.parts)) for part in hood.parts])
        return self.bias(hood, num_heads)

    def module(self, query_grid: Grid, key_grid: Grid, num_heads: int, head_dim: int) -> NoReturn:
        raise TypeError(
            f"{self!r} adds a bias for every pair of a neighborhood; make its module with "
            "position.bias(hood, num_heads)"
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Offsets(PairPosition, kind="offsets"):
    """A learned number for each head and displacement in a window (Swin, 2103.14030), at first 0.

    Parameters
    ----------
    by
        Axes whose absolute place counts as well, as in Pangu-Weather's bias by level and latitude
        (2211.02556); see :func:`geoattn.relations.offsets`.

    Examples
    --------
    >>> hood = ga.window(ga.grids.cartesian((8, 8)), 3)
    >>> ga.nn.Attention(16, 2, hood, position=ga.nn.Offsets()).position.table.shape
    torch.Size([2, 25])
    """

    by: tuple[int, ...] = ()

    def bias(self, hood: Neighborhood, num_heads: int) -> PairBias:
        if hood.axes is None:
            raise TypeError(
                f"position 'offsets' has a number for each displacement along axes, and {hood!r} has none; "
                "on a sphere position='angles' has one for each angle"
            )
        return LearnedTable(relations.offsets(hood, self.by), num_heads)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Angles(PairPosition, kind="angles"):
    """A learned number for each head and bin of great-circle angle and bearing on a sphere, at first 0.

    Parameters
    ----------
    bins, sectors
        Equal bins of the angle, up to that of the longest edge, and of the bearing; see
        :func:`geoattn.relations.angles`.

    Examples
    --------
    >>> hood = ga.geodesic(ga.grids.gaussian(8, 16), radius=40)
    >>> layer = ga.nn.Attention(16, 2, hood, position=ga.nn.Angles(bins=4))
    >>> layer.position.table.shape
    torch.Size([2, 5])
    """

    bins: int = 16
    sectors: int = 1

    def bias(self, hood: Neighborhood, num_heads: int) -> PairBias:
        for grid in (hood.query_grid, hood.key_grid):
            if not isinstance(grid, SphericalGrid):
                raise TypeError(
                    f"position 'angles' has a number for each angle on a sphere, and {grid!r} is none; "
                    "in a window position='offsets' has one for each displacement"
                )
        return LearnedTable(relations.angles(hood, self.bins, self.sectors), num_heads)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Continuous(PairPosition, kind="continuous"):
    """A small network of the displacement, log-spaced (Swin V2, 2111.09883): it fits windows of any size.

    A displacement δ of at most s along its axis enters as sign(δ)·log₂(1 + 8·|δ|/s)/3; a layer of ``hidden``
    units makes of all axes one number x for each head, whose bias is 16/(1 + exp(−x)). On spheres it is the
    same of angle, in ``bins``, towards north and east.

    Parameters
    ----------
    hidden
        Units of the network.
    bins, sectors
        On spheres: how fine the angle and the bearing are; see :func:`geoattn.relations.angles`.

    Examples
    --------
    >>> hood = ga.window(ga.grids.cartesian((8, 8)), 3)
    >>> ga.nn.Attention(16, 2, hood, position=ga.nn.Continuous(hidden=32)).position().shape
    torch.Size([2, 25])
    """

    hidden: int = 512
    bins: int = 16
    sectors: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {self.hidden}")

    def bias(self, hood: Neighborhood, num_heads: int) -> PairBias:
        if hood.axes is not None:
            return NetworkTable(relations.offsets(hood), num_heads, self.hidden)
        return NetworkTable(relations.angles(hood, self.bins, self.sectors), num_heads, self.hidden)


class LearnedTable(PairBias):
    """A table of parameters."""

    def __init__(self, relation: Relation, num_heads: int) -> None:
        super().__init__(relation)
        self.table = nn.Parameter(torch.zeros(num_heads, relation.count))

    def forward(self) -> Tensor:
        return self.table


class NetworkTable(PairBias):
    """A table that a network makes of the relation's coordinates."""

    #: no bias is larger
    MOST = 16.0

    def __init__(self, relation: Relation, num_heads: int, hidden: int) -> None:
        super().__init__(relation)
        coordinates = _log_spaced(relation.coordinates)
        self.coordinates = Table(coordinates)
        self.network = nn.Sequential(
            nn.Linear(coordinates.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, num_heads, bias=False)
        )

    def forward(self) -> Tensor:
        table: Tensor = self.MOST * torch.sigmoid(self.network(self.coordinates()))
        return table.mT


def _log_spaced(coordinates: Floats) -> Floats:
    """Coordinates from −1.06 to 1.06, with steps that shrink towards 0."""
    most = np.abs(coordinates).max(axis=0)
    scaled = 8.0 * coordinates / np.where(most > 0, most, 1.0)
    return np.sign(scaled) * np.log2(1.0 + np.abs(scaled)) / math.log2(8.0)
