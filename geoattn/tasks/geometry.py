"""Geometry as one switch with four settings: each differs from the one before it in one thing.

===================  ==========================================  ==============
setting              keys that a query sees                      their weights
===================  ==========================================  ==============
plane                a window of the image, clipped at all edges  equal
plane-periodic       the window wraps around in longitude        equal
sphere-unweighted    a geodesic disc                             equal
sphere               a geodesic disc                             quadrature
===================  ==========================================  ==============

The window has the disc's area at the equator. The grid, and with it whatever else a model knows about
positions, is the same for all four.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from geoattn.grids import LatLonGrid
from geoattn.neighborhoods import Neighborhood, geodesic, window

SETTINGS = ("plane", "plane-periodic", "sphere-unweighted", "sphere")

KeyWeights = Literal["quadrature"] | None


class Geometry(NamedTuple):
    """What a setting means for attention on one grid: the two go to a model's configuration."""

    hood: Neighborhood
    key_weights: KeyWeights


def geometry(setting: str, grid: Any, radius: float) -> Geometry:
    """A neighborhood on a lat-lon grid and the weights of its keys.

    Parameters
    ----------
    setting
        One of :data:`SETTINGS`, described in this module's docstring.
    grid
        A lat-lon grid, or the coarser lat-lon grid of its patches.
    radius
        Of the geodesic disc, in degrees.

    Raises
    ------
    ValueError
        If the setting is unknown.
    TypeError
        If the grid has no rows and columns.
    """
    if setting not in SETTINGS:
        raise ValueError(f"geometry {setting!r} is none of {', '.join(SETTINGS)}")
    if not isinstance(grid, LatLonGrid):
        raise TypeError(f"the settings compare windows and discs on lat-lon grids, and {grid!r} is none")
    if setting.startswith("sphere"):
        return Geometry(geodesic(grid, radius=radius), "quadrature" if setting == "sphere" else None)
    size = window_size(grid, radius)
    periodic = (False, setting == "plane-periodic")
    return Geometry(window(grid, size, boundary="clip", periodic=periodic), None)


def window_size(grid: LatLonGrid, radius: float) -> tuple[int, int]:
    """Rows and columns, both odd, of the square that has a disc's area at the equator; radius in degrees."""
    nlat, nlon = grid.shape
    spacing = (abs(grid.lat_axis[-1] - grid.lat_axis[0]) / (nlat - 1), 360.0 / nlon)
    half = [round((math.sqrt(math.pi) * radius / step - 1) / 2) for step in spacing]
    rows, columns = (2 * max(h, 0) + 1 for h in half)
    return min(rows, 2 * nlat - 1), min(columns, nlon)
