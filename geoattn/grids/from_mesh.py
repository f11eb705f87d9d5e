"""Meshes of models recognised from the connectivity that their files hold: UGRID, MPAS and ICON."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from geoattn.grids.cells import of_nodes
from geoattn.grids.coordinates import Match, Source, steradians
from geoattn.grids.mesh import mesh
from geoattn.grids.polygons import signed_areas
from geoattn.grids.sphere import Floats, Ints, lat_lon, unit_vectors


@dataclasses.dataclass(frozen=True)
class Found:
    """What a file says of a mesh, in degrees and steradians."""

    basis: str
    dim: str
    lat: Floats
    lon: Floats
    corners: tuple[Floats, Floats] | None = None
    edges: Ints | None = None
    #: areas of the points, and whose they are
    areas: Floats | None = None
    rule: str = "areas of the cells between their corners"


def from_mesh(source: Source, use_areas: bool) -> tuple[Match, str] | None:
    """The mesh that a file declares, and the variables that do; None where it declares none."""
    for read in (_ugrid, _mpas, _icon):
        found = read(source)
        if found is not None:
            return _built(source, found, use_areas), found.basis
    return None


def _built(source: Source, found: Found, use_areas: bool) -> Match:
    areas, rule = (None, found.rule) if found.corners else (found.areas, found.rule)
    given = source.areas((found.dim,)) if use_areas else None
    if given is not None:
        areas, rule = steradians(*given, source.radius), f"cell areas in {given[0]!r}"
    try:
        grid = mesh(found.lat, found.lon, found.corners, areas, found.edges)
    except ValueError as error:
        if given is not None:
            error.add_note(
                "said of areas in the file; to go by the corners alone: "
                "ga.grids.recognise(ds, use_areas=False)"
            )
        raise
    return Match(grid, (found.dim,), rule, 0.0, 0.0)


# --- UGRID: http://ugrid-conventions.github.io/ugrid-conventions --------------------------------------


def _ugrid(source: Source) -> Found | None:
    topologies = [n for n, v in source.variables.items() if v.attrs.get("cf_role") == "mesh_topology"]
    if not topologies:
        if source.mesh is not None and source.mesh not in source.variables:
            raise ValueError(
                f"the mesh {source.mesh!r} is not among the coordinates: pass the Dataset, "
                "ga.grids.recognise(ds)"
            )
        return None
    if len(topologies) > 1:
        raise ValueError(
            f"{len(topologies)} meshes are declared: {topologies}. Leave one: "
            f"ga.grids.recognise(ds.drop_vars({topologies[1:]}))"
        )
    name = topologies[0]
    attrs = source.variables[name].attrs
    used = {v.attrs["location"]: n for n, v in source.variables.items() if v.attrs.get("mesh") == name}
    if len(used) > 1:
        others = [n for n, v in source.variables.items() if v.attrs.get("location") in sorted(used)[1:]]
        raise ValueError(
            f"variables lie on the {' and '.join(sorted(used))}s of the mesh {name!r}, which are different "
            f"grids. Leave those of one: ga.grids.recognise(ds.drop_vars({others}))"
        )
    location = next(iter(used), "face" if "face_node_connectivity" in attrs else "node")
    if location == "node" and (network := _network(source, name, attrs)):
        return network
    if location not in ("face", "node") or "face_node_connectivity" not in attrs:
        raise ValueError(
            f"the variables lie on the {location}s of the mesh {name!r}, which have no areas. Say what each "
            "point stands for: ga.grids.points(lat, lon, areas=…)"
        )
    nodes = _table(source, str(attrs["face_node_connectivity"]), attrs.get("face_dimension"))
    node_lat, node_lon, node_dim = _pair(source, str(attrs["node_coordinates"]))
    around = _repeated(nodes)
    corners = node_lat[around], node_lon[around]
    basis = f"the mesh topology {name!r}"
    if location == "face":
        dim = str(attrs.get("face_dimension", source.variables[attrs["face_node_connectivity"]].dims[0]))
        if "face_coordinates" in attrs:
            lat, lon, dim = _pair(source, str(attrs["face_coordinates"]))
        else:
            lat, lon = lat_lon(_middle(unit_vectors(*corners), nodes >= 0))
        return Found(basis, dim, lat, lon, corners, of_nodes(around))
    if (table := attrs.get("edge_node_connectivity")) in source.variables:
        edges = _table(source, str(table), attrs.get("edge_dimension"))
    else:
        edges = np.stack((around, np.roll(around, -1, axis=1)), axis=-1).reshape(-1, 2)
    edges = edges[(edges >= 0).all(1) & (edges[:, 0] != edges[:, 1])]
    # each face is shared equally by its nodes
    there = nodes >= 0
    share = np.abs(signed_areas(unit_vectors(*corners))) / there.sum(1)
    areas = np.bincount(nodes[there], np.repeat(share, there.sum(1)), len(node_lat))
    rule = "equal shares of the faces around each node"
    return Found(basis, node_dim, node_lat, node_lon, None, edges, np.asarray(areas), rule)


def _network(source: Source, name: str, attrs: dict[str, Any]) -> Found | None:
    """Nodes and the edges between them, where bounds or areas, but no faces, tell what nodes stand for."""
    if "face_node_connectivity" in attrs or attrs.get("edge_node_connectivity") not in source.variables:
        return None
    lat, lon, dim = _pair(source, str(attrs["node_coordinates"]))
    axes = [source.coordinate("node", each) for each in str(attrs["node_coordinates"]).split()]
    found = {axis.name: source.bounds(axis) for axis in axes}
    north, east = (found[each] for each in sorted(found, key=lambda each: "lon" in each.lower()))
    corners = (north[1], east[1]) if north and east else None
    if corners is None and source.areas((dim,)) is None:
        return None
    edges = _table(source, str(attrs["edge_node_connectivity"]), attrs.get("edge_dimension"))
    return Found(f"the network {name!r}", dim, lat, lon, corners, edges)


def _pair(source: Source, names: str) -> tuple[Floats, Floats, str]:
    """Latitudes, longitudes and their dimension, of two variables that an attribute lists in any order."""
    found = {}
    for name in names.split():
        attrs = source.variables[name].attrs
        text = " ".join(str(attrs.get(key, "")) for key in ("standard_name", "units", "long_name")) + name
        found["lat" if "lat" in text.lower() or "north" in text.lower() else "lon"] = _degrees(source, name)
    if len(found) != 2:
        raise ValueError(
            f"the coordinates {names!r} are not a latitude and a longitude. Say which is which: "
            f"ds[{names.split()[0]!r}].attrs['standard_name'] = 'longitude', and 'latitude' likewise"
        )
    return found["lat"], found["lon"], str(source.variables[names.split()[0]].dims[0])


# --- MPAS: https://mpas-dev.github.io/files/documents/MPAS-MeshSpec.pdf --------------------------------


def _mpas(source: Source) -> Found | None:
    if not {"latCell", "lonCell", "verticesOnCell", "latVertex", "lonVertex"} <= source.variables.keys():
        return None
    lat, lon = (_degrees(source, name, "radian") for name in ("latCell", "lonCell"))
    vertices = _table(source, "verticesOnCell", "nCells", start=1)
    if "nEdgesOnCell" in source.variables:  # what lies beyond is not always 0
        count = np.asarray(source.variables["nEdgesOnCell"].values)
        vertices = np.where(np.arange(vertices.shape[1]) < count[:, None], vertices, -1)
    around = _repeated(vertices)
    corners = [_degrees(source, name, "radian")[around] for name in ("latVertex", "lonVertex")]
    return Found("MPAS's 'verticesOnCell'", "nCells", lat, lon, (corners[0], corners[1]), of_nodes(around))


# --- ICON: Grid files of the ICON grid generator, https://gitlab.dkrz.de/icon/icon-model -----------------


def _icon(source: Source) -> Found | None:
    if not {"clat", "clon", "clat_vertices", "clon_vertices"} <= source.variables.keys():
        return None
    lat, lon = (_degrees(source, name, "radian") for name in ("clat", "clon"))
    corners = [_degrees(source, f"{name}_vertices", "radian") for name in ("clat", "clon")]
    dim = str(source.variables["clat"].dims[0])
    edges = None
    if "neighbor_cell_index" in source.variables:
        edges = _joined(_table(source, "neighbor_cell_index", dim, start=1))
    return Found("ICON's 'clat_vertices'", dim, lat, lon, (corners[0], corners[1]), edges)


# --- tables of indices --------------------------------------------------------------------------------


def _degrees(source: Source, name: str, units: str = "") -> Floats:
    variable = source.variables[name]
    values = np.asarray(variable.values, np.float64)
    return np.degrees(values) if str(variable.attrs.get("units") or units).startswith("rad") else values


def _table(source: Source, name: str, first: str | None, start: int | None = None) -> Ints:
    """Indices ``[n, k]`` from 0 on, −1 where there is none; along the dimension ``first``, then the other."""
    variable = source.variables[name]
    values = np.asarray(variable.values)
    if first is not None and len(variable.dims) == 2 and variable.dims[1] == first:
        values = values.T
    start = int(variable.attrs.get("start_index", 0)) if start is None else start
    missing = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    for fill in (variable.attrs.get("_FillValue"), variable.encoding.get("_FillValue")):
        missing |= values == fill if fill is not None else False
    index = np.where(missing, start - 1, values).astype(np.int64) - start
    return np.where(index < 0, -1, index)


def _repeated(table: Ints) -> Ints:
    """The table with its last entry of each row in place of those that are missing."""
    last = np.maximum.accumulate(np.where(table >= 0, np.arange(table.shape[1]), 0), axis=1)
    return np.take_along_axis(table, last, axis=1)


def _joined(beside: Ints) -> Ints | None:
    """Pairs of neighbors from the neighbors ``[n, k]`` of each; None where these are of a larger mesh.

    A selection of cells keeps the numbers that they had before: then not all neighbors are mutual.
    """
    n, k = beside.shape
    pairs = np.stack((np.repeat(np.arange(n), k), beside.ravel()), axis=-1)
    pairs = pairs[(pairs >= 0).all(1) & (pairs[:, 0] != pairs[:, 1])]
    if beside.max(initial=-1) >= n:
        return None
    there, back = (np.unique(first * n + second) for first, second in (pairs.T, pairs.T[::-1]))
    return pairs if np.array_equal(there, back) else None


def _middle(corners: Floats, there: Any) -> Floats:
    middle = (corners * there[..., None]).sum(-2)
    return np.asarray(middle / np.linalg.norm(middle, axis=-1, keepdims=True))
