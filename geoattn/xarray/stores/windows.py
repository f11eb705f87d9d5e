"""Windows in time of a store, as a torch data set."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from geoattn._warning import warn
from geoattn.grids.checks import integer
from geoattn.xarray.schema.schema import Schema
from geoattn.xarray.schema.times import crossing, length_of_step, segments, stamp
from geoattn.xarray.stores.reader import Masked, Reader
from geoattn.xarray.stores.statistics import Statistics
from geoattn.xarray.words import counted


class Windows(Dataset[dict[str, Tensor]]):
    """Short stretches of a store in time, for training rollouts: a map-style data set.

    Sample i is a dictionary of

    - ``input [input_steps, C, *grid.shape]`` and ``target [target_steps, C_target, *grid.shape]``,
      consecutive in time;
    - ``input_mask`` and ``target_mask``, shaped like them and True where there is a value, if the schema
      declares masks;
    - ``index``, the number i.

    A sample reads its own steps and nothing else, unless all are held in memory. Files are opened on
    first use in each process: under fork, forkserver and spawn alike, whatever the parent has read before.
    It pickles to paths and schema.

    Parameters
    ----------
    stores
        Path, URL or zarr store; or several of them that follow one another in time.
    schema
        The channels of the inputs.
    input_steps, target_steps
        Steps given, and steps after them to predict.
    step
        Steps of the store from one step of a window to the next.
    stride
        Steps of the store from the start of one window to that of the next.
    times
        First and last time to use, ``slice("1979", "2015")``: no window leaves them.
    targets
        Names of the variables to predict: by default all that change in time.
    gaps
        ``"error"`` refuses gaps in time; ``"split"`` lets no window cross them, and says how many it leaves
        out. Steps of whole calendar months, as of monthly means, are no gaps.
    normalise
        Statistics of these stores and this schema: samples are then of zero mean and unit variance,
        and 0 where a value is missing. By default samples are in physical units.
    in_memory
        Read all steps once, on first use in each process, and hold them: for data that fit.
    dtype
        Type of the samples.

    Raises
    ------
    TypeError
        If numbers of steps are no integers.
    ValueError
        If the stores do not fit the schema or the statistics, times have gaps, or hold no window.

    Examples
    --------
    >>> import tempfile
    >>> grid = ga.grids.gaussian(4, 8)
    >>> times = np.arange("2001-01-01", "2001-01-11", dtype="datetime64[D]").astype("datetime64[ns]")
    >>> coords = ga.xarray.coordinates(grid).assign_coords(time=times)
    >>> ds = coords.assign(t=(("time", "latitude", "longitude"), np.random.default_rng(0).random((10, 4, 8))))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ds.to_netcdf(path := f"{folder}/store.nc")
    ...     windows = ga.xarray.Windows(path, ga.xarray.Schema.of(ds), target_steps=2)
    ...     len(windows), windows[0]["target"].shape
    (8, torch.Size([2, 1, 4, 8]))
    """

    def __init__(
        self,
        stores: Any,
        schema: Schema,
        *,
        input_steps: int = 1,
        target_steps: int = 1,
        step: int = 1,
        stride: int = 1,
        times: slice | None = None,
        targets: list[str] | None = None,
        gaps: str = "error",
        normalise: Statistics | None = None,
        in_memory: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        counts = {"input_steps": input_steps, "step": step, "stride": stride, "target_steps": target_steps}
        for name, count in counts.items():
            if integer(name, count) < (name != "target_steps"):
                raise ValueError(f"{name} must be at least {int(name != 'target_steps')}, got {count}")
        self.reader = Reader(stores, schema, times)
        self.schema = schema
        names = schema.changing.names if targets is None else targets
        #: the channels of the targets, and which of the schema's they are
        self.target_schema = schema.select(names)
        self.target_channels = schema.channels(names)
        if normalise is not None:
            normalise.check(self.reader)
        self.statistics = normalise
        self.in_memory = in_memory
        self._held: Masked | None = None
        self.input_steps, self.target_steps, self.step, self.dtype = input_steps, target_steps, step, dtype
        span = (input_steps + target_steps - 1) * step + 1
        stretches = segments(self.reader.times, self.reader.dim, gaps)
        self._starts: NDArray[np.int64] = np.concatenate(
            [np.arange(start, max(start, stop - span + 1), stride) for start, stop in stretches]
        )
        #: windows that would cross a gap, and are left out
        self.dropped = crossing(len(self.reader), stretches, span, stride)
        if not len(self._starts):
            longest = max(stop - start for start, stop in stretches)
            raise ValueError(
                f"no window of {span} steps fits: the longest stretch without gaps has {longest} of them"
            )
        if self.dropped:
            warn(
                f"gaps='split' leaves out {counted(self.dropped, 'window')} that would cross one of "
                f"{counted(len(stretches) - 1, 'gap')}; {len(self)} remain"
            )

    def __len__(self) -> int:
        """Number of windows."""
        return len(self._starts)

    def times_of(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The times of the inputs and of the targets of a sample."""
        times = self.reader.times[self._steps(index)]
        return times[: self.input_steps], times[self.input_steps :]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        values, visible = self._read(self._steps(index))
        fields = torch.from_numpy(values)
        mask = None if visible is None else torch.from_numpy(visible)
        if self.statistics is not None:
            fields = self.statistics.normalise(fields, mask)
        fields = fields.to(self.dtype)
        sample = {"index": torch.tensor(range(len(self))[index])}
        for name, whole in (("", fields), ("_mask", mask)):
            if whole is not None:
                sample["input" + name] = whole[: self.input_steps]
                sample["target" + name] = whole[self.input_steps :, self.target_channels]
        return sample

    def part(self, tokens: NDArray[np.integer]) -> Windows:
        """The same windows of some points of the grid, flat indices: fields are ``[steps, C, points]``.

        No chunk of the stores is read that has none of them.

        Raises
        ------
        ValueError
            If samples are normalised.
        """
        if self.statistics is not None:
            raise ValueError("a part of windows is in physical units: make them with normalise=None")
        other = copy.copy(self)
        other.reader, other._held = self.reader.part(tokens), None
        return other

    @property
    def length(self) -> np.timedelta64 | None:
        """The time from one step of a window to the next; None between calendar months, and without dates."""
        return length_of_step(self.reader.times[self._steps(0)])

    def name_of(self, index: int) -> str:
        """For error messages."""
        times = self.reader.times[self._steps(index)]
        return f"the window from {stamp(times[0])} to {stamp(times[-1])}"

    def _read(self, steps: slice) -> Masked:
        if not self.in_memory:
            return self.reader.read(steps)
        if self._held is None:
            self._held = self.reader.read(slice(None))
        values, visible = self._held
        return values[steps].copy(), None if visible is None else visible[steps].copy()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}

    def _steps(self, index: int) -> slice:
        start = int(self._starts[range(len(self))[index]])  # range refuses what is out of bounds
        return slice(start, start + (self.input_steps + self.target_steps) * self.step, self.step)

    def __repr__(self) -> str:
        return (
            f"{len(self)} windows of {self.input_steps} + {self.target_steps} steps, "
            f"{stamp(self.reader.times[0])} to {stamp(self.reader.times[-1])}, of the {self.schema!r}"
        )
