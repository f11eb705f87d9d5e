"""What every neighborhood is: for each query of one grid, the keys of another that it sees."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from geoattn._value import Value
from geoattn.grids.base import Grid

if TYPE_CHECKING:
    from geoattn.neighborhoods.axis import Axis

Index = NDArray[np.int64]


class Rows(NamedTuple):
    """Keys of some queries, compressed: row i holds ``indices[indptr[i]:indptr[i + 1]]``, ascending."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]


class Rotation(NamedTuple):
    """A symmetry that maps the neighborhood onto itself by turning rings of tokens.

    Token t lies in ring ``t // ring`` at place ``t % ring``. Moving every query forward by
    ``query_step`` places in its ring and every key by ``key_step`` places in its own turns each
    edge into an edge. Longitude shifts of lat-lon grids and quarter turns of nested HEALPix have
    this form; plans use it to lay out one tile in place of many.
    """

    query_ring: int
    query_step: int
    key_ring: int
    key_step: int


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Neighborhood(Value):
    """Which keys each query sees. Tokens are numbered in row-major order of their grid's shape.

    A concrete neighborhood implements :meth:`rows`; all else follows from it. Where a closed form
    is cheaper (counts, transpose) it overrides that too.
    """

    query_grid: Grid
    key_grid: Grid

    _alive: ClassVar[WeakValueDictionary[str, Neighborhood]] = WeakValueDictionary()

    def __post_init__(self) -> None:
        super().__post_init__()
        first = Neighborhood._alive.setdefault(self.digest, self)
        if first is not self:  # equal neighborhoods hold the first, so that it lives as long as any
            object.__setattr__(self, "_first", first)

    @staticmethod
    def alive(digest: str) -> Neighborhood:
        """The living neighborhood with this digest: compiled programs name neighborhoods so.

        Raises
        ------
        LookupError
            If no neighborhood of this content exists any more.
        """
        found = Neighborhood._alive.get(digest)
        if found is None:
            raise LookupError(
                f"no neighborhood with digest {digest[:12]}… is alive; keep a reference to it for as long "
                "as programs compiled for it run"
            )
        return found

    @abstractmethod
    def rows(self, queries: Index) -> Rows:
        """Keys of the given queries (flat indices, in the order given), each row ascending.

        This is the one primitive that operators, plans, pictures and tests stand on. Its cost is
        that of the edges asked for; nothing of all edges is kept.
        """

    @property
    def rotation(self) -> Rotation | None:
        """A symmetry of the edges, where the pattern knows one."""
        return None

    @property
    def axes(self) -> tuple[Axis, ...] | None:
        """The pattern along each axis of the one grid, where the neighborhood is their product."""
        return None

    def blocks(self, edges: int = 1 << 22) -> Iterator[tuple[Index, Rows]]:
        """All rows in natural order, in pieces of about ``edges`` edges: memory for one piece."""
        yield from self._pieces(np.arange(self.query_grid.size), edges)

    def _pieces(self, queries: Index, edges: int = 1 << 22) -> Iterator[tuple[Index, Rows]]:
        start, length = 0, 16
        while start < len(queries):
            piece = queries[start : start + length]
            rows = self.rows(piece)
            yield piece, rows
            start += len(piece)
            # as many queries as the last rows suggest, approached in steps: rows near a pole are long
            length = min(4 * length, max(1, edges * len(piece) // max(len(rows.indices), 1)))

    @cached_property
    def counts(self) -> Index:
        """Number of keys that each query sees, ``[*query_grid.shape]``."""
        size, turn = self.query_grid.size, self.rotation
        ring, step = (turn.query_ring, turn.query_step) if turn else (size, size)
        # the start of each ring stands for the rest of it
        queries = (np.arange(0, size, ring)[:, None] + np.arange(step)).reshape(-1)
        counts = np.concatenate([np.diff(rows.indptr) for _, rows in self._pieces(queries)])
        counts = np.tile(counts.reshape(-1, step), ring // step)
        counts.flags.writeable = False
        return counts.reshape(self.query_grid.shape)

    def to_csr(self) -> Rows:
        """All edges at once. Costs memory for every edge; prefer :meth:`blocks` on large grids."""
        return self.rows(np.arange(self.query_grid.size))

    @abstractmethod
    def transpose(self) -> Neighborhood:
        """The same edges seen from the keys: key and query grids change places."""

    def without_keys(self, mask: NDArray[np.bool_]) -> Neighborhood:
        """The same neighborhood without the keys where ``mask [*key_grid.shape]`` is True."""
        from geoattn.neighborhoods.restricted import hide

        return hide(self, mask)
