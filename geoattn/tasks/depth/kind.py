"""Depth estimation as a kind of task on panoramas."""

from __future__ import annotations

from torch import nn
from torch.utils.data import Dataset

from geoattn.grids import SphericalGrid
from geoattn.tasks.depth.baselines import RowMean
from geoattn.tasks.depth.learning import DepthEstimation
from geoattn.tasks.depth.metrics import DepthScores
from geoattn.tasks.depth.pictures import depth_picture
from geoattn.tasks.panoramas.evaluation import Kind
from geoattn.tasks.panoramas.samples import Sample, entries


def _trivial(grid: SphericalGrid, train: Dataset[Sample]) -> dict[str, nn.Module]:
    return {"row mean": RowMean(grid, entries(train, "depth"))}


DEPTH = Kind(
    name="depth",
    channels=1,
    module=DepthEstimation,
    scores=DepthScores,
    trivial=_trivial,
    picture=depth_picture,
    shown=lambda depth: depth.cpu().numpy(),
    headline="area_abs_rel",
)
