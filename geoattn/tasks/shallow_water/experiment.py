"""Forecasting shallow water: data from the solver, training, autoregressive evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from geoattn import _extras

_extras.require("geoattn.tasks.shallow_water.experiment", "lightning", "xarray")

import lightning
import numpy as np
import torch
import xarray
from torch import Tensor, nn

from geoattn._files import claim, write_json
from geoattn._version import installed
from geoattn.grids import LatLonGrid, gaussian
from geoattn.plot import curves, forecast_picture
from geoattn.tasks.settings import ModelSettings
from geoattn.tasks.shallow_water import (
    CHANNELS,
    HOUR,
    ShallowWater,
    galewsky_jet,
    generate_trajectories,
    to_dataset,
)
from geoattn.tasks.shallow_water.data import OROGRAPHY
from geoattn.tasks.shallow_water.ground import ground_height
from geoattn.training import FitConfig, train_forecaster
from geoattn.training.processes import first, is_first, start
from geoattn.xarray import Forecaster, Schema, Statistics, Windows, forecast, metrics, statistics, to_tensor
from geoattn.xarray.stores.files import write_zarr


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Trajectories of random balanced flows on a Gaussian grid, and Galewsky's jet.

    Training, validation and test trajectories come from different seeds. The mean depth is that of
    Galewsky's case, which no model is trained on; its ground is level. The folder may serve many runs.

    Parameters
    ----------
    folder
        Where the stores of the trajectories are, or are written.
    nlat, nlon
        Rows and columns of the Gaussian grid.
    training, validation, test
        Trajectories of each part.
    states
        States of a trajectory.
    step_hours
        Hours from one state to the next.
    mean_depth
        Of the fluid, in metres.
    seed
        Of the flows that trajectories start from.
    orography
        The ground, which models then see as one more channel: mountain for that of Williamson's case 5, or
        a .npy file of heights or shares of land in boxes of equal angles, as notebooks/real_data.py keeps
        them; level by default.
    orography_scale
        Metres for one unit of the file: 1 for heights, 1000 for land a kilometre high.
    """

    folder: str = "runs/shallow-water-data"
    nlat: int = 32
    nlon: int = 64
    training: int = 24
    validation: int = 2
    test: int = 6
    states: int = 25
    step_hours: float = 3.0
    mean_depth: float = 10_000.0
    seed: int = 0
    orography: str | None = None
    orography_scale: float = 1.0

    @property
    def grid(self) -> LatLonGrid:
        return gaussian(self.nlat, self.nlon)

    @property
    def ground(self) -> Tensor | None:
        """Heights in metres, as the solver has them, or None."""
        if self.orography is None:
            return None
        heights = ground_height(self.grid, self.orography, self.orography_scale)
        return ShallowWater(self.grid, orography=heights).orography

    @property
    def channels(self) -> tuple[str, ...]:
        """What a model sees; it predicts the first three."""
        return CHANNELS if self.orography is None else (*CHANNELS, OROGRAPHY)

    @property
    def step(self) -> np.timedelta64:
        """The time from one state to the next."""
        return np.timedelta64(round(self.step_hours * HOUR), "s")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole run.

    Parameters
    ----------
    unroll, pushforward
        Steps of a training sample; gradients through the last alone, or through all.
    lead_steps
        Steps of the forecasts that are scored; at most one less than the states of a trajectory.
    long_steps
        Steps of the rollout that must stay stable.
    """

    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    model: ModelSettings = dataclasses.field(
        default_factory=lambda: ModelSettings(
            dim=48, depth=3, radius=25.0, features=2, position="directional"
        )
    )
    fit: FitConfig = dataclasses.field(
        default_factory=lambda: FitConfig(steps=400, validate_every=50, learning_rate=8e-3)
    )
    unroll: int = 1
    pushforward: bool = False
    lead_steps: int = 16
    long_steps: int = 200

    def __post_init__(self) -> None:
        if self.lead_steps >= self.data.states:
            raise ValueError(
                f"lead_steps={self.lead_steps} needs trajectories of {self.lead_steps + 1} states, and "
                f"data.states is {self.data.states}"
            )


def stores(data: DataSettings) -> dict[str, Path]:
    """Part → its zarr store in the folder: ``training``, ``validation``, ``test`` and ``galewsky``.

    Simulated once; see :func:`geoattn.tasks.shallow_water.to_dataset` for what a store holds.
    """
    folder, grid, steps, ground = Path(data.folder), data.grid, data.states - 1, data.ground
    settings = dataclasses.asdict(data) | {"folder": None, "layout": "trajectories along time"}
    if data.orography is None:  # as folders that are older than these settings have them
        del settings["orography"], settings["orography_scale"]
    claim(folder, settings)
    counts = {"training": data.training, "validation": data.validation, "test": data.test}
    paths = {part: folder / f"{part}.zarr" for part in (*counts, "galewsky")}
    first = 0
    for part, count in counts.items():
        if not paths[part].exists():
            print(f"Simulating {count} trajectories for {part} …", flush=True)
            fields = generate_trajectories(
                grid,
                count,
                steps,
                data.step_hours,
                data.seed,
                first=first,
                mean_depth=data.mean_depth,
                orography=ground,
            )
            _store(fields, data, first, paths[part], ground)
        first += count
    if not paths["galewsky"].exists():
        case = galewsky_jet(grid, damping_time=4 * HOUR)
        interval = data.step_hours * HOUR
        states = case.solver.run(case.state, steps * interval, save_every=interval)
        fields = case.solver.to_fields(states).float()[None]
        _store(fields, data, 0, paths["galewsky"], None if ground is None else torch.zeros_like(ground))
    return paths


def _store(fields: Tensor, data: DataSettings, first: int, path: Path, ground: Tensor | None) -> None:
    ground = None if ground is None else ground.float()
    ds = to_dataset(fields, data.grid, data.step_hours, first=first, orography=ground)
    write_zarr(ds.assign_attrs(title="shallow water", source=f"geoattn {installed()}"), path)


def load(path: Path) -> xarray.Dataset:
    """A store, opened without reading it."""
    ds: xarray.Dataset = xarray.open_zarr(path, chunks=None, consolidated=False, decode_timedelta=True)
    return ds


@contextlib.contextmanager
def _within_trajectories() -> Iterator[None]:
    """Without being told of what would cross from one trajectory into the next: it is left out on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "gaps='split' leaves out")
        yield


