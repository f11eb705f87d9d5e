"""Labels as classes that exist."""

from __future__ import annotations

import torch
from torch import Tensor

from geoattn.tasks.panoramas.classes import CLASSES, UNLABELLED


def classes_of(name: str, labels: Tensor, classes: int = len(CLASSES), missing: bool = True) -> Tensor:
    """The labels as int64, once all are known to be classes; others would be counted as some other class.

    Parameters
    ----------
    name
        What the labels are called where they were given.
    missing
        Whether :data:`UNLABELLED` stands for a pixel without a class.

    Raises
    ------
    TypeError
        If they are no tensor of integers.
    ValueError
        If a class does not exist.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, the classes, got {labels.dtype}")
    labels = labels.to(torch.int64)  # small integers wrap around in products
    wrong = (labels < 0) | (labels >= classes)
    if missing:
        wrong &= labels != UNLABELLED
    if bool(wrong.any()):
        others = f", or {UNLABELLED} where there is none" if missing else ""
        raise ValueError(
            f"{name} holds {int(labels[wrong][0])} at {int(wrong.sum())} pixels; classes are 0 to "
            f"{classes - 1}{others}"
        )
    return labels
