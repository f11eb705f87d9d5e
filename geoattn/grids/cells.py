"""Lists of cells: points with the polygons around them."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from geoattn.grids.base import PointSet, SphericalGrid, read_only
from geoattn.grids.polygons import inside, overlap, signed_areas
from geoattn.grids.sphere import Floats, unit_vectors


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cells(PointSet, kind="cells"):
    """A list of points, each with the corners of its cell: stations of a mesh, or pieces of a region.

    Sides of cells are great circles. ``areas`` is empty where they are the polygons'.
    """

    latitudes: Floats
    longitudes: Floats
    #: ``[n, k]``, around each cell; those of fewer corners repeat some
    corner_latitudes: Floats
    corner_longitudes: Floats
    areas: Floats

    def _shape(self) -> tuple[int, ...]:
        return self.latitudes.shape

    @property
    def lat(self) -> Floats:
        return self.latitudes

    @property
    def lon(self) -> Floats:
        return self.longitudes

    @cached_property
    def corners(self) -> Floats:
        """Unit vectors to the corners of each cell, ``[n, k, 3]``."""
        return read_only(unit_vectors(self.corner_latitudes, self.corner_longitudes))

    @cached_property
    def weights(self) -> Floats:
        return self.areas if self.areas.size else read_only(cell_areas(self.xyz, self.corners))

    def __repr__(self) -> str:
        return f"region of {self.size} cells, {describe(self)}"


def cell_areas(points: Floats, corners: Floats) -> Floats:
    """Areas of cells ``corners [*shape, k, 3]`` around ``points [*shape, 3]``, steradians.

    Raises
    ------
    ValueError
        If cells are folded, do not lie around their points, or overlap.
    """
    signed = signed_areas(corners)
    folded = ~(signed * np.sign(np.median(signed)) > 0)
    if folded.any():
        first = tuple(map(int, np.argwhere(folded)[0]))
        raise ValueError(
            f"{folded.mean():.2%} of the cells, the first at index {first}, have no area or run the other "
            "way around: their corners do not close, or neighboring points come in no order. Give corners in "
            "one direction around every cell, ga.grids.regional(lat, lon, corners=(corner_lat, corner_lon))"
        )
    outside = ~inside(points, corners)
    if outside.any():
        first = tuple(map(int, np.argwhere(outside)[0]))
        raise ValueError(
            f"the corners of {outside.mean():.2%} of the cells do not close around their points, first at "
            f"index {first}: they belong to other points, or are in another order"
        )
    areas = np.abs(signed)
    n = areas.size
    share = overlap(points.reshape(n, 3), corners.reshape(n, -1, 3), areas.ravel())
    if share > 0.001:
        raise ValueError(
            f"cells overlap: {share:.1%} of the area lies in several cells. Leave out what is there twice, "
            "keep = ga.grids.distinct(lat, lon), or give the areas that points stand for, areas=…"
        )
    return areas


def describe(grid: SphericalGrid) -> str:
    """Where a region lies, and how large it is."""
    return f"{span(grid.lat, grid.lon)}, {grid.weights.sum() / (4.0 * np.pi):.2%} of the globe"


def span(lat: Floats, lon: Floats) -> str:
    """Latitudes and longitudes that points reach over, the latter from behind their widest gap."""
    east = np.unique(lon)
    gaps = np.diff(np.append(east, east[0] + 360.0))
    start, end = east[(gaps.argmax() + 1) % east.size], east[gaps.argmax()]
    turn = f"lon {start:g}° to {end:g}°" if gaps.max() > 1.5 * 360.0 / east.size else "all longitudes"
    return f"lat {lat.min():g}° to {lat.max():g}°, {turn}"
