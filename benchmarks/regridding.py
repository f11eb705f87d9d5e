"""How long conservative weights take, how fast they are applied, and what CDO needs for the same.

    python benchmarks/regridding.py            # all, a few minutes
    python benchmarks/regridding.py --quick    # small grids, nothing is written

Prints a table and writes ``benchmarks/results/regridding.json``. Weights are made anew in this process,
after the compiled loops are loaded; the best of the rounds counts. They are applied to float32 fields of many
levels, rows as files have them, beside scipy's product of the same matrix in float32 with the same fields,
and with fields that someone has transposed before. CDO (where it is on the path) writes weights to a file,
and its times are those of the whole command; ours are written too, for that comparison.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from about import about

import geoattn as ga
from geoattn._files import whole, write_json
from geoattn.grids.sphere import lat_lon, unit_vectors
from geoattn.xarray.regridding.apply import apply

RESULTS = Path(__file__).parent / "results" / "regridding.json"
G = ga.grids


def turned(rows: int, columns: int) -> Any:
    """An array of cells of a rotated pole, as regional models have them."""
    lat, lon = np.meshgrid(np.linspace(-30, 30, rows), np.linspace(-50, 50, columns), indexing="ij")
    c, s = np.cos(np.radians(40.0)), np.sin(np.radians(40.0))
    return G.regional(*lat_lon(unit_vectors(lat, lon) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])))


#: source, target, and CDO's name of the target
CASES: dict[str, tuple[Callable[[], Any], Callable[[], Any], str | None]] = {
    "721×1440 → 181×360": (lambda: G.equiangular(721, 1440), lambda: G.equiangular(181, 360), "r360x181"),
    "721×1440 → F80": (lambda: G.equiangular(721, 1440), lambda: G.gaussian(160, 320), "F80"),
    "721×1440 → HEALPix 64": (lambda: G.equiangular(721, 1440), lambda: G.healpix(64), None),
    "721×1440 → O96": (lambda: G.equiangular(721, 1440), lambda: G.reduced_gaussian("O96"), None),
    "721×1440 → rotated 300×500": (lambda: G.equiangular(721, 1440), lambda: turned(300, 500), "file"),
    "HEALPix 128 → 181×360": (lambda: G.healpix(128), lambda: G.equiangular(181, 360), None),
    "rotated 300×500 → HEALPix 64": (lambda: turned(300, 500), lambda: G.healpix(64), None),
}
QUICK: dict[str, tuple[Callable[[], Any], Callable[[], Any], str | None]] = {
    "73×144 → 19×36": (lambda: G.equiangular(73, 144), lambda: G.equiangular(19, 36), "r36x19"),
    "73×144 → rotated 30×50": (lambda: G.equiangular(73, 144), lambda: turned(30, 50), "file"),
}


def best(task: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return min(times)


def in_turn(tasks: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Least seconds of each, taken in turns."""
    found = dict.fromkeys(tasks, np.inf)
    for _ in range(rounds):
        for name, task in tasks.items():
            found[name] = min(found[name], best(task, 1))
    return found


