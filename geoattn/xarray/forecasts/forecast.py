"""Forecasts from store to store: a rollout that can be stopped and continued at any moment."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import xarray
from torch.distributed.device_mesh import DeviceMesh

from geoattn._files import lock
from geoattn.grids import LatLonGrid
from geoattn.grids.checks import integer
from geoattn.xarray.forecasts.forecaster import Forecaster
from geoattn.xarray.forecasts.regions import Team, started
from geoattn.xarray.forecasts.rollout import Rollout, levels_of
from geoattn.xarray.forecasts.rollout_store import RolloutStore
from geoattn.xarray.schema.schema import Schema
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
    domain: dist.ProcessGroup | DeviceMesh | None = None,
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
    domain
        Processes that divide each field among them, a group or ``mesh["domain"]``; all make the call. Each
        reads its points of the input and writes a band of rows of the one output, which has a chunk for each
        of them. A program that torchrun started and that has no process group is one of all its processes.

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

    Examples
    --------
    >>> import tempfile
    >>> grid = ga.grids.gaussian(4, 8)
    >>> times = np.arange("2001-01-01", "2001-01-11", dtype="datetime64[D]").astype("datetime64[ns]")
    >>> coords = ga.xarray.coordinates(grid).assign_coords(time=times)
    >>> ds = coords.assign(t=(("time", "latitude", "longitude"), np.random.default_rng(0).random((10, 4, 8))))
    >>> stats = ga.xarray.statistics(ds, ga.xarray.Schema.of(ds))
    >>> config = ga.models.TransformerConfig(grid, ga.geodesic(grid, radius=60), 1, 1, depth=1)
    >>> forecaster = ga.xarray.Forecaster(config.build(), stats, np.timedelta64(1, "D"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ds.to_netcdf(path := f"{folder}/store.nc")
    ...     found = ga.xarray.forecast(forecaster, path, f"{folder}/forecast.zarr", steps=2, progress=False)
    ...     found.t.sizes["prediction_timedelta"]
    2
    """
    for name, count in (("steps", steps), ("members", members), ("batch_size", batch_size)):
        if integer(name, count) < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if names not in ("weatherbench2", "input"):
        raise ValueError(f"names must be 'weatherbench2' or 'input', got {names!r}")
    if not 0 <= perturbation < math.inf:
        raise ValueError(f"perturbation must be finite and not negative, got {perturbation}")
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
    with started(domain, device) as group:
        team = Team.of(forecaster, group, request)
        if team.first(lambda: resume and RolloutStore.is_finished(output, request)):
            return _opened(output)
        with contextlib.ExitStack() as held:
            team.first(lambda: _enter(held, lock(Path(output), wait=False)))
            record = team.first(lambda: RolloutStore(output, request, resume).record)
            store = RolloutStore.of(output, request, record)
            reader = reader if team.shards is None else reader.part(team.shards.tokens())
            rollout = Rollout(
                team.forecaster.to(device), reader, chosen, members, perturbation, seed, device, team
            )
            standard = _standard_names(rollout.written) if names == "weatherbench2" else {}
            with _evaluating(team.forecaster):
                rollout.run(store, steps, batch_size, standard, progress and team.is_first)
    return _opened(output)


def _enter(held: contextlib.ExitStack, context: contextlib.AbstractContextManager[None]) -> None:
    held.enter_context(context)


def _opened(output: str | os.PathLike[str]) -> xarray.Dataset:
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


def _standard_names(schema: Schema) -> dict[str, str]:
    """WeatherBench 2's names for the dimensions of levels and rows that are called otherwise."""
    levels = [dim for dim in levels_of(schema) if dim]
    names = {levels[0]: "level"} if len(levels) == 1 else {}
    if isinstance(schema.grid, LatLonGrid):
        names |= dict(zip(schema.grid_dims, ("latitude", "longitude"), strict=True))
    return {name: new for name, new in names.items() if name != new}


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
