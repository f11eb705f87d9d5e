"""Attention on this machine's CPU beside its peers, at identical work.

    python benchmarks/cpu.py              # everything, tens of minutes
    python benchmarks/cpu.py --quick      # a few small cases, two rounds
    python benchmarks/cpu.py --case plane # cases whose name contains "plane"

One process. For each case every implementation computes the same attention from the same float32
numbers; outputs are compared before anything is timed. Then rounds follow, in each of which every
implementation and a matrix product run once, so that disturbances hit all alike; the best of all
rounds counts. Peers that are not installed, or cannot run a case, are named with the reason. Prints
tables and writes ``benchmarks/results/cpu.json`` and ``cpu.png``.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cpu_peers as peers
import torch
from about import about
from cpu_cases import CASES, QUICK, Case

import geoattn as ga
from geoattn._files import write_text
from geoattn.plot import figures
from geoattn.plot.curves import COLOURS

RESULTS = Path(__file__).parent / "results"
#: seconds after which an implementation sits out the remaining rounds of a case
PATIENCE = 10.0
#: largest difference between outputs that counts as agreement
AGREEMENT = 2e-4


def clock(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def matrix_product_rate(size: int = 2048) -> Callable[[], float]:
    """GFLOP/s of torch's float32 matrix product."""
    a = torch.randn(size, size)
    return lambda: 2 * size**3 / clock(lambda: a @ a) / 1e9


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Times in seconds of every implementation on one case."""
    torch.manual_seed(0)
    hood = case.hood()
    q, k, v = (
        torch.randn(1, *grid.shape, case.heads, case.dim)
        for grid in (hood.query_grid, hood.key_grid, hood.key_grid)
    )
    grad = torch.randn(1, *hood.query_grid.shape, case.heads, case.dim)
    absent: dict[str, str] = {}
    running: dict[str, Any] = {}
    expected = ga.attention(q, k, v, hood, backend="cpu")
    for name, prepare in peers.ALL.items():
        try:
            call = prepare(case, hood, q, k, v)
            with torch.no_grad():
                error = (call(q, k, v) - expected).abs().max().item()
        except (peers.Absent, NotImplementedError, RuntimeError, ImportError) as reason:
            absent[name] = str(reason).splitlines()[0][:120]
            continue
        if not error < AGREEMENT:
            absent[name] = f"its output differs by {error:.1e}"
            continue
        gradient = None
        if name in peers.FORWARD_ONLY:
            absent[f"{name}, backward"] = peers.FORWARD_ONLY[name]
        else:
            leaves = [x.clone().requires_grad_() for x in (q, k, v)]
            gradient = _gradient(call(*leaves), leaves, grad)
        running[name] = (call, gradient)
    product = matrix_product_rate()
    rates = [product()]
    best: dict[str, dict[str, float]] = {name: {} for name in running}
    spent = dict.fromkeys(running, 0.0)
    for _ in range(rounds):
        rates.append(product())
        for name, (call, gradient) in running.items():
            if spent[name] > PATIENCE:
                continue
            with torch.no_grad():
                forward = clock(lambda call=call: call(q, k, v))
            spent[name] += forward
            best[name]["forward"] = min(best[name].get("forward", math.inf), forward)
            if gradient is not None:
                backward = clock(gradient)
                spent[name] += backward
                best[name]["backward"] = min(best[name].get("backward", math.inf), backward)
    pairs = int(hood.counts.sum()) * case.heads
    return {
        "case": case.name,
        "pairs": pairs,
        "flops": {"forward": 4 * pairs * case.dim, "backward": 10 * pairs * case.dim},
        "sgemm": max(rates),
        "seconds": best,
        "absent": absent,
    }


def _gradient(out: torch.Tensor, leaves: list[torch.Tensor], grad: torch.Tensor) -> Callable[[], Any]:
    def run() -> Any:
        return torch.autograd.grad(out, leaves, grad, retain_graph=True)

    run()
    return run


def show(result: dict[str, Any]) -> None:
    """One case as a table: milliseconds, ratio to ours, share of the matrix product's rate."""
    print(f"\n{result['case']}   ({result['pairs'] / 1e6:.2f} M pairs, sgemm {result['sgemm']:.0f} GFLOP/s)")
    print(f"  {'':<18}{'forward ms':>12}{'ours is':>10}{'backward ms':>13}{'ours is':>10}")
    ours = result["seconds"]["geoattn"]
    for name, times in result["seconds"].items():
        row = f"  {name:<18}"
        for direction, room in (("forward", 12), ("backward", 13)):
            if direction in times:
                row += f"{times[direction] * 1e3:>{room}.1f}{times[direction] / ours[direction]:>9.1f}x"
            else:
                row += f"{'–':>{room}}{'':>10}"
        print(row)
    shares = [
        f"{direction} {result['flops'][direction] / ours[direction] / 1e9 / result['sgemm']:.0%}"
        for direction in ("forward", "backward")
    ]
    print(f"  useful arithmetic as a share of sgemm: {', '.join(shares)}")
    for name, reason in result["absent"].items():
        print(f"  without {name}: {reason}")


