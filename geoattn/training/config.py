"""How long and how a model learns."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from geoattn._fields import check_fields
from geoattn.grids.checks import integer
from geoattn.training.loggers import check_names
from geoattn.training.optimisers import find_optimizer, find_schedule


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Everything about a run that is neither the model nor its data.

    Parameters
    ----------
    steps
        Optimiser steps, a multiple of ``validate_every`` unless there are fewer.
    validate_every
        Steps in a round; each round ends with a validation, a line of metrics and a checkpoint.
    batch_size
        Samples in a step, all processes together.
    accumulate
        Parts in which the samples of a step go through the model, one part after the other: the step is the
        same, and needs the memory of a part.
    learning_rate, weight_decay
        Largest learning rate of the schedule, and decay of the weights, but for biases, gains and
        coefficients of position.
    optimizer
        An optimiser of torch.optim, such as adamw or sgd, or of timm.optim, such as lamb or timm:adamw.
    optimizer_options
        Further arguments of it, {"betas": [0.9, 0.95]}.
    schedule
        A schedule of torch.optim.lr_scheduler, such as onecycle, cosine or polynomial, or of timm.scheduler,
        such as timm:cosine, stepped with the optimiser; or none. Its length is the run's.
    schedule_options
        Further arguments of it, {"eta_min": 1e-5}.
    warmup
        Steps in which the learning rate rises before the schedule begins, beside the rise that onecycle has.
    gradient_norm
        Gradients are scaled down to this norm; None leaves them alone.
    ema
        Decay of an exponential moving average of the weights, 0.999, by which the run is validated and which
        it leaves; None for the weights themselves.
    grad_checkpointing
        Keep only the inputs of the model's blocks for the backward pass, and work the rest out again.
    patience
        Stop after as many rounds without a lower ``val_loss``, and keep the best model; None trains
        to the end and keeps the last.
    seed
        Decides initial weights, the order of samples and dropout.
    workers
        Processes that read samples.
    accelerator, devices, nodes
        As for ``lightning.Trainer``: the devices of all nodes share each batch. Under torchrun all its
        processes do.
    strategy
        As for ``lightning.Trainer``: how devices work together, such as ddp or fsdp. Under torchrun auto, or
        ddp, is DistributedDataParallel in the group of its processes.
    domain
        Processes that divide each field among them, under torchrun: see
        :func:`geoattn.parallel.parallelize`. A run goes on with any number.
    precision
        As for ``lightning.Trainer``; "auto" is bfloat16 autocast on GPUs that have it, else float32.
    logger
        Where losses go step by step, beside ``metrics.csv`` with its line for each round: csv, tensorboard
        or wandb (offline), several with commas between, each in a folder of its name; or none.

    Raises
    ------
    TypeError, ValueError
        If a number is of the wrong kind or out of range, or a name is unknown.

    Examples
    --------
    >>> config = ga.training.FitConfig(steps=400, optimizer="sgd", schedule="cosine", warmup=20)
    >>> config.round_length
    100
    """

    steps: int = 1000
    validate_every: int = 100
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    gradient_norm: float | None = 1.0
    patience: int | None = None
    seed: int = 0
    workers: int = 0
    accelerator: str = "auto"
    devices: int = 1
    domain: int = 1
    precision: str = "auto"
    accumulate: int = 1
    optimizer: str = "adamw"
    optimizer_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    schedule: str = "onecycle"
    schedule_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    warmup: int = 0
    ema: float | None = None
    grad_checkpointing: bool = False
    nodes: int = 1
    strategy: str = "auto"
    logger: str = "none"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("steps", "validate_every", "batch_size", "accumulate", "devices", "nodes", "domain"):
            if integer(name, getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.steps % self.round_length:
            raise ValueError(
                f"steps={self.steps} is no multiple of validate_every={self.validate_every}: take "
                f"{self.steps - self.steps % self.round_length} steps, or another validate_every"
            )
        if self.batch_size % (self.devices * self.nodes):
            of_nodes = f" of nodes={self.nodes}" if self.nodes > 1 else ""
            raise ValueError(
                f"batch_size={self.batch_size} does not divide among devices={self.devices}{of_nodes}"
            )
        if self.batch_size % (self.devices * self.nodes * self.accumulate):
            raise ValueError(
                f"batch_size={self.batch_size}, the samples of a whole step, does not divide into "
                f"accumulate={self.accumulate} parts for each device"
            )
        if not 0 <= integer("warmup", self.warmup) < self.steps:
            raise ValueError(f"warmup must be from 0 to below steps={self.steps}, got {self.warmup}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must be a decay between 0 and 1, such as 0.999, got {self.ema!r}")
        if self.ema is not None and self.strategy.startswith(("fsdp", "deepspeed")):
            raise ValueError(
                f"ema averages whole weights, and strategy {self.strategy!r} divides them among devices: "
                "strategy='ddp', or ema=None"
            )
        check_names(self.logger)
        with contextlib.suppress(ModuleNotFoundError):  # said where it is needed: runs are scored without it
            find_optimizer(self.optimizer)
            if self.schedule != "none":
                find_schedule(self.schedule)

    @property
    def round_length(self) -> int:
        """Steps of each round."""
        return min(self.steps, self.validate_every)
