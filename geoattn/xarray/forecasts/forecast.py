"""Forecasts from store to store: a rollout that can be stopped and continued at any moment."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray
from numpy.typing import NDArray
from torch import Tensor

from geoattn._files import lock
from geoattn._version import installed
from geoattn.grids import LatLonGrid
from geoattn.grids.checks import integer
from geoattn.xarray.forecasts.forecaster import Forecaster
from geoattn.xarray.forecasts.rollout_store import RolloutStore
from geoattn.xarray.schema.dimensions import SAMPLES
from geoattn.xarray.schema.schema import ENCODING, Schema
from geoattn.xarray.schema.tensors import channel_part, to_xarray
from geoattn.xarray.schema.times import are_dates, dating
from geoattn.xarray.stores.reader import Reader


def forecast(
    checkpoint: str | os.PathLike[str] | Forecaster,
    input: Any,
    output: str | os.PathLike[str],
    *,
    steps: int,
    times: Sequence[Any] | None = None,
    members: int = 1,
    perturbation: float = 0.1,
    seed: int = 0,
    batch_size: int = 4,
    names: str = "weatherbench2",
    device: str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> xarray.Dataset:
    """Forecast from the states of a store, into a new store.

    The output has WeatherBench 2's dimensions ``time`` (the initial time), ``realization`` if there are
    several members, and ``prediction_timedelta`` from one step on, then ``level``, ``latitude`` and
    ``longitude`` in the input's order (grids without rows keep their own dimensions), with the input's
    coordinates and attributes. It takes its name when it is complete; until then it
    lies in ``<output>.unfinished``, and a run that was killed continues by ``resume``: to the same bits.

    Parameters
    ----------
    checkpoint
        File that :meth:`Forecaster.save` wrote, or a forecaster.
    input
        Path, URL or zarr store with the initial states, on the checkpoint's grid.
    output
        Path of the zarr store to write.
    steps
        Number of steps to forecast.
    times
        Initial times, ``["2020-01-01T00", …]``; the last of the input by default.
    members
        Members of the ensemble. The first starts from the state itself, the others from states
        perturbed by independent normal noise at every point.
    perturbation
        Standard deviation of that noise, in units of each channel's typical change over a step.
    seed
        Of the noise, which depends on the seed, the initial time and the member alone.
    batch_size
        Samples forecast at once.
    names
        ``"weatherbench2"``, or ``"input"`` to keep the input's names of levels, latitude and longitude.
    device
        Where to compute: ``"cpu"``, ``"cuda"``. By default where a given forecaster is; of a file, a GPU if
        there is one.
    resume
        Continue an unfinished forecast of the same request. What was written, by a finished one too, is read
        and compared with its checksums, and what is damaged or gone is made again, with a warning; a finished
        one that is sound is left as it is.
    progress
        Whether to show a progress bar.

    Returns
    -------
    The output, opened without reading it.

    Raises
    ------
    FileExistsError
        If the output, or an unfinished one, exists and ``resume`` is False.
    ValueError
        If checkpoint and input do not fit, a time is not in the input, or what exists is the forecast of
        another request.
    BlockingIOError
        If another process is making this output.
    FloatingPointError
        If the forecast leaves the finite numbers: nothing of that lead time is written.
    """
    for name, count in (("steps", steps), ("members", members), ("batch_size", batch_size)):
        if integer(name, count) < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if names not in ("weatherbench2", "input"):
        raise ValueError(f"names must be 'weatherbench2' or 'input', got {names!r}")
    if not perturbation >= 0:
        raise ValueError(f"perturbation must not be negative, got {perturbation}")
    if isinstance(checkpoint, Forecaster):
        digest, device = checkpoint.digest(), device or checkpoint.mean.device.type
        stays = checkpoint.mean.to(device) is checkpoint.mean  # not every network can be copied
        forecaster = checkpoint if stays else copy.deepcopy(checkpoint)
    else:
        forecaster = Forecaster.load(checkpoint)
        digest = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    reader = _open(forecaster.schema, input, checkpoint)
    chosen = _find_times(reader, times)
    request = {
        "checkpoint": digest,
        "input": reader.fingerprint(),
        "times": [str(reader.times[i]) for i in chosen],
        "steps": steps,
        "members": members,
        "perturbation": perturbation,
        "seed": seed,
        "batch_size": batch_size,
        "names": names,
        "device": device,
    }
    if not (resume and RolloutStore.is_finished(output, request)):
        with lock(Path(output), wait=False):
            store = RolloutStore(output, request, resume)
            rollout = _Rollout(forecaster.to(device), reader, chosen, members, perturbation, seed, device)
            standard = _standard_names(rollout.written) if names == "weatherbench2" else {}
            with _evaluating(forecaster):
                rollout.run(store, steps, batch_size, standard, progress)
    options: dict[str, Any] = {"chunks": None, "consolidated": False, "decode_timedelta": True}
    ds: xarray.Dataset = xarray.open_zarr(str(output), **options)
    return ds


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, and each part's own again afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


class _Rollout:
    """The samples of a forecast, initial times × members, and their way through the lead times."""

    def __init__(
        self,
        forecaster: Forecaster,
        reader: Reader,
        times: list[int],
        members: int,
        perturbation: float,
        seed: int,
        device: str,
    ) -> None:
        self.forecaster, self.reader, self.times, self.members = forecaster, reader, times, members
        self.perturbation, self.seed, self.device = perturbation, seed, device
        self.schema = forecaster.schema
        #: what is written: the changing variables, as computed
        self.written = dataclasses.replace(
            self.schema.changing,
            variables=tuple(
                dataclasses.replace(variable, dtype="<f4", encoding_text="{}")
                for variable in self.schema.changing.variables
            ),
        )
        self.samples = list(product(range(len(times)), range(members)))

    def run(
        self, store: RolloutStore, steps: int, batch_size: int, names: dict[str, str], progress: bool
    ) -> None:
        from tqdm import tqdm

        batches = [self.samples[i : i + batch_size] for i in range(0, len(self.samples), batch_size)]
        if not store.allocated:
            self._allocate(store, steps, batches, names)
        done = sum(store.done(b) * len(batch) for b, batch in enumerate(batches))
        whole = steps * len(self.samples)
        with tqdm(total=whole, initial=done, unit="step", disable=not progress) as bar:
            for number, batch in enumerate(batches):
                self._run_batch(store, number, batch, steps, bar)
        store.finish()

    @torch.inference_mode()
    def _run_batch(
        self, store: RolloutStore, number: int, batch: list[tuple[int, int]], steps: int, bar: Any
    ) -> None:
        reached = store.done(number)
        if reached == steps:
            return
        fields, mask = self._initial(batch)
        if reached:
            fields = self._continue(fields, store.read(number, reached))
        rollout = self.forecaster.rollout(fields, steps - reached, mask)
        for lead, fields in enumerate(rollout, reached + 1):
            self._check_finite(fields, batch, lead)
            changing = self.forecaster.changing
            ds = to_xarray(
                fields[:, changing],
                self.written,
                dims=["sample"],
                mask=None if mask is None else mask[:, changing],
            )
            store.write(number, lead, {name: ds[name].values for name in self.written.names})
            bar.update(len(batch))

    def _initial(self, batch: list[tuple[int, int]]) -> tuple[Tensor, Tensor | None]:
        """Initial states ``[B, C, *grid.shape]``, perturbed, and where they have values."""
        states, masks = [], []
        for t, member in batch:
            step = self.times[t]
            values, visible = self.reader.read(slice(step, step + 1))
            state = values[0].astype(np.float32)
            if member:
                noise = self._noise(t, member)
                if visible is not None:
                    noise = np.where(visible[0, self.forecaster.changing.cpu().numpy()], noise, 0)
                state[self.forecaster.changing.cpu().numpy()] += noise
            states.append(state)
            masks.append(visible)
        shown = None if masks[0] is None else torch.from_numpy(np.concatenate(masks)).to(self.device)  # type: ignore[arg-type]
        return torch.from_numpy(np.stack(states)).to(self.device), shown

    def _noise(self, t: int, member: int) -> NDArray[np.float32]:
        """Of the changing channels, in their units: by the initial time itself, not by its number."""
        key = hashlib.sha256(f"{self.seed} {self.reader.times[self.times[t]]} {member}".encode()).digest()
        random = np.random.default_rng(np.frombuffer(key, np.uint32))
        change = self.forecaster.change.cpu().numpy()
        shape = (len(change), *self.schema.grid.shape)
        return (self.perturbation * change * random.standard_normal(shape)).astype(np.float32)

    def _continue(self, initial: Tensor, stored: dict[str, NDArray[np.float32]]) -> Tensor:
        """The fields that were written; what is missing in them, and is static, is that of the start."""
        ds = xarray.Dataset({name: (self._dims(name), values) for name, values in stored.items()})
        shape = (len(initial), len(self.written), *self.schema.grid.shape)
        values = np.empty(shape, np.float32)
        for variable, channels in zip(self.written.variables, self.written.slices, strict=True):
            rest = [dim for dim in (variable.level_dim,) if dim]
            array = ds[variable.name].transpose("sample", *rest, *self.written.grid_dims)
            if rest:
                array = array.isel({variable.level_dim: self._level_places(variable.name)})
            part = channel_part(values, channels, self.written)
            part[...] = array.values.reshape(part.shape)
        fields = torch.from_numpy(values).to(self.device)
        changing = self.forecaster.changing
        return initial.index_copy(1, changing, torch.where(fields.isnan(), initial[:, changing], fields))

    def _dims(self, name: str) -> tuple[str, ...]:
        """The dimensions of one variable of a batch, as it is stored."""
        variable = self.written.variables[self.written.names.index(name)]
        return ("sample", *(d for d in variable.dims if d in (variable.level_dim, *self.written.grid_dims)))

    def _level_places(self, name: str) -> list[int]:
        """Where the levels of a variable lie among those of the store."""
        variable = self.written.variables[self.written.names.index(name)]
        there = _levels(self.written)[variable.level_dim]
        return [there.index(level) for level in variable.levels]

    def _allocate(
        self, store: RolloutStore, steps: int, batches: list[list[tuple[int, int]]], names: dict[str, str]
    ) -> None:
        source = self.reader.stores[0].dataset
        dim = self.reader.dim
        empty = torch.zeros(1, len(self.written), *self.schema.grid.shape)
        shown = torch.ones_like(empty, dtype=torch.bool)
        like = to_xarray(empty, self.written, source.isel({dim: slice(0, 1)}), dims=[dim], mask=shown)
        dropped = {*self.written.names, *SAMPLES, *(n for n, v in like.variables.items() if dim in v.dims)}
        coords = like.drop_vars([name for name in like.variables if name in dropped])
        for variable in coords.variables.values():  # without the chunks and the compression of the input
            variable.encoding = {k: v for k, v in variable.encoding.items() if k in ENCODING}
        step = self.forecaster.step.astype("timedelta64[ns]")
        initial = self.reader.times[self.times]
        coords = coords.assign_coords(
            time=("time", initial, {"standard_name": "forecast_reference_time", "long_name": "initial time"}),
            prediction_timedelta=(
                "prediction_timedelta",
                step * np.arange(1, steps + 1),
                {"standard_name": "forecast_period", "long_name": "time since the initial time"},
            ),
        )
        if self.members > 1:
            member = {"standard_name": "realization", "long_name": "member of the ensemble"}
            coords = coords.assign_coords(realization=("realization", np.arange(self.members), member))
        coords.attrs = {
            **like.attrs,
            "source": f"geoattn {installed()}, forecast of {steps} steps",
            "grid": repr(self.schema.grid),
        }
        lead = ("time", *(("realization",) if self.members > 1 else ()), "prediction_timedelta")
        arrays = {
            variable.name: (
                (*lead, *(names.get(d, d) for d in self._dims(variable.name)[1:])),
                like[variable.name].attrs,
            )
            for variable in self.written.variables
        }
        there = {*coords.dims, *coords.variables}
        places = [[(t, m) if self.members > 1 else (t,) for t, m in batch] for batch in batches]
        store.allocate(coords.rename({n: new for n, new in names.items() if n in there}), arrays, places)

    def _check_finite(self, fields: Tensor, batch: list[tuple[int, int]], lead: int) -> None:
        wrong = (~torch.isfinite(fields)).flatten(2).any(2).nonzero()
        if len(wrong):
            sample, channel = wrong[0].tolist()
            time = self.reader.times[self.times[batch[sample][0]]]
            raise FloatingPointError(
                f"the forecast of {self.schema.labels[channel]!r} from {time} left the finite numbers at "
                f"step {lead}: the model is unstable"
            )


def _standard_names(schema: Schema) -> dict[str, str]:
    """WeatherBench 2's names for the dimensions of levels and rows that are called otherwise."""
    levels = [dim for dim in _levels(schema) if dim]
    names = {levels[0]: "level"} if len(levels) == 1 else {}
    if isinstance(schema.grid, LatLonGrid):
        names |= dict(zip(schema.grid_dims, ("latitude", "longitude"), strict=True))
    return {name: new for name, new in names.items() if name != new}


