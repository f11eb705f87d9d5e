"""Semantic segmentation of panoramas."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from geoattn.grids import LatLonGrid
from geoattn.plot import segmentation_picture
from geoattn.tasks.panoramas import CLASSES, experiment
from geoattn.tasks.panoramas.classes import LEGEND
from geoattn.tasks.panoramas.experiment import Settings
from geoattn.tasks.panoramas.learning import PanoramaTask
from geoattn.tasks.segmentation import ClassPrior, Segmentation, SegmentationScores
from geoattn.training import FitConfig

__all__ = ["EXPERIMENT", "Settings", "evaluate", "train"]


def _task(network: nn.Module, grid: LatLonGrid, config: FitConfig) -> PanoramaTask:
    return Segmentation(network, grid, config)


def _trivial(grid: LatLonGrid, labels: list[Tensor]) -> dict[str, nn.Module]:
    return {"class prior": ClassPrior(grid, labels), "class prior by row": ClassPrior(grid, labels, True)}


EXPERIMENT = experiment.Experiment(
    "segmentation",
    "label",
    len(CLASSES),
    _task,
    SegmentationScores,
    _trivial,
    partial(segmentation_picture, legend=LEGEND),
    "area_mean_iou",
)

#: train, and write the run's folder; score the model in a folder
train, evaluate = partial(experiment.train, EXPERIMENT), partial(experiment.evaluate, EXPERIMENT)
