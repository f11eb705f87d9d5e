"""Learning to estimate depth."""

from __future__ import annotations

from torch import Tensor, nn

from geoattn.grids import SphericalGrid
from geoattn.tasks.depth.loss import depth_loss, to_depth
from geoattn.tasks.depth.metrics import DepthScores
from geoattn.tasks.panoramas.learning import PanoramaTask
from geoattn.training import FitConfig


class DepthEstimation(PanoramaTask):
    """Area-weighted absolute error of log depth; predictions are metres.

    Parameters
    ----------
    network
        To ``[B, 1, *grid.shape]``.
    grid, config
        As for :class:`PanoramaTask`.
    """

    truth = "depth"

    def __init__(self, network: nn.Module, grid: SphericalGrid, config: FitConfig) -> None:
        super().__init__(network, grid, DepthScores(grid), config)

    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        return depth_loss(output[:, 0], truth, self.area(), self.total)

    def to_prediction(self, output: Tensor) -> Tensor:
        return to_depth(output[:, 0])