def _levels(schema: Schema) -> dict[str, list[Any]]:
    """The levels of each level dimension, in the order in which they are written."""
    levels: dict[str, dict[Any, None]] = {}
    for variable in schema.variables:
        levels.setdefault(variable.level_dim, {}).update(dict.fromkeys(variable.levels))
    return {dim: list(found) for dim, found in levels.items()}


def _open(schema: Schema, input: Any, checkpoint: Any) -> Reader:
    """A reader of the input, once it is known to be what the checkpoint was trained on."""
    try:
        reader = Reader(input, schema)
    except ValueError as reason:
        whose = "the forecaster" if isinstance(checkpoint, Forecaster) else repr(str(checkpoint))
        raise ValueError(f"the input {str(input)!r} does not fit {whose}: {reason}") from reason
    if not are_dates(reader.times):
        raise ValueError(
            f"{reader.dim!r} of {str(input)!r} holds {reader.times.dtype}, not dates: "
            f"{dating(reader.dim, reader.times.dtype, 'ds', False)}, and save that, ds.to_zarr(path)"
        )
    return reader


def _find_times(reader: Reader, times: Sequence[Any] | None) -> list[int]:
    """Which steps of the input the initial times are."""
    if times is None:
        return [len(reader) - 1]
    if not len(times):
        raise ValueError("times is empty: give the initial times, or None for the last one")
    found: list[int] = []
    for time in times:
        places = np.flatnonzero(reader.times == _date(time, reader.times[0]))
        if not len(places):
            raise ValueError(
                f"the input has no {reader.dim} {time}: it has {len(reader)}, "
                f"{reader.times[0]} to {reader.times[-1]}"
            )
        if int(places[0]) in found:
            raise ValueError(f"initial time {time} is asked for twice")
        found.append(int(places[0]))
    return found


def _date(time: Any, like: Any) -> Any:
    """A time as the input holds it: numpy's, or one of another calendar."""
    try:
        if isinstance(like, np.datetime64):
            return np.datetime64(time, "ns")
        if isinstance(time, type(like)):
            return time
        return type(like).strptime(*_with_format(str(time)), like.calendar)
    except ValueError:
        raise ValueError(f"{time!r} is no time; write it as 2020-01-31T12") from None


def _with_format(text: str) -> tuple[str, str]:
    """A date as text, and the format that as much of it has."""
    whole = "%Y-%m-%dT%H:%M:%S"
    return text.replace(" ", "T"), whole[: {10: 8, 13: 11, 16: 14}.get(len(text), 17)]
