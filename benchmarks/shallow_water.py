"""Verify the shallow-water solver on the standard test cases, at length.

    python benchmarks/shallow_water.py [--nlat 32 48 64 96 128] [--device cpu] [--output results.json]
    python benchmarks/shallow_water.py --references    # once: an hour or so on one core

Prints, and writes as JSON: the error of Williamson's steady case 2 after 5 days at four rotation angles;
of cases 5 (day 15) and 6 (day 10) the error of the height at each resolution, and processor seconds, with the
classical and with the exponential step, next to the published errors of a finite-volume model; of
Galewsky's jet (day 6) the errors of height and vorticity; the drift of the invariants; the growth of the
jet. Rows of resolutions that are not asked for stay as they are in the file. Errors are against runs with
exponential steps at a Courant number of 0.75, at T106, and at T170 for the jet, which ``--references``
makes, a day at a time, and keeps up to degree 85, of the jet up to 106, in
``benchmarks/results/shallow_water_references.npz``; where it is stopped it goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pages
import torch
from about import about

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
RESULTS = Path(__file__).parent / "results" / "shallow_water.json"
REFERENCES = RESULTS.with_name("shallow_water_references.npz")
#: name → (case, days)
CASES: dict[str, tuple[Callable[..., Case], int]] = {
    "williamson 5, day 15": (mountain, 15),
    "williamson 6, day 10": (rossby_haurwitz, 10),
}
JET = "galewsky, day 6"
#: name → (case, days, rows of the grid and highest degree kept of the reference)
REFERENCE_CASES: dict[str, tuple[Callable[..., Case], int, int, int]] = {
    **{name: (make, days, 160, 85) for name, (make, days) in CASES.items()},
    JET: (galewsky_jet, 6, 256, 106),
}


def make_references(folder: Path) -> None:
    """What remains of each case at its end, as coefficients: see :func:`compared`."""
    kept = {}
    if REFERENCES.exists():
        with np.load(REFERENCES) as file:
            kept = dict(file)
    for name, (make, days, rows, degree) in REFERENCE_CASES.items():
        if name in kept:
            print(f"{name}: kept")
            continue
        case = make(ga.grids.gaussian(rows, 2 * rows), scheme="exponential")
        step, start = case.solver.stable_time_step(case.state, 0.75), time.process_time()
        state, first = resumed(folder, name, case.state)
        for day in range(first, days):
            state = case.solver.run(state, DAY, time_step=step)[-1]
            with whole(folder / f"{name}.pt") as partial:
                torch.save((state, day + 1), partial)
            print(f"{name}, day {day + 1}: {time.process_time() - start:.0f} s", flush=True)
        drift = {key: f"{float(value):.1e}" for key, value in case.solver.drift(case.state, state).items()}
        print(f"{name}: T{case.solver.truncation}, steps of {step:.0f} s, drift {drift}", flush=True)
        fields = compared(name, case, state)[..., : degree + 1, : degree + 1]
        kept[name] = fields.numpy().astype(np.complex64)
        with whole(REFERENCES) as path, path.open("wb") as file:
            np.savez_compressed(file, **kept)


def resumed(folder: Path, name: str, state: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The state that an earlier run had reached, and after how many days."""
    path = folder / f"{name}.pt"
    return torch.load(path) if path.exists() else (state, 0)


def compared(name: str, case: Case, state: torch.Tensor) -> torch.Tensor:
    """Coefficients ``[T + 1, T + 1]`` of the surface's height; of the jet ``[2, …]``, with the vorticity."""
    height = surface(case, state)
    return torch.stack((height, state[1])) if name == JET else height


def surface(case: Case, state: torch.Tensor) -> torch.Tensor:
    """Coefficients of the height of the surface, depth and orography together."""
    return state[0] + case.solver.harmonics.analyse(case.solver.orography)


