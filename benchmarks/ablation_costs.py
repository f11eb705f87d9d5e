"""Seconds of a training step of every row of the ablation, measured side by side in one process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_cells import Cell, network
from ablation_peers import PEERS
from about import about

from geoattn._files import write_json
from geoattn.neighborhoods import Neighborhood
from geoattn.tasks.geometry import SETTINGS
from geoattn.training import optimizers

ROUNDS, STEPS, BATCH = 5, 2, 8


def measure_costs(tasks: list[str], results: Path) -> None:
    """Forward, backward and the optimiser's step for a batch of eight, one thread; medians over rounds.

    Rows take turns, so that whatever else the machine does meets all of them.
    """
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        **about("python benchmarks/ablation.py --cost", "torch-harmonics"),
        "batch": BATCH,
        "seconds_per_step": {},
        "keys": {},
    }
    for task in tasks:
        steps = {row: _stepper(Cell(task, row, 8, 1e-3, 0)) for row in (*SETTINGS, *PEERS[task])}
        taken: dict[str, list[float]] = {row: [] for row in steps}
        for step in steps.values():  # kernels are compiled, plans are made
            step()
        for _ in range(ROUNDS):
            for row, step in steps.items():
                start = time.perf_counter()
                for _ in range(STEPS):
                    step()
                taken[row].append((time.perf_counter() - start) / STEPS)
        found["seconds_per_step"][task] = {row: float(np.median(times)) for row, times in taken.items()}
        found["keys"][task] = {row: keys(Cell(task, row, 8, 1e-3, 0)) for row in SETTINGS}
        for row, seconds in found["seconds_per_step"][task].items():
            print(
                f"{task:14} {row:22} {1e3 * seconds:7.1f} ms   {found['keys'][task].get(row, '')}", flush=True
            )
    write_json(found, results / "cost.json")


def keys(cell: Cell) -> list[str]:
    """For each stage: the neighborhood, and its mean number of keys."""
    settings = cell.settings(Path())
    config = settings.model.config(settings.data.grid, 3, 1)
    return [f"{_short(hood)}: {hood.counts.mean():.1f} keys" for hood in config.hoods]


def _short(hood: Neighborhood) -> str:
    """The neighborhood and its grid's shape."""
    return f"{repr(hood).split(' on ')[0]} on {'×'.join(map(str, hood.query_grid.shape))}"


def _stepper(cell: Cell) -> Any:
    settings = cell.settings(Path())
    model = network(cell, settings)
    fields = torch.randn(BATCH, 3, *settings.data.grid.shape, generator=torch.Generator().manual_seed(0))
    optimizer = optimizers(model, cell.fit())["optimizer"]

    def step() -> None:
        optimizer.zero_grad()
        model(fields).square().mean().backward()
        optimizer.step()

    return step
