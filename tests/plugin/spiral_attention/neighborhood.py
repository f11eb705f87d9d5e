"""A neighborhood."""

from __future__ import annotations

import dataclasses

import numpy as np

from geoattn.neighborhoods import Neighborhood, Rows


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Antipodal(Neighborhood, kind="antipodal"):
    """Each query sees the keys within ``radius`` degrees of the point opposite to it."""

    radius: float

    def rows(self, queries: np.ndarray) -> Rows:
        opposite = -self.query_grid.xyz.reshape(-1, 3)[queries]
        cosine = (opposite[:, None] * self.key_grid.xyz.reshape(-1, 3)).sum(-1)
        seen = cosine >= np.cos(np.radians(self.radius))
        return Rows(np.concatenate(([0], seen.sum(1).cumsum())), np.nonzero(seen)[1].astype(np.int32))

    def transpose(self) -> Antipodal:
        return Antipodal(self.key_grid, self.query_grid, self.radius)

    def __repr__(self) -> str:
        return f"within {self.radius}° of the antipode, from {self.query_grid!r} to {self.key_grid!r}"
