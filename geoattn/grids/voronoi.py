"""Areas of spherical Voronoi cells from a triangulation of the points."""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from geoattn.grids.sphere import Floats, Ints


def voronoi_areas(xyz: Floats) -> Floats:
    """Steradians nearest to each of the unit vectors ``xyz [n, 3]``.

    The faces of the convex hull are the spherical Delaunay triangles, and their outward normals
    the corners of the Voronoi cells, wherever the points lie. One or two points share the sphere equally.

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
    areas = cell_areas(xyz, hull.simplices, hull.neighbors, hull.equations[:, :3])
    # cells are convex, so none is lost among the others: a hull that skipped a point left it no area
    lost = np.flatnonzero(~(areas > 0))
    if len(lost) or abs(areas.sum() / (4.0 * np.pi) - 1.0) > 1e-6:
        where = f"of point {lost[0]} at {xyz[lost[0]]} " if len(lost) else ""
        raise ValueError(
            f"the Voronoi cell {where}is lost in round-off: another point is too close; "
            "drop one of them, or give areas: ga.grids.points(lat, lon, areas=…)"
        )
    return areas


def cell_areas(xyz: Floats, triangles: Ints, neighbors: Ints, corners: Floats) -> Floats:
    """Areas of the Voronoi cells of ``xyz [n, 3]``, from their Delaunay triangles.

    Parameters
    ----------
    triangles
        Points of each triangle, ``[t, 3]``.
    neighbors
        The triangle beyond the side opposite to each of these points, ``[t, 3]``.
    corners
        Unit vectors to the circumcentre of each triangle, ``[t, 3]``: the corners of the cells.

    A cell is convex, and its point lies inside: it is the union of the triangles from the point to the edges
    between neighboring corners. Each edge bounds two cells, and is as far from either point.
    """
    areas = np.zeros(len(xyz))
    for side in range(3):
        beyond = corners[neighbors[:, side]]
        for end in (1, 2):
            point = triangles[:, (side + end) % 3]
            # each edge is met from both of its triangles
            areas += np.bincount(point, 0.5 * _area(xyz[point], corners, beyond), len(xyz))
    return areas


def voronoi_corners(xyz: Floats) -> Floats:
    """Corners of the Voronoi cells of ``xyz [n, 3]``, anticlockwise, ``[n, k, 3]``; the last may repeat.

    Raises
    ------
    ValueError
        If the points lie in one plane.
    """
    try:
        hull = ConvexHull(xyz)
    except (QhullError, ValueError):
        raise ValueError(
            f"the {len(xyz)} points span no sphere, so that Voronoi cells around them have no corners; "
            "say where their cells end: ga.grids.regional(lat, lon, corners=(corner_lat, corner_lon))"
        ) from None
    centres = hull.equations[:, :3]
    point, triangle = hull.simplices.ravel(), np.repeat(np.arange(len(centres)), 3)
    # around each point by the angle on its tangent plane
    pole = np.eye(3)[np.abs(xyz).argmin(1)]
    east = np.cross(pole, xyz)
    east /= np.linalg.norm(east, axis=1, keepdims=True)
    north = np.cross(xyz, east)
    away = centres[triangle]
    angle = np.arctan2((away * north[point]).sum(1), (away * east[point]).sum(1))
    order = np.lexsort((angle, point))
    counts = np.bincount(point, minlength=len(xyz))
    place = np.minimum(np.arange(counts.max()), np.maximum(counts - 1, 0)[:, None])
    starts = np.cumsum(counts) - counts
    return np.asarray(away[order][starts[:, None] + place])


def neighboring(triangles: Ints) -> Ints:
    """The triangle beyond the side opposite to each point of closed ``triangles [t, 3]``."""
    sides = np.sort(np.stack([np.roll(triangles, -1, axis=1), np.roll(triangles, -2, axis=1)], -1), axis=-1)
    keys = sides[..., 0].astype(np.int64).ravel() * (int(triangles.max()) + 1) + sides[..., 1].ravel()
    pairs = np.argsort(keys, kind="stable").reshape(-1, 2)  # each side occurs twice
    beyond = np.empty(triangles.size, dtype=np.int64)
    beyond[pairs[:, 0]], beyond[pairs[:, 1]] = pairs[:, 1] // 3, pairs[:, 0] // 3
    return beyond.reshape(-1, 3)


def sides(triangles: Ints) -> Ints:
    """Pairs of points that are a side of some ``triangles [t, 3]``, each once, ascending, ``[m, 2]``."""
    pairs = np.stack((triangles, np.roll(triangles, -1, axis=1)), axis=-1).reshape(-1, 2)
    return np.unique(np.sort(pairs.astype(np.int64), axis=-1), axis=0)


def delaunay_edges(xyz: Floats) -> Ints | None:
    """Pairs of the unit vectors ``xyz [n, 3]`` whose Voronoi cells touch; None where they span no hull."""
    if len(xyz) < 4:
        return None
    try:
        return sides(ConvexHull(xyz).simplices)
    except QhullError:
        return None


def _area(a: Floats, b: Floats, c: Floats) -> Floats:
    """Solid angle of the triangles a b c, each ``[t, 3]`` unit vectors.

    Van Oosterom & Strackee 1983, doi:10.1109/TBME.1983.325207, with the determinant taken of
    differences, which keeps the relative accuracy of small triangles.
    """
    determinant = np.abs(np.einsum("td,td->t", a, np.cross(b - a, c - a)))
    ab, bc, ca = (np.einsum("td,td->t", u, v) for u, v in ((a, b), (b, c), (c, a)))
    return np.asarray(2.0 * np.arctan2(determinant, 1.0 + ab + bc + ca))
