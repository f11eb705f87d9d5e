"""What every relation is: a number in [0, count) for each edge of a neighborhood."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from geoattn._value import Named
from geoattn.grids.sphere import Floats
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.heads import Heads
from geoattn.neighborhoods.rows import Index, Rotation, Rows, common

R = TypeVar("R", bound="Relation")


class NumberedRows(NamedTuple):
    """Rows of a neighborhood, see :class:`geoattn.neighborhoods.Rows`, and the number of each edge.

    Examples
    --------
    >>> rel = ga.relations.offsets(ga.window(ga.grids.cartesian(6), 3))
    >>> rel.rows(np.array([2])).numbers
    array([1, 2, 3], dtype=int32)
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    numbers: NDArray[np.int32]


@dataclasses.dataclass(frozen=True, eq=False)
class Along:
    """The part that one axis has in a relation's numbers.

    Examples
    --------
    >>> along = ga.relations.Along(3, lambda queries, keys: keys - queries + 1)
    >>> along.numbers(np.array([4, 4]), np.array([4, 5]))
    array([1, 2])
    """

    #: how many numbers there are along the axis
    count: int
    #: the number of each pair of a query's and a key's position on the axis, ``[n]`` each
    numbers: Callable[[Index, Index], NDArray[Any]]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Relation(Named):
    """A number for each edge of ``hood``: equal numbers share an entry of a table of biases.

    A concrete relation implements :attr:`count` and :meth:`numbers`; all else follows. One whose numbers
    are the same for edges that a symmetry maps onto each other says so in :attr:`rotation` or
    :attr:`along`: plans then keep them once for all such edges.

    Examples
    --------
    >>> rel = ga.relations.offsets(ga.window(ga.grids.cartesian((6, 6)), 3))
    >>> rel.count, rel.coordinates.shape
    (25, (25, 2))
    """

    hood: Neighborhood

    def __post_init__(self) -> None:
        require_neighborhood(self.hood)
        super().__post_init__()

    @property
    @abstractmethod
    def count(self) -> int:
        """How many numbers there are: they lie in [0, count)."""

    @abstractmethod
    def numbers(self, queries: Index, keys: Index) -> NDArray[np.int32]:
        """The number of each edge from ``queries[i]`` to ``keys[i]``, flat indices ``[n]``.

        Of pairs that are no edges of ``hood`` nothing is said.
        """

    @property
    def coordinates(self) -> Floats:
        """What each number stands for, ``[count, d]``: the input of a network that computes a bias.

        Raises
        ------
        TypeError
            If the numbers stand for nothing that has coordinates.
        """
        raise TypeError(f"the numbers of {self!r} have no coordinates; give each a bias of its own")

    @property
    def rotation(self) -> Rotation | None:
        """A symmetry of the neighborhood that keeps the numbers too."""
        return None

    @property
    def along(self) -> tuple[Along, ...] | None:
        """The parts that ``hood.axes`` have in the numbers, of which a number is the row-major index.

        None where the neighborhood is no product along axes, or the numbers are none.
        """
        axes = self.hood.axes
        return (Along(self.count, self.numbers),) if axes and len(axes) == 1 else None

    @property
    def of_one_query(self) -> bool:
        """Whether no two queries have a number in common."""
        return False

    def rows(self, queries: Index) -> NumberedRows:
        """The rows of ``hood`` for the given queries, with the number of each edge."""
        indptr, indices = self.hood.rows(queries)
        return NumberedRows(indptr, indices, self.numbers_of(queries, Rows(indptr, indices)))

    def numbers_of(self, queries: Index, rows: Rows) -> NDArray[np.int32]:
        """The numbers of the edges in rows of the given queries."""
        query = np.repeat(np.asarray(queries, np.int64), np.diff(rows.indptr))
        return self.numbers(query, rows.indices.astype(np.int64))

    def transpose(self) -> Relation:
        """The same numbers on the same edges seen from the keys: on ``hood.transpose()``."""
        return Transposed(self.hood.transpose(), self)

    def on(self, hood: Neighborhood) -> Relation:
        """The same numbers on a neighborhood that holds some of the edges of this one's.

        Raises
        ------
        ValueError
            If the grids differ, or ``hood`` has an edge that this relation does not number.
        """
        require_neighborhood(hood)
        if hood == self.hood:
            return self
        if (hood.query_grid, hood.key_grid) != (self.hood.query_grid, self.hood.key_grid):
            raise ValueError(f"{self!r} numbers edges between other grids than those of {hood!r}")
        for queries, rows in hood.blocks():
            known = self.hood.rows(queries)
            wanted, numbered = (_pairs(queries, r, hood.key_grid.size) for r in (rows, known))
            missing = ~np.isin(wanted, numbered)
            if missing.any():
                query = np.repeat(queries, np.diff(rows.indptr))[missing][0]
                raise ValueError(
                    f"{self!r} numbers no edge from query {query} to key {rows.indices[missing][0]}, which "
                    f"{hood!r} has; make the relation of a neighborhood that holds all of its edges"
                )
        return On(hood, self)


