"""Forecasting and scoring: autoregressive rollouts against truth, persistence beside them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from geoattn.grids.base import Grid


@torch.no_grad()
def rollout(model: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Forecast ``[n, steps + 1, C, *grid.shape]`` from ``start [n, C, *grid.shape]``, start included."""
    states = [start]
    for _ in range(steps):
        states.append(model(states[-1]))
    return torch.stack(states, dim=1)


def persistence(start: Tensor, steps: int) -> Tensor:
    """The forecast that nothing changes, in the shape of :func:`rollout`."""
    return start.unsqueeze(1).expand(-1, steps + 1, *start.shape[1:])


def root_mean_square_error(forecast: Tensor, truth: Tensor, grid: Grid) -> Tensor:
    """Area-weighted RMSE ``[steps + 1, C]``: squares averaged over area and cases, then the root.

    Arguments are ``[n, steps + 1, C, *grid.shape]`` in physical units.
    """
    weights = torch.tensor(grid.weights / grid.weights.sum(), dtype=torch.float64)
    squares = (forecast - truth).double().square() * weights
    return squares.flatten(3).sum(3).mean(0).sqrt()
