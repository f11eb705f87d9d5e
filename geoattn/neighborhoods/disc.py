"""How the keys of a disc are found: by longitude intervals between lat-lon grids, else by a tree."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.base import SphericalGrid
from geoattn.grids.latlon import LatLonGrid
from geoattn.neighborhoods import _disc_kernels as kernels
from geoattn.neighborhoods.base import Index, Rotation, Rows


class LatLonDiscs:
    """Discs from one lat-lon grid to another.

    Longitude differences between the grids are whole multiples of a common step (up to one offset),
    so whether two points are in reach depends on their rows and that multiple alone. For each pair
    of rows two numbers, the furthest multiples east and west, hold all edges.
    """

    def __init__(self, query_grid: LatLonGrid, key_grid: LatLonGrid, limit: float) -> None:
        self.query_shape, self.key_shape = query_grid.shape, key_grid.shape
        n_query, n_key = query_grid.shape[1], key_grid.shape[1]
        common = gcd(n_query, n_key)
        #: multiples per column of the queries, of the keys, and around the globe
        self.query_stride, self.key_stride = n_key // common, n_query // common
        self.turn = n_query * n_key // common
        offset = (key_grid.lon_axis[0] - query_grid.lon_axis[0]) / 360.0 * self.turn
        self.shift = round(float(offset))
        rest = float(offset) - self.shift
        rest = 0.0 if abs(rest) < 1e-9 * self.turn else rest
        self.first_row, self.indptr, self.east, self.west = kernels.longitude_reach(
            np.radians(query_grid.lat_axis), np.radians(key_grid.lat_axis), self.turn, rest, limit
        )
        self.rotation = Rotation(n_query, n_query // common, n_key, n_key // common)

    def rows(self, queries: Index) -> Rows:
        return Rows(*kernels.latlon_rows(queries, self.query_shape[1], *self._tables()))

    def counts(self) -> Index:
        period = self.rotation.query_step  # counts repeat along a row
        n_rows, n_columns = self.query_shape
        queries = (np.arange(n_rows)[:, None] * n_columns + np.arange(period)).reshape(-1)
        counts: Index = np.diff(kernels.latlon_indptr(queries, n_columns, *self._tables()))
        return np.tile(counts.reshape(n_rows, period), n_columns // period).reshape(-1)

    def _tables(self) -> tuple[Any, ...]:
        strides = (self.key_shape[1], self.query_stride, self.key_stride, self.turn, self.shift)
        return (*strides, self.first_row, self.indptr, self.east, self.west)


class PointDiscs:
    """Discs between any spherical grids, through a tree of caps over the keys."""

    def __init__(self, query_grid: SphericalGrid, key_grid: SphericalGrid, limit: float) -> None:
        self.queries = query_grid.xyz.reshape(-1, 3)
        self.keys: NDArray[np.float64] = key_grid.xyz.reshape(-1, 3)
        self.limit = limit
        self.rotation: Rotation | None = None

    def rows(self, queries: Index) -> Rows:
        rows = [
            np.flatnonzero(((self.keys - self.queries[q]) ** 2).sum(-1) <= 4 * self.limit) for q in queries
        ]
        indptr = np.concatenate(([0], np.cumsum([len(r) for r in rows])))
        return Rows(indptr, np.concatenate([*rows, np.empty(0)]).astype(np.int32))

    def counts(self) -> None:
        return None
