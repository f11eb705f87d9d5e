"""Learning curves."""

from __future__ import annotations

from pathlib import Path

from geoattn._files import whole


def learning_curves(path: Path, rounds: list[dict[str, float]]) -> None:
    """Draw the losses of a run against its steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for name, label in (("train_loss", "training"), ("val_loss", "validation")):
        known = [row for row in rounds if name in row]
        axes.plot([r["step"] for r in known], [r[name] for r in known], marker="o", markersize=3, label=label)
    axes.set(xlabel="optimiser steps", ylabel="loss")
    if all(row.get(name, 1.0) > 0 for row in rounds for name in ("train_loss", "val_loss")):
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    with whole(path) as partial:
        figure.savefig(partial, dpi=100, format="png")