def applied(operator: Any, levels: int, rounds: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    fields = random.random((levels, operator.source.size), dtype=np.float32)
    single, columns = operator.matrix.astype(np.float32), np.ascontiguousarray(fields.T)
    expected = single @ columns
    assert np.abs(apply(operator.matrix, fields) - expected.T).max() < 1e-5
    return in_turn(
        {
            "apply_seconds": lambda: apply(operator.matrix, fields),
            "product_seconds": lambda: np.ascontiguousarray((single @ fields.T).T),
            "transposed_product_seconds": lambda: single @ columns,
        },
        rounds,
    )


def field_file(grid: Any, path: Path) -> None:
    """A field on the grid as CDO reads it."""
    ds = ga.xarray.coordinates(grid)
    if grid.shape == np.shape(ds.latitude) and grid.lat.ndim == 2 and "latitude_bounds" not in ds:
        lat, lon = ga.grids.corners.corner_places(grid)
        ds = ds.assign(
            latitude_bounds=(("y", "x", "corner"), lat.reshape(*grid.shape, 4)),
            longitude_bounds=(("y", "x", "corner"), lon.reshape(*grid.shape, 4)),
        )
        for name in ("latitude", "longitude"):
            ds[name].attrs["bounds"] = f"{name}_bounds"
    dims = tuple(dict.fromkeys(ds.latitude.dims + ds.longitude.dims))
    ds["t"] = (
        dims,
        np.ones(grid.shape, np.float32),
        {"coordinates": "latitude longitude"} if "y" in dims else {},
    )
    with whole(path) as partial:
        ds.drop_vars("cell_area", errors="ignore").to_netcdf(partial)


def of_cdo(source: Any, target: Any, name: str, operator: Any, rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        field_file(source, here / "in.nc")
        if name == "file":
            field_file(target, here / "target.nc")
            name = "target.nc"
        command = ["cdo", "-O", f"gencon,{name}", "in.nc", "cdo.nc"]

        def theirs() -> None:
            subprocess.run(command, check=True, capture_output=True, cwd=here)

        def ours() -> None:
            ga.xarray.Regridder(source, target, "conservative").save(here / "ours.nc")

        found = in_turn({"cdo_file_seconds": theirs, "our_file_seconds": ours}, rounds)
        field = np.random.default_rng(1).random(source.shape)
        read = ga.xarray.Regridder.open(here / "cdo.nc", source, None)
        a, b = operator(field, least=0.0).ravel(), read(field, least=0.0).ravel()
        if np.abs(read.target.lat.ravel() - target.lat.ravel()).max() > 1.0:  # rows from the other pole
            b = b.reshape(target.shape)[::-1].ravel()
        found["largest_difference"] = float(np.nanmax(np.abs(a - b)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small grids, once each; nothing is written")
    parser.add_argument("--levels", type=int, default=37, help="levels of the fields (default 37)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the best counts (default 3)")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    ga.xarray.Regridder(turned(4, 5), G.healpix(1), "conservative")  # compiled, or loaded
    table = []
    print(
        f"{'case':<30}{'weights':>10}{'links':>10}{'apply':>9}{'product':>9}{'transp.':>9}{'file':>8}{'cdo':>8}"
    )
    for case, (make_source, make_target, name) in (QUICK if options.quick else CASES).items():
        source, target = make_source(), make_target()
        operator = ga.xarray.Regridder(source, target, "conservative")
        row: dict[str, Any] = {"case": case, "links": int(operator.matrix.nnz)}

        def weights(source: Any = source, target: Any = target) -> Any:
            return ga.xarray.Regridder(source, target, "conservative")

        row["weights_seconds"] = best(weights, rounds)
        row["conservation_error"] = operator.conservation_error
        covered = operator.weights.covered
        row["constant_error"] = float(np.abs(operator.matrix.sum(axis=1)[covered > 0] - 1.0).max())
        row |= applied(operator, options.levels, rounds)
        if name is not None and shutil.which("cdo"):
            row |= of_cdo(source, target, name, operator, rounds)
        table.append(row)
        line = f"{case:<30}{row['weights_seconds']:>9.2f}s{row['links']:>10,}"
        for key in ("apply_seconds", "product_seconds", "transposed_product_seconds"):
            line += f"{1e3 * row[key]:>7.0f}ms"
        for key in ("our_file_seconds", "cdo_file_seconds"):
            line += f"{row[key]:>7.1f}s" if key in row else f"{'-':>8}"
        print(line, flush=True)
    if options.quick:
        return
    cdo = (
        subprocess.run(["cdo", "--version"], capture_output=True, text=True) if shutil.which("cdo") else None
    )
    head = about("python benchmarks/regridding.py", "scipy", "xarray")
    head["versions"]["cdo"] = (cdo.stderr or cdo.stdout).splitlines()[0] if cdo else "not installed"
    write_json(head | {"levels": options.levels, "rounds": rounds, "table": table}, RESULTS)


if __name__ == "__main__":
    main()
