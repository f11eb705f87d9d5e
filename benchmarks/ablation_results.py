"""The files of the ablation, read: cells that are done, learning rates, and what comes of them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ablation_cells import LENGTH, RATES, VALIDATION, Cell, Floats, score_of, steps_of
from ablation_peers import PEERS, RECIPES, THEIR_RATE
from scipy import stats

from geoattn.tasks.geometry import SETTINGS

#: seed of the bootstrap, and its resamplings of the test's samples
SEED, RESAMPLINGS = 0, 10_000
REFERENCE = "sphere"
#: settings whose length is tried, and that are run at the larger scale
TWO = ("plane-periodic", "sphere")


def read(folder: Path) -> dict[str, Any]:
    """Every result, by task and name of the cell, whose fields are all there."""
    found = {}
    for path in sorted(folder.glob("*/*.json")):
        result = json.loads(path.read_text())
        result["cell"] = dataclasses.asdict(Cell(**result["cell"]))
        found[f"{path.parent.name}/{path.stem}"] = result
    return found


def of(found: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    """The results of the cells with these fields, by seed."""
    cells = [
        result
        for result in found.values()
        if all(result["cell"][name] == value for name, value in wanted.items())
    ]
    return sorted(cells, key=lambda result: result["cell"]["seed"])


# learning rates and costs ---------------------------------------------------------------------------


def tuning(task: str, row: str, costs: Path, data: str = "all") -> list[Cell]:
    """The runs that choose a row's learning rate: a quarter of the length each, one seed."""
    steps = steps_of(length(task, row, costs, data) / 4)
    return [Cell(task, row, steps, rate, 0, data=data) for rate in RATES[task]]


def length(task: str, row: str, costs: Path, data: str = "all") -> int:
    """Steps of a row: those of its task, or for peers as many as take the time of the sphere's."""
    steps = LENGTH[data][task]
    if row in SETTINGS:
        return steps
    return steps_of(steps * cost_of(costs, task, REFERENCE) / cost_of(costs, task, row))


def own_recipe(task: str, row: str, seeds: Sequence[int], costs: Path, data: str = "all") -> list[Cell]:
    """A peer by its own recipe, for the time of the sphere's runs: smaller batches make more steps."""
    batch = RECIPES[task].get("batch_size", 8)
    steps = steps_of(length(task, row, costs, data) * 8 / batch)
    return [Cell(task, row, steps, THEIR_RATE[task], seed, recipe="theirs", data=data) for seed in seeds]


def chosen_rate(task: str, row: str, found: dict[str, Any], costs: Path, data: str = "all") -> float | None:
    """The rate whose run validated best; None before all have run."""
    tried = [found.get(cell.key) for cell in tuning(task, row, costs, data)]
    if None in tried:
        return None
    name, more = VALIDATION[task]
    last = [result["validation"][name][-1][1] for result in tried if result is not None]
    last = [value if math.isfinite(value) else (-math.inf if more else math.inf) for value in last]
    return RATES[task][int(np.argmax(last) if more else np.argmin(last))]


