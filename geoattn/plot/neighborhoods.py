"""A picture of what one query sees, for any neighborhood or relation on any grid. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.base import Grid, SphericalGrid
from geoattn.grids.cartesian import Cartesian
from geoattn.grids.product import ProductGrid
from geoattn.neighborhoods.base import Neighborhood, require_neighborhood
from geoattn.neighborhoods.heads import Heads
from geoattn.plot.figures import require
from geoattn.relations.base import Relation

SEEN, UNSEEN, QUERY = "#2f6f9f", "#dddddd", "#d1495b"
#: panels of a product grid in one figure, points of the background of one sphere, numbers told of a relation
MOST_PANELS, MOST_POINTS, MOST_NUMBERS = 9, 20_000, 6


def picture(hood: Neighborhood | Relation, query: int | Sequence[int], ax: Any = None) -> Any:
    """Draw the keys that ``query`` sees on the key grid.

    A plane is drawn as cells, so is a product of two lines, a line as a strip, a sphere as an orthographic
    view from above the query, near enough that the keys fill it. Of a product grid, and of a volume, each
    slice that holds a seen key is a panel, up to nine; so is each group of heads. The query is the ring; it
    is filled in its own slice. Of a relation, keys of one number have one color, from dark to bright as the
    numbers ascend, and a colour bar tells which.

    Parameters
    ----------
    hood
        Any neighborhood, or a relation on one.
    query
        Token number, or an index into ``hood.query_grid.shape``.
    ax
        Matplotlib axes for the slice that holds the query (or the first with a key); by default a
        new figure. Groups of heads have no slice in common: draw one of ``hood.parts``.

    Returns
    -------
    The axes, or an array of axes, one per panel.

    Raises
    ------
    IndexError
        If the query grid has no such query.

    Examples
    --------
    >>> axes = ga.picture(ga.geodesic(ga.grids.gaussian(16, 32), radius=20), (3, 20))
    """
    require()
    import matplotlib.pyplot as plt

    relation, hood = (hood, hood.hood) if isinstance(hood, Relation) else (None, hood)
    require_neighborhood("hood", hood)
    token = _token(hood.query_grid, query)
    if isinstance(hood, Heads) and ax is None:
        return _picture_of_heads(hood, query)
    keys = _slices(hood.key_grid)
    numbers = relation.rows(np.array([token])).numbers if relation else np.zeros(1)
    distinct, rank = np.unique(numbers, return_inverse=True)
    colors = plt.get_cmap("viridis")(np.linspace(0, 1, len(distinct))) if relation else [SEEN]
    shade = np.zeros(hood.key_grid.size, np.int64)  # 0 where a key is not seen, else one more than its color
    shade[hood.rows(np.array([token])).indices] = 1 + rank
    at, own_panel = _locate(hood, token, keys)
    told = f", {len(distinct)} numbers" if relation else ""

    panels = np.flatnonzero(shade[keys.tokens].any(axis=1))
    if len(panels) == 0:
        panels = np.array([own_panel or 0])
    if ax is not None:
        panels = np.array([own_panel if own_panel in panels else panels[0]])
        grid_of_axes = np.array([ax])
    else:
        panels = panels[:MOST_PANELS]
        columns = min(len(panels), 3)
        lines = -(-len(panels) // columns)
        height = 4.0 if len(keys.canvas.shape) > 1 or isinstance(keys.canvas, SphericalGrid) else 1.4
        _, table = plt.subplots(
            lines, columns, figsize=(4.0 * columns, height * lines), squeeze=False, layout="constrained"
        )
        grid_of_axes = table.reshape(-1)
        for spare in grid_of_axes[len(panels) :]:
            spare.set_axis_off()
    for axes, panel in zip(grid_of_axes, panels, strict=False):
        draw = _draw_sphere if isinstance(keys.canvas, SphericalGrid) else _draw_plane
        draw(axes, keys.canvas, shade[keys.tokens[panel]], colors, at, own_panel in (panel, None))
        seen = f"{np.count_nonzero(shade[keys.tokens[panel]])} keys"
        slice_name = f"slice {', '.join(map(str, keys.names[panel]))}" if len(keys.names) > 1 else ""
        if len(panels) == 1:
            slice_name, seen = f"query {query}" + f", {slice_name}" * bool(slice_name), seen + told
        axes.set_title(f"{slice_name}: {seen}", fontsize=10)
    if len(panels) > 1:  # what they have in common, once
        axes.figure.suptitle(f"query {query}: {np.count_nonzero(shade)} keys{told}", fontsize=10)
    if relation and len(distinct):
        _explain_colors(grid_of_axes[: len(panels)], distinct, colors)
    return grid_of_axes[0] if len(panels) == 1 else grid_of_axes[: len(panels)]


def _picture_of_heads(hood: Heads, query: int | Sequence[int]) -> Any:
    """The neighborhood of each group of heads side by side."""
    import matplotlib.pyplot as plt

    count = len(hood.parts)
    _, table = plt.subplots(1, count, figsize=(4.0 * count, 4.0), squeeze=False, layout="constrained")
    for number, (part, axes) in enumerate(zip(hood.parts, table[0], strict=True), start=1):
        picture(part, query, axes)
        axes.set_title(f"heads {number} of {count}: {axes.get_title()}", fontsize=10)
    return table[0]


def _explain_colors(axes: Any, distinct: NDArray[Any], colors: Any) -> None:
    """A bar with the number that each color stands for; of many numbers, some."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    count = len(distinct)
    norm = BoundaryNorm(np.arange(count + 1) - 0.5, count)
    told = np.arange(0, count, -(-count // MOST_NUMBERS))
    # as high as the one panel, or beside all of them
    one = len(axes) == 1
    where = {"cax": axes[0].inset_axes((1.03, 0.0, 0.04, 1.0))} if one else {"ax": list(axes), "shrink": 0.7}
    mappable = ScalarMappable(norm, ListedColormap(colors))
    bar = axes[0].figure.colorbar(mappable, label="number", ticks=told, **where)
    bar.set_ticklabels([str(number) for number in distinct[told]])
    bar.ax.tick_params(length=0)


class _Slices(NamedTuple):
    """A grid as slices that can be drawn."""

    #: the grid of one slice: a sphere, or one or two axes of a plane
    canvas: Grid
    #: [slices, canvas.size], the tokens of each slice
    tokens: NDArray[np.int64]
    #: the place of each slice along the other axes
    names: list[tuple[int, ...]]


def _slices(grid: Grid) -> _Slices:
    factors = grid.factors if isinstance(grid, ProductGrid) else (grid,)
    spheres = [i for i, factor in enumerate(factors) if isinstance(factor, SphericalGrid)]
    place = spheres[0] if spheres else len(factors) - 1
    canvas = factors[place]
    start = sum(len(factor.shape) for factor in factors[:place])
    stop = start + len(canvas.shape)
    before = factors[place - 1] if place else None
    lines = [
        factor for factor in (before, canvas) if isinstance(factor, Cartesian) and len(factor.shape) == 1
    ]
    if len(lines) == 2:
        start, canvas = start - 1, _plane(*lines)
    if isinstance(canvas, Cartesian) and len(canvas.shape) == 3:
        start, canvas = start + 1, Cartesian(canvas.lengths[1:], canvas.spacing[1:], canvas.periodic[1:])
    axes = list(range(start, stop))
    tokens = np.moveaxis(np.arange(grid.size).reshape(grid.shape), axes, range(-len(axes), 0))
    others = tokens.shape[: tokens.ndim - len(axes)]
    return _Slices(canvas, tokens.reshape(-1, canvas.size), list(np.ndindex(*others)))


def _plane(down: Cartesian, right: Cartesian) -> Cartesian:
    return Cartesian(
        (*down.lengths, *right.lengths), (*down.spacing, *right.spacing), (*down.periodic, *right.periodic)
    )


def _token(grid: Grid, query: int | Sequence[int]) -> int:
    index = (query,) if isinstance(query, int | np.integer) else tuple(query)
    shape = (grid.size,) if isinstance(query, int | np.integer) else grid.shape
    inside = len(index) == len(shape) and all(0 <= i < n for i, n in zip(index, shape, strict=True))
    if not inside:
        raise IndexError(f"query {query!r} is outside the shape {shape} of {grid!r}")
    return int(np.ravel_multi_index(index, shape))


def _locate(hood: Neighborhood, token: int, keys: _Slices) -> tuple[NDArray[np.float64] | None, int | None]:
    """Where the query is in the space of the canvas, and in which slice; None where it is in neither."""
    queries = _slices(hood.query_grid)
    panel, point = (int(i) for i in np.argwhere(queries.tokens == token)[0])
    places = queries.canvas.positions.reshape(queries.canvas.size, -1)
    spheres = [isinstance(canvas, SphericalGrid) for canvas in (queries.canvas, keys.canvas)]
    same_space = spheres[0] == spheres[1] and places.shape[1] == keys.canvas.positions.shape[-1]
    return places[point] if same_space else None, panel if len(queries.names) == len(keys.names) else None


def _draw_plane(
    ax: Any, grid: Grid, shade: NDArray[np.int64], colors: Any, at: NDArray[np.float64] | None, own: bool
) -> None:
    """Cells of a line or plane by their numbers, the first axis downward."""
    from matplotlib.colors import ListedColormap
    from matplotlib.ticker import MaxNLocator

    assert isinstance(grid, Cartesian)
    lengths, spacing = ((1, *grid.lengths)[-2:], (grid.spacing[0], *grid.spacing)[-2:])
    height, width = (n * s for n, s in zip(lengths, spacing, strict=True))
    cmap = ListedColormap([UNSEEN, *colors])
    ax.imshow(shade.reshape(lengths), cmap=cmap, vmin=0, vmax=len(colors), extent=(0, width, height, 0))
    if max(lengths) <= 64:
        for n, step, line in ((lengths[0], spacing[0], ax.axhline), (lengths[1], spacing[1], ax.axvline)):
            for i in range(n + 1):
                line(i * step, color="white", linewidth=0.8)
    if at is not None:
        row, column = (at[0], at[1]) if len(grid.lengths) == 2 else (height / 2, at[0])
        _mark(ax, column, row, own)
    several = MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True)
    for axis, n, step in ((ax.yaxis, lengths[0], spacing[0]), (ax.xaxis, lengths[1], spacing[1])):
        cells = [int(i) for i in several.tick_values(0, n - 1) if 0 <= i < n]
        axis.set_ticks([(i + 0.5) * step for i in cells], list(map(str, cells)))
    if len(grid.lengths) == 1:
        ax.set_yticks([])
    ax.set(xlim=(0, width), ylim=(height, 0))
    for side in ax.spines.values():
        side.set_visible(False)


def _draw_sphere(
    ax: Any, grid: Grid, shade: NDArray[np.int64], colors: Any, at: NDArray[np.float64] | None, own: bool
) -> None:
    """Points of a sphere from above the query, or from above the middle of the keys."""
    seen = shade > 0
    assert isinstance(grid, SphericalGrid)
    points = grid.xyz.reshape(-1, 3)
    centre = at if at is not None else points[seen].sum(axis=0) if seen.any() else points[0]
    norm = np.linalg.norm(centre)
    up = centre / norm if norm > 1e-6 else np.array([0.0, 0.0, 1.0])
    east = np.array([-up[1], up[0], 0.0]) if np.hypot(up[0], up[1]) > 1e-9 else np.array([0.0, 1.0, 0.0])
    east /= np.linalg.norm(east)
    axes = np.stack((east, np.cross(up, east), up))

    view = points @ axes.T
    angle = np.arccos(np.clip(view[seen, 2].min(), -1, 1)) if seen.any() else np.pi
    radius = np.sin(1.5 * angle + 0.02) if angle < np.pi / 4 else 1.0  # near enough for the keys to fill it
    window = (view[:, 2] > 0) & (np.abs(view[:, :2]).max(axis=1) < 1.02 * radius)

    globe = np.linspace(0, 2 * np.pi, 361)
    ax.fill(np.cos(globe), np.sin(globe), facecolor="#f6f6f6", edgecolor="#999999", linewidth=0.8)
    for line in _graticule():
        x, y, z = axes @ line
        ax.plot(np.where(z > 0, x, np.nan), y, color="#cccccc", linewidth=0.6, zorder=1)
    ax.set(xlim=(-1.05 * radius, 1.05 * radius), ylim=(-1.05 * radius, 1.05 * radius), aspect="equal")
    ax.set_axis_off()
    per_unit = ax.get_window_extent().width / ax.figure.dpi * 72 / (2.1 * radius)
    spacing = np.sqrt(np.maximum(grid.weights.reshape(-1), 0.05 * grid.weights.mean()))
    background = np.flatnonzero(window & ~seen)
    background = background[:: -(-len(background) // MOST_POINTS) or 1]
    drawn = np.flatnonzero(window & seen)
    for chosen, color in ((background, "#bbbbbb"), (drawn, [colors[i - 1] for i in shade[drawn]])):
        size = np.clip(0.75 * per_unit * spacing[chosen], 0.8, 12.0) ** 2
        ax.scatter(view[chosen, 0], view[chosen, 1], s=size, color=color, linewidths=0, zorder=2)
    if at is not None:
        _mark(ax, 0.0, 0.0, own)


def _graticule() -> list[NDArray[np.float64]]:
    """Meridians and parallels every 30°, ``[3, points]`` each."""
    along = np.linspace(-np.pi, np.pi, 361)
    lines = []
    for lon in np.radians(np.arange(0, 180, 30)):
        lines.append(np.stack((np.cos(along) * np.cos(lon), np.cos(along) * np.sin(lon), np.sin(along))))
    for lat in np.radians(np.arange(-60, 61, 30)):
        circle = np.stack((np.cos(along), np.sin(along))) * np.cos(lat)
        lines.append(np.concatenate((circle, np.full((1, len(along)), np.sin(lat)))))
    return lines


def _mark(ax: Any, x: float, y: float, filled: bool) -> None:
    face = QUERY if filled else "none"
    ax.scatter([x], [y], s=45, facecolors=face, edgecolors=QUERY, linewidths=1.6, zorder=4)
