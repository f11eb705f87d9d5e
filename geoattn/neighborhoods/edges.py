"""Any static pattern, given edge by edge."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geoattn.grids.base import Grid, require_grid
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Index, Rows


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Edges(Neighborhood, kind="edges"):
    """Compressed sparse rows: query i sees ``indices[indptr[i]:indptr[i + 1]]``."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]

    def rows(self, queries: Index) -> Rows:
        lengths = self.indptr[1:][queries] - self.indptr[:-1][queries]
        indptr = np.concatenate(([0], np.cumsum(lengths)))
        places = np.arange(indptr[-1]) + np.repeat(self.indptr[queries] - indptr[:-1], lengths)
        return Rows(indptr, self.indices[places])

    def transpose(self) -> Edges:
        from geoattn.neighborhoods._kernels import transpose

        return Edges(
            self.key_grid, self.query_grid, *transpose(self.indptr, self.indices, self.key_grid.size)
        )

    def __repr__(self) -> str:
        return f"{len(self.indices)} explicit edges from {self.query_grid!r} to {self.key_grid!r}"


def from_edges(query_grid: Grid, key_grid: Grid, indptr: ArrayLike, indices: ArrayLike) -> Edges:
    """A neighborhood from compressed sparse rows; each row must hold distinct keys.

    Parameters
    ----------
    indptr
        ``[query_grid.size + 1]``, from 0 to ``len(indices)``, never decreasing.
    indices
        Flat key numbers; sorted within each row here.

    Examples
    --------
    >>> line = ga.grids.cartesian(3)
    >>> ga.from_edges(line, line, [0, 1, 3, 3], [0, 0, 2]).counts
    array([1, 2, 0])
    """
    require_grid("query_grid", query_grid)
    require_grid("key_grid", key_grid)
    starts, keys = whole_numbers("indptr", indptr), whole_numbers("indices", indices)
    ends = starts.shape == (query_grid.size + 1,) and starts[0] == 0 and starts[-1] == len(keys)
    if not ends or (np.diff(starts) < 0).any():
        raise ValueError(
            f"indptr must be {query_grid.size + 1} non-decreasing numbers from 0 to {len(keys)} "
            f"(one row per query of {query_grid!r}), got shape {starts.shape}"
        )
    if len(keys) and not (0 <= keys.min() and keys.max() < key_grid.size):
        raise ValueError(f"key numbers must lie in [0, {key_grid.size}), got {keys.min()} … {keys.max()}")
    row = np.repeat(np.arange(query_grid.size), np.diff(starts))
    order = np.lexsort((keys, row))
    keys = keys[order]
    if ((np.diff(keys) == 0) & (np.diff(row) == 0)).any():
        raise ValueError("a query lists the same key twice; list each key of a row once")
    return Edges(query_grid, key_grid, starts, keys.astype(np.int32))


def whole_numbers(name: str, values: ArrayLike) -> Index:
    """An array of whole numbers: fractions are refused, not cut off."""
    given = np.asarray(values)
    numbers = given.astype(np.int64) if given.dtype.kind in "iuf" else np.zeros(0, np.int64)
    if given.dtype.kind not in "iuf" or not np.array_equal(numbers, given):
        wrong = given[numbers != given][0] if given.dtype.kind == "f" else given.dtype
        raise TypeError(f"{name} must hold whole numbers, got {wrong}")
    return numbers
