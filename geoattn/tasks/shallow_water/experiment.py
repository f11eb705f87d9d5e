"""Forecasting shallow water: data from the solver, training, autoregressive evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor, nn

import geoattn as ga
from geoattn._files import claim, write_json
from geoattn.grids import LatLonGrid
from geoattn.plot import curves, forecast_picture
from geoattn.tasks.settings import ModelSettings
from geoattn.tasks.shallow_water import CHANNELS, HOUR, ShallowWater, galewsky_jet, generate_trajectories
from geoattn.tasks.shallow_water import evaluation as scores
from geoattn.tasks.shallow_water.learning import Stepper
from geoattn.tasks.shallow_water.learning import train as train_stepper
from geoattn.tasks.shallow_water.store import read_fields, to_dataset, write_zarr
from geoattn.training import FitConfig


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Trajectories of random balanced flows on a Gaussian grid, and Galewsky's jet.

    Training, validation and test trajectories come from different seeds. The mean depth is that of
    Galewsky's case, which no model is trained on. The folder may serve many runs.
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

    @property
    def grid(self) -> LatLonGrid:
        return ga.grids.gaussian(self.nlat, self.nlon)


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


class Trajectories(NamedTuple):
    """Fields ``[n, states, 3, nlat, nlon]`` of each part."""

    training: Tensor
    validation: Tensor
    test: Tensor
    galewsky: Tensor


def trajectories(data: DataSettings) -> Trajectories:
    """Simulated once and stored as zarr in the folder, one store for each part; then read from there."""
    folder, grid, steps = Path(data.folder), data.grid, data.states - 1
    claim(folder, dataclasses.asdict(data) | {"folder": None})
    first = 0
    for part in ("training", "validation", "test"):
        count, path = getattr(data, part), folder / f"{part}.zarr"
        if not path.exists():
            print(f"Simulating {count} trajectories for {part} …", flush=True)
            fields = generate_trajectories(
                grid,
                count,
                steps,
                data.step_hours,
                data.seed,
                first=first,
                mean_depth=data.mean_depth,
                dtype=torch.float32,
            )
            _store(fields, data, path, f"random balanced flows for {part}, from number {first}")
        first += count
    path = folder / "galewsky.zarr"
    if not path.exists():
        case = galewsky_jet(grid, damping_time=4 * HOUR)
        interval = data.step_hours * HOUR
        states = case.solver.run(case.state, steps * interval, save_every=interval)
        _store(case.solver.to_fields(states).float()[None], data, path, "Galewsky's unstable jet")
    return Trajectories(*(read_fields(folder / f"{part}.zarr") for part in Trajectories._fields))


def _store(fields: Tensor, data: DataSettings, path: Path, title: str) -> None:
    attributes = {"title": title, "source": f"geoattn {ga.__version__}", "grid": repr(data.grid)}
    write_zarr(to_dataset(fields, data.grid, data.step_hours, attributes), path)


def network(settings: Settings) -> nn.Module:
    """A new network; its weights follow from the seed."""
    lightning.seed_everything(settings.fit.seed, verbose=False)
    return settings.model.config(settings.data.grid, len(CHANNELS), len(CHANNELS)).build()


def train(settings: Settings, output: Path, model: nn.Module | None = None) -> Stepper:
    """Train, and write the run's folder; ``model`` takes the place of the settings' own."""
    grid, parts = settings.data.grid, trajectories(settings.data)
    stepper = Stepper(network(settings) if model is None else model, parts.training, grid)
    train_stepper(
        stepper,
        grid,
        parts.training,
        parts.validation,
        output,
        settings.fit,
        unroll=settings.unroll,
        pushforward=settings.pushforward,
        settings={"task": "shallow-water", "data": dataclasses.asdict(settings.data)},
    )
    if model is None:
        stepper.save(output / "model.pt")
    return stepper


def evaluate(settings: Settings, output: Path) -> dict[str, Any]:
    """Score the model in ``output``; writes ``evaluation.json`` and pictures beside it."""
    grid = settings.data.grid
    config = settings.model.config(grid, len(CHANNELS), len(CHANNELS))
    stepper = Stepper.load(output / "model.pt", grid, config)
    parts = trajectories(settings.data)
    result = score(stepper, settings, parts)
    write_json(result, output / "evaluation.json")
    _draw(
        settings, output, result, parts.test, scores.rollout(stepper, parts.test[:, 0], settings.lead_steps)
    )
    return result


def score(stepper: Stepper, settings: Settings, parts: Trajectories) -> dict[str, Any]:
    """Everything that is measured, as JSON types; the lists run over lead times, the start included."""
    grid, lead = settings.data.grid, settings.lead_steps
    solver = ShallowWater(grid)
    climatology = parts.training.mean((0, 1))
    result: dict[str, Any] = {"lead_hours": [i * settings.data.step_hours for i in range(lead + 1)]}
    for case, truth in (("test", parts.test[:, : lead + 1]), ("galewsky", parts.galewsky[:, : lead + 1])):
        start = truth[:, 0]
        forecasts = {
            "model": scores.rollout(stepper, start, lead),
            "persistence": scores.persistence(start, lead),
        }
        for name, forecast in forecasts.items():
            measures = {
                "relative_l2": scores.relative_error(forecast, truth, grid),
                "rmse": scores.root_mean_square_error(forecast, truth, grid),
                "anomaly_correlation": scores.anomaly_correlation(forecast, truth, climatology, grid),
            }
            result[f"{case}_{name}"] = {
                measure: {channel: values[:, c].tolist() for c, channel in enumerate(CHANNELS)}
                for measure, values in measures.items()
            }
            if name == "model":
                drifts = scores.drift(solver, forecast)
                result[f"{case}_drift"] = {key: value.mean(0).tolist() for key, value in drifts.items()}
        spectra = {"truth": truth[:, -1], "model": forecasts["model"][:, -1]}
        result[f"{case}_energy_spectrum"] = {
            name: scores.energy_spectrum(solver, fields).mean(0).tolist() for name, fields in spectra.items()
        }
    long = scores.rollout(stepper, parts.test[:, 0], settings.long_steps)
    mean, deviation = stepper.get_buffer("mean"), stepper.get_buffer("deviation")
    result["long_steps"] = settings.long_steps
    result["stable"] = scores.is_stable(long, mean, deviation, grid)
    result["long_drift"] = {
        key: float(value[:, -1].mean()) for key, value in scores.drift(solver, long[:, [0, -1]]).items()
    }
    model, still = (result[f"test_{name}"]["rmse"] for name in ("model", "persistence"))
    result["below_persistence"] = all(
        bool((np.array(model[c][1:]) < np.array(still[c][1:])).all()) for c in CHANNELS
    )
    return result


def _draw(settings: Settings, output: Path, result: dict[str, Any], test: Tensor, forecast: Tensor) -> None:
    hours, middle = np.array(result["lead_hours"]), settings.lead_steps // 2
    growth = {name: np.array(result[f"test_{name}"]["rmse"]["depth"]) for name in ("model", "persistence")}
    fields = {"model": forecast[0, middle, 0].numpy(), "persistence": test[0, 0, 0].numpy()}
    truth = test[0, middle, 0].numpy()
    forecast_picture(
        output / "forecast.png",
        settings.data.grid,
        hours,
        middle,
        truth,
        fields,
        growth,
        "fluid depth (m)",
    )
    curves(
        output / "errors.png",
        "lead time (hours)",
        {
            f"relative L2 of {channel}": {
                name: (hours[1:], result[f"test_{name}"]["relative_l2"][channel][1:])
                for name in ("model", "persistence")
            }
            for channel in CHANNELS
        },
    )
    curves(
        output / "spectrum.png",
        "degree",
        {
            f"kinetic energy (m²/s²), {case}": {
                name: (np.arange(1, len(values)), values[1:])
                for name, values in result[f"{case}_energy_spectrum"].items()
            }
            for case in ("test", "galewsky")
        },
        logarithmic="xy",
    )
