"""Learning curves of several runs, from the ``metrics.csv`` of each."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_metrics(path: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of each metric in a ``metrics.csv``; rows that lack one are skipped for it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file has no column ``step``.
    """
    with Path(path).open(newline="") as file:
        rows = csv.DictReader(file)
        if "step" not in (rows.fieldnames or ()):
            raise ValueError(f"{path} has no column 'step': it is no metrics.csv of a run")
        curves: dict[str, tuple[list[int], list[float]]] = {}
        for row in rows:
            for name, value in row.items():
                if name not in ("step", "epoch") and value:
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(int(float(row["step"])))
                    values.append(float(value))
    return curves


def learning_curves(path: Path | None, runs: Mapping[str, str | Path], metrics: Sequence[str]) -> Any:
    """One panel for each metric, one line for each run.

    Parameters
    ----------
    path
        Where to write the picture; None to write none.
    runs
        Name of each run, and its ``metrics.csv``.
    metrics
        Names of columns. A logarithmic axis is used for those whose name holds "loss".

    Returns
    -------
    The matplotlib figure.

    Raises
    ------
    ValueError
        If a run has none of a metric.
    """
    from matplotlib.figure import Figure

    curves = {name: read_metrics(file) for name, file in runs.items()}
    figure = Figure(figsize=(4.2 * len(metrics), 3.2), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for name, curve in curves.items():
            if metric not in curve:
                raise ValueError(f"run {name!r} has no metric {metric!r}; it has {', '.join(sorted(curve))}")
            axes.plot(*curve[metric], marker=".", label=name)
        axes.set(xlabel="step", title=metric.replace("_", " "))
        if "loss" in metric:
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    if path is not None:
        figure.savefig(path, dpi=110)
    return figure
