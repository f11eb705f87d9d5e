"""Fields on a sphere as pictures: three projections, any grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from geoattn.grids import LatLonGrid, Points, SphericalGrid
from geoattn.grids.cells import CellGrid
from geoattn.grids.regional_latlon import RegionalLatLon
from geoattn.grids.sphere import Floats, unit_vectors
from geoattn.plot.figures import numbers, require

#: height over width of each projection's picture
PROJECTIONS = {"equirectangular": 0.5, "mollweide": 0.5, "orthographic": 1.0}
#: of a list of points, pixels further from the nearest than so many of its own spacings show nothing
REACH = 1.5
#: a place is looked for in the cells of so many points nearest to it
NEAR = 6
#: west, east, south and north
GLOBE = (-180.0, 180.0, -90.0, 90.0)


def panels(figure: Any, rows: int, columns: int, projection: str, **options: Any) -> Any:
    """Axes ``[rows, columns]`` that :func:`draw` takes for a projection."""
    _check(projection)
    shape = {"projection": "mollweide"} if projection == "mollweide" else {}
    return figure.subplots(rows, columns, squeeze=False, subplot_kw=shape, **options)


def panel(figure: Any, place: Any, projection: str) -> Any:
    """One of them, at a place of a grid of panels."""
    _check(projection)
    return figure.add_subplot(place, **({"projection": "mollweide"} if projection == "mollweide" else {}))


def draw(
    axes: Any,
    grid: SphericalGrid,
    field: ArrayLike,
    projection: str = "mollweide",
    *,
    centre: tuple[float, float] = (0.0, 0.0),
    pixels: int = 400,
    **style: Any,
) -> Any:
    """Draw a field: each pixel shows the value of the grid point nearest to it.

    Parameters
    ----------
    axes
        Matplotlib axes, for ``"mollweide"`` those of matplotlib's own projection of that name,
        ``figure.add_subplot(projection="mollweide")``; their ticks are taken off.
    grid
        Any grid of the sphere. Lists of points and regions are drawn where points are, and nowhere else.
    field
        Numbers ``[*grid.shape]``, or colours ``[*grid.shape, 3]``.
    projection
        ``"equirectangular"``, ``"mollweide"`` (equal areas), or ``"orthographic"`` (one half of the
        sphere, as from far away).
    centre
        Latitude and longitude in the middle, in degrees. The latitude turns the orthographic view only.
    pixels
        Width of the picture.
    **style
        Passed on to ``axes.imshow`` or ``axes.pcolormesh``: ``cmap``, ``vmin``, ``vmax`` …

    Returns
    -------
    The image, for a colour bar.

    Raises
    ------
    ValueError
        If the projection is unknown or not that of the axes, or the field is not on the grid.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> grid = ga.grids.healpix(4)
    >>> image = ga.plot.draw(plt.figure().add_subplot(projection="mollweide"), grid, grid.lat)
    """
    values = numbers(field)
    if values.shape not in (grid.shape, (*grid.shape, 3)):
        raise ValueError(f"field of shape {values.shape} is not on {grid!r} of shape {grid.shape}")
    _check(projection)
    if (projection == "mollweide") != (axes.name == "mollweide"):
        raise ValueError(
            f"projection {projection!r} needs other axes than these, which are {axes.name!r}: make them by "
            "figure.add_subplot(projection='mollweide') for 'mollweide', else by figure.add_subplot()"
        )
    lat, lon, on_map = places(projection, centre, pixels)
    shown = _sampled(grid, values, lat, lon)
    shown[~on_map] = 0.0 if shown.shape[-1:] == (4,) and shown.ndim == 3 else np.nan
    if projection == "mollweide":
        east, north = (np.radians(edge) for edge in _edges(pixels))
        image = axes.pcolormesh(east, north, shown, rasterized=True, **style)
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        return image
    axes.set_axis_off()
    return axes.imshow(shown, interpolation="nearest", **style)


def places(
    projection: str, centre: tuple[float, float], pixels: int
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Latitude and longitude of each pixel in degrees, and which pixels lie on the map.

    The inverse of the orthographic projection is that of Snyder (1987), Map Projections, page 150; to
    Mollweide's the pixels are brought by matplotlib.
    """
    _check(projection)
    width, height = pixels, round(pixels * PROJECTIONS[projection])
    x = (2.0 * np.arange(width) + 1.0) / width - 1.0
    y = 1.0 - (2.0 * np.arange(height) + 1.0) / height
    x, y = np.meshgrid(x, y)
    if projection != "orthographic":
        return 90.0 * y, centre[1] + 180.0 * x, np.ones(x.shape, dtype=bool)
    on_map = x**2 + y**2 < 1.0
    x, y = np.where(on_map, x, 0.0), np.where(on_map, y, 0.0)
    z = np.sqrt(1.0 - x**2 - y**2)
    tilt = np.radians(centre[0])
    up, ahead = y * np.cos(tilt) + z * np.sin(tilt), z * np.cos(tilt) - y * np.sin(tilt)
    lat = np.degrees(np.arcsin(np.clip(up, -1.0, 1.0)))
    return lat, centre[1] + np.degrees(np.arctan2(x, ahead)), on_map


