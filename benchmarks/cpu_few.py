"""From how many keys on it pays that queries are vector lanes, rather than that each meets its own keys.

    python benchmarks/cpu_few.py        # some minutes, most of them for compiling both kinds

Both kinds of kernels on the same calls in turn, in one process and one thread, the best of all rounds. Prints the
time of lanes over that of keys one by one: above 1, the latter is faster.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial

import torch
from cpu import clock

import geoattn as ga
from geoattn.backends.cpu import schedule
from geoattn.backends.cpu.micro import MACHINE
from geoattn.neighborhoods import Neighborhood

HOODS: dict[str, Callable[[], Neighborhood]] = {
    "icosahedral 5, 1 hop": lambda: ga.k_hop(ga.grids.icosahedral(5), 1),
    "64×64, 3×3": lambda: ga.window(ga.grids.cartesian((64, 64)), 3),
    "HEALPix 32, 12 nearest": lambda: ga.nearest(ga.grids.healpix(32), k=12),
    "HEALPix 32, 16 nearest": lambda: ga.nearest(ga.grids.healpix(32), k=16),
    "icosahedral 5, 2 hops": lambda: ga.k_hop(ga.grids.icosahedral(5), 2),
    "64×64, 5×5": lambda: ga.window(ga.grids.cartesian((64, 64)), 5),
    "64×64, 7×7": lambda: ga.window(ga.grids.cartesian((64, 64)), 7),
}
KINDS = {"lanes": 0, "one by one": 64}  # keys of a query up to which each meets its own


def measured(hood: Neighborhood, heads: int, dim: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a forward and of a backward pass with either kind."""
    q, k, v = (torch.randn(1, *hood.query_grid.shape, heads, dim).requires_grad_() for _ in range(3))
    grad = torch.randn_like(q)
    best = {kind: {"forward": math.inf, "backward": math.inf} for kind in KINDS}
    for _ in range(rounds):
        for kind, few in KINDS.items():
            schedule.FEW_KEYS = few
            schedule.of_plans.clear()
            with torch.no_grad():
                attend = partial(ga.attention, q, k, v, hood, backend="cpu")
                attend()
                forward = clock(attend)
            out = ga.attention(q, k, v, hood, backend="cpu")
            backward = clock(partial(torch.autograd.grad, out, (q, k, v), grad))
            for direction, time_ in (("forward", forward), ("backward", backward)):
                best[kind][direction] = min(best[kind][direction], time_)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {MACHINE}, float32, 4 heads, one thread: lanes over one by one")
    print(f"{'':26}{'keys':>6}" + "".join(f"{f'{d} channels':>24}" for d in (16, 32, 64)))
    for name, make in HOODS.items():
        hood = make()
        told = ""
        for dim in (16, 32, 64):
            best = measured(hood, 4, dim, rounds)
            ratios = [best["lanes"][d] / best["one by one"][d] for d in ("forward", "backward")]
            told += f"{ratios[0]:15.2f}, {ratios[1]:.2f}   "
        keys = len(hood.to_csr().indices) / hood.query_grid.size
        print(f"{name:26}{keys:6.1f}{told}", flush=True)


if __name__ == "__main__":
    main()
