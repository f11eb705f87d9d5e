"""Whole tensors and local ones."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from geoattn.grids.base import Grid
from geoattn.parallel.cut import Cut
from geoattn.parallel.exchange import Picked, Route, pick, travel


class Order:
    """Tokens of a grid, process after process, and as they are numbered."""

    def __init__(self, cut: Cut, grid: Grid, device: torch.device) -> None:
        owner = cut.owner(grid)
        by_owner = np.argsort(owner, kind="stable")
        self.grid = grid
        self.counts: list[int] = np.bincount(owner, minlength=cut.n).tolist()
        self.by_owner = torch.as_tensor(by_owner, device=device)
        natural = np.empty_like(by_owner)
        natural[by_owner] = np.arange(grid.size)
        self.natural = torch.as_tensor(natural, device=device)


def take(x: Tensor, grid: Grid, tokens: NDArray[np.int32], axis: int) -> Tensor:
    """The tokens of ``x [B, …, *grid.shape, …]``, whose grid begins on ``axis``: ``[B, …, n, …]``."""
    shape, end = grid.shape, axis + len(grid.shape)
    if axis < 0 or x.ndim < end or tuple(x.shape[axis:end]) != shape:
        axes = ", ".join(("B", *("…" for _ in range(1, axis)), *map(str, shape)))
        raise ValueError(f"a tensor on {grid!r} is [{axes}, …], got shape {tuple(x.shape)}")
    where = torch.as_tensor(tokens, dtype=torch.int64, device=x.device)
    return x.flatten(axis, end - 1).index_select(axis, where)


def gather(x: Tensor, order: Order, group: dist.ProcessGroup, axis: int) -> Tensor:
    """The whole of local ``x [B, …, n_local, …]`` on every process, with the grid on ``axis``.

    The gradient of a local part is the sum of those that all processes have for it.
    """
    rank, counts, grid = group.rank(), order.counts, order.grid
    if not 0 <= axis < x.ndim or x.shape[axis] != counts[rank]:
        axes = ", ".join(("B", *("…" for _ in range(1, axis)), str(counts[rank])))
        raise ValueError(
            f"a local tensor on {grid!r} is [{axes}, …] on process {rank}, got shape {tuple(x.shape)}"
        )
    own = torch.arange(counts[rank], device=x.device)
    route = Route(group.group_name, [counts[rank]] * len(counts), counts)
    to_each = pick(x.movedim(axis, 1), Picked(counts[rank], (own,) * len(counts)))
    (whole,) = travel((to_each,), route)()
    return torch.unflatten(whole.index_select(1, order.natural).movedim(1, axis), axis, grid.shape)
