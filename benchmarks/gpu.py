"""Attention on a CUDA device beside its peers, and beside the device's own limits.

    python benchmarks/gpu.py               # everything that fits eight minutes, what matters most first
    python benchmarks/gpu.py --quick       # a few small cases
    python benchmarks/gpu.py --case HEALPix --minutes 5

Correctness comes first: what differs from the float64 reference is not timed. Then come the device's
ceilings, then the cases. Operands are bfloat16 and change from call to call, so that no cache serves them;
times are medians over replays of CUDA graphs, the backward pass by itself (a star marks what could not be
captured, and includes its host). Outputs are compared before anything is timed. What cannot run a case is
named with the reason.
After each case ``benchmarks/results/gpu.json`` and ``gpu.png`` are written anew (``gpu-part.json`` and
``gpu-part.png`` for some of the cases), so that a run cut short loses nothing.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_peers as peers
import torch
from gpu_cases import CASES, QUICK, Case
from gpu_ceilings import ceilings
from gpu_clock import rotated, times
from gpu_report import table, targets, write
from torch import Tensor

import geoattn as ga
from geoattn.plans import plan
from geoattn.plans.cost import statistics as plan_statistics

RESULTS = Path(__file__).parent / "results"
#: largest difference of bfloat16 outputs relative to the largest value
AGREEMENT = 3e-2
#: and of outputs and gradients from the float64 reference, on small problems
EXACTNESS = 2e-2


# -- correctness ------------------------------------------------------------------------------------------


SMALL = {
    "disc": lambda: ga.geodesic(ga.grids.equiangular(46, 90), radius=15.0),
    "HEALPix": lambda: ga.geodesic(ga.grids.healpix(16), radius=12.0),
    "window": lambda: ga.window(ga.grids.cartesian((40, 48)), 9),
}


def errors(backend: str) -> dict[str, float | str]:
    """Largest errors of outputs and gradients, relative to the largest value, or why there are none."""
    found: dict[str, float | str] = {}
    for name, hood in SMALL.items():
        for dim in (64, 128):
            try:
                found[f"{name}, head dim {dim}"] = _error(hood(), dim, backend)
            except Exception as reason:  # the others are worth knowing
                found[f"{name}, head dim {dim}"] = f"{type(reason).__name__}: {reason}".splitlines()[0][:200]
    return found


def _error(hood: ga.neighborhoods.Neighborhood, dim: int, backend: str) -> float:
    torch.manual_seed(0)
    shapes = [(1, *grid.shape, 2, dim) for grid in (hood.query_grid, hood.key_grid, hood.key_grid)]
    operands = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in shapes]
    grad = torch.randn(shapes[0], device="cuda", dtype=torch.bfloat16)
    results = []
    for dtype, device, chosen in ((torch.bfloat16, "cuda", backend), (torch.float64, "cpu", "reference")):
        leaves = [x.to(device, dtype).requires_grad_() for x in operands]
        out = ga.attention(*leaves, hood, backend=chosen)
        gradients = torch.autograd.grad(out, leaves, grad.to(device, dtype))
        results.append([x.double().cpu() for x in (out, *gradients)])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True))


SANITIZED = """
import torch, geoattn as ga
disc = ga.geodesic(ga.grids.equiangular(13, 24), radius=25.0)
for hood in (disc, ga.window(ga.grids.cartesian((9, 10)), 3)):
    shape = 1, *hood.query_grid.shape, 2, 64
    leaves = [torch.randn(shape, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in range(3)]
    for backend in ("cuda", "triton"):
        torch.autograd.grad(ga.attention(*leaves, hood, backend=backend).float().sum(), leaves)
torch.cuda.synchronize()
"""


def sanitized() -> dict[str, str]:
    """What compute-sanitizer says of both backends on two small problems, tool by tool."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"not run": "compute-sanitizer is not on the path; it comes with the CUDA toolkit"}
    found = {}
    for tool in ("memcheck", "racecheck"):
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", SANITIZED]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            lines = (run.stdout + run.stderr).strip().splitlines()
            found[tool] = f"exit status {run.returncode}: {lines[-1] if lines else ''}"[:300]
        except subprocess.TimeoutExpired:
            found[tool] = "not done within a minute"
    return found


# -- work -------------------------------------------------------------------------------------------------


def work(hood: ga.neighborhoods.Neighborhood, heads: int, dim: int) -> dict[str, Any]:
    """Arithmetic of one call, useful and as computed in 16×8 groups, and the plan's own prediction."""
    laid_out = plan_statistics(plan(hood, 64, 64))
    backward = plan_statistics(plan(hood.transpose(), 64, 64))
    pairs, groups = heads * laid_out.useful_pairs, heads * 128 * laid_out.visited_groups
    # five products count backward: dq runs three, and dk and dv four, each over groups of its own
    key_groups = heads * 128 * backward.visited_groups
    return {
        "pairs": pairs,
        "useful": {"forward": 4 * pairs * dim, "backward": 10 * pairs * dim},
        "raw": {"forward": 4 * groups * dim, "backward": (6 * groups + 8 * key_groups) * dim * 5 / 7},
        "products": {"forward": 2, "backward counted": 5, "backward run": 7},
        "predicted gain over dense": {"tiles": laid_out.tile_speedup, "groups": laid_out.group_speedup},
        "plan bytes": laid_out.nbytes + backward.nbytes,
    }


# -- one case ---------------------------------------------------------------------------------------------


def measure(case: Case, left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Times of every implementation on one case, or why there is none."""
    hood = case.hood()
    record: dict[str, Any] = {"case": case.name, "pattern": case.pattern, "dim": case.dim}
    record |= {"work": work(hood, case.heads, case.dim), "seconds": {}, "absent": {}}
    sets = rotated(hood, case.heads, case.dim)
    q, k, v, _ = sets[0]
    expected: Tensor | None = None
    for name, prepare in {**peers.OURS, **peers.SAME, **peers.DENSE}.items():
        if name in left_out:
            record["absent"][name] = "its results differ from the reference, see errors"
            continue
        try:
            call = prepare(case, hood)
            if name not in peers.DENSE:
                with torch.no_grad():
                    out = call(q, k, v).float()
                expected = out if expected is None else expected
                error = float((out - expected).abs().max() / expected.abs().max())
                if not error < AGREEMENT:
                    raise peers.Absent(f"its output differs by {error:.1e} of the largest value")
            record["seconds"][name] = times(call, sets)
        except Exception as reason:  # whatever happens to one must not lose the others
            record["absent"][name] = f"{type(reason).__name__}: {reason}".splitlines()[0][:200]
        torch.cuda.empty_cache()
    return record


FIRST_CALL = """
import time, torch, geoattn as ga
hood = ga.window(ga.grids.cartesian((32, 32)), 7)
q, k, v = (torch.randn(1, 32, 32, 4, {dim}, device="cuda", dtype=torch.bfloat16, requires_grad=True)
           for _ in range(3))
ga.backends()
from geoattn.backends.cuda.plans import device_plan
device_plan(hood, q.device), device_plan(hood.transpose(), q.device)
torch.cuda.synchronize()
times = []
out = None
for run in (lambda: ga.attention(q, k, v, hood, backend="cuda"),
            lambda: torch.autograd.grad(out.float().sum(), (q, k, v))):
    start = time.perf_counter()
    result = run()
    torch.cuda.synchronize()
    times.append(time.perf_counter() - start)
    out = result
print(*times)
"""


def first_calls() -> dict[str, dict[str, Any]]:
    """Seconds of the first forward (one variant) and backward (three) of a process, cold and from disk.

    What fails leaves no times, and its reason under ``"failed"``.
    """
    found: dict[str, dict[str, Any]] = {}
    for dim in (64, 128):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "GEOATTN_CACHE": cache}
            for state in ("cold", "cached"):
                run = subprocess.run(
                    [sys.executable, "-c", FIRST_CALL.format(dim=dim)],
                    env=environment,
                    capture_output=True,
                    text=True,
                )
                states = found.setdefault(str(dim), {})
                if run.returncode == 0:
                    states[state] = [float(x) for x in run.stdout.split()]
                else:
                    states["failed"] = (run.stderr.strip() or f"exit status {run.returncode}")[-300:]
    return found


# -- all --------------------------------------------------------------------------------------------------


def chosen(options: argparse.Namespace) -> Iterator[Case]:
    for case in CASES:
        if options.case in case.name and (not options.quick or (case.pattern in QUICK and case.dim == 64)):
            yield case


def wrong(found: dict[str, dict[str, float | str]]) -> tuple[str, ...]:
    """Names of our implementations that are not within :data:`EXACTNESS` of the reference everywhere."""
    return tuple(
        name
        for name, each in found.items()
        if any(isinstance(error, str) or not error < EXACTNESS for error in each.values())
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small cases")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="begin no case after so long (%(default)s)"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA device, and torch finds none", file=sys.stderr)
        return 2
    began = time.perf_counter()
    found = {name: errors(backend) for name, backend in peers.BACKENDS.items()}
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "geoattn": ga.__version__,
        "backends": dict(ga.backends()),
        "errors": found,
        "sanitizer": sanitized(),
        "limits": ceilings(),
        "cases": [],
        "left out": [],
    }
    name = "gpu-part" if options.quick or options.case else "gpu"
    for implementation, each in found.items():
        print(f"{implementation}, largest error relative to the largest value:")
        print("\n".join(f"  {where:<24} {error}" for where, error in each.items()))
    print(report["device"])
    for what, rate in report["limits"].items():
        print(f"  {what:<28} {rate if isinstance(rate, str) else f'{rate / 1e12:.2f}·10¹²'}")
    report["first calls"] = first_calls()
    for case in chosen(options):
        if time.perf_counter() - began > 60 * options.minutes:
            report["left out"].append(case.name)
            continue
        try:
            report["cases"].append(measure(case, wrong(found)))
            print(table({**report, "cases": report["cases"][-1:]}), flush=True)
        except Exception as reason:
            report["left out"].append(f"{case.name}: {type(reason).__name__}: {reason}"[:300])
            print(f"\n{report['left out'][-1]}", flush=True)
        gc.collect()
        torch.cuda.empty_cache()
        write(report, RESULTS, name)
    write(report, RESULTS, name)
    print("\nTargets (they are set for a Hopper GPU)")
    for aim, state in targets(report):
        print(f"  {aim:<62} {state}")
    return 1 if wrong(found) else 0


if __name__ == "__main__":
    sys.exit(main())
