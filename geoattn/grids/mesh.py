"""Meshes of models: lists of cells, or of points, with the edges that join them."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from geoattn.grids.cells import Cells
from geoattn.grids.checks import numbers
from geoattn.grids.points import Points, points
from geoattn.grids.regional import regional


def mesh(
    lat: ArrayLike,
    lon: ArrayLike,
    corners: tuple[ArrayLike, ArrayLike] | None = None,
    areas: ArrayLike | None = None,
    edges: ArrayLike | None = None,
) -> Cells | Points:
    """The mesh of a model, of the globe or a part of it: points with their cells and what joins them.

    :func:`from_xarray` reads those of ICON, MPAS and UGRID from their files.

    Parameters
    ----------
    lat, lon
        Degrees north and east of the points, ``[n]``.
    corners
        Latitudes and longitudes of the corners around each cell, ``[n, k]``, in one direction; cells of fewer
        repeat some. Without them points have their Voronoi cells, or ``areas``.
    areas
        Steradians of each cell, ``[n]``, where these are not those between the corners.
    edges
        Pairs of neighbors, integers ``[m, 2]`` from 0 on, along which :func:`geoattn.k_hop` steps. Without
        them cells that share a side are neighbors, or points whose Voronoi cells touch.

    Raises
    ------
    TypeError
        If coordinates or areas are no real numbers, or edges no integers.
    ValueError
        If shapes do not belong together, cells overlap or do not close around their points, edges join no
        points, or areas are not positive.

    Examples
    --------
    >>> corners = [[-5, -5, 5, 5]] * 2, [[-5, 5, 5, -5], [5, 15, 15, 5]]
    >>> ga.grids.mesh([0, 0], [0, 10], corners=corners)
    region of 2 cells, lat 0° to 0°, lon 0° to 10°, 0.49% of the globe
    """
    links = np.empty(0, np.int64)
    if edges is not None:
        links = np.asarray(edges)
        if links.dtype.kind not in "iu":
            raise TypeError(f"edges must be integers [m, 2], got {links.dtype}")
        links = np.unique(np.sort(links.astype(np.int64).reshape(len(links), -1), axis=1), axis=0)
    if corners is None:
        found = points(lat, lon, areas)
        return found if not len(links) else dataclasses.replace(found, links=links)
    north, east = numbers("lat", lat), numbers("lon", lon)
    if north.ndim != 1 or north.shape != east.shape:
        raise ValueError(
            f"lat and lon must be equally long lists of points, got shapes {north.shape} and {east.shape}; "
            "arrays of rows and columns are ga.grids.regional(lat, lon)"
        )
    found_cells = regional(north, east, corners, areas)
    assert isinstance(found_cells, Cells)
    return found_cells if not len(links) else dataclasses.replace(found_cells, links=links)
