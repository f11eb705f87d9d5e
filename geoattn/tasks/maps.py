"""Fields on a sphere as pictures: three projections, any grid, nothing but matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from geoattn.grids import SphericalGrid
from geoattn.grids.sphere import Floats, unit_vectors

#: height over width of each projection's picture
SHAPES = {"equirectangular": 0.5, "mollweide": 0.5, "orthographic": 1.0}


def draw(
    axes: Any,
    grid: SphericalGrid,
    field: ArrayLike,
    projection: str = "mollweide",
    *,
    centre: tuple[float, float] = (0.0, 0.0),
    pixels: int = 400,
    **style: Any,
) -> Any:
    """Draw a field: each pixel shows the value of the grid point nearest to it.

    Parameters
    ----------
    axes
        Ordinary matplotlib axes; their ticks and frame are taken off.
    grid
        Any grid of the sphere.
    field
        Numbers ``[*grid.shape]``, or colours ``[*grid.shape, 3]``.
    projection
        ``"equirectangular"``, ``"mollweide"`` (equal areas), or ``"orthographic"`` (one half of the
        sphere, as from far away).
    centre
        Latitude and longitude in the middle, in degrees. The latitude turns the orthographic view only.
    pixels
        Width of the picture.
    **style
        Passed on to ``axes.imshow``: ``cmap``, ``vmin``, ``vmax`` …

    Returns
    -------
    The image, for a colour bar.

    Raises
    ------
    ValueError
        If the projection is unknown, or the field is not on the grid.
    """
    values = np.asarray(field)
    if values.shape not in (grid.shape, (*grid.shape, 3)):
        raise ValueError(f"field of shape {values.shape} is not on {grid!r} of shape {grid.shape}")
    lat, lon, on_map = places(projection, centre, pixels)
    _, nearest = cKDTree(grid.xyz.reshape(-1, 3)).query(unit_vectors(lat[on_map], lon[on_map]))
    shown = values.reshape(grid.size, -1)[nearest]
    colours = shown.shape[1] == 3
    if colours:
        scale = 255.0 if values.dtype == np.uint8 else 1.0
        image = np.ones((*on_map.shape, 4)) * [1.0, 1.0, 1.0, 0.0]
        image[on_map] = np.concatenate((shown / scale, np.ones((len(shown), 1))), axis=1)
    else:
        image = np.full(on_map.shape, np.nan)
        image[on_map] = shown[:, 0]
    axes.set_axis_off()
    return axes.imshow(image, interpolation="nearest", **style)


def places(
    projection: str, centre: tuple[float, float], pixels: int
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Latitude and longitude of each pixel in degrees, and which pixels lie on the map.

    The inverse projections are those of Snyder (1987), Map Projections, pages 150 and 251.
    """
    if projection not in SHAPES:
        raise ValueError(f"projection must be one of {', '.join(map(repr, SHAPES))}, got {projection!r}")
    width, height = pixels, round(pixels * SHAPES[projection])
    x = (2.0 * np.arange(width) + 1.0) / width - 1.0
    y = 1.0 - (2.0 * np.arange(height) + 1.0) / height
    x, y = np.meshgrid(x, y)
    if projection == "equirectangular":
        return 90.0 * y, centre[1] + 180.0 * x, np.ones(x.shape, dtype=bool)
    on_map = x**2 + y**2 < 1.0
    x, y = np.where(on_map, x, 0.0), np.where(on_map, y, 0.0)
    if projection == "mollweide":
        angle = np.arcsin(y)
        lat = np.degrees(np.arcsin((2.0 * angle + np.sin(2.0 * angle)) / np.pi))
        return lat, centre[1] + 180.0 * x / np.cos(angle), on_map
    z = np.sqrt(1.0 - x**2 - y**2)
    tilt = np.radians(centre[0])
    up, ahead = y * np.cos(tilt) + z * np.sin(tilt), z * np.cos(tilt) - y * np.sin(tilt)
    lat = np.degrees(np.arcsin(np.clip(up, -1.0, 1.0)))
    return lat, centre[1] + np.degrees(np.arctan2(x, ahead)), on_map
