"""Training: python train.py --help lists every setting; a run that was stopped goes on by the same call."""

from __future__ import annotations

from pathlib import Path

import lightning
import torch
from data import GRID, Turns
from jsonargparse import CLI
from model import OwnConfig
from torch import Tensor

from geoattn import training
from geoattn.models import Model
from geoattn.training import FitConfig


class Task(lightning.LightningModule):
    """What is learned, and by which optimiser."""

    def __init__(self, model: Model, config: FitConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def step(self, name: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = error_of(self.model(batch[0]), batch[1])
        self.log(name, loss, prog_bar=True)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return self.step("train_loss", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self.step("val_loss", batch)

    def configure_optimizers(self) -> dict:
        return training.optimizers(self, self.config)


def error_of(found: Tensor, true: Tensor) -> Tensor:
    """Mean square over the sphere, each point by its area, then over samples and channels."""
    mean: Tensor = GRID.mean((found - true).square()).mean()
    return mean


RUN = FitConfig(steps=300, validate_every=100, learning_rate=5e-3)


def main(
    fit: FitConfig = RUN,
    output: Path = Path("runs/own-model"),
    dim: int = 32,
    depth: int = 2,
) -> float:
    """Train, keep the model, and print and return its error beside that of leaving the field as it is."""
    lightning.seed_everything(fit.seed, verbose=False)
    task = Task(OwnConfig(GRID, dim=dim, depth=depth).build(), fit)
    training.fit(task, training.Data(Turns(256, seed=1), Turns(32, seed=2), fit), output, fit)
    task.model.cpu().eval().save_pretrained(output / "model")
    model, test = Model.from_pretrained(output / "model"), Turns(32, seed=3)
    with torch.no_grad():
        error = error_of(model(test.fields), test.turned)
    share = float(error / error_of(test.fields, test.turned))
    print(f"error on fields never seen: {share:.3f} of what leaving them as they are would cost")
    return share


if __name__ == "__main__":
    CLI(main, as_positional=False)
