"""Each query sees its k nearest keys."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.base import Grid, SphericalGrid, require_grid
from geoattn.grids.cartesian import Cartesian
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Index, Rows
from geoattn.neighborhoods.transposed import Transposed

#: distances this close, relative to the k-th nearest, are ties
RELATIVE_TIE = 1e-9
#: and this close on the unit sphere or in units of the plane: coincident points, such as a pole's
ABSOLUTE_TIE = 1e-12


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Nearest(Neighborhood, kind="nearest"):
    """The ``k`` nearest keys of each query; made by :func:`nearest`, which defines them."""

    k: int

    @cached_property
    def _points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        keys = _in_space(self.key_grid)
        return (keys if self.query_grid == self.key_grid else _in_space(self.query_grid)), keys

    @cached_property
    def _trees(self) -> tuple[Any, Any]:
        from scipy.spatial import cKDTree

        from geoattn.neighborhoods.boxes import BoxTree

        keys = self._points[1][self.key_grid.counted]
        return cKDTree(keys), BoxTree(keys)

    def rows(self, queries: Index) -> Rows:
        from geoattn.neighborhoods._kernels import keep_nearest

        if not len(queries):  # of a process without any, which may know fewer than k keys
            return Rows(np.zeros(1, np.int64), np.zeros(0, np.int32))
        by_rank, by_distance = self._trees
        points, counted = self._points[0][queries], self.key_grid.counted
        keys = self._points[1][counted]
        kth = by_rank.query(points, k=[self.k])[0][:, 0]
        farther = kth * (1 + RELATIVE_TIE) + ABSOLUTE_TIE
        closer = np.maximum(kth * (1 - RELATIVE_TIE) - ABSOLUTE_TIE, 0.0)
        indptr, candidates = by_distance.within(points, farther**2)
        indptr, nearest = keep_nearest(indptr, candidates, points, keys, closer**2, self.k)
        return Rows(indptr, counted[nearest].astype(np.int32))

    @cached_property
    def counts(self) -> Index:
        return np.broadcast_to(np.int64(self.k), self.query_grid.shape)

    def transpose(self) -> Neighborhood:
        return Transposed(self.key_grid, self.query_grid, self)

    def __repr__(self) -> str:
        if self.query_grid == self.key_grid:
            return f"{self.k} nearest on {self.query_grid!r}"
        return f"{self.k} nearest from {self.query_grid!r} to {self.key_grid!r}"


def nearest(query_grid: Grid, key_grid: Grid | None = None, *, k: int) -> Nearest:
    """Each query sees the ``k`` nearest keys: along great circles, or straight on open planes.

    Ties go to the lower key number. Distances are tied where they differ from that of the k-th
    nearest key by less than 1e-9 of it (or 1e-12, for points that coincide), so that a symmetric
    grid gives the same answer whatever the rounding: all keys closer than that are seen, and the
    lowest-numbered of the tied ones fill the rest. Points without a cell, such as copies of others, are no
    keys.

    Parameters
    ----------
    query_grid, key_grid
        Two spherical grids, or two Cartesian grids with open axes of one origin; one grid means
        self-attention, where each query is its own nearest key.
    k
        Number of keys, from 1 to ``key_grid.size``, less those without a cell.

    Raises
    ------
    TypeError
        If the grids share no distance.
    ValueError
        If ``k`` is out of range.

    Examples
    --------
    >>> ga.nearest(ga.grids.healpix(4), ga.grids.gaussian(32, 64), k=9)
    9 nearest from HEALPix grid nside 4, 192 pixels in nested order to Gaussian grid 32×64
    """
    key_grid = query_grid if key_grid is None else key_grid
    both = (query_grid, key_grid)
    require_grid("query_grid", query_grid)
    require_grid("key_grid", key_grid)
    planes = all(isinstance(grid, Cartesian) and not any(grid.periodic) for grid in both) and len(
        query_grid.shape
    ) == len(key_grid.shape)
    if not planes and not all(isinstance(grid, SphericalGrid) for grid in both):
        raise TypeError(
            "nearest needs two spherical grids or two Cartesian grids of equal rank with open axes, got "
            f"{query_grid!r} and {key_grid!r}; on periodic axes use window(grid, size), on a product "
            "of grids product(window(…), nearest(…), …)"
        )
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= len(key_grid.counted):
        raise ValueError(f"k must be a whole number from 1 to the {len(key_grid.counted)} keys, got {k!r}")
    return Nearest(query_grid, key_grid, int(k))


def _in_space(grid: Grid) -> NDArray[np.float64]:
    """Points in three dimensions, ``[size, 3]``; the last ones are 0 on lines and planes."""
    points = grid.positions.reshape(grid.size, -1)
    missing = 3 - points.shape[1]
    return np.pad(points, ((0, 0), (0, missing))) if missing else points