@cache
def _costs(path: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(path.read_text())["seconds_per_step"]
    return found


def cost_of(folder: Path, task: str, row: str) -> float:
    """Seconds of a step of a row, as ``ablation.py --cost`` measured it."""
    return _costs(folder / "cost.json")[task][row]


# the table ------------------------------------------------------------------------------------------


def rows_of(
    task: str,
    found: dict[str, Any],
    folder: Path,
    rows: Sequence[str] | None = None,
    longer: float = 1.0,
    **kind: str,
) -> dict[str, Any]:
    """Every row of a table: scores over seeds, and differences from the sphere with their intervals.

    Parameters
    ----------
    rows
        Those of the table: all settings and all peers if None.
    longer
        How many times as many steps as the task's.
    kind
        Fields of the cells that all rows share: ``attitude``, ``size``, ``scale``, ``data``.

    Returns
    -------
    dict
        Row → None where nothing has run, or ``seeds``, ``rate``, ``parameters``, ``steps``, and for each test
        ``mean``, ``spread`` over seeds, ``difference`` from the sphere trained alike, ``over_seeds`` and
        ``over_samples``: its 95 % intervals, paired by seed (Student's t) and by test sample (bootstrap of
        the mean over seeds). ``others``: further scores by name, without spread and samples.
    """
    cells: dict[str, list[dict[str, Any]]] = {}
    for row in (*SETTINGS, *PEERS[task]) if rows is None else rows:
        alike: dict[str, Any] = {"task": task, "row": row, **_DEFAULT, **kind}
        data = alike["data"]
        rate, steps = chosen_rate(task, row, found, folder, data), length(task, row, folder, data)
        cells[row] = of(found, **alike, recipe="ours", rate=rate, steps=steps_of(longer * steps))
        if row not in SETTINGS:
            (theirs,) = own_recipe(task, row, [0], folder, data)
            own = {"rate": theirs.rate, "steps": steps_of(longer * theirs.steps)}
            cells[f"{row}, own recipe"] = of(found, **alike, recipe="theirs", **own)
    return {name: _row(task, some, cells[REFERENCE], folder) for name, some in cells.items()}


_DEFAULT = {"size": "large", "attitude": "upright", "scale": "coarse", "data": "all"}


def _row(
    task: str, cells: list[dict[str, Any]], reference: list[dict[str, Any]], folder: Path
) -> dict[str, Any] | None:
    if not cells:
        return None
    first = cells[0]
    row: dict[str, Any] = {
        "seeds": [c["cell"]["seed"] for c in cells],
        "rate": first["cell"]["rate"],
        "steps": first["cell"]["steps"],
        "parameters": first["parameters"],
    }
    for test in (name for name in first["scores"] if name in ("test", "upright", "any")):
        values = np.array([c["scores"][test] for c in cells])
        row[test] = {"mean": float(values.mean()), "spread": spread(values), "values": values.tolist()}
        if cells is not reference and reference:
            row[test] |= _beside(task, test, cells, reference, folder)
    others = [name for name in first["scores"] if name not in row]
    row["others"] = {name: _other(name, cells, reference) for name in others}
    return row


def _other(name: str, cells: list[dict[str, Any]], reference: list[dict[str, Any]]) -> dict[str, Any]:
    """A score that has no samples: its mean over seeds, and its difference from the sphere, by seed."""
    found: dict[str, Any] = {"mean": float(np.mean([c["scores"][name] for c in cells]))}
    theirs = {c["cell"]["seed"]: c["scores"][name] for c in reference}
    pairs = [c["scores"][name] - theirs[s] for c in cells if (s := c["cell"]["seed"]) in theirs]
    if cells is not reference and pairs:
        found |= {"difference": float(np.mean(pairs)), "over_seeds": student(np.array(pairs))}
    return found


def spread(values: Floats) -> float | None:
    """Standard deviation over seeds; None for one."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _beside(
    task: str, test: str, cells: list[dict[str, Any]], reference: list[dict[str, Any]], folder: Path
) -> dict[str, Any]:
    mine, theirs = ({c["cell"]["seed"]: c for c in some} for some in (cells, reference))
    seeds = sorted(mine.keys() & theirs.keys())
    if not seeds:
        return {}
    differences = np.array([mine[s]["scores"][test] - theirs[s]["scores"][test] for s in seeds])
    sums = [np.stack([sums_of(some[s], folder)[test] for s in seeds]) for some in (mine, theirs)]
    return {
        "difference": float(differences.mean()),
        "over_seeds": student(differences),
        "over_samples": bootstrap(task, *sums),
    }


def sums_of(result: dict[str, Any], folder: Path) -> dict[str, Floats]:
    """What the scores of a cell were computed from, sample by sample."""
    cell = Cell(**result["cell"])
    with np.load(folder / cell.task / f"{cell.name}.npz") as arrays:
        return {name: arrays[name].astype(np.float64) for name in arrays}


def student(differences: Floats) -> list[float] | None:
    """95 % interval of the mean of paired differences, by Student's t; None for one."""
    n = len(differences)
    if n < 2:
        return None
    half = stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / math.sqrt(n)
    return [float(differences.mean() - half), float(differences.mean() + half)]


def bootstrap(task: str, mine: Floats, theirs: Floats) -> list[float]:
    """95 % interval of the difference, mean over seeds, when the test's samples are drawn anew.

    Both are ``[seed, sample, 2, m]``; each resampling draws the same samples for both and for all seeds.
    """
    n = mine.shape[1]
    drawn = np.random.default_rng(SEED).multinomial(n, np.full(n, 1.0 / n), RESAMPLINGS).astype(np.float64)
    found = [
        score_of(task, np.einsum("bn,snkm->sbkm", drawn, sums, optimize=True)).mean(0)
        for sums in (mine, theirs)
    ]
    low, high = np.percentile(found[0] - found[1], [2.5, 97.5])
    return [float(low), float(high)]