def map_with_bar(
    figure: Any,
    place: Any,
    grid: SphericalGrid,
    field: ArrayLike,
    title: str,
    quantity: str | None,
    projection: str = "mollweide",
    **style: Any,
) -> Any:
    """A map with its title, and a colour bar that names the quantity and its unit; returns the axes.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> grid, figure = ga.grids.gaussian(8, 16), plt.figure()
    >>> place = figure.add_gridspec(1, 1)[0]
    >>> axes = ga.plot.map_with_bar(figure, place, grid, grid.lat, "latitude", "degrees")
    """
    axes = panel(figure, place, projection)
    axes.set_title(title)
    image = draw(axes, grid, field, projection, **style)
    if quantity is not None:
        bar_beside(axes, image, quantity)
    return axes


def bar_beside(axes: Any, image: Any, quantity: str) -> None:
    """A colour bar as high as the map beside it, whatever room its figure gives the map."""
    axes.figure.colorbar(image, cax=axes.inset_axes((1.03, 0.0, 0.03, 1.0)), label=quantity)


def lat_lon_map(ax: Any, grid: SphericalGrid, field: ArrayLike, quantity: str, **style: Any) -> Any:
    """A map with longitude and latitude on its axes, from −180° to 180°, and a colour bar.

    Lat-lon grids and regions between parallels and meridians are drawn cell by cell, others by the nearest
    point on a raster: of 1° around the globe, of 360 × 180 places on the latitudes and longitudes of a
    region, to which the map is confined.

    Parameters
    ----------
    ax
        Matplotlib axes; those of a new figure if None.
    grid, field
        A grid of the sphere, and numbers ``[*grid.shape]``.
    quantity
        What the colour bar says.
    **style
        Passed on to ``axes.pcolormesh``.

    Returns
    -------
    The axes.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> grid = ga.grids.gaussian(8, 16)
    >>> drawn = ga.plot.lat_lon_map(plt.figure().add_subplot(), grid, grid.lat, "latitude (degrees)")
    """
    require()
    import matplotlib.pyplot as plt

    values = numbers(field)
    if isinstance(grid, LatLonGrid):
        box, (lon, lat, values) = GLOBE, _around(grid, values)
    elif isinstance(grid, RegionalLatLon):
        lon, lat = grid.lon_edges, grid.lat_edges
        lon = lon - 360.0 * np.floor((lon.min() + 180.0) / 360.0)
        box = float(lon.min()), float(lon.max()), float(lat.min()), float(lat.max())
    else:
        box = GLOBE if grid.is_global else _box(grid)
        west, east, south, north = box
        lon, lat = np.linspace(west, east, 361), np.linspace(north, south, 181)
        middles = 0.5 * (lat[1:] + lat[:-1]), 0.5 * (lon[1:] + lon[:-1])
        values = _sampled(grid, values, *np.meshgrid(*middles, indexing="ij"))
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
    colors = ax.pcolormesh(lon, lat, values, rasterized=True, **style)
    bar_beside(ax, colors, quantity)
    ax.set(xlim=box[:2], ylim=box[2:], xlabel="longitude (°E)", ylabel="latitude (°N)", aspect="equal")
    if box == GLOBE:
        ax.set(xticks=range(-180, 181, 60), yticks=range(-90, 91, 30))
    return ax


def coastlines(axes: Any, grid: LatLonGrid, land: ArrayLike, **style: Any) -> Any:
    """Draw where land begins on a map.

    Parameters
    ----------
    axes
        Those of :func:`lat_lon_map`, or of a map in Mollweide's projection around 0°E.
    grid
        A lat-lon grid around the globe.
    land
        True on land, or the share of land in each cell, ``[*grid.shape]``.
    **style
        Passed on to ``axes.contour``.

    Returns
    -------
    The axes.

    Raises
    ------
    TypeError
        If the grid is no lat-lon grid.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> grid = ga.grids.gaussian(16, 32)
    >>> axes = ga.plot.lat_lon_map(plt.figure().add_subplot(), grid, grid.lat, "latitude (degrees)")
    >>> _ = ga.plot.coastlines(axes, grid, abs(grid.lat) > 60)
    """
    if not isinstance(grid, LatLonGrid):
        raise TypeError(
            f"coastlines are drawn of land on a lat-lon grid, got {grid!r}; bring it to one by "
            "ga.xarray.regrid"
        )
    share = numbers(land).astype(float)
    lon = (grid.lon_axis + 180.0) % 360.0 - 180.0
    order = np.argsort(lon)
    lon, share = lon[order], share[:, order]
    lon = np.concatenate((lon[-1:] - 360.0, lon, lon[:1] + 360.0))
    share = np.concatenate((share[:, -1:], share, share[:, :1]), axis=1)
    lat = grid.lat_axis
    if axes.name == "mollweide":
        lon, lat = np.radians(lon.clip(-180.0, 180.0)), np.radians(lat)
    axes.contour(lon, lat, share, **({"levels": [0.5], "colors": "black", "linewidths": 0.5} | style))
    return axes


