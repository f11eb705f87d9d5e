"""Tokens of others that a fixed map between tokens needs: patches, interpolation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoattn.parallel.exchange import pick, travel
from geoattn.parallel.partition import Partition


class Rows:
    """Fetches the keys that the queries of this process see: ``[B, n_local, …]`` to ``[B, n, …]``.

    The keys at home come first, then those of others as they arrive; :attr:`tokens` lists both.
    """

    def __init__(self, part: Partition) -> None:
        own = part.share
        self.part, self.tokens = part, np.concatenate((own.keys, own.wanted))
        self._order = np.argsort(self.tokens, kind="stable")

    def __call__(self, x: Tensor) -> Tensor:
        route = self.part.route
        if route is None:  # no process needs any
            return x
        (halo,) = travel((pick(x, self.part.places(x.device).wanted),), route)()
        return torch.cat((x, halo), 1)

    def places(self, tokens: NDArray[np.integer]) -> NDArray[np.int64]:
        """Where tokens of the whole stand among the rows."""
        return self._order[np.searchsorted(self.tokens, tokens, sorter=self._order)]
