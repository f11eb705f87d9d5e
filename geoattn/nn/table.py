"""Constants of a grid inside a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoattn.grids import Grid

if TYPE_CHECKING:
    from geoattn.parallel.shards import Shards


class Table(nn.Module):
    """A constant that follows its module to any device and dtype, and is not in its state.

    What can be derived from a grid is not stored in checkpoints. The float64 original is kept and
    cast anew after each move, so that a model turned to float64 has float64 constants; index
    tables keep their integer dtype.

    Parameters
    ----------
    values
        The constant.
    grid, axis
        Where it has one entry for each token of a grid: the grid, and the axis on which its shape begins,
        ``[…, *grid.shape, …]``. Of a model on many processes each then keeps the entries of its tokens.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> ga.nn.Table(grid.weights, grid)().shape
    torch.Size([8, 16])
    """

    values: Tensor

    def __init__(self, values: NDArray[Any], grid: Grid | None = None, axis: int = 0) -> None:
        super().__init__()
        self.grid, self.axis = grid, axis
        self.original = torch.from_numpy(np.array(values))
        dtype = torch.get_default_dtype() if self.original.is_floating_point() else None
        self.register_buffer("values", self.original.to(dtype=dtype), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        like = self.values if "values" in self._buffers else fn(self.values)
        self.values = self.original.to(device=like.device, dtype=like.dtype)
        return self

    def forward(self) -> Tensor:
        return self.values

    def replace(self, values: NDArray[Any] | Tensor) -> None:
        """Take a constant of this process alone.

        It is no buffer any more: those are made alike on all processes by ``DistributedDataParallel``.
        """
        like = self.values
        self.original = torch.as_tensor(values)
        del self.values
        self.values = self.original.to(device=like.device, dtype=like.dtype)

    def divide(self, shards: Shards) -> None:
        """Keep the entries of this process's tokens."""
        if self.grid is not None:
            flat = self.original.flatten(self.axis, self.axis + len(self.grid.shape) - 1)
            self.replace(flat.index_select(self.axis, torch.from_numpy(shards.tokens(self.grid)).long()))

    def extra_repr(self) -> str:
        return f"{tuple(self.original.shape)}"
