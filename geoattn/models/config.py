"""What defines a model: a frozen value that builds it."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod

import torch
from torch import nn

from geoattn._fields import check_fields
from geoattn._value import Value


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
