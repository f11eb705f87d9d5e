"""What neighborhoods hand out: indices, rows of keys, and the symmetry of their edges."""

from __future__ import annotations

from math import lcm
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


class Rows(NamedTuple):
    """Keys of some queries, compressed: row i holds ``indices[indptr[i]:indptr[i + 1]]``, ascending.

    Examples
    --------
    >>> ga.window(ga.grids.cartesian(6), 3).rows(np.array([0, 3])).indices
    array([0, 1, 2, 2, 3, 4], dtype=int32)
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]


class Rotation(NamedTuple):
    """A symmetry that maps the neighborhood onto itself by turning rings of tokens.

    Token t lies in ring ``t // ring`` at place ``t % ring``. Moving every query forward by
    ``query_step`` places in its ring and every key by ``key_step`` places in its own turns each
    edge into an edge. Longitude shifts of lat-lon grids and quarter turns of nested HEALPix have
    this form; plans use it to lay out one tile in place of many.

    Examples
    --------
    >>> ga.geodesic(ga.grids.gaussian(8, 16), radius=40).rotation
    Rotation(query_ring=16, query_step=1, key_ring=16, key_step=1)
    """

    query_ring: int
    query_step: int
    key_ring: int
    key_step: int

    def leaders(self, n_queries: int) -> Index:
        """The queries at the first step of each ring, which the turn leads to all others."""
        return (np.arange(0, n_queries, self.query_ring)[:, None] + np.arange(self.query_step)).reshape(-1)

    def turned(self, queries: Index, keys: Index, steps: int | Index = 1) -> tuple[Index, Index]:
        """Pairs of a query and a key after so many steps."""
        places, to = queries % self.query_ring, keys % self.key_ring
        return (
            queries - places + (places + steps * self.query_step) % self.query_ring,
            keys - to + (to + steps * self.key_step) % self.key_ring,
        )

    def over(self, queries: int, keys: int) -> Rotation:
        """The same turn where so many queries and keys lie at each place."""
        return Rotation(
            self.query_ring * queries, self.query_step * queries, self.key_ring * keys, self.key_step * keys
        )


def common(a: Rotation | None, b: Rotation | None) -> Rotation | None:
    """The smallest turn that is a multiple of both."""
    if a is None or b is None or (a.query_ring, a.key_ring) != (b.query_ring, b.key_ring):
        return None
    step = lcm(a.query_step, b.query_step)
    keys = [step // turn.query_step * turn.key_step % turn.key_ring for turn in (a, b)]
    if keys[0] != keys[1] or step >= a.query_ring or keys[0] == 0:
        return None
    return Rotation(a.query_ring, step, a.key_ring, keys[0])
