"""Equivariance error and convergence of the attention layer, against resolution.

    python benchmarks/equivariance.py [--quick]

Prints the tables and writes ``benchmarks/results/equivariance.json`` and ``.png``. The layer, its
rotation and its errors are those of ``geoattn.tasks.equivariance``: queries lie anywhere, the field of
tokens is turned exactly, and nothing is interpolated. Two layers have a bias, by the angle between query and
key, and by the bearing as well, which a rotation does not keep; one attends in a region whose rim cuts
discs off, and is measured deep inside and at the rim.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pages
from about import about

import geoattn as ga
from geoattn._files import write_text
from geoattn.plot import figures
from geoattn.plot.curves import COLOURS
from geoattn.tasks.equivariance import (
    BandLimitedAttention,
    Cap,
    continuous,
    equivariance_error,
    equivariance_errors_in,
    order_of_convergence,
    refinement_error,
)

RESULTS = Path(__file__).parent / "results" / "equivariance.json"
LAYERS = {
    "all keys": BandLimitedAttention(),
    "disc of 60°": BandLimitedAttention(radius=60.0),
    "disc of 20°": BandLimitedAttention(radius=20.0),
    "disc of 60°, bias by angle": BandLimitedAttention(radius=60.0, bins=6),
    "disc of 60°, bias by bearing": BandLimitedAttention(radius=60.0, bins=6, sectors=6),
}
#: a region, and the layer in it
REGION, INSIDE = Cap(-25.0, 20.0, 60.0), BandLimitedAttention(radius=20.0)
COLORS = dict(zip(("lat-lon", "HEALPix", "cube", "icosahedral"), COLOURS, strict=False))
MARKS = {"lat-lon": "o", "HEALPix": "^", "cube": "s", "icosahedral": "D"}
#: below this, errors are rounding, and have no order
ROUNDING = 1e-12


def rotation() -> np.ndarray:
    """A turn of 1.2 radians about an axis that no grid favours, by Rodrigues' formula."""
    axis = np.array([0.5, 0.3, -0.8]) / np.linalg.norm([0.5, 0.3, -0.8])
    cross = np.cross(np.eye(3), axis).T
    return np.eye(3) + np.sin(1.2) * cross + (1 - np.cos(1.2)) * cross @ cross


