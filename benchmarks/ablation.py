"""From the plane to the sphere: what each step is worth, in three tasks, beside torch-harmonics' models.

    python benchmarks/ablation.py                  # go on for at most 90 minutes, then the table
    python benchmarks/ablation.py --status         # what is done, what is left, and how long it takes
    python benchmarks/ablation.py --table          # only the table, the page and the picture
    python benchmarks/ablation.py --cost           # seconds of a step of every row, side by side

A cell is one training and its scores (`ablation_cells.py`). Its result is a file in
`benchmarks/results/ablation/`, and a cell that has one is not run again: any sitting goes on where the last
one stopped, on any machine, in this order, first of all data and then of few (`--data`):

rows      the six settings of geometry, each at the best of three learning rates, five seeds
peers     torch-harmonics' models at equal time: their own recipe and ours, three seeds
rotated   the six settings trained on cameras in any attitude, three seeds
length    half and twice the steps, for two settings: is the validation score flat?
longer    the six settings at twice the steps, three seeds: do the differences stay?

and of all data alone:

size      the six settings with discs and windows of half the area, three seeds
fine      twice the resolution and channels and one more block, two settings, two seeds
practice  a model for use: rooms of 128×256 on the sphere, three lengths, one seed

Everything in a comparison but the row is the same: grid, features of position, relative position as a learned
bias for every pair, parameters (up to the bias's own), steps, batches, schedule.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from itertools import product
from pathlib import Path
from typing import Any

import torch
from ablation_cells import DATA, TASKS, Cell, run, steps_of
from ablation_costs import measure_costs
from ablation_peers import PEERS
from ablation_results import TWO, chosen_rate, cost_of, length, own_recipe, read, tuning
from ablation_table import write_table

from geoattn.tasks import geometry
from geoattn.tasks.shallow_water import experiment as water

SETTINGS: tuple[str, ...] = geometry.SETTINGS
RESULTS = Path(__file__).parent / "results" / "ablation"
AMOUNTS: tuple[str, ...] = tuple(DATA)
#: parts that are asked of every amount of data, and of all data alone
EVERY, ALONE = ("rows", "peers", "rotated", "length", "longer"), ("size", "fine", "practice")
PARTS = (*EVERY, *ALONE)
#: steps of the model for use: a curve, not a point
PRACTICE = (400, 1600, 6400)


def plan(
    parts: Sequence[str], tasks: Sequence[str], found: dict[str, Any], amounts: Sequence[str] = AMOUNTS
) -> Iterator[Cell]:
    """Every cell of the parts in order; those whose learning rate is not chosen yet are left out."""
    for data in amounts:
        for part in EVERY:
            if part in parts:
                yield from _part(part, tasks, found, data)
    for part in ALONE:
        if part in parts and "all" in amounts:
            yield from _part(part, tasks, found, "all")


def _part(part: str, tasks: Sequence[str], found: dict[str, Any], data: str) -> Iterator[Cell]:
    def cells(task: str, row: str, seeds: Sequence[int], factor: float = 1.0, **what: str) -> Iterator[Cell]:
        rate = chosen_rate(task, row, found, RESULTS, data)
        steps = steps_of(factor * length(task, row, RESULTS, data))
        if rate is not None:
            yield from (Cell(task, row, steps, rate, seed, data=data, **what) for seed in seeds)

    rooms = [task for task in tasks if task != "shallow-water"]
    if part == "rows":
        for task in tasks:
            for row in SETTINGS:
                yield from tuning(task, row, RESULTS, data)
        for seed, task, row in product(range(5), tasks, SETTINGS):  # what is stopped has whole rows
            yield from cells(task, row, [seed])
    elif part == "peers":
        for task in tasks:
            for row in PEERS[task]:
                yield from tuning(task, row, RESULTS, data)
                yield from cells(task, row, range(3))
                yield from own_recipe(task, row, range(3), RESULTS, data)
    elif part == "rotated":
        for seed, task, row in product(range(3), rooms, SETTINGS):
            yield from cells(task, row, [seed], attitude="any")
    elif part == "length":
        for factor, task, row in product((0.5, 2.0), tasks, TWO):
            yield from cells(task, row, [0], factor)
    elif part == "longer":
        for seed, task, row in product(range(3), tasks, SETTINGS):
            yield from cells(task, row, [seed], 2.0)
    elif part == "size":
        for seed, task, row in product(range(3), tasks, SETTINGS):
            yield from cells(task, row, [seed], size="small")
    elif part == "fine":
        for seed, task, row in product(range(2), tasks, TWO):
            yield from cells(task, row, [seed], scale="fine")
    elif part == "practice":
        for steps, task in product(PRACTICE, rooms):
            yield Cell(task, "sphere", steps, 2e-3, 0, scale="practice")


def one(cell: Cell, work: Path) -> str:
    """Run a cell on one thread."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    scores = run(cell, work, RESULTS)["scores"]
    shown = ", ".join(f"{name} {value:.4f}" for name, value in list(scores.items())[:2])
    return f"{cell.task:14} {cell.name:44} {shown}   {time.perf_counter() - start:.0f} s"


