"""Training a forecaster on a store of any grid and convention, and scoring it beside persistence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Literal

from geoattn import _extras

_extras.require("geoattn.tasks.forecast.experiment", "lightning", "xarray")

import lightning
import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn._files import lock, write_json
from geoattn.plot import curves
from geoattn.tasks.forecast.network import NetworkSettings
from geoattn.training import FitConfig, train_forecaster
from geoattn.training.processes import is_first, start
from geoattn.xarray import Forecaster, Schema, Statistics, Windows, forecast, metrics, statistics
from geoattn.xarray.schema.times import stamp
from geoattn.xarray.stores.joined import open_stores
from geoattn.xarray.stores.looking import choose
from geoattn.xarray.stores.parts import SHARES, check_apart, shared_out, steps_in
from geoattn.xarray.stores.progress import bar
from geoattn.xarray.stores.reader import Reader


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """A store, or several that follow one another in time, and the parts of it.

    Parameters
    ----------
    store
        Path or URL of a zarr store, a zip file of one, a netCDF file or file.nc/group; or a list of several
        that follow one another in time, [1979.nc,1980.nc].
    variables
        Names, or NAME=LEVEL,LEVEL for some levels, in quotes and between spaces: "t=850,500 sst". All on the
        grid, at all levels, if left out.
    masked
        Variables with missing values, NAME=static or NAME=changing, as the variables, beside those where some
        of the steps show some.
    train
        First and last time of training, 1979/2015. Where no part is given, training has the first 70 % of
        the steps, validation the next 15 %, the test the rest; a part that is left out beside others has its
        share of the steps between them.
    validation
        First and last time of validation, as of training; no step is in two parts.
    test
        First and last time of the test, as of training; no step is in two parts.
    step
        Steps of the store in one step of the forecaster.
    gaps
        What becomes of gaps in time: error refuses them, split lets no sample cross one.
    in_memory
        Whether all steps are held in memory, for data that fit.
    lat
        The coordinate of latitudes, if nothing tells.
    lon
        The coordinate of longitudes, if nothing tells.
    tolerance
        Largest accepted deviation of the grid's points, in units of its spacing; 0.001 if left out.
    use_areas
        Whether cell areas and bounds in the store give the weights.
    """

    store: list[str] | str = ""
    variables: str | None = None
    masked: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    step: int = 1
    gaps: Literal["error", "split"] = "error"
    in_memory: bool = False
    lat: str | None = None
    lon: str | None = None
    tolerance: float | None = None
    use_areas: bool = True

    @property
    def recognition(self) -> dict[str, Any]:
        """Options of the grid's recognition that were given."""
        given = {name: getattr(self, name) for name in ("lat", "lon", "tolerance")}
        found: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return found if self.use_areas else found | {"use_areas": False}

    def open(self) -> xarray.Dataset:
        """The stores as one lazy data set."""
        if not self.store:
            raise ValueError("there is no store to train on: name it, --data.store STORE")
        return open_stores(self.store)

    def schema(self, ds: xarray.Dataset) -> Schema:
        """The channels."""
        words = [None if text is None else text.split() for text in (self.variables, self.masked)]
        return choose(ds, *words, **self.recognition)

    def part(self, name: str, times: NDArray[Any], dim: str) -> slice:
        """The first and the last time of a part, of all ``times`` along ``dim``.

        Raises
        ------
        ValueError
            If two parts have steps in common, or too few are left for one that is not given.
        """
        texts = {one: text for one in SHARES if (text := getattr(self, one)) is not None}
        slices = {one: _period(one, text) for one, text in texts.items()}
        given = {one: steps_in(times, dim, period) for one, period in slices.items()}
        check_apart(given, times, texts, lambda one, first, last: f"--data.{one} {first}/{last}")
        if name in slices:
            return slices[name]
        start, stop = shared_out(given, len(times))[name]
        if stop - start < 2:
            left = f" {', '.join(f'{one} {text}' for one, text in texts.items())} leave" if texts else ""
            raise ValueError(
                f"{len(times)} steps are too few to be parted:{left} {stop - start} for {name}. Say which "
                f"are its own, --data.{name} FIRST/LAST"
            )
        return slice(times[start], times[stop - 1])


