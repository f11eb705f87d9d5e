"""Learning to forecast from trajectories, with Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from geoattn import models
from geoattn.grids.base import Grid
from geoattn.tasks.shallow_water.data import Normalisation
from geoattn.training import Data, FitConfig, fit, one_cycle


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

    def name_of(self, index: int) -> str:
        """For error messages."""
        trajectory, start = divmod(index, self.starts)
        return f"trajectory {trajectory}, states {start} to {start + self.unroll}"


_STATISTICS = ("mean", "deviation", "change", "largest")


def _spread(fields: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
    """Area-weighted mean and standard deviation over the sphere, ``[B, C, 1, …]``."""
    points = tuple(range(2, fields.ndim))
    middle = (fields * area).sum(points, keepdim=True)
    variance = ((fields - middle).square() * area).sum(points, keepdim=True)
    return middle, variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()


class Stepper(nn.Module):
    """A network made to step fields ``[B, C, *grid.shape]`` in physical units forward in time.

    The network sees fields of zero mean and unit variance, and gives the change over a step in units
    of the typical change, so that fast and slow channels count alike. All statistics are per channel,
    area-weighted, of the training trajectories; they travel in the checkpoint. The area mean of each
    channel stays what it was, as it does in the equations: mass is conserved, and the mean vorticity
    and divergence of any flow on the sphere are zero. The variance over the sphere, which the
    conservation of energy and potential enstrophy bounds, is bounded too: a step that would raise it
    above both the largest of the training states and what it was is scaled back to that.
    """

    def __init__(self, network: nn.Module, trajectories: Tensor, grid: Grid) -> None:
        super().__init__()
        fields = Normalisation.of(trajectories, grid)
        changes = Normalisation.of(trajectories.diff(dim=1), grid)
        area = torch.tensor(grid.shares, dtype=torch.float32)
        largest = _spread(trajectories.flatten(0, 1), area)[1].amax(0)
        self._start(
            network, grid, fields.mean, fields.standard_deviation, changes.standard_deviation, largest
        )

    def _start(
        self, network: nn.Module, grid: Grid, mean: Tensor, deviation: Tensor, change: Tensor, largest: Tensor
    ) -> None:
        self.network = network
        per_channel = (-1, *(1 for _ in grid.shape))
        self.register_buffer("mean", mean.reshape(per_channel))
        self.register_buffer("deviation", deviation.reshape(per_channel))
        self.register_buffer("change", change.reshape(per_channel))
        self.register_buffer("largest", largest.reshape(per_channel))
        area = torch.tensor(grid.shares, dtype=torch.float32)
        self.register_buffer("area", area, persistent=False)

    def forward(self, fields: Tensor) -> Tensor:
        mean, deviation, change, area = map(self.get_buffer, ("mean", "deviation", "change", "area"))
        tendency = self.network((fields - mean) / deviation)
        points = tuple(range(2, fields.ndim))
        tendency = tendency - (tendency * area).sum(points, keepdim=True)
        stepped = fields + change * tendency
        _, before = _spread(fields, area)
        middle, after = _spread(stepped, area)
        bound = torch.maximum(self.get_buffer("largest"), before)
        shrink = (bound / after).clamp(max=1.0)
        bounded: Tensor = torch.where(shrink < 1.0, middle + shrink * (stepped - middle), stepped)
        return bounded

    def save(self, path: Path, **extra: Any) -> None:
        """Network and statistics in one file; see :func:`geoattn.models.save`."""
        statistics = {name: self.get_buffer(name).cpu() for name in _STATISTICS}
        models.save(path, self.network, statistics=statistics, **extra)

    @classmethod
    def load(cls, path: Path, grid: Grid, config: models.ModelConfig | None = None) -> Stepper:
        """What :meth:`save` wrote; the network must be the one of ``config``, where that is given."""
        network, extra = models.load(path, config)
        stepper = cls.__new__(cls)
        nn.Module.__init__(stepper)
        stepper._start(network, grid, **extra["statistics"])
        return stepper.eval()


class Forecaster(lightning.LightningModule):
    """One-step or multi-step training on the area-weighted squared error in units of the typical change.

    A loss of 1 is that of persistence over one step.

    Parameters
    ----------
    stepper, grid
        The model and where its fields live.
    config
        Of the run.
    pushforward
        With several steps: send gradients through the last one only, the steps before it being there to
        meet the errors of forecasts (Brandstetter et al., 2202.03376). Otherwise all steps are unrolled,
        all count, and gradients go through all.
    """

    def __init__(self, stepper: Stepper, grid: Grid, config: FitConfig, pushforward: bool = False) -> None:
        super().__init__()
        self.stepper = stepper
        self.settings, self.pushforward = config, pushforward
        area = torch.tensor(grid.shares, dtype=torch.float32)
        self.register_buffer("area", area, persistent=False)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        fields, targets = batch
        if self.pushforward:
            with torch.no_grad():
                for _ in range(targets.shape[1] - 1):
                    fields = self.stepper(fields)
            targets = targets[:, -1:]
        area, change = self.get_buffer("area"), self.stepper.get_buffer("change")
        errors = []
        for target in targets.unbind(1):
            fields = self.stepper(fields)
            error = ((fields - target) / change).square() * area
            errors.append(error.flatten(2).sum(2).mean())
        return torch.stack(errors).mean()

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self.log("val_loss", self.loss(batch), prog_bar=True)

    def configure_optimizers(self) -> Any:
        c = self.settings
        return one_cycle(self, c.learning_rate, c.weight_decay, c.steps)


def train(
    stepper: Stepper,
    grid: Grid,
    training: Tensor,
    validation: Tensor,
    folder: Path,
    config: FitConfig,
    *,
    unroll: int = 1,
    pushforward: bool = False,
    settings: dict[str, Any] | None = None,
) -> Stepper:
    """Train ``stepper`` in place and return it; :func:`geoattn.training.fit` says what the folder receives.

    Parameters
    ----------
    training, validation
        Trajectories in physical units, ``[n, steps + 1, C, *grid.shape]``.
    unroll, pushforward
        Steps of a training sample, and how they are learned from: see :class:`Forecaster`.
    """
    forecaster = Forecaster(stepper, grid, config, pushforward)
    data = Data(Transitions(training, unroll), Transitions(validation, unroll), config)
    options = {"unroll": unroll, "pushforward": pushforward}
    fit(forecaster, data, folder, config, {**options, **(settings or {})})
    return stepper.eval()
