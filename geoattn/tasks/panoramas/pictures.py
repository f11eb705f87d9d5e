"""Panoramas side by side, and around the sphere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from geoattn.grids import SphericalGrid
from geoattn.tasks import maps
from geoattn.tasks.panoramas.classes import CLASSES, COLORS


class Column(NamedTuple):
    """Pictures of one kind, one per row of a table."""

    title: str
    #: numbers ``[rows, *grid.shape]`` or colours ``[rows, *grid.shape, 3]``
    fields: ArrayLike
    #: passed on to ``imshow``
    style: Mapping[str, Any] = {}
    #: what the colour bar says; none without
    quantity: str | None = None


def table(
    path: Path | None,
    grid: SphericalGrid,
    columns: Sequence[Column],
    projection: str = "equirectangular",
    legend: bool = False,
    width: float = 3.6,
    **options: Any,
) -> Any:
    """Panoramas in rows, kinds of picture in columns.

    Parameters
    ----------
    path
        Where to write the picture; None to write none.
    grid, projection, **options
        As for :func:`geoattn.tasks.maps.draw`.
    columns
        What to show; all must have as many rows.
    legend
        Name the classes' colours below.
    width
        Of a column, in inches.

    Returns
    -------
    The matplotlib figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = len(np.asarray(columns[0].fields))
    height = width * maps.SHAPES[projection]
    below = 0.6 * (legend or any(c.quantity for c in columns))
    size = (width * len(columns), (height + 0.1) * rows + 0.3 + below)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, len(columns), squeeze=False)
    for place, column in enumerate(columns):
        for row, field in enumerate(np.asarray(column.fields)):
            image = maps.draw(panels[row, place], grid, field, projection, **options, **column.style)
        panels[0, place].set_title(column.title, fontsize=10)
        if column.quantity is not None:
            figure.colorbar(image, ax=panels[:, place], location="bottom", label=column.quantity, shrink=0.8)
    if legend:
        patches = [
            Patch(color=(r / 255, g / 255, b / 255), label=name)
            for (r, g, b), name in zip(COLORS, CLASSES, strict=True)
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=7, fontsize="small", frameon=False)
    if path is not None:
        figure.savefig(path, dpi=110)
    return figure


def sphere_picture(
    path: Path | None, grid: SphericalGrid, field: ArrayLike, title: str = "", **style: Any
) -> Any:
    """A field from four sides in orthographic view, and whole in Mollweide's projection.

    ``path`` and the result are as for :func:`table`, ``style`` as for :func:`geoattn.tasks.maps.draw`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3), layout="constrained")
    panels = figure.subplots(1, 5, width_ratios=[1, 1, 1, 1, 2])
    views = [("0°E", 20.0, 0.0), ("180°E", 20.0, 180.0), ("above", 90.0, 0.0), ("below", -90.0, 0.0)]
    for axes, (name, lat, lon) in zip(panels, views, strict=False):
        maps.draw(axes, grid, field, "orthographic", centre=(lat, lon), **style)
        axes.set_title(name, fontsize=10)
    maps.draw(panels[4], grid, field, "mollweide", **style)
    panels[4].set_title("whole sphere", fontsize=10)
    figure.suptitle(title, fontsize=11)
    if path is not None:
        figure.savefig(path, dpi=110)
    return figure
