"""Mean and spread of each channel over area and time, as a value that is saved and read."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import torch
import xarray
from numpy.typing import NDArray
from torch import Tensor

from geoattn import _extras
from geoattn._value import Value
from geoattn.xarray.schema.schema import Schema
from geoattn.xarray.stores.files import write_zarr
from geoattn.xarray.stores.reader import Reader
from geoattn.xarray.stores.store import DESCRIBED

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Moments(Value, kind="moments"):
    """Of each channel, ``[C]`` each, in its units; NaN where nothing was counted.

    Examples
    --------
    >>> grid = ga.grids.gaussian(4, 8)
    >>> times = np.arange("2001-01-01", "2001-01-11", dtype="datetime64[D]").astype("datetime64[ns]")
    >>> coords = ga.xarray.coordinates(grid).assign_coords(time=times)
    >>> ds = coords.assign(t=(("time", "latitude", "longitude"), np.random.default_rng(0).random((10, 4, 8))))
    >>> ga.xarray.statistics(ds, ga.xarray.Schema.of(ds)).states.count
    array([320])
    """

    mean: Floats
    std: Floats
    minimum: Floats
    maximum: Floats
    #: the largest standard deviation over the grid of any one field
    spread: Floats
    #: values counted: points times steps, less the missing ones
    count: NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Statistics(Value, kind="statistics"):
    """What :func:`ga.xarray.statistics` found; saved by :meth:`save`, read by :meth:`open`.

    Examples
    --------
    >>> grid = ga.grids.gaussian(4, 8)
    >>> times = np.arange("2001-01-01", "2001-01-11", dtype="datetime64[D]").astype("datetime64[ns]")
    >>> coords = ga.xarray.coordinates(grid).assign_coords(time=times)
    >>> ds = coords.assign(t=(("time", "latitude", "longitude"), np.random.default_rng(0).random((10, 4, 8))))
    >>> stats = ga.xarray.statistics(ds, ga.xarray.Schema.of(ds))
    >>> stats.steps, stats.lag
    (10, 1)
    """

    schema: Schema
    #: of the fields, each point weighted by its area
    states: Moments
    #: of their change over ``lag`` steps
    tendencies: Moments
    lag: int
    #: the first and the last time that were used, and how many there were
    first: str
    last: str
    steps: int
    #: digest of the stores as they were
    fingerprint: str

    def normalise(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """``values [..., C, *grid.shape]`` to zero mean and unit variance in each channel.

        Where ``mask`` is False the result is 0, the mean.

        Raises
        ------
        ValueError
            If a channel is constant: it cannot be scaled.
        """
        mean, std = self._per_channel(values)
        normal = (values - mean) / std
        return normal if mask is None else torch.where(mask, normal, 0.0)

    def denormalise(self, values: Tensor) -> Tensor:
        """The inverse of :meth:`normalise`: physical units."""
        mean, std = self._per_channel(values)
        return values * std + mean

    def select(self, schema: Schema) -> Statistics:
        """The statistics of a schema with some of the variables, such as ``schema.changing``.

        Raises
        ------
        ValueError
            If that schema is not a part of this one.
        """
        if schema == self.schema:
            return self
        if any(variable not in self.schema.variables for variable in schema.variables):
            raise ValueError(f"the statistics are those of another schema: {self.schema!r}, not {schema!r}")
        channels = [c for name in schema.names for c in self.schema.channels([name])]
        states, tendencies = (
            Moments(
                **{f.name: getattr(moments, f.name)[channels] for f in dataclasses.fields(moments) if f.init}
            )
            for moments in (self.states, self.tendencies)
        )
        return dataclasses.replace(self, schema=schema, states=states, tendencies=tendencies)

    def check(self, reader: Reader) -> None:
        """Refuse stores that have changed since the statistics were taken.

        Raises
        ------
        ValueError
            If the reader's schema is another one, or its stores have changed.
        """
        if reader.schema != self.schema:
            raise ValueError(
                f"the statistics are those of another schema: {self.schema!r}, not {reader.schema!r}. Take "
                "them again: ga.xarray.statistics(store, schema)"
            )
        known = reader.described() if self.fingerprint.startswith(DESCRIBED) else reader.fingerprint()
        if known != self.fingerprint:
            raise ValueError(
                f"the {', '.join(map(repr, reader.stores))} has changed since its statistics were taken. "
                "Take them again: ga.xarray.statistics(store, schema)"
            )

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a small zarr store, whole or not at all.

        Raises
        ------
        FileExistsError
            If there is something at ``path`` and ``overwrite`` is False.
        """
        # format 2, since format 3 does not specify text yet
        write_zarr(self.to_dataset(), path, overwrite=overwrite, zarr_format=2)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Statistics:
        """Read what :meth:`save` wrote."""
        _extras.require("a zarr store", "zarr")
        with xarray.open_zarr(path, chunks=None, consolidated=False) as ds:
            if "geoattn_statistics" not in ds.attrs:
                raise ValueError(f"{str(path)!r} holds no statistics")
            return cls.from_dict(json.loads(ds.attrs["geoattn_statistics"]))

    def to_dataset(self) -> xarray.Dataset:
        """As a Dataset with the dimension ``channel``."""
        schema = self.schema
        levels = [str(level) for v in schema.variables for level in (v.levels if v.level_dim else ("",))]
        coords = {
            "channel": list(schema.labels),
            "variable": ("channel", [v.name for v in schema.variables for _ in range(v.size)]),
            "level": ("channel", levels),
            "units": ("channel", [v.units for v in schema.variables for _ in range(v.size)]),
        }
        data = {
            prefix + field.name: ("channel", getattr(moments, field.name))
            for prefix, moments in (("state_", self.states), ("tendency_", self.tendencies))
            for field in dataclasses.fields(moments)
            if field.init
        }
        attrs = {
            "title": "area-weighted statistics of each channel",
            "tendency_lag": self.lag,
            "first_time": self.first,
            "last_time": self.last,
            "steps": self.steps,
            "fingerprint": self.fingerprint,
            "geoattn_statistics": json.dumps(self.to_dict()),
        }
        return xarray.Dataset(data, coords, attrs)

    def _per_channel(self, values: Tensor) -> tuple[Tensor, Tensor]:
        for channel in np.flatnonzero(~(self.states.std > 0))[:1]:
            raise ValueError(
                f"channel {self.schema.labels[channel]!r} has the standard deviation "
                f"{self.states.std[channel]}: it cannot be scaled. Leave it out of the schema"
            )
        shape = (-1, *(1 for _ in self.schema.grid.shape))
        mean, std = (torch.tensor(s, device=values.device) for s in (self.states.mean, self.states.std))
        return mean.to(values.dtype).reshape(shape), std.to(values.dtype).reshape(shape)

    def __repr__(self) -> str:
        return f"statistics of {self.steps} steps, {self.first} to {self.last}, of the {self.schema!r}"
