"""How the keys of a disc are found: by longitude intervals between lat-lon grids, else by a tree of boxes."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

from geoattn.grids.base import SphericalGrid
from geoattn.grids.latlon import LatLonGrid
from geoattn.neighborhoods import _disc_kernels as kernels
from geoattn.neighborhoods.boxes import BoxTree
from geoattn.neighborhoods.rows import Index, Rows


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

    def rows(self, queries: Index) -> Rows:
        return Rows(*kernels.latlon_rows(queries, self.query_shape[1], *self._tables()))

    def _tables(self) -> tuple[Any, ...]:
        strides = (self.key_shape[1], self.query_stride, self.key_stride, self.turn, self.shift)
        return (*strides, self.first_row, self.indptr, self.east, self.west)


class PointDiscs:
    """Discs between any spherical grids, through a tree of boxes over the keys."""

    def __init__(self, query_grid: SphericalGrid, key_grid: SphericalGrid, limit: float) -> None:
        self.queries = query_grid.xyz.reshape(-1, 3)
        self.tree = BoxTree(key_grid.xyz.reshape(-1, 3))
        self.squared_chord = 4.0 * limit

    def rows(self, queries: Index) -> Rows:
        return self.tree.within(self.queries[queries], np.full(len(queries), self.squared_chord))
