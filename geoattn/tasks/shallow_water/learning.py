"""Training a forecaster on trajectories, with Lightning: data, module, and a run that resumes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from geoattn.grids.base import Grid


class Transitions(Dataset[tuple[Tensor, Tensor]]):
    """All windows of ``unroll + 1`` successive states of ``trajectories [n, steps + 1, *grid.shape, C]``.

    A sample is the state ``[*grid.shape, C]`` and the ``unroll`` states that follow it.
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


class Normalized(nn.Module):
    """A model of normalised states, applied to states in physical units: state → next state.

    ``mean`` and ``std`` are one number per channel; they travel in the checkpoint.
    """

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    def forward(self, state: Tensor) -> Tensor:
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        prediction: Tensor = self.model((state - mean) / std)
        return prediction * std + mean


class Forecaster(lightning.LightningModule):
    """One-step (or unrolled) training with the grid's area-weighted squared error."""

    def __init__(self, model: Normalized, grid: Grid, learning_rate: float = 2e-3, steps: int = 1000) -> None:
        super().__init__()
        self.model = model
        self.learning_rate, self.steps = learning_rate, steps
        weights = torch.tensor(grid.weights, dtype=torch.float32)
        self.register_buffer("area", (weights / weights.sum())[..., None], persistent=False)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        state, targets = batch
        total = state.new_zeros(())
        std = self.model.get_buffer("std")
        for target in targets.unbind(1):
            state = self.model(state)
            error = ((state - target) / std).square() * self.get_buffer("area")
            total = total + error.flatten(1).sum(1).mean() / error.shape[-1]
        return total / targets.shape[1]

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


def train(
    model: Normalized,
    grid: Grid,
    train_states: Tensor,
    validation_states: Tensor,
    folder: Path,
    *,
    steps: int,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    unroll: int = 1,
    seed: int = 0,
) -> Normalized:
    """Train ``model`` for ``steps`` optimiser steps and return it with its final weights.

    The folder receives ``metrics.csv`` and checkpoints. A run that was interrupted continues
    from its last checkpoint when it is started again with the same folder; a finished one is
    loaded. The order of the samples follows from ``seed`` alone.

    Parameters
    ----------
    train_states, validation_states
        Trajectories in physical units, ``[n, steps + 1, *grid.shape, C]``.
    """
    lightning.seed_everything(seed, verbose=False)
    transitions = Transitions(train_states, unroll)
    # orders samples by (seed, epoch), so that a resumed run sees what an uninterrupted one would have
    order = DistributedSampler(transitions, num_replicas=1, rank=0, seed=seed)
    loader = DataLoader(transitions, batch_size, sampler=order, drop_last=True)
    if len(loader) == 0:
        raise ValueError(
            f"{len(train_states)} trajectories of {train_states.shape[1]} states fill no batch of {batch_size}"
        )
    validation = DataLoader(Transitions(validation_states, unroll), batch_size)
    forecaster = Forecaster(model, grid, learning_rate, steps)
    checkpoints = ModelCheckpoint(folder / "checkpoints", save_last=True, save_top_k=0, every_n_epochs=1)
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="auto",
        devices=1,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[checkpoints, TQDMProgressBar(refresh_rate=10)],
        default_root_dir=folder,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    last = folder / "checkpoints" / "last.ckpt"
    trainer.fit(forecaster, loader, validation, ckpt_path=last if last.exists() else None)
    return forecaster.model


def write_json(path: Path, content: Any) -> None:
    """Write atomically: the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)