def sit(
    parts: Sequence[str],
    tasks: Sequence[str],
    minutes: float,
    workers: int,
    work: Path,
    amounts: Sequence[str] = AMOUNTS,
) -> None:
    """Run cells until none is left or the time is over; what is stopped goes on from its last round."""
    end = time.monotonic() + 60.0 * minutes
    for data in amounts:  # made once, before the processes that read them
        if "shallow-water" in tasks:
            water.stores(Cell("shallow-water", "sphere", 8, 1e-3, 0, data=data).settings(work).data)
        if {"segmentation", "depth"} & set(tasks):
            rooms = Cell("depth", "sphere", 8, 1e-3, 0, data=data).settings(work).data
            for split in ("train", "val", "test"):
                rooms.part(split)
    os.environ["OMP_NUM_THREADS"] = "1"
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # the workers stop as well
    running: dict[futures.Future[str], str] = {}
    failed: set[str] = set()
    pool = futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        while time.monotonic() < end:
            found = read(RESULTS)
            taken = found.keys() | set(running.values()) | failed
            for cell in plan(parts, tasks, found, amounts):
                if len(running) == workers:
                    break
                if cell.key not in taken:
                    taken |= {cell.key}
                    running[pool.submit(one, cell, work)] = cell.key
            if not running:
                break
            done, _ = futures.wait(running, max(end - time.monotonic(), 0), futures.FIRST_COMPLETED)
            for future in done:
                key = running.pop(future)
                error = future.exception()
                if error is not None:
                    failed.add(key)
                words = future.result() if error is None else f"{key} failed: {type(error).__name__}: {error}"
                print(f"{time.strftime('%H:%M:%S')}  {words}", flush=True)
    finally:
        for process in list(pool._processes.values()):  # Lightning would go on after a gentler signal
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        signal.signal(signal.SIGTERM, before)
    if failed:
        raise SystemExit(f"{len(failed)} cells failed: {', '.join(sorted(failed))}")


def status(tasks: Sequence[str], amounts: Sequence[str] = AMOUNTS) -> None:
    """Cells done and left by part, and the processor time that is left."""
    found = read(RESULTS)
    seconds = {(f["cell"]["task"], f["cell"]["row"]): f["seconds_per_step"] for f in found.values()}
    asked = [(part, data) for data in amounts for part in EVERY]
    asked += [(part, "all") for part in ALONE if "all" in amounts]
    for part, data in asked:
        cells = list(plan([part], tasks, found, [data]))
        left = [cell for cell in cells if cell.key not in found]
        hours = sum(c.steps * (seconds.get((c.task, c.row)) or cost_of(RESULTS, c.task, c.row)) for c in left)
        known = {cell.scale for cell in left} == {"coarse"}  # other scales have no cost before they have run
        waiting = f", about {hours / 3600:.1f} hours of one core" if known else ""
        name = f"{part}, {data} data" if part in EVERY else part
        print(f"{name:18} {len(cells) - len(left):4d} cells done, {len(left):4d} left{waiting}")
    done = [f for f in found.values() if f["cell"]["task"] in tasks]
    hours = sum(f["cell"]["steps"] * f["seconds_per_step"] for f in done) / 3600
    print(f"the {len(done)} cells that are done took {hours:.1f} hours of one core to train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--data", nargs="+", choices=AMOUNTS, default=list(AMOUNTS), help="amounts of data")
    parser.add_argument("--minutes", type=float, default=90.0, help="of this sitting")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="cells at a time")
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"), help="data and checkpoints")
    for flag, words in (("status", "say what is left"), ("table", "no training"), ("cost", "time all steps")):
        parser.add_argument(f"--{flag}", action="store_true", help=words)
    options = parser.parse_args()
    if options.cost or not (RESULTS / "cost.json").exists():
        measure_costs(list(TASKS), RESULTS)
    if options.cost:
        return
    if not options.table:
        status(options.tasks, options.data)
    if not options.table and not options.status:
        sit(options.parts, options.tasks, options.minutes, options.workers, options.folder, options.data)
        status(options.tasks, options.data)
    if not options.status:
        write_table(RESULTS, options.folder)


if __name__ == "__main__":
    main()
