"""Runs on many processes, for ``test_parallel_runs.py``: each function in every process."""

from __future__ import annotations

import copy
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from parallel_jobs import group_of
from parallel_model_jobs import averaged, error

import geoattn as ga
from geoattn.tasks.depth import experiment as depth
from geoattn.tasks.panoramas import experiment as panoramas
from geoattn.tasks.segmentation import experiment as segmentation
from geoattn.tasks.settings import ModelSettings
from geoattn.tasks.shallow_water import experiment
from geoattn.training import FitConfig
from geoattn.training.forecasting import Forecasting
from geoattn.xarray import Forecaster, Schema, Windows, statistics
from geoattn.xarray.forecasts.rollout_store import RolloutStore


def settings(folder: Path, domain: int, steps: int, rounds: int) -> experiment.Settings:
    """A toy of the shallow-water experiment, on patches and with a coarser stage."""
    return experiment.Settings(
        data=experiment.DataSettings(
            str(folder / "data"), nlat=12, nlon=24, training=4, validation=1, test=2, states=9
        ),
        model=ModelSettings(
            dim=8, depth=1, num_heads=2, radius=30.0, patch=2, stages=2, features=2, position="directional"
        ),
        fit=FitConfig(
            steps=steps,
            validate_every=steps // rounds,
            batch_size=4,
            learning_rate=3e-3,
            accelerator="cpu",
            domain=domain,
        ),
        lead_steps=6,
    )


def train(folder: Path, output: Path, domain: int, steps: int = 10, rounds: int = 5) -> Any:
    """The lines of the metrics, without times."""
    experiment.train(settings(folder, domain, steps, rounds), output)
    if dist.is_initialized():
        dist.barrier()
    found = json.loads((output / "metrics.json").read_text())["rounds"]
    return [{name: row[name] for name in ("step", "train_loss", "val_loss")} for row in found]


def learn(folder: Path, name: str, domain: int) -> Any:
    """The lines of the metrics of a toy of segmentation or depth, without times."""
    made = panoramas.Settings(
        data=panoramas.DataSettings(nlat=8, nlon=16, training=4, validation=2, test=1),
        model=ModelSettings(dim=8, depth=1, num_heads=2, radius=50.0, patch=2, stages=1, features=2),
        fit=FitConfig(steps=4, validate_every=2, batch_size=2, accelerator="cpu", domain=domain),
    )
    task = {"segmentation": segmentation, "depth": depth}[name]
    task.train(made, folder)
    if dist.is_initialized():
        dist.barrier()
    assert ga.models.load(folder / "model.pt")[0].config.grid == made.data.grid
    return json.loads((folder / "metrics.json").read_text())["rounds"]


def train_until_one_dies(folder: Path, output: Path, step: int) -> None:
    """The last process is killed in the middle of a round."""
    actual = Forecasting.training_step

    def dying(self: Forecasting, batch: Any, index: int) -> Any:
        if self.global_step == step and dist.get_rank() == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return actual(self, batch, index)

    Forecasting.training_step = dying  # type: ignore[method-assign]
    train(folder, output, dist.get_world_size())


def refused(folder: Path, name: str) -> str:
    """What each process is told."""
    made = settings(folder, 3 if name == "divisor" else 2, 10, 5)
    if name == "batch":
        made = settings(folder, 1, 10, 5)
        made.fit.__dict__["batch_size"] = 6
    try:
        experiment.train(made, folder / f"run-{name}")
    except Exception as found:
        return f"{type(found).__name__}: {found}"
    return "nothing"


def stepped(n: int, store: Path, names: dict[str, Any]) -> dict[str, float] | None:
    """Errors of a step, of a loss over two steps and of its gradients; they must be those of one process."""
    group = group_of(n)
    if group is None:
        return None
    schema = Schema.of(_opened(store), names, masked={"wave": "changing", "height": "static"})
    torch.manual_seed(0)
    grid = schema.grid
    config = ga.models.TransformerConfig(
        grid, ga.geodesic(grid, radius=50.0), 2, 1, dim=8, depth=1, num_heads=2, residual=False
    )
    whole = Forecaster(
        config.build(), statistics(store, schema), np.timedelta64(3, "h"), conserve=True, bound_variance=True
    )
    with torch.no_grad():
        for p in whole.parameters():
            p.add_(0.3 * torch.randn_like(p))
    whole.double()
    part = ga.parallel.parallelize(copy.deepcopy(whole), group)
    windows = Windows(store, schema, target_steps=2)
    losses = []
    for forecaster, own in ((whole, windows), (part, windows.part(part.shards.tokens()))):
        sample = {k: v[None].double() if v.is_floating_point() else v[None] for k, v in own[3].items()}
        given = sample["input"][:, 0], sample["target"], sample["input_mask"][:, 0], sample["target_mask"]
        loss = forecaster.loss(*given)
        loss.backward()
        losses.append((loss.detach(), forecaster(given[0], given[2]).detach()))
    (true, after), (found, local) = losses
    errors = {"loss": error(found, true), "step": error(part.shards.gather(local), after)}
    gradients = zip(averaged(part, group), whole.named_parameters(), strict=True)
    return errors | {name: error(a, p.grad) for a, (name, p) in gradients}


def _opened(store: Path) -> Any:
    import xarray

    return xarray.open_zarr(store, chunks=None, consolidated=False)


class Stopped(Exception):
    pass


def forecast(
    n: int, folder: Path, output: Path, options: dict[str, Any], stop: int | None = None
) -> str | None:
    """One forecast by n processes; says what it was refused, or stopped by after some lead times."""
    group = group_of(n)
    if group is None:
        return None
    actual, left = RolloutStore.note, [stop]

    def note(self: RolloutStore, *arguments: Any, **options: Any) -> None:
        if left[0] == 0:
            raise Stopped
        actual(self, *arguments, **options)
        left[0] = left[0] and left[0] - 1

    RolloutStore.note = note  # type: ignore[method-assign]
    try:
        kept = {"progress": False, "device": "cpu", **options}
        ga.xarray.forecast(folder / "model.pt", folder / "in.zarr", output, domain=group, **kept)
    except Exception as found:
        return f"{type(found).__name__}: {found}"
    finally:
        RolloutStore.note = actual  # type: ignore[method-assign]
    return "done"
