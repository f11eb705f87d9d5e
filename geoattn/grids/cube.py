"""Cubed-sphere grids: six square faces, equiangular gnomonic."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from geoattn.grids.base import SphericalGrid, read_only
from geoattn.grids.checks import integer, positive
from geoattn.grids.sphere import Floats, Ints, lat_lon

# Right, up and outward of each face: four around the equator from 0°E eastward, north, south.
_FACES = np.array(
    [
        [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
        [[-1, 0, 0], [0, 0, 1], [0, 1, 0]],
        [[0, -1, 0], [0, 0, 1], [-1, 0, 0]],
        [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
        [[0, 1, 0], [-1, 0, 0], [0, 0, 1]],
        [[0, 1, 0], [1, 0, 0], [0, 0, -1]],
    ],
    dtype=np.float64,
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CubedSphere(SphericalGrid, kind="cubed_sphere"):
    """``shape == (6, n, n)``: face, row from the face's top, column from its left; cell centres."""

    n: int

    def _check(self) -> None:
        positive(n=self.n)

    def _shape(self) -> tuple[int, ...]:
        return (6, self.n, self.n)

    @cached_property
    def xyz(self) -> Floats:
        x = _tangents(2 * np.arange(self.n) + 1, self.n)
        return read_only(_on_faces(*np.meshgrid(x, -x)))

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
        """Exact cell areas: the solid angle of a rectangle from the face's centre to a corner
        (x, y, 1) is atan(x y / sqrt(1 + x² + y²)), and cells are differences of those."""
        edge = _tangents(2 * np.arange(self.n + 1), self.n)
        x, y = edge[None, :], edge[:, None]
        corner = np.arctan(x * y / np.sqrt(1.0 + x * x + y * y))
        cells = np.diff(np.diff(corner, axis=0), axis=1)
        cells = 0.25 * (cells + cells[::-1] + cells[:, ::-1] + cells[::-1, ::-1])
        return np.broadcast_to(0.5 * (cells + cells.T), self.shape)

    @cached_property
    def edges(self) -> Ints:
        """Pairs of cells that share a side, across the edges of the cube too, ``[12 n², 2]``."""
        cells = np.arange(self.size).reshape(self.shape)
        within = [(cells[:, 1:], cells[:, :-1]), (cells[:, :, 1:], cells[:, :, :-1])]
        # along its border a face has the middles of sides that one other face has too
        places = _tangents(2 * np.arange(self.n) + 1, self.n)
        border = [(cells[:, :, i], np.full(self.n, s), -places) for i, s in ((0, -1.0), (-1, 1.0))]
        border += [(cells[:, i], places, np.full(self.n, s)) for i, s in ((0, 1.0), (-1, -1.0))]
        tokens = np.concatenate([ends.ravel() for ends, _, _ in border])
        middles = np.concatenate([_on_faces(x, y).reshape(-1, 3) for _, x, y in border])
        _, pairs = cKDTree(middles).query(middles, k=2)
        within.append((tokens[pairs[:, 0]], tokens[pairs[:, 1]]))
        both = np.concatenate([np.stack((a.ravel(), b.ravel()), axis=-1) for a, b in within])
        return read_only(np.unique(np.sort(both, axis=-1), axis=0))

    def lattice(self) -> Ints:
        return np.indices(self.shape, dtype=np.int64).reshape(3, self.size).T  # the face is the patch

    def __repr__(self) -> str:
        return f"cubed-sphere grid 6×{self.n}×{self.n}, equiangular"


def cubed_sphere(n: int) -> CubedSphere:
    """Six faces of n × n cells, equal in angle along the middle lines of each face.

    Faces 0 to 3 are centred on the equator at 0°, 90°, 180° and 270°E with north up, face 4 on the
    north pole and face 5 on the south pole, each joined to face 0 along its lower or upper side.
    """
    return CubedSphere(integer("n", n))


def _on_faces(x: Floats, y: Floats) -> Floats:
    """Unit vectors ``[6, *shape, 3]`` of gnomonic coordinates ``[*shape]``, to the right and up, by face."""
    right, up, out = np.moveaxis(_FACES.reshape(6, 3, *(1,) * x.ndim, 3), 1, 0)
    flat = right * x[..., None] + up * y[..., None] + out
    return np.asarray(flat / np.linalg.norm(flat, axis=-1, keepdims=True))


def _tangents(half_cells: Ints, n: int) -> Floats:
    """Gnomonic coordinate at multiples of half a cell, antisymmetric to the bit."""
    return np.asarray(np.tan((half_cells - n) * (np.pi / (4 * n))))
