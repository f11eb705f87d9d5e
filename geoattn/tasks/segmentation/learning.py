"""Learning to segment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geoattn.grids import SphericalGrid
from geoattn.tasks.panoramas.learning import PanoramaTask
from geoattn.tasks.segmentation.loss import segmentation_loss
from geoattn.tasks.segmentation.metrics import SegmentationScores


class Segmentation(PanoramaTask):
    """Area-weighted cross entropy; predictions are classes.

    Parameters
    ----------
    network
        To ``[B, 13, *grid.shape]``.
    weights
        A factor for each class in the loss, from :func:`class_weights`.
    grid, **options
        As for :class:`PanoramaTask`.
    """

    truth = "label"

    def __init__(
        self, network: nn.Module, grid: SphericalGrid, weights: Tensor | None = None, **options: Any
    ) -> None:
        super().__init__(network, grid, SegmentationScores(grid), **options)
        self.register_buffer("weights", torch.ones(()) if weights is None else weights)

    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        weights = self.get_buffer("weights").expand(output.shape[1])
        return segmentation_loss(output, truth, self.get_buffer("area"), weights)

    def to_prediction(self, output: Tensor) -> Tensor:
        return output.argmax(1)
