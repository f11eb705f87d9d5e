"""Products: on a grid of pairs, a query sees the pairs of what its parts see."""

from __future__ import annotations

import dataclasses
from functools import cached_property, reduce
from itertools import chain
from math import prod

import numpy as np

from geoattn import grids
from geoattn.neighborhoods.axis import Axis
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Index, Rotation, Rows


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Product(Neighborhood, kind="product"):
    """The product of neighborhoods, one per factor of the grid; made by :func:`product`."""

    factors: tuple[Neighborhood, ...]

    def rows(self, queries: Index) -> Rows:
        from geoattn.neighborhoods._kernels import outer

        parts = np.unravel_index(queries, [factor.query_grid.size for factor in self.factors])
        along_factors = [factor.rows(part) for factor, part in zip(self.factors, parts, strict=True)]
        rows = along_factors[0]
        for factor, more in zip(self.factors[1:], along_factors[1:], strict=True):
            rows = Rows(*outer(*rows, *more, factor.key_grid.size))
        return rows

    @cached_property
    def counts(self) -> Index:
        counts: Index = reduce(np.multiply.outer, [factor.counts for factor in self.factors])
        counts.flags.writeable = False
        return counts

    @cached_property
    def axes(self) -> tuple[Axis, ...] | None:
        along_factors = [factor.axes for factor in self.factors]
        found = [axes for axes in along_factors if axes is not None]
        return tuple(chain(*found)) if len(found) == len(along_factors) else None

    @property
    def rotation(self) -> Rotation | None:
        for i, factor in reversed(list(enumerate(self.factors))):
            if turn := factor.rotation:
                # a step of this factor is a step over all tokens of the factors after it
                after = self.factors[i + 1 :]
                return turn.over(prod(f.query_grid.size for f in after), prod(f.key_grid.size for f in after))
        return None

    def transpose(self) -> Product:
        factors = tuple(factor.transpose() for factor in self.factors)
        return Product(self.key_grid, self.query_grid, factors)

    def __repr__(self) -> str:
        return "product (" + ") × (".join(map(repr, self.factors)) + ")"


def product(*hoods: Neighborhood) -> Product:
    """The product of two or more neighborhoods, on the products of their grids.

    Query (i₁, i₂, …) sees key (j₁, j₂, …) where each i sees its j. The grids are
    ``grids.product`` of the query grids and of the key grids; products among the arguments are
    taken apart. ``product(window(time, 3, causal=True), geodesic(sphere, radius=5.0))`` looks
    back in time and around in space.

    Examples
    --------
    >>> time, sphere = ga.grids.cartesian(6), ga.grids.healpix(2)
    >>> ga.product(ga.window(time, 3, causal=True), ga.geodesic(sphere, radius=50)).query_grid.shape
    (6, 48)
    """
    factors: list[Neighborhood] = []
    for hood in hoods:
        if not isinstance(hood, Neighborhood):
            raise TypeError(
                f"a product is of neighborhoods, got {hood!r}; for a grid say window(grid, size), "
                "geodesic(grid, radius=…) or everything(grid)"
            )
        factors += hood.factors if isinstance(hood, Product) else (hood,)
    if len(factors) < 2:
        raise ValueError(f"a product needs at least two neighborhoods, got {factors}")
    query_grid = grids.product(*(factor.query_grid for factor in factors))
    key_grid = grids.product(*(factor.key_grid for factor in factors))
    return Product(query_grid, key_grid, tuple(factors))