def _around(grid: LatLonGrid, values: NDArray[Any]) -> tuple[Floats, Floats, NDArray[Any]]:
    """Longitudes and latitudes between cells, from −180° to 180° and pole to pole, and the cells' values."""
    lat = grid.lat_axis
    end = 90.0 if lat[0] > lat[-1] else -90.0
    lat = np.concatenate(([end], 0.5 * (lat[1:] + lat[:-1]), [-end]))
    middle = (grid.lon_axis + 180.0) % 360.0 - 180.0
    order = np.argsort(middle)
    half = 180.0 / grid.nlon
    # the last column is there again at the left, and the first at the right, where a half of one may lie
    lon = np.concatenate((middle[order][-1:] - 360.0, middle[order], middle[order][:1] + 360.0))
    lon = np.append(lon - half, lon[-1] + half)
    return lon, lat, values[:, np.concatenate((order[-1:], order, order[:1]))]


def _box(grid: SphericalGrid) -> tuple[float, float, float, float]:
    """West, east, south and north of a region, half a spacing around its points, west within ±180°."""
    east = np.sort(grid.lon, axis=None)
    gaps = np.diff(np.append(east, east[0] + 360.0))
    west = float((east[(gaps.argmax() + 1) % east.size] + 180.0) % 360.0 - 180.0)
    south, north = float(grid.lat.min()), float(grid.lat.max())
    margin = 0.5 * float(np.degrees(np.sqrt(np.median(grid.weights))))
    wide = margin / max(np.cos(np.radians(0.5 * (south + north))), 0.05)
    turn = min(360.0 - float(gaps.max()) + 2 * wide, 360.0)
    return west - wide, west - wide + turn, max(south - margin, -90.0), min(north + margin, 90.0)


def _check(projection: str) -> None:
    if projection not in PROJECTIONS:
        known = ", ".join(map(repr, PROJECTIONS))
        raise ValueError(f"projection must be one of {known}, got {projection!r}")


def _edges(pixels: int) -> tuple[Floats, Floats]:
    """Longitudes and latitudes between the pixels of :func:`places`, in degrees."""
    return np.linspace(-180.0, 180.0, pixels + 1), np.linspace(90.0, -90.0, round(pixels / 2) + 1)


def _sampled(grid: SphericalGrid, values: NDArray[Any], lat: Floats, lon: Floats) -> NDArray[Any]:
    """The value, or the colour with its opacity, of the grid point nearest to each place."""
    points, shown, places = grid.xyz.reshape(-1, 3), values.reshape(grid.size, -1), unit_vectors(lat, lon)
    there = np.ones(lat.shape, bool)
    if isinstance(grid, CellGrid):
        corners = grid.corners.reshape(grid.size, -1, 3)
        has_cell = (corners != points[:, None]).any((1, 2))
        points, shown, corners = points[has_cell], shown[has_cell], corners[has_cell]
        nearest = cKDTree(points).query(places, k=min(NEAR, len(points)))[1].reshape(*lat.shape, -1)
        there, nearest = _within(points, corners, places, nearest), nearest[..., 0]
    else:
        tree = cKDTree(points)
        distance, nearest = tree.query(places)
        if (isinstance(grid, Points) or not grid.is_global) and grid.size > 6:
            # of six neighbors the furthest: the fourth side of a cell
            there = distance <= REACH * tree.query(points, k=[7])[0][nearest, 0]
    shown = shown[nearest]
    if shown.shape[-1] == 3:
        scale = 255.0 if values.dtype == np.uint8 else 1.0
        return np.concatenate((shown / scale, there[..., None].astype(float)), axis=-1)
    return np.where(there, shown[..., 0].astype(float), np.nan)


def _within(points: Floats, corners: Floats, places: Floats, candidates: NDArray[Any]) -> NDArray[np.bool_]:
    """Which places lie in one of their candidates' cells, convex ones ``corners [cells, k, 3]``."""
    sides = np.cross(corners, np.roll(corners, -1, axis=1))
    sides *= np.sign((sides * points[:, None]).sum(-1, keepdims=True))  # inward
    inside = np.zeros(candidates.shape[:-1], bool)
    for candidate in np.moveaxis(candidates, -1, 0):
        left = ~inside
        heights = (sides[candidate[left]] * places[left][:, None]).sum(-1)
        inside[left] = (heights >= -1e-12).all(-1)
    return inside