def window_run(tokens: int, heads: int = 4, dim: int = 32) -> tuple[Any, Any]:
    """Forward and backward of a 7×7 window on a plane of so many tokens."""
    side = math.isqrt(tokens)
    hood = ga.window(ga.grids.cartesian((side, side)), 7)
    leaves = [torch.randn(1, side, side, heads, dim).requires_grad_() for _ in range(3)]

    def forward() -> torch.Tensor:
        return ga.attention(*leaves, hood, backend="cpu")

    out = forward()
    grad = torch.randn_like(out)
    return forward, lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)


def token_scaling(quick: bool) -> list[dict[str, float]]:
    """Nanoseconds per token against the number of tokens, at 49 keys per query."""
    rows = []
    for side in (32, 64, 128, 256) if quick else (32, 64, 128, 256, 512, 1024):
        forward, backward = window_run(side * side)
        with torch.no_grad():
            times = [min(clock(run) for _ in range(5)) for run in (forward, backward)]
        per_token = [t / side**2 * 1e9 for t in times]
        rows.append({"tokens": side**2, "forward": per_token[0], "backward": per_token[1]})
        print(f"  {side**2:>9} tokens {per_token[0]:>8.0f} ns {per_token[1]:>8.0f} ns per token")
        gc.collect()
    return rows


def thread_scaling() -> list[dict[str, float]]:
    """Milliseconds at 1, 2, 4, … threads, 128×128 tokens, for one head and for four."""
    cores, rows = os.cpu_count() or 1, []
    counts = sorted({min(cores, 1 << bit) for bit in range(cores.bit_length() + 1)})
    before = torch.get_num_threads()
    for heads in (1, 4):
        for threads in counts:
            torch.set_num_threads(threads)
            forward, backward = window_run(128 * 128, heads)
            with torch.no_grad():
                times = [min(clock(run) for _ in range(7)) * 1e3 for run in (forward, backward)]
            rows.append({"heads": heads, "threads": threads, "forward": times[0], "backward": times[1]})
            print(f"  {heads} heads, {threads} threads {times[0]:>8.2f} ms {times[1]:>8.2f} ms")
    torch.set_num_threads(before)
    return rows


MEMORY_PROGRAM = """
import torch, geoattn as ga
side, heads, dim = 512, 4, 32
hood = ga.window(ga.grids.cartesian((side, side)), 13)
small = ga.window(ga.grids.cartesian((16, 16)), 3)
def peak():
    status = dict(line.split(":") for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) * 1024
def run(hood):
    leaves = [torch.randn(1, *hood.query_grid.shape, heads, dim).requires_grad_() for _ in range(3)]
    out = ga.attention(*leaves, hood, backend="cpu")
    torch.autograd.grad(out, leaves, torch.randn_like(out))
    return leaves[0].nbytes
run(small)
ga.plans.plan(hood, 32, 1)
open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far: compilation may have set it
before = peak()
one = run(hood)
print((peak() - before) / one)
"""


def peak_memory() -> float:
    """Peak of forward and backward together at 512×512 tokens, 13×13, in sizes of q."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM], capture_output=True, text=True, check=True, env=os.environ
    )
    sizes = float(run.stdout)
    print(f"  {sizes:.1f} times the size of q; q, k, v, out and their gradients alone are 8")
    return sizes


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Times of all implementations relative to ours, one group of bars for each case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = (13, 1.2 + 0.45 * len(results))
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    names = [name for name in peers.ALL if any(name in r["seconds"] for r in results)]
    for axis, direction in zip(axes, ("forward", "backward"), strict=True):
        for at, result in enumerate(results):
            for place, name in enumerate(names):
                if direction in result["seconds"].get(name, {}):
                    ratio = result["seconds"][name][direction] / result["seconds"]["geoattn"][direction]
                    axis.barh(at + 0.8 * place / len(names), ratio, 0.8 / len(names), color=COLOURS[place])
            if len([name for name in result["seconds"] if direction in result["seconds"][name]]) == 1:
                axis.text(1.15, at + 0.4, "too large for the others, or not theirs", fontsize=8, va="center")
        axis.set_xscale("log")
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_title(f"{direction}: time relative to geoattn")
        cases = [r["case"].replace("1 heads", "1 head") for r in results]
        axis.set_yticks([at + 0.4 for at in range(len(results))], cases)
    axes[0].invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[place]) for place in range(len(names))]
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), fontsize=9)
    figures.save(figure, path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small cases, two rounds")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = [c for c in CASES if options.case in c.name and (not options.quick or c.name in QUICK)]
    results = []
    for case in chosen:
        results.append(measure(case, 2 if options.quick else options.rounds))
        show(results[-1])
        gc.collect()
    command = f"python benchmarks/cpu.py --rounds {options.rounds}"
    report = about(command, *peers.PACKAGES) | {"vector": repr(_machine()), "cases": results}
    if not options.case:
        print("\nTokens at 49 keys each, 4 heads: forward, backward")
        report["token scaling"] = token_scaling(options.quick)
        print("\nThreads, 128×128 tokens at 49 keys each: forward, backward")
        report["thread scaling"] = thread_scaling()
        print("\nPeak memory of forward and backward")
        report["peak memory"] = peak_memory()
        RESULTS.mkdir(exist_ok=True)
        write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", RESULTS / "cpu.json")
        draw(results, RESULTS / "cpu.png")


def _machine() -> Any:
    from geoattn.backends.cpu.emitted import MACHINE

    return MACHINE


if __name__ == "__main__":
    main()
