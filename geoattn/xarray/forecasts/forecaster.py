"""A network made to step the fields of a schema forward in time, in physical units."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoattn import models
from geoattn.grids import Grid
from geoattn.nn import Table
from geoattn.xarray.schema.schema import Schema
from geoattn.xarray.stores.statistics import Statistics

if TYPE_CHECKING:
    from geoattn.parallel.shards import Shards


class Forecaster(nn.Module):
    """Steps fields ``[B, C, *grid.shape]`` in physical units forward by ``step``.

    The network sees all channels of the schema, of zero mean and unit variance and 0 where a value is
    missing, and gives the changing ones: as they are a step later, in the same units, or by how much they
    change, in units of the typical change. Points where no changing channel
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
    predicts
        What the network gives: ``"state"``, or ``"change"`` in units of each channel's typical change, so
        that fast and slow channels count alike.
    conserve
        Whether the area mean of each changing channel stays what it was, as mass does, and the mean
        vorticity of any flow on the sphere.
    bound_variance
        Whether the variance of each changing channel over the grid is bounded, as the conservation of
        energy and potential enstrophy bounds it: a step that would raise it above both the largest of the
        states that the statistics saw and what it was is scaled back to that, about its area mean.

    Raises
    ------
    ValueError
        If a channel is constant, ``predicts`` is something else, or the network's configuration has other
        channels or another grid.

    Examples
    --------
    >>> grid = ga.grids.gaussian(4, 8)
    >>> times = np.arange("2001-01-01", "2001-01-11", dtype="datetime64[D]").astype("datetime64[ns]")
    >>> coords = ga.xarray.coordinates(grid).assign_coords(time=times)
    >>> ds = coords.assign(t=(("time", "latitude", "longitude"), np.random.default_rng(0).random((10, 4, 8))))
    >>> stats = ga.xarray.statistics(ds, ga.xarray.Schema.of(ds))
    >>> config = ga.models.TransformerConfig(grid, ga.geodesic(grid, radius=60), 1, 1, depth=1)
    >>> forecaster = ga.xarray.Forecaster(config.build(), stats, np.timedelta64(1, "D"))
    >>> forecaster(torch.rand(2, 1, 4, 8)).shape
    torch.Size([2, 1, 4, 8])
    """

    mean: Tensor
    deviation: Tensor
    change: Tensor
    largest: Tensor
    changing: Tensor

    def __init__(
        self,
        network: nn.Module,
        statistics: Statistics,
        step: np.timedelta64,
        *,
        predicts: Literal["state", "change"] = "state",
        conserve: bool = False,
        bound_variance: bool = False,
    ) -> None:
        super().__init__()
        if predicts not in ("state", "change"):
            raise ValueError(f"a network predicts 'state' or 'change', got {predicts!r}")
        self.predicts, self.conserve, self.bound_variance = predicts, conserve, bound_variance
        self.network, self.statistics = network, statistics
        if np.datetime_data(np.timedelta64(step))[0] in "YM":
            raise ValueError(
                f"{step} are calendar months, of no one length: give the step in days, np.timedelta64(30, "
                "'D')"
            )
        self.step = np.timedelta64(step, "ns")
        if self.step <= np.timedelta64(0, "ns"):
            raise ValueError(f"a step leads forward in time, got {step}")
        schema = statistics.schema
        changing = schema.channels(schema.changing.names)
        for channel in np.flatnonzero(~(statistics.states.count > 0))[:1]:
            raise ValueError(
                f"channel {schema.labels[channel]!r} has no value anywhere in the data: leave it out of the "
                "schema"
            )
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
        table("largest", statistics.states.spread[changing])
        self._areas = Table(schema.grid.shares, schema.grid)
        self._shards: Shards | None = None
        self.register_buffer("changing", torch.tensor(changing), persistent=False)

    @property
    def schema(self) -> Schema:
        """The channels of the fields."""
        return self.statistics.schema

    @property
    def grid(self) -> Grid:
        """Where the fields live."""
        return self.schema.grid

    @property
    def area(self) -> Tensor:
        """Shares of the area, ``[*grid.shape]``; those of its points on one of many processes."""
        shares: Tensor = self._areas()
        return shares

    def divide(self, shards: Shards) -> None:
        """Step the points of one of many processes, ``[B, C, n_local]``; means are those of the whole.

        See :func:`geoattn.parallel.parallelize`.
        """
        self._shards = shards
        for name in ("mean", "deviation", "change", "largest"):
            self.register_buffer(name, getattr(self, name).reshape(-1, 1), False)

    def forward(self, fields: Tensor, mask: Tensor | None = None) -> Tensor:
        """The fields a step later, ``[B, C, *grid.shape]``.

        ``mask``, of the same shape, is True where there is a value; where there is none the fields are
        returned as they were given.
        """
        normal = (fields - self.mean) / self.deviation
        if mask is not None:
            normal = torch.where(mask, normal, 0.0)
        options = {} if mask is None else self._hidden(mask)
        given = self.network(normal, **options)
        before = fields[:, self.changing]
        seen = None if mask is None else mask[:, self.changing]
        if self.predicts == "change":
            change = given * self.change
            stepped = before + change
        else:
            stepped = given * self.deviation[self.changing] + self.mean[self.changing]
            change = stepped - before
        if self.conserve:  # by the mean of the change, which is small: that of the fields costs digits
            stepped = before + (change - self._mean(change, seen))
        if self.bound_variance:
            stepped = self._bounded(before, stepped, seen)
        if seen is not None:
            stepped = torch.where(seen, stepped, before)
        return fields.index_copy(1, self.changing, stepped)

    def rollout(self, fields: Tensor, steps: int, mask: Tensor | None = None) -> Iterator[Tensor]:
        """The fields after each of ``steps`` steps, one after the other; see :meth:`forward`."""
        for _ in range(steps):
            fields = self(fields, mask)
            yield fields

    def _mean(self, values: Tensor, seen: Tensor | None) -> Tensor:
        """Area mean ``[B, C, 1, …]`` over the points with a value."""
        if seen is None:
            return self._sum(values * self.area)
        area = self.area * seen
        total = self._sum(torch.where(seen, values, 0.0) * area)
        return total / self._sum(area).clamp_min(1e-9)

    def _sum(self, values: Tensor) -> Tensor:
        """Over all points, ``[B, C, 1, …]``, those of other processes too."""
        total = values.sum(tuple(range(2, values.ndim)), keepdim=True)
        return total if self._shards is None else self._shards.sum(total)

    def _bounded(self, before: Tensor, after: Tensor, seen: Tensor | None) -> Tensor:
        """``after``, with its spread over the grid scaled back where it passes the bound."""
        middle = self._mean(after, seen)
        spreads = []
        for values, mean in ((before, self._mean(before, seen)), (after, middle)):
            variance = self._mean((values - mean).square(), seen)
            spreads.append(variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt())
        shrink = (torch.maximum(self.largest, spreads[0]) / spreads[1]).clamp(max=1.0)
        return torch.where(shrink < 1.0, middle + shrink * (after - middle), after)

    def _hidden(self, mask: Tensor) -> dict[str, Tensor]:
        """The key mask that hides points where nothing is known, where the network takes one."""
        known = mask[:, self.changing].any(1)
        if not getattr(self.network, "takes_key_mask", False):
            return {}
        unknown = (~known).sum()
        if self._shards is not None:  # all processes make the same call
            unknown = self._shards.sum(unknown)
        return {"key_mask": known} if bool(unknown) else {}

    def loss(
        self, inputs: Tensor, targets: Tensor, mask: Tensor | None, target_mask: Tensor | None
    ) -> Tensor:
        """Area-weighted squared error over a rollout, in units of the typical change over a step.

        A loss of 1 is about that of persistence over one step. Points without a value do not count, neither
        at the start, where there is then no forecast, nor at the target; nor do channels of a sample that
        have none at a target.

        Parameters
        ----------
        inputs, mask
            ``[B, C, *grid.shape]``.
        targets, target_mask
            ``[B, steps, C_changing, *grid.shape]``: the steps that follow.
        """
        losses = []
        steps = self.rollout(inputs, targets.shape[1], mask)
        for i, (fields, target) in enumerate(zip(steps, targets.unbind(1), strict=True)):
            error = (fields[:, self.changing] - target) / self.change
            counts = torch.ones_like(error, dtype=torch.bool)
            if mask is not None:
                counts = counts & mask[:, self.changing]
            if target_mask is not None:
                counts = counts & target_mask[:, i]
            # the sum over a channel's points, divided by the area that was seen of it
            seen = self._sum(self.area * counts)
            sums = self._sum(torch.where(counts, error, 0.0).square() * self.area)
            there = seen > 0
            losses.append((sums / torch.where(there, seen, 1.0)).sum() / there.sum().clamp_min(1))
        return torch.stack(losses).mean()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write network, statistics, schema and step to one file, whole or not at all."""
        models.save(
            path,
            self.network,
            statistics=json.dumps(self.statistics.to_dict()),
            step_nanoseconds=int(self.step.astype(np.int64)),
            options=self.options,
        )

    @property
    def options(self) -> dict[str, Any]:
        """How steps are taken; they travel in the file."""
        return {name: getattr(self, name) for name in ("predicts", "conserve", "bound_variance")}

    def digest(self) -> str:
        """Changes with the weights, the statistics, the step and the options."""
        described = {
            "statistics": self.statistics.to_dict(),
            "step": int(self.step.astype(np.int64)),
            **self.options,
        }
        found = hashlib.sha256(json.dumps(described).encode())
        for name, value in self.network.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    @classmethod
    def load(cls, path: str | os.PathLike[str], config: models.ModelConfig | None = None) -> Forecaster:
        """Read what :meth:`save` wrote; the network must be the one of ``config``, where that is given.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no checkpoint, or a model without the statistics of its data.
        """
        network, extra = models.load(path, config)
        if not {"statistics", "step_nanoseconds", "options"} <= set(extra):
            raise ValueError(
                f"{str(path)!r} holds a model without the statistics and the time step of its data: write it "
                "by ga.xarray.Forecaster(network, statistics, step).save(path)"
            )
        statistics = Statistics.from_dict(json.loads(extra["statistics"]))
        step = np.timedelta64(extra["step_nanoseconds"], "ns")
        return cls(network, statistics, step, **extra["options"]).eval()

    def extra_repr(self) -> str:
        return f"step {self.step / np.timedelta64(1, 'h'):g} h, {self.schema!r}"


def _check_config(config: Any, schema: Schema, changing: int) -> None:
    """Refuse a network for other fields, where its configuration tells."""
    wanted = {"grid": schema.grid, "in_channels": len(schema), "out_channels": changing}
    for name, value in wanted.items():
        found = getattr(config, name, value)
        if found != value:
            raise ValueError(f"the network has {name} {found!r}, but the {schema!r} needs {value!r}")
