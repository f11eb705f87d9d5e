"""What a run does beside learning: repeat exactly, watch the loss, keep a record, show a bar."""

from __future__ import annotations

import csv
import io
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch import Tensor

from geoattn._files import write_json, write_text


class Reseed(Callback):
    """Random numbers of each round follow from the seed, the round and the process, and nothing else.

    No generator's state needs to be stored for a resumed run to go on as if nothing had happened.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        source = np.random.SeedSequence([self.seed, trainer.current_epoch, trainer.global_rank])
        lightning.seed_everything(int(source.generate_state(1)[0]), verbose=False)


class FiniteLoss(Callback):
    """Stops before a loss that is not a number spoils the weights."""

    def on_before_backward(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, loss: Tensor
    ) -> None:
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(
                f"the training loss became {loss.item()} at step {trainer.global_step}: "
                "lower learning_rate, or gradient_norm"
            )


class Record(Callback):
    """One line for each round, in ``metrics.csv`` and ``metrics.json``.

    A line holds the step, the mean training loss, every metric that the module logs, and the median
    seconds of a step. The lines travel in the checkpoint: those after it are written again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self._losses: list[Tensor] = []
        self._seconds: list[float] = []
        self._began = math.nan

    def on_train_batch_start(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self._seconds.append(time.perf_counter() - self._began)
        self._losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)  # Lightning divides

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if not self._losses:
            return
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        mean = torch.stack(self._losses).mean()
        logged["train_loss"] = float(trainer.strategy.reduce(mean, reduce_op="mean"))  # over all processes
        row = {"step": float(trainer.global_step), **dict(sorted(logged.items()))}
        steps = np.reshape(self._seconds, (-1, trainer.accumulate_grad_batches)).sum(axis=1)
        self.rows.append(row | {"seconds_per_step": float(np.median(steps))})
        self._losses, self._seconds = [], []
        if trainer.is_global_zero:
            self.write()

    def write(self, **more: Any) -> None:
        """Write both files; ``more`` goes into the JSON, where infinities and NaN are words."""
        text = io.StringIO()
        table = csv.DictWriter(text, list(dict.fromkeys(name for row in self.rows for name in row)))
        table.writeheader()
        table.writerows(self.rows)
        write_text(text.getvalue(), self.folder / "metrics.csv")
        write_json(more | {"rounds": self.rows}, self.folder / "metrics.json", exact=True)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]


class LearningRates(Callback):
    """Tells the loggers the learning rate every so many steps, as ``learning_rate``."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            for logger in trainer.loggers:
                logger.log_metrics({"learning_rate": rate}, step=trainer.global_step)


def silent() -> bool:
    """Whether runs are to say nothing, as ``TQDM_DISABLE`` asks of bars."""
    return os.environ.get("TQDM_DISABLE", "0") not in ("", "0")


def tell(line: str) -> None:
    """Say something about a run."""
    if not silent():
        print(line, flush=True)


class TrainingBar(TQDMProgressBar):
    """One line of progress with the losses on a terminal, and no second bar for the short validation.

    Elsewhere a line for each round of training, with what its line of metrics says, since a log of thousands
    of bars helps nobody; nothing at all where ``TQDM_DISABLE`` is set.
    """

    def __init__(self, record: Record) -> None:
        super().__init__(refresh_rate=10)
        self._on_terminal, self._record = sys.stdout.isatty(), record
        if not self._on_terminal:
            self.disable()
        self._told = 0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, module)
        self._told = trainer.global_step

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        super().on_train_epoch_end(trainer, module)
        # Lightning ends the round again that a resumed run begins with
        if not self._on_terminal and trainer.is_global_zero and trainer.global_step > self._told:
            self._told = trainer.global_step
            row = self._record.rows[-1] if self._record.rows else {}  # without a validation there is none
            names = dict.fromkeys(("train_loss", "val_loss", *trainer.progress_bar_metrics))
            losses = [f"{name} {row[name]:.4g}" for name in names if name in row]
            tell(f"Epoch {trainer.current_epoch}: {', '.join([f'step {trainer.global_step}', *losses])}")

    def get_metrics(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> dict[str, Any]:
        return {k: v for k, v in super().get_metrics(trainer, module).items() if k != "v_num"}

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)
