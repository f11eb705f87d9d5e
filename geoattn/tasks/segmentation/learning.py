"""Learning to segment."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geoattn.grids import SphericalGrid
from geoattn.tasks.panoramas.learning import PanoramaTask
from geoattn.tasks.segmentation.loss import segmentation_loss
from geoattn.tasks.segmentation.metrics import SegmentationScores
from geoattn.training import FitConfig


class Segmentation(PanoramaTask):
    """Area-weighted cross entropy; predictions are classes.

    Parameters
    ----------
    network
        To ``[B, 13, *grid.shape]``.
    grid, config
        As for :class:`PanoramaTask`.
    weights
        A factor for each class in the loss, from :func:`class_weights`.
    """

    truth = "label"

    def __init__(
        self, network: nn.Module, grid: SphericalGrid, config: FitConfig, weights: Tensor | None = None
    ) -> None:
        super().__init__(network, grid, SegmentationScores(grid), config)
        self.register_buffer("weights", torch.ones(()) if weights is None else weights)

    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        weights = self.get_buffer("weights").expand(output.shape[1])
        return segmentation_loss(output, truth, self.area(), weights, self.total)

    def to_prediction(self, output: Tensor) -> Tensor:
        return output.argmax(1)
