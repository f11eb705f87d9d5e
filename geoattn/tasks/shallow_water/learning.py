"""Training a forecaster on trajectories, with Lightning: data, module, and a run that resumes."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from geoattn.grids.base import Grid
from geoattn.tasks.shallow_water.data import Normalisation


class Transitions(Dataset[tuple[Tensor, Tensor]]):
    """All windows of ``unroll + 1`` successive states of ``trajectories [n, steps + 1, C, *grid.shape]``.

    A sample is the state ``[C, *grid.shape]`` and the ``unroll`` states that follow it.
    """

    def __init__(self, trajectories: Tensor, unroll: int = 1) -> None:
        if trajectories.shape[1] <= unroll:
            raise ValueError(
                f"trajectories of {trajectories.shape[1]} states hold no window of {unroll + 1}; "
                f"save at least {unroll + 1} states, or lower unroll"
            )
        self.trajectories, self.unroll = trajectories, unroll
        self.starts = trajectories.shape[1] - unroll

    def __len__(self) -> int:
        return self.trajectories.shape[0] * self.starts

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        trajectory, start = divmod(index, self.starts)
        window = self.trajectories[trajectory, start : start + self.unroll + 1]
        return window[0], window[1:]


class Stepper(nn.Module):
    """A network made to step fields ``[B, C, *grid.shape]`` in physical units forward in time.

    The network sees fields of zero mean and unit variance, and gives the change over a step in units
    of the typical change, so that fast and slow channels count alike. All statistics are per channel,
    area-weighted, of the training trajectories; they travel in the checkpoint.
    """

    def __init__(self, network: nn.Module, trajectories: Tensor, grid: Grid) -> None:
        super().__init__()
        self.network = network
        per_channel = (-1, *(1 for _ in grid.shape))
        fields = Normalisation.of(trajectories, grid)
        changes = Normalisation.of(trajectories.diff(dim=1), grid)
        self.register_buffer("mean", fields.mean.reshape(per_channel))
        self.register_buffer("deviation", fields.standard_deviation.reshape(per_channel))
        self.register_buffer("change", changes.standard_deviation.reshape(per_channel))

    def forward(self, fields: Tensor) -> Tensor:
        mean, deviation, change = map(self.get_buffer, ("mean", "deviation", "change"))
        tendency: Tensor = self.network((fields - mean) / deviation)
        return fields + change * tendency


class Forecaster(lightning.LightningModule):
    """One-step or unrolled training on the area-weighted squared error in units of the typical change.

    A loss of 1 is that of persistence over one step.
    """

    def __init__(self, stepper: Stepper, grid: Grid, learning_rate: float, steps: int) -> None:
        super().__init__()
        self.stepper = stepper
        self.learning_rate, self.steps = learning_rate, steps
        area = torch.tensor(grid.weights / grid.weights.sum(), dtype=torch.float32)
        self.register_buffer("area", area, persistent=False)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        fields, targets = batch
        area, change = self.get_buffer("area"), self.stepper.get_buffer("change")
        errors = []
        for target in targets.unbind(1):
            fields = self.stepper(fields)
            error = ((fields - target) / change).square() * area
            errors.append(error.flatten(2).sum(2).mean())
        return torch.stack(errors).mean()

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the training loss became {loss.item()} at step {self.global_step}")
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self.log("val_loss", self.loss(batch), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.steps + 1, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TrainingBar(TQDMProgressBar):
    """One line of progress with the losses, and no second bar for the short validation."""

    def get_metrics(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> dict[str, Any]:
        return {k: v for k, v in super().get_metrics(trainer, module).items() if k != "v_num"}

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)


def train(
    stepper: Stepper,
    grid: Grid,
    training: Tensor,
    validation: Tensor,
    folder: Path,
    *,
    steps: int,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    unroll: int = 1,
    seed: int = 0,
) -> Stepper:
    """Train ``stepper`` in place for ``steps`` optimiser steps, and return it.

    The folder receives checkpoints, and ``metrics/version_*/metrics.csv``, one for each start. A run
    that was interrupted continues from its last checkpoint when it is started again with the same
    folder; a finished one is loaded. The order of the samples follows from ``seed`` and the epoch alone.

    Parameters
    ----------
    training, validation
        Trajectories in physical units, ``[n, steps + 1, C, *grid.shape]``.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its tips, not its warnings
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec", module="lightning")  # its own affair
    lightning.seed_everything(seed, verbose=False)
    transitions = Transitions(training, unroll)
    # orders samples by (seed, epoch), so that a resumed run sees what an uninterrupted one would have
    order: DistributedSampler[Any] = DistributedSampler(transitions, num_replicas=1, rank=0, seed=seed)
    loader = DataLoader(transitions, batch_size, sampler=order, drop_last=True)
    if len(loader) == 0:
        raise ValueError(
            f"{len(training)} trajectories of {training.shape[1]} states fill no batch of {batch_size}; "
            "simulate more of them, or lower batch_size"
        )
    held_out = DataLoader(Transitions(validation, unroll), batch_size)
    forecaster = Forecaster(stepper, grid, learning_rate, steps)
    checkpoints = ModelCheckpoint(folder / "checkpoints", save_last=True, save_top_k=0, every_n_epochs=1)
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="auto",
        devices=1,
        logger=CSVLogger(folder, name="metrics"),
        callbacks=[checkpoints, TrainingBar(refresh_rate=10)],
        default_root_dir=folder,
        log_every_n_steps=min(10, len(loader)),
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    last = folder / "checkpoints" / "last.ckpt"
    trainer.fit(forecaster, loader, held_out, ckpt_path=last if last.exists() else None)
    return stepper.eval()
