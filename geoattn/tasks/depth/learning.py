"""Learning to estimate depth."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from geoattn.grids import SphericalGrid
from geoattn.tasks.depth.loss import depth_loss, to_depth
from geoattn.tasks.depth.metrics import DepthScores
from geoattn.tasks.panoramas.learning import PanoramaTask


class DepthEstimation(PanoramaTask):
    """Area-weighted absolute error of log depth; predictions are metres.

    Parameters
    ----------
    network
        To ``[B, 1, *grid.shape]``.
    grid, **options
        As for :class:`PanoramaTask`.
    """

    truth = "depth"

    def __init__(self, network: nn.Module, grid: SphericalGrid, **options: Any) -> None:
        super().__init__(network, grid, DepthScores(grid), **options)

    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        return depth_loss(output[:, 0], truth, self.get_buffer("area"))

    def to_prediction(self, output: Tensor) -> Tensor:
        return to_depth(output[:, 0])
