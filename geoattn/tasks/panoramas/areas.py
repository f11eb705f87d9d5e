"""Means over the sphere that leave out what is not valid."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from geoattn.grids import SphericalGrid
from geoattn.grids.sphere import Ints


def area_of(grid: SphericalGrid) -> Tensor:
    """Share of the sphere of each point, float64 ``[*grid.shape]``; they sum to 1."""
    return torch.tensor(grid.shares, dtype=torch.float64)


def area_mean(values: Tensor, valid: Tensor, area: Tensor) -> Tensor:
    """Mean of ``values [B, *grid.shape]`` over the valid points of all samples, each weighted by its area.

    What is not valid may be NaN: it reaches neither the mean nor its gradient.
    """
    weight = area.to(values) * valid
    return (torch.where(valid, values, 0.0) * weight).sum() / weight.sum()


def rows_of(grid: SphericalGrid) -> Ints:
    """Row of each point, ``[*grid.shape]``, numbered from the north: points of one latitude are a row."""
    _, rows = np.unique(-np.round(grid.lat.reshape(-1), 9), return_inverse=True)
    return rows.reshape(grid.shape)
