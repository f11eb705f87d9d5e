"""Meshes of ocean and weather models, made small: their points, and files as the models write them."""

import numpy as np

import geoattn as ga
from geoattn.grids.sphere import lat_lon


def tripolar(n=48, rows=24, cap=12, pivot="T", halo=True, south=-78.0, join=50.0):
    """Latitudes and longitudes of an ocean grid whose rows close over the Arctic in two poles, like ORCA's.

    North of ``join`` rows are confocal ellipses in a stereographic plane that narrow to a slit. The last row
    lies on the slit (T) or half a step before it (F). With ``halo``, the first and the last column are there
    twice, and the row beyond the slit repeats one before it, as NEMO's files have them.
    """
    turn = 2 * np.pi * (np.arange(n) + (0.5 if pivot == "F" else 0.0)) / n
    step = (join - south) / rows
    lat = south + step * np.arange(rows)
    above = (np.arange(cap)[::-1, None] + (0.5 if pivot == "F" else 0.0)) * 2 * np.pi / n
    focus = np.tan(np.radians(90 - join) / 2) / np.cosh(cap * 2 * np.pi / n)
    x, y = focus * np.cosh(above) * np.cos(turn), focus * np.sinh(above) * np.sin(turn)
    y = np.where(np.abs(y) < 1e-15, 0.0, y)
    north = 90 - 2 * np.degrees(np.arctan(np.hypot(x, y)))
    lats = np.concatenate((np.broadcast_to(lat[:, None], (rows, n)), north))
    lons = np.concatenate((np.broadcast_to(np.degrees(turn), (rows, n)), np.degrees(np.arctan2(y, x)) % 360))
    if pivot == "T":  # what rounding parts is one
        mirror = (-np.arange(n)) % n
        first = np.minimum(np.arange(n), mirror)
        lats[-1], lons[-1] = lats[-1, first], lons[-1, first]
    if halo:
        beyond = (lats[-2], lons[-2]) if pivot == "T" else (lats[-1], lons[-1])
        back = (-np.arange(n)) % n if pivot == "T" else n - 1 - np.arange(n)
        lats, lons = (np.concatenate((x, b[None, back])) for x, b in zip((lats, lons), beyond, strict=True))
        lats, lons = (np.concatenate((x[:, -1:], x, x[:, :1]), axis=1) for x in (lats, lons))
    return lats, lons


RADIUS = 6.371229e6


def triangles(level=2):
    """Nodes of an icosahedral mesh, and the nodes of its triangles, anticlockwise."""
    grid = ga.grids.icosahedral(level)
    return grid.xyz, grid.triangles


def triangle_areas(xyz, nodes):
    """L'Huilier's formula, by the lengths of sides."""
    a, b, c = (
        2 * np.arcsin(np.linalg.norm(xyz[nodes[:, i]] - xyz[nodes[:, i - 1]], axis=-1) / 2) for i in range(3)
    )
    s = (a + b + c) / 2
    halves = np.tan(np.stack((s, s - a, s - b, s - c)) / 2)
    return 4 * np.arctan(np.sqrt(halves.prod(0)))


def normalised(xyz):
    return xyz / np.linalg.norm(xyz, axis=-1, keepdims=True)


def sharing_two_nodes(nodes):
    """Neighbors of each triangle, ``[n, 3]``, by all pairs."""
    shared = (nodes[:, None, :, None] == nodes[None, :, None, :]).any(-1).sum(-1)
    return np.argsort(shared == 2, axis=1, kind="stable")[:, -3:]


def icon(level=2):
    """A grid file of ICON, with one variable: radians, indices from 1 on, tables ``[3, cell]``."""
    import xarray as xr

    xyz, nodes = triangles(level)
    lat, lon = (np.radians(x) for x in lat_lon(normalised(xyz[nodes].sum(1))))
    corner_lat, corner_lon = (np.radians(x)[nodes] for x in lat_lon(xyz))
    radian = {"units": "radian", "standard_name": "grid_latitude"}
    return xr.Dataset(
        {
            "t": (("time", "cell"), np.zeros((2, len(nodes)))),
            "clat_vertices": (("cell", "nv"), corner_lat, {"units": "radian"}),
            "clon_vertices": (("cell", "nv"), corner_lon, {"units": "radian"}),
            "cell_area": (("cell",), triangle_areas(xyz, nodes) * RADIUS**2, {"units": "m2"}),
            "neighbor_cell_index": (("nv", "cell"), (sharing_two_nodes(nodes) + 1).T.astype(np.int32)),
            "vlat": (("vertex",), np.radians(lat_lon(xyz)[0]), radian),
        },
        {
            "clat": (("cell",), lat, {**radian, "bounds": "clat_vertices"}),
            "clon": (("cell",), lon, {"units": "radian", "bounds": "clon_vertices"}),
        },
        {"sphere_radius": RADIUS},
    )


def ugrid(level=2, location="face", start=1):
    """A file after UGRID, with one variable; faces have a fill value where an index lacks."""
    import xarray as xr

    xyz, nodes = triangles(level)
    lat, lon = lat_lon(xyz)
    table = np.concatenate((nodes + start, np.full((len(nodes), 1), -999)), axis=1).astype(np.int32)
    topology = {
        "cf_role": "mesh_topology",
        "topology_dimension": 2,
        "node_coordinates": "node_lon node_lat",
        "face_node_connectivity": "face_nodes",
        "face_dimension": "face",
    }
    return xr.Dataset(
        {
            "mesh": ((), 0, topology),
            "face_nodes": (("face", "four"), table, {"start_index": start, "_FillValue": np.int32(-999)}),
            "t": (
                (location,),
                np.zeros(len(xyz if location == "node" else nodes)),
                {"mesh": "mesh", "location": location},
            ),
        },
        {
            "node_lat": (("node",), lat, {"units": "degrees_north", "standard_name": "latitude"}),
            "node_lon": (("node",), lon, {"units": "degrees_east", "standard_name": "longitude"}),
        },
    )


def mpas(level=2):
    """A mesh file of MPAS: Voronoi cells, radians that nothing states, indices from 1 on, then 0."""
    import xarray as xr

    xyz, nodes = triangles(level)
    a, b, c = (xyz[nodes[:, i]] for i in range(3))
    centres = normalised(np.cross(b - a, c - a))
    vertices = np.zeros((len(xyz), 7), np.int32)
    for cell in range(len(xyz)):
        around = np.flatnonzero((nodes == cell).any(1))
        pole = xyz[cell]
        east = normalised(np.cross([0.3, 0.5, 0.8], pole))
        angle = np.arctan2(centres[around] @ np.cross(pole, east), centres[around] @ east)
        around = around[angle.argsort()]
        vertices[cell, : len(around)] = around + 1
    (lat, lon), (corner_lat, corner_lon) = ((np.radians(x) for x in lat_lon(p)) for p in (xyz, centres))
    return xr.Dataset(
        {
            "theta": (("Time", "nCells"), np.zeros((1, len(xyz)))),
            "latCell": ("nCells", lat),
            "lonCell": ("nCells", lon),
            "latVertex": ("nVertices", corner_lat),
            "lonVertex": ("nVertices", corner_lon),
            "verticesOnCell": (("nCells", "maxEdges"), vertices),
            "nEdgesOnCell": ("nCells", (vertices > 0).sum(1).astype(np.int32)),
            "areaCell": ("nCells", ga.grids.icosahedral(level).weights * 1.0),
        },
        attrs={"sphere_radius": 1.0, "on_a_sphere": "YES"},
    )
