"""Scores of a depth map, by the protocols of the literature and by area."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from geoattn.grids import SphericalGrid
from geoattn.nn import Table
from geoattn.parallel import Shards
from geoattn.tasks.panoramas.areas import area_of

#: mean of each over pixels; roots are taken at the end
_ERRORS = ("abs_rel", "mae", "rmse", "rmse_log", "delta_1", "delta_2", "delta_3")

Alignment = Literal["none", "median"]
Average = Literal["images", "pixels"]


class DepthScores(Metric):
    """AbsRel, MAE, RMSE, RMSElog and δ < 1.25, 1.25², 1.25³, by pixels and by area.

    Publications differ in three choices that change the numbers; here they are parameters.

    Parameters
    ----------
    grid
        Where the depths live.
    min_depth, max_depth
        Metres. Predictions are clipped to this range. Pixels whose true depth lies outside it, or is
        missing, do not count.
    alignment
        ``"median"``: each prediction is first multiplied by median(truth) / median(prediction) over its
        valid pixels, which scores depth up to scale. ``"none"``: metres as they are.
    average
        ``"images"``: scores of each panorama, then their mean over panoramas. ``"pixels"``: all valid
        pixels of the data set together.
    """

    full_state_update = False
    sums: Tensor

    def __init__(
        self,
        grid: SphericalGrid,
        *,
        min_depth: float = 0.1,
        max_depth: float = 10.0,
        alignment: Alignment = "none",
        average: Average = "images",
    ) -> None:
        super().__init__()
        if not 0.0 < min_depth < max_depth < math.inf:
            raise ValueError(
                f"depths must satisfy 0 < min_depth < max_depth < ∞, got {min_depth} and {max_depth}"
            )
        if alignment not in ("none", "median"):
            raise ValueError(f"alignment must be 'none' or 'median', got {alignment!r}")
        if average not in ("images", "pixels"):
            raise ValueError(f"average must be 'images' or 'pixels', got {average!r}")
        self.min_depth, self.max_depth, self.alignment, self.average = (
            min_depth,
            max_depth,
            alignment,
            average,
        )
        self.area = Table(area_of(grid).numpy(), grid).double()
        #: adds up the sums of the processes that hold points of the same panoramas
        self._total: Callable[[Tensor], Tensor] = lambda sums: sums
        # rows: by pixels, by area; columns: the errors, and the weight they are divided by
        self.add_state("sums", torch.zeros(2, len(_ERRORS) + 1, dtype=torch.float64), dist_reduce_fx="sum")

    def divide(self, shards: Shards) -> None:
        """Score whole panoramas, of which this process holds some points.

        Raises
        ------
        ValueError
            If predictions are aligned by medians, which are no sums.
        """
        if self.alignment != "none":
            raise ValueError(
                f"alignment={self.alignment!r} takes the median of whole panoramas, and processes hold some "
                "points each: take alignment='none', or score in one process"
            )
        self._total = shards.sum

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add depths ``[B, *grid.shape]`` in metres.

        Raises
        ------
        TypeError
            If depths are no real numbers.
        ValueError
            If shapes do not fit, a panorama has no valid pixel, a prediction is not finite, a true depth is
            NaN, or the median of a prediction is not positive where it is aligned by it.
        """
        area = self.area()
        for name, depth in (("predicted", predicted), ("truth", truth)):
            if not isinstance(depth, Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(depth).__name__}")
            if depth.is_complex() or depth.dtype == torch.bool:
                raise TypeError(f"{name} must hold metres, real numbers, got {depth.dtype}")
        if predicted.shape != truth.shape or truth.shape[1:] != area.shape:
            raise ValueError(
                f"predicted {list(predicted.shape)} and truth {list(truth.shape)} must both be "
                f"[B, {', '.join(map(str, area.shape))}]"
            )
        if not bool(torch.isfinite(predicted).all()):
            raise ValueError("a predicted depth is NaN or infinite")
        if bool(truth.isnan().any()):
            raise ValueError("a true depth is NaN; missing depths must be 0")
        predicted, truth = predicted.double().flatten(1), truth.double().flatten(1)
        valid = (truth >= self.min_depth) & (truth <= self.max_depth)
        empty = (self._total(valid.sum(1)) == 0).nonzero()
        if len(empty):
            raise ValueError(
                f"panorama {int(empty[0])} of the batch has no depth between {self.min_depth} and "
                f"{self.max_depth} m: there is nothing to score"
            )
        if self.alignment == "median":
            middle = _median(predicted, valid)
            for i in (middle[:, 0] <= 0.0).nonzero()[:1]:
                raise ValueError(
                    f"the median predicted depth of panorama {int(i)} is {float(middle[i]):g} m: "
                    "what is not positive cannot be scaled to the truth; predict depths above 0, or take "
                    "alignment='none'"
                )
            predicted = predicted * _median(truth, valid) / middle
        predicted = predicted.clamp(self.min_depth, self.max_depth)
        errors = _errors(predicted, torch.where(valid, truth, 1.0))
        for row, weight in enumerate((valid.double(), valid * area.flatten())):
            sums = torch.cat(((errors * weight).sum(2), weight.sum(1)[None])).T
            if self.average == "images":
                sums = self._total(sums)
                sums = _roots(sums / sums[:, -1:])
            self.sums[row] += sums.sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Scores by name, and each again by area with ``area_`` before it.

        Raises
        ------
        ValueError
            If nothing was given.
        """
        if float(self.sums[0, -1]) == 0.0:
            raise ValueError("no depth was given: there is nothing to score")
        means = self.sums / self.sums[:, -1:]
        if self.average == "pixels":
            means = _roots(means)
        names = (*_ERRORS, *(f"area_{name}" for name in _ERRORS))
        return dict(zip(names, means[:, :-1].flatten(), strict=True))


def _errors(predicted: Tensor, truth: Tensor) -> Tensor:
    """What the scores are means of, ``[errors, B, points]``; squares where a root is taken later."""
    difference = predicted - truth
    ratio = torch.maximum(predicted / truth, truth / predicted)
    within = [(ratio < 1.25**power).double() for power in (1, 2, 3)]
    square_log = (predicted / truth).log().square()
    return torch.stack((difference.abs() / truth, difference.abs(), difference.square(), square_log, *within))


def _roots(means: Tensor) -> Tensor:
    roots = means.clone()
    columns = [_ERRORS.index("rmse"), _ERRORS.index("rmse_log")]
    roots[:, columns] = means[:, columns].sqrt()
    return roots


def _median(depth: Tensor, valid: Tensor) -> Tensor:
    """Median of the valid depths of each panorama, ``[B, 1]``."""
    return torch.where(valid, depth, torch.nan).nanmedian(1, keepdim=True).values