def windows(path: Path, channels: Schema, steps: int = 1) -> Windows:
    """Each state of a store with the ``steps`` that follow it in its trajectory, held in memory."""
    with _within_trajectories():
        return Windows(path, channels, target_steps=steps, gaps="split", in_memory=True)


def scales(path: Path, channels: Schema) -> Statistics:
    """Means and spreads of the states of a store, and of their changes within trajectories."""
    with _within_trajectories():
        return statistics(path, channels, gaps="split")


def network(settings: Settings) -> nn.Module:
    """A new network; its weights follow from the seed."""
    lightning.seed_everything(settings.fit.seed, verbose=False)
    return settings.model.config(settings.data.grid, len(settings.data.channels), len(CHANNELS)).build()


def train(settings: Settings, output: Path, model: nn.Module | None = None) -> Forecaster:
    """Train, and write the run's folder; ``model`` takes the place of the settings' own.

    The network gives the change over a step. Forecasts keep the area mean of every channel, as the
    equations do, and the variance stays within that of the training states.
    """
    start(settings.fit)
    parts = first(lambda: stores(settings.data))
    channels = Schema.of(load(parts["training"]), settings.data.channels)
    forecaster = Forecaster(
        network(settings) if model is None else model,
        scales(parts["training"], channels),
        settings.data.step,
        predicts="change",
        conserve=True,
        bound_variance=True,
    )
    train_forecaster(
        forecaster,
        windows(parts["training"], channels, settings.unroll),
        windows(parts["validation"], channels, settings.unroll),
        output,
        settings.fit,
        pushforward=settings.pushforward,
        settings={"task": "shallow-water", "data": dataclasses.asdict(settings.data)},
    )
    if model is None and is_first():
        forecaster.save(output / "model.pt")
    return forecaster


def evaluate(settings: Settings, output: Path) -> dict[str, Any]:
    """Score the model in ``output``; writes forecasts, ``evaluation.json`` and pictures beside it."""
    config = settings.model.config(settings.data.grid, len(settings.data.channels), len(CHANNELS))
    forecaster = Forecaster.load(output / "model.pt", config)
    result = score(forecaster, settings, output)
    write_json(result, output / "evaluation.json")
    _draw(settings, output, result)
    return result


