"""Forecasting and scoring: autoregressive rollouts against truth, persistence beside them.

Forecasts and truths are ``[n, steps + 1, C, *grid.shape]`` in physical units.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from geoattn.grids.base import Grid
from geoattn.tasks.shallow_water.solver import ShallowWater


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
    """Area-weighted RMSE ``[steps + 1, C]``: squares averaged over area and cases, then the root."""
    return _mean((forecast - truth).double().square(), grid).mean(0).sqrt()


def relative_error(forecast: Tensor, truth: Tensor, grid: Grid) -> Tensor:
    """Relative L2 error ``[steps + 1, C]``: ‖forecast − truth‖ / ‖truth‖ over the sphere, mean over cases."""
    error, size = (_mean(x.double().square(), grid).sqrt() for x in (forecast - truth, truth))
    return (error / size).mean(0)


def anomaly_correlation(forecast: Tensor, truth: Tensor, climatology: Tensor, grid: Grid) -> Tensor:
    """Area-weighted correlation ``[steps + 1, C]`` of the departures from ``climatology [C, *grid.shape]``.

    Not centred: ⟨f', t'⟩ / (‖f'‖ ‖t'‖), mean over cases.
    """
    anomalies = [(x - climatology).double() for x in (forecast, truth)]
    sizes = [_mean(x.square(), grid).sqrt() for x in anomalies]
    return (_mean(anomalies[0] * anomalies[1], grid) / (sizes[0] * sizes[1])).mean(0)


def energy_spectrum(solver: ShallowWater, fields: Tensor) -> Tensor:
    """Kinetic energy of each degree, ``[..., T + 1]`` in m²/s², of ``fields [..., 3, nlat, nlon]``.

    Summed over degrees, the mean of |V|²/2 over the sphere: E_l = a² / (2 l(l+1)) · Σ_m (|ζ_lm|² +
    |δ_lm|²) / 4π, orders −m counted with m. The harmonics are torch-harmonics'.
    """
    state = solver.to_state(fields)[..., 1:, :, :]
    orders = torch.full((state.shape[-1],), 2.0, dtype=solver.dtype, device=state.device)
    orders[0] = 1.0
    power = (state.abs().square() * orders).sum((-3, -1)) / (4 * math.pi)
    return -0.5 * solver.inverse_laplacian[:, 0] * power


def drift(solver: ShallowWater, forecast: Tensor) -> dict[str, Tensor]:
    """Relative change ``[n, steps + 1]`` of mass, energy and potential enstrophy since the start."""
    values = solver.invariants(solver.to_state(forecast))
    return {name: value / value[:, :1] - 1.0 for name, value in values.items()}


def is_stable(forecast: Tensor, mean: Tensor, deviation: Tensor, grid: Grid, bound: float = 2.0) -> bool:
    """Whether a long rollout stays among possible states.

    True if every number is finite, and at no time and in no channel the area-weighted root-mean-square
    departure from ``mean [C, 1, …]`` exceeds ``bound`` times ``deviation``, those of the training data.
    """
    departure = _mean(((forecast - mean) / deviation).double().square(), grid).sqrt()
    return bool(torch.isfinite(forecast).all()) and bool((departure <= bound).all())


def _mean(values: Tensor, grid: Grid) -> Tensor:
    """Area-weighted mean over the grid of ``[n, steps + 1, C, *grid.shape]``."""
    mean: Tensor = grid.mean(values)
    return mean
