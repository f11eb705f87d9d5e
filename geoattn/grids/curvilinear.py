"""Two-dimensional arrays of points on the sphere, such as those of projections, swaths and ocean models."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.base import read_only
from geoattn.grids.cells import CellGrid
from geoattn.grids.seams import kept_copies, neighbors, surrounded
from geoattn.grids.sphere import Floats, Ints, unit_vectors


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Curvilinear(CellGrid, kind="curvilinear"):
    """An array of cells, ``shape == (rows, columns)``, that covers a part of the sphere, or all of it.

    Corners are ``[rows + 1, columns + 1]``, where cells meet, ``[rows, columns, 4]``, around each, or empty
    where they lie in the middle between four points. Columns may close around the globe, rows fold onto
    themselves, and points be there several times, as in tripolar ocean grids: they count once. A point that
    all four corners lie at has no cell, and counts nothing.

    Examples
    --------
    >>> lat, lon = np.meshgrid(np.linspace(40, 50, 6), np.linspace(0, 15, 8), indexing="ij")
    >>> ga.grids.regional(lat + lon / 10, lon)
    region of 6×8 cells, lat 40° to 51.5°, lon 0° to 15°, 0.35% of the globe
    """

    @property
    def axes_periodic(self) -> tuple[bool, ...]:
        return (False, bool(self._tokens[1, 0] == self.shape[1] - 1))

    @cached_property
    def _tokens(self) -> Ints:
        return surrounded(self.xyz)

    @cached_property
    def _kept(self) -> Ints:
        return kept_copies(self.xyz)

    @cached_property
    def repeats(self) -> NDArray[np.bool_] | None:
        found = (self._kept != np.arange(self.size)).reshape(self.shape)
        return found if found.any() else None

    @cached_property
    def bare(self) -> NDArray[np.bool_] | None:  # type: ignore[override]
        if self.corner_latitudes.ndim < 3:
            return self.repeats
        given = unit_vectors(self.corner_latitudes, self.corner_longitudes)
        found = np.asarray((np.abs(given - self.xyz[:, :, None]) < 1e-12).all((2, 3)))
        found = found if self.repeats is None else found | self.repeats
        return found if found.any() else None

    @cached_property
    def corners(self) -> Floats:
        """Unit vectors to the corners of each cell, ``[rows, columns, 4, 3]``; repeats have none."""
        if not self.corner_latitudes.size:
            corners = _with_ends(around(middles(self.xyz, self._tokens)), self.xyz, self._tokens)
        else:
            corners = unit_vectors(self.corner_latitudes, self.corner_longitudes)
            corners = around(corners) if corners.ndim == 3 else corners
        if self.repeats is not None:
            corners = np.where(self.repeats[..., None, None], self.xyz[:, :, None], corners)
        return read_only(corners)

    @cached_property
    def edges(self) -> Ints:
        """Pairs of cells that are neighbors in a row or a column, also where these close and fold."""
        return read_only(neighbors(self._tokens, self._kept))

    def __repr__(self) -> str:
        what = "grid" if self.is_global else "region"
        return f"{what} of {self.shape[0]}×{self.shape[1]} cells, {self._describe()}"


def middles(xyz: Floats, tokens: Ints) -> Floats:
    """Unit vectors ``[rows + 1, columns + 1, 3]`` in the middle of every four neighbors of ``xyz``.

    ``tokens [rows + 2, columns + 2]`` are the array and what lies around it. Where it ends, a row and a
    column beyond are those inside mirrored at the border: the outermost cells reach as far outward as inward.
    """
    points = xyz.reshape(-1, 3)[tokens]
    open_ends = tokens < 0
    for axis in (1, 0):
        lines, ends = np.moveaxis(points, axis, 0), np.moveaxis(open_ends, axis, 0)
        for end, inside in ((0, 1), (-1, -2)):
            step = 1 if end == 0 else -1
            beyond = _mirrored(lines[inside + step], lines[inside])
            lines[end] = np.where(ends[end][..., None], beyond, lines[end])
    corners = points[1:, 1:] + points[1:, :-1] + points[:-1, 1:] + points[:-1, :-1]
    return np.asarray(corners / np.linalg.norm(corners, axis=-1, keepdims=True))


def around(corners: Floats) -> Floats:
    """The four corners of each cell, ``[rows, columns, 4, …]``, in turn, from where cells meet."""
    return np.stack((corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1]), axis=2)


def _with_ends(corners: Floats, xyz: Floats, tokens: Ints) -> Floats:
    """``corners [rows, columns, 4, 3]``, where both ends of a fold have cells too.

    Where a row lies on its own reverse it turns about two of its points, and each of these has the same
    neighbors before and behind it: its cell reaches from there to the middle of the row's last step.
    """
    row, column = np.nonzero((np.abs(corners - corners[:, :, [2, 3, 0, 1]]) < 1e-9).all((2, 3)))
    if len(row):
        points = xyz.reshape(-1, 3)
        for place, other in ((1, tokens[row, column + 1]), (3, tokens[row + 1, column + 2])):
            middle = xyz[row, column] + points[other]
            middle /= np.linalg.norm(middle, axis=-1, keepdims=True)
            if place == 1:
                corners[row, column, 2] = corners[row, column, 1]
            corners[row, column, place] = middle
    return corners


def _mirrored(points: Floats, centres: Floats) -> Floats:
    """``points`` on the other side of ``centres``, along great circles, ``[…, 3]`` each."""
    return np.asarray(2.0 * (points * centres).sum(-1, keepdims=True) * centres - points)
