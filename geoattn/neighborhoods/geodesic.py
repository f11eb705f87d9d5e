"""Geodesic discs: each query sees the keys within a great-circle distance."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from math import gcd, radians, sin
from typing import Protocol

import numpy as np

from geoattn.grids.base import Grid, SphericalGrid, require_grid
from geoattn.grids.checks import real
from geoattn.grids.latlon import LatLonGrid
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.everything import Everything
from geoattn.neighborhoods.rows import Index, Rotation, Rows

#: relative widening of the radius, so that keys at exactly the radius are inside whatever the rounding
SLACK = 1e-9


class Search(Protocol):
    """A way to find the keys in reach of queries."""

    def rows(self, queries: Index) -> Rows: ...


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Geodesic(Neighborhood, kind="geodesic"):
    """Closed discs of ``radius`` degrees; made by :func:`geodesic`, which defines them."""

    query_grid: SphericalGrid
    key_grid: SphericalGrid
    radius: float

    @cached_property
    def _search(self) -> Search:
        # the one place that chooses by grid: two lat-lon grids repeat along longitude
        from geoattn.neighborhoods.disc import LatLonDiscs, PointDiscs

        # half the chord of the radius, squared: also what haversines are compared with
        limit = sin(radians(min(self.radius * (1 + SLACK), 180.0)) / 2) ** 2
        if isinstance(self.query_grid, LatLonGrid) and isinstance(self.key_grid, LatLonGrid):
            return LatLonDiscs(self.query_grid, self.key_grid, limit)
        return PointDiscs(self.query_grid, self.key_grid, limit)

    def rows(self, queries: Index) -> Rows:
        return self._search.rows(np.ascontiguousarray(queries, dtype=np.int64))

    @property
    def rotation(self) -> Rotation | None:
        # turns about the axis that map both grids onto themselves
        (query_ring, query_turns), (key_ring, key_turns) = self.query_grid.turns, self.key_grid.turns
        turns = gcd(query_turns, key_turns)
        if turns == 1:
            return None
        return Rotation(query_ring, query_ring // turns, key_ring, key_ring // turns)

    def transpose(self) -> Geodesic:
        return Geodesic(self.key_grid, self.query_grid, self.radius)

    def __repr__(self) -> str:
        if self.query_grid == self.key_grid:
            return f"geodesic discs of {self.radius:g}° on {self.query_grid!r}"
        return f"geodesic discs of {self.radius:g}° from {self.query_grid!r} to {self.key_grid!r}"


def geodesic(query_grid: Grid, key_grid: Grid | None = None, *, radius: float) -> Geodesic | Everything:
    """Each query sees the keys within ``radius`` degrees of great-circle distance.

    The disc is closed: a key at exactly the radius is seen. Distances are compared in float64
    through chord lengths (haversines), with a relative slack of 1e-9 on the radius, so that the
    neighborhoods of a symmetric grid are symmetric. The same test decides a pair from either side.

    Parameters
    ----------
    query_grid, key_grid
        Spherical grids; one grid means self-attention.
    radius
        Degrees, above 0; from 180 on the disc is the whole sphere, :func:`geoattn.everything`. Where it is
        smaller than the spacing of the key grid, a query off the key grid may see nothing: its count is 0.

    Raises
    ------
    TypeError
        If a grid is not spherical.
    ValueError
        If the radius is not positive.

    Examples
    --------
    >>> ga.geodesic(ga.grids.gaussian(32, 64), radius=12)
    geodesic discs of 12° on Gaussian grid 32×64
    >>> int(ga.geodesic(ga.grids.healpix(4), ga.grids.gaussian(32, 64), radius=12).counts.min())
    15
    """
    key_grid = query_grid if key_grid is None else key_grid
    for grid in (query_grid, key_grid):
        require_spherical(grid, "geodesic")
    radius = real("radius", radius)
    if not radius > 0.0:  # finds NaN too
        raise ValueError(f"radius must be above 0 degrees, got {radius!r}")
    if radius >= 180.0:
        return Everything(query_grid, key_grid)
    return Geodesic(query_grid, key_grid, radius)  # type: ignore[arg-type]


def require_spherical(grid: Grid, call: str) -> None:
    """Refuse a grid that has no great-circle distances."""
    require_grid("grid", grid)
    if not isinstance(grid, SphericalGrid):
        raise TypeError(
            f"{call} needs points on a sphere, and {grid!r} has none; on a plane use "
            "window(grid, size), on a product of grids product(window(…), geodesic(…), …)"
        )