def require_neighborhood(hood: object) -> None:
    """Refuse what is no neighborhood, or has no edges of its own."""
    if isinstance(hood, Heads):
        raise TypeError(
            f"{hood!r} has other edges for other heads; make a relation of one of its {len(hood.parts)} "
            "parts, hood.parts[0], …"
        )
    if not isinstance(hood, Neighborhood):
        raise TypeError(
            f"a relation numbers the edges of a neighborhood, got {hood!r}; make one with "
            "window(grid, size), geodesic(grid, radius=…), …"
        )


def require_room(relation: R) -> R:
    """Refuse more numbers than are counted in 32 bits."""
    if relation.count >= 2**31:
        raise ValueError(f"{relation!r}: numbers must lie in [0, 2³¹)")
    return relation


def row_major(
    parts: Sequence[Along | Relation], queries: Sequence[Index], keys: Sequence[Index]
) -> NDArray[np.int32]:
    """The number of each edge by those of its parts, of which the last runs fastest."""
    number = np.zeros(len(queries[0]), np.int64)
    for part, query, key in zip(parts, queries, keys, strict=True):
        number = number * part.count + part.numbers(query, key)
    return number.astype(np.int32)


def _pairs(queries: Index, rows: Rows, n_keys: int) -> Index:
    """Each edge as one number."""
    pairs: Index = np.repeat(queries, np.diff(rows.indptr)) * n_keys + rows.indices
    return pairs


def _swapped(numbers: Callable[[Index, Index], NDArray[Any]]) -> Callable[[Index, Index], NDArray[Any]]:
    return lambda queries, keys: numbers(keys, queries)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Transposed(Relation, kind="relation_transposed"):
    """The numbers of ``relation`` on the transposed neighborhood."""

    relation: Relation

    @property
    def count(self) -> int:
        return self.relation.count

    @property
    def coordinates(self) -> Floats:
        return self.relation.coordinates

    def numbers(self, queries: Index, keys: Index) -> NDArray[np.int32]:
        return self.relation.numbers(keys, queries)

    @property
    def rotation(self) -> Rotation | None:
        turn = self.relation.rotation
        if turn is None:
            return None
        return Rotation(turn.key_ring, turn.key_step, turn.query_ring, turn.query_step)

    @property
    def along(self) -> tuple[Along, ...] | None:
        parts = self.relation.along if self.hood.axes else None
        return parts and tuple(Along(part.count, _swapped(part.numbers)) for part in parts)

    def transpose(self) -> Relation:
        return self.relation

    def __repr__(self) -> str:
        return f"transpose of {self.relation!r}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class On(Relation, kind="relation_on"):
    """The numbers of ``relation`` on some of its edges; made by :meth:`Relation.on`."""

    relation: Relation

    @property
    def count(self) -> int:
        return self.relation.count

    @property
    def coordinates(self) -> Floats:
        return self.relation.coordinates

    def numbers(self, queries: Index, keys: Index) -> NDArray[np.int32]:
        return self.relation.numbers(queries, keys)

    @cached_property
    def rotation(self) -> Rotation | None:  # type: ignore[override]
        return common(self.hood.rotation, self.relation.rotation)

    @property
    def along(self) -> tuple[Along, ...] | None:
        # where both neighborhoods have axes they are the same, those of the grids
        return (self.relation.along or super().along) if self.hood.axes else None

    @property
    def of_one_query(self) -> bool:
        return self.relation.of_one_query

    def on(self, hood: Neighborhood) -> Relation:
        return self if hood == self.hood else self.relation.on(hood)

    def __repr__(self) -> str:
        return f"{self.relation!r}, on {self.hood!r}"
