"""Where the corners of a grid's cells lie, in degrees, as files of grids and weights have them."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from geoattn.grids.base import SphericalGrid
from geoattn.grids.healpix import HEALPix
from geoattn.grids.healpix_outlines import pixel_corners
from geoattn.grids.icosahedral import Icosahedral
from geoattn.grids.outlines import Axes, NoCells, bands, cells_of
from geoattn.grids.points import Points
from geoattn.grids.reduced import ReducedGaussian
from geoattn.grids.sphere import Floats, lat_lon
from geoattn.grids.voronoi import voronoi_corners


def corner_places(grid: SphericalGrid) -> tuple[Floats, Floats]:
    """Latitudes and longitudes of each cell's corners, anticlockwise, ``[size, k]``; some may repeat.

    Raises
    ------
    NoCells
        If the grid has no cells.
    """
    return _corner_places(grid)


@singledispatch
def _corner_places(grid: SphericalGrid) -> tuple[Floats, Floats]:
    found = cells_of(grid)
    if isinstance(found, Axes):
        lat, lon = found.lat_edges, found.lon_edges
        row, column = np.divmod(np.arange(grid.size), len(lon) - 1)
        low, high = np.minimum(lat[:-1], lat[1:])[row], np.maximum(lat[:-1], lat[1:])[row]
        west, east = np.minimum(lon[:-1], lon[1:])[column], np.maximum(lon[:-1], lon[1:])[column]
        return np.stack((low, low, high, high), 1), np.stack((west, east, east, west), 1)
    corners = getattr(grid, "corners", None)
    if corners is None:
        raise NoCells(f"cells of the {grid!r} are cut by each other: no list of corners goes around each")
    return lat_lon(np.asarray(corners).reshape(grid.size, -1, 3))


@_corner_places.register
def _(grid: ReducedGaussian) -> tuple[Floats, Floats]:
    low, high, west, east = bands(grid)
    return np.stack((low, low, high, high), 1), np.stack((west, east, east, west), 1)


@_corner_places.register
def _(grid: HEALPix) -> tuple[Floats, Floats]:
    return lat_lon(pixel_corners(grid))


@_corner_places.register(Icosahedral)
@_corner_places.register(Points)
def _(grid: Icosahedral | Points) -> tuple[Floats, Floats]:
    cells_of(grid)  # points with given areas have none
    return lat_lon(voronoi_corners(grid.xyz))