def score(forecaster: Forecaster, settings: Settings, output: Path) -> dict[str, Any]:
    """Everything that is measured, as JSON types; the lists run over lead times, from one step on.

    The forecasts are written to ``output``, and read if they are there.
    """
    lead, parts, channels = settings.lead_steps, stores(settings.data), forecaster.schema
    ground = settings.data.ground
    solvers = {
        "test": ShallowWater(settings.data.grid, orography=ground),
        "galewsky": ShallowWater(settings.data.grid),
    }
    climatology = load(parts["training"]).mean("time", keep_attrs=True)
    result: dict[str, Any] = {"lead_hours": [i * settings.data.step_hours for i in range(1, lead + 1)]}
    for case in ("test", "galewsky"):
        truth, solver = load(parts[case]).load(), solvers[case]
        times = truth.time.values[:: settings.data.states]
        predicted = forecast(
            forecaster,
            parts[case],
            output / f"forecast-{case}.zarr",
            steps=lead,
            times=times,
            batch_size=8,
            resume=True,
            progress=False,
        ).load()
        for name, fields in (("model", predicted), ("persistence", metrics.persistence(predicted, truth))):
            measures = {
                "relative_l2": metrics.relative_l2(fields, truth),
                "rmse": metrics.rmse(fields, truth),
                "anomaly_correlation": metrics.acc(fields, truth, climatology),
            }
            result[f"{case}_{name}"] = {
                measure: {channel: values[channel].values.tolist() for channel in CHANNELS}
                for measure, values in measures.items()
            }
        start, end = (
            solver.to_state(to_tensor(truth.sel(time=times + i * forecaster.step), channels.changing))
            for i in (0, lead)
        )
        states = solver.to_state(to_tensor(predicted, channels.changing))
        result[f"{case}_drift"] = _means(solver.drift(start[:, None], states))
        spectra = {"truth": end, "model": states[:, -1]}
        result[f"{case}_energy_spectrum"] = _means(
            {name: solver.energy_spectrum(state) for name, state in spectra.items()}
        )
        if case == "test":
            first = to_tensor(truth.sel(time=times), channels)
            result |= _long_run(forecaster, solver, first, settings.long_steps)
    model, still = (result[f"test_{name}"]["rmse"] for name in ("model", "persistence"))
    result["below_persistence"] = all(bool(np.less(model[c], still[c]).all()) for c in CHANNELS)
    return result


def _means(values: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: value.mean(0).tolist() for name, value in values.items()}


@torch.no_grad()
def _long_run(forecaster: Forecaster, solver: ShallowWater, start: Tensor, steps: int) -> dict[str, Any]:
    fields, stable = start, True
    for fields in forecaster.rollout(start, steps):
        stable = stable and is_possible(fields, forecaster.statistics)
    states = [solver.to_state(x[:, : len(CHANNELS)]) for x in (start, fields)]
    drift = solver.drift(*states)
    return {"long_steps": steps, "stable": stable, "long_drift": _means(drift)}


def is_possible(fields: Tensor, training: Statistics, bound: float = 2.0) -> bool:
    """Whether fields ``[n, C, *grid.shape]`` are states that a flow may reach.

    True if every number is finite, and in no channel the area-weighted root-mean-square departure from
    the mean of the training data exceeds ``bound`` times their standard deviation.
    """
    departure = training.schema.grid.mean(training.normalise(fields.double()).square()).sqrt()
    return bool((departure <= bound).all())


def _draw(settings: Settings, output: Path, result: dict[str, Any]) -> None:
    compare(output / "forecast.png", settings, {"model": output})
    curves(
        output / "errors.png",
        "lead time (hours)",
        {
            f"relative L2 of {channel}": {
                name: (result["lead_hours"], result[f"test_{name}"]["relative_l2"][channel])
                for name in ("model", "persistence")
            }
            for channel in CHANNELS
        },
    )
    curves(
        output / "spectrum.png",
        "degree",
        {
            f"kinetic energy (m²/s²) after {result['lead_hours'][-1]:g} hours, {words}": {
                name: (np.arange(1, len(values)), values[1:])
                for name, values in result[f"{case}_energy_spectrum"].items()
            }
            for case, words in (("test", "unseen trajectories"), ("galewsky", "Galewsky's jet"))
        },
        logarithmic="xy",
    )


def compare(path: Path, settings: Settings, runs: Mapping[str, Path]) -> None:
    """Draw forecasts of the first test trajectory, half-way, by several runs that are evaluated.

    ``runs`` gives their names and folders; persistence stands beside them.
    """
    found = {name: json.loads((folder / "evaluation.json").read_text()) for name, folder in runs.items()}
    predicted = {name: load(folder / "forecast-test.zarr").depth[0] for name, folder in runs.items()}
    some = next(iter(found.values()))
    truth = load(stores(settings.data)["test"]).depth
    middle = settings.lead_steps // 2
    at = {"prediction_timedelta": middle - 1}
    growth = {"persistence": some["test_persistence"]} | {name: r["test_model"] for name, r in found.items()}
    maps = {"persistence": truth[0]} | {name: field.isel(at) for name, field in predicted.items()}
    forecast_picture(
        path,
        settings.data.grid,
        [0.0, *some["lead_hours"]],
        middle,
        truth[middle],
        maps,
        # null in the file is a score that is no number
        {name: np.array([0.0, *scores["rmse"]["depth"]], float) for name, scores in growth.items()},
        "fluid depth (m)",
    )
