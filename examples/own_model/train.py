"""Training: python train.py --help lists every setting; a run that was stopped goes on by the same call."""

from __future__ import annotations

from pathlib import Path

import lightning
import torch
from data import GRID, Turns
from jsonargparse import CLI
from model import OwnModel, weighted_error
from torch import Tensor

from geoattn.training import Data, FitConfig, fit, optimizers


class Task(lightning.LightningModule):
    """What is learned, and by which optimiser."""

    def __init__(self, model: OwnModel, config: FitConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def step(self, name: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = weighted_error(self.model(batch[0]), batch[1], GRID)
        self.log(name, loss, prog_bar=True)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return self.step("train_loss", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self.step("val_loss", batch)

    def configure_optimizers(self) -> dict:
        return optimizers(self, self.config)


RUN = FitConfig(steps=300, validate_every=100, learning_rate=5e-3)


def main(
    fit_config: FitConfig = RUN,
    output: Path = Path("runs/own-model"),
    dim: int = 32,
    depth: int = 2,
) -> float:
    """Train, and print and return the error beside that of leaving the field as it is."""
    lightning.seed_everything(fit_config.seed, verbose=False)
    task = Task(OwnModel(GRID, dim=dim, depth=depth), fit_config)
    fit(task, Data(Turns(256, seed=1), Turns(32, seed=2), fit_config), output, fit_config)
    test = Turns(32, seed=3)
    with torch.no_grad():
        error = weighted_error(task.model.cpu().eval()(test.fields), test.turned, GRID)
    share = float(error / weighted_error(test.fields, test.turned, GRID))
    print(f"error on fields never seen: {share:.3f} of what leaving them as they are would cost")
    return share


if __name__ == "__main__":
    CLI(main, as_positional=False)
