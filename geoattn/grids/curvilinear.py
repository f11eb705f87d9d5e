"""Two-dimensional arrays of points on the sphere, such as those of projections and of swaths."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from geoattn.grids.base import SphericalGrid, read_only
from geoattn.grids.cells import cell_areas, describe
from geoattn.grids.sphere import Floats, Ints, unit_vectors


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Curvilinear(SphericalGrid, kind="curvilinear"):
    """An array of cells, ``shape == (rows, columns)``, that covers a part of the sphere.

    Corners are the file's, or empty where they lie in the middle between four points. ``areas`` is empty
    where they are those of the cells between the corners, whose sides are great circles.
    """

    latitudes: Floats
    longitudes: Floats
    #: ``[rows + 1, columns + 1]``, where cells meet; ``[rows, columns, 4]``, around each cell; or empty
    corner_latitudes: Floats
    corner_longitudes: Floats
    areas: Floats

    def _shape(self) -> tuple[int, ...]:
        return self.latitudes.shape

    @property
    def lat(self) -> Floats:
        return self.latitudes

    @property
    def lon(self) -> Floats:
        return self.longitudes

    @property
    def axes_periodic(self) -> tuple[bool, ...]:
        return (False, False)

    @cached_property
    def corners(self) -> Floats:
        """Unit vectors to the corners of each cell, ``[rows, columns, 4, 3]``."""
        if not self.corner_latitudes.size:
            return read_only(around(middles(self.xyz)))
        given = unit_vectors(self.corner_latitudes, self.corner_longitudes)
        return read_only(around(given) if given.ndim == 3 else given)

    @cached_property
    def weights(self) -> Floats:
        return self.areas if self.areas.size else read_only(cell_areas(self.xyz, self.corners))

    @cached_property
    def edges(self) -> Ints:
        """Pairs of cells that are neighbors in a row or a column."""
        cells = np.arange(self.size).reshape(self.shape)
        pairs = ((cells[1:], cells[:-1]), (cells[:, 1:], cells[:, :-1]))
        return read_only(np.concatenate([np.stack((b.ravel(), a.ravel()), axis=-1) for a, b in pairs]))

    def __repr__(self) -> str:
        return f"region of {self.shape[0]}×{self.shape[1]} cells, {describe(self)}"


def middles(xyz: Floats) -> Floats:
    """Unit vectors ``[rows + 1, columns + 1, 3]`` in the middle of every four neighbors of ``xyz``.

    A row and a column beyond each border are those inside mirrored at it: the outermost cells reach as far
    outward as inward.
    """
    for axis in (0, 1):
        lines = np.moveaxis(xyz, axis, 0)
        before, after = _mirrored(lines[1], lines[0]), _mirrored(lines[-2], lines[-1])
        xyz = np.moveaxis(np.concatenate((before[None], lines, after[None])), 0, axis)
    corners = xyz[1:, 1:] + xyz[1:, :-1] + xyz[:-1, 1:] + xyz[:-1, :-1]
    return np.asarray(corners / np.linalg.norm(corners, axis=-1, keepdims=True))


def around(corners: Floats) -> Floats:
    """The four corners of each cell, ``[rows, columns, 4, …]``, in turn, from where cells meet."""
    return np.stack((corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1]), axis=2)


def _mirrored(points: Floats, centres: Floats) -> Floats:
    """``points`` on the other side of ``centres``, along great circles, ``[…, 3]`` each."""
    return np.asarray(2.0 * (points * centres).sum(-1, keepdims=True) * centres - points)
