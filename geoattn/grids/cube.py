"""Cubed-sphere grids: six square faces, each seen from the sphere's centre (gnomonic)."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from geoattn.grids.base import SphericalGrid, read_only
from geoattn.grids.checks import integer, positive, real
from geoattn.grids.sphere import Floats, Ints, lat_lon

#: along the columns, against the rows, and outward, of each face: ours and FV3's
_FACES = {
    # four around the equator from 0°E eastward with their first row in the north, north, south
    "equiangular": [
        [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
        [[-1, 0, 0], [0, 0, 1], [0, 1, 0]],
        [[0, -1, 0], [0, 0, 1], [-1, 0, 0]],
        [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
        [[0, 1, 0], [-1, 0, 0], [0, 0, 1]],
        [[0, 1, 0], [1, 0, 0], [0, 0, -1]],
    ],
    # tiles 1 to 6 of mirror_grid in FV3's fv_grid_tools.F90, rows from the first j on
    "equal-edge": [
        [[0, 1, 0], [0, 0, -1], [1, 0, 0]],
        [[-1, 0, 0], [0, 0, -1], [0, 1, 0]],
        [[-1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, -1], [0, 1, 0], [-1, 0, 0]],
        [[0, 0, -1], [-1, 0, 0], [0, -1, 0]],
        [[0, 1, 0], [-1, 0, 0], [0, 0, -1]],
    ],
}
#: degrees eastward that each kind is turned by where nothing else is said: FV3's shift_fac = 18
_ROTATIONS = {"equiangular": 0.0, "equal-edge": -10.0}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CubedSphere(SphericalGrid, kind="cubed_sphere"):
    """``shape == (6, n, n)``: face, row, column; cell centres. Made by :func:`cubed_sphere`.

    Examples
    --------
    >>> ga.grids.cubed_sphere(4).shape
    (6, 4, 4)
    """

    n: int
    #: "equiangular" or "equal-edge"
    lines: str = "equiangular"
    #: degrees eastward about the axis
    rotation: float = 0.0

    def _check(self) -> None:
        positive(n=self.n)
        if self.lines not in _FACES:
            raise ValueError(f'kind must be "equiangular" or "equal-edge", got {self.lines!r}')
        if not np.isfinite(self.rotation):
            raise ValueError(f"rotation must be finite, in degrees, got {self.rotation}")

    def _shape(self) -> tuple[int, ...]:
        return (6, self.n, self.n)

    def _tangents(self, half_cells: Ints) -> Floats:
        """Gnomonic coordinate at multiples of half a cell, antisymmetric to the bit.

        Equal in angle along the middle lines of a face, or along its edges: a point of an edge at the
        latitude θ has the coordinate √2 tan θ, and an edge reaches from −α to α with sin α = 1/√3
        (gnomonic_ed in FV3's fv_grid_utils.F90).
        """
        share = (half_cells - self.n) / self.n
        if self.lines == "equiangular":
            return np.asarray(np.tan(share * (np.pi / 4)))
        return np.asarray(np.sqrt(2.0) * np.tan(share * np.arcsin(1.0 / np.sqrt(3.0))))

    def _on_faces(self, x: Floats, y: Floats) -> Floats:
        """Unit vectors ``[6, *shape, 3]`` of gnomonic coordinates ``[*shape]`` to the right and up."""
        c, s = np.cos(np.radians(self.rotation)), np.sin(np.radians(self.rotation))
        turned = np.array(_FACES[self.lines], float) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
        right, up, out = np.moveaxis(turned.reshape(6, 3, *(1,) * x.ndim, 3), 1, 0)
        flat = right * x[..., None] + up * y[..., None] + out
        return np.asarray(flat / np.linalg.norm(flat, axis=-1, keepdims=True))

    @cached_property
    def _meeting(self) -> Floats:
        """Unit vectors ``[6, n + 1, n + 1, 3]`` to where cells meet."""
        edge = self._tangents(2 * np.arange(self.n + 1))
        return read_only(self._on_faces(*np.meshgrid(edge, -edge)))

    @cached_property
    def corners(self) -> Floats:
        """Unit vectors to the corners of each cell, ``[6, n, n, 4, 3]``, whose sides are great circles."""
        m = self._meeting
        return read_only(np.stack((m[:, :-1, :-1], m[:, :-1, 1:], m[:, 1:, 1:], m[:, 1:, :-1]), axis=3))

    @cached_property
    def xyz(self) -> Floats:
        if self.lines == "equal-edge":  # FV3's centre is the mean of the four corners (cell_center2)
            centres = self.corners.sum(3)
            return read_only(centres / np.linalg.norm(centres, axis=-1, keepdims=True))
        x = self._tangents(2 * np.arange(self.n) + 1)
        return read_only(self._on_faces(*np.meshgrid(x, -x)))

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
        edge = self._tangents(2 * np.arange(self.n + 1))
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
        places = self._tangents(2 * np.arange(self.n) + 1)
        border = [(cells[:, :, i], np.full(self.n, s), -places) for i, s in ((0, -1.0), (-1, 1.0))]
        border += [(cells[:, i], places, np.full(self.n, s)) for i, s in ((0, 1.0), (-1, -1.0))]
        tokens = np.concatenate([ends.ravel() for ends, _, _ in border])
        middles = np.concatenate([self._on_faces(x, y).reshape(-1, 3) for _, x, y in border])
        _, pairs = cKDTree(middles).query(middles, k=2)
        within.append((tokens[pairs[:, 0]], tokens[pairs[:, 1]]))
        both = np.concatenate([np.stack((a.ravel(), b.ravel()), axis=-1) for a, b in within])
        return read_only(np.unique(np.sort(both, axis=-1), axis=0))

    def lattice(self) -> Ints:
        return np.indices(self.shape, dtype=np.int64).reshape(3, self.size).T  # the face is the patch

    def __repr__(self) -> str:
        rotation = f", turned by {self.rotation:g}°" if self.rotation else ""
        return f"cubed-sphere grid 6×{self.n}×{self.n}, {self.lines}{rotation}"


def cubed_sphere(
    n: int, kind: Literal["equiangular", "equal-edge"] = "equiangular", rotation: float | None = None
) -> CubedSphere:
    """Six faces of n × n cells between great circles.

    Parameters
    ----------
    n
        Cells along the side of a face.
    kind
        ``"equiangular"``: equal in angle along the middle lines of each face. Faces 0 to 3 are centred on the
        equator at 0°, 90°, 180° and 270°E with north up, face 4 on the north pole and face 5 on the south
        pole, each joined to face 0 along its lower or upper side.

        ``"equal-edge"``: FV3's grid, equal in length along the edges of each face, with its tiles 1 to 6 in
        their order: centred at 0° and 90°E, on the north pole, at 180° and 270°E, on the south pole, and each
        ``[j, i]`` as its files have it. Points are its cell centres, the mean of the four corners. (Source:
        ``gnomonic_ed``, ``mirror_grid`` and ``cell_center2`` of NOAA-GFDL/GFDL_atmos_cubed_sphere.)
    rotation
        Degrees eastward that all of it is turned by; without it 0 for "equiangular" and −10 for "equal-edge",
        as FV3 turns a corner of the cube away from Japan.

    Raises
    ------
    ValueError
        If ``n`` is below 1, or the kind is another.

    Examples
    --------
    >>> ga.grids.cubed_sphere(48, kind="equal-edge")
    cubed-sphere grid 6×48×48, equal-edge, turned by -10°
    """
    turn = _ROTATIONS.get(kind, 0.0) if rotation is None else real("rotation", rotation)
    return CubedSphere(integer("n", n), kind, turn)
