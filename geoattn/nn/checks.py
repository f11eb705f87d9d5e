"""Checks that the modules share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from geoattn.backends.base import is_computed
from geoattn.grids import Grid


def check_tokens(name: str, x: Any, grid: Grid, dim: int) -> None:
    """Refuse tokens that are not ``[B, *grid.shape, dim]``."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name} must be a tensor, got {type(x).__name__}; make one with torch.as_tensor(…), or of an "
            "xarray object with ga.xarray.to_tensor(ds, schema)"
        )
    if not is_computed(x.dtype):
        raise TypeError(
            f"{name} must be floating point of 16 to 64 bits, got {x.dtype}; convert it with {name}.float()"
        )
    if tuple(x.shape[1:]) != (*grid.shape, dim):
        expected = ", ".join(map(str, ("B", *grid.shape, dim)))
        raise ValueError(
            f"{name} must have shape [{expected}] on {grid!r}, got {list(x.shape)}{_hint(name, x, grid, dim)}"
        )


def _hint(name: str, x: Tensor, grid: Grid, dim: int) -> str:
    """The call that gives tokens their shape, where they only lie in another order."""
    if tuple(x.shape[1:]) == (dim, *grid.shape):
        return f"; channels come last: {name}.movedim(1, -1)"
    if tuple(x.shape[1:]) == (grid.size, dim):
        return f"; tokens lie on the axes of the grid: {name}.unflatten(1, {grid.shape})"
    if tuple(x.shape) == (*grid.shape, dim):
        return f"; a batch of one comes first: {name}.unsqueeze(0)"
    if x.ndim > 2 and x.shape[-1] == dim and tuple(x.shape[1:-1]) != grid.shape:
        return "; a module attends on the grid of its neighborhood, which for patches is embed.coarse_grid"
    return ""


def check_rate(name: str, rate: Any) -> None:
    """Refuse what is no probability."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 <= rate <= 1.0:
        raise ValueError(f"{name} must be a number from 0 to 1, got {rate!r}")
