"""Two grids of the sphere in one: nests, stretched grids, regions in what drives them."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.base import PointSet, SphericalGrid, read_only
from geoattn.grids.outlines import NoCells, Outlines, cells_of, join, pieces
from geoattn.grids.sphere import Floats, Ints
from geoattn.grids.voronoi import delaunay_edges

#: shares of cells, and of grids, below this are round-off
_NOTHING = 1e-9
#: points further apart than this many of their cells are no neighbors
_REACH = 3.0


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GridUnion(PointSet, kind="grid_union"):
    """The points of ``first`` that have any area left, in its order, then all of ``second``.

    Examples
    --------
    >>> lat, lon = np.arange(1, 10), np.arange(10.0)
    >>> west, east = ga.grids.regional(lat, lon), ga.grids.regional(lat, lon + 10)
    >>> ga.grids.union(west, east).size
    180
    """

    first: SphericalGrid
    second: SphericalGrid
    #: steradians that the second grid leaves of each cell of the first, ``[first.size]``
    left: Floats

    def _check(self) -> None:
        if self.left.shape != (self.first.size,):
            raise ValueError(f"left must be [{self.first.size}], of the first grid, got {self.left.shape}")

    def _shape(self) -> tuple[int, ...]:
        return (int(np.count_nonzero(self.left)) + self.second.size,)

    @cached_property
    def kept(self) -> Ints:
        """The points of the first grid that are there, flat indices ``[m]``: tokens 0 to m − 1."""
        return read_only(np.flatnonzero(self.left))

    @property
    def bare(self) -> NDArray[np.bool_] | None:
        none = self.second.bare
        return None if none is None else np.append(np.zeros(len(self.kept), bool), none)

    @cached_property
    def lat(self) -> Floats:
        return np.asarray(self.join(self.first.lat, self.second.lat))

    @cached_property
    def lon(self) -> Floats:
        return np.asarray(self.join(self.first.lon, self.second.lon))

    @cached_property
    def weights(self) -> Floats:
        """Areas of the cells, those of the first grid without what lies in the second."""
        return read_only(np.concatenate((self.left[self.kept], self.second.cell_areas.ravel())))

    @cached_property
    def edges(self) -> Ints | None:
        """Pairs whose Voronoi cells touch, without those that reach across what neither grid covers."""
        pairs = delaunay_edges(self.xyz)
        if pairs is None:
            return None
        size = np.sqrt(self.weights)
        apart = np.linalg.norm(self.xyz[pairs[:, 0]] - self.xyz[pairs[:, 1]], axis=-1)
        return read_only(pairs[apart <= _REACH * size[pairs].max(1)])

    def join(self, first: Any, second: Any) -> Any:
        """A field on the union, ``[…, size]``, from fields ``[…, *first.shape]`` and ``[…, *second.shape]``.

        Numpy arrays, or torch tensors, which gradients pass.
        """
        parts = []
        for name, field, grid in (("first", first, self.first), ("second", second, self.second)):
            lead = len(field.shape) - len(grid.shape)
            if tuple(field.shape[max(lead, 0) :]) != grid.shape:
                raise ValueError(
                    f"the {name} field has the shape {tuple(field.shape)}, which does not end with "
                    f"{grid.shape}, that of {grid!r}"
                )
            parts.append(field.reshape((*field.shape[:lead], grid.size)))
        a, b = parts
        shape = (*np.broadcast_shapes(a.shape[:-1], b.shape[:-1]), self.size)
        joined = a.new_empty(shape) if hasattr(a, "new_empty") else np.empty(shape, np.result_type(a, b))
        kept = self.kept.copy()  # torch warns of indices that cannot be written to
        joined[..., : len(kept)] = a[..., kept]
        joined[..., len(kept) :] = b
        return joined

    def split(self, field: Any) -> tuple[Any, Any]:
        """The fields of both grids, ``[…, *first.shape]`` and ``[…, *second.shape]``, from ``[…, size]``.

        The first is NaN where the second takes its place.
        """
        if tuple(field.shape[-1:]) != self.shape:
            raise ValueError(
                f"field of shape {tuple(field.shape)} does not end with {self.shape} of {self!r}"
            )
        lead, m = tuple(field.shape[:-1]), len(self.kept)
        shape = (*lead, self.first.size)
        first = field.new_full(shape, np.nan) if hasattr(field, "new_full") else np.full(shape, np.nan)
        first[..., self.kept.copy()] = field[..., :m]
        second = field[..., m:]
        return first.reshape((*lead, *self.first.shape)), second.reshape((*lead, *self.second.shape))

    def __repr__(self) -> str:
        dropped = self.first.size - len(self.kept)
        return f"union of {self.size} points: {self.first!r} without {dropped}, and {self.second!r}"


@cells_of.register
def _(grid: GridUnion) -> Outlines:
    """Those of both parts; what a cell of the first shares with the second is taken away again."""
    from geoattn.grids.overlaps import intersections  # imports numba

    kept, areas = grid.kept, np.ravel(grid.first.cell_areas)
    number = np.full(grid.first.size, -1)
    number[kept] = np.arange(len(kept))
    first, second = pieces(cells_of(grid.first)), pieces(cells_of(grid.second))
    first = first.take(number[first.cells] >= 0)
    cut = (grid.left < areas)[first.cells]
    first = dataclasses.replace(first, cells=number[first.cells])
    parts = [first, dataclasses.replace(second, cells=second.cells + len(kept))]
    if cut.any():
        shared = intersections(first.take(cut), second)
        parts.append(dataclasses.replace(shared, signs=-shared.signs))
    return join(*parts)


def union(a: SphericalGrid, b: SphericalGrid, overlap: Literal["refuse", "replace"] = "refuse") -> GridUnion:
    """The points of two grids of the sphere in one list: a fine region in a coarse globe, a domain in a rim.

    Weights are areas of cells, so that the whole is weighed as one grid: attention on it reaches from either
    part to the other. ``join`` and ``split`` lead fields there and back.

    Parameters
    ----------
    a, b
        Spherical grids whose points have cells.
    overlap
        What becomes of places that both cover: ``"refuse"``, or ``"replace"``, where b's cells take the place
        of a's. Those of a that lie within them are no points of the union, and those across their border
        weigh what lies outside.

    Raises
    ------
    TypeError
        If one is no spherical grid.
    ValueError
        If they overlap and that is not asked for, if a grid has no cells, or if nothing is left of ``a``.

    Examples
    --------
    >>> lat, lon = np.arange(1, 10), np.arange(10.0)
    >>> west, east = ga.grids.regional(lat, lon), ga.grids.regional(lat, lon + 10)
    >>> ga.grids.union(west, east)
    union of 180 points: region of 9×10 cells between parallels and meridians, lat 1° to 9°, lon...
    """
    from geoattn.grids.overlaps import outline_areas, shared_areas  # imports numba

    for name, grid in (("a", a), ("b", b)):
        if not isinstance(grid, SphericalGrid):
            raise TypeError(f"{name} must be a grid of the sphere, got {grid!r}")
    if overlap not in ("refuse", "replace"):
        raise ValueError(f'overlap must be "refuse" or "replace", got {overlap!r}')
    try:
        within = np.asarray(outline_areas(a))
        taken = np.asarray(shared_areas(a, b).sum(axis=0)).ravel()
    except NoCells as error:
        raise ValueError(
            f"where grids overlap is told by their cells, and {a!r} or {b!r} has none. Where they are known "
            "to lie apart, join their points, ga.grids.points(np.append(a.lat, b.lat), "
            "np.append(a.lon, b.lon), areas=np.append(a.weights, b.weights))"
        ) from error
    share = np.divide(taken, within, out=np.zeros_like(taken), where=within > 0).clip(0.0, 1.0)
    share[share < _NOTHING] = 0.0
    share[share > 1.0 - _NOTHING] = 1.0
    areas = a.cell_areas.ravel()
    lost = float((areas * share).sum())
    if overlap == "refuse" and lost > 1e-6 * min(areas.sum(), b.cell_areas.sum()):
        raise ValueError(
            f"the grids overlap: {lost / areas.sum():.2%} of the area of the first and "
            f"{lost / b.cell_areas.sum():.2%} of the second is in both. Let the second take the place of the "
            'first there: ga.grids.union(a, b, overlap="replace")'
        )
    left: NDArray[np.float64] = areas * (1.0 - share)
    if not left.any():
        raise ValueError(
            f"nothing is left of the first grid, {a!r}: the second covers it. Take that alone, b"
        )
    return GridUnion(a, b, left)