def _period(name: str, text: str) -> slice:
    first, slash, last = text.partition("/")
    if not slash:
        raise ValueError(f"{name}={text!r} is no first and last time: write them as 1979/2015")
    return slice(first or None, last or None)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole run.

    Parameters
    ----------
    unroll
        Steps of a training sample.
    pushforward
        Whether gradients go through the last of several steps alone, or through all.
    predicts
        What the network gives: the change over a step in units of the typical change, or the state.
    conserve
        Whether the area mean of every channel stays what it was.
    lead_steps
        Steps of the forecasts that are scored.
    initial_times
        From how many times of the test forecasts start, in equal distances.
    """

    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    model: NetworkSettings = dataclasses.field(default_factory=NetworkSettings)
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    unroll: int = 1
    pushforward: bool = False
    predicts: Literal["change", "state"] = "change"
    conserve: bool = False
    lead_steps: int = 8
    initial_times: int = 16

    def __post_init__(self) -> None:
        for name in ("unroll", "lead_steps", "initial_times"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def train(settings: Settings, output: Path) -> Forecaster:
    """Train, and write the run's folder; a run that was stopped goes on there."""
    data = settings.data
    start(settings.fit)
    ds = data.open()
    schema = data.schema(ds)
    if is_first():
        print(f"{schema!r}")
    whole = Reader(data.store, schema)
    parts = {name: data.part(name, whole.times, whole.dim) for name in ("train", "validation")}
    training, validation = (
        Windows(
            data.store,
            schema,
            target_steps=settings.unroll,
            step=data.step,
            times=times,
            gaps=data.gaps,
            in_memory=data.in_memory,
        )
        for times in parts.values()
    )
    if training.length is None:
        raise ValueError("the steps of the store have no one length: forecasters step by a fixed time")
    if is_first():
        print(f"training: {training!r}")
    stats = _statistics(settings, schema, parts["train"], output)
    lightning.seed_everything(settings.fit.seed, verbose=False)
    network = settings.model.config(schema.grid, len(schema), len(schema.changing)).build()
    forecaster = Forecaster(
        network, stats, training.length, predicts=settings.predicts, conserve=settings.conserve
    )
    described = dataclasses.asdict(data) | {name: _words(part) for name, part in parts.items()}
    train_forecaster(
        forecaster,
        training,
        validation,
        output,
        settings.fit,
        pushforward=settings.pushforward,
        settings={"task": "forecast", "data": described},
    )
    if is_first():
        forecaster.save(output / "model.pt")
    return forecaster


def evaluate(settings: Settings, output: Path) -> dict[str, Any]:
    """Score the model in ``output``; writes forecasts, ``evaluation.json`` and a picture beside it.

    The result has the RMSE of every channel at every lead time, and that of persistence.
    """
    data = settings.data
    ds = data.open()
    forecaster = Forecaster.load(output / "model.pt")
    schema = forecaster.schema
    whole = Reader(data.store, schema)
    start, stop = steps_in(whole.times, whole.dim, data.part("test", whole.times, whole.dim))
    part = whole.times[start:stop]
    last = len(part) - settings.lead_steps * data.step
    if last < 1:
        raise ValueError(
            f"the test has {len(part)} times, too few for forecasts of {settings.lead_steps} steps: take a "
            "longer test, or fewer --lead_steps"
        )
    starts = part[np.unique(np.linspace(0, last - 1, settings.initial_times).round().astype(int))]
    predicted = forecast(
        forecaster,
        data.store,
        output / "forecast.zarr",
        steps=settings.lead_steps,
        times=list(starts),
        batch_size=settings.fit.batch_size,
        resume=True,
        progress=sys.stderr.isatty(),
    )
    mask = "truth" if schema.masked else None
    still = metrics.persistence(predicted, ds)
    errors = {n: metrics.rmse(f, ds, mask=mask) for n, f in (("model", predicted), ("persistence", still))}
    hours = (predicted.prediction_timedelta.values / np.timedelta64(1, "h")).tolist()
    result = {
        "lead_hours": hours,
        "first_initial_time": stamp(starts[0]),
        "last_initial_time": stamp(starts[-1]),
        "initial_times": len(starts),
        "rmse": {
            label: {name: values.tolist() for name, values in of_channel.items()}
            for label, of_channel in _channels(schema, errors)
        },
    }
    write_json(result, output / "evaluation.json")
    units = dict(zip(schema.labels, (v.units for v in schema.variables for _ in range(v.size)), strict=True))
    panels = {
        f"RMSE of {label} ({units[label]})": {name: (hours, values) for name, values in errors.items()}
        for label, errors in list(result["rmse"].items())[:6]
    }
    curves(output / "errors.png", "lead time (hours)", panels)
    return result


def _channels(schema: Schema, errors: dict[str, Any]) -> Any:
    """Label of each changing channel, and its errors by name, along the lead times."""
    for variable in schema.changing.variables:
        levels = variable.levels if variable.level_dim else (None,)
        for place, label in enumerate(variable.labels):
            found = {}
            for name, ds in errors.items():
                array = ds[variable.name]
                beside = [dim for dim in array.dims if dim != "prediction_timedelta"]
                values = array.sel(dict.fromkeys(beside, levels[place]))
                found[name] = values.values
            yield label, found


def _statistics(settings: Settings, schema: Schema, times: slice, output: Path) -> Statistics:
    """Those of the training times, taken once for a folder and its settings."""
    data = settings.data
    decides = [schema.digest, _words(times), data.step, data.gaps]
    key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]
    path = output / f"statistics-{key}.zarr"
    with lock(path):  # of several processes of one run the first takes them
        if path.exists():
            return Statistics.open(path)
        with bar("block") as tell:
            return statistics(
                data.store,
                schema,
                times=times,
                lag=data.step,
                gaps=data.gaps,
                output=path,
                progress=tell,
            )


def _words(part: slice) -> list[str | None]:
    ends = (part.start, part.stop)
    return [end if end is None or isinstance(end, str) else stamp(end) for end in ends]
