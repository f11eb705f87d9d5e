"""The optimiser that all tasks share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def one_cycle(module: nn.Module, learning_rate: float, weight_decay: float, steps: int) -> dict[str, Any]:
    """AdamW with one cycle over ``steps``: up in the first tenth, then down to zero along a cosine.

    What ``LightningModule.configure_optimizers`` returns. Biases, gains and other vectors do not decay.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps + 1, pct_start=0.1
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
