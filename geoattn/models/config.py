"""What defines a model: a frozen value that builds it."""

from __future__ import annotations

import dataclasses
import inspect
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from geoattn._fields import check_fields
from geoattn._value import Value
from geoattn.grids import Grid
from geoattn.grids.selection import Selection


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ModelConfig(Value):
    """Base of configurations; ``to_dict()`` gives JSON types and ``from_dict()`` comes back.

    A concrete configuration names its kind and builds its model, whose ``config`` it is: what
    :meth:`geoattn.models.Model.save_pretrained` and :func:`geoattn.models.save` write, and runs keep.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> config = ga.models.TransformerConfig(grid, ga.geodesic(grid, radius=40), 1, 1)
    >>> ga.models.ModelConfig.from_dict(config.to_dict()) == config
    True
    """

    def __init_subclass__(cls, kind: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(kind, **kwargs)
        if not {"device", "dtype"} <= inspect.signature(cls.build).parameters.keys():
            raise TypeError(
                f"{cls.__qualname__}.build must take a device and a dtype, with which models are loaded: "
                "def build(self, device=None, dtype=None)"
            )

    def _check_kinds(self) -> None:
        check_fields(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={value!r}' for n, value in self._content().items())})"

    @abstractmethod
    def build(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> nn.Module:
        """A new model with random weights, on a device and of a dtype as torch's own modules."""


def config_of(model: nn.Module) -> ModelConfig:
    """The configuration that a model has.

    Raises
    ------
    TypeError
        If it has none.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        own = type(model).__name__
        found = "no configuration" if config is None else f"a {type(config).__name__} for its configuration"
        raise TypeError(
            f"{own} has {found}, without which it could not be built again. A model of geoattn.models has "
            f"one; for one of your own, class {own}Config(geoattn.models.ModelConfig, kind='…') holds what "
            f"build(self, device=None, dtype=None) needs, and {own}.__init__ sets self.config"
        )
    return config


def drop_path_of(rate: float, block: int, blocks: int) -> float:
    """Stochastic depth grows linearly to ``rate`` at the last block (Huang et al., 1603.09382)."""
    return rate * (block + 1) / blocks if blocks == 1 else rate * block / (blocks - 1)


def check_input(fields: Tensor, in_channels: int, grid: Grid) -> None:
    """Refuse fields that are not ``[B, in_channels, *grid.shape]``."""
    if not isinstance(fields, Tensor):
        raise TypeError(
            f"fields must be a tensor, got {type(fields).__name__}; make one with torch.as_tensor(…), or of "
            "an xarray object with ga.xarray.to_tensor(ds, schema)"
        )
    expected = (in_channels, *grid.shape)
    if tuple(fields.shape[1:]) != expected:
        part = isinstance(grid, Selection)
        raise ValueError(
            f"fields must have shape [B, {', '.join(map(str, expected))}] on {grid!r}, "
            f"got {list(fields.shape)}"
            + ("; of whole fields take model.shards.shard(fields)" if part else _hint(fields, expected))
        )


def _hint(fields: Tensor, expected: tuple[int, ...]) -> str:
    """The call that gives fields their shape, where they only lie in another order."""
    channels, axes, shape = expected[0], expected[1:], tuple(fields.shape)
    if shape[1:] == (*axes, channels):
        return "; channels come first: fields.movedim(-1, 1)"
    if shape == expected:
        return "; a batch of one comes before the channels: fields.unsqueeze(0)"
    if shape[1:] == axes and channels == 1:
        return "; one channel is an axis too: fields.unsqueeze(1)"
    return ""
