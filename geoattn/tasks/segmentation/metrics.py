"""Scores of a segmentation: everything from one confusion matrix over the whole data set."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix

from geoattn.grids import SphericalGrid
from geoattn.nn import Table
from geoattn.tasks.panoramas.areas import area_of
from geoattn.tasks.panoramas.classes import CLASSES, UNLABELLED
from geoattn.tasks.panoramas.labels import classes_of


class SegmentationScores(Metric):
    """Class-mean intersection over union and accuracy, by pixels and by area.

    Two confusion matrices are added up over all that is updated, one of pixels and one of their areas
    in spheres, and scored once, at the end. That is the protocol of published results on 2D-3D-S (by
    pixels), and its counterpart that does not count the poles many times over (by area). Pixels
    without a class, :data:`UNLABELLED`, count nowhere.

    Per class: IoU = true positives / (true positives + false positives + false negatives), accuracy =
    true positives / (true positives + false negatives). Means are over the classes that occur in the
    truth or in a prediction (IoU), or in the truth (accuracy).
    """

    full_state_update = False
    #: processes that hold some points each add up their matrices in the end, as those with other samples do
    tokenwise = True
    higher_is_better = True
    pixels: Tensor
    areas: Tensor

    def __init__(self, grid: SphericalGrid, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.classes = classes
        self.area = Table(area_of(grid).numpy(), grid).double()
        for name in ("pixels", "areas"):
            zero = torch.zeros(classes, classes, dtype=torch.float64)
            self.add_state(name, zero, dist_reduce_fx="sum")

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add predictions.

        Parameters
        ----------
        predicted
            Classes ``[B, *grid.shape]``, or a score of each class ``[B, classes, *grid.shape]``.
        truth
            Classes ``[B, *grid.shape]``.

        Raises
        ------
        TypeError
            If classes are no integers.
        ValueError
            If shapes do not fit, a class does not exist, or a score is NaN.
        """
        area = self.area()
        if predicted.ndim == truth.ndim + 1 and predicted.shape[1] == self.classes:
            if predicted.is_complex():
                raise TypeError(f"the classes' scores must be real numbers, got {predicted.dtype}")
            if bool(predicted.isnan().any()):
                raise ValueError(f"{int(predicted.isnan().sum())} of the classes' scores are NaN")
            predicted = predicted.argmax(1)
        if predicted.shape != truth.shape or truth.shape[1:] != area.shape:
            raise ValueError(
                f"predicted {list(predicted.shape)} and truth {list(truth.shape)} must both be "
                f"[B, {', '.join(map(str, area.shape))}], or predicted have scores of {self.classes} classes"
            )
        truth = classes_of("truth", truth, self.classes)
        predicted = classes_of("predicted", predicted, self.classes, missing=False)
        labelled = truth != UNLABELLED
        self.pixels += multiclass_confusion_matrix(
            predicted, truth, num_classes=self.classes, ignore_index=UNLABELLED, validate_args=False
        )
        cell = (truth * self.classes + predicted)[labelled]
        weight = area.expand_as(truth)[labelled]
        self.areas += torch.bincount(cell, weight, self.classes**2).reshape(self.classes, self.classes)

    def compute(self) -> dict[str, Tensor]:
        """Scores by name: ``mean_iou``, ``mean_accuracy``, ``accuracy``, and each with ``area_`` before it.

        Raises
        ------
        ValueError
            If no pixel had a class.
        """
        if float(self.pixels.sum()) == 0.0:
            raise ValueError("no labelled pixel was given: there is nothing to score")
        return _scores(self.pixels, "") | _scores(self.areas, "area_")

    def per_class(self) -> dict[str, Tensor]:
        """IoU of each class, ``[classes]``, by pixels and by area; NaN where a class does not occur."""
        return {"iou": _iou(self.pixels), "area_iou": _iou(self.areas)}


def _iou(confusion: Tensor) -> Tensor:
    right = confusion.diagonal()
    return right / (confusion.sum(0) + confusion.sum(1) - right)


def _scores(confusion: Tensor, prefix: str) -> dict[str, Tensor]:
    right = confusion.diagonal()
    return {
        f"{prefix}mean_iou": _iou(confusion).nanmean(),
        f"{prefix}mean_accuracy": (right / confusion.sum(1)).nanmean(),
        f"{prefix}accuracy": right.sum() / confusion.sum(),
    }
