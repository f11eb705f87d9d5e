"""One cell of the ablation: what is trained, on which data, for how long, and how it is scored.

A cell is a value; its name is that of the file which keeps its result. Models of ours come from
``geoattn.tasks``, those of torch-harmonics from ``ablation_peers``; all are trained by the same loop.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import ablation_peers as peers
import numpy as np
import torch
from about import about
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from geoattn._files import whole, write_json
from geoattn.tasks.depth import experiment as depth
from geoattn.tasks.geometry import SETTINGS
from geoattn.tasks.panoramas import Sample
from geoattn.tasks.panoramas import experiment as panoramas
from geoattn.tasks.segmentation import experiment as segmentation
from geoattn.tasks.settings import ModelSettings
from geoattn.tasks.shallow_water import CHANNELS
from geoattn.tasks.shallow_water import experiment as water
from geoattn.training import FitConfig
from geoattn.xarray import Schema, to_tensor

Floats = NDArray[np.float64]
TASKS = ("shallow-water", "segmentation", "depth")
EXPERIMENTS = {"segmentation": segmentation.EXPERIMENT, "depth": depth.EXPERIMENT}
ATTITUDES = {"upright": 0.0, "any": 180.0}  # largest pitch and roll of the cameras
#: discs of a task, in degrees, one of about twice the area of the other
RADII = {"large": {"rooms": 40.0, "water": 30.0}, "small": {"rooms": 28.3, "water": 21.2}}
#: coarse; twice the resolution and channels and one more block; a model of rooms for use
SCALES = ("coarse", "fine", "practice")
#: what there is to learn from: rooms, and trajectories. Of few, models have learnt all in the steps they have
DATA = {"all": {"rooms": 4000, "water": 64}, "few": {"rooms": 100, "water": 8}}

WATER_DATA = water.DataSettings(nlat=16, nlon=32, validation=4, test=12, states=17)
WATER_MODEL = ModelSettings(dim=48, depth=3, num_heads=4, features=2, position="relative")
ROOM_DATA = panoramas.DataSettings(nlat=24, nlon=48, validation=100, test=200, supersampling=2)
ROOM_MODEL = ModelSettings(dim=32, depth=2, num_heads=4, patch=2, stages=2, features=2, position="relative")

#: steps of a run in the table, by what there is to learn from; a learning rate is chosen by runs of a quarter
LENGTH = {
    "all": {"shallow-water": 960, "segmentation": 2400, "depth": 2400},
    "few": {"shallow-water": 1920, "segmentation": 2400, "depth": 2400},
}
#: learning rates that are tried for every row
RATES = {
    "shallow-water": (4e-3, 8e-3, 1.6e-2),
    "segmentation": (4e-3, 8e-3, 1.6e-2),
    "depth": (4e-3, 8e-3, 1.6e-2),
}
#: what validation measures in the last round, and whether more of it is better
VALIDATION = {
    "shallow-water": ("val_loss", False),
    "segmentation": ("val_area_mean_iou", True),
    "depth": ("val_area_abs_rel", False),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training, and what it is scored on.

    Parameters
    ----------
    task, row
        One of :data:`TASKS`; a setting of geometry, or a model of torch-harmonics.
    steps, rate, seed
        Optimiser steps, largest learning rate, and the seed of weights and order of samples.
    size
        Of discs and windows: a key of :data:`RADII`.
    attitude
        How cameras are held while training: a key of :data:`ATTITUDES`. Shallow water has none.
    recipe
        "ours", or "theirs": the optimiser, schedule and batch of torch-harmonics' examples.
    scale
        Resolution and model: a key of :data:`SCALES`.
    data
        How much there is to learn from: a key of :data:`DATA`.
    """

    task: str
    row: str
    steps: int
    rate: float
    seed: int
    size: str = "large"
    attitude: str = "upright"
    recipe: str = "ours"
    scale: str = "coarse"
    data: str = "all"

    @property
    def name(self) -> str:
        words = [self.row]
        for field in ("size", "attitude", "recipe", "scale", "data"):
            if getattr(self, field) != Cell.__dataclass_fields__[field].default:
                words.append(getattr(self, field))
        return "-".join([*words, f"{self.steps}", f"{self.rate:g}", f"{self.seed}"])

    @property
    def key(self) -> str:
        """Task and name: the result's file."""
        return f"{self.task}/{self.name}"

    @property
    def kind(self) -> str:
        return "water" if self.task == "shallow-water" else "rooms"

    def settings(self, folder: Path) -> Any:
        """Settings of the task's experiment; data of shallow water lie in ``folder``."""
        data: Any = WATER_DATA if self.kind == "water" else ROOM_DATA
        data = dataclasses.replace(data, training=DATA[self.data][self.kind])
        model = WATER_MODEL if self.kind == "water" else ROOM_MODEL
        own = self.row if self.row in SETTINGS else "sphere"
        model = dataclasses.replace(model, geometry=own, radius=RADII[self.size][self.kind])  # type: ignore[arg-type]
        if self.scale == "fine":
            data = dataclasses.replace(data, nlat=2 * data.nlat, nlon=2 * data.nlon)
            model = dataclasses.replace(model, dim=2 * model.dim, depth=model.depth + 1)
        elif self.scale == "practice":
            data = dataclasses.replace(data, nlat=128, nlon=256, supersampling=1)
            model = dataclasses.replace(model, dim=48, patch=4, stages=3, radius=15.0)
        if self.kind == "water":
            data = dataclasses.replace(
                data, folder=str(folder / f"shallow-water-{data.nlat}-{data.training}")
            )
            return water.Settings(data, model, self.fit(), lead_steps=data.states - 1)
        data = dataclasses.replace(data, tilt=ATTITUDES[self.attitude])
        rooms = Rooms(**dataclasses.asdict(data), folder=str(folder / "rooms"))
        return panoramas.Settings(rooms, model, self.fit())

    def fit(self) -> FitConfig:
        """How the cell is trained: eight rounds."""
        base = FitConfig(
            self.steps, max(self.steps // 8, 1), learning_rate=self.rate, seed=self.seed, accelerator="cpu"
        )
        if self.recipe == "ours":
            return base
        return dataclasses.replace(base, **peers.RECIPES[self.task])


@dataclasses.dataclass(frozen=True)
class Rooms(panoramas.DataSettings):
    """Panoramas that are rendered once for all cells, and kept in ``folder``."""

    folder: str = ""

    def part(self, split: str, **attitude: Any) -> Dataset[Sample]:
        return _rendered(self, split, **attitude)


@cache
def _rendered(data: Rooms, split: str, **attitude: Any) -> Dataset[Sample]:
    words = json.dumps([dataclasses.asdict(data), split, attitude], sort_keys=True)
    path = Path(data.folder) / f"{split}-{hashlib.sha256(words.encode()).hexdigest()[:16]}.pickle"
    if not path.exists():
        print(f"Rendering rooms for {split} …", flush=True)
        rooms = panoramas.DataSettings.part(data, split, **attitude)
        with whole(path) as part:
            part.write_bytes(pickle.dumps(rooms))
    kept: Dataset[Sample] = pickle.loads(path.read_bytes())
    return kept


def steps_of(count: float) -> int:
    """A number of steps that makes eight equal rounds."""
    return max(8 * round(count / 8), 8)


def network(cell: Cell, settings: Any) -> nn.Module:
    """The cell's untrained model; its weights follow from the seed."""
    make = water.network if cell.kind == "water" else partial(panoramas.network, EXPERIMENTS[cell.task])
    own: nn.Module = make(settings)
    if cell.row in SETTINGS:
        return own
    torch.manual_seed(cell.seed)
    wanted = sum(p.numel() for p in own.parameters())
    channels = len(CHANNELS) if cell.kind == "water" else EXPERIMENTS[cell.task].channels
    return peers.equal(cell.row, settings.data.grid, settings.model, channels, wanted)


# running ------------------------------------------------------------------------------------------


def run(cell: Cell, work: Path, results: Path) -> dict[str, Any]:
    """Train and score, and write what was found to ``results``; what was stopped goes on in ``work``."""
    settings = cell.settings(work)
    folder = work / cell.task / cell.name
    model = network(cell, settings)
    parameters = sum(p.numel() for p in model.parameters())
    train = _water if cell.kind == "water" else _rooms
    scores, sums = train(cell, settings, folder, model)
    rounds = json.loads((folder / "metrics.json").read_text())["rounds"]
    name, _ = VALIDATION[cell.task]
    found = {
        "cell": dataclasses.asdict(cell),
        "parameters": parameters,
        "validation": {name: [[row["step"], float(row[name])] for row in rounds]},
        "seconds_per_step": float(np.median([row["seconds_per_step"] for row in rounds])),
        "scores": scores,
        **about("python benchmarks/ablation.py", "torch-harmonics", "lightning"),
    }
    path = results / cell.task / f"{cell.name}.json"
    with whole(path.with_suffix(".npz")) as part, open(part, "wb") as file:
        arrays: dict[str, Any] = {name: x.astype(np.float32) for name, x in sums.items()}
        np.savez_compressed(file, **arrays)
    write_json(found, path)
    return found


def _water(cell: Cell, settings: Any, folder: Path, model: nn.Module) -> tuple[dict[str, float], Sums]:
    forecaster = water.train(settings, folder, model)
    result = water.score(forecaster, settings, folder)
    write_json(result, folder / "evaluation.json")
    jet, still = (result[f"galewsky_{name}"]["rmse"] for name in ("model", "persistence"))
    predicted = to_tensor(water.load(folder / "forecast-test.zarr").load(), forecaster.schema)
    sums = {"test": _of_forecasts(settings, forecaster.schema, predicted)}
    total = sums["test"].sum(0)
    scores = {
        "test": float(score_of(cell.task, total)),
        **{
            f"{channel}, error / persistence": float(score_of(cell.task, part))
            for channel, part in zip(CHANNELS, np.split(total, len(CHANNELS), axis=1), strict=True)
        },
        "jet, error / persistence": float(np.mean([np.divide(jet[c], still[c]).mean() for c in CHANNELS])),
        "below persistence at every lead time": float(result["below_persistence"]),
        "stable for 200 steps": float(result["stable"]),
    }
    return scores, sums


def _of_forecasts(settings: water.Settings, schema: Schema, predicted: Tensor) -> Floats:
    """Mean square errors of forecasts and of persistence, ``[start, 2, channel · lead]``."""
    truth = water.load(water.stores(settings.data)["test"]).load()
    times = truth.time.values[:: settings.data.states]
    leads = range(settings.lead_steps + 1)
    states = [to_tensor(truth.sel(time=times + i * settings.data.step), schema) for i in leads]
    first, later = states[0].double(), torch.stack(states[1:], 1).double()
    errors = [settings.data.grid.mean((x - later).square()) for x in (predicted.double(), first[:, None])]
    return torch.stack(errors, 1).transpose(2, 3).flatten(2).numpy()


def _rooms(cell: Cell, settings: Any, folder: Path, model: nn.Module) -> tuple[dict[str, float], Sums]:
    experiment = EXPERIMENTS[cell.task]
    module = panoramas.train(experiment, settings, folder, model)
    sums, scores = {}, {}
    for attitude in ATTITUDES:
        sums[attitude] = of_rooms(cell.task, test_rooms(settings.data, attitude), module.predict)
        scores[attitude] = float(score_of(cell.task, sums[attitude].sum(0)))
    return scores, sums


def test_rooms(data: panoramas.DataSettings, attitude: str) -> Dataset[Sample]:
    """The rooms of the test, by cameras held upright or in any attitude."""
    return dataclasses.replace(data, tilt=ATTITUDES[attitude]).part("test")


# scores and what they are made of ------------------------------------------------------------------

#: by what was tested, for each of its samples, the numerators and denominators of the score,
#: ``[sample, 2, m]``: the score of some samples follows from their sum
Sums = dict[str, Floats]


@torch.no_grad()
def of_rooms(task: str, rooms: Dataset[Sample], predict: Callable[[Tensor], Tensor]) -> Floats:
    """Segmentation: areas of intersection and union of each class; depth: relative error by area, and 1."""
    experiment, grid = EXPERIMENTS[task], rooms.grid  # type: ignore[attr-defined]
    scores: Any = experiment.scores(grid)
    rows = []
    for batch in DataLoader(rooms, batch_size=8):
        shown = predict(batch["rgb"])
        for one, truth in zip(shown, batch[experiment.truth], strict=True):
            scores.reset()
            scores.update(one[None], truth[None])
            if task == "depth":
                rows.append(scores.sums[1][[0, -1], None].numpy().copy())
            else:
                right, every = scores.areas.diagonal(), scores.areas.sum(0) + scores.areas.sum(1)
                rows.append(torch.stack((right, every - right)).numpy())
    return np.stack(rows)


def score_of(task: str, total: Floats) -> Floats:
    """The score that decides, ``[...]``, of numerators and denominators ``[..., 2, m]`` summed over samples.

    Shallow water: root-mean-square error ÷ that of persistence, mean over channels and lead times.
    Segmentation: intersection over union by area, mean over the classes that occur. Depth: mean relative
    error by area.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = total[..., 0, :] / total[..., 1, :]
    found: Floats = np.nanmean(np.sqrt(ratio) if task == "shallow-water" else ratio, axis=-1)
    return found


def trivial(task: str, amount: str, folder: Path) -> dict[str, dict[str, float]]:
    """What does not look, by name: its scores by what was tested, of an amount of :data:`DATA`.

    Data are kept in ``folder``.
    """
    settings = Cell(task, "sphere", 8, 1e-3, 0, data=amount).settings(folder)
    if task == "shallow-water":
        training = water.load(water.stores(settings.data)["training"])
        schema = Schema.of(training, settings.data.channels)
        normal = to_tensor(training.mean("time", keep_attrs=True).load(), schema)
        score = score_of(task, _of_forecasts(settings, schema, normal).sum(0))
        return {"persistence": {"test": 1.0}, "climatology": {"test": float(score)}}
    data = settings.data
    scores: dict[str, dict[str, float]] = {}
    for attitude, tilt in ATTITUDES.items():
        seen = dataclasses.replace(data, tilt=tilt, training=min(data.training, 400))  # enough for means
        for name, predict in panoramas.trivial(EXPERIMENTS[task], seen).items():
            total = of_rooms(task, test_rooms(data, attitude), predict).sum(0)
            scores.setdefault(name, {})[attitude] = float(score_of(task, total))
    return scores
