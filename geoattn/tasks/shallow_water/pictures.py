"""Pictures of forecasts: maps of truth, forecast and error; error against lead time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.latlon import LatLonGrid
from geoattn.tasks import maps


def forecast_picture(
    path: Path,
    grid: LatLonGrid,
    hours: NDArray[np.floating],
    lead: int,
    truth: NDArray[np.floating],
    forecasts: dict[str, NDArray[np.floating]],
    errors: dict[str, NDArray[np.floating]],
    quantity: str,
) -> None:
    """Truth beside the growth of the errors; below, each forecast beside its error.

    Parameters
    ----------
    hours
        Lead times, ``[steps + 1]``; the maps show ``hours[lead]``.
    truth, forecasts
        Fields ``[nlat, nlon]`` at that lead time.
    errors
        Error of each forecast at every lead time, ``[steps + 1]``.
    quantity
        What is shown and its unit, for the labels.
    """
    from matplotlib.figure import Figure

    rows = len(forecasts) + 1
    figure = Figure(figsize=(10, 2.7 * rows), layout="constrained")
    places = figure.add_gridspec(rows, 2)
    low, high = np.percentile(truth, [0.5, 99.5])
    largest = max(float(np.abs(f - truth).max()) for f in forecasts.values())

    def show(place: Any, title: str, field: NDArray[np.floating], **style: Any) -> None:
        axes = figure.add_subplot(place)
        axes.set_title(title)
        image = maps.draw(axes, grid, field, "mollweide", **style)
        figure.colorbar(image, ax=axes, shrink=0.7, label=quantity)

    show(places[0, 0], "truth", truth, cmap="viridis", vmin=low, vmax=high)
    growth = figure.add_subplot(places[0, 1])
    for name, error in errors.items():
        growth.plot(hours, error, marker="o", markersize=3, label=name)
    growth.axvline(hours[lead], color="gray", linewidth=0.8, linestyle=":")
    growth.set(xlabel="lead time (hours)", ylabel=f"RMSE of {quantity}", ylim=(0, None), title="error growth")
    growth.grid(alpha=0.3)
    growth.legend(fontsize="small")
    for row, (name, forecast) in enumerate(forecasts.items(), start=1):
        show(places[row, 0], name, forecast, cmap="viridis", vmin=low, vmax=high)
        error = forecast - truth
        show(places[row, 1], f"{name}: error", error, cmap="RdBu_r", vmin=-largest, vmax=largest)
    figure.suptitle(f"{hours[lead]:.0f} hours ahead")
    figure.savefig(path, dpi=100)


def curves(
    path: Path,
    xlabel: str,
    panels: dict[str, dict[str, tuple[Any, Any]]],
    logarithmic: bool = False,
) -> None:
    """Panels side by side, named by their vertical axis; each has labelled curves (x, y)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(panels), 3.2), layout="constrained")
    for axes, (quantity, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for label, (x, y) in lines.items():
            axes.plot(x, y, marker="o", markersize=3, label=label)
        axes.set(xlabel=xlabel, ylabel=quantity)
        if logarithmic:
            axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)
