"""Points that occur more than once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from geoattn.grids.checks import numbers
from geoattn.grids.sphere import Floats, Ints, unit_vectors


def distinct(lat: ArrayLike, lon: ArrayLike) -> Ints:
    """Indices of the points that repeat none before them, ascending.

    Ocean meshes repeat columns where they close and rows where they fold, and some files hold 0, 0 where
    there is no cell.

    Parameters
    ----------
    lat, lon
        Degrees north and east, of one shape; of arrays with several axes the indices are flat.

    Examples
    --------
    >>> ga.grids.distinct([10, 20, 10], [0, 5, 360])
    array([0, 1])
    """
    xyz = unit_vectors(numbers("lat", lat).ravel(), numbers("lon", lon).ravel())
    repeats = np.zeros(len(xyz), dtype=bool)
    for pairs in same_points(xyz):
        repeats[pairs[:, 1]] = True
    return np.flatnonzero(~repeats)


def same_points(xyz: Floats, within: float = 1e-10) -> Iterator[Ints]:
    """Pairs ``[m, 2]``, the earlier one first, of equal points among the unit vectors ``xyz [n, 3]``.

    Equal by distance, as the poles have many longitudes and files round: they are neighbors along any
    direction, and along one that suits no grid hardly any others are.
    """
    height = xyz @ np.array([0.36787944, 0.57721566, 0.72912468])
    order = np.argsort(height)
    height, apart = height[order], 1
    while len(close := np.flatnonzero(height[apart:] - height[:-apart] <= within)):
        pairs = np.sort((order[close], order[close + apart]), axis=0).T
        same = np.linalg.norm(xyz[pairs[:, 0]] - xyz[pairs[:, 1]], axis=-1) <= within
        if same.any():
            yield pairs[same]
        apart += 1
