"""Pictures of forecasts: maps of truth, forecast and error; error against lead time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.latlon import LatLonGrid


def edges_of(axis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cell edges midway between the points of an axis, the ends extrapolated."""
    middle = (axis[1:] + axis[:-1]) / 2
    return np.concatenate(([2 * axis[0] - middle[0]], middle, [2 * axis[-1] - middle[-1]]))


def mollweide(axes: Any, grid: LatLonGrid, field: NDArray[np.floating], **style: Any) -> Any:
    """Draw ``field [nlat, nlon]`` as cells on Mollweide axes, whatever longitude the grid starts at."""
    longitude = (grid.lon_axis + 180) % 360 - 180
    order = np.argsort(longitude)
    # the column that straddles the edge of the map is drawn at both ends
    longitude = np.concatenate((longitude[order], longitude[order[:1]] + 360))
    mesh = axes.pcolormesh(
        np.radians(np.clip(edges_of(longitude), -180, 180)),
        np.radians(np.clip(edges_of(grid.lat_axis), -90, 90)),
        field[:, np.concatenate((order, order[:1]))],
        rasterized=True,
        **style,
    )
    axes.set_xticks([])
    axes.set_yticks([])
    return mesh


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
        axes = figure.add_subplot(place, projection="mollweide")
        axes.set_title(title)
        figure.colorbar(mollweide(axes, grid, field, **style), ax=axes, shrink=0.7, label=quantity)

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
