"""Points on the unit sphere: coordinates, and the six faces of the cube around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def unit_vectors(lat: Floats, lon: Floats) -> Floats:
    """Unit vectors ``[*shape, 3]`` of points in degrees."""
    lat, lon = np.radians(lat), np.radians(lon)
    cos_lat = np.cos(lat)
    return np.stack((cos_lat * np.cos(lon), cos_lat * np.sin(lon), np.sin(lat)), axis=-1)


def lat_lon(xyz: Floats) -> tuple[Floats, Floats]:
    """Latitude and longitude in degrees, each ``[*shape]``, of unit vectors ``[*shape, 3]``."""
    x, y, z = np.moveaxis(xyz, -1, 0)
    return np.degrees(np.arctan2(z, np.hypot(x, y))), wrap_longitude(np.degrees(np.arctan2(y, x)))


def wrap_longitude(lon: Floats) -> Floats:
    """Longitudes in [0, 360)."""
    with np.errstate(invalid="ignore"):  # infinities become NaN, which the grids refuse
        wrapped = np.asarray(lon) % 360.0
    return np.where(wrapped == 360.0, 0.0, wrapped)  # a tiny negative number rounds up to 360


def cube_lattice(xyz: Floats, bits: int) -> Ints:
    """Face of the surrounding cube and equiangular places on it, ``[size, 3]``, of ``xyz [size, 3]``."""
    largest = np.abs(xyz).argmax(axis=-1)
    rows = np.arange(len(xyz))
    main = xyz[rows, largest]
    face = 2 * largest + (main < 0)
    sides = (xyz[rows, (largest + 1) % 3], xyz[rows, (largest + 2) % 3])
    cells = 1 << bits
    places = (np.arctan2(side, np.abs(main)) * (2.0 / np.pi) + 0.5 for side in sides)
    return np.stack((face, *(np.clip((p * cells).astype(np.int64), 0, cells - 1) for p in places)), axis=-1)
