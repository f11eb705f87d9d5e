"""What the parts of ``benchmarks/systems.py`` share: times in turn, peak memory, predictions, results."""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from about import about
from torch import Tensor

import geoattn as ga
from geoattn._files import write_json
from geoattn.backends.cpu.emitted import LANES
from geoattn.neighborhoods import Neighborhood

FOLDER = Path(__file__).parent / "results"
HEADS, DIM = 4, 32
#: largest difference between outputs that counts as agreement
AGREEMENT = 2e-4
#: seconds after which an implementation sits out the remaining rounds
PATIENCE = 8.0
#: share of one core that others may use while a row is measured
QUIET = 0.05

Call = Callable[[Tensor, Tensor, Tensor], Tensor]
Row = dict[str, Any]


class Options(NamedTuple):
    """How to measure; ``small`` takes toy sizes, in seconds."""

    rounds: int = 3
    small: bool = False


# -- times -------------------------------------------------------------------------------------------------


def operands(hood: Neighborhood, heads: int = HEADS, dim: int = DIM) -> list[Tensor]:
    """Query, key and value ``[1, *grid.shape, heads, dim]``, float32, the same numbers every time."""
    torch.manual_seed(0)
    grids = (hood.query_grid, hood.key_grid, hood.key_grid)
    return [torch.randn(1, *grid.shape, heads, dim) for grid in grids]


def ours(hood: Neighborhood) -> Call:
    return lambda q, k, v: ga.attention(q, k, v, hood, backend="cpu")


