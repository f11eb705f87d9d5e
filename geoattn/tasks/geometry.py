"""Geometry as one switch: what a query sees, and what its keys weigh.

======================  ==========================================  ==========================  ==========
setting                 keys that a query sees                      how many                    weights
======================  ==========================================  ==========================  ==========
plane                   a window of the image, clipped at all edges  as the disc, on average    equal
plane-reach             the same, of another size                    what the disc reaches      equal
plane-periodic          the window wraps around in longitude         as the disc, on average    equal
plane-periodic-reach    the same, of another size                    what the disc reaches      equal
sphere-unweighted       a geodesic disc                                                         equal
sphere                  a geodesic disc                                                         quadrature
======================  ==========================================  ==========================  ==========

Discs near the poles hold whole rows, so that a window cannot have both the disc's number of keys and its
reach: each window comes twice, once with the disc's mean number of keys over all queries, and once reaching
as many rows and columns as a disc at the equator does. The grid, and with it whatever else a model knows
about positions, is the same for all.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from geoattn.grids import LatLonGrid
from geoattn.grids.sphere import Floats
from geoattn.neighborhoods import Neighborhood, geodesic, window

Setting = Literal[
    "plane", "plane-reach", "plane-periodic", "plane-periodic-reach", "sphere-unweighted", "sphere"
]
SETTINGS: tuple[Setting, ...] = get_args(Setting)

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
    disc = geodesic(grid, radius=radius)
    if setting.startswith("sphere"):
        return Geometry(disc, "quadrature" if setting == "sphere" else None)
    wraps = setting.startswith("plane-periodic")
    if setting.endswith("reach"):
        size = reaching(grid, radius)
    else:
        size = holding(grid, float(disc.counts.mean()), wraps)
    return Geometry(window(grid, size, boundary="clip", periodic=(False, wraps)), None)


def reaching(grid: LatLonGrid, radius: float) -> tuple[int, int]:
    """Rows and columns, both odd, of the window that reaches as far as a disc at the equator; in degrees."""
    rows, columns = (2 * int(radius / step * (1 + 1e-9)) + 1 for step in _spacing(grid))
    return _within(grid, rows, columns)


def holding(grid: LatLonGrid, keys: float, wraps: bool) -> tuple[int, int]:
    """Rows and columns, both odd, of the window that holds so many keys in the mean over all queries.

    Among sizes that come within an eighth the one that is most nearly square in degrees, and if there is
    none, the closest in number.
    """
    (nlat, nlon), (south, east) = grid.shape, _spacing(grid)
    rows, columns = np.arange(1, 2 * nlat, 2), np.arange(1, nlon + 1 if wraps else 2 * nlon, 2)
    across = columns if wraps else np.array([_mean(int(c), nlon) for c in columns])
    held = np.array([_mean(int(r), nlat) for r in rows])[:, None] * across
    off = np.abs(np.log(held / keys))
    skewed = np.abs(np.log(np.divide.outer(rows * south, columns * east)))
    row, column = np.unravel_index(np.lexsort((off.ravel(), skewed.ravel(), _beyond(off)))[0], off.shape)
    return int(rows[row]), int(columns[column])


def _beyond(off: Floats, eighth: float = 0.125) -> Floats:
    """By how much more than an eighth each size is off; 0 within it."""
    return np.where(off < eighth, 0.0, off).ravel()


def _mean(size: int, count: int) -> float:
    """Points in a window of an odd size around each of ``count`` points in a line, in the mean."""
    place, half = np.arange(count), size // 2
    held = np.minimum(place + half, count - 1) - np.maximum(place - half, 0) + 1
    return float(held.mean())


def _spacing(grid: LatLonGrid) -> tuple[float, float]:
    """Degrees between the two rows in the middle, and between columns."""
    nlat, nlon = grid.shape
    middle = grid.lat_axis[(nlat - 1) // 2 : (nlat - 1) // 2 + 2]
    return abs(float(middle[-1] - middle[0])) or 180.0, 360.0 / nlon


def _within(grid: LatLonGrid, rows: int, columns: int) -> tuple[int, int]:
    nlat, nlon = grid.shape
    return min(rows, 2 * nlat - 1), min(columns, nlon - 1 + nlon % 2)
