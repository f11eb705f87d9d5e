"""Attention on a CUDA device beside its peers, and beside the device's own limits.

    python benchmarks/gpu.py               # everything that fits 25 minutes, what matters most first
    python benchmarks/gpu.py --quick       # a few small cases
    python benchmarks/gpu.py --case HEALPix --minutes 5

Operands are bfloat16 and change from call to call, so that no cache serves them; times are medians
over CUDA events. Outputs are compared before anything is timed. What cannot run a case is named with
the reason. After each case ``benchmarks/results/gpu.json`` and ``gpu.png`` are written anew
(``gpu-part.json`` and ``gpu-part.png`` for some of the cases), so that a run cut short loses nothing.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpu_peers as peers
import torch
from gpu_cases import CASES, QUICK, Case
from torch import Tensor

import geoattn as ga
from geoattn._files import write_text
from geoattn.plans import plan
from geoattn.plans.cost import statistics as plan_statistics
from geoattn.plot import figures

RESULTS = Path(__file__).parent / "results"
#: seconds spent on timing one implementation in one direction
BUDGET = 1.0
#: largest difference of bfloat16 outputs relative to the largest value
AGREEMENT = 3e-2
#: bytes that operands take turns over: well beyond the second cache of any device
ROTATED = 400_000_000


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


# -- timing -----------------------------------------------------------------------------------------------


def rotated(hood: ga.neighborhoods.Neighborhood, heads: int, dim: int) -> list[list[Tensor]]:
    """Sets of q, k, v and the output's gradient, together larger than any cache."""
    shapes = [(1, *grid.shape, heads, dim) for grid in (hood.query_grid, hood.key_grid, hood.key_grid)]
    shapes.append(shapes[0])
    return [
        [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in shapes]
        for _ in range(copies(2 * sum(torch.Size(shape).numel() for shape in shapes)))
    ]


