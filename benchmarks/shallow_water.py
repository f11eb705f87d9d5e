"""Verify the shallow-water solver on the standard test cases, at length.

    python benchmarks/shallow_water.py [--nlat 32 48 64 96 128] [--device cpu] [--output results.json]
    python benchmarks/shallow_water.py --references    # T106, once: half an hour on one core

Prints, and writes as JSON: the error of Williamson's steady case 2 after 5 days at four rotation angles;
of cases 5 (day 15) and 6 (day 10) the error of the height at each resolution, and processor seconds, with the
classical and with the exponential step, next to the published errors of a finite-volume model; the drift of
the invariants; the growth of Galewsky's jet to day 6. Errors are against runs at T106 with exponential steps
at a Courant number of 0.75, whose heights ``--references`` makes and keeps, down to degree 85, in
``benchmarks/results/shallow_water_references.npz``.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

import geoattn as ga
from geoattn._files import whole, write_json
from geoattn.tasks.shallow_water import (
    DAY,
    Case,
    galewsky_jet,
    mountain,
    rossby_haurwitz,
    steady_zonal_flow,
)
from geoattn.tasks.shallow_water.solver import Scheme

#: relative l2 error of the height of the icosahedral GME shallow-water model, at 10,242 and 40,962 points
PUBLISHED = {"williamson 5, day 15": [1.37e-3, 7.2e-4], "williamson 6, day 10": [9.0e-3, 2.9e-3]}
REFERENCES = Path(__file__).parent / "results" / "shallow_water_references.npz"
#: name → (case, days)
CASES: dict[str, tuple[Callable[..., Case], int]] = {
    "williamson 5, day 15": (mountain, 15),
    "williamson 6, day 10": (rossby_haurwitz, 10),
}
REFERENCE_ROWS, KEPT = 160, 85


def make_references() -> None:
    """Heights of the surface at the end of each case, as coefficients ``[KEPT + 1, KEPT + 1]``."""
    kept = {}
    for name, (make, days) in CASES.items():
        case = make(ga.grids.gaussian(REFERENCE_ROWS, 2 * REFERENCE_ROWS), scheme="exponential")
        step = case.solver.stable_time_step(case.state, 0.75)
        start = time.process_time()
        final = case.solver.run(case.state, days * DAY, save_every=DAY / 2, time_step=step)[-1]
        drift = {key: f"{float(value):.1e}" for key, value in case.solver.drift(case.state, final).items()}
        seconds = time.process_time() - start
        print(
            f"{name}: T{case.solver.truncation}, steps of {step:.0f} s, {seconds:.0f} s, drift {drift}",
            flush=True,
        )
        kept[name] = surface(case, final)[: KEPT + 1, : KEPT + 1].numpy().astype(np.complex64)
    with whole(REFERENCES) as path, path.open("wb") as file:
        np.savez_compressed(file, **kept)


def surface(case: Case, state: torch.Tensor) -> torch.Tensor:
    """Coefficients of the height of the surface, depth and orography together."""
    return state[0] + case.solver.harmonics.analyse(case.solver.orography)


def relative_difference(coarse: torch.Tensor, fine: torch.Tensor) -> float:
    """Relative l2 norm over the sphere, by Parseval's identity; scales only the finer run has count."""
    difference = fine.clone()
    difference[: len(coarse), : len(coarse)] -= coarse
    twice = torch.full((len(fine),), 2.0, dtype=torch.float64, device=fine.device)
    twice[0] = 1.0  # orders m and −m, but 0 once
    norms = [((field.abs() ** 2) * twice).sum() for field in (difference, fine)]
    return float((norms[0] / norms[1]).sqrt())


