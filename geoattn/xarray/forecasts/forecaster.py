"""A network made to step the fields of a schema forward in time, in physical units."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoattn import models
from geoattn.xarray.schema.schema import Schema
from geoattn.xarray.stores.statistics import Statistics


class Forecaster(nn.Module):
    """Steps fields ``[B, C, *grid.shape]`` in physical units forward by ``step``.

    The network sees all channels of the schema, of zero mean and unit variance and 0 where a value is
    missing, and gives the changing ones a step later, in the same units. Points where no changing channel
    has a value are hidden from its attention, if it has ``takes_key_mask``. Static channels stay as they
    are. Masks stay where they are too: what was missing at first is missing in the forecast.

    Parameters
    ----------
    network
        ``[B, C, *grid.shape]`` to ``[B, C_changing, *grid.shape]``.
    statistics
        Of the data it learns from, with their schema.
    step
        The length of a step, ``numpy.timedelta64(6, "h")``.

    Raises
    ------
    ValueError
        If a channel is constant, or the network's configuration has other channels or another grid.
    """

    mean: Tensor
    deviation: Tensor
    change: Tensor
    area: Tensor
    changing: Tensor

    def __init__(self, network: nn.Module, statistics: Statistics, step: np.timedelta64) -> None:
        super().__init__()
        self.network, self.statistics = network, statistics
        self.step = np.timedelta64(step, "ns")
        if self.step <= np.timedelta64(0, "ns"):
            raise ValueError(f"a step leads forward in time, got {step}")
        schema = statistics.schema
        changing = schema.channels(schema.changing.names)
        for channel in np.flatnonzero(~(statistics.states.std > 0))[:1]:
            raise ValueError(f"channel {schema.labels[channel]!r} is constant: leave it out of the schema")
        for channel in changing:
            if not statistics.tendencies.std[channel] > 0:
                raise ValueError(
                    f"channel {schema.labels[channel]!r} never changes: leave it out of the schema"
                )
        _check_config(getattr(network, "config", None), schema, len(changing))

        def table(name: str, values: NDArray[np.float64]) -> None:
            shape = (-1, *(1 for _ in schema.grid.shape))
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).reshape(shape), False)

        table("mean", statistics.states.mean)
        table("deviation", statistics.states.std)
        table("change", statistics.tendencies.std[changing])
        area = torch.tensor(schema.grid.weights / (4.0 * np.pi), dtype=torch.float32)
        self.register_buffer("area", area, persistent=False)
        self.register_buffer("changing", torch.tensor(changing), persistent=False)

    @property
    def schema(self) -> Schema:
        """The channels of the fields."""
        return self.statistics.schema

    def forward(self, fields: Tensor, mask: Tensor | None = None) -> Tensor:
        """The fields a step later, ``[B, C, *grid.shape]``.

        ``mask``, of the same shape, is True where there is a value; where there is none the fields are
        returned as they were given.
        """
        normal = (fields - self.mean) / self.deviation
        if mask is not None:
            normal = torch.where(mask, normal, 0.0)
        options = {} if mask is None else self._hidden(mask)
        stepped = self.network(normal, **options) * self.deviation[self.changing] + self.mean[self.changing]
        if mask is not None:
            stepped = torch.where(mask[:, self.changing], stepped, fields[:, self.changing])
        return fields.index_copy(1, self.changing, stepped)

    def _hidden(self, mask: Tensor) -> dict[str, Tensor]:
        """The key mask that hides points where nothing is known, where the network takes one."""
        known = mask[:, self.changing].any(1)
        hides = getattr(self.network, "takes_key_mask", False) and not bool(known.all())
        return {"key_mask": known} if hides else {}

    def loss(
        self, inputs: Tensor, targets: Tensor, mask: Tensor | None, target_mask: Tensor | None
    ) -> Tensor:
        """Area-weighted squared error over a rollout, in units of the typical change over a step.

        A loss of 1 is about that of persistence over one step. Points without a value do not count.

        Parameters
        ----------
        inputs, mask
            ``[B, C, *grid.shape]``.
        targets, target_mask
            ``[B, steps, C_changing, *grid.shape]``: the steps that follow.
        """
        fields, losses = inputs, []
        for i, target in enumerate(targets.unbind(1)):
            fields = self(fields, mask)
            squares = ((fields[:, self.changing] - target) / self.change).square()
            seen = self.area.expand_as(squares)
            if target_mask is not None:
                seen = seen * target_mask[:, i]
            # the sum over a channel's points, divided by the area that was seen of it
            losses.append(
                ((squares * seen).flatten(2).sum(2) / seen.flatten(2).sum(2).clamp_min(1e-9)).mean()
            )
        return torch.stack(losses).mean()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write network, statistics, schema and step to one file, whole or not at all."""
        models.save(
            path,
            self.network,
            statistics=json.dumps(self.statistics.to_dict()),
            step_nanoseconds=int(self.step.astype(np.int64)),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Forecaster:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no checkpoint, or a model without the statistics of its data.
        """
        network, extra = models.load(path)
        if not {"statistics", "step_nanoseconds"} <= set(extra):
            raise ValueError(
                f"{str(path)!r} holds a model without the statistics and the time step of its data: write it "
                "by ga.xarray.Forecaster(network, statistics, step).save(path)"
            )
        statistics = Statistics.from_dict(json.loads(extra["statistics"]))
        return cls(network, statistics, np.timedelta64(extra["step_nanoseconds"], "ns")).eval()

    def extra_repr(self) -> str:
        return f"step {self.step / np.timedelta64(1, 'h'):g} h, {self.schema!r}"


def _check_config(config: Any, schema: Schema, changing: int) -> None:
    """Refuse a network for other fields, where its configuration tells."""
    wanted = {"grid": schema.grid, "in_channels": len(schema), "out_channels": changing}
    for name, value in wanted.items():
        found = getattr(config, name, value)
        if found != value:
            raise ValueError(f"the network has {name} {found!r}, but the {schema!r} needs {value!r}")
