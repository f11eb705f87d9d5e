"""The moving average of a run's weights, by which it is judged and which it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averages(Callback):
    """An exponential moving average of all weights that learn, renewed after every step.

    After a step, average ← decay · average + (1 − decay) · weights; the first is the weights themselves.
    While the run is validated, and when it has ended, the module has the averages for its weights. A
    checkpoint has the averages as its ``state_dict``, as whoever loads it expects, and the weights beside
    them, from which the run goes on.
    """

    #: what a checkpoint calls the weights themselves
    WEIGHTS = "weights_without_average"

    def __init__(self, decay: float) -> None:
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._averages: dict[str, Tensor] = {}
        self._step = 0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        if trainer.global_step == self._step:
            return  # a part of a step
        self._step = trainer.global_step
        weights = {name: p.detach() for name, p in _learned(module)}
        if not self._averages:
            self._averages = {name: p.clone() for name, p in weights.items()}
        else:
            self._average(list(self._averages.values()), list(weights.values()), self._step)

    @torch.no_grad()
    def _swap(self, module: nn.Module) -> None:
        for name, p in _learned(module):
            if name in self._averages:
                kept = p.clone()
                p.copy_(self._averages[name])
                self._averages[name].copy_(kept)

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._swap(module)

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._swap(module)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._swap(module)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._step = state_dict["step"]

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        names = {p: name for name, p in _learned(module)}
        averages = {  # a parameter that is used twice has two names there
            name: self._averages[names[p]]
            for name, p in module.named_parameters(remove_duplicate=False)
            if names.get(p) in self._averages
        }
        checkpoint[self.WEIGHTS] = {name: p.detach() for name, p in _learned(module)}
        checkpoint["state_dict"] = checkpoint["state_dict"] | averages

    @torch.no_grad()
    def on_load_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # the module has been given the averages
        self._averages = {name: p.detach().clone() for name, p in _learned(module)}
        for name, p in _learned(module):
            p.copy_(checkpoint[self.WEIGHTS][name])


def _learned(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in module.named_parameters() if p.requires_grad)