def copies(set_bytes: int) -> int:
    """How many sets of so many bytes to take turns over."""
    return max(2, -(-ROTATED // set_bytes))


def median_seconds(run: Callable[[], Any], budget: float = BUDGET) -> float:
    """Median over CUDA events of as many runs as fit the budget, at least 5."""
    run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    count = int(min(200, max(5, budget / max(time.perf_counter() - start, 1e-6))))
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for begin, end in events:
        begin.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events) / 1e3


def times(call: peers.Call, sets: list[list[Tensor]]) -> dict[str, float]:
    """Seconds forward, and backward as the difference of both together and forward alone."""
    turn = itertools.cycle(sets)

    def forward() -> None:
        with torch.no_grad():
            call(*next(turn)[:3])

    def both() -> None:
        q, k, v, grad = next(turn)
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        torch.autograd.grad(call(*leaves), leaves, grad)

    measured = {"forward": median_seconds(forward)}
    measured["both"] = median_seconds(both)
    measured["backward"] = measured["both"] - measured["forward"]
    return measured


def limits() -> dict[str, float]:
    """What the device can do: bytes read and written per second, bfloat16 arithmetic per second."""

    def copy_seconds() -> tuple[int, float]:
        x = torch.empty(2**29, device="cuda", dtype=torch.bfloat16)
        y = torch.empty_like(x)
        return 2 * x.nbytes, median_seconds(lambda: y.copy_(x))

    moved, seconds = copy_seconds()
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return {"bytes per second": moved / seconds, "flops per second": 2 * n**3 / median_seconds(lambda: a @ b)}


# -- one case ---------------------------------------------------------------------------------------------


def measure(case: Case) -> dict[str, Any]:
    """Times of every implementation on one case, or why there is none."""
    hood = case.hood()
    record: dict[str, Any] = {"case": case.name, "pattern": case.pattern, "dim": case.dim}
    record |= {"work": work(hood, case.heads, case.dim), "seconds": {}, "absent": {}}
    sets = rotated(hood, case.heads, case.dim)
    q, k, v, _ = sets[0]
    expected: Tensor | None = None
    for name, prepare in {**peers.SAME, **peers.DENSE}.items():
        try:
            call = prepare(case, hood)
            if name in peers.SAME:
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


# -- report -----------------------------------------------------------------------------------------------


def rates(record: dict[str, Any], ceiling: float) -> dict[str, dict[str, float]]:
    """Useful and raw arithmetic of ours per second, and the raw as a share of the ceiling."""
    ours = record["seconds"].get("geoattn")
    if ours is None:
        return {}
    return {
        direction: {
            "useful": record["work"]["useful"][direction] / ours[direction],
            "raw": record["work"]["raw"][direction] / ours[direction],
            "share": record["work"]["raw"][direction] / ours[direction] / ceiling,
        }
        for direction in ("forward", "backward")
    }


def table(report: dict[str, Any]) -> str:
    """All cases in words: times, rates, ratios, and the prediction beside what was measured."""
    lines = []
    for record in report["cases"]:
        lines += ["", f"{record['case']}   ({record['work']['pairs'] / 1e6:.1f} M pairs)"]
        ours = record["seconds"].get("geoattn")
        for name, seconds in record["seconds"].items():
            row = f"  {name:<26}"
            for direction in ("forward", "backward"):
                ratio = f"{seconds[direction] / ours[direction]:.2f}x" if ours else ""
                row += f"{direction} {seconds[direction] * 1e3:>9.3f} ms {ratio:>8}   "
            lines.append(row.rstrip())
        for direction, rate in rates(record, report["limits"]["flops per second"]).items():
            lines.append(
                f"  {direction}: {rate['useful'] / 1e12:.0f} useful and {rate['raw'] / 1e12:.0f} raw "
                f"TFLOP/s, {rate['share']:.0%} of the matrix product"
            )
        gain = record["work"]["predicted gain over dense"]
        dense = [record["seconds"][n]["forward"] for n in peers.DENSE if n in record["seconds"]]
        measured = f"{min(dense) / ours['forward']:.1f}x" if dense and ours else "not measured"
        lines.append(
            f"  gain over dense: predicted {gain['tiles']:.1f}x by tiles, {gain['groups']:.1f}x by groups; "
            f"measured {measured}"
        )
        lines += [f"  without {name}: {reason}" for name, reason in record["absent"].items()]
    return "\n".join(lines)


def targets(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Each aim for an H200, and whether this run reached it."""
    records, ceiling = report["cases"], report["limits"]["flops per second"]
    rows: list[tuple[str, str]] = []

    def judge(aim: str, values: list[float], least: float) -> None:
        state = "not measured"
        if values:
            state = f"{'reached' if min(values) >= least else 'missed'}: {min(values):.3g}"
        rows.append((aim, state))

    for direction, aims in (("forward", {64: 220, 128: 280}), ("backward", {64: 140, 128: 170})):
        for dim, least in aims.items():
            found = [rates(r, ceiling) for r in records if r["dim"] == dim and "geoattn" in r["seconds"]]
            best = [max(rate[direction]["raw"] for rate in found) / 1e12] if found else []
            judge(f"{direction} ≥ {least} raw TFLOP/s at head dim {dim}, best case", best, least)
    for name, least, pattern in (
        ("torch-harmonics", 30, "sphere 361×720, 7°"),
        ("FlexAttention, our order", 1, ""),
        ("FlexAttention", 1, ""),
    ):
        for direction in ("forward", "backward"):
            chosen = [
                r["seconds"][name][direction] / r["seconds"]["geoattn"][direction]
                for r in records
                if name in r["seconds"] and "geoattn" in r["seconds"] and pattern in r["pattern"]
            ]
            where = pattern or "every case"
            judge(f"{direction} ≥ {least}× {name}, {where}", chosen, least)
    flash = [
        r["seconds"]["dense flash"]["forward"] / r["seconds"]["geoattn"]["forward"]
        for r in records
        if "everything" in r["pattern"] and {"dense flash", "geoattn"} <= r["seconds"].keys()
    ]
    judge("everything at least 0.95 of dense flash", flash, 0.95)
    calls = report.get("first calls", {})
    for state, most in (("cold", 2.0), ("cached", 0.05)):
        first = [seconds[state][0] for seconds in calls.values() if seconds.get(state)]
        found_state = "not measured"
        if first:
            found_state = f"{'reached' if max(first) <= most else 'missed'}: {max(first):.3g} s"
        rows.append((f"first forward call, {state}, at most {most:g} s", found_state))
    return rows


def save(report: dict[str, Any], path: Path) -> None:
    """Write the report whole or not at all."""
    write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", path)


def draw(report: dict[str, Any], path: Path) -> None:
    """Times of the others relative to ours, for each case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = [r for r in report["cases"] if "geoattn" in r["seconds"]]
    names = [n for n in (*peers.SAME, *peers.DENSE) if any(n in r["seconds"] for r in records)]
    figure, axes = plt.subplots(1, 2, figsize=(14, 1.5 + 0.45 * len(records)), sharey=True)
    for axis, direction in zip(axes, ("forward", "backward"), strict=True):
        for (at, record), (place, name) in itertools.product(enumerate(records), enumerate(names)):
            if name in record["seconds"]:
                ratio = record["seconds"][name][direction] / record["seconds"]["geoattn"][direction]
                axis.barh(at + 0.8 * place / len(names), ratio, 0.8 / len(names), color=f"C{place}")
        axis.set(xscale="log", title=f"{direction}: time relative to geoattn")
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_yticks([at + 0.4 for at in range(len(records))], [r["case"] for r in records])
    axes[0].invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=f"C{place}") for place in range(len(names))]
    axes[1].legend(handles, names, fontsize=8)
    figure.suptitle(f"{report['device']}, bfloat16, {report['date']}")
    figure.tight_layout()
    figures.save(figure, path, dpi=120)
    plt.close(figure)


