"""Regions of rows and columns, between parallels and meridians."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from geoattn.grids.base import SphericalGrid, read_only
from geoattn.grids.cells import describe
from geoattn.grids.sphere import Floats, Ints, unit_vectors, wrap_longitude


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RegionalLatLon(SphericalGrid, kind="regional_latlon"):
    """``shape == (nlat, nlon)``: rows of equal latitude, columns of equal longitude, of a part of the globe.

    Cells lie between parallels and meridians. Columns around the whole globe close on themselves.

    Examples
    --------
    >>> ga.grids.regional(np.linspace(40, 50, 6), np.linspace(0, 15, 8))
    region of 6×8 cells between parallels and meridians, lat 40° to 50°, lon 0° to 15°, 0.35% of...
    """

    #: degrees, in either direction
    lat_axis: Floats
    #: degrees, in either direction, without jumps
    lon_path: Floats
    #: the parallels ``[nlat + 1]`` and meridians ``[nlon + 1]`` between cells
    lat_edges: Floats
    lon_edges: Floats
    #: ``[nlat, nlon]``, or empty where they are those of the cells
    areas: Floats

    def _shape(self) -> tuple[int, ...]:
        return (len(self.lat_axis), len(self.lon_path))

    @cached_property
    def lon_axis(self) -> Floats:
        """Longitude of each column, degrees east in [0, 360), ``[nlon]``."""
        return read_only(wrap_longitude(self.lon_path))

    @cached_property
    def lat(self) -> Floats:
        return np.broadcast_to(self.lat_axis[:, None], self.shape)

    @cached_property
    def lon(self) -> Floats:
        return np.broadcast_to(self.lon_axis[None, :], self.shape)

    @property
    def closes(self) -> bool:
        """Whether the columns go around the globe."""
        return bool(abs(abs(self.lon_edges[-1] - self.lon_edges[0]) - 360.0) < 1e-6)

    @property
    def axes_periodic(self) -> tuple[bool, ...]:
        return (False, self.closes)

    @property
    def turns(self) -> tuple[int, int]:
        steps, n = np.diff(self.lon_path), self.shape[1]
        even = self.closes and n > 1 and bool(np.abs(steps - 360.0 / n).max() < 1e-9)
        whole = not self.areas.size or bool((self.areas == self.areas[:, :1]).all())
        return (n, n) if even and whole else (self.size, 1)

    @cached_property
    def corners(self) -> Floats:
        """Unit vectors to the corners of each cell, ``[nlat, nlon, 4, 3]``; two sides are parallels."""
        south, north = self.lat_edges[:-1, None], self.lat_edges[1:, None]
        west, east = self.lon_edges[:-1], self.lon_edges[1:]
        places = ((south, west), (south, east), (north, east), (north, west))
        return read_only(np.stack([unit_vectors(*np.broadcast_arrays(*p)) for p in places], axis=2))

    @cached_property
    def weights(self) -> Floats:
        if self.areas.size:
            return self.areas
        rows = np.abs(np.diff(np.sin(np.radians(self.lat_edges))))
        return read_only(np.outer(rows, np.abs(np.diff(np.radians(self.lon_edges)))))

    @cached_property
    def edges(self) -> Ints:
        """Pairs of cells that are neighbors in a row or a column."""
        cells = np.arange(self.size).reshape(self.shape)
        pairs = [(cells[:-1], cells[1:]), (cells[:, :-1], cells[:, 1:])]
        if self.closes and self.shape[1] > 2:
            pairs.append((cells[:, 0], cells[:, -1]))
        return read_only(np.concatenate([np.stack((a.ravel(), b.ravel()), axis=-1) for a, b in pairs]))

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"region of {rows}×{columns} cells between parallels and meridians, {describe(self)}"


def edges_between(lat: Floats, lon: Floats) -> tuple[Floats, Floats]:
    """Parallels and meridians halfway between rows and columns, the outermost cells as far outward as inward.

    None lies beyond a pole, and none further around than the whole circle.
    """
    meridians = between(lon)
    turn = meridians[-1] - meridians[0]
    if 360.0 < abs(turn) < 360.0 + 1e-3 * abs(turn) / len(lon):  # columns around the globe, rounded
        meridians = meridians[0] + (meridians - meridians[0]) * (360.0 / abs(turn))
    return between(lat).clip(-90.0, 90.0), meridians


def between(centres: Floats) -> Floats:
    """Places halfway between ``centres [n]``, and as far beyond the first and the last, ``[n + 1]``."""
    middles = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate(([2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]))
