"""What a segmentation learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from geoattn.grids import SphericalGrid
from geoattn.tasks.panoramas.areas import area_mean, area_of
from geoattn.tasks.panoramas.classes import CLASSES, UNLABELLED
from geoattn.tasks.panoramas.labels import classes_of


def segmentation_loss(
    scores: Tensor,
    label: Tensor,
    area: Tensor,
    weights: Tensor | None = None,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Cross entropy, averaged over the area of the labelled pixels.

    Parameters
    ----------
    scores
        ``[B, classes, *grid.shape]``.
    label
        ``[B, *grid.shape]``; :data:`UNLABELLED` where there is none.
    area
        ``[*grid.shape]``, from :func:`geoattn.tasks.panoramas.area_of`.
    weights
        A factor for each class, ``[classes]``.
    total
        Adds up the sums of many processes: see :func:`geoattn.tasks.panoramas.area_mean`.

    Raises
    ------
    TypeError, ValueError
        If labels are no integers, or a class does not exist.
    """
    label = classes_of("label", label, scores.shape[1])
    valid = label != UNLABELLED
    entropy = F.cross_entropy(scores, torch.where(valid, label, 0), weight=weights, reduction="none")
    return area_mean(entropy, valid, area, total)


def class_weights(grid: SphericalGrid, labels: Iterable[Tensor], power: float = 0.5) -> Tensor:
    """Factors ``[classes]`` that raise rare classes: area share to the power ``-power``, of mean 1 by area.

    Classes that do not occur get the factor of the rarest that does.
    """
    area = area_of(grid)
    total = torch.zeros(len(CLASSES), dtype=torch.float64)
    for label in labels:
        label = classes_of("labels", label)
        known = label != UNLABELLED
        total += torch.bincount(label[known], area.expand_as(label)[known], len(CLASSES))
    if float(total.sum()) == 0.0:
        raise ValueError("no labelled pixel was given: class weights need some")
    share = total / total.sum()
    factor = share.clamp(min=float(share[share > 0].min())) ** -power
    return (factor / (share * factor).sum()).float()
