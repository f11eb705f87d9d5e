"""Tokens of others that a fixed map between tokens needs: patches, interpolation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoattn.parallel.exchange import Picked, pick, travel
from geoattn.parallel.partition import Partition


class Rows:
    """Fetches the keys that the queries of this process see: ``[B, n_local, …]`` to ``[B, n, …]``.

    The keys at home come first, then those of others as they arrive; :attr:`tokens` lists both.
    """

    def __init__(self, part: Partition) -> None:
        own = part.share
        self.tokens, self.route = np.concatenate((own.keys, own.wanted)), part.route
        self._order = np.argsort(self.tokens, kind="stable")
        #: what others need, by their places among the keys at home
        self._wanted = [np.searchsorted(own.keys, tokens) for tokens in part.wanted_here]
        self._size, self._picked = len(own.keys), dict[torch.device, Picked]()

    def __call__(self, x: Tensor) -> Tensor:
        if self.route is None:  # no process needs any
            return x
        if x.device not in self._picked:
            places = tuple(torch.as_tensor(some, device=x.device) for some in self._wanted)
            self._picked[x.device] = Picked(self._size, places)
        (halo,) = travel((pick(x, self._picked[x.device]),), self.route)()
        return torch.cat((x, halo), 1)

    def places(self, tokens: NDArray[np.integer]) -> NDArray[np.int64]:
        """Where tokens of the whole stand among the rows."""
        return self._order[np.searchsorted(self.tokens, tokens, sorter=self._order)]
