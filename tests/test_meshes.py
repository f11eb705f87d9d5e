"""Meshes of ocean and weather models: cells that count once, areas and edges from files."""

import numpy as np
import pytest
from meshes import icon, mpas, triangle_areas, triangles, tripolar, ugrid
from test_regional import girard

import geoattn as ga

xr = pytest.importorskip("xarray", reason="files are data sets")
GLOBE = 4 * np.pi


def ocean(**options):
    lat, lon = tripolar(**options)
    coords = {"nav_lat": (("y", "x"), lat), "nav_lon": (("y", "x"), lon)}
    return xr.Dataset({"sst": (("time", "y", "x"), np.zeros((2, *lat.shape)))}, coords)


# --- tripolar grids -----------------------------------------------------------------------------------


def north_of(corners):
    """The area north of a closed line around the south."""
    return GLOBE - girard(corners)


@pytest.mark.parametrize("pivot", ["T", "F"])
def test_tripolar_grids_count_every_place_once(pivot):
    whole, bare = (ga.grids.from_xarray(ocean(pivot=pivot, halo=halo)) for halo in (True, False))
    assert whole.kind == bare.kind == "curvilinear"
    exact = GLOBE - girard(bare.corners[0, :, 0])
    # cells at both ends of a fold lie within those before them
    assert bare.weights.sum() == pytest.approx(exact, rel=1e-6 if pivot == "T" else 1e-12)
    assert whole.weights.sum() == pytest.approx(bare.weights.sum(), rel=1e-12)
    np.testing.assert_array_equal(
        np.sort(whole.weights[whole.weights > 0]), np.sort(bare.weights[bare.weights > 0])
    )
    repeated = {"T": 37 * 2 + 48 + 23, "F": 37 * 2 + 48}[pivot]
    assert (whole.weights == 0).sum() == repeated
    report = ga.grids.recognise(ocean(pivot=pivot))
    assert f"{repeated} points that repeat others count once" in report.weights
    assert report.dims == ("y", "x")
    assert bare.axes_periodic == (False, True)
    assert 0.98 < bare.weights.sum() / GLOBE < 1


def test_areas_of_the_file_count_once_too():
    ds = ocean()
    grid = ga.grids.from_xarray(ds)
    areas = np.where(grid.repeats, 7e9, 0.995 * grid.weights * 6.371e6**2)  # files give repeats an area
    ds["areacello"] = (("y", "x"), areas, {"units": "m2"})
    report = ga.grids.recognise(ds)
    assert "cell areas in 'areacello'" in report.weights
    np.testing.assert_allclose(report.grid.weights, 0.995 * grid.weights, rtol=1e-12)


