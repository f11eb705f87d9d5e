"""Any points on the sphere, weighted by their Voronoi cells or by given areas."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from geoattn.grids.base import PointSet, read_only
from geoattn.grids.checks import numbers
from geoattn.grids.coverage import RegionError, hole
from geoattn.grids.repeats import same_points
from geoattn.grids.sphere import Floats, Ints, unit_vectors, wrap_longitude
from geoattn.grids.voronoi import delaunay_edges, voronoi_areas


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Points(PointSet, kind="points"):
    """A list of points. ``areas`` is empty where the weights are the Voronoi areas.

    Examples
    --------
    >>> float(ga.grids.points([90, 0, 0, 0, -90], [0, 0, 120, 240, 0]).weights.sum() / np.pi)
    4.0
    """

    latitudes: Floats
    longitudes: Floats
    areas: Floats
    #: ``[m, 2]``, which points a mesh joins; empty where it is those whose Voronoi cells touch
    links: Ints = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))

    def _check(self) -> None:
        lat, lon, areas = self.latitudes, self.longitudes, self.areas
        if lat.ndim != 1 or lat.shape != lon.shape or not len(lat):
            hint = ""
            if lat.shape == lon.shape and lat.size:
                hint = "; make lists of them, ga.grids.points(lat.ravel(), lon.ravel())"
            elif lat.ndim == lon.ndim == 1:
                hint = "; the axes of a global grid are those of ga.grids.latlon(lat, lon)"
            raise ValueError(
                f"lat and lon must be equally long lists of points, got shapes {lat.shape} and {lon.shape}"
                f"{hint}"
            )
        for i in np.flatnonzero(~(np.abs(lat) <= 90.0) | ~np.isfinite(lon))[:1]:  # ~ also finds NaN
            raise ValueError(
                f"point {i} at lat {lat[i]}, lon {lon[i]} is not on the sphere: "
                "lat must be in [-90, 90] and lon finite, in degrees"
            )
        if areas.shape not in ((0,), lat.shape):
            raise ValueError(f"areas must have one entry per point, {lat.shape}, got shape {areas.shape}")
        # the operator takes the logarithm of the weights in float32
        for i in np.flatnonzero(~((areas >= np.finfo(np.float32).tiny) & np.isfinite(areas)))[:1]:
            raise ValueError(
                f"areas[{i}] = {areas[i]} is not a positive area in steradians. Leave such points out: "
                "ga.grids.points(lat[areas > 0], lon[areas > 0], areas=areas[areas > 0])"
            )
        check_links(self.links, len(lat))
        self._check_distinct()

    def _check_distinct(self) -> None:
        for pairs in same_points(unit_vectors(self.latitudes, self.longitudes)):
            i, j = pairs[0]
            raise ValueError(
                f"points {i} and {j} are the same point: "
                f"lat {self.latitudes[i]}, lon {self.longitudes[i]} "
                f"and lat {self.latitudes[j]}, lon {self.longitudes[j]}. Drop those that occur again: "
                "keep = ga.grids.distinct(lat, lon); ga.grids.points(lat[keep], lon[keep])"
            )

    def _shape(self) -> tuple[int, ...]:
        return self.latitudes.shape

    @property
    def lat(self) -> Floats:
        return self.latitudes

    @property
    def lon(self) -> Floats:
        return self.longitudes

    @cached_property
    def edges(self) -> Ints | None:
        """What the mesh joins, else whose Voronoi cells touch; None for regions, around which these reach."""
        if len(self.links):
            return self.links
        return None if hole(self.xyz) else delaunay_edges(self.xyz)

    @cached_property
    def weights(self) -> Floats:
        return self.areas if len(self.areas) else read_only(voronoi_areas(self.xyz))

    def __repr__(self) -> str:
        areas = "given" if len(self.areas) else "Voronoi"
        lat, lon = self.latitudes, self.longitudes
        return (
            f"grid of {self.size} points, {areas} areas, "
            f"lat {lat.min():g}° to {lat.max():g}°, lon {lon.min():g}° to {lon.max():g}°"
        )


def check_links(links: Ints, size: int) -> None:
    """Refuse edges of a mesh that join no pairs of its points."""
    if not links.size:
        return
    if links.ndim != 2 or links.shape[1] != 2 or links.dtype.kind not in "iu":
        raise ValueError(f"edges must be pairs of points, integers [m, 2], got {links.dtype} {links.shape}")
    if not 0 <= links.min() <= links.max() < size:
        raise ValueError(
            f"edges must join points 0 to {size - 1}, got {links.min()} to {links.max()}; files that count "
            "from 1 need edges=edges - 1"
        )


def points(lat: ArrayLike, lon: ArrayLike, areas: ArrayLike | Literal["voronoi"] | None = None) -> Points:
    """A grid of any distinct points on the sphere, such as stations or a model mesh.

    Parameters
    ----------
    lat, lon
        Degrees north and east, ``[n]``, from any longitude origin.
    areas
        Steradians of each point, ``[n]``. Without them the weights are the areas of the spherical
        Voronoi cells, which cover the whole sphere, so the points must too; ``"voronoi"`` takes these
        cells all the same, where the points leave a wide hole.

    Raises
    ------
    TypeError
        If coordinates or areas are no real numbers.
    ValueError
        If one is masked, a point is not on the sphere or occurs twice, if an area is not positive, or,
        without areas, if the points cover a region only, or all lie in one plane.

    Examples
    --------
    >>> ga.grids.points([90, 0, 0, 0, -90], [0, 0, 120, 240, 0])
    grid of 5 points, Voronoi areas, lat -90° to 90°, lon 0° to 240°
    """
    given = not isinstance(areas, str) and areas is not None
    if isinstance(areas, str) and areas != "voronoi":
        raise ValueError(f'areas must be steradians [n], "voronoi" or None, got {areas!r}')
    steradians = numbers("areas", areas if given else [])
    if given and not steradians.size:
        raise ValueError("areas must have one entry per point, got none")
    grid = Points(
        latitudes=numbers("lat", lat), longitudes=wrap_longitude(numbers("lon", lon)), areas=steradians
    )
    if areas is None and (found := hole(grid.xyz)):
        if np.abs(grid.latitudes).max() <= np.pi / 2 and np.ptp(numbers("lon", lon)) > np.pi:
            raise RegionError(
                f"the {grid.size} points lie within {np.abs(grid.latitudes).max():.3g}° of the equator, as "
                "radians of a globe would: coordinates are degrees, ga.grids.points(np.degrees(lat), "
                "np.degrees(lon)); if degrees are meant, they cover a region, which needs areas=…"
            )
        raise RegionError(
            f"the {grid.size} points cover a region: {found}. The Voronoi cells at its border would reach "
            "around the world: give the areas of the region's own cells in steradians, "
            'ga.grids.points(lat, lon, areas=…), or areas="voronoi" if these cells are meant'
        )
    grid.weights  # noqa: B018 - Voronoi areas that do not exist are refused here, at the call
    return grid
