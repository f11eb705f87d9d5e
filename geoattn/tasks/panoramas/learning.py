"""Learning from panoramas with Lightning: what segmentation and depth have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from geoattn import _extras

_extras.require("geoattn.tasks.panoramas.learning", "lightning", "torchmetrics")

import lightning
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from geoattn.grids import SphericalGrid
from geoattn.nn import Table
from geoattn.parallel import Shards
from geoattn.tasks.panoramas.areas import area_of
from geoattn.tasks.panoramas.samples import Sample
from geoattn.training import FitConfig, optimizers


class PanoramaTask(lightning.LightningModule):
    """A network that sees ``rgb [B, 3, *grid.shape]``, its loss and its scores.

    Parameters
    ----------
    network
        From ``[B, 3, *grid.shape]``, of about zero mean and unit variance, to ``[B, channels,
        *grid.shape]``. It may treat the grid as a plane of the same shape; loss and scores know better.
    grid
        Where the samples live.
    scores
        Updated with what :meth:`predict` returns.
    config
        Gives the optimiser its learning rate, weight decay and steps.
    """

    #: the entry of a sample to be predicted
    truth: str

    def __init__(
        self,
        network: nn.Module,
        grid: SphericalGrid,
        scores: Metric,
        config: FitConfig,
    ) -> None:
        super().__init__()
        self.network, self.grid = network, grid
        self.config = config
        #: adds up sums over the points of all processes that hold some; None where one holds all
        self.total: Callable[[Tensor], Tensor] | None = None
        self.area = Table(area_of(grid).numpy(), grid)
        self.scores = scores

    def divide(self, shards: Shards) -> None:
        """Work on the points of this process: :func:`geoattn.parallel.parallelize` asks for it."""
        self.total = shards.sum

    @abstractmethod
    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        """What is made small: a number, from the network's output."""

    @abstractmethod
    def to_prediction(self, output: Tensor) -> Tensor:
        """What is scored and shown, from the network's output."""

    def forward(self, rgb: Tensor) -> Tensor:
        output: Tensor = self.network((rgb - 0.5) / 0.25)
        return output

    @torch.no_grad()
    def predict(self, rgb: Tensor) -> Tensor:
        """The prediction for ``rgb [B, 3, *grid.shape]`` in [0, 1]."""
        return self.to_prediction(self(rgb))

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        loss = self.loss(self(batch["rgb"]), batch[self.truth])  # type: ignore[literal-required]
        if not torch.isfinite(loss):
            names = ", ".join(batch["name"])
            raise FloatingPointError(f"the loss became {loss.item()} at step {self.global_step}, on {names}")
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        output, truth = self(batch["rgb"]), batch[self.truth]  # type: ignore[literal-required]
        self.log("val_loss", self.loss(output, truth), prog_bar=True, batch_size=len(truth), sync_dist=True)
        self.scores.update(self.to_prediction(output), truth)

    def on_validation_epoch_end(self) -> None:
        scores = self.scores.compute()
        self.log_dict({f"val_{name}": value.float() for name, value in scores.items()})
        self.scores.reset()

    def configure_optimizers(self) -> Any:
        return optimizers(self, self.config)
