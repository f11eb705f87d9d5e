"""Areas of spherical Voronoi cells from a triangulation of the points."""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from geoattn.grids.sphere import Floats, Ints


def voronoi_areas(xyz: Floats) -> Floats:
    """Steradians nearest to each of the unit vectors ``xyz [n, 3]``.

    The faces of the convex hull are the spherical Delaunay triangles, and their outward normals
    the corners of the Voronoi cells. One or two points share the sphere equally.

    Raises
    ------
    ValueError
        If three or more points lie in one plane, so that they span no hull, or if two points are
        too close for the hull to tell them apart.
    """
    if len(xyz) < 3:
        return np.full(len(xyz), 4.0 * np.pi / len(xyz))
    try:
        hull = ConvexHull(xyz)
    except (QhullError, ValueError):
        raise ValueError(
            f"the {len(xyz)} points lie in one plane, so their Voronoi cells are undefined; "
            "give their areas: ga.grids.points(lat, lon, areas=…)"
        ) from None
    areas = cell_areas(xyz, hull.simplices, hull.equations[:, :3])
    for i in np.flatnonzero(~(areas > 0))[:1]:
        raise ValueError(
            f"the Voronoi cell of point {i} at {xyz[i]} is lost in round-off: another point is too close; "
            "drop one of them, or give areas: ga.grids.points(lat, lon, areas=…)"
        )
    return areas


def cell_areas(xyz: Floats, triangles: Ints, corners: Floats) -> Floats:
    """Areas of the Voronoi cells of ``xyz [n, 3]``, given the triangles ``[t, 3]`` and ``corners [t, 3]``.

    Each triangle gives each of its points the two right triangles between the point, the middles
    of its two sides and the triangle's corner of the Voronoi diagram. They are counted negative
    where that corner lies beyond the side, which makes the sums right for obtuse triangles too.
    """
    areas = np.zeros(len(xyz))
    turn = np.sign(np.einsum("td,td->t", _cross(xyz, triangles), corners))
    for i in range(3):
        a, b = triangles[:, i], triangles[:, (i + 1) % 3]
        middle = xyz[a] + xyz[b]
        middle /= np.linalg.norm(middle, axis=-1, keepdims=True)
        half = turn * _signed_area(xyz[a], middle, corners)  # the kite's other half mirrors it
        areas += np.bincount(a, half, len(xyz)) + np.bincount(b, half, len(xyz))
    return areas


def _cross(xyz: Floats, triangles: Ints) -> Floats:
    a, b, c = (xyz[triangles[:, i]] for i in range(3))
    return np.cross(b - a, c - a)


def _signed_area(a: Floats, b: Floats, c: Floats) -> Floats:
    """Signed solid angle of the triangles a b c, each ``[t, 3]`` unit vectors.

    Van Oosterom & Strackee 1983, doi:10.1109/TBME.1983.325207, with the determinant taken of
    differences, which keeps the relative accuracy of small triangles.
    """
    determinant = np.einsum("td,td->t", a, np.cross(b - a, c - a))
    ab, bc, ca = (np.einsum("td,td->t", u, v) for u, v in ((a, b), (b, c), (c, a)))
    return np.asarray(2.0 * np.arctan2(determinant, 1.0 + ab + bc + ca))
