"""Means over the sphere that leave out what is not valid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from geoattn.grids import SphericalGrid
from geoattn.grids.sphere import Ints


def area_of(grid: SphericalGrid) -> Tensor:
    """Share of the sphere of each point, float64 ``[*grid.shape]``; they sum to 1."""
    return torch.tensor(grid.shares, dtype=torch.float64)


def area_mean(
    values: Tensor, valid: Tensor, area: Tensor, total: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Mean of ``values [B, *grid.shape]`` over the valid points of all samples, each weighted by its area.

    What is not valid may be NaN: it reaches neither the mean nor its gradient. Where many processes hold some
    of the points each, ``total`` adds up their sums: ``model.shards.sum``.
    """
    weight = area.to(values) * valid
    sums = torch.stack(((torch.where(valid, values, 0.0) * weight).sum(), weight.sum()))
    sums = sums if total is None else total(sums)
    return sums[0] / sums[1]


def rows_of(grid: SphericalGrid) -> Ints:
    """Row of each point, ``[*grid.shape]``, numbered from the north: points of one latitude are a row."""
    _, rows = np.unique(-np.round(grid.lat.reshape(-1), 9), return_inverse=True)
    return rows.reshape(grid.shape)
