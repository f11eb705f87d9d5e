"""A neighborhood as one of several processes knows it: from the tokens that it sees, and no others."""

from __future__ import annotations

import dataclasses
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.latlon import LatLonGrid
from geoattn.grids.selection import Selection
from geoattn.neighborhoods.base import Neighborhood, Restricted
from geoattn.neighborhoods.curve import CurveWindow
from geoattn.neighborhoods.edges import Edges
from geoattn.neighborhoods.geodesic import Geodesic
from geoattn.neighborhoods.k_hop import KHop
from geoattn.neighborhoods.nearest import Nearest
from geoattn.neighborhoods.product import Product
from geoattn.neighborhoods.rows import Index, Rows
from geoattn.neighborhoods.selected import Selected
from geoattn.neighborhoods.transposed import Transposed
from geoattn.neighborhoods.union import Union


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Known(Neighborhood, kind="known"):
    """The rows of some queries of the whole, who are the only ones asked for; made by :func:`known`."""

    #: the same edges, on selections of points of the grids
    hood: Neighborhood

    def rows(self, queries: Index) -> Rows:
        of_queries: Any = self.hood.query_grid
        of_keys: Any = self.hood.key_grid
        places = of_queries.places(queries)
        assert (places >= 0).all()
        indptr, indices = self.hood.rows(places.astype(np.int64))
        return Rows(indptr, of_keys.tokens[indices])

    def transpose(self) -> Known:
        return Known(self.key_grid, self.query_grid, self.hood.transpose())

    def __repr__(self) -> str:
        return f"what is known of {self.hood!r}"


def known(hood: Neighborhood, queries: NDArray[np.int32], keys: NDArray[np.int32]) -> Neighborhood:
    """A neighborhood that has the rows of some queries, and keeps nothing that grows with the whole grids.

    Parameters
    ----------
    hood
        The whole. Where asking it keeps little, as with windows, it is returned itself.
    queries, keys
        Tokens in ascending order; the keys are all that these queries see, and maybe more.
    """
    of_keys = Selection(hood.key_grid, keys)
    same = hood.query_grid == hood.key_grid and np.array_equal(queries, keys)
    return _known(hood, of_keys if same else Selection(hood.query_grid, queries), of_keys)


@singledispatch
def _known(hood: Neighborhood, queries: Selection, keys: Selection) -> Neighborhood:
    return hood


@_known.register
def _(hood: Nearest, queries: Selection, keys: Selection) -> Neighborhood:
    # the nearest of all are the nearest of any that they are among, and ties stay in their order
    return Known(hood.query_grid, hood.key_grid, Nearest(queries, keys, hood.k))


@_known.register
def _(hood: Geodesic, queries: Selection, keys: Selection) -> Neighborhood:
    if isinstance(hood.query_grid, LatLonGrid) and isinstance(hood.key_grid, LatLonGrid):
        return hood  # which looks at the axes only
    return Known(hood.query_grid, hood.key_grid, Geodesic(queries, keys, hood.radius))  # type: ignore[arg-type]


@_known.register(KHop)
@_known.register(CurveWindow)
@_known.register(Transposed)
def _listed(hood: Neighborhood, queries: Selection, keys: Selection) -> Neighborhood:
    """The edges one by one, of patterns that are found by way of arrays of the whole grid."""
    rows = [rows for _, rows in Selected(queries, keys, hood).blocks()]
    counts = np.concatenate([np.zeros(1, np.int64), *(np.diff(some.indptr) for some in rows)])
    indices = np.concatenate([np.zeros(0, np.int32), *(some.indices for some in rows)])
    return Known(hood.query_grid, hood.key_grid, Edges(queries, keys, np.cumsum(counts), indices))


@_known.register
def _(hood: Restricted, queries: Selection, keys: Selection) -> Neighborhood:
    some = _known(hood.hood, queries, keys)
    if not isinstance(some, Known):
        return hood if some is hood.hood else _listed(hood, queries, keys)
    if isinstance(some.hood, Nearest):  # among the nearest are hidden keys, which are not known
        return _listed(hood, queries, keys)
    hidden = hood.hidden_queries[queries.tokens], hood.hidden_keys[keys.tokens]
    return Known(hood.query_grid, hood.key_grid, Restricted(queries, keys, some.hood, *hidden))


@_known.register
def _(hood: Union, queries: Selection, keys: Selection) -> Neighborhood:
    parts = tuple(_known(part, queries, keys) for part in hood.parts)
    return hood if parts == hood.parts else dataclasses.replace(hood, parts=parts)


@_known.register
def _(hood: Product, queries: Selection, keys: Selection) -> Neighborhood:
    along = []
    for grids, tokens in (
        ([factor.query_grid for factor in hood.factors], queries.tokens),
        ([factor.key_grid for factor in hood.factors], keys.tokens),
    ):
        places = np.unravel_index(tokens, [grid.size for grid in grids])
        along.append([np.unique(some).astype(np.int32) for some in places])
    factors = tuple(known(*some) for some in zip(hood.factors, *along, strict=True))
    return hood if factors == hood.factors else dataclasses.replace(hood, factors=factors)
