"""How long plans take to build, what memory that takes, and what work they leave to a kernel.

    python benchmarks/plans.py            # all, a minute or two
    python benchmarks/plans.py --quick    # one round of each build

Prints two tables and writes ``benchmarks/results/plans.json``. Every build runs in a process of its
own, after a small build of the same kind has loaded the compiled loops; making the grid and the
neighborhood counts as building. Memory is the peak of resident memory during the build over what was
resident before it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from about import about

import geoattn as ga
from geoattn import plans
from geoattn._files import write_text
from geoattn.neighborhoods import Neighborhood

RESULTS = Path(__file__).parent / "results" / "plans.json"
SHAPES = ((64, 64), (32, 1))


def lat_lon(nlat: int, nlon: int, radius: float) -> Callable[[], Neighborhood]:
    return lambda: ga.geodesic(ga.grids.equiangular(nlat, nlon), radius=radius)


def pixels(nside: int, radius: float) -> Callable[[], Neighborhood]:
    return lambda: ga.geodesic(ga.grids.healpix(nside), radius=radius)


def plane(shape: tuple[int, ...], size: Any, **options: Any) -> Callable[[], Neighborhood]:
    return lambda: ga.window(ga.grids.cartesian(shape), size, **options)


#: what is built, a small problem of its kind, and the limits in seconds and megabytes
BUILDS = {
    "721×1440, 3°": (lat_lon(721, 1440, 3.0), lat_lon(19, 36, 30.0), 10.0, 200.0),
    "HEALPix 256, 3°": (pixels(256, 3.0), pixels(8, 30.0), 10.0, 200.0),
    "plane 1024², 13×13": (plane((1024, 1024), 13), plane((32, 32), 13), 2.0, None),
}

#: what a plan leaves to do
CASES = {
    "plane 64², 7×7": plane((64, 64), 7),
    "plane 256², 13×13": plane((256, 256), 13),
    "plane 256², 33×33": plane((256, 256), 33),
    "plane 256², 13×13, dilation 4": plane((256, 256), 13, dilation=4),
    "line 32768, 2048": plane((32768,), 2048),
    "space 16×32×48, 9×13×13": plane((16, 32, 48), (9, 13, 13)),
    "91×180, 7°": lat_lon(91, 180, 7.0),
    "181×360, 1°": lat_lon(181, 360, 1.0),
    "181×360, 7°": lat_lon(181, 360, 7.0),
    "361×720, 7°": lat_lon(361, 720, 7.0),
    "721×1440, 3°": lat_lon(721, 1440, 3.0),
    "HEALPix 64, 7°": pixels(64, 7.0),
    "HEALPix 64, 14°": pixels(64, 14.0),
    "reduced Gaussian O96, 3°": lambda: ga.geodesic(ga.grids.reduced_gaussian("O96"), radius=3.0),
    "icosahedral 6, 3°": lambda: ga.geodesic(ga.grids.icosahedral(6), radius=3.0),
}


def resident() -> float:
    """Megabytes resident now, or at most so far where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:
        return peak()


def peak() -> float:
    """Megabytes resident at most so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def one_build(case: str, query_tile: int, key_tile: int) -> None:
    """Build in this process, and print what it took."""
    make, make_small, _, _ = BUILDS[case]
    plans.build(make_small(), query_tile, key_tile)
    before = resident()
    start = time.perf_counter()
    plan = plans.build(make(), query_tile, key_tile)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "megabytes": peak() - before, "plan_megabytes": plan.nbytes / 1e6}))


def measure_builds(rounds: int) -> list[dict[str, Any]]:
    table = []
    for case, (_, _, seconds_limit, megabytes_limit) in BUILDS.items():
        for shape in SHAPES:
            command = [sys.executable, __file__, "--one", case, *map(str, shape)]
            runs = []
            for _ in range(rounds):
                answer = subprocess.run(command, check=True, capture_output=True, text=True)
                runs.append(json.loads(answer.stdout))
            row = {
                "case": case,
                "tiles": shape,
                "seconds": sorted(run["seconds"] for run in runs),
                "megabytes": max(run["megabytes"] for run in runs),
                "plan_megabytes": runs[0]["plan_megabytes"],
                "seconds_limit": seconds_limit,
                "megabytes_limit": megabytes_limit,
            }
            table.append(row)
            print(
                f"{case:22}{shape[0]:>4}×{shape[1]:<4}{row['seconds'][0]:8.2f} s "
                f"{against(row['seconds'][0], seconds_limit):15}{row['megabytes']:6.0f} MB "
                f"{against(row['megabytes'], megabytes_limit):15} plan {row['plan_megabytes']:.1f} MB",
                flush=True,
            )
    return table


def against(value: float, limit: float | None) -> str:
    return "" if limit is None else f"≤ {limit:g} {'reached' if value <= limit else 'MISSED'}"


def measure_statistics() -> list[dict[str, Any]]:
    table = []
    print(f"\n{'':32}{'tiles':>7}{'mean keys':>10}{'list mean/max':>15}{'full':>6}", end="")
    print(f"{'useful: tiles':>15}{'groups':>8}{'gain: tiles':>13}{'groups':>8}{'MB':>7}{'build s':>9}")
    for case, make in CASES.items():
        hood = make()
        for shape in SHAPES:
            start = time.perf_counter()
            found = plans.statistics(plans.build(hood, *shape))
            seconds = time.perf_counter() - start
            mean_keys = found.useful_pairs / hood.query_grid.size
            print(
                f"{case:32}{f'{shape[0]}×{shape[1]}':>7}{mean_keys:10.0f}"
                f"{f'{found.mean_list:.1f}/{found.max_list}':>15}"
                f"{found.full_tiles / found.visited_tiles:6.0%}{found.tile_occupancy:15.1%}"
                f"{found.group_occupancy:8.1%}{found.tile_speedup:12.1f}×{found.group_speedup:7.1f}×"
                f"{found.nbytes / 1e6:7.2f}{seconds:9.2f}",
                flush=True,
            )
            derived = ("tile_occupancy", "group_occupancy", "tile_speedup", "group_speedup")
            row = {"case": case, "mean_keys": mean_keys, "seconds": seconds} | dataclasses.asdict(found)
            table.append(row | {name: getattr(found, name) for name in derived})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of each build")
    parser.add_argument("--one", nargs=3, metavar=("CASE", "QUERY_TILE", "KEY_TILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        case, query_tile, key_tile = arguments.one
        one_build(case, int(query_tile), int(key_tile))
        return
    head = about("python benchmarks/plans.py" + " --quick" * arguments.quick)
    print(f"{head['machine']}; best of the rounds in seconds, worst in memory\n")
    result = head | {
        "builds": measure_builds(1 if arguments.quick else 3),
        "statistics": measure_statistics(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    write_text(json.dumps(result, indent=1) + "\n", RESULTS)
    print(f"\nwritten to {RESULTS}")


if __name__ == "__main__":
    main()
