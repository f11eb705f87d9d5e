"""The coordinates that a file of a grid has: what recognition reads, written."""

from __future__ import annotations

from functools import singledispatch

import numpy as np
import xarray

from geoattn.grids import (
    Cells,
    CubedSphere,
    Curvilinear,
    Equiangular,
    Gaussian,
    HEALPix,
    Icosahedral,
    LatLonGrid,
    Lobatto,
    Points,
    ReducedGaussian,
    RegionalLatLon,
    SphericalGrid,
)
from geoattn.grids.sphere import Ints, lat_lon

LATITUDE = {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"}
LONGITUDE = {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"}
AREA = {"standard_name": "cell_area", "long_name": "area of the cell on the unit sphere", "units": "sr"}


@singledispatch
def coordinates(grid: SphericalGrid) -> xarray.Dataset:
    """Coordinates of a grid with CF attributes; its dimensions are in the order of ``grid.shape``.

    Lat-lon grids get the axes ``latitude`` and ``longitude``, HEALPix grids ``cell`` and a grid mapping,
    regions the bounds of their cells, others a latitude and a longitude of every point. Recognition gives the
    grid back, or points with its weights where it is another package's; that package can say how its grid is
    written, for recognition to find it: ``@ga.xarray.coordinates.register`` on a function of its class.

    Examples
    --------
    >>> list(ga.xarray.coordinates(ga.grids.healpix(2)).coords)
    ['cell', 'crs', 'latitude', 'longitude']
    """
    if not isinstance(grid, SphericalGrid):
        raise TypeError(
            f"coordinates are those of a grid of the sphere, got {type(grid).__name__}: the grid of a "
            "data set is ga.grids.from_xarray(ds)"
        )
    dims = ("values",) if len(grid.shape) == 1 else ("face", "y", "x")[-len(grid.shape) :]
    found = xarray.Dataset(
        coords={
            "latitude": (dims, np.array(grid.lat), LATITUDE),
            "longitude": (dims, np.array(grid.lon), LONGITUDE),
        }
    )
    # those are known by their points
    if not isinstance(grid, ReducedGaussian | Icosahedral | CubedSphere):
        found = found.assign_coords(cell_area=(dims, np.array(grid.weights), AREA))
    return _with_edges(found, grid.links) if isinstance(grid, Points) else found


def _with_edges(found: xarray.Dataset, links: Ints) -> xarray.Dataset:
    """The coordinates, and the edges of a mesh that has its own, as UGRID has those of a network."""
    if not len(links):
        return found
    topology = {
        "cf_role": "mesh_topology",
        "topology_dimension": 1,
        "node_coordinates": "latitude longitude",
        "edge_node_connectivity": "mesh_edges",
    }
    table = {"cf_role": "edge_node_connectivity", "start_index": 0}
    return found.assign_coords(
        mesh=((), np.int32(0), topology), mesh_edges=(("mesh_edge", "mesh_end"), np.array(links), table)
    )


@coordinates.register
def _(grid: LatLonGrid) -> xarray.Dataset:
    found = xarray.Dataset(
        coords={
            "latitude": ("latitude", np.array(grid.lat_axis), {**LATITUDE, "axis": "Y"}),
            "longitude": ("longitude", np.array(grid.lon_axis), {**LONGITUDE, "axis": "X"}),
        }
    )
    if not isinstance(grid, Equiangular | Gaussian | Lobatto):  # no rule of the rows gives the weights
        found = found.assign_coords(cell_area=(("latitude", "longitude"), np.array(grid.weights), AREA))
    return found


@coordinates.register
def _(grid: RegionalLatLon) -> xarray.Dataset:
    axes = {"latitude": (grid.lat_axis, grid.lat_edges, LATITUDE)}
    axes |= {"longitude": (grid.lon_path, grid.lon_edges, LONGITUDE)}
    found = xarray.Dataset()
    for name, (values, edges, attrs) in axes.items():
        bounds = np.stack((edges[:-1], edges[1:]), axis=-1)
        found = found.assign_coords({name: (name, np.array(values), {**attrs, "bounds": f"{name}_bounds"})})
        found = found.assign_coords({f"{name}_bounds": ((name, "bnds"), bounds)})
    if grid.areas.size:
        found = found.assign_coords(cell_area=(tuple(axes), np.array(grid.areas), AREA))
    return found


@coordinates.register(Curvilinear)
@coordinates.register(Cells)
def _(grid: Curvilinear | Cells) -> xarray.Dataset:
    dims = ("cell",) if len(grid.shape) == 1 else ("y", "x")
    found = xarray.Dataset()
    bounds = lat_lon(grid.corners) if grid.corner_latitudes.size else None
    for i, (name, values, attrs) in enumerate(
        (("latitude", grid.lat, LATITUDE), ("longitude", grid.lon, LONGITUDE))
    ):
        told = {} if bounds is None else {"bounds": f"{name}_bounds"}
        found = found.assign_coords({name: (dims, np.array(values), attrs | told)})
        if bounds is not None:
            found = found.assign_coords({f"{name}_bounds": ((*dims, "corner"), bounds[i])})
    if grid.areas.size:
        found = found.assign_coords(cell_area=(dims, np.array(grid.areas), AREA))
    return _with_edges(found, grid.links) if isinstance(grid, Cells) else found


@coordinates.register
def _(grid: HEALPix) -> xarray.Dataset:
    level = grid.nside.bit_length() - 1
    size = {"refinement_level": level} if grid.nside == 1 << level else {"healpix_nside": grid.nside}
    mapping = {"grid_mapping_name": "healpix", **size, "indexing_scheme": grid.order}
    index = {"standard_name": "healpix_index", "units": "1"}
    return xarray.Dataset(
        coords={
            "cell": ("cell", np.arange(grid.size), index),
            "crs": ((), np.int8(0), mapping),
            "latitude": ("cell", np.array(grid.lat), LATITUDE),
            "longitude": ("cell", np.array(grid.lon), LONGITUDE),
        }
    )
