"""Recognition of grids from xarray coordinates, in the conventions that files follow."""

import re
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geoattn as ga
from geoattn.grids.sphere import lat_lon

xr = pytest.importorskip("xarray", reason="the bridge needs xarray")


def axes(lat, lon, names=("lat", "lon"), dims=None, lat_attrs=None, lon_attrs=None):
    """A data set with one field on two axes."""
    sizes = dict(zip(names, (len(lat), len(lon)), strict=True))
    dims = dims or names
    field = np.zeros([sizes[d] for d in dims], np.float32)
    north, east = (names[0], lat, lat_attrs or {}), (names[1], lon, lon_attrs or {})
    coords = {names[0]: north, names[1]: east}
    return xr.Dataset({"t": (dims, field)}, coords)


def points(lat, lon, dims=("cell",), **variables):
    return xr.Dataset(variables, {"lat": (dims, lat), "lon": (dims, lon)})


def equal_steps(nlat, poles=True):
    return np.linspace(90, -90, nlat) if poles else 90 - (np.arange(nlat) + 0.5) * 180 / nlat


def globe(nlon, start=0.0):
    return start + np.arange(nlon) * 360 / nlon


# --- files as they come -----------------------------------------------------------------------------


def test_era5_runs_north_to_south_from_greenwich_in_single_precision():
    cf = {"lat_attrs": {"units": "degrees_north"}, "lon_attrs": {"units": "degrees_east"}}
    ds = axes(np.float32(equal_steps(721)), np.float32(globe(1440)), ("latitude", "longitude"), **cf)
    report = ga.grids.recognise(ds)
    assert report.grid == ga.grids.equiangular(721, 1440) == ga.grids.from_xarray(ds.t)
    assert report.name == "era5-0.25"
    assert report.dims == ("latitude", "longitude")
    assert report.deviation <= report.tolerance == pytest.approx(1e-3 * 180 / 721)
    assert "'era5-0.25' in the catalogue" in str(report)
    assert "fields end with dims ('latitude', 'longitude')" in str(report)


def test_weatherbench2_files_are_longitude_first_and_the_report_says_how_to_transpose():
    ds = axes(
        equal_steps(32, poles=False)[::-1], globe(64), ("latitude", "longitude"), ("longitude", "latitude")
    )
    assert ds.t.shape == (64, 32)
    report = ga.grids.recognise(ds)
    assert report.name == "wb2-64x32"
    assert ds.t.transpose(..., *report.dims).shape == report.grid.shape == (32, 64)
    np.testing.assert_allclose(report.grid.lat_axis, ds.latitude)
    ds = axes(np.linspace(-90, 90, 121), globe(240), ("latitude", "longitude"), ("longitude", "latitude"))
    assert ga.grids.recognise(ds).name == "wb2-240x121"


def test_cmip_cells_keep_their_direction_and_longitudes_from_the_date_line():
    lat, lon = np.arange(-89.5, 90), np.arange(-179.5, 180)
    ds = axes(
        lat,
        lon,
        lat_attrs={"standard_name": "latitude", "bounds": "lat_bnds"},
        lon_attrs={"standard_name": "longitude"},
    )
    ds["lat_bnds"] = (("lat", "bnds"), np.stack((lat - 0.5, lat + 0.5), -1), {"units": "degrees_north"})
    report = ga.grids.recognise(ds)
    assert report.name == "one-degree-180-180"
    np.testing.assert_allclose(report.grid.lat_axis, lat)
    np.testing.assert_allclose(report.grid.lon_axis, lon % 360)


def test_bounds_weigh_rows_that_follow_no_rule():
    """Such as half a cell at each pole, with its centre in the middle of the half."""
    edges = np.concatenate(([-90.0], np.arange(-89.0, 90, 2), [90.0]))
    lat, lon = (edges[1:] + edges[:-1]) / 2, globe(144)
    for direction in (1, -1):
        ds = axes(lat[::direction], lon, lat_attrs={"bounds": "lat_bnds", "units": "degrees_north"})
        refuses(ds, r"fit no grid")
        bounds = np.stack((edges[:-1], edges[1:]), -1)[::direction]
        ds["lat_bnds"] = (("lat", "bnds"), bounds)
        report = ga.grids.recognise(ds)
        assert report.weights == "zones between the bounds in 'lat_bnds'"
        np.testing.assert_array_equal(report.grid.lat_axis, lat[::direction])
        zones = np.diff(np.sin(np.radians(edges)))[::direction] * 2 * np.pi
        np.testing.assert_allclose(report.grid.lat_weights, zones, rtol=1e-12)
        refuses(ds, r"fit no grid", use_areas=False)
        for wrong in (bounds + 0.5, bounds * 0.99, bounds[::-1]):
            refuses(ds.assign(lat_bnds=(("lat", "bnds"), wrong)), r"fit no grid")


