"""Curves: of learning, of errors against lead time, of spectra."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geoattn.plot.figures import new, save

#: label → values along x and y
Lines = Mapping[str, tuple[ArrayLike, ArrayLike]]


def curves(
    path: str | Path | None,
    xlabel: str,
    panels: Mapping[str, Lines],
    logarithmic: str = "",
    titled: bool = False,
    dashed: Mapping[str, str] | None = None,
) -> Any:
    """Panels side by side, each with labelled lines.

    Parameters
    ----------
    path
        Where to write the picture; None to write none.
    xlabel
        Of all panels.
    panels
        What a panel shows, with its unit → its lines.
    logarithmic
        Which axes are: ``"x"``, ``"y"``, ``"xy"``.
    titled
        Whether panels are named by a title, else along their vertical axis.
    dashed
        Label of a line that is dashed → label of the line whose colour it takes.

    Returns
    -------
    The matplotlib figure.

    Raises
    ------
    ValueError
        If an axis is logarithmic, and no line of a panel has a point above zero.

    Examples
    --------
    >>> figure = ga.plot.curves(None, "steps", {"loss": {"run": ([1, 2, 3], [3.0, 2.0, 1.0])}})
    """
    figure = new(4.2 * len(panels), 3.2)
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (quantity, lines) in zip(places, panels.items(), strict=True):
        if logarithmic and not any(_shows(line, logarithmic) for line in lines.values()):
            raise ValueError(
                f"no point of {quantity!r} is a number above zero, and only those are on a logarithmic axis: "
                'logarithmic="" draws linear ones'
            )
        plot(axes, lines, dashed or {})
        axes.set(xlabel=xlabel, **{"title" if titled else "ylabel": quantity})
        for axis in logarithmic:
            axes.set(**{f"{axis}scale": "log"})
    return save(figure, path)


#: colours and marks of lines, in turn; of matplotlib's style for colour-blind readers
COLOURS = ("#006BA4", "#FF800E", "#595959", "#5F9ED1", "#C85200", "#898989", "#A2C8EC", "#FFBC79")
MARKS = "osD^vP*X"


def _shows(line: tuple[ArrayLike, ArrayLike], logarithmic: str) -> bool:
    """Whether a point of the line is a number on both axes."""
    seen = np.ones(np.shape(line[1]), bool)
    for axis, values in zip("xy", line, strict=True):
        if axis in logarithmic:
            seen &= np.asarray(values, float) > 0.0
    return bool((seen & np.isfinite(np.asarray(line[1], float))).any())


def plot(axes: Any, lines: Lines, dashed: Mapping[str, str] | None = None) -> None:
    """Labelled lines with a grid behind and a legend; some dashed, in the colours of others."""
    axes.set_prop_cycle(color=COLOURS, marker=list(MARKS))
    drawn: dict[str, Any] = {}
    for label, (x, y) in lines.items():
        of = drawn.get((dashed or {}).get(label, ""))
        style = {} if of is None else {"color": of.get_color(), "marker": of.get_marker(), "linestyle": "--"}
        (drawn[label],) = axes.plot(x, y, markersize=3, label=label, **style)
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = axes.xaxis.get_major_locator()
    if isinstance(locator, AutoDateLocator):  # dates: what all have in common is written once
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.grid(alpha=0.3)
    axes.margins(y=0.15)  # room for the legend
    axes.legend(fontsize="small")


def read_metrics(path: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of each metric in a ``metrics.csv``; rows that lack one are skipped for it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file has no column ``step``.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
    ...     _ = file.write("step,loss\\n1,3.0\\n2,2.0\\n")
    ...     file.flush()
    ...     ga.plot.read_metrics(file.name)
    {'loss': ([1, 2], [3.0, 2.0])}
    """
    with Path(path).open(newline="") as file:
        rows = csv.DictReader(file)
        if "step" not in (rows.fieldnames or ()):
            raise ValueError(f"{path} has no column 'step': it is no metrics.csv of a run")
        found: dict[str, tuple[list[int], list[float]]] = {}
        for row in rows:
            for name, value in row.items():
                if name not in ("step", "epoch") and value:
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(int(float(row["step"])))
                    values.append(float(value))
    return found


def learning_curves(path: Path | None, runs: Mapping[str, str | Path], metrics: Sequence[str]) -> Any:
    """One panel for each metric, one line for each run.

    Parameters
    ----------
    path
        Where to write the picture; None to write none.
    runs
        Name of each run, and its ``metrics.csv``.
    metrics
        Names of columns. A logarithmic axis is used for those whose name holds "loss", if one is above zero.

    Returns
    -------
    The matplotlib figure.

    Raises
    ------
    ValueError
        If a run has none of a metric.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
    ...     _ = file.write("step,loss\\n1,3.0\\n2,2.0\\n")
    ...     file.flush()
    ...     figure = ga.plot.learning_curves(None, {"run": file.name}, ["loss"])
    """
    found = {name: read_metrics(file) for name, file in runs.items()}
    for name, columns in found.items():
        for metric in metrics:
            if metric not in columns:
                known = ", ".join(sorted(columns))
                raise ValueError(f"run {name!r} has no metric {metric!r}; it has {known}")
    panels = {m.replace("_", " "): {name: columns[m] for name, columns in found.items()} for m in metrics}
    figure = curves(None, "step", panels, titled=True)
    for axes, metric in zip(figure.axes, metrics, strict=True):
        if "loss" in metric and any(_shows(columns[metric], "y") for columns in found.values()):
            axes.set_yscale("log")
    return save(figure, path)


def training_curves(path: Path, rounds: Sequence[Mapping[str, float]]) -> Any:
    """The losses of a run against its steps, from the lines of its metrics.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> rounds = [{"step": n, "train_loss": 2.0 / n, "val_loss": 3.0 / n} for n in (1, 2)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = ga.plot.training_curves(Path(folder) / "learning.png", rounds)
    """
    lines = {}
    for name, label in (("train_loss", "training"), ("val_loss", "validation")):
        known = [row for row in rounds if name in row]
        lines[label] = [row["step"] for row in known], [row[name] for row in known]
    positive = all(row.get(name, 1.0) > 0 for row in rounds for name in ("train_loss", "val_loss"))
    logarithmic = positive and any(_shows(line, "y") for line in lines.values())
    return curves(path, "optimiser steps", {"loss": lines}, "y" if logarithmic else "")
