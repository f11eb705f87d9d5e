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
    mesh = axes.pcolormesh(
        np.radians(np.clip(edges_of(longitude[order]), -180, 180)),
        np.radians(np.clip(edges_of(grid.lat_axis), -90, 90)),
        field[:, order],
        rasterized=True,
        **style,
    )
    axes.set_xticks([])
    axes.set_yticks([])
    return mesh


def forecast_picture(
    path: Path,
    grid: LatLonGrid,
    truth: NDArray[np.floating],
    forecasts: dict[str, NDArray[np.floating]],
    label: str,
    title: str,
) -> None:
    """Truth on top, then each forecast beside its error; ``[nlat, nlon]`` fields in one unit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 2.9 * (len(forecasts) + 1)), layout="constrained")
    grids = figure.add_gridspec(len(forecasts) + 1, 2)
    low, high = np.percentile(truth, [0.5, 99.5])
    largest = max(float(np.abs(f - truth).max()) for f in forecasts.values())
    top = figure.add_subplot(grids[0, 0], projection="mollweide")
    shown = mollweide(top, grid, truth, cmap="viridis", vmin=low, vmax=high)
    top.set_title("truth")
    figure.colorbar(shown, ax=top, shrink=0.7, label=label)
    for row, (name, forecast) in enumerate(forecasts.items(), start=1):
        left = figure.add_subplot(grids[row, 0], projection="mollweide")
        shown = mollweide(left, grid, forecast, cmap="viridis", vmin=low, vmax=high)
        left.set_title(name)
        figure.colorbar(shown, ax=left, shrink=0.7, label=label)
        right = figure.add_subplot(grids[row, 1], projection="mollweide")
        shown = mollweide(right, grid, forecast - truth, cmap="RdBu_r", vmin=-largest, vmax=largest)
        right.set_title(f"{name}: error")
        figure.colorbar(shown, ax=right, shrink=0.7, label=label)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def error_picture(
    path: Path, hours: NDArray[np.floating], errors: dict[str, NDArray[np.floating]], label: str
) -> None:
    """Error of each forecast against lead time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, error in errors.items():
        axes.plot(hours, error, marker="o", markersize=3, label=name)
    axes.set(xlabel="lead time (hours)", ylabel=label, ylim=(0, None), title="error growth")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
