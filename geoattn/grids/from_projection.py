"""Regions recognised from the axes of a projection, where a file has no latitudes and longitudes."""

from __future__ import annotations

import numpy as np

from geoattn.grids.coordinates import Match, Source, steradians
from geoattn.grids.projections import inverse
from geoattn.grids.regional import regional
from geoattn.grids.regional_latlon import between
from geoattn.grids.sphere import Floats

#: standard names and common names of the axes
_AXES = {
    "x": ({"projection_x_coordinate", "grid_longitude"}, ("x", "rlon", "xc", "projection_x_coordinate")),
    "y": ({"projection_y_coordinate", "grid_latitude"}, ("y", "rlat", "yc", "projection_y_coordinate")),
}
_METRES = {"km": 1e3, "kilometer": 1e3, "kilometre": 1e3, "kilometers": 1e3, "kilometres": 1e3}


def from_projection(source: Source, use_areas: bool) -> tuple[Match, str] | None:
    """The region of a file with a grid mapping and the axes of its projection; None where there is none.

    Cells lie between lines of the projection: halfway to the next row and column, or at the axes' bounds.
    """
    name = source.projection()
    if name is None:
        return None
    mapping = source.variables[name].attrs
    x, y = (_axis(source, name, axis) for axis in ("x", "y"))
    if x is None or y is None:
        return None
    back = inverse(mapping)
    (x_name, x_dim, columns, x_edges), (y_name, y_dim, rows, y_edges) = x, y
    lat, lon = back(*np.meshgrid(columns, rows))
    corners = back(*np.meshgrid(x_edges, y_edges))
    dims = (y_dim, x_dim)
    given = source.areas(dims) if use_areas else None
    areas, rule = None, "areas of the cells between lines of the projection"
    if given is not None:
        areas, rule = steradians(*given, source.radius), f"cell areas in {given[0]!r}"
    grid = regional(lat, lon, corners, areas)
    what = mapping.get("grid_mapping_name", "a projection")
    return Match(grid, dims, rule, 0.0, 0.0), f"axes {y_name!r} and {x_name!r} of {what} in {name!r}"


def _axis(source: Source, mapping: str, axis: str) -> tuple[str, str, Floats, Floats] | None:
    """Name, dimension and values of an axis of the projection, in its units, and where its cells end."""
    standard, names = _AXES[axis]
    found = [n for n, v in source.variables.items() if v.attrs.get("standard_name") in standard]
    found = found or [n for n in source.variables if n.lower() in names]
    found = [n for n in found if source.variables[n].ndim == 1]
    if not found:
        return None
    variable = source.variables[found[0]]
    values = np.asarray(variable.values, np.float64)
    if len(values) < 2 or not (np.diff(values) * (values[1] - values[0]) > 0).all():
        raise ValueError(
            f"the axis {found[0]!r} of the projection {mapping!r} must run in one direction through at least "
            f"two places, got {values}: sort it, ds.sortby({found[0]!r})"
        )
    bounds = source.variables.get(variable.attrs.get("bounds", variable.encoding.get("bounds")))
    edges = between(values)
    if bounds is not None and bounds.shape == (len(values), 2):
        pairs = np.sort(np.asarray(bounds.values, np.float64), axis=1)
        pairs = pairs if values[1] > values[0] else pairs[:, ::-1]
        edges = np.append(pairs[:, 0], pairs[-1, 1])
    units = str(variable.attrs.get("units", ""))
    factor = _METRES.get(units, 1.0)
    if axis == "y" and units.startswith("deg"):
        edges = edges.clip(-90.0, 90.0)
    return found[0], str(variable.dims[0]), values * factor, edges * factor
