"""What can be predicted without looking: how common each class is, everywhere or in each row."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from geoattn.grids import SphericalGrid
from geoattn.tasks.panoramas.areas import area_of, rows_of
from geoattn.tasks.panoramas.classes import CLASSES, UNLABELLED
from geoattn.tasks.panoramas.labels import classes_of


class ClassPrior(nn.Module):
    """The share of each class in the area of a training set, whatever the picture.

    Parameters
    ----------
    grid
        Where the labels live.
    labels
        Label maps ``[*grid.shape]`` or batches of them ``[B, *grid.shape]``.
    by_row
        Shares within each row of equal latitude instead of everywhere.

    Raises
    ------
    ValueError
        If no label was given.
    """

    def __init__(self, grid: SphericalGrid, labels: Iterable[Tensor], by_row: bool = False) -> None:
        super().__init__()
        area = area_of(grid)
        rows = torch.from_numpy(rows_of(grid)) if by_row else torch.zeros(grid.shape, dtype=torch.int64)
        count = int(rows.max()) + 1
        total = torch.zeros(count, len(CLASSES), dtype=torch.float64)
        for label in labels:
            label = classes_of("labels", label)
            known = label != UNLABELLED
            cell = rows.expand_as(label)[known] * len(CLASSES) + label[known]
            weight = area.expand_as(label)[known]
            total += torch.bincount(cell, weight, total.numel()).reshape(total.shape)
        if float(total.sum()) == 0.0:
            raise ValueError("no labelled pixel was given: a prior needs some")
        # a trace of the whole: rows without labels fall back on it, and no share is zero
        share = total + 1e-6 * (total.sum(0) + 1e-6 * total.sum())
        scores = (share / share.sum(1, keepdim=True)).log()[rows].movedim(-1, 0).float()
        self.register_buffer("scores", scores)

    def forward(self, rgb: Tensor) -> Tensor:
        """Scores ``[B, classes, *grid.shape]`` for ``rgb [B, 3, *grid.shape]``."""
        scores = self.get_buffer("scores")
        return scores.expand(len(rgb), *scores.shape)
