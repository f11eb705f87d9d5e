"""The transpose of a neighborhood that has no closed form for it."""

from __future__ import annotations

import dataclasses
from functools import cached_property

from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.edges import Edges
from geoattn.neighborhoods.rows import Index, Rows


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Transposed(Neighborhood, kind="transposed"):
    """The edges of ``hood`` seen from its keys. Its content is the pattern; it keeps all edges on use."""

    hood: Neighborhood

    @cached_property
    def _edges(self) -> Edges:
        return Edges(self.hood.query_grid, self.hood.key_grid, *self.hood.to_csr()).transpose()

    def rows(self, queries: Index) -> Rows:
        return self._edges.rows(queries)

    def transpose(self) -> Neighborhood:
        return self.hood

    def __repr__(self) -> str:
        return f"transpose of {self.hood!r}"
