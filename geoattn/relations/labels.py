"""Relations that are given edge by edge."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.edges import whole_numbers
from geoattn.neighborhoods.rows import Index, Rotation
from geoattn.relations.base import Relation, require_neighborhood


class _EdgeByEdge(Relation):
    """A relation that knows the place of each edge among all."""

    @cached_property
    def _pairs(self) -> Index:
        """All edges as numbers ``query * n_keys + key``, ascending."""
        indptr, indices = self.hood.to_csr()
        query = np.repeat(np.arange(self.hood.query_grid.size), np.diff(indptr))
        return query * self.hood.key_grid.size + indices

    def places(self, queries: Index, keys: Index) -> Index:
        """Where edges stand in the order of ``hood.to_csr().indices``."""
        places: Index = np.searchsorted(self._pairs, queries * self.hood.key_grid.size + keys)
        return places


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Labels(_EdgeByEdge, kind="relation_labels"):
    """Any number for each edge; made by :func:`labels`."""

    #: int32 [edges], in the order of ``hood.to_csr().indices``
    values: NDArray[np.int32]

    @cached_property
    def count(self) -> int:  # type: ignore[override]
        return int(self.values.max(initial=-1)) + 1

    def numbers(self, queries: Index, keys: Index) -> NDArray[np.int32]:
        return self.values[self.places(queries, keys)]

    @cached_property
    def rotation(self) -> Rotation | None:  # type: ignore[override]
        """That of the neighborhood, where the values happen to follow it."""
        turn = self.hood.rotation
        if turn is None:
            return None
        turned = self.numbers(*turn.turned(*np.divmod(self._pairs, self.hood.key_grid.size)))
        return turn if np.array_equal(turned, self.values) else None

    def __repr__(self) -> str:
        return f"{self.count} labels on {self.hood!r}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Edges(_EdgeByEdge, kind="relation_edges"):
    """Every edge its own number; made by :func:`edges`."""

    @cached_property
    def count(self) -> int:  # type: ignore[override]
        return int(self.hood.counts.sum())

    def numbers(self, queries: Index, keys: Index) -> NDArray[np.int32]:
        return self.places(queries, keys).astype(np.int32)

    @property
    def of_one_query(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"each edge of {self.hood!r}"


def labels(hood: Neighborhood, values: ArrayLike) -> Labels:
    """Any whole numbers from 0 on, one for each edge.

    Parameters
    ----------
    hood
        The neighborhood whose edges are numbered.
    values
        ``[edges]``, in the order of ``hood.to_csr().indices``; the relation's ``count`` is one more than the
        largest.

    Raises
    ------
    TypeError
        If ``hood`` is no neighborhood, or a value is no whole number.
    ValueError
        If there are more or fewer values than edges, or a value is negative.

    Examples
    --------
    >>> line = ga.window(ga.grids.cartesian(4), 3)
    >>> ga.relations.labels(line, np.arange(12) % 2).count
    2
    """
    require_neighborhood(hood)
    numbers = whole_numbers("values", values)
    edge_count = int(hood.counts.sum())
    if numbers.shape != (edge_count,):
        raise ValueError(
            f"values must hold one number for each of the {edge_count} edges of {hood!r}, in the order of "
            f"hood.to_csr().indices, got shape {numbers.shape}"
        )
    if edge_count and not (0 <= numbers.min() and numbers.max() < 2**31):
        raise ValueError(f"values must lie in [0, 2³¹), got {numbers.min()} … {numbers.max()}")
    return Labels(hood, numbers.astype(np.int32))


def edges(hood: Neighborhood) -> Edges:
    """Every edge its own number, in the order of ``hood.to_csr().indices``.

    Raises
    ------
    TypeError
        If ``hood`` is no neighborhood.

    Examples
    --------
    >>> line = ga.window(ga.grids.cartesian(4), 3)
    >>> bool(ga.relations.edges(line).count == line.counts.sum())
    True
    """
    require_neighborhood(hood)
    return Edges(hood)
