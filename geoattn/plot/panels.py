"""Pictures of several panels: panoramas in rows, a sphere from all sides, forecasts beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geoattn.grids import SphericalGrid
from geoattn.plot import maps
from geoattn.plot.curves import plot
from geoattn.plot.figures import new, numbers, save


class Column(NamedTuple):
    """Pictures of one kind, one per row of a table.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> figure = ga.plot.table(None, grid, [ga.plot.Column("latitude", grid.lat[None])])
    """

    title: str
    #: numbers ``[rows, *grid.shape]`` or colours ``[rows, *grid.shape, 3]``
    fields: ArrayLike
    #: passed on to :func:`geoattn.plot.draw`
    style: Mapping[str, Any] = {}
    #: what the colour bar says; none without
    quantity: str | None = None


class Legend(NamedTuple):
    """Names and colours of classes.

    Examples
    --------
    >>> ga.plot.Legend(["sea", "land"], [(0, 0, 255), (0, 128, 0)], none=-1).names
    ['sea', 'land']
    """

    names: Sequence[str]
    #: red, green and blue of each class, 0 to 255
    colours: Sequence[tuple[int, int, int]]
    #: the number that stands for no class, which is grey
    none: int

    def colours_of(self, label: ArrayLike) -> NDArray[np.float64]:
        """Colours ``[..., 3]`` of classes."""
        palette = np.full((max(self.none, len(self.colours)) + 1, 3), 0.5)
        palette[: len(self.colours)] = np.array(self.colours) / 255
        colours: NDArray[np.float64] = palette[numbers(label)]
        return colours


def table(
    path: Path | None,
    grid: SphericalGrid,
    columns: Sequence[Column],
    projection: str = "equirectangular",
    legend: Legend | None = None,
    width: float = 3.6,
    **options: Any,
) -> Any:
    """Panoramas in rows, kinds of picture in columns.

    Parameters
    ----------
    path
        Where to write the picture; None to write none.
    grid, projection, **options
        As for :func:`geoattn.plot.draw`.
    columns
        What to show; all must have as many rows.
    legend
        Classes to be named below.
    width
        Of a column, in inches.

    Returns
    -------
    The matplotlib figure.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> figure = ga.plot.table(None, grid, [ga.plot.Column("latitude", grid.lat[None])])
    """
    rows = len(numbers(columns[0].fields))
    height = width * maps.PROJECTIONS[projection]
    bars = any(column.quantity for column in columns)
    below = 0.6 * (legend is not None or bars)
    figure = new(width * len(columns), (height + 0.1) * rows + 0.3 + below)
    places = maps.panels(figure, rows, len(columns), projection)
    for place, column in enumerate(columns):
        for row, field in enumerate(numbers(column.fields)):
            image = maps.draw(places[row, place], grid, field, projection, **options, **column.style)
        places[0, place].set_title(column.title, fontsize=10)
        if bars:
            label = column.quantity or " "
            bar = figure.colorbar(image, ax=places[:, place], location="bottom", label=label, shrink=0.8)
            if column.quantity is None:  # unseen, so that its column is as high as the others
                _hide(bar)
    if legend is not None:
        from matplotlib.patches import Patch

        patches = [
            Patch(color=(r / 255, g / 255, b / 255), label=name)
            for (r, g, b), name in zip(legend.colours, legend.names, strict=True)
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=7, fontsize="small", frameon=False)
    return save(figure, path)


def _hide(bar: Any) -> None:
    """Show nothing of a colour bar, and leave its place."""
    bar.solids.set_visible(False)
    bar.outline.set_visible(False)
    bar.ax.tick_params(color="none", labelcolor="none")


def sphere_picture(
    path: Path | None,
    grid: SphericalGrid,
    field: ArrayLike,
    title: str = "",
    quantity: str | None = None,
    **style: Any,
) -> Any:
    """A field from four sides in orthographic view, and whole in Mollweide's projection.

    ``path`` and the result are as for :func:`table`, ``style`` as for :func:`geoattn.plot.draw`;
    ``quantity`` names a colour bar.

    Examples
    --------
    >>> grid = ga.grids.healpix(4)
    >>> figure = ga.plot.sphere_picture(None, grid, grid.lat, "latitude", "degrees")
    """
    figure = new(12.0, 2.6 + 0.4 * bool(title))
    places = figure.add_gridspec(1, 5, width_ratios=[1, 1, 1, 1, 2])
    views = [("20°N 0°E", 20, 0), ("20°N 180°E", 20, 180), ("north pole", 90, 0), ("south pole", -90, 0)]
    for column, (name, lat, lon) in enumerate(views):
        axes = maps.panel(figure, places[0, column], "orthographic")
        maps.draw(axes, grid, field, "orthographic", centre=(lat, lon), **style)
        axes.set_title(name, fontsize=10)
    axes = maps.panel(figure, places[0, 4], "mollweide")
    image = maps.draw(axes, grid, field, "mollweide", **style)
    axes.set_title("whole sphere", fontsize=10)
    if quantity is not None:
        maps.bar_beside(axes, image, quantity)
    if title:
        figure.suptitle(title, fontsize=11)
    return save(figure, path)


def segmentation_picture(
    path: Path | None,
    grid: SphericalGrid,
    rgb: Any,
    truth: Any,
    predicted: Any,
    projection: str = "equirectangular",
    *,
    legend: Legend,
) -> Any:
    """One row per panorama: what was seen, its classes, those predicted, and where they differ (red).

    Parameters
    ----------
    path
        Where to write the picture; None to write none.
    grid
        Where the samples live.
    rgb
        ``[B, 3, *grid.shape]`` in [0, 1].
    truth, predicted
        Classes ``[B, *grid.shape]``.
    legend
        Of the classes.

    Returns
    -------
    The matplotlib figure.

    Examples
    --------
    >>> legend = ga.plot.Legend(["sea", "land"], [(0, 0, 255), (0, 128, 0)], none=-1)
    >>> grid, rgb = ga.grids.gaussian(8, 16), torch.rand(1, 3, 8, 16)
    >>> classes = torch.randint(2, (1, 8, 16))
    >>> figure = ga.plot.segmentation_picture(None, grid, rgb, classes, classes, legend=legend)
    """
    seen = np.moveaxis(numbers(rgb), 1, -1).astype(np.float64)
    true, guess = numbers(truth), numbers(predicted)
    error = np.where((guess == true)[..., None], 0.35 + 0.55 * seen.mean(-1, keepdims=True), [0.85, 0.1, 0.1])
    error[true == legend.none] = 0.5
    columns = [
        Column("input", seen),
        Column("truth", legend.colours_of(true)),
        Column("prediction", legend.colours_of(guess)),
        Column("error", error),
    ]
    return table(path, grid, columns, projection, legend)


def depth_picture(
    path: Path | None,
    grid: SphericalGrid,
    rgb: Any,
    truth: Any,
    predicted: Any,
    projection: str = "equirectangular",
) -> Any:
    """One row per panorama: what was seen, its depth, the one predicted, and their difference.

    Parameters
    ----------
    path
        Where to write the picture; None to write none.
    grid
        Where the samples live.
    rgb
        ``[B, 3, *grid.shape]`` in [0, 1].
    truth, predicted
        Metres ``[B, *grid.shape]``; pixels without a true depth, 0, stay white.

    Returns
    -------
    The matplotlib figure.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> depth = torch.rand(1, 8, 16) + 1
    >>> figure = ga.plot.depth_picture(None, grid, torch.rand(1, 3, 8, 16), depth, depth)
    """
    measured, guess = numbers(truth).astype(np.float64), numbers(predicted).astype(np.float64)
    true = np.where(measured > 0.0, measured, np.nan)
    low, high = _quantiles(true, [0.005, 0.995])
    error = guess - true
    largest = float(_quantiles(np.abs(error), [0.99])[0])
    metres = {"cmap": "viridis", "vmin": float(low), "vmax": float(high)}
    columns = [
        Column("input", np.moveaxis(numbers(rgb), 1, -1).astype(np.float64)),
        Column("truth", true, metres, "depth along the ray (m)"),
        Column("prediction", guess, metres, "depth along the ray (m)"),
        Column("error", error, {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}, "error (m)"),
    ]
    return table(path, grid, columns, projection)


def _quantiles(values: NDArray[Any], shares: Sequence[float]) -> NDArray[np.float64]:
    """Quantiles of what is finite; those of 0 and 1 if nothing is."""
    known = values[np.isfinite(values)]
    found: NDArray[np.float64] = np.quantile(known if known.size else np.array([0.0, 1.0]), shares)
    return found


def forecast_picture(
    path: Path | None,
    grid: SphericalGrid,
    hours: ArrayLike,
    lead: int,
    truth: ArrayLike,
    forecasts: Mapping[str, ArrayLike],
    errors: Mapping[str, ArrayLike],
    quantity: str,
) -> Any:
    """Truth beside the growth of the errors; below, each forecast beside its error.

    Parameters
    ----------
    path
        Where to write the picture; None to write none.
    hours
        Lead times, ``[steps + 1]``; the maps show ``hours[lead]``.
    truth, forecasts
        Fields ``[*grid.shape]`` at that lead time; points without a value stay white.
    errors
        Error of each forecast at every lead time, ``[steps + 1]``.
    quantity
        What is shown and its unit, for the labels.

    Returns
    -------
    The matplotlib figure.

    Examples
    --------
    >>> grid, hours = ga.grids.gaussian(8, 16), [0, 6, 12]
    >>> truth = np.stack([grid.lat, grid.lat + 1, grid.lat + 2])
    >>> figure = ga.plot.forecast_picture(
    ...     None, grid, hours, 2, truth[2], {"model": truth[2]}, {"model": [0, 1, 2]}, "temperature (K)"
    ... )
    """
    hours, truth = numbers(hours), numbers(truth)
    fields = {name: numbers(field) for name, field in forecasts.items()}
    rows = len(fields) + 1
    figure = new(10.0, 2.7 * rows)
    places = figure.add_gridspec(rows, 2)
    low, high = _quantiles(truth, [0.005, 0.995])
    largest = max(float(_quantiles(np.abs(field - truth), [1.0])[0]) for field in fields.values())
    same: dict[str, Any] = {"cmap": "viridis", "vmin": float(low), "vmax": float(high)}
    signed: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    maps.map_with_bar(figure, places[0, 0], grid, truth, "truth", quantity, **same)
    growth = figure.add_subplot(places[0, 1])
    plot(growth, {name: (hours, numbers(error)) for name, error in errors.items()})
    growth.axvline(hours[lead], color="gray", linewidth=0.8, linestyle=":")
    growth.set(xlabel="lead time (hours)", ylabel=f"RMSE of {quantity}", ylim=(0, None), title="error growth")
    for row, (name, field) in enumerate(fields.items(), start=1):
        maps.map_with_bar(figure, places[row, 0], grid, field, name, quantity, **same)
        error = field - truth
        maps.map_with_bar(figure, places[row, 1], grid, error, f"{name}: error", quantity, **signed)
    figure.suptitle(f"{quantity}, {hours[lead]:.0f} hours ahead")
    return save(figure, path)