def integrate(case: Case, days: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """The final state, what it cost, and what the run lost."""
    step = case.solver.stable_time_step(case.state)
    start = time.process_time()
    final = case.solver.run(case.state, days * DAY, time_step=step)[-1]
    seconds = time.process_time() - start
    drift = case.solver.drift(case.state, final)
    row: dict[str, Any] = {
        "truncation": case.solver.truncation,
        "scheme": case.solver.scheme,
        "time_step_s": round(step, 1),
        "processor_s": seconds,
        "drift": {name: float(value) for name, value in drift.items()},
    }
    return final, row


def steady(grid: ga.grids.Gaussian, **options: Any) -> list[dict[str, Any]]:
    rows = []
    for radians in (0.0, 0.05, math.pi / 2 - 0.05, math.pi / 2):
        case = steady_zonal_flow(grid, math.degrees(radians), **options)
        final, row = integrate(case, 5)
        error = relative_difference(final[0], case.state[0])
        rows.append({"alpha": radians, "height_error": error, **row})
        print(f"williamson 2, day 5, T{row['truncation']}, α = {radians:.4f}: l2 error of height {error:.1e}")
    return rows


def converge(name: str, grids: list[ga.grids.Gaussian], **options: Any) -> list[dict[str, Any]]:
    make, days = CASES[name]
    with np.load(REFERENCES) as kept:
        truth = torch.from_numpy(kept[name]).to(torch.complex128)
    rows = []
    print(f"{name}, against T106; published (GME, 10,242 and 40,962 points): {PUBLISHED[name]}")
    for grid in grids:
        for scheme in get_args(Scheme):
            case = make(grid, scheme=scheme, **options)
            final, row = integrate(case, days)
            row["height_error"] = relative_difference(surface(case, final).cpu(), truth)
            rows.append(row)
            drift = ", ".join(f"{key} {value:+.1e}" for key, value in row["drift"].items())
            print(
                f"  T{row['truncation']} {scheme:12} steps of {row['time_step_s']:6.0f} s, "
                f"{row['processor_s']:7.1f} s, l2 error {row['height_error']:.2e}; drift of {drift}",
                flush=True,
            )
    return rows


def unstable(grid: ga.grids.Gaussian, **options: Any) -> dict[str, Any]:
    steady_case, case = (galewsky_jet(grid, perturbed, **options) for perturbed in (False, True))
    solver = case.solver
    states = torch.stack((steady_case.state, case.state))
    days = solver.run(states, 6 * DAY, save_every=DAY)
    northward = solver.wind(days)[:, :, 1].abs().amax((-2, -1))
    change = solver.to_fields(days[-1, 0] - days[0, 0])[0].abs().max()
    drift = {name: value.tolist() for name, value in solver.drift(days[0], days[-1]).items()}
    name = f"galewsky, T{solver.truncation}"
    print(f"{name}, balanced: northward wind ≤ {northward[:, 0].max():.1e} m/s, depth moves {change:.2f} m")
    print(f"{name}, perturbed: northward wind by day {[round(v, 2) for v in northward[:, 1].tolist()]} m/s")
    return {
        "truncation": solver.truncation,
        "balanced_depth_change_m": float(change),
        "northward_wind_balanced": northward[:, 0].tolist(),
        "northward_wind_perturbed": northward[:, 1].tolist(),
        "drift": drift,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--nlat", type=int, nargs="+", default=[32, 48, 64, 96, 128], help="rows of each grid"
    )
    parser.add_argument("--references", action="store_true", help="make what errors are measured against")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "shallow_water.json"
    )
    chosen = parser.parse_args()
    if chosen.references:
        make_references()
        return
    grids = [ga.grids.gaussian(nlat, 2 * nlat) for nlat in sorted(chosen.nlat)]
    options = {"device": chosen.device}
    results = {
        "machine": {"device": chosen.device, "processor": platform.machine(), "torch": torch.__version__},
        "date": time.strftime("%Y-%m-%d"),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "published": PUBLISHED,
        "williamson 2, day 5": steady(grids[0], **options),
        **{name: converge(name, grids, **options) for name in CASES},
        "galewsky, day 6": unstable(grids[-1], **options),
    }
    write_json(results, chosen.output)


if __name__ == "__main__":
    main()
