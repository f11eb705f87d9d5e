"""Depth estimation from panoramas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from geoattn.grids import LatLonGrid
from geoattn.plot import depth_picture
from geoattn.tasks.depth import DepthEstimation, DepthScores, RowMean
from geoattn.tasks.experiments import panoramas
from geoattn.tasks.experiments.panoramas import Settings
from geoattn.tasks.panoramas.learning import PanoramaTask
from geoattn.training import FitConfig

__all__ = ["EXPERIMENT", "Settings", "evaluate", "train"]


def _task(network: nn.Module, grid: LatLonGrid, config: FitConfig) -> PanoramaTask:
    return DepthEstimation(network, grid, config)


def _trivial(grid: LatLonGrid, depths: list[Tensor]) -> dict[str, nn.Module]:
    return {"row mean": RowMean(grid, depths)}


EXPERIMENT = panoramas.Experiment(
    "depth",
    "depth",
    1,
    _task,
    DepthScores,
    _trivial,
    depth_picture,
    "area_abs_rel",
)


def train(settings: Settings, output: Path, model: nn.Module | None = None) -> PanoramaTask:
    """Train, and write the run's folder."""
    return panoramas.train(EXPERIMENT, settings, output, model)


def evaluate(settings: Settings, output: Path) -> dict[str, Any]:
    """Score the model in ``output``, beside the mean depth of each row."""
    return panoramas.evaluate(EXPERIMENT, settings, output)
