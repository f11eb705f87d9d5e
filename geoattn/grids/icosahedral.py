"""Icosahedral grids: the vertices of an icosahedron whose triangles are cut in four, again and again."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from geoattn.grids.base import PointSet, read_only
from geoattn.grids.checks import integer
from geoattn.grids.sphere import Floats, Ints, lat_lon, unit_vectors
from geoattn.grids.voronoi import cell_areas, neighboring, sides


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Icosahedral(PointSet, kind="icosahedral"):
    """``10 · 4^level + 2`` points. Those of level l are the first ``10 · 4^l + 2`` of any higher level.

    Examples
    --------
    >>> ga.grids.icosahedral(2).size
    162
    """

    level: int

    def _check(self) -> None:
        if not 0 <= self.level <= 12:
            raise ValueError(f"level must be 0 to 12, got {self.level}")

    def _shape(self) -> tuple[int, ...]:
        return (10 * 4**self.level + 2,)

    @cached_property
    def _mesh(self) -> tuple[Floats, Ints]:
        vertices, triangles = _icosahedron()
        for _ in range(self.level):
            vertices, triangles = _subdivide(vertices, triangles)
        return read_only(vertices), read_only(triangles)

    @property
    def triangles(self) -> Ints:
        """Tokens at the corners of each triangle, ``[20 · 4^level, 3]``, anticlockwise from outside."""
        return self._mesh[1]

    @cached_property
    def edges(self) -> Ints:
        """The sides of the triangles, ``[30 · 4^level, 2]``."""
        return read_only(sides(self.triangles))

    @cached_property
    def xyz(self) -> Floats:
        return self._mesh[0]

    @cached_property
    def _lat_lon(self) -> tuple[Floats, Floats]:
        lat, lon = lat_lon(self.xyz)
        return read_only(lat), read_only(lon)

    @property
    def lat(self) -> Floats:
        return self._lat_lon[0]

    @property
    def lon(self) -> Floats:
        return self._lat_lon[1]

    @cached_property
    def weights(self) -> Floats:
        vertices, triangles = self._mesh
        a, b, c = (vertices[triangles[:, i]] for i in range(3))
        centres = np.cross(b - a, c - a)  # circumcentres: normals of the flat triangles
        centres /= np.linalg.norm(centres, axis=-1, keepdims=True)
        return read_only(cell_areas(vertices, triangles, neighboring(triangles), centres))

    def __repr__(self) -> str:
        return f"icosahedral grid level {self.level}, {self.size} points"


def icosahedral(level: int) -> Icosahedral:
    """The vertices of the icosahedron subdivided ``level`` times, weighted by their Voronoi cells.

    Level 0 has 12 points, two of them the poles; each level halves the spacing, which is about
    ``63° / 2^level``, and has ``10 · 4^level + 2`` points.

    Examples
    --------
    >>> ga.grids.icosahedral(4)
    icosahedral grid level 4, 2562 points
    """
    return Icosahedral(integer("level", level))


def _icosahedron() -> tuple[Floats, Ints]:
    """Both poles and two rings of five at latitude ± arctan(1/2), the northern one with a point at 0°E."""
    ring = np.full(5, np.degrees(np.arctan(0.5)))
    lat = np.concatenate(([90.0], ring, -ring, [-90.0]))
    lon = np.concatenate(([0.0], 72.0 * np.arange(5), 72.0 * np.arange(5) + 36.0, [0.0]))
    i = np.arange(5)
    north, north_next = 1 + i, 1 + (i + 1) % 5
    south, south_next = 6 + i, 6 + (i + 1) % 5
    triangles = [
        (np.zeros_like(i), north, north_next),
        (north, south, north_next),
        (south, south_next, north_next),
        (south, np.full_like(i, 11), south_next),
    ]
    return unit_vectors(lat, lon), np.concatenate([np.stack(t, axis=-1) for t in triangles])


def _subdivide(vertices: Floats, triangles: Ints) -> tuple[Floats, Ints]:
    """Cut each triangle in four at the middles of its sides, the new vertices after the old ones."""
    sides = np.stack((triangles, np.roll(triangles, -1, axis=1)), axis=-1)  # [triangle, side, end]
    sides.sort(axis=-1)
    key = sides[..., 0] * len(vertices) + sides[..., 1]
    unique, place = np.unique(key, return_inverse=True)
    middles = vertices[unique // len(vertices)] + vertices[unique % len(vertices)]
    middles /= np.linalg.norm(middles, axis=-1, keepdims=True)
    a, b, c = triangles.T
    ab, bc, ca = (place.reshape(-1, 3) + len(vertices)).T
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return (
        np.concatenate((vertices, middles)),
        np.stack([np.stack(part, axis=-1) for part in parts], axis=1).reshape(-1, 3),
    )
