"""What a call on this machine's CPU costs beside its arithmetic.

    python benchmarks/cpu_calls.py

A bias for every pair against the same call without; small calls, against an op that does nothing; the first
call of all, which compiles. One process, calls in turn, the best of all rounds. Prints tables and writes
``benchmarks/results/cpu_calls.json``.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from about import about
from cpu import clock

import geoattn as ga
from geoattn._files import write_text
from geoattn.backends.cpu.emitted import MACHINE

RESULTS = Path(__file__).parent / "results"
ROUNDS = 20

RELATED = {
    "64×64 plane, 7×7, a table of offsets": lambda: ga.relations.offsets(
        ga.window(ga.grids.cartesian((64, 64)), 7)
    ),
    "91×180 equiangular, 7°, 16 bins of angles": lambda: ga.relations.angles(
        ga.geodesic(ga.grids.equiangular(91, 180), radius=7.0), 16
    ),
    "64×64 plane, 7×7, a bias for each edge": lambda: ga.relations.edges(
        ga.window(ga.grids.cartesian((64, 64)), 7)
    ),
}


def relations() -> list[dict[str, Any]]:
    """The same call with and without a bias for every pair, in turn: seconds, the best of all rounds."""
    rows = []
    for name, make in RELATED.items():
        best = _with_and_without(make(), ROUNDS)
        ratios = {d: best["with"][d] / best["without"][d] for d in ("forward", "backward")}
        rows.append({"case": name, "seconds": best, "ratio": ratios})
        print(f"  {name:<44} forward {ratios['forward']:.2f}x, backward {ratios['backward']:.2f}x")
    return rows


def _with_and_without(
    relation: ga.relations.Relation, rounds: int, heads: int = 4, dim: int = 32
) -> dict[str, dict[str, float]]:
    hood = relation.hood
    q, k, v = (
        torch.randn(1, *grid.shape, heads, dim).requires_grad_()
        for grid in (hood.query_grid, hood.key_grid, hood.key_grid)
    )
    table = torch.randn(heads, relation.count).requires_grad_()
    grad = torch.randn_like(q)
    states: dict[str, tuple[Any, ...]] = {"without": (None, None), "with": (relation, table)}
    best = {state: {"forward": math.inf, "backward": math.inf} for state in states}

    def attend(related: Any, bias: Any) -> torch.Tensor:
        return ga.attention(q, k, v, hood, backend="cpu", relation=related, relation_bias=bias)

    def differentiate(out: torch.Tensor, bias: Any) -> Any:
        return torch.autograd.grad(out, [q, k, v] if bias is None else [q, k, v, bias], grad)

    for _ in range(rounds):
        for state, pair in states.items():
            with torch.no_grad():
                forward = clock(partial(attend, *pair))
            backward = clock(partial(differentiate, attend(*pair), pair[1]))
            for direction, time_ in (("forward", forward), ("backward", backward)):
                best[state][direction] = min(best[state][direction], time_)
    return best


class _Nothing(torch.autograd.Function):
    """An op that does nothing, with gradients: what torch itself asks for a call."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(q, k, v)
        return torch.empty_like(q)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return ctx.saved_tensors


def small_calls() -> list[dict[str, Any]]:
    """Microseconds of small calls in one thread, and of an op that does nothing in the same run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    for shape, size, heads in (((4, 4), 3, 1), ((16, 32), 7, 4)):
        best = _small_call(ga.window(ga.grids.cartesian(shape), size), heads)
        rows.append({"tokens": shape, "window": size, "heads": heads, "microseconds": best})
        for name, times in best.items():
            told = ", ".join(f"{what} {time_:.0f} µs" for what, time_ in times.items())
            print(f"  {shape} {size}×{size}, {heads} heads, {name:<8} {told}")
    torch.set_num_threads(before)
    return rows


def _small_call(
    hood: ga.neighborhoods.Neighborhood, heads: int, dim: int = 32
) -> dict[str, dict[str, float]]:
    leaves = [torch.randn(1, *hood.query_grid.shape, heads, dim).requires_grad_() for _ in range(3)]
    grad = torch.randn_like(leaves[0])
    calls: dict[str, Callable[..., torch.Tensor]] = {
        "geoattn": lambda *x: ga.attention(*x, hood, backend="cpu"),
        "nothing": _Nothing.apply,  # type: ignore[no-untyped-call]
    }
    best: dict[str, dict[str, float]] = {name: {} for name in calls}

    def both(call: Callable[..., torch.Tensor]) -> Any:
        return torch.autograd.grad(call(*leaves), leaves, grad)

    for _ in range(1000):
        for name, call in calls.items():
            with torch.no_grad():
                times = {"without gradients": clock(partial(call, *leaves))}
            times |= {"forward": clock(partial(call, *leaves)), "both": clock(partial(both, call))}
            for what, time_ in times.items():
                best[name][what] = min(best[name].get(what, math.inf), time_ * 1e6)
    return best


COMPILE_PROGRAM = """
import logging, time, torch, geoattn as ga
hood = ga.window(ga.grids.cartesian((8, 8)), 3)
q = torch.randn(1, 8, 8, 2, 8).requires_grad_()
ga.plans.plan(hood, 32, 1)
before = time.process_time()
ga.attention(q, q, q, hood, backend="cpu").sum().backward()
print(time.process_time() - before)
"""


def cold_compile() -> float:
    """Processor seconds of a first forward and backward pass on an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GEOATTN_CACHE": folder}
        run = subprocess.run(
            [sys.executable, "-c", COMPILE_PROGRAM],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
    seconds = float(run.stdout)
    print(f"  {seconds:.1f} s of processor time")
    return seconds


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    report = about("python benchmarks/cpu_calls.py") | {"vector": repr(MACHINE), "dtype": "float32"}
    print("A bias for every pair, against the same call without: 4 heads of 32")
    report["relations"] = relations()
    print("\nSmall calls in one thread, beside an op that does nothing: heads of 32")
    report["small calls"] = small_calls()
    print("\nFirst forward and backward on an empty cache")
    report["cold compile"] = cold_compile()
    RESULTS.mkdir(exist_ok=True)
    write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", RESULTS / "cpu_calls.json")


if __name__ == "__main__":
    main()
