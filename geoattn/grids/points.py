"""Any points on the sphere, weighted by their Voronoi cells or by given areas."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from geoattn.grids.base import PointSet, read_only
from geoattn.grids.sphere import Floats, unit_vectors, wrap_longitude
from geoattn.grids.voronoi import voronoi_areas


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Points(PointSet, kind="points"):
    """A list of points. ``areas`` is empty where the weights are the Voronoi areas."""

    latitudes: Floats
    longitudes: Floats
    areas: Floats

    def _check(self) -> None:
        lat, lon, areas = self.latitudes, self.longitudes, self.areas
        if lat.ndim != 1 or lat.shape != lon.shape or not len(lat):
            raise ValueError(
                f"lat and lon must be equally long lists of points, got shapes {lat.shape} and {lon.shape}"
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
            raise ValueError(f"areas[{i}] = {areas[i]} is not a positive area in steradians")
        self._check_distinct()

    def _check_distinct(self) -> None:
        # by distance, as the poles have many longitudes and files round: equal points are neighbors
        # along any direction, and along one that suits no grid hardly any others are
        xyz = unit_vectors(self.latitudes, self.longitudes)
        height = xyz @ np.array([0.36787944, 0.57721566, 0.72912468])
        order = np.argsort(height)
        height, apart = height[order], 1
        while len(close := np.flatnonzero(height[apart:] - height[:-apart] <= 1e-10)):
            pairs = np.sort((order[close], order[close + apart]), axis=0).T
            same = np.linalg.norm(xyz[pairs[:, 0]] - xyz[pairs[:, 1]], axis=-1) <= 1e-10
            for i, j in pairs[same][:1]:
                raise ValueError(
                    f"points {i} and {j} are the same point: "
                    f"lat {self.latitudes[i]}, lon {self.longitudes[i]} "
                    f"and lat {self.latitudes[j]}, lon {self.longitudes[j]}; drop one of them"
                )
            apart += 1

    def _shape(self) -> tuple[int, ...]:
        return self.latitudes.shape

    @property
    def lat(self) -> Floats:
        return self.latitudes

    @property
    def lon(self) -> Floats:
        return self.longitudes

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


def points(lat: ArrayLike, lon: ArrayLike, areas: ArrayLike | None = None) -> Points:
    """A grid of any distinct points on the sphere, such as stations, a region or a model mesh.

    Parameters
    ----------
    lat, lon
        Degrees north and east, ``[n]``, from any longitude origin.
    areas
        Steradians of each point, ``[n]``. Without them the weights are the areas of the spherical
        Voronoi cells, which cover the whole sphere: give areas for points of a region.

    Raises
    ------
    ValueError
        If a point is not on the sphere or occurs twice, if an area is not positive, or, when the
        Voronoi areas are computed, if all points lie in one plane.
    """
    grid = Points(
        latitudes=np.asarray(lat, dtype=np.float64),
        longitudes=wrap_longitude(np.asarray(lon, dtype=np.float64)),
        areas=np.asarray([] if areas is None else areas, dtype=np.float64),
    )
    grid.weights  # noqa: B018 - Voronoi areas that do not exist are refused here, at the call
    return grid
