"""A relation among some points of its grids."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.sphere import Floats
from geoattn.neighborhoods.rows import Index
from geoattn.neighborhoods.selected import Selected as SelectedEdges
from geoattn.relations.base import Relation


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Selected(Relation, kind="relation_selected"):
    """The numbers of ``relation``, which is on all edges, on those between selected points."""

    hood: SelectedEdges
    relation: Relation

    @property
    def count(self) -> int:
        return self.relation.count

    @property
    def coordinates(self) -> Floats:
        return self.relation.coordinates

    def numbers(self, queries: Index, keys: Index) -> NDArray[np.int32]:
        of_queries, of_keys = self.hood.query_grid.tokens, self.hood.key_grid.tokens
        return self.relation.numbers(of_queries[queries].astype(np.int64), of_keys[keys].astype(np.int64))

    @property
    def of_one_query(self) -> bool:
        return self.relation.of_one_query

    def __repr__(self) -> str:
        return f"{self.relation!r}, on {self.hood!r}"
