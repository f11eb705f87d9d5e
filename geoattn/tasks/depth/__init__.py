"""Depth estimation from panoramas: loss, scores, a trivial predictor."""

from geoattn import _extras

_extras.require("geoattn.tasks.depth", "lightning", "torchmetrics")

from geoattn.tasks.depth.baselines import RowMean
from geoattn.tasks.depth.learning import DepthEstimation
from geoattn.tasks.depth.loss import depth_loss, to_depth
from geoattn.tasks.depth.metrics import DepthScores

__all__ = ["DepthEstimation", "DepthScores", "RowMean", "depth_loss", "to_depth"]
