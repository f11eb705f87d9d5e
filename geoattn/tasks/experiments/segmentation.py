"""Semantic segmentation of panoramas."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from geoattn.grids import LatLonGrid
from geoattn.plot import segmentation_picture
from geoattn.tasks.experiments import panoramas
from geoattn.tasks.experiments.panoramas import Settings
from geoattn.tasks.panoramas import CLASSES
from geoattn.tasks.panoramas.classes import LEGEND
from geoattn.tasks.panoramas.learning import PanoramaTask
from geoattn.tasks.segmentation import ClassPrior, Segmentation, SegmentationScores
from geoattn.training import FitConfig

__all__ = ["EXPERIMENT", "Settings", "evaluate", "train"]


def _task(network: nn.Module, grid: LatLonGrid, config: FitConfig) -> PanoramaTask:
    return Segmentation(network, grid, config)


def _trivial(grid: LatLonGrid, labels: list[Tensor]) -> dict[str, nn.Module]:
    return {"class prior": ClassPrior(grid, labels), "class prior by row": ClassPrior(grid, labels, True)}


EXPERIMENT = panoramas.Experiment(
    "segmentation",
    "label",
    len(CLASSES),
    _task,
    SegmentationScores,
    _trivial,
    partial(segmentation_picture, legend=LEGEND),
    "area_mean_iou",
)


def train(settings: Settings, output: Path, model: nn.Module | None = None) -> PanoramaTask:
    """Train, and write the run's folder."""
    return panoramas.train(EXPERIMENT, settings, output, model)


def evaluate(settings: Settings, output: Path) -> dict[str, Any]:
    """Score the model in ``output``, beside class priors."""
    return panoramas.evaluate(EXPERIMENT, settings, output)
