"""Equivariance error and convergence of the attention layer, against resolution.

    python benchmarks/equivariance.py [--quick]

Prints both tables and writes ``benchmarks/results/equivariance.json`` and ``.png``. The layer, its
rotation and its errors are those of ``geoattn.tasks.equivariance``: queries lie anywhere, the field of
tokens is turned exactly, and nothing is interpolated.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import geoattn as ga
from geoattn._files import write_text
from geoattn.plot import figures
from geoattn.tasks.equivariance import (
    BandLimitedAttention,
    continuous,
    equivariance_error,
    order_of_convergence,
    refinement_error,
)

RESULTS = Path(__file__).parent / "results" / "equivariance.json"
LAYERS = {
    "all keys": BandLimitedAttention(),
    "disc of 60°": BandLimitedAttention(radius=60.0),
    "disc of 20°": BandLimitedAttention(radius=20.0),
}
#: below this, errors are rounding, and have no order
ROUNDING = 1e-12


def rotation() -> np.ndarray:
    """A turn of 1.2 radians about an axis that no grid favours, by Rodrigues' formula."""
    axis = np.array([0.5, 0.3, -0.8]) / np.linalg.norm([0.5, 0.3, -0.8])
    cross = np.cross(np.eye(3), axis).T
    return np.eye(3) + np.sin(1.2) * cross + (1 - np.cos(1.2)) * cross @ cross


def measure(sizes: tuple[int, ...], disc_rows: int) -> list[dict[str, Any]]:
    families = {
        "lat-lon": [ga.grids.equiangular(n, 2 * n, poles=False) for n in sizes],
        "HEALPix": [ga.grids.healpix(n // 2) for n in sizes],
    }
    rows = []
    for name, layer in LAYERS.items():
        exact = continuous(layer, 64 if layer.radius is None else disc_rows)
        for family, grids in families.items():
            for weights in ("quadrature", None):
                errors = {
                    "equivariance": [equivariance_error(layer, g, rotation(), weights) for g in grids],
                    "refinement": [refinement_error(layer, g, exact, weights) for g in grids],
                }
                row = {"neighborhood": name, "grid": family, "weights": weights or "equal"}
                for kind, found in errors.items():
                    kept = [(g.size, e) for g, e in zip(grids, found, strict=True) if e > ROUNDING]
                    row[kind] = [float(f"{e:.3g}") for e in found]
                    row[f"{kind}_order"] = round(order_of_convergence(*zip(*kept, strict=True)), 2)
                rows.append(row | {"points": [g.size for g in grids]})
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.4), layout="constrained")
    panels = figure.subplots(2, len(LAYERS), sharex=True, sharey=True)
    styles = {
        ("lat-lon", "quadrature"): "C0o-",
        ("lat-lon", "equal"): "C1s--",
        ("HEALPix", "quadrature"): "C2^-",
        ("HEALPix", "equal"): "kx:",
    }
    for row in rows:
        column = list(LAYERS).index(row["neighborhood"])
        for line, kind in enumerate(("equivariance", "refinement")):
            label = f"{row['grid']}, {row['weights']} weights"
            style = styles[row["grid"], row["weights"]]
            panels[line, column].loglog(row["points"], row[kind], style, markersize=5, label=label)
    for column, name in enumerate(LAYERS):
        panels[0, column].set_title(name)
        panels[1, column].set_xlabel("points of the grid")
    panels[0, 0].set_ylabel("equivariance error")
    panels[1, 0].set_ylabel("error against the continuous layer")
    panels[0, 0].legend(fontsize="small")
    figures.save(figure, path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="coarse grids, in seconds")
    options = parser.parse_args()
    sizes = (8, 16, 32) if options.quick else (8, 16, 32, 64, 128)
    rows = measure(sizes, 96 if options.quick else 720)
    heads = f"{'equivariance, finest':>22}{'order':>8}{'refinement':>14}{'order':>8}"
    print(f"{'keys':14}{'grid':10}{'weights':12}{heads}")
    for row in rows:
        print(
            f"{row['neighborhood']:14}{row['grid']:10}{row['weights']:12}"
            f"{row['equivariance'][-1]:22.1e}{row['equivariance_order']:8.2f}"
            f"{row['refinement'][-1]:14.1e}{row['refinement_order']:8.2f}"
        )
    content = {
        "command": "python benchmarks/equivariance.py" + " --quick" * options.quick,
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", RESULTS)
    draw(rows, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
