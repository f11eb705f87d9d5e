"""Polygons on the sphere whose sides are great circles: areas, and what lies inside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geoattn.grids.sphere import Floats, Ints

#: cells looked at where all would take long
_SAMPLE = 20_000


def signed_areas(corners: Floats) -> Floats:
    """Steradians of polygons ``[…, k, 3]``, positive where corners run anticlockwise seen from outside.

    The sum over the triangles from the first corner to each side (van Oosterom & Strackee 1983,
    doi:10.1109/TBME.1983.325207), each smaller than a hemisphere. Corners may repeat.
    """
    a, b, c = corners[..., :1, :], corners[..., 1:-1, :], corners[..., 2:, :]
    volume = (a * np.cross(b - a, c - a)).sum(-1)  # of differences: small triangles keep their digits
    ab, bc, ca = (x * y for x, y in ((a, b), (b, c), (c, a)))
    halves = np.arctan2(volume, 1.0 + (ab + bc + ca).sum(-1))
    return np.asarray(2.0 * halves.sum(-1))


def inside(points: Floats, corners: Floats) -> NDArray[np.bool_]:
    """Whether ``points […, 3]`` lie inside, or on the border, of polygons ``[…, k, 3]`` within a hemisphere.

    Seen from a point inside, the corners run once around the horizon; from others they come back.
    """
    p = points[..., None, :]
    height = (corners * p).sum(-1)
    flat = corners - height[..., None] * p  # on the tangent plane
    after = np.roll(flat, -1, axis=-2)
    turn = np.arctan2((p * np.cross(flat, after)).sum(-1), (flat * after).sum(-1))
    away = np.minimum(np.linalg.norm(flat, axis=-1).min(-1), np.pi - np.abs(turn).max(-1))
    near = (height > 0).all(-1)
    within: NDArray[np.bool_] = near & ((np.abs(turn.sum(-1)) > np.pi) | (away < 1e-9))
    return within


def overlap(points: Floats, corners: Floats, areas: Floats) -> float:
    """The share of the area of cells ``[n, k, 3]`` whose own ``points [n, 3]`` lie inside another cell too.

    Of many cells a random sample is looked at, and of each point the eight nearest others.
    """
    n = len(points)
    chosen: Ints = np.random.default_rng(0).choice(n, min(n, _SAMPLE), replace=False)
    near = cKDTree(points).query(points[chosen], k=np.arange(1, min(9, n) + 1))[1]
    others = near != chosen[:, None]
    within = inside(np.repeat(points[chosen, None], near.shape[1], axis=1), corners[near]) & others
    return float(areas[chosen][within.any(1)].sum() / areas[chosen].sum())