def test_a_dropped_pole_gives_the_areas_between_midpoints():
    report = ga.grids.recognise(axes(equal_steps(721)[:-1], globe(1440)))
    assert report.name == "era5-0.25-no-south-pole"
    assert report.weights == "areas between the midpoints of the rows"
    edges = np.radians(np.append(90 - 0.25 * np.maximum(np.arange(720) - 0.5, 0), -90))
    np.testing.assert_allclose(
        report.grid.weights[:, 0], -np.diff(np.sin(edges)) * 2 * np.pi / 1440, rtol=1e-9
    )
    for rows in (equal_steps(73)[1:], equal_steps(73)[1:-1], equal_steps(73)[-2::-1]):
        grid = ga.grids.from_xarray(axes(rows, globe(144)))
        np.testing.assert_allclose(grid.lat_axis, rows, atol=1e-12)
        np.testing.assert_allclose(grid.weights.sum(), 4 * np.pi)


@pytest.mark.parametrize(
    "make",
    [
        lambda **k: ga.grids.equiangular(19, 36, poles=True, **k),
        lambda **k: ga.grids.equiangular(18, 36, poles=False, **k),
        lambda **k: ga.grids.gaussian(32, 64, **k),
        lambda **k: ga.grids.gaussian(33, 64, **k),
        lambda **k: ga.grids.lobatto(19, 36, **k),
    ],
)
@settings(max_examples=20, deadline=None)
@given(
    south_first=st.booleans(),
    start=st.integers(-72, 72),
    roll=st.integers(0, 35),
    wrap=st.sampled_from([0.0, -180.0, -77.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_rules_are_recognised_in_any_direction_from_any_longitude(
    make, south_first, start, roll, wrap, dtype
):
    """The file's order is kept: only the numbers are replaced by exact ones."""
    plain = make()
    grid = make(south_first=south_first, lon_start=(start * 0.5 + roll) * 360 / plain.nlon)
    lon = (grid.lon_axis - wrap) % 360 + wrap
    ds = axes(grid.lat_axis.astype(dtype), lon.astype(dtype))
    found = ga.grids.from_xarray(ds)
    assert type(found) is type(grid)
    np.testing.assert_allclose(found.lat_axis, grid.lat_axis, atol=1e-12)
    away = (found.lon_axis - grid.lon_axis + 180) % 360 - 180
    np.testing.assert_allclose(away, 0, atol=1e-12)
    np.testing.assert_array_equal(found.lat_weights, grid.lat_weights)


def test_an_odd_longitude_origin_is_kept_as_it_is():
    grid = ga.grids.from_xarray(axes(equal_steps(19), globe(36, start=3.21)))
    assert grid.lon_start == 3.21


LAT_LON = [e.name for e in ga.grids.catalogue().values() if hasattr(e.grid(), "lat_axis")]


@pytest.mark.parametrize("name", LAT_LON)
def test_every_lat_lon_grid_of_the_catalogue_comes_back_by_its_name(name):
    grid = ga.grids.named(name)
    lon = np.where(grid.lon_axis >= 180, grid.lon_axis - 360, grid.lon_axis)
    report = ga.grids.recognise(axes(grid.lat_axis.astype(np.float32), lon.astype(np.float32)))
    assert (report.name, report.grid) == (name, grid)


@pytest.mark.parametrize(
    "name", ["n32", "n80", "o32", "o96", "healpix-32-nested", "healpix-64-ring", "icosahedral-4"]
)
def test_structured_points_come_back_by_their_name(name):
    grid = ga.grids.named(name)
    lon = np.where(grid.lon >= 180, grid.lon - 360, grid.lon)
    ds = points(grid.lat.astype(np.float32), lon.astype(np.float32), ("values",))
    report = ga.grids.recognise(ds)
    assert (report.name, report.grid, report.dims) == (name, grid, ("values",))
    assert 0 < report.deviation <= report.tolerance


@pytest.mark.parametrize("name", ["c48-equiangular", "c48-fv3"])
def test_a_cubed_sphere_comes_back_from_its_six_faces(name):
    grid = ga.grids.named(name)
    report = ga.grids.recognise(points(grid.lat, grid.lon, ("tile", "y", "x")))
    assert (report.name, report.grid, report.dims) == (name, grid, ("tile", "y", "x"))


@pytest.mark.parametrize(
    "grid", [ga.grids.cubed_sphere(n, "equal-edge", turn) for n in (1, 4) for turn in (0, -10)]
)
def test_small_and_unturned_cubes_of_fv3_are_told_from_equiangular_ones(grid):
    assert ga.grids.from_xarray(points(grid.lat, grid.lon, ("tile", "y", "x"))) == grid


@pytest.mark.parametrize(
    ("attrs", "index", "expected"),
    [
        (
            {"grid_mapping_name": "healpix", "refinement_level": 4, "indexing_scheme": "nested"},
            True,
            "nested",
        ),
        ({"grid_mapping_name": "healpix", "refinement_level": 4, "indexing_scheme": "ring"}, False, "ring"),
        ({"grid_mapping_name": "healpix", "healpix_nside": 16, "healpix_order": "nest"}, False, "nested"),
    ],
)
def test_healpix_is_declared_by_a_grid_mapping(attrs, index, expected):
    ds = xr.Dataset({"t": (("time", "cell"), np.zeros((2, 3072))), "crs": ((), 0, attrs)})
    if index:
        ds = ds.assign_coords(cell=("cell", np.arange(3072), {"standard_name": "healpix_index"}))
    report = ga.grids.recognise(ds)
    assert report.grid == ga.grids.healpix(16, expected)
    assert report.dims == ("cell",)
    assert "HEALPix attributes of 'crs'" in str(report)


def test_healpix_is_declared_by_its_cell_coordinate():
    attrs = {"grid_name": "healpix", "level": 3, "indexing_scheme": "nested"}
    ds = xr.Dataset({"t": ("cells", np.zeros(768))}, {"cell_ids": ("cells", np.arange(768), attrs)})
    assert ga.grids.from_xarray(ds.t) == ga.grids.healpix(8, "nested")


def test_a_healpix_variable_without_its_grid_mapping_asks_for_the_data_set():
    attrs = {"grid_mapping_name": "healpix", "refinement_level": 2, "indexing_scheme": "nested"}
    ds = xr.Dataset({"t": ("cell", np.zeros(192), {"grid_mapping": "crs"}), "crs": ((), 0, attrs)})
    assert ga.grids.from_xarray(ds) == ga.grids.healpix(4)
    refuses(ds.t, r"the grid mapping 'crs' is not among the coordinates: pass the Dataset")


@pytest.mark.parametrize(
    "name", ["o32", "n32", "healpix-32-nested", "icosahedral-4", "c48-equiangular", "c48-fv3"]
)
def test_structured_points_in_another_order_keep_the_weights_of_their_grid(name):
    """Such as reduced Gaussian grids from south to north, and HEALPix as twelve square faces."""
    grid = ga.grids.named(name)
    shuffle = np.random.default_rng(0).permutation(grid.size)
    shape, dims = ((12, 32, 32), ("face", "y", "x")) if name.startswith("healpix") else ((-1,), ("cell",))
    lat, lon = (c.ravel()[shuffle].reshape(shape).astype(np.float32) for c in (grid.lat, grid.lon))
    report = ga.grids.recognise(points(lat, lon, dims))
    assert report.weights == f"those of the {grid!r}, in the file's order".replace("nested", "ring")
    np.testing.assert_array_equal(report.grid.weights, grid.weights.ravel()[shuffle])
    np.testing.assert_array_equal(report.grid.lat, lat.ravel())
    assert report.dims == dims


def test_points_that_share_a_place_of_the_grid_do_not_keep_its_weights():
    grid = ga.grids.named("o32")
    lat, lon = grid.lat[::-1].copy(), grid.lon[::-1].copy()
    lon[2000] = lon[2001] + 1e-4  # within the tolerance, and the place it left is empty
    assert ga.grids.recognise(points(lat, lon)).weights == "spherical Voronoi areas"


def fibonacci(n):
    """Nearly even points, in an order of no grid."""
    k = np.arange(n) + 0.5
    return np.degrees(np.arcsin(1 - 2 * k / n)), (k * 180 * (1 + 5**0.5)) % 360


def test_unstructured_cells_become_points_with_voronoi_areas_or_those_of_the_file():
    lat, lon = fibonacci(500)
    report = ga.grids.recognise(points(lat, lon))
    assert report.grid == ga.grids.points(lat, lon)
    assert report.weights == "spherical Voronoi areas"
    areas = np.linspace(1, 2, 500)
    areas *= 5.1e14 / areas.sum()
    ds = points(lat, lon, cell_area=("cell", areas, {"standard_name": "cell_area", "units": "m2"}))
    report = ga.grids.recognise(ds)
    assert report.weights == "cell areas in 'cell_area'"
    np.testing.assert_allclose(report.grid.weights, areas * 4 * np.pi / areas.sum())
    assert ga.grids.from_xarray(ds, use_areas=False) == ga.grids.points(lat, lon)


def test_coordinates_in_radians_are_read_as_such():
    lat, lon = fibonacci(300)
    ds = xr.Dataset(
        coords={
            "clat": ("cell", np.radians(lat), {"standard_name": "latitude", "units": "radian"}),
            "clon": ("cell", np.radians(lon), {"standard_name": "longitude", "units": "radian"}),
        }
    )
    np.testing.assert_allclose(ga.grids.from_xarray(ds).lat, lat)


def test_curvilinear_coordinates_are_flattened_in_the_order_of_their_dimensions():
    """Columns shifted from row to row, so that no two axes describe it."""
    lat = np.broadcast_to(equal_steps(12, poles=False)[:, None], (12, 24))
    lon = globe(24)[None, :] + 2 * np.arange(12)[:, None]
    report = ga.grids.recognise(points(lat, lon % 360, ("y", "x")))
    assert report.dims == ("y", "x")
    np.testing.assert_array_equal(report.grid.lat, lat.ravel())


def test_two_dimensional_coordinates_that_repeat_two_axes_are_those_axes():
    lat, lon = np.meshgrid(equal_steps(19), globe(36), indexing="ij")
    expected = ga.grids.equiangular(19, 36)
    report = ga.grids.recognise(points(lat, lon, ("y", "x")))
    assert (report.grid, report.dims) == (expected, ("y", "x"))
    report = ga.grids.recognise(points(lat.T, lon.T, ("x", "y")))
    assert (report.grid, report.dims) == (expected, ("y", "x"))


def test_cell_areas_of_the_file_weigh_a_lat_lon_grid():
    lat = equal_steps(18, poles=False)
    row = np.cos(np.radians(lat))
    areas = np.broadcast_to(row[:, None], (18, 36)).astype(np.float32)
    ds = axes(lat, globe(36)).assign(areacella=(("lon", "lat"), areas.T, {"standard_name": "cell_area"}))
    report = ga.grids.recognise(ds)
    assert report.weights == "cell areas in 'areacella'"
    np.testing.assert_allclose(report.grid.weights[:, 0], row * 4 * np.pi / (36 * row.sum()), rtol=1e-6)
    assert ga.grids.from_xarray(ds, use_areas=False) == ga.grids.equiangular(18, 36, poles=False)


def test_rotated_coordinates_are_not_taken_for_latitudes():
    lat, lon = fibonacci(400)
    ds = points(lat.reshape(20, 20), lon.reshape(20, 20), ("rlat", "rlon"))
    ds["rlat"] = ("rlat", np.arange(20.0), {"standard_name": "grid_latitude", "units": "degrees_north"})
    ds["rlon"] = ("rlon", np.arange(20.0), {"standard_name": "grid_longitude", "units": "degrees_east"})
    np.testing.assert_allclose(ga.grids.from_xarray(ds).lat, lat)


# --- refusals, each with the call that settles it ---------------------------------------------------


def refuses(ds, match, **options):
    with pytest.raises(ValueError, match=match):
        ga.grids.recognise(ds, **options)


@pytest.mark.parametrize(
    ("lat", "lon", "extent"),
    [
        (np.arange(60, 29, -1.0), globe(360), (60.5, 29.5, 360)),
        (np.arange(-60, 61, 1.0), globe(360), (60.5, -60.5, 360)),
        (equal_steps(19), np.arange(0, 90, 10.0), (90, -90, 90)),
        (equal_steps(19), np.arange(-20, 21, 10.0), (90, -90, 50)),
        (np.arange(20.0, 30.0), np.array([350.0, 355.0, 0.0, 5.0]), (29.5, 19.5, 20)),
        (np.arange(20.0, 30.0), np.array([1.0, 2.0, 4.0, 7.0, 9.0]), (29.5, 19.5, 9.5)),
    ],
)
def test_slices_are_regions_weighed_by_their_own_cells(lat, lon, extent):
    report = ga.grids.recognise(axes(lat, lon))
    north, south, across = extent
    area = np.radians(across) * (np.sin(np.radians(north)) - np.sin(np.radians(south)))
    assert report.grid.weights.sum() == pytest.approx(area, rel=1e-12)
    assert "halfway" in report.weights
    assert report.dims == ("lat", "lon")
    assert "region" in repr(report)


def test_one_row_of_a_region_is_refused():
    refuses(
        axes([10.0], globe(360)), r"'lat' covers a region, 10° to 10°, and nothing tells.*ga.grids.points"
    )


def test_arrays_of_points_are_regions():
    lat, lon = np.meshgrid(np.linspace(40.0, 50.0, 12), np.linspace(0.0, 15.0, 18), indexing="ij")
    lat, lon = lat + 0.05 * lon, lon + 0.04 * lat
    report = ga.grids.recognise(points(lat, lon, ("y", "x")))
    assert report.grid == ga.grids.regional(lat, lon)
    assert report.dims == ("y", "x")
    corners = lat_lon(report.grid.corners)
    ds = points(lat, lon, ("y", "x"))
    for name, values in zip(("lat", "lon"), corners, strict=True):
        ds[f"{name}_bnds"] = (("y", "x", "nv"), values)
        ds[name].attrs["bounds"] = f"{name}_bnds"
    bounded = ga.grids.recognise(ds)
    assert "within the bounds 'lat_bnds'" in bounded.weights
    np.testing.assert_allclose(bounded.grid.weights, report.grid.weights, rtol=1e-9)
    flat = ga.grids.recognise(
        ds.stack(cell=("y", "x")).reset_index("cell", drop=True).transpose("cell", "nv")
    )
    assert flat.grid.kind == "cells"
    np.testing.assert_allclose(flat.grid.weights, report.grid.weights.ravel(), rtol=1e-9)
    ds["areacella"] = (("y", "x"), 1.02 * report.grid.weights * 6.371e6**2, {"units": "m2"})
    given = ga.grids.recognise(ds)
    np.testing.assert_allclose(given.grid.weights, 1.02 * report.grid.weights)
    assert "'areacella'" in given.weights
    assert ga.grids.recognise(ds, use_areas=False).grid == report.grid
    assert float(ga.xarray.weights(ds).sum()) == pytest.approx(given.grid.weights.sum())


def test_lists_of_points_of_a_region_need_more():
    lat, lon = fibonacci(2000)
    north = lat > 20
    refuses(
        points(lat[north], lon[north]),
        r"points of 'lat' and 'lon' cover a region: none lies within 1\d\d° of 87°S, .*areas=",
    )
    ocean = points(lat, lon).isel(cell=np.abs(lat) < 65)
    refuses(ocean, r"none lies within 2\d° of ")
    areas = np.full(north.sum(), 4 * np.pi / 2000)
    ds = points(lat[north], lon[north]).assign(cell_area=("cell", areas, {"units": "sr"}))
    assert ga.grids.from_xarray(ds) == ga.grids.points(lat[north], lon[north], areas=areas)


@pytest.mark.parametrize("empty", [{"lat": []}, {"lon": []}, {"lat": [], "lon": []}])
def test_data_sets_that_hold_nothing_are_refused(empty):
    refuses(axes(np.linspace(90, -90, 7), np.arange(0, 360, 30.0)).isel(empty), r"'l\w\w' holds no values")


def test_missing_coordinates_are_refused():
    lat = equal_steps(19)
    lat[3] = np.nan
    refuses(axes(lat, globe(36)), r"'lat' has 1 missing values, the first at index \(3,\)\. Fill them in")
    lat, lon = (c.reshape(20, 20) for c in fibonacci(400))
    lon[2, 5] = np.inf
    refuses(
        points(lat, lon, ("y", "x")), r"'lon' has 1 missing values, the first at index \(2, 5\).*ds.stack\("
    )


def test_repeated_and_unsorted_axes_are_refused():
    lat, lon = equal_steps(19), globe(36)
    refuses(
        axes(np.insert(lat, 4, lat[4]), lon), r"'lat' repeats 50 at indices 4 and 5.*drop_duplicates\('lat'\)"
    )
    refuses(
        axes(lat, np.insert(lon, 4, lon[4])), r"'lon' repeats 40 at indices 4 and 5.*drop_duplicates\('lon'\)"
    )
    swapped = lat[[0, 2, 1, *range(3, 19)]]
    refuses(axes(swapped, lon), r"'lat' is not sorted: 70 is followed by 80.*ds.sortby\('lat'\)")
    refuses(axes(lat, lon[::-1]), r"'lon' does not run eastward: 350 is followed by 340.*ds.sortby\('lon'\)")
    assert ga.grids.from_xarray(axes(swapped, lon).sortby("lat")).south_first  # the advice works


def test_a_closed_circle_is_refused_and_the_advice_works():
    ds = axes(equal_steps(19), np.linspace(0, 360, 37))
    refuses(ds, r"closes the circle: its last column, 360°, is its first.*ds.isel\(lon=slice\(None, -1\)\)")
    assert ga.grids.from_xarray(ds.isel(lon=slice(None, -1))) == ga.grids.equiangular(19, 36)
    refuses(axes(equal_steps(19), np.linspace(-180, 180, 37)), r"closes the circle")


def suggested_tolerance(ds, match):
    with pytest.raises(ValueError, match=match) as refusal:
        ga.grids.recognise(ds)
    return float(re.search(r"ga.grids.recognise\(ds, tolerance=([\d.]+)\)", str(refusal.value))[1])


def test_near_misses_are_refused_and_the_suggested_tolerance_accepts_them():
    grid = ga.grids.gaussian(32, 64)
    rows = axes(np.round(grid.lat_axis, 1), grid.lon_axis)
    columns = axes(grid.lat_axis, np.round(grid.lon_axis, 1))
    drifting = axes(grid.lat_axis, np.arange(64) * 5.63)
    o32 = ga.grids.reduced_gaussian("O32")
    for ds, match, expected in (
        (
            rows,
            r"fit no grid. The nearest is the Gaussian grid 32×64, but row 2 is at 74.7° instead of 74.74",
            grid,
        ),
        (columns, r"'lon' has no equal steps: .* is followed by .*, while most steps are 5.6", grid),
        (drifting, r"'lon' drifts 0.31° away from 64 equal steps", grid),
        (points(o32.lat + 0.1, o32.lon), r"nearly those of the reduced Gaussian grid O32.*up to 0.1°", o32),
    ):
        tolerance = suggested_tolerance(ds, match)
        assert ga.grids.from_xarray(ds, tolerance=tolerance) == expected
        refuses(ds, match, tolerance=0.9 * tolerance)


def test_irregular_rows_are_refused_with_the_general_lat_lon_grid_as_the_way_out():
    sine = np.degrees(np.arcsin(1 - (2 * np.arange(20) + 1) / 20))  # equal areas
    sine = np.concatenate(([88.0], sine[1:-1], [-88.0]))
    refuses(axes(sine, globe(36)), r"fit no grid.*ga.grids.latlon\(lat, lon\)")
    assert ga.grids.latlon(sine, globe(36)).shape == (20, 36)


def test_irregular_columns_are_refused():
    lon = globe(36)
    lon[7] += 4
    refuses(
        axes(equal_steps(19), lon), r"'lon' has no equal steps: \d+ is followed by .*For irregular columns"
    )


def test_a_tolerance_that_admits_several_grids_is_refused():
    refuses(
        axes(equal_steps(32), globe(64)), r"fit both the equiangular grid .* and the .* within", tolerance=0.4
    )


def test_three_rows_with_poles_are_one_rule_under_two_names():
    assert ga.grids.from_xarray(axes([90.0, 0.0, -90.0], globe(8))) == ga.grids.equiangular(3, 8)


def test_coordinates_that_cannot_be_told_apart_are_refused_and_can_be_named():
    lat, lon = equal_steps(19), globe(36)
    ds = axes(lat, lon, ("TLAT", "TLONG"))
    refuses(ds, r"no latitude found: .*there are \['TLAT', 'TLONG', 't'\].*ga.grids.recognise\(ds, lat='…'\)")
    assert ga.grids.from_xarray(ds, lat="TLAT", lon="TLONG") == ga.grids.equiangular(19, 36)
    refuses(ds, r"no variable 'TLATE' to be the latitude", lat="TLATE", lon="TLONG")
    two = xr.merge([axes(lat, lon).drop_vars("t"), axes(lat, lon, ("latitude", "longitude")).drop_vars("t")])
    refuses(two, r"2 variables could be the latitude: \['lat', 'latitude'\].*lat='lat'\)")
    one = ga.grids.from_xarray(two, lat="lat", lon="lon")
    assert one == ga.grids.equiangular(19, 36)
    refuses(axes(lat, lon).isel(lat=3), r"'lat' is a single number, 60: the data lie at one place")
    refuses(xr.Dataset(coords={"lat": lat, "lon": (("y", "x"), np.zeros((2, 2)))}), r"belong to no one grid")
    refuses(axes(np.linspace(0, 180, 19), lon), r"'lat' holds 180, beyond the poles")
    with pytest.raises(TypeError, match="expected an xarray Dataset or DataArray, got ndarray"):
        ga.grids.recognise(lat)


def test_a_flattened_lat_lon_grid_is_refused_and_the_advice_works():
    grid = ga.grids.equiangular(19, 36)
    ds = points(grid.lat.ravel(), grid.lon.ravel(), ("values",), t=("values", np.arange(19.0 * 36)))
    refuses(ds, r"grid of 19 × 36 points written as one list.*ds.coarsen\(values=36\)")
    whole = ds.coarsen(values=36).construct(values=("row", "column"))
    assert ga.grids.from_xarray(whole) == grid
    assert whole.t.shape == grid.shape


def test_repeated_points_are_refused():
    lat, lon = fibonacci(500)
    lat[7], lon[7] = lat[3], lon[3]
    refuses(points(lat, lon), r"1 of the 500 points .* repeat others.* the first is point 7, .*distinct\(")


def test_unusable_areas_are_refused_and_can_be_left_out():
    lat, lon = fibonacci(500)
    areas = np.full(500, 5.1e14 / 500)
    holes = np.where(np.arange(500) < 20, np.nan, areas)
    ds = points(lat, lon, areacello=("cell", holes))
    refuses(
        ds, r"20 cell areas in 'areacello' are missing or not positive, the first is nan.*use_areas=False"
    )
    ds = points(lat, lon, areacello=("cell", areas * 0.7, {"units": "m2"}))
    refuses(ds, r"sum to 3.57e\+14 m2, 70% of the globe.*use_areas=False")
    assert ga.grids.from_xarray(ds, use_areas=False).size == 500
    uneven = axes(equal_steps(19), globe(36))
    uneven["cell_area"] = (("lat", "lon"), 1 + 0.1 * np.random.default_rng(0).random((19, 36)))
    refuses(uneven, r"the areas in 'cell_area' vary by 0.\d+ along a row.*use_areas=False")


@pytest.mark.parametrize(
    ("attrs", "match"),
    [
        (
            {},
            r"'crs' declares a HEALPix grid without refinement_level or healpix_nside.*ga.grids.healpix",
        ),
        ({"refinement_level": 2, "indexing_scheme": "zuniq"}, r"HEALPix indices of scheme 'zuniq'"),
        (
            {"refinement_level": 5, "indexing_scheme": "nested"},
            r"but no dimensions have that size: \{'cell': 192\}",
        ),
    ],
)
def test_incomplete_healpix_declarations_are_refused(attrs, match):
    attrs = {"grid_mapping_name": "healpix"} | attrs
    refuses(xr.Dataset({"t": ("cell", np.zeros(192)), "crs": ((), 0, attrs)}), match)


def test_healpix_regions_and_orders_are_refused():
    attrs = {"grid_mapping_name": "healpix", "refinement_level": 2, "indexing_scheme": "nested"}

    def with_cells(cells):
        index = ("cell", cells, {"standard_name": "healpix_index"})
        return xr.Dataset({"t": ("cell", np.zeros(len(cells))), "crs": ((), 0, attrs)}, {"cell": index})

    refuses(with_cells(np.arange(40)), r"'cell' holds 40 of the 192 pixels.*a region.*areas=")
    shuffled = with_cells(np.roll(np.arange(192), 5))
    refuses(shuffled, r"the pixels of 'cell' are not in nested order.*ds.sortby\('cell'\)")
    assert ga.grids.from_xarray(shuffled.sortby("cell")) == ga.grids.healpix(4)


# --- cost -------------------------------------------------------------------------------------------


def test_a_quarter_degree_file_is_recognised_in_well_under_a_second():
    ds = axes(equal_steps(721), globe(1440))
    ga.grids.recognise(ds)
    start = time.perf_counter()
    ga.grids.recognise(ds)
    assert time.perf_counter() - start < 1.0


def test_a_million_points_do_not_hang():
    """Without the Voronoi areas, which are computed when they are first asked for."""
    lat, lon = fibonacci(1_000_000)
    start = time.perf_counter()
    assert ga.grids.from_xarray(points(lat, lon)).size == 1_000_000
    assert time.perf_counter() - start < 20


def test_grids_load_no_xarray_until_they_meet_it():
    program = "import sys, geoattn.grids; print('xarray' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("shift", [0, 180], ids=["from 0 to 2π", "from −π to π"])
@pytest.mark.parametrize("kind", ["axes", "points"])
def test_radians_that_nothing_states_are_refused_by_a_call_that_works(kind, shift):
    if kind == "axes":
        ds = axes(np.radians(np.linspace(-90, 90, 37)), np.radians(np.arange(0, 360, 5.0) - shift))
        names = ("lat", "lon")
    else:
        lat, lon = fibonacci(300)
        ds = points(np.radians(lat), np.radians((lon + shift) % 360 - shift))
        names = [name for name in ds.coords if name.startswith("l")]
    refuses(ds, r"the globe in radians, which nothing says.*attrs\['units'\].*= 'radian'")
    for name in names:
        ds[name].attrs["units"] = "radian"
    assert ga.grids.from_xarray(ds).weights.sum() == pytest.approx(4 * np.pi)


def curvilinear(columns_again=0, fold=False):
    """Rows that bend, so that no two axes give the points; columns and a row of the fold repeated."""
    base = ga.grids.equiangular(20, 40, poles=False)
    lat, lon = np.clip(base.lat + 2 * np.sin(np.radians(base.lon)), -89, 89), base.lon
    if fold:  # another row that holds the last one's points in reverse, as NEMO's grids do
        lat, lon = (np.concatenate([x, x[-1:, ::-1]]) for x in (lat, lon))
    lat, lon = (np.concatenate([x, x[:, :columns_again]], axis=1) for x in (lat, lon))
    coords = {"nav_lat": (("y", "x"), lat), "nav_lon": (("y", "x"), lon)}
    return xr.Dataset({"sst": (("y", "x"), np.arange(lat.size, dtype=float).reshape(lat.shape))}, coords)


def test_repeated_columns_count_once():
    ds = curvilinear(columns_again=2)
    report = ga.grids.recognise(ds)
    assert report.grid.shape == (20, 42)
    assert "40 points that repeat others count once" in report.weights
    assert (report.grid.weights == 0).sum() == 40
    assert (report.grid.weights[1:-1, [0, -1]] == 0).all()  # where neighbors lack on one side


def test_a_fold_without_cells_is_refused_by_a_call_that_works():
    """The last row again in reverse, around a pole: no mesh folds so."""
    ds = curvilinear(fold=True)
    with pytest.raises(ValueError, match="do not close around their points") as refusal:
        ga.grids.recognise(ds)
    assert "ds.stack(point=('y', 'x')).isel(point=ga.grids.distinct(" in refusal.value.__notes__[-1]
    kept = ds.stack(point=("y", "x")).isel(point=ga.grids.distinct(ds["nav_lat"], ds["nav_lon"]))
    assert ga.grids.from_xarray(kept).weights == pytest.approx(ga.grids.from_xarray(curvilinear()).weights)


def test_one_column_is_taken_for_the_mean_around_the_circle_with_a_warning():
    ds = ga.xarray.coordinates(ga.grids.equiangular(13, 24))
    with pytest.warns(UserWarning, match="has one column, 30°: it is taken for the mean around the circle"):
        assert ga.grids.from_xarray(ds.isel(longitude=[2])).shape == (13, 1)
