"""Constants of a grid inside a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Table(nn.Module):
    """A constant that follows its module to any device and dtype, and is not in its state.

    What can be derived from a grid is not stored in checkpoints. The float64 original is kept and
    cast anew after each move, so that a model turned to float64 has float64 constants; index
    tables keep their integer dtype.
    """

    values: Tensor

    def __init__(self, values: NDArray[Any]) -> None:
        super().__init__()
        self.original = torch.from_numpy(np.array(values))
        dtype = torch.get_default_dtype() if self.original.is_floating_point() else None
        self.register_buffer("values", self.original.to(dtype=dtype), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.values = self.original.to(device=self.values.device, dtype=self.values.dtype)
        return self

    def forward(self) -> Tensor:
        return self.values

    def extra_repr(self) -> str:
        return f"{tuple(self.original.shape)}"
