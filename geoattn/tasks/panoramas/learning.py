"""Learning from panoramas with Lightning: what segmentation and depth have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric

from geoattn.grids import SphericalGrid
from geoattn.tasks.panoramas.areas import area_of
from geoattn.tasks.panoramas.samples import Sample


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
    learning_rate, weight_decay, steps
        AdamW, with one cycle over ``steps`` optimiser steps.
    """

    #: the entry of a sample to be predicted
    truth: str

    def __init__(
        self,
        network: nn.Module,
        grid: SphericalGrid,
        scores: Metric,
        *,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.01,
        steps: int = 1000,
    ) -> None:
        super().__init__()
        self.network = network
        self.learning_rate, self.weight_decay, self.steps = learning_rate, weight_decay, steps
        self.register_buffer("area", area_of(grid), persistent=False)
        self.validation_scores, self.test_scores = scores, scores.clone()

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
        self.log("val_loss", self.loss(output, truth), prog_bar=True, batch_size=len(truth))
        self.validation_scores.update(self.to_prediction(output), truth)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val_", self.validation_scores)

    def test_step(self, batch: Sample, batch_idx: int) -> None:
        self.test_scores.update(self.predict(batch["rgb"]), batch[self.truth])  # type: ignore[literal-required]

    def on_test_epoch_end(self) -> None:
        self._log_scores("test_", self.test_scores)

    def _log_scores(self, prefix: str, scores: Metric) -> None:
        self.log_dict({prefix + name: value.float() for name, value in scores.compute().items()})
        scores.reset()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.steps + 1, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class PanoramaData(lightning.LightningDataModule):
    """Data sets for training, validation and testing, in batches."""

    def __init__(
        self,
        train: Dataset[Sample],
        val: Dataset[Sample],
        test: Dataset[Sample] | None = None,
        *,
        batch_size: int = 8,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.val, self.test = train, val, test
        self.options: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers}

    def train_dataloader(self) -> DataLoader[Sample]:
        return DataLoader(self.train, shuffle=True, drop_last=True, **self.options)

    def val_dataloader(self) -> DataLoader[Sample]:
        return DataLoader(self.val, **self.options)

    def test_dataloader(self) -> DataLoader[Sample]:
        if self.test is None:
            raise ValueError("no data set for testing was given: pass test=… to PanoramaData")
        return DataLoader(self.test, **self.options)
