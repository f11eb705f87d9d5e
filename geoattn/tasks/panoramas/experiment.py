"""What the experiments on segmentation and on depth share: panoramas, training, evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from geoattn import _extras

_extras.require("geoattn.tasks.panoramas.experiment", "lightning", "torchmetrics")

import lightning
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric

from geoattn import models
from geoattn._files import write_json
from geoattn.grids import LatLonGrid, equiangular
from geoattn.parallel import parallelize
from geoattn.plot import curves
from geoattn.tasks.panoramas import RenderedRooms, Sample, Stanford2D3DS
from geoattn.tasks.panoramas.learning import PanoramaTask
from geoattn.tasks.panoramas.robustness import Predict, rotation_robustness, score
from geoattn.tasks.panoramas.samples import Part
from geoattn.tasks.settings import ModelSettings
from geoattn.training import Data, FitConfig, fit
from geoattn.training.processes import is_first, start


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Panoramas of rendered rooms, or those of 2D-3D-S in the folder ``root``.

    Parameters
    ----------
    nlat, nlon
        Rows and columns: pixels of an equirectangular image.
    training, validation, test, seed, tilt
        Rooms of each part, their seed, and the largest pitch and roll of the cameras in degrees.
    supersampling
        Rays along each side of a pixel whose mean is its colour.
    root, fold
        Of 2D-3D-S.
    """

    nlat: int = 24
    nlon: int = 48
    training: int = 600
    validation: int = 32
    test: int = 128
    seed: int = 0
    tilt: float = 20.0
    supersampling: int = 1
    root: str | None = None
    fold: int = 1

    @property
    def grid(self) -> LatLonGrid:
        return equiangular(self.nlat, self.nlon, poles=False)

    def part(self, split: str, **attitude: Any) -> Dataset[Sample]:
        """The samples of "train", "val" or "test"; ``pitch`` and ``roll`` hold the cameras."""
        if self.root is not None:
            return Stanford2D3DS(self.root, self.fold, self.grid, split, **attitude)
        count = {"train": self.training, "val": self.validation, "test": self.test}[split]
        return RenderedRooms(
            self.grid, count, split, self.seed, tilt=self.tilt, supersampling=self.supersampling, **attitude
        )


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole run.

    Parameters
    ----------
    angles
        Degrees of pitch and roll at which robustness is measured.
    """

    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    model: ModelSettings = dataclasses.field(
        default_factory=lambda: ModelSettings(dim=32, depth=2, num_heads=2, stages=2, features=2, radius=25.0)
    )
    fit: FitConfig = dataclasses.field(
        default_factory=lambda: FitConfig(steps=600, validate_every=100, learning_rate=3e-3)
    )
    angles: tuple[float, ...] = (0.0, 15.0, 30.0, 45.0, 90.0)


class Experiment(NamedTuple):
    """What one task adds."""

    name: str
    #: the entry of a sample that is predicted
    truth: str
    channels: int
    task: Callable[[nn.Module, LatLonGrid, FitConfig], PanoramaTask]
    scores: Callable[[LatLonGrid], Metric]
    #: predictors that do not look, by name, from the truths of the training set
    trivial: Callable[[LatLonGrid, list[Tensor]], dict[str, nn.Module]]
    picture: Callable[..., Any]
    #: the score that the robustness curve shows
    headline: str


def network(experiment: Experiment, settings: Settings) -> nn.Module:
    """A new network; its weights follow from the seed."""
    lightning.seed_everything(settings.fit.seed, verbose=False)
    return settings.model.config(settings.data.grid, 3, experiment.channels).build()


def train(
    experiment: Experiment, settings: Settings, output: Path, model: nn.Module | None = None
) -> PanoramaTask:
    """Train, and write the run's folder; ``model`` takes the place of the settings' own."""
    data, mesh = settings.data, start(settings.fit)
    module = experiment.task(
        network(experiment, settings) if model is None else model, data.grid, settings.fit
    )
    training, validation = data.part("train"), data.part("val")
    if mesh is not None and settings.fit.domain > 1:
        shards: Any = parallelize(module, mesh["domain"]).shards
        training, validation = (Part(x, data.grid, shards.tokens()) for x in (training, validation))
    kept = {"task": experiment.name, "data": dataclasses.asdict(data)}
    fit(module, Data(training, validation, settings.fit), output, settings.fit, kept)
    module.eval().cpu()
    if model is None and is_first():
        models.save(output / "model.pt", module.network)
    return module


def evaluate(experiment: Experiment, settings: Settings, output: Path) -> dict[str, Any]:
    """Score the model in ``output``; writes ``evaluation.json`` and pictures beside it."""
    data, grid = settings.data, settings.data.grid
    loaded, _ = models.load(output / "model.pt", settings.model.config(grid, 3, experiment.channels))
    module = experiment.task(loaded, grid, settings.fit).eval()
    test = data.part("test")
    predictors: dict[str, Predict] = {"model": module.predict, **trivial(experiment, data)}
    empty = partial(experiment.scores, grid)
    result: dict[str, Any] = {
        "test": score(predictors, DataLoader(test, batch_size=8), experiment.truth, empty)
    }
    batch = next(iter(DataLoader(test, batch_size=4)))
    shown = module.predict(batch["rgb"])
    experiment.picture(output / "panoramas.png", grid, batch["rgb"], batch[experiment.truth], shown)
    for projection in ("mollweide", "orthographic"):
        first = batch["rgb"][:1], batch[experiment.truth][:1], shown[:1]
        experiment.picture(output / f"{projection}.png", grid, *first, projection)
    result["robustness"] = rotation_robustness(
        predictors,
        lambda pitch, roll: data.part("test", pitch=pitch, roll=roll),
        settings.angles,
        experiment.truth,
        empty,
    )
    headline = experiment.headline
    lines = {name: (curve["angle"], curve[headline]) for name, curve in result["robustness"].items()}
    label = headline.replace("_", " ")
    curves(output / "robustness.png", "pitch or roll (degrees)", {label: lines})
    write_json(result, output / "evaluation.json")
    return result


def trivial(experiment: Experiment, data: DataSettings) -> dict[str, Predict]:
    """The predictors that do not look, by name."""
    training: Any = data.part("train")
    truths = [training[i][experiment.truth] for i in range(len(training))]
    return dict(experiment.trivial(data.grid, truths))
