"""What every neighborhood is: for each query of one grid, the keys of another that it sees."""

from __future__ import annotations

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn._value import Named
from geoattn.grids.base import Grid, require_grid
from geoattn.neighborhoods.axis import Axis
from geoattn.neighborhoods.rows import Index, Rotation, Rows


def _of_known_queries(rows: Callable[[Any, Index], Rows]) -> Callable[[Any, Index], Rows]:
    """The same method, which refuses what is no query of its grid."""

    @functools.wraps(rows)
    def checked(self: Neighborhood, queries: Index) -> Rows:
        found, size = np.asarray(queries), self.query_grid.size
        if not found.size and found.ndim == 1:
            found = found.astype(np.int64)
        if found.dtype.kind not in "iu" or found.ndim != 1:
            raise TypeError(
                f"queries must be flat indices [n] of {self.query_grid!r}, got {found.dtype} of shape "
                f"{found.shape}; take np.flatnonzero(mask) of a mask, queries.ravel() of other indices"
            )
        if found.size and not 0 <= found.min() <= found.max() < size:
            raise ValueError(
                f"queries must lie in [0, {size}) on {self.query_grid!r}, got {found.min()} … {found.max()}"
            )
        return rows(self, found)

    return checked


def require_neighborhood(name: str, given: object) -> None:
    """Refuse what is no neighborhood, by the name the caller knows it by, with what is one.

    Raises
    ------
    TypeError
        If it is none: a grid, a class or function that makes them, a module that has one, anything else.
    """
    if isinstance(given, Neighborhood):
        return
    what = type(given).__name__
    remedy = (
        "make one with geoattn.geodesic(grid, radius=…), geoattn.window(grid, size), "
        "geoattn.everything(grid), …"
    )
    if isinstance(getattr(given, "hood", None), Neighborhood):
        remedy = f"pass the one that it works on, {name}={name}.hood"
    elif isinstance(given, Grid):
        what = f"the {given!r}"
    elif isinstance(given, (list, tuple)) and given and all(isinstance(x, Neighborhood) for x in given):
        what = f"{len(given)} neighborhoods"
        remedy = "other ones for other heads are geoattn.heads(a, b), all their keys geoattn.union(a, b)"
    elif callable(given) and getattr(given, "__module__", "").startswith("geoattn.neighborhoods"):
        what = f"the function {given.__name__}"  # type: ignore[attr-defined]
        remedy = f"call it, {remedy.removeprefix('make one with ')}"
    raise TypeError(f"{name} must be a neighborhood, got {what}; {remedy}")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Neighborhood(Named):
    """Which keys each query sees. Tokens are numbered in row-major order of their grid's shape.

    A concrete neighborhood implements :meth:`rows`; all else follows from it. Where a closed form
    is cheaper (counts, transpose) it overrides that too.

    Examples
    --------
    >>> hood = ga.geodesic(ga.grids.gaussian(8, 16), radius=40)
    >>> hood.counts.shape, hood.transpose() == hood
    ((8, 16), True)
    >>> ga.neighborhoods.Neighborhood.from_dict(hood.to_dict()) == hood
    True
    """

    query_grid: Grid
    key_grid: Grid

    def __init_subclass__(cls, kind: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(kind, **kwargs)
        if "rows" in vars(cls):
            setattr(cls, "rows", _of_known_queries(cls.rows))  # noqa: B010

    def __post_init__(self) -> None:
        require_grid("query_grid", self.query_grid)
        require_grid("key_grid", self.key_grid)
        super().__post_init__()

    @abstractmethod
    def rows(self, queries: Index) -> Rows:
        """Keys of the given queries (flat indices ``[n]``, in the order given), each row ascending.

        This is the one primitive that operators, plans, pictures and tests stand on. Its cost is
        that of the edges asked for; nothing of all edges is kept. Queries that are no flat indices are
        refused before a class's own ``rows`` sees them.
        """

    @property
    def rotation(self) -> Rotation | None:
        """A symmetry of the edges, where the pattern knows one."""
        return None

    @property
    def axes(self) -> tuple[Axis, ...] | None:
        """The pattern along each axis of the grids, where the neighborhood is their product."""
        return None

    def blocks(self, edges: int = 1 << 22, queries: Index | None = None) -> Iterator[tuple[Index, Rows]]:
        """All rows in natural order, or those of some queries, in pieces of about ``edges`` edges.

        That is the memory they take.
        """
        queries = np.arange(self.query_grid.size) if queries is None else queries
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
        # the start of each ring stands for the rest of it
        ring, step, queries = (
            (turn.query_ring, turn.query_step, turn.leaders(size)) if turn else (size, size, None)
        )
        counts = np.concatenate([np.diff(rows.indptr) for _, rows in self.blocks(queries=queries)])
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
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != self.key_grid.shape:
            raise ValueError(
                f"mask must be bool of the key grid's shape {self.key_grid.shape} with True where a key "
                f"is hidden, got {mask.dtype} {mask.shape}"
            )
        if not mask.any():
            return self
        return self._without(np.zeros(self.query_grid.size, bool), mask.reshape(-1))

    def _without(self, queries: NDArray[np.bool_], keys: NDArray[np.bool_]) -> Neighborhood:
        return Restricted(self.query_grid, self.key_grid, self, queries, keys)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Restricted(Neighborhood, kind="restricted"):
    """The edges of ``hood`` that touch no hidden token.

    A hidden query sees nothing. Hiding on both sides makes the class closed under transposition.
    """

    hood: Neighborhood
    #: bool [query_grid.size]
    hidden_queries: NDArray[np.bool_]
    #: bool [key_grid.size]
    hidden_keys: NDArray[np.bool_]

    def rows(self, queries: Index) -> Rows:
        hidden = self.hidden_queries[queries]
        indptr, indices = self.hood.rows(queries[~hidden])
        visible = ~self.hidden_keys[indices]
        kept = np.concatenate(([0], np.cumsum(visible)))[indptr]
        # hidden queries begin where the one before them ends
        return Rows(kept[np.concatenate(([0], np.cumsum(~hidden)))], indices[visible])

    @property
    def rotation(self) -> Rotation | None:
        turn = self.hood.rotation
        if turn is None:
            return None
        for hidden, ring, step in (
            (self.hidden_queries, turn.query_ring, turn.query_step),
            (self.hidden_keys, turn.key_ring, turn.key_step),
        ):
            rings = hidden.reshape(-1, ring)
            if (rings != np.roll(rings, step, axis=1)).any():
                return None
        return turn

    def _without(self, queries: NDArray[np.bool_], keys: NDArray[np.bool_]) -> Neighborhood:
        return self.hood._without(queries | self.hidden_queries, keys | self.hidden_keys)

    def transpose(self) -> Restricted:
        return Restricted(
            self.key_grid, self.query_grid, self.hood.transpose(), self.hidden_keys, self.hidden_queries
        )

    def __repr__(self) -> str:
        hidden = [
            f"{mask.sum()} {name}"
            for name, mask in (("queries", self.hidden_queries), ("keys", self.hidden_keys))
            if mask.any()
        ]
        return f"{self.hood!r} without {' and '.join(hidden) or 'any hidden token'}"
