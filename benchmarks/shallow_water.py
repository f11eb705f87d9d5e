"""Verify the shallow-water solver on the standard test cases, at length.

    python benchmarks/shallow_water.py [--nlat 64 96 128] [--device cpu] [--output results.json]

Prints, and writes as JSON: the error of Williamson's steady case 2 after 5 days at four rotation angles;
of cases 5 (day 15) and 6 (day 10) the error of the height at each resolution against the finest one, next
to the published errors of a finite-volume model; the drift of the invariants; the growth of Galewsky's
jet to day 6. The default (T42, T63, T85) is long on a CPU; the stored results are those of
--nlat 32 48 64 (T21, T31, T42).
"""

from __future__ import annotations

import argparse
import math
import platform
from pathlib import Path
from typing import Any

import torch

import geoattn as ga
from geoattn._files import write_json
from geoattn.tasks.shallow_water import (
    DAY,
    Case,
    galewsky_jet,
    mountain,
    rossby_haurwitz,
    steady_zonal_flow,
)

#: relative l2 error of the height of the icosahedral GME shallow-water model, at 10,242 and 40,962 points
PUBLISHED = {"williamson 5, day 15": [1.37e-3, 7.2e-4], "williamson 6, day 10": [9.0e-3, 2.9e-3]}


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
    """The final state, and what the run lost."""
    final = case.solver.run(case.state, days * DAY)[-1]
    drift = case.solver.drift(case.state, final)
    row: dict[str, Any] = {
        "truncation": case.solver.truncation,
        "time_step_s": round(case.solver.stable_time_step(case.state), 1),
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


def converge(name: str, cases: list[Case], days: int) -> list[dict[str, Any]]:
    rows, surfaces = [], []
    for case in cases:
        final, row = integrate(case, days)
        surfaces.append(surface(case, final))
        rows.append(row)
    for row, field in zip(rows, surfaces, strict=True):
        row["height_error"] = relative_difference(field, surfaces[-1]) if row is not rows[-1] else None
        error = "the reference" if row is rows[-1] else f"l2 error of height {row['height_error']:.2e}"
        drift = ", ".join(f"{key} {value:+.1e}" for key, value in row["drift"].items())
        print(f"{name}, T{row['truncation']}: {error}; drift of {drift}")
    print(f"{name}, published (GME, 10,242 and 40,962 points): {PUBLISHED[name]}")
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
    parser.add_argument("--nlat", type=int, nargs="+", default=[64, 96, 128], help="rows of each grid")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "shallow_water.json"
    )
    chosen = parser.parse_args()
    grids = [ga.grids.gaussian(nlat, 2 * nlat) for nlat in sorted(chosen.nlat)]
    options = {"device": chosen.device}
    results = {
        "machine": {"device": chosen.device, "processor": platform.machine(), "torch": torch.__version__},
        "published": PUBLISHED,
        "williamson 2, day 5": steady(grids[0], **options),
        "williamson 5, day 15": converge(
            "williamson 5, day 15", [mountain(grid, **options) for grid in grids], 15
        ),
        "williamson 6, day 10": converge(
            "williamson 6, day 10", [rossby_haurwitz(grid, **options) for grid in grids], 10
        ),
        "galewsky, day 6": unstable(grids[-1], **options),
    }
    write_json(results, chosen.output)


if __name__ == "__main__":
    main()
