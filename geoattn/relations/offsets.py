"""Relative positions in windows: how far a key lies from its query along each axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.sphere import Floats
from geoattn.neighborhoods.axis import Axis
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Index, Rotation
from geoattn.relations.base import Along, Relation, require_neighborhood, require_room, row_major


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Offsets(Relation, kind="relation_offsets"):
    """The displacements of a neighborhood with axes; made by :func:`offsets`, which defines them."""

    #: axes whose absolute place counts too, ascending
    by: tuple[int, ...]

    @cached_property
    def _axes(self) -> tuple[_Numbered, ...]:
        return tuple(
            (_by_place if line in self.by else _by_displacement)(axis)
            for line, axis in enumerate(self.hood.axes or ())
        )

    @cached_property
    def along(self) -> tuple[Along, ...]:  # type: ignore[override]
        return tuple(axis.along for axis in self._axes)

    @cached_property
    def count(self) -> int:  # type: ignore[override]
        return prod(part.count for part in self.along)

    def numbers(self, queries: Index, keys: Index) -> NDArray[np.int32]:
        return row_major(
            self.along,
            np.unravel_index(queries, self.hood.query_grid.shape),
            np.unravel_index(keys, self.hood.key_grid.shape),
        )

    @cached_property
    def coordinates(self) -> Floats:  # type: ignore[override]
        """The displacement along each axis, then the query's place along each axis of ``by``."""
        numbers = np.indices([part.count for part in self.along]).reshape(len(self.along), -1)
        columns = [axis.displacement[n] for axis, n in zip(self._axes, numbers, strict=True)]
        columns += [self._axes[line].place[numbers[line]] for line in self.by]
        return np.stack(columns, axis=1).astype(np.float64)

    @property
    def rotation(self) -> Rotation | None:
        turn, shape = self.hood.rotation, self.hood.query_grid.shape
        turned = [line for line in range(len(shape)) if turn and prod(shape[line:]) == turn.query_ring]
        return turn if turned and turned[-1] not in self.by else None

    @property
    def of_one_query(self) -> bool:
        return len(self.by) == len(self.along)

    def __repr__(self) -> str:
        by = f" and places along axes {self.by}" if self.by else ""
        return f"{self.count} offsets{by} in {self.hood!r}"


class _Numbered(NamedTuple):
    """An axis whose pairs are numbered, and what the numbers stand for."""

    along: Along
    displacement: Index
    place: Index


def _by_displacement(axis: Axis) -> _Numbered:
    """A number for each displacement that occurs, ascending."""
    begin, count = axis.start[axis.count > 0], axis.count[axis.count > 0]
    low, end = begin.min(initial=0), begin + count * axis.stretch
    # each query marks where its displacements begin, and where they have ended; in a column lie those that
    # follow each other
    marks = np.zeros((-((low - end.max(initial=0) - 1) // axis.stretch), axis.stretch), np.int64)
    np.add.at(marks.reshape(-1), begin - low, 1)
    np.add.at(marks.reshape(-1), end - low, -1)
    occurs = np.cumsum(marks, axis=0).reshape(-1) > 0
    number, displacement = np.cumsum(occurs) - 1, low + np.flatnonzero(occurs)

    def numbers(queries: Index, keys: Index) -> Index:
        found: Index = number[axis.displacements(queries, keys) - low]
        return found

    return _Numbered(Along(len(displacement), numbers), displacement, np.zeros_like(displacement))


def _by_place(axis: Axis) -> _Numbered:
    """A number for each pair of a query's place and a displacement that occurs there."""
    place = np.repeat(np.arange(len(axis.count)), axis.count)
    before = np.cumsum(axis.count) - axis.count
    displacement = axis.start[place] + (np.arange(len(place)) - before[place]) * axis.stretch

    def numbers(queries: Index, keys: Index) -> Index:
        steps = (axis.displacements(queries, keys) - axis.start[queries]) // axis.stretch
        return before[queries] + steps

    return _Numbered(Along(len(place), numbers), displacement, place)


def offsets(hood: Neighborhood, by: int | Sequence[int] = ()) -> Offsets:
    """How far the key lies from the query along each axis: one number for each displacement that occurs.

    The displacement is key − query in positions along the axis, in the finer of two planes: a query of
    ``window(…, key_grid=…, origin=o)`` lies at position ``o + i·r`` of the keys' axis. On a periodic axis it
    is counted within the window, as if the axis went on: a window that reaches across the seam has the
    displacements of any other. Along each axis the displacements that occur are numbered ascending, and
    the number of an edge is the row-major index over the axes. A window k×k with ``stride=k`` has
    (2k − 1)² of them: the relative positions of Swin (Liu et al., 2103.14030).

    Along the axes in ``by`` the number counts pairs of the query's place and a displacement instead, those
    that occur: with windows along level and latitude in ``by`` and along longitude, this is the
    Earth-specific bias of Pangu-Weather (Bi et al., 2211.02556).

    Parameters
    ----------
    hood
        A neighborhood that is a product along axes: a window, also between two planes or transposed,
        everything on one plane, or a product of these.
    by
        Axes of the grid, in any order; negative ones count from the last.

    Returns
    -------
    A relation whose ``coordinates [count, axes + len(by)]`` are the displacements, then the places of the
    query along the axes of ``by``.

    Raises
    ------
    TypeError
        If the neighborhood has no axes, or ``by`` holds no whole numbers.
    ValueError
        If ``by`` names an axis that the grid does not have, or one twice, or there are 2³¹ numbers.

    Examples
    --------
    >>> ga.relations.offsets(ga.window(ga.grids.cartesian((6, 6)), 3)).count
    25
    """
    require_neighborhood(hood)
    if hood.axes is None:
        raise TypeError(
            f"offsets are of a neighborhood along axes, and {hood!r} has none; number a window that holds "
            "its edges, offsets(window(grid, size)).on(hood), or take angles(hood, bins=…) or edges(hood)"
        )
    rank = len(hood.axes)
    several = tuple(by) if isinstance(by, Sequence) else (by,)
    if not all(isinstance(line, int | np.integer) and not isinstance(line, bool) for line in several):
        raise TypeError(f"by must hold numbers of axes, got {by!r}")
    if not all(-rank <= line < rank for line in several):
        raise ValueError(f"by must name axes in [0, {rank}) of {hood.query_grid!r}, got {by!r}")
    lines = sorted(int(line) % rank for line in several)
    if len(set(lines)) < len(lines):
        raise ValueError(f"by names an axis twice: {by!r}")
    return require_room(Offsets(hood, tuple(lines)))
