"""Which grid a data set lives on, recognised from its coordinates, or a reasoned refusal."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from geoattn.grids.base import SphericalGrid
from geoattn.grids.catalogue import name_of
from geoattn.grids.coordinates import Match, Source, axes, check_finite, check_fixed, check_not_radians
from geoattn.grids.coverage import RegionError
from geoattn.grids.from_axes import from_axes
from geoattn.grids.from_declaration import from_declaration
from geoattn.grids.from_mesh import from_mesh
from geoattn.grids.from_points import from_points
from geoattn.grids.from_projection import from_projection
from geoattn.grids.from_region import from_region
from geoattn.grids.recognisers import Recognition, ask


def from_xarray(
    ds: Any,
    *,
    lat: str | None = None,
    lon: str | None = None,
    tolerance: float = 1e-3,
    use_areas: bool = True,
) -> SphericalGrid:
    """The grid of an xarray Dataset or DataArray; :func:`recognise` also says how it was found.

    Examples
    --------
    >>> ds = ga.xarray.coordinates(ga.grids.gaussian(8, 16))
    >>> ga.grids.from_xarray(ds)
    Gaussian grid 8×16
    """
    return recognise(ds, lat=lat, lon=lon, tolerance=tolerance, use_areas=use_areas).grid


def recognise(
    ds: Any,
    *,
    lat: str | None = None,
    lon: str | None = None,
    tolerance: float = 1e-3,
    use_areas: bool = True,
) -> Recognition:
    """Recognise the grid of a data set from its coordinates.

    Coordinates are found by CF attributes, then by common names. The file's order is kept: rows may
    run either way and longitudes start anywhere, and the grid follows. Two axes give a lat-lon grid
    of ``shape (nlat, nlon)``, whatever the order of the file's dimensions, and ``dims`` names the
    order that fields must be transposed to. One list of points, or coordinates with two and more
    dimensions, give the reduced Gaussian, HEALPix, icosahedral or cubed-sphere grid with these very
    points in this order, else :func:`~geoattn.grids.points`, flattened: with the weights of such a
    grid if they are its points in another order, else with their Voronoi areas.

    Meshes of ICON, MPAS and UGRID are known by the connectivity in their files, and come with its cells and
    edges. Axes of a projection, or of a rotated pole, give latitudes and longitudes where the file has none;
    all but rotated poles by pyproj, ``pip install "geoattn[projections]"``.

    Arrays whose columns close and whose rows fold, such as tripolar ocean grids, keep their two dimensions,
    and points that are there again, in repeated columns and rows, count once: what repeats has the weight 0.

    What covers a part of the globe is :func:`~geoattn.grids.regional`, weighed by its own cells: those within
    CF bounds, else those between the middles of neighboring points. Lists of points need bounds or areas.

    Other packages' grids come first, each by the recogniser that its package offers (see
    :func:`~geoattn.grids.register_recogniser`), unless ``lat`` or ``lon`` is given.

    Parameters
    ----------
    ds
        xarray Dataset or DataArray.
    lat, lon
        Names of the coordinates, where the conventions leave them open.
    tolerance
        Largest accepted deviation, in units of the grid's spacing. The rounding of the file's
        floating-point type is accepted in any case.
    use_areas
        Whether cell areas in the file (standard name ``cell_area``, or a variable ``cell_area``,
        ``areacella`` or ``areacello``) give the weights of lat-lon grids, of points and of regions, and
        whether bounds (CF attribute ``bounds``) do so where rows follow no rule, and in regions. Reduced
        Gaussian, HEALPix, icosahedral and cubed-sphere grids keep their own weights.

    Raises
    ------
    ValueError
        If coordinates are missing, repeated, unsorted or not finite, cover a region whose cells nothing
        tells, fit several grids, or miss one narrowly. The message names the call that settles it.

    Examples
    --------
    >>> ds = ga.xarray.coordinates(ga.grids.gaussian(8, 16))
    >>> ga.grids.recognise(ds).grid
    Gaussian grid 8×16
    """
    source = Source(ds)
    if lat is None and lon is None:
        theirs = ask(ds, source.sizes, tolerance=tolerance, use_areas=use_areas)
        if theirs is not None:
            return dataclasses.replace(theirs, name=theirs.name or name_of(theirs.grid))
    if lat is None and lon is None and (declared := source.healpix()):
        return _report(from_declaration(source, *declared), f"the HEALPix attributes of {declared[0]!r}")
    if lat is None and lon is None and (declared_mesh := from_mesh(source, use_areas)):
        return _report(*declared_mesh)
    if lat is None and lon is None and (projected := from_projection(source, use_areas)):
        return _report(*projected)
    found = source.coordinate("latitude", lat), source.coordinate("longitude", lon)
    check_fixed(*found)
    lats, lons = axes(*found)
    for axis in (lats, lons):
        if not axis.values.size:
            raise ValueError(f"{axis.name!r} holds no values: the data set is empty")
    of_points = lats.dims == lons.dims
    check_finite(lats, of_points)
    check_finite(lons, of_points)
    if np.abs(lats.values).max() > 90.0 + 1e-3:
        worst = lats.values.flat[np.abs(lats.values).argmax()]
        raise ValueError(
            f"latitude {lats.name!r} holds {worst:g}, beyond the poles: is it the other coordinate, or in "
            "other units? Say which variables are meant: ga.grids.recognise(ds, lat='…', lon='…')"
        )
    check_not_radians(lats, lons)
    try:
        match = (from_points if of_points else from_axes)(source, lats, lons, tolerance, use_areas)
    except RegionError as refusal:
        match = from_region(source, lats, lons, use_areas, refusal)
    return _report(match, f"coordinates {lats.name!r} and {lons.name!r}")


def _report(match: Match, basis: str) -> Recognition:
    fields = {field.name: getattr(match, field.name) for field in dataclasses.fields(match)}
    return Recognition(basis=basis, name=name_of(match.grid), **fields)
