"""Semantic segmentation of panoramas: loss, scores, trivial predictors."""

from geoattn import _extras

_extras.require("geoattn.tasks.segmentation", "lightning", "torchmetrics")

from geoattn.tasks.segmentation.baselines import ClassPrior
from geoattn.tasks.segmentation.learning import Segmentation
from geoattn.tasks.segmentation.loss import class_weights, segmentation_loss
from geoattn.tasks.segmentation.metrics import SegmentationScores

__all__ = [
    "ClassPrior",
    "Segmentation",
    "SegmentationScores",
    "class_weights",
    "segmentation_loss",
]
