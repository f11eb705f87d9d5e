"""What defines a model: a frozen value that builds it."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod

import torch
from torch import Tensor, nn

from geoattn._fields import check_fields
from geoattn._value import Value
from geoattn.grids import Grid
from geoattn.grids.selection import Selection


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ModelConfig(Value):
    """Base of configurations; ``to_dict()`` gives JSON types and ``from_dict()`` comes back.

    A concrete configuration names its kind and builds its model, whose ``config`` it is.
    """

    def _check_kinds(self) -> None:
        check_fields(self)

    @abstractmethod
    def build(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        """A new model with random weights, on a device and of a dtype as torch's own modules."""


def check_input(fields: Tensor, in_channels: int, grid: Grid) -> None:
    """Refuse fields that are not ``[B, in_channels, *grid.shape]``."""
    expected = (in_channels, *grid.shape)
    if tuple(fields.shape[1:]) != expected:
        part = isinstance(grid, Selection)
        raise ValueError(
            f"fields must have shape [B, {', '.join(map(str, expected))}] on {grid!r}, "
            f"got {list(fields.shape)}"
            + ("; of whole fields take model.shards.shard(fields)" if part else "")
        )
