"""A neighborhood without some of its keys or queries."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from geoattn.neighborhoods.base import Index, Neighborhood, Rotation, Rows


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
        indptr, indices = self.hood.rows(queries)
        visible = ~self.hidden_keys[indices]
        visible &= np.repeat(~self.hidden_queries[queries], np.diff(indptr))
        kept = np.concatenate(([0], np.cumsum(visible)))
        return Rows(kept[indptr], indices[visible])

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


def hide(hood: Neighborhood, mask: NDArray[np.bool_]) -> Neighborhood:
    """The neighborhood without the keys where ``mask [*key_grid.shape]`` is True."""
    mask = np.asarray(mask)
    if mask.dtype != np.bool_ or mask.shape != hood.key_grid.shape:
        raise ValueError(
            f"mask must be bool of the key grid's shape {hood.key_grid.shape} with True where a key "
            f"is hidden, got {mask.dtype} {mask.shape}"
        )
    if not mask.any():
        return hood
    hidden_keys, hidden_queries = mask.reshape(-1), np.zeros(hood.query_grid.size, bool)
    if isinstance(hood, Restricted):
        hidden_keys, hidden_queries = hidden_keys | hood.hidden_keys, hood.hidden_queries
        hood = hood.hood
    return Restricted(hood.query_grid, hood.key_grid, hood, hidden_queries, hidden_keys)
