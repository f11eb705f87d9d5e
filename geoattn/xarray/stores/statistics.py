"""Mean and spread of each channel over area and time, in one pass over stores of any size."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray
from numpy.typing import NDArray
from torch import Tensor

from geoattn._files import read_checked, write_checked
from geoattn._threads import one_ahead
from geoattn._value import Value
from geoattn.grids.checks import integer
from geoattn.xarray.schema.schema import Schema
from geoattn.xarray.schema.times import crossing, segments, stamp
from geoattn.xarray.stores.files import refuse_existing, write_zarr
from geoattn.xarray.stores.reader import Masked, Reader

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Moments(Value, kind="moments"):
    """Of each channel, ``[C]`` each, in its units; NaN where nothing was counted."""

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
    """What :func:`statistics` found; saved by :meth:`save`, read by :meth:`open`."""

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
        if reader.fingerprint() != self.fingerprint:
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


class _Sums:
    """Moments being gathered."""

    def __init__(self, channels: int) -> None:
        self.moments = np.zeros((6, channels))
        self.moments[3:5] = [[np.inf], [-np.inf]]
        self.pivot = np.zeros(channels)
        self.count = np.zeros(channels, np.int64)

    def add(
        self, values: NDArray[Any], earlier: NDArray[Any], mask: NDArray[np.bool_] | None, weights: Floats
    ) -> None:
        from geoattn.xarray.stores.moments import accumulate

        later, before = (array.reshape(*array.shape[:2], weights.size) for array in (values, earlier))
        shown = np.ones((0, 0, 0), bool) if mask is None else mask.reshape(later.shape)
        accumulate(self.moments, self.pivot, self.count, later, before, shown, weights)

    def to_bytes(self) -> bytes:
        """All that was gathered; counts below 2^53 are exact as float64."""
        return np.concatenate((self.moments, [self.pivot], [self.count])).tobytes()

    def take(self, content: bytes) -> None:
        """Go on from what :meth:`to_bytes` gave, of as many channels."""
        rows = np.frombuffer(content).reshape(8, -1)
        self.moments[:], self.pivot[:], self.count[:] = rows[:6], rows[6], rows[7]

    def result(self) -> Moments:
        found = np.where(self.count > 0, self.moments, np.nan)
        with np.errstate(invalid="ignore"):
            std = np.sqrt(found[2] / found[0])
        return Moments(found[1] + self.pivot, std, found[3], found[4], found[5], self.count)


class _Progress:
    """Sums of the blocks that are read, in a folder beside the output, so that a killed run goes on.

    A file for each variable, named by a digest of all that decides the sums, and checked when it is read.
    """

    def __init__(self, output: str | os.PathLike[str] | None, decides: list[Any]) -> None:
        self._folder = None if output is None else Path(f"{os.fspath(output)}.sums")
        self._decides = decides
        self._written: set[Path] = set()

    def _path(self, variable: str) -> Path | None:
        if self._folder is None:
            return None
        key = hashlib.sha256(json.dumps([*self._decides, variable]).encode()).hexdigest()
        return self._folder / f"{key}.part"

    def take(self, variable: str, *sums: _Sums) -> int:
        """Fill in what is there of a variable; how many of its blocks that were."""
        path = self._path(variable)
        content = None if path is None else read_checked(path, own=False)
        if path is None or content is None:
            return 0
        self._written.add(path)
        length = (len(content) - 8) // len(sums)
        for place, each in enumerate(sums):
            each.take(content[8 + place * length : 8 + (place + 1) * length])
        return int.from_bytes(content[:8], "little")

    def keep(self, variable: str, blocks: int, *sums: _Sums) -> None:
        """Note that so many blocks of a variable are summed."""
        if (path := self._path(variable)) is not None:
            self._written.add(path)
            content = blocks.to_bytes(8, "little") + b"".join(each.to_bytes() for each in sums)
            write_checked(content, path, own=False)

    def forget(self) -> None:
        """Delete the files of this run, and the folder if nothing else is in it."""
        for path in self._written:
            path.unlink(missing_ok=True)
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._folder.rmdir()


def statistics(
    stores: Any,
    schema: Schema,
    *,
    times: slice | None = None,
    lag: int = 1,
    gaps: str = "error",
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    block_bytes: int = 32 * 2**20,
) -> Statistics:
    """Mean, standard deviation and range of each channel, for states and tendencies.

    Reads every value once, a few blocks at a time. Points are weighted by the grid's areas, missing
    values count for nothing, and the standard deviation is the population's. Sums are of deviations in
    float64, so that neither a large mean nor a long series costs digits.

    Parameters
    ----------
    stores
        Path, URL or zarr store; or several of them that follow one another in time.
    schema
        The channels.
    times
        First and last time to use, ``slice("1979", "2015")``, such as the years of training.
    lag
        Steps over which tendencies are taken. Static variables have none.
    gaps
        ``"error"`` refuses gaps in time; ``"split"`` takes no tendency across them, and says how
        many it leaves out.
    output
        Where to save the result; see :meth:`Statistics.save`. The sums of the blocks read so far are
        kept beside it, in a folder of this name and ``.sums``: called again after it was stopped or
        killed, with the same arguments on unchanged stores, it goes on there, to the same bits. Not so
        for remote stores, which do not tell whether their values changed.
    overwrite
        Whether ``output`` may be replaced.
    block_bytes
        About how much is read at once; two blocks are held.

    Raises
    ------
    FileExistsError
        If ``output`` exists, before anything is read.
    ValueError
        If the stores do not fit the schema, times have gaps, or values are missing without a mask.
    """
    if integer("lag", lag) < 1:
        raise ValueError(f"lag must be at least one step, got {lag}")
    if output is not None:
        refuse_existing(output, overwrite)
    reader = Reader(stores, schema, times)
    fingerprint = reader.fingerprint()  # of the state before: a change while reading is noticed later
    segment = np.zeros(len(reader), np.int64)
    stretches = segments(reader.times, reader.dim, gaps)
    for start, _ in stretches[1:]:
        segment[start:] += 1
    if dropped := crossing(len(reader), stretches, lag + 1):
        warnings.warn(
            f"gaps='split' leaves out {dropped} changes that would cross one of {len(stretches) - 1} gaps; "
            f"{max(0, len(reader) - lag - dropped)} remain",
            stacklevel=2,
        )
    span = [stamp(reader.times[0]), stamp(reader.times[-1]), len(reader)]
    begins = [start for start, _ in stretches]
    progress = _Progress(
        output if all(store.local for store in reader.stores) else None,
        [version("geoattn"), fingerprint, schema.digest, span, begins, lag, block_bytes],
    )
    both = [_of_variable(reader.select([name]), segment, lag, block_bytes, progress) for name in schema.names]
    states, tendencies = (
        Moments(*(np.concatenate(arrays) for arrays in zip(*map(_arrays, moments), strict=True)))
        for moments in zip(*both, strict=True)
    )
    result = Statistics(
        schema=schema,
        states=states,
        tendencies=tendencies,
        lag=lag,
        first=stamp(reader.times[0]),
        last=stamp(reader.times[-1]),
        steps=len(reader),
        fingerprint=fingerprint,
    )
    if output is not None:
        result.save(output, overwrite=overwrite)
        progress.forget()
    return result


def _arrays(moments: Moments) -> list[NDArray[Any]]:
    return [getattr(moments, field.name) for field in dataclasses.fields(moments) if field.init]


def _of_variable(
    reader: Reader, segment: NDArray[np.int64], lag: int, block_bytes: int, progress: _Progress
) -> tuple[Moments, Moments]:
    """States and tendencies of the one variable that the reader reads."""
    (variable,) = reader.schema.variables
    weights = np.ascontiguousarray(reader.schema.grid.weights, dtype=np.float64).ravel()
    states, tendencies = _Sums(variable.size), _Sums(variable.size)
    nothing = np.empty((0, 0, weights.size), reader.dtype)
    if variable.static:
        values, mask = reader.read(slice(0, 1))
        states.add(values, nothing, mask, weights)
        return states.result(), tendencies.result()
    blocks = list(reader.blocks(block_bytes))
    done = progress.take(variable.name, states, tendencies)
    if done == len(blocks):
        return states.result(), tendencies.result()
    held: Masked | None = None  # the last steps of the block before
    if done:
        held = reader.read(slice(max(0, blocks[done].start - lag), blocks[done].start))
    with one_ahead(map(reader.read, blocks[done:])) as contents:
        for number, (values, mask) in enumerate(contents, done):
            block = blocks[number]
            states.add(values, nothing, mask, weights)
            if held is not None:
                values = np.concatenate((held[0], values))
                mask = None if mask is None or held[1] is None else np.concatenate((held[1], mask))
            first = block.stop - len(values)
            inside = segment[first + lag : block.stop] == segment[first : max(first, block.stop - lag)]
            both = None if mask is None else (mask[lag:] & mask[:-lag])[inside]
            tendencies.add(values[lag:][inside], values[:-lag][inside], both, weights)
            held = values[-lag:], None if mask is None else mask[-lag:]
            progress.keep(variable.name, number + 1, states, tendencies)
    return states.result(), tendencies.result()