def relative_difference(coarse: torch.Tensor, fine: torch.Tensor) -> float:
    """Relative l2 norm over the sphere, by Parseval's identity; scales that only one of the two has count."""
    size = max(len(coarse), len(fine))
    coarse, fine = (torch.nn.functional.pad(x, 2 * (0, size - len(x))) for x in (coarse, fine))
    difference = fine - coarse
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
    make, days, reference_rows, _ = REFERENCE_CASES[name]
    with np.load(REFERENCES) as kept:
        if name not in kept:
            print(f"{name}: no reference yet, see --references")
            return []
        truth = torch.from_numpy(kept[name]).to(torch.complex128)
    rows = []
    finest = (2 * reference_rows - 1) // 3
    print(
        f"{name}, against T{finest}; published (GME, 10,242 and 40,962 points): {PUBLISHED.get(name, 'none')}"
    )
    for grid in grids:
        for scheme in get_args(Scheme):
            case = make(grid, scheme=scheme, **options)
            final, row = integrate(case, days)
            found = compared(name, case, final).cpu()
            if name == JET:
                row["vorticity_error"] = relative_difference(found[1], truth[1])
                found, height = found[0], truth[0]
            else:
                height = truth
            row["height_error"] = relative_difference(found, height)
            rows.append(row)
            drift = ", ".join(f"{key} {value:+.1e}" for key, value in row["drift"].items())
            errors = ", ".join(f"{key.replace('_', ' ')} {row[key]:.2e}" for key in row if "error" in key)
            print(
                f"  T{row['truncation']} {scheme:12} steps of {row['time_step_s']:6.0f} s, "
                f"{row['processor_s']:7.1f} s, {errors}; drift of {drift}",
                flush=True,
            )
    return rows


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by truncation and scheme, the new ones in place of old ones."""
    rows = {(row["truncation"], row["scheme"]): row for row in (*old, *new) if "scheme" in row}
    return [rows[key] for key in sorted(rows)]


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


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Errors and costs of the two steps at each resolution, for the page of results."""
    lines = []
    for name in REFERENCE_CASES:
        by_truncation: dict[int, dict[str, Any]] = {}
        for row in results.get(name, []):
            by_truncation.setdefault(row["truncation"], {})[row["scheme"]] = row
        for truncation, rows in sorted(by_truncation.items()):
            cells = []
            for scheme in get_args(Scheme):
                row = rows.get(scheme)
                cells.append(
                    "" if row is None else f"{row['height_error']:.1e} in {row['processor_s']:.0f} s"
                )
            if any("vorticity_error" in row for row in rows.values()):
                cells = [
                    cell + f", vorticity {rows[scheme]['vorticity_error']:.1e}" if scheme in rows else cell
                    for cell, scheme in zip(cells, get_args(Scheme), strict=True)
                ]
            lines.append((f"{name}, T{truncation}", *cells))
        if name in PUBLISHED:
            coarse, fine = PUBLISHED[name]
            lines.append((f"{name}, published", f"{coarse:.1e}, 10,242 points", f"{fine:.1e}, 40,962 points"))
    head = ("case", *(f"{scheme} step" for scheme in get_args(Scheme)))
    return {"standard cases": "\n".join(pages.table(head, lines))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--nlat", type=int, nargs="+", default=[32, 48, 64, 96, 128], help="rows of each grid"
    )
    parser.add_argument("--references", action="store_true", help="make what errors are measured against")
    parser.add_argument("--folder", type=Path, default=Path("runs/shallow-water-references"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    if chosen.references:
        make_references(chosen.folder)
        return
    grids = [ga.grids.gaussian(nlat, 2 * nlat) for nlat in sorted(chosen.nlat)]
    options = {"device": chosen.device}
    results = json.loads(chosen.output.read_text()) if chosen.output.exists() else {}
    results |= about("python benchmarks/shallow_water.py", "ducc0")
    results |= {"device": chosen.device, "published": PUBLISHED}
    told = {"date": time.strftime("%Y-%m-%d"), "threads": torch.get_num_threads()}
    if results.get("finest", 0) <= max(chosen.nlat):  # what is measured at one resolution alone
        results["williamson 2, day 5"] = steady(grids[0], **options)
        results["growth of the jet"] = unstable(grids[-1], **options)
        results["finest"] = max(chosen.nlat)
    for name in REFERENCE_CASES:
        rows = [row | told | {"load": os.getloadavg()[0]} for row in converge(name, grids, **options)]
        results[name] = merged(results.get(name, []), rows)
        write_json(results, chosen.output)
    if chosen.output == RESULTS:
        pages.write("results.md", tables(results))


if __name__ == "__main__":
    main()
