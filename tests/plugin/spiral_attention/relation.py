"""A relation."""

from __future__ import annotations

import dataclasses

import numpy as np

from geoattn.relations import Relation


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Crossing(Relation, kind="crossing"):
    """Whether the parallel of ``lat`` degrees lies between query and key."""

    lat: float

    count = 2

    def numbers(self, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        sides = (
            grid.lat.reshape(-1)[tokens] > self.lat
            for grid, tokens in ((self.hood.query_grid, queries), (self.hood.key_grid, keys))
        )
        return np.not_equal(*sides).astype(np.int32)

    def __repr__(self) -> str:
        return f"across {self.lat}° in {self.hood!r}"