def clock(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turn(
    calls: dict[str, Call],
    qkv: list[Tensor],
    rounds: int,
    forward_only: tuple[str, ...] = (),
    expected: dict[str, Call] | None = None,
) -> dict[str, dict[str, float]]:
    """Seconds forward and backward of each call, the best of rounds in which all take their turns.

    Outputs are compared first: with those of the first call, or of ``expected`` where it has the name.

    Raises
    ------
    ArithmeticError
        If outputs differ.
    """
    first = next(iter(calls.values()))
    gradients: dict[str, Callable[[], Any]] = {}
    shape = (*qkv[0].shape[:-1], qkv[2].shape[-1])
    grad = torch.randn(shape)
    for name, call in calls.items():
        with torch.no_grad():
            truth = (expected or {}).get(name, first)
            error = float((call(*qkv) - truth(*qkv)).abs().max())
        if not error < AGREEMENT:
            raise ArithmeticError(f"{name} differs by {error:.1e}")
        if name not in forward_only:
            gradients[name] = _gradient(call, qkv, grad)
    best: dict[str, dict[str, float]] = {name: {} for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    for _ in range(rounds):
        for name, call in calls.items():
            if spent[name] > PATIENCE:
                continue
            with torch.no_grad():
                taken = {"forward": clock(lambda call=call: call(*qkv))}
            if name in gradients:
                taken["backward"] = clock(gradients[name])
            spent[name] += sum(taken.values())
            for way, seconds in taken.items():
                best[name][way] = min(best[name].get(way, math.inf), seconds)
    return best


def _gradient(call: Call, qkv: list[Tensor], grad: Tensor) -> Callable[[], Any]:
    leaves = [x.clone().requires_grad_() for x in qkv]
    out = call(*leaves)

    def run() -> Any:
        return torch.autograd.grad(out, leaves, grad, retain_graph=True)

    run()
    return run


def dense(hood: Neighborhood) -> Call:
    """Our kernels on all pairs of the same grids: what a gain is a gain over."""
    return ours(ga.everything(hood.query_grid, hood.key_grid))


def gains(found: dict[str, dict[str, float]], over: str, name: str) -> dict[str, float]:
    """Seconds of ``over`` per second of ``name``, forward and backward where both have them."""
    both = found[over].keys() & found[name].keys()
    return {way: found[over][way] / found[name][way] for way in ("forward", "backward") if way in both}


# -- memory ------------------------------------------------------------------------------------------------


def peak_megabytes(call: Call, qkv: list[Tensor]) -> float | None:
    """Resident memory at its peak in a forward and a backward pass, over what was resident before.

    None where the system does not tell, as outside Linux.
    """
    leaves = [x.clone().requires_grad_() for x in qkv]
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before and is still held would hide what is used
        with Path("/proc/self/clear_refs").open("r+") as file:
            file.write("5")  # forget the peak so far
        before = _status("VmRSS")
    except (OSError, AttributeError):
        return None
    out = call(*leaves)
    torch.autograd.grad(out, leaves, torch.ones_like(out))
    return (_status("VmHWM") - before) / 1e6


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


# -- predictions -------------------------------------------------------------------------------------------


def predicted(hood: Neighborhood) -> Row:
    """What the plans of a neighborhood say before anything runs: work, and gains over dense attention.

    ``pairs`` is the bound that no kernel can exceed, ``tiles`` and ``groups`` are for tensor cores (64×64
    pairs, 16×8 of which can be skipped), ``lanes`` for this machine's vectors of so many queries.
    """
    tiles, lanes = ga.plans.estimate(hood), ga.plans.estimate(hood, 32, 1)
    dense = hood.query_grid.size * hood.key_grid.size
    useful = tiles.useful_pairs
    return {
        "keys": useful / hood.query_grid.size,
        "pairs": dense / useful,
        "tiles": tiles.tile_speedup,
        "groups": tiles.group_speedup,
        "lanes": dense * lanes.useful_lanes[LANES] / useful,
    }


# -- results -----------------------------------------------------------------------------------------------


class Others:
    """How many cores other processes keep busy, from the making of this until it is asked."""

    def __init__(self) -> None:
        self._busy, self._own, self._wall = _busy(), _own(), time.perf_counter()

    def cores(self) -> float | None:
        """None where the system does not tell, as outside Linux."""
        busy = _busy()
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (_own() - self._own)
        return max(0.0, others / (time.perf_counter() - self._wall))


def _busy() -> float | None:
    """Processor seconds of everything on the machine, idling and waiting for disks excepted."""
    try:
        ticks = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return None
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def where() -> Row:
    """The machine and what runs on it."""
    head = about(command="")
    versions = {name: number for name, number in head["versions"].items() if name != "geoattn"}  # a row's own
    return {
        "device": f"{head['machine']}, vectors of {LANES} float32",
        "threads": head["threads"],
        "dtype": "float32",
        "versions": versions,
    }


class Results:
    """The file with all parts, rewritten after every row.

    A row that is there is kept if it is of the same machine and versions and nothing else kept the machine
    busy while it was measured. ``again`` keeps none, ``missing`` all that are there.
    """

    def __init__(self, path: Path, command: str, again: bool = False, missing: bool = False) -> None:
        self.path, self.command, self.again, self.missing = path, command, again, missing
        self.content: Row = json.loads(path.read_text()) if path.exists() else {"parts": {}}

    def row(
        self, part: str, name: str, measure: Callable[[], Row], timed: bool = True, lasting: bool = False
    ) -> Row:
        """The row ``name`` of a part, measured unless it is kept.

        One that is not ``timed`` is the same however busy the machine is, and one that is ``lasting`` stays
        whatever the machine and the versions.
        """
        kept = self.content["parts"].setdefault(part, {"where": where(), "rows": {}})
        if kept["where"] != where():
            rows = {key: row for key, row in kept["rows"].items() if row["lasting"]}
            kept = self.content["parts"][part] = {"where": where(), "rows": rows}
        found = kept["rows"].get(name)
        if found and (self.missing or not (self.again or found["loaded"])):
            print(f"{part}, {name}: kept", flush=True)
            return dict(found)
        print(f"{part}, {name}", flush=True)
        others = Others()
        measured = measure()
        cores = others.cores()
        told = {
            "date": datetime.now(UTC).date().isoformat(),
            "other_cores_busy": None if cores is None else round(cores, 2),
            "loaded": timed and (cores is None or cores > QUIET),
            "lasting": lasting,
            "device": where()["device"],
            "geoattn": version("geoattn"),
        }
        kept["rows"][name] = measured | told
        self.content["command"] = self.command
        write_json(self.content, self.path)
        gc.collect()
        return measured | told