def write(report: dict[str, Any], name: str) -> None:
    """Judge the targets, and write the report and its picture."""
    report["targets"] = targets(report)
    save(report, RESULTS / f"{name}.json")
    draw(report, RESULTS / f"{name}.png")


def chosen(options: argparse.Namespace) -> Iterator[Case]:
    for case in CASES:
        if options.case in case.name and (not options.quick or (case.pattern in QUICK and case.dim == 64)):
            yield case


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small cases")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument(
        "--minutes", type=float, default=25.0, help="begin no case after so long (%(default)s)"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA device, and torch finds none", file=sys.stderr)
        return 2
    began = time.perf_counter()
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "geoattn": ga.__version__,
        "backends": dict(ga.backends()),
        "limits": limits(),
        "cases": [],
        "left out": [],
    }
    name = "gpu-part" if options.quick or options.case else "gpu"
    bandwidth, ceiling = report["limits"].values()
    print(
        f"{report['device']}: copies {bandwidth / 1e12:.2f} TB/s, matrix product {ceiling / 1e12:.0f} TFLOP/s"
    )
    report["first calls"] = first_calls()
    for case in chosen(options):
        if time.perf_counter() - began > 60 * options.minutes:
            report["left out"].append(case.name)
            continue
        try:
            report["cases"].append(measure(case))
            print(table({**report, "cases": report["cases"][-1:]}), flush=True)
        except Exception as reason:
            report["left out"].append(f"{case.name}: {type(reason).__name__}: {reason}"[:300])
            print(f"\n{report['left out'][-1]}", flush=True)
        gc.collect()
        torch.cuda.empty_cache()
        write(report, name)
    write(report, name)
    print("\nTargets (they are set for an H200)")
    for aim, state in targets(report):
        print(f"  {aim:<62} {state}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