def families(sizes: tuple[int, ...]) -> dict[str, list[ga.grids.SphericalGrid]]:
    """Grids of about as many points, from coarse to fine."""
    return {
        "lat-lon": [ga.grids.equiangular(n, 2 * n, poles=False) for n in sizes],
        "HEALPix": [ga.grids.healpix(n // 2) for n in sizes],
        "cube": [ga.grids.cubed_sphere(n // 2) for n in sizes],
        "icosahedral": [ga.grids.icosahedral(level + 1) for level in range(len(sizes))],
    }


def measure(sizes: tuple[int, ...], disc_rows: int) -> list[dict[str, Any]]:
    rows = []
    for name, layer in LAYERS.items():
        reference = 64 if layer.radius is None else disc_rows // (2 if layer.bins else 1)
        exact = continuous(layer, reference)
        for family, grids in families(sizes).items():
            for weights in ("quadrature", None):
                errors = {
                    "equivariance": [equivariance_error(layer, g, rotation(), weights) for g in grids],
                    "refinement": [refinement_error(layer, g, exact, weights) for g in grids],
                }
                row = {"neighborhood": name, "grid": family, "weights": weights or "equal"}
                rows.append(row | told(grids, errors))
                print(shown(rows[-1]), flush=True)
    return rows


def measure_region(sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Errors deep inside a region and at its rim; queries are denser, for enough of both."""
    rows, queries = [], ga.grids.icosahedral(4)
    for family, grids in families(sizes).items():
        found = [equivariance_errors_in(INSIDE, g, rotation(), REGION, queries) for g in grids]
        inside, rim = zip(*found, strict=True)
        rows.append({"grid": family} | told(grids, {"inside": inside, "rim": rim}))
        print(f"{family:12} inside {inside[-1]:.1e}, order {rows[-1]['inside_order']}; rim {rim[-1]:.1e}")
    return rows


def told(grids: list[ga.grids.SphericalGrid], errors: dict[str, Any]) -> dict[str, Any]:
    """Errors and their orders of convergence."""
    row: dict[str, Any] = {"points": [g.size for g in grids]}
    for kind, found in errors.items():
        kept = [(g.size, e) for g, e in zip(grids, found, strict=True) if e > ROUNDING]
        row[kind] = [float(f"{e:.3g}") for e in found]
        row[f"{kind}_order"] = round(order_of_convergence(*zip(*kept, strict=True)), 2)
    return row


def shown(row: dict[str, Any]) -> str:
    return (
        f"{row['neighborhood']:30}{row['grid']:12}{row['weights']:12}"
        f"{row['equivariance'][-1]:22.1e}{row['equivariance_order']:8.2f}"
        f"{row['refinement'][-1]:14.1e}{row['refinement_order']:8.2f}"
    )


def draw(rows: list[dict[str, Any]], in_region: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5.6), layout="constrained")
    panels = figure.subplots(2, len(LAYERS) + 1, sharex=True, sharey="col")
    for row in rows:
        column, family = list(LAYERS).index(row["neighborhood"]), row["grid"]
        dashes = "-" if row["weights"] == "quadrature" else ":"
        for line, kind in enumerate(("equivariance", "refinement")):
            label = f"{family}, {row['weights']} weights"
            style = {"color": COLORS[family], "marker": MARKS[family], "linestyle": dashes, "label": label}
            panels[line, column].loglog(row["points"], row[kind], markersize=4, **style)
    for row in in_region:
        for kind, dashes in (("inside", "-"), ("rim", "--")):
            style = {"color": COLORS[row["grid"]], "marker": MARKS[row["grid"]], "linestyle": dashes}
            panels[0, -1].loglog(row["points"], row[kind], markersize=4, **style)
    for column, name in enumerate(LAYERS):
        panels[0, column].set_title(name, fontsize="medium")
    panels[0, -1].set_title(
        "disc of 20° in a region:\ninside (solid), at the rim (dashed)", fontsize="medium"
    )
    panels[1, -1].set_axis_off()
    for axes in (*panels[1, :-1], panels[0, -1]):
        axes.set_xlabel("points of the grid")
    panels[0, 0].set_ylabel("equivariance error")
    panels[1, 0].set_ylabel("error against the continuous layer")
    panels[1, -1].legend(*panels[0, 0].get_legend_handles_labels(), fontsize="small", loc="center")
    figures.save(figure, path, dpi=110)


def tables(content: dict[str, Any]) -> dict[str, str]:
    """Errors at the finest grids, and their orders, for the page of results."""

    def cell(row: dict[str, Any], kind: str) -> str:
        error, order = row[kind][-1], row[f"{kind}_order"]
        return "rounding" if error < ROUNDING else f"{error:.0e}, order {order:.1f}"

    def cells(name: str, kind: str) -> list[str]:
        rows = {(r["grid"], r["weights"]): r for r in content["rows"] if r["neighborhood"] == name}
        unweighted = f"{rows['lat-lon', 'equal'][kind][-1]:.2g}"
        return [*(cell(rows[family, "quadrature"], kind) for family in COLORS), unweighted]

    names = list(dict.fromkeys(row["neighborhood"] for row in content["rows"]))
    lines = [(name, *cells(name, "equivariance")) for name in names]
    region = {row["grid"]: row for row in content["region"]}
    for kind, words in (("inside", "deep inside a region"), ("rim", "at its rim")):
        lines.append((f"disc of 20°, {words}", *(cell(region[family], kind) for family in COLORS), ""))
    points = [region[family]["points"][-1] for family in COLORS]
    families = [f"{family}, {n:,} points" for family, n in zip(COLORS, points, strict=True)]
    head = ("equivariance error", *families, "lat-lon, equal weights")
    refined = [(name, *cells(name, "refinement")) for name in names]
    return {
        "equivariance": "\n".join(pages.table(head, lines)),
        "refinement": "\n".join(pages.table(("against the continuous layer", *head[1:]), refined)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="coarse grids, in seconds")
    options = parser.parse_args()
    sizes = (8, 16, 32) if options.quick else (8, 16, 32, 64, 128)
    heads = f"{'equivariance, finest':>22}{'order':>8}{'refinement':>14}{'order':>8}"
    print(f"{'keys':30}{'grid':12}{'weights':12}{heads}")
    rows = measure(sizes, 96 if options.quick else 720)
    in_region = measure_region(sizes)
    content = about("python benchmarks/equivariance.py" + " --quick" * options.quick)
    content |= {"rows": rows, "region": in_region}
    write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", RESULTS)
    draw(rows, in_region, RESULTS.with_suffix(".png"))
    if not options.quick:
        pages.write("results.md", tables(content))


if __name__ == "__main__":
    main()
