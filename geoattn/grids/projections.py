"""From the coordinates of a projection, or of a rotated pole, to latitudes and longitudes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from geoattn.grids.sphere import Floats, lat_lon, unit_vectors

#: x and y, arrays of one shape, to latitudes and longitudes in degrees
Inverse = Callable[[Floats, Floats], tuple[Floats, Floats]]


def inverse(mapping: Mapping[str, Any]) -> Inverse:
    """The way back from a projection that is described by CF's attributes of a grid mapping.

    Raises
    ------
    ModuleNotFoundError
        If the projection needs pyproj, which is not installed. Rotated poles do not.
    ValueError
        If pyproj does not know it.
    """
    if mapping.get("grid_mapping_name") == "rotated_latitude_longitude":
        lat, lon = (float(mapping[f"grid_north_pole_{axis}"]) for axis in ("latitude", "longitude"))
        return _rotated(lat, lon, float(mapping.get("north_pole_grid_longitude", 0.0)))
    try:
        import pyproj
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"the projection {mapping.get('grid_mapping_name')!r} needs pyproj: "
            'pip install "geoattn[projections]"; or give the data set its latitudes and longitudes, '
            "ds.assign_coords(lat=(('y', 'x'), lat), lon=(('y', 'x'), lon))",
            name="pyproj",
        ) from None
    try:
        crs = pyproj.CRS.from_cf(dict(mapping))
    except (pyproj.exceptions.CRSError, KeyError) as error:
        raise ValueError(
            f"pyproj makes nothing of the grid mapping {dict(mapping)}: {error}. Give the data set its "
            "latitudes and longitudes, ds.assign_coords(lat=(('y', 'x'), lat), lon=(('y', 'x'), lon))"
        ) from error
    transform = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)

    def back(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        lon, lat = transform.transform(x, y)
        return np.asarray(lat), np.asarray(lon)

    return back


def _rotated(lat: float, lon: float, origin: float) -> Inverse:
    """Longitudes and latitudes about a pole at ``lat, lon``, where the true one has the longitude ``origin``.

    (CF conventions, appendix F, rotated pole.) The true north pole lies beyond the point that is 90° from the
    rotated one towards it.
    """
    forward, up = unit_vectors(np.array([90.0 - lat, lat]), np.array([lon + 180.0, lon]))
    axes = np.stack((forward, np.cross(up, forward), up))
    return lambda x, y: lat_lon(unit_vectors(y, x - origin) @ axes)
