"""Products of relations: on a grid of pairs, a number for each pair of numbers."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from itertools import chain
from math import prod

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.sphere import Floats
from geoattn.neighborhoods.product import product as product_of_hoods
from geoattn.neighborhoods.rows import Index, Rotation
from geoattn.relations.base import Along, Relation, require_room, row_major


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Product(Relation, kind="relation_product"):
    """The product of relations, one per factor of the neighborhood; made by :func:`product`."""

    factors: tuple[Relation, ...]

    @cached_property
    def count(self) -> int:  # type: ignore[override]
        return prod(factor.count for factor in self.factors)

    def numbers(self, queries: Index, keys: Index) -> NDArray[np.int32]:
        hoods = [factor.hood for factor in self.factors]
        return row_major(
            self.factors,
            np.unravel_index(queries, [hood.query_grid.size for hood in hoods]),
            np.unravel_index(keys, [hood.key_grid.size for hood in hoods]),
        )

    @cached_property
    def coordinates(self) -> Floats:  # type: ignore[override]
        numbers = np.indices([factor.count for factor in self.factors]).reshape(len(self.factors), -1)
        columns = [factor.coordinates[n] for factor, n in zip(self.factors, numbers, strict=True)]
        return np.concatenate(columns, axis=1)

    @cached_property
    def rotation(self) -> Rotation | None:  # type: ignore[override]
        for i, factor in reversed(list(enumerate(self.factors))):
            if turn := factor.rotation:
                after = [other.hood for other in self.factors[i + 1 :]]
                return turn.over(
                    prod(hood.query_grid.size for hood in after), prod(hood.key_grid.size for hood in after)
                )
        return None

    @cached_property
    def along(self) -> tuple[Along, ...] | None:  # type: ignore[override]
        parts = [factor.along for factor in self.factors]
        found = [part for part in parts if part is not None]
        return tuple(chain(*found)) if len(found) == len(parts) else None

    @property
    def of_one_query(self) -> bool:
        return all(factor.of_one_query for factor in self.factors)

    def transpose(self) -> Relation:
        return product(*(factor.transpose() for factor in self.factors))

    def __repr__(self) -> str:
        return "product (" + ") × (".join(map(repr, self.factors)) + ")"


def product(*relations: Relation) -> Product:
    """On the product of neighborhoods, the number of each pair of numbers, as (a · count of b) + b.

    ``product(offsets(window(time, 3)), angles(disc, 8))`` numbers the edges of
    ``geoattn.product(window(time, 3), disc)``. Products among the arguments are taken apart.

    Returns
    -------
    A relation on ``geoattn.product`` of the neighborhoods, whose ``coordinates`` are those of all relations
    side by side.

    Raises
    ------
    TypeError
        If an argument is no relation.
    ValueError
        If there are fewer than two, or 2³¹ numbers.

    Examples
    --------
    >>> time, space = ga.window(ga.grids.cartesian(4), 3), ga.window(ga.grids.cartesian((4, 4)), 3)
    >>> ga.relations.product(ga.relations.offsets(time), ga.relations.offsets(space)).count
    125
    """
    factors: list[Relation] = []
    for relation in relations:
        if not isinstance(relation, Relation):
            raise TypeError(
                f"a product is of relations, got {relation!r}; number the edges of a neighborhood with "
                "offsets(hood), angles(hood, bins=…), labels(hood, values) or edges(hood)"
            )
        factors += relation.factors if isinstance(relation, Product) else (relation,)
    if len(factors) < 2:
        raise ValueError(f"a product needs at least two relations, got {factors}")
    hood = product_of_hoods(*(factor.hood for factor in factors))
    return require_room(Product(hood, tuple(factors)))
