"""Log-weights of grids, as backends add them to scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from geoattn.backends.resident import Resident, uploaded
from geoattn.grids.base import Grid

_log_weights: Resident[Tensor] = Resident(max_bytes=2**28, size=lambda x: x.nbytes)


def log_weights(grid: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Logarithm of the grid's quadrature weights ``[1, size]``; −inf where a weight is zero.

    A call gets the very tensor that an earlier one got, by which a backend knows that nothing else is added.
    """

    def prepare() -> Callable[[], Tensor]:
        with np.errstate(divide="ignore"):
            values = np.log(np.asarray(grid.weights, dtype=np.float64).reshape(1, -1))
        return lambda: uploaded(values, device, dtype)

    return _log_weights.of(grid, device, prepare, dtype)