@pytest.mark.parametrize("pivot", ["T", "F"])
def test_rows_continue_beyond_the_fold(pivot):
    lat, lon = tripolar(pivot=pivot, halo=False)
    grid = ga.grids.regional(lat, lon)
    n = lat.shape[1]
    top = lat.size - n
    joined = {tuple(pair) for pair in grid.edges}
    if pivot == "F":
        assert all((top + i, top + n - 1 - i) in joined for i in range(n // 2))
    else:  # on the slit, a point has neighbors on both its sides
        assert all(tuple(sorted((top + i, top - i))) in joined for i in range(2, n // 2))
    assert ga.k_hop(grid, 1).counts.min() >= 4


def test_what_repeats_sees_what_its_point_sees_and_is_hidden():
    import torch

    grid = ga.grids.regional(*tripolar(n=24, rows=12, cap=6))
    field = np.random.default_rng(0).standard_normal((grid.size, 4))
    field = field[grid._kept].reshape(1, *grid.shape, 1, 4)
    for hood in (ga.geodesic(grid, radius=15.0), ga.k_hop(grid, 2)):
        x = torch.as_tensor(field)
        out = ga.attention(x, x, x, hood, backend="reference").reshape(grid.size, 4)
        torch.testing.assert_close(out, out[grid._kept])
        other = torch.where(torch.as_tensor(grid.weights == 0)[None, ..., None, None], torch.nan, x)
        hidden = ga.attention(x, other, other, hood, backend="reference").reshape(grid.size, 4)
        torch.testing.assert_close(hidden, out)


def test_files_with_land_at_no_place_keep_their_refusal():
    ds = ocean()
    lat, lon = ds["nav_lat"].values.copy(), ds["nav_lon"].values.copy()
    lat[10:20, 10:20] = lon[10:20, 10:20] = 0.0
    ds = ds.assign_coords(nav_lat=(("y", "x"), lat), nav_lon=(("y", "x"), lon))
    with pytest.raises(ValueError, match="repeat others"):
        ga.grids.recognise(ds)


def test_arrays_that_neither_close_nor_fold_are_as_before():
    lat, lon = np.meshgrid(np.linspace(40.0, 50.0, 12), np.linspace(0.0, 15.0, 18), indexing="ij")
    grid = ga.grids.regional(lat + 0.05 * lon, lon + 0.04 * lat)
    assert grid.axes_periodic == (False, False)
    assert grid.repeats is None
    # rows around the pole, the last of them half a step away from it: no fold
    around = np.arange(24) * 15.0 + np.arange(6)[:, None]
    ring = ga.grids.regional(np.broadcast_to(np.linspace(60, 87.5, 6)[:, None], (6, 24)), around)
    assert ring.axes_periodic == (False, True)
    assert (ring._tokens[[0, -1]] < 0).all()


# --- meshes from files --------------------------------------------------------------------------------


def test_icon_has_areas_and_neighbors_from_its_file():
    ds = icon()
    report = ga.grids.recognise(ds)
    xyz, nodes = triangles()
    assert report.dims == ("cell",)
    assert "cell areas in 'cell_area'" in report.weights
    exact = triangle_areas(xyz, nodes)
    np.testing.assert_allclose(report.grid.weights, exact, rtol=1e-12)
    assert report.grid.is_global
    assert (ga.k_hop(report.grid, 1).counts == 4).all()
    without = ga.grids.recognise(ds.drop_vars(["cell_area", "neighbor_cell_index"])).grid
    np.testing.assert_allclose(without.weights, exact, rtol=1e-12)
    np.testing.assert_array_equal(without.edges, report.grid.edges)  # sides that cells share
    ds = ds.assign(cell_area=ds["cell_area"] / 6.371229e6**2)
    ds["cell_area"].attrs["units"] = "rad2"
    np.testing.assert_allclose(ga.grids.from_xarray(ds).weights, exact, rtol=1e-12)


def test_selections_of_icon_are_regions_of_the_files_sphere():
    whole, ds = ga.grids.from_xarray(icon()), icon()
    for chosen in (np.flatnonzero(whole.lat > 30), np.arange(1, 320), np.arange(320)[::-1]):
        grid = ga.grids.from_xarray(ds.isel(cell=chosen))
        np.testing.assert_allclose(grid.weights, whole.weights[chosen], rtol=1e-12)
        places = np.full(320, -1)
        places[chosen] = np.arange(len(chosen))
        expected = np.sort(places[whole.edges], axis=1)
        expected = expected[expected[:, 0] >= 0]
        np.testing.assert_array_equal(grid.edges, np.unique(expected, axis=0))


def test_output_of_icon_has_cells_within_its_bounds():
    ds = icon()[["t", "clat_vertices", "clon_vertices"]]
    grid = ga.grids.from_xarray(ds)
    assert (grid.kind, grid.size) == ("cells", 320)
    assert (ga.k_hop(grid, 1).counts == 4).all()
    bare = ga.grids.from_xarray(ds[["t"]])  # without the bounds
    assert bare.kind == "points"


def test_mpas_has_cells_and_neighbors_from_its_file():
    report = ga.grids.recognise(mpas())
    mesh = ga.grids.icosahedral(2)
    assert report.dims == ("nCells",)
    np.testing.assert_allclose(report.grid.weights, mesh.weights, rtol=1e-12)
    np.testing.assert_array_equal(report.grid.edges, mesh.edges)
    polygons = ga.grids.from_xarray(mpas().drop_vars("areaCell"))
    np.testing.assert_allclose(polygons.weights, mesh.weights, rtol=1e-11)


@pytest.mark.parametrize("start", [0, 1])
def test_ugrid_faces_and_nodes(start):
    xyz, nodes = triangles()
    faces = ga.grids.from_xarray(ugrid(start=start))
    np.testing.assert_allclose(faces.weights, triangle_areas(xyz, nodes), rtol=1e-12)
    np.testing.assert_array_equal(faces.edges, ga.grids.from_xarray(icon()).edges)
    report = ga.grids.recognise(ugrid(location="node", start=start))
    assert "equal shares of the faces" in report.weights
    np.testing.assert_allclose(report.grid.weights.sum(), GLOBE, rtol=1e-12)
    np.testing.assert_array_equal(report.grid.edges, ga.grids.icosahedral(2).edges)


def test_ugrid_files_come_back_from_disk(tmp_path):
    """Where xarray has made floating-point numbers of the indices."""
    pytest.importorskip("netCDF4", reason="writes the file")
    ugrid().to_netcdf(tmp_path / "mesh.nc")
    with xr.open_dataset(tmp_path / "mesh.nc") as ds:
        assert ga.grids.from_xarray(ds) == ga.grids.from_xarray(ugrid())


def test_ugrid_regions_are_regions():
    ds = ugrid()
    north = np.flatnonzero(ga.grids.from_xarray(ds).lat > 20)
    grid = ga.grids.from_xarray(ds.isel(face=north))
    assert not grid.is_global
    assert "region of" in repr(grid)
    xyz, nodes = triangles()
    np.testing.assert_allclose(grid.weights, triangle_areas(xyz, nodes[north]), rtol=1e-12)


def test_meshes_are_values():
    for ds in (icon(1), mpas(1), ugrid(1), ugrid(1, "node"), ocean(n=24, rows=12, cap=6)):
        grid = ga.grids.from_xarray(ds)
        assert ga.grids.Grid.from_dict(grid.to_dict()) == grid
    found = ga.grids.from_xarray(icon(1))
    made = ga.grids.mesh(
        found.lat, found.lon, (found.corner_latitudes, found.corner_longitudes), found.areas, found.edges
    )
    assert made == found


# --- refusals -----------------------------------------------------------------------------------------


def test_a_variable_without_its_mesh_asks_for_the_data_set(refused_by):
    ds = ugrid()
    with refused_by("grids/from_mesh.py", "is not among the coordinates") as said:
        ga.grids.recognise(ds["t"])
    assert said.run("ga.grids.recognise(", ds=ds).dims == ("face",)


def test_two_meshes_and_two_locations(refused_by):
    two = ugrid().assign(other=ugrid()["mesh"])
    with refused_by("grids/from_mesh.py", "meshes are declared") as said:
        ga.grids.recognise(two)
    assert said.run("ga.grids.recognise(", ds=two).dims == ("face",)
    both = ugrid().assign(n=ugrid(location="node")["t"])
    with refused_by("grids/from_mesh.py", "which are different") as said:
        ga.grids.recognise(both)
    assert said.run("ga.grids.recognise(", ds=both).dims == ("face",)


def test_variables_on_edges_need_areas(refused_by):
    ds = ugrid(1)
    ds["t"].attrs["location"] = "edge"
    with refused_by("grids/from_mesh.py", "which have no areas") as said:
        ga.grids.recognise(ds)
    lat, lon = ga.grids.icosahedral(1).lat, ga.grids.icosahedral(1).lon
    areas = np.full(42, GLOBE / 42)
    assert said.run("ga.grids.points(", "areas", lat=lat, lon=lon, areas=areas).size == 42


def test_areas_of_a_mesh_that_are_none(refused_by):
    ds = icon(1)
    ds["cell_area"] = -ds["cell_area"]
    ds["cell_area"].attrs["units"] = "m2"
    with refused_by("grids/from_mesh.py", "said of areas in the file; to go by the corners") as said:
        ga.grids.recognise(ds)
    np.testing.assert_allclose(
        said.run("ga.grids.recognise(", ds=ds).grid.weights, triangle_areas(*triangles(1)), rtol=1e-12
    )


def test_edges_that_join_no_points(refused_by):
    grid = ga.grids.icosahedral(1)
    edges = grid.edges + 1
    with refused_by("grids/points.py", "edges must join points 0 to") as said:
        ga.grids.mesh(grid.lat, grid.lon, edges=edges)
    said.says("edges=edges - 1")
    assert len(ga.grids.mesh(grid.lat, grid.lon, edges=edges - 1).edges) == 120
    with pytest.raises(TypeError, match="edges must be integers"):
        ga.grids.mesh(grid.lat, grid.lon, edges=edges * 1.0)
    with pytest.raises(ValueError, match=r"edges must be pairs of points, integers \[m, 2\]"):
        ga.grids.mesh(grid.lat, grid.lon, edges=np.ones((4, 3), int))


def test_nodes_without_names_say_which_coordinate_they_are(refused_by):
    ds = ugrid(1).rename(node_lat="b", node_lon="a")
    ds["mesh"].attrs["node_coordinates"] = "a b"
    for name in "ab":
        ds[name].attrs = {}
    with refused_by("grids/from_mesh.py", "are not a latitude and a longitude") as said:
        ga.grids.recognise(ds)
    said.run("ds['a']", ds=ds)
    ds["b"].attrs["standard_name"] = "latitude"
    assert ga.grids.from_xarray(ds) == ga.grids.from_xarray(ugrid(1))


def test_meshes_are_lists(refused_by):
    lat, lon = tripolar(halo=False, pivot="F")
    with refused_by("grids/mesh.py", "lat and lon must be equally long lists") as said:
        ga.grids.mesh(lat, lon, (lat, lon))
    assert said.run("ga.grids.regional(", lat=lat, lon=lon).shape == lat.shape


# --- written --------------------------------------------------------------------------------------------


def test_edges_of_a_mesh_are_written_and_read():
    globe = ga.grids.icosahedral(2)
    lat, lon = ga.grids.sphere.lat_lon(ga.grids.voronoi.voronoi_corners(globe.xyz))
    options = {"edges": globe.edges[::2]}
    for mesh in (
        ga.grids.mesh(globe.lat, globe.lon, areas=globe.weights, **options),
        ga.grids.mesh(globe.lat, globe.lon, corners=(lat, lon), **options),
    ):
        written = ga.xarray.coordinates(mesh)
        found = ga.grids.recognise(written)
        assert "the network 'mesh'" in found.basis
        assert type(found.grid) is type(mesh)
        np.testing.assert_array_equal(found.grid.edges, mesh.edges)
        np.testing.assert_allclose(found.grid.weights, mesh.weights, rtol=1e-12)
        coarse = ga.grids.equiangular(7, 12)
        ds = ga.xarray.coordinates(coarse).assign(t=(("latitude", "longitude"), coarse.lat))
        moved = ga.xarray.regrid(ds, mesh)
        np.testing.assert_array_equal(ga.grids.from_xarray(moved).edges, mesh.edges)
        alone = ga.xarray.regrid(ds.t, mesh)  # an array has no room for edges
        assert ga.grids.from_xarray(alone).size == mesh.size


def test_an_array_moves_to_a_region_without_its_bounds():
    globe, region = (
        ga.grids.equiangular(19, 36),
        ga.grids.regional(np.arange(10.0, 30.0), np.arange(20.0, 40.0)),
    )
    ds = ga.xarray.coordinates(globe).assign(t=(("latitude", "longitude"), globe.lat))
    assert ga.grids.from_xarray(ga.xarray.regrid(ds.t, region)) == region
    both = ga.xarray.regrid(ds, region)
    assert {"latitude_bounds", "longitude_bounds"} <= set(both.coords)
    np.testing.assert_array_equal(both.t, ga.xarray.regrid(ds.t, region))
