"""Semantic segmentation of panoramas: loss, scores, trivial predictors, pictures."""

from geoattn.tasks.segmentation.baselines import ClassPrior
from geoattn.tasks.segmentation.learning import Segmentation
from geoattn.tasks.segmentation.loss import class_weights, segmentation_loss
from geoattn.tasks.segmentation.metrics import SegmentationScores
from geoattn.tasks.segmentation.pictures import segmentation_picture

__all__ = [
    "ClassPrior",
    "Segmentation",
    "SegmentationScores",
    "class_weights",
    "segmentation_loss",
    "segmentation_picture",
]
