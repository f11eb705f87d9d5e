"""Depth estimation from panoramas."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from geoattn.grids import LatLonGrid
from geoattn.plot import depth_picture
from geoattn.tasks.depth import DepthEstimation, DepthScores, RowMean
from geoattn.tasks.panoramas import experiment
from geoattn.tasks.panoramas.experiment import Settings
from geoattn.tasks.panoramas.learning import PanoramaTask
from geoattn.training import FitConfig

__all__ = ["EXPERIMENT", "Settings", "evaluate", "train"]


def _task(network: nn.Module, grid: LatLonGrid, config: FitConfig) -> PanoramaTask:
    return DepthEstimation(network, grid, config)


def _trivial(grid: LatLonGrid, depths: list[Tensor]) -> dict[str, nn.Module]:
    return {"row mean": RowMean(grid, depths)}


EXPERIMENT = experiment.Experiment(
    "depth",
    "depth",
    1,
    _task,
    DepthScores,
    _trivial,
    depth_picture,
    "area_abs_rel",
)

#: train, and write the run's folder; score the model in a folder
train, evaluate = partial(experiment.train, EXPERIMENT), partial(experiment.evaluate, EXPERIMENT)
