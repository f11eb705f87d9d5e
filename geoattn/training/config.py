"""How long and how a model learns."""

from __future__ import annotations

import dataclasses

from geoattn.grids.checks import integer


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
    learning_rate, weight_decay
        Largest learning rate of the cycle, and the decay of AdamW.
    gradient_norm
        Gradients are scaled down to this norm; None leaves them alone.
    patience
        Stop after as many rounds without a lower ``val_loss``, and keep the best model; None trains
        to the end and keeps the last.
    seed
        Decides initial weights, the order of samples and dropout.
    workers
        Processes that read samples.
    accelerator, devices
        As for ``lightning.Trainer``: several devices share each batch. Under torchrun all its processes do.
    domain
        Processes that divide each field among them, under torchrun: see
        :func:`geoattn.parallel.parallelize`. A run goes on with any number.
    precision
        As for ``lightning.Trainer``; "auto" is bfloat16 autocast on GPUs that have it, else float32.
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

    def __post_init__(self) -> None:
        for name in ("steps", "validate_every", "batch_size", "devices", "domain"):
            if integer(name, getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.steps % self.round_length:
            raise ValueError(
                f"steps={self.steps} is no multiple of validate_every={self.validate_every}: take "
                f"{self.steps - self.steps % self.round_length} steps, or another validate_every"
            )
        if self.batch_size % self.devices:
            raise ValueError(f"batch_size={self.batch_size} does not divide among devices={self.devices}")

    @property
    def round_length(self) -> int:
        """Steps of each round."""
        return min(self.steps, self.validate_every)
