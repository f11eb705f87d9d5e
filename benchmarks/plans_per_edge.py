"""How long a plan takes to build for each edge on grids without symmetry, beside HEALPix in ring order.

    python benchmarks/plans_per_edge.py       # half a minute or so

Discs of about as many keys on each grid, the best of three builds in turn, all in one process after small
builds of the same kinds. The neighborhood's own search counts as building. Prints a table and writes
``benchmarks/results/plans_per_edge.json``; a region or an ocean may take 1.5 times as long for each edge as
HEALPix does.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from about import about

import geoattn as ga
from geoattn import plans
from geoattn._files import write_text
from geoattn.neighborhoods import Neighborhood

RESULTS = Path(__file__).parent / "results" / "plans_per_edge.json"
LIMIT = 1.5
KEYS = 190.0
ROUNDS = 3
SHAPES = ((64, 64), (32, 1))


def lambert(points: int, kilometres: float) -> ga.grids.SphericalGrid:
    """A square domain of Lambert's conformal projection on a sphere (Snyder 1987, page 107)."""
    parallel, radius = np.radians(38.5), 6371.0
    n = np.sin(parallel)
    at = radius * np.cos(parallel) / n
    x, y = np.meshgrid(*[(np.arange(points) - (points - 1) / 2) * kilometres] * 2)
    rho, theta = np.hypot(x, at - y), np.arctan2(x, at - y)
    lat = 2 * np.arctan((at / rho) ** (1 / n) * np.tan(np.pi / 4 + parallel / 2)) - np.pi / 2
    return ga.grids.regional(np.degrees(lat), -97.5 + np.degrees(theta / n))


def tripolar(columns: int) -> ga.grids.SphericalGrid:
    """An ocean grid whose rows close over the Arctic along confocal ellipses, half a step before the slit."""
    step = 2 * np.pi / columns
    turn = step * (np.arange(columns) + 0.5)
    lat = np.arange(-78.0, 50.0, 0.8 * 360 / columns)
    rows = columns // 4
    above = step * (np.arange(rows)[::-1, None] + 0.5)
    focus = np.tan(np.radians(40.0) / 2) / np.cosh(rows * step)
    x, y = focus * np.cosh(above) * np.cos(turn), focus * np.sinh(above) * np.sin(turn)
    north = 90 - 2 * np.degrees(np.arctan(np.hypot(x, y))), np.degrees(np.arctan2(y, x))
    south = np.broadcast_arrays(lat[:, None], np.degrees(turn))
    return ga.grids.regional(*(np.concatenate(pair) for pair in zip(south, north, strict=True)))


GRIDS = {
    "HEALPix 64, ring": lambda: ga.grids.healpix(64, "ring"),
    "HRRR-like domain, 220²": lambda: lambert(220, 20.0),
    "rotated pole, 200×240": lambda: rotated(200, 240, 0.25),
    "slice of 0.25°, 200×240": lambda: ga.grids.regional(
        30 + 0.25 * np.arange(200), -20 + 0.25 * np.arange(240)
    ),
    "tripolar ocean, 1.2°": lambda: tripolar(300),
    "icosahedral cells, 40,962": lambda: voronoi(6),
    "region in a coarse globe": lambda: ga.grids.union(
        ga.grids.gaussian(96, 192), lambert(160, 25.0), overlap="replace"
    ),
}


def rotated(rows: int, columns: int, step: float) -> ga.grids.SphericalGrid:
    from geoattn.grids.projections import inverse

    pole = {"grid_north_pole_latitude": 39.25, "grid_north_pole_longitude": -162.0}
    back = inverse({"grid_mapping_name": "rotated_latitude_longitude", **pole})
    axes = ((np.arange(n) - (n - 1) / 2) * step for n in (columns, rows))
    return ga.grids.regional(*back(*np.meshgrid(*axes)))


def voronoi(level: int) -> ga.grids.SphericalGrid:
    mesh = ga.grids.icosahedral(level)
    return ga.grids.mesh(mesh.lat, mesh.lon, areas=mesh.weights, edges=mesh.edges)


def disc(grid: ga.grids.SphericalGrid) -> Neighborhood:
    """Discs that hold about :data:`KEYS` points on average."""
    area = float(np.median(grid.weights[grid.weights > 0]))
    radius = float(np.degrees(np.sqrt(KEYS * area / np.pi)))
    for _ in range(3):
        radius *= float(np.sqrt(KEYS / ga.geodesic(grid, radius=radius).counts.mean()))
    return ga.geodesic(grid, radius=radius)


def main() -> None:
    for shape in SHAPES:  # compiled loops are loaded
        for small in (ga.grids.healpix(8, "ring"), lambert(20, 100.0)):
            plans.build(disc(small), *shape)
    hoods = {name: disc(make()) for name, make in GRIDS.items()}
    table = [
        {"grid": name, "points": hood.query_grid.size, "edges": int(hood.counts.sum())}
        for name, hood in hoods.items()
    ]
    for a, b in SHAPES * ROUNDS:  # all grids in turn: what else the machine does meets all of them
        for row, hood in zip(table, hoods.values(), strict=True):
            fresh = ga.geodesic(hood.query_grid, radius=hood.radius)
            start = time.perf_counter()
            plans.build(fresh, a, b)
            spent = 1e9 * (time.perf_counter() - start) / row["edges"]
            row[f"{a}×{b}"] = min(spent, row.get(f"{a}×{b}", spent))
    print(f"{'':28}{'points':>9}{'keys':>7}" + "".join(f"{f'{a}×{b}':>10}{'':>8}" for a, b in SHAPES))
    for row in table:
        line = f"{row['grid']:28}{row['points']:9,}{row['edges'] / row['points']:7.0f}"
        for a, b in SHAPES:
            ratio = row[f"{a}×{b}"] / table[0][f"{a}×{b}"]
            line += f"{row[f'{a}×{b}']:7.1f} ns{ratio:5.2f}{' ' if ratio <= LIMIT else '!'}  "
        print(line, flush=True)
    content = about("python benchmarks/plans_per_edge.py") | {
        "limit": LIMIT,
        "unit": "nanoseconds for each edge",
        "grids": table,
    }
    write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", RESULTS)


if __name__ == "__main__":
    main()
