"""What grids and their recognition refuse: each remedy that a message names is carried out."""

import numpy as np
import pytest
import torch
import xarray as xr

import geoattn as ga
from geoattn._registry import Registry
from geoattn.grids import recognisers, voronoi

LAT, LON = np.linspace(90, -90, 19), np.arange(0, 360, 10.0)
GRID = ga.grids.equiangular(19, 36)


def axes(lat=LAT, lon=LON, names=("lat", "lon"), dims=None):
    """A data set with one field; other ``dims`` than the names have no index."""
    dims = dims or names
    t = np.arange(float(len(lat) * len(lon))).reshape(len(lat), len(lon))
    return xr.Dataset({"t": (dims, t)}, {names[0]: (dims[0], lat), names[1]: (dims[1], lon)})


def repeated(ds):
    """The same with coordinates that repeat their axis along the other."""
    lat, lon = np.meshgrid(ds["lat"], ds["lon"], indexing="ij")
    return xr.Dataset(
        {"t": (("y", "x"), ds["t"].values)}, {"lat": (("y", "x"), lat), "lon": (("y", "x"), lon)}
    )


def points(lat, lon, dims=("cell",), **variables):
    return xr.Dataset(
        {"t": (dims, np.arange(float(np.size(lat))).reshape(np.shape(lat))), **variables},
        {"lat": (dims, lat), "lon": (dims, lon)},
    )


def fibonacci(n):
    i = np.arange(n) + 0.5
    return np.degrees(np.arcsin(1 - 2 * i / n)), np.degrees(np.pi * (1 + 5**0.5) * i) % 360


def every_point(ds):
    """Latitudes and longitudes of all points of two axes without the poles, and their steradians."""
    lat, lon = (x.ravel() for x in np.meshgrid(ds["lat"], ds["lon"], indexing="ij"))
    return {"lat": lat, "lon": lon, "areas": np.cos(np.radians(lat)) * 0.01 + 1e-4}


# ---------------------------------------------------------------- axes


@pytest.mark.parametrize("dims", [("lat", "lon"), ("y", "x")], ids=["indices", "no indices"])
def test_unsorted_and_repeated_axes(refused_by, dims):
    for stored in (lambda ds: ds, repeated):
        rows = stored(axes(dims=dims).isel({dims[0]: [0, 2, 1, *range(3, 19)]}))
        with refused_by("grids/from_axes.py", "latitude {lats.name} is not sorted") as said:
            ga.grids.recognise(rows)
        fixed = said.run("ds.sortby(", ds=rows)
        assert ga.grids.from_xarray(fixed) == ga.grids.equiangular(19, 36, south_first=True)
        columns = stored(axes(dims=dims).isel({dims[1]: np.roll(np.arange(36)[::-1], 5)}))
        with refused_by("grids/from_axes.py", "does not run eastward") as said:
            ga.grids.recognise(columns)
        fixed = said.run("ds.sortby(", ds=columns)
        assert ga.grids.from_xarray(fixed) == GRID
        rows = stored(axes(dims=dims).isel({dims[0]: [0, 1, 1, *range(2, 19)]}))
        with refused_by("grids/from_axes.py", "latitude {lats.name} repeats") as said:
            ga.grids.recognise(rows)
        assert ga.grids.from_xarray(said.run("ds.", ds=rows)) == GRID
        columns = stored(axes(dims=dims).isel({dims[1]: [0, 1, 1, 1, *range(2, 36)]}))
        with refused_by("grids/from_axes.py", "longitude {lons.name} repeats") as said:
            ga.grids.recognise(columns)
        assert ga.grids.from_xarray(said.run("ds.", ds=columns)) == GRID


def test_columns_that_repeat_up_to_rounding(refused_by):
    ds = axes(lon=np.insert(LON, 5, LON[5] - 1e-4))
    with refused_by("grids/from_axes.py", "longitude {lons.name} repeats") as said:
        ga.grids.recognise(ds)
    assert ga.grids.from_xarray(said.run("ds.", ds=ds)) == GRID


def test_columns_that_close_the_circle(refused_by):
    ds = axes(lon=np.linspace(0, 360, 37))
    with refused_by("grids/from_axes.py", "closes the circle: its last") as said:
        ga.grids.recognise(ds)
    assert ga.grids.from_xarray(said.run("ds.isel(", ds=ds)) == GRID


@pytest.mark.parametrize("again", [1, 2, 5])
@pytest.mark.parametrize("start", [0, -180])
def test_columns_that_come_again(refused_by, again, start):
    ds = axes(lon=start + 10.0 * np.arange(36 + again))
    with refused_by("grids/from_axes.py", "closes the circle: its last") as said:
        ga.grids.recognise(ds)
    assert ga.grids.from_xarray(said.run("ds.isel(", ds=ds)).shape == (19, 36)


def test_coordinates_that_are_text(refused_by):
    for name in ("lat", "lon"):
        ds = axes().assign_coords({name: (name, axes()[name].values.astype(str))})
        with refused_by("grids/coordinates.py", "holds {variable.dtype}, not numbers") as said:
            ga.grids.recognise(ds)
        assert ga.grids.from_xarray(said.run("ds = ", ds=ds)) == GRID


def test_axes_of_a_region(refused_by):
    rows, columns = axes(lat=LAT[2:3]), axes(lat=LAT[2:3], lon=LON[:9])
    with refused_by("grids/from_axes.py", "latitude {lats.name} covers a region") as said:
        ga.grids.recognise(rows)
    assert said.run("ga.grids.points(", "areas", **every_point(rows)).size == 36
    with refused_by("grids/from_axes.py", "longitude {lons.name} covers a region") as said:
        ga.grids.recognise(columns)
    assert said.run("ga.grids.points(", "areas", **every_point(columns)).size == 9


def test_areas_and_bounds_of_a_region(refused_by):
    ds = axes(lat=LAT[2:6], lon=LON[:9])
    cells = ga.grids.regional(LAT[2:6], LON[:9]).weights
    ds["areacella"] = (("lat", "lon"), cells * 6.371e6**2, {"units": "hectares"})
    with refused_by("grids/coordinates.py", "state those that they are in") as said:
        ga.grids.recognise(ds)
    stated = ds.copy()
    said.run("ds['areacella']", ds=stated)
    np.testing.assert_allclose(ga.grids.from_xarray(stated).weights, cells)
    assert said.run("ga.grids.recognise(", ds=ds).grid == ga.grids.regional(LAT[2:6], LON[:9])
    ds["areacella"] = 1.5 * stated["areacella"]
    ds["areacella"].attrs["units"] = "m2"
    with refused_by("grids/from_region.py", "in the file; to go by the points") as said:
        ga.grids.recognise(ds)
    assert said.run("ga.grids.recognise(", ds=ds).grid == ga.grids.regional(LAT[2:6], LON[:9])


def test_axes_that_fit_nearly(refused_by):
    gaussian = ga.grids.gaussian(32, 64)
    lat, lon = gaussian.lat_axis, gaussian.lon_axis
    rows = axes(np.round(lat, 1), lon)
    with refused_by("grids/from_axes.py", "fit no grid. The nearest is the") as said:
        ga.grids.recognise(rows)
    assert said.run("ga.grids.recognise(", ds=rows).grid == gaussian
    assert said.run("ga.grids.latlon(", lat=rows["lat"], lon=rows["lon"]).shape == (32, 64)
    columns = axes(lat, np.round(lon, 1))
    with refused_by("grids/from_axes.py", "has no equal steps") as said:
        ga.grids.recognise(columns)
    assert said.run("ga.grids.recognise(", ds=columns).grid == gaussian
    assert said.run("ga.grids.points(", "areas", **every_point(columns)).size == 32 * 64
    drifting = axes(lat, np.arange(64) * 5.63)
    with refused_by("grids/from_axes.py", "drifts {deviation}° away from") as said:
        ga.grids.recognise(drifting)
    assert said.run("ga.grids.recognise(", ds=drifting).grid == gaussian
    assert said.run("ga.grids.points(", "areas", **every_point(drifting)).size == 32 * 64
    ds = axes(90 - (np.arange(32) + 0.5) * 180 / 32, lon)
    with refused_by("grids/from_axes.py", "fit both the") as said:
        ga.grids.recognise(ds, tolerance=0.4)
    assert said.run("ga.grids.recognise(", "0.001", ds=ds).grid.shape == (32, 64)


def test_areas_that_cannot_be_used(refused_by):
    ds = axes()
    ds["cell_area"] = (("lat", "lon"), 1 + 0.1 * np.random.default_rng(0).random((19, 36)))
    with refused_by("grids/from_axes.py", "vary by {spread} along a row") as said:
        ga.grids.recognise(ds)
    assert said.run("ga.grids.recognise(", ds=ds).grid == GRID
    lat, lon = fibonacci(200)
    holes = points(lat, lon, areacello=("cell", np.where(np.arange(200) < 20, np.nan, 1.0)))
    with refused_by("grids/coordinates.py", "cell areas in {name} are missing or not positive") as said:
        ga.grids.recognise(holes)
    assert said.run("ga.grids.recognise(", ds=holes).grid.size == 200
    small = points(lat, lon, areacello=("cell", np.full(200, 1e12), {"units": "m2"}))
    with refused_by("grids/coordinates.py", "the cell areas in {name} sum to") as said:
        ga.grids.recognise(small)
    assert said.run("ga.grids.recognise(", ds=small).grid.size == 200


# ---------------------------------------------------------------- coordinates


def test_coordinates_are_named(refused_by):
    ds = axes(names=("TLAT", "TLONG"))
    with refused_by("grids/coordinates.py", ". Say which it is: ga.grids.recognise") as said:
        ga.grids.recognise(ds, lon="TLONG")
    begin = said.message.index("ga.grids.recognise(")
    assert said.message[begin:] == "ga.grids.recognise(ds, lat='…')"  # the longitude is named already
    said.says("ga.grids.recognise(ds, lat='…')")
    assert ga.grids.recognise(ds, lat="TLAT", lon="TLONG").grid == GRID
    bare = axes().rename(lat="y", lon="x").drop_vars(["y", "x"])
    for missing in (bare, bare.rename(y="latitude"), axes().drop_vars("lat"), bare.assign_coords(level=5.0)):
        with refused_by("grids/coordinates.py", "and none that could be meant: the coordinates are") as said:
            ga.grids.recognise(missing)
        whole = said.run("ds = ds", ds=missing, grid=GRID)
        assert ga.grids.recognise(whole).grid == GRID
        filled = said.message[said.message.rindex("ds.assign_coords(") :]
        said.says(f"ds = {filled}")
        filled = filled.replace("[…]", "LAT", 1).replace("[…]", "LON", 1)
        given = eval(filled, {"ds": missing, "LAT": LAT, "LON": LON})
        assert ga.grids.recognise(given).grid == GRID
    two = xr.merge([axes().drop_vars("t"), axes(names=("latitude", "longitude"))])
    with refused_by("grids/coordinates.py", "variables could be the {axis}") as said:
        ga.grids.recognise(two, lon="lon")
    said.says("ga.grids.recognise(ds, lat='lat')")
    assert ga.grids.recognise(two, lat="lat", lon="lon").grid == GRID
    assert ga.grids.recognise(said.run("ds['", "t", ds=two)).grid == GRID
    mixed = axes().assign_coords(XLAT=(("y", "x"), np.zeros((2, 2))))
    with refused_by("grids/coordinates.py", "they belong to no one grid") as said:
        ga.grids.recognise(mixed, lat="XLAT", lon="lon")
    assert said.run("ga.grids.recognise(", "lat", "lon", ds=mixed).grid == GRID
    swapped = axes(LON[:19], LON, ("a", "b")).assign_coords(lat=("a", LAT))
    with refused_by("grids/recognition.py", "beyond the poles") as said:
        ga.grids.recognise(swapped, lat="a", lon="b")
    assert said.run("ga.grids.recognise(", "lat", "b", ds=swapped).grid == GRID
    declared = xr.Dataset({"t": ("cell", np.zeros(192), {"grid_mapping": "crs"})})
    declared["crs"] = (
        (), 0, {"grid_mapping_name": "healpix", "refinement_level": 2, "indexing_scheme": "nested"}
    )  # fmt: skip
    with refused_by("grids/coordinates.py", "and the grid mapping {self.left_behind}") as said:
        ga.grids.recognise(declared["t"])
    assert said.run("ga.grids.recognise(", ds=declared).grid == ga.grids.healpix(4)


def test_coordinates_along_time(refused_by):
    bent = np.clip(GRID.lat[1:-1] + 2 * np.sin(np.radians(GRID.lon[1:-1])), -89, 89)
    lat, lon = (np.stack([x] * 3) for x in (bent, GRID.lon[1:-1]))
    ds = points(lat, lon, ("time", "y", "x"))
    with refused_by("grids/coordinates.py", "has the dimensions {coordinate.dims}") as said:
        ga.grids.recognise(ds)
    fixed = said.run("ds.assign_coords(", ds=ds)
    fixed = fixed.assign_coords(lon=ds["lon"].isel(time=0))  # the other likewise
    assert ga.grids.from_xarray(fixed).size == 17 * 36
    ds["lat"] = ds["lat"] * xr.DataArray([1.0, 0.99, 0.98], dims="time")
    with refused_by("grids/coordinates.py", "has the dimensions {coordinate.dims}") as said:
        ga.grids.recognise(ds)
    assert ga.grids.from_xarray(said.run("ds.isel(", ds=ds)).size == 17 * 36


@pytest.mark.parametrize("shape", [(200,), (10, 20)])
@pytest.mark.parametrize("name", ["lat", "lon"])
def test_points_that_are_missing(refused_by, shape, name):
    lat, lon = (x.reshape(shape) for x in fibonacci(200))
    ds = points(lat, lon, ("y", "x")[-len(shape) :])
    ds[name][(3,) * len(shape)] = np.nan
    with refused_by("grids/coordinates.py", "missing values, the first at index") as said:
        ga.grids.recognise(ds)
    fixed = said.run("ds.", ds=ds)
    assert ga.grids.from_xarray(fixed).size == fixed["t"].size == 199


def test_coordinates_in_radians(refused_by):
    lat, lon = fibonacci(200)
    ds = points(np.radians(lat), np.radians(lon))
    with refused_by("grids/coordinates.py", "the globe in radians, which nothing says") as said:
        ga.grids.recognise(ds)
    assert ga.grids.from_xarray(said.run("ds['lat']", ds=ds)).size == 200
    for name, stated in (("lon", False), ("lon", True), ("lat", True)):
        other = {"lat": "lon", "lon": "lat"}[name]
        ds = axes().assign_coords({name: np.radians(axes()[name])})
        if stated:
            ds = ds.assign_coords({other: np.radians(ds[other])})
            ds[other].attrs["units"] = "radian"
        with refused_by("grids/coordinates.py", "the globe in radians, which nothing says") as one:
            ga.grids.recognise(ds)
        assert ga.grids.from_xarray(one.run(f"ds['{name}']", ds=ds)) == GRID
        one.says("ga.grids.points(lat, lon, areas=…)")
    region = said.run(
        "ga.grids.points(", "areas", lat=np.radians(lat), lon=np.radians(lon), areas=np.ones(200)
    )
    assert region.size == 200


# ---------------------------------------------------------------- points


@pytest.mark.parametrize("dims", [("cell",), ("y", "x")])
@pytest.mark.parametrize("in_radians", [False, True])
def test_points_that_repeat_others(refused_by, dims, in_radians):
    lat, lon = fibonacci(200)
    lat[7], lon[7], lat[0], lat[1] = lat[3], lon[3], 90.0, 90.0  # a pole has many longitudes
    shape = (200,) if len(dims) == 1 else (10, 20)
    ds = points(lat.reshape(shape), lon.reshape(shape), dims)
    if in_radians:
        for name in ("lat", "lon"):
            ds[name] = np.radians(ds[name]).assign_attrs(units="radian")
    if len(dims) == 2:
        ds["lon"] = ds["lon"].T
    with refused_by("grids/from_points.py", "repeat others; the first is point") as said:
        ga.grids.recognise(ds)
    fixed = said.run("ds.", ds=ds)
    assert ga.grids.from_xarray(fixed).size == fixed["t"].size == 198


def test_points_that_repeat_others_where_cells_are_none(refused_by):
    """The last row of rows around a pole, again in reverse: no mesh folds so."""
    bent = np.clip(GRID.lat[1:-1] + 2 * np.sin(np.radians(GRID.lon[1:-1])), -89, 89)
    whole = points(bent, GRID.lon[1:-1], ("y", "x"))
    ds = xr.concat([whole, whole.isel(y=[-1], x=slice(None, None, -1))], "y")
    with refused_by("grids/from_points.py", "points without such cells, each once") as said:
        ga.grids.recognise(ds)
    fixed = said.run("ds.", ds=ds)
    np.testing.assert_allclose(ga.grids.from_xarray(fixed).weights, ga.grids.from_xarray(whole).weights)


def test_points_of_a_region(refused_by):
    lat, lon = (x[:60] for x in fibonacci(200))
    areas = np.full(60, 4 * np.pi / 200)
    with refused_by("grids/from_points.py", "cover a region: {found}. For a region give the area") as said:
        ga.grids.recognise(points(lat, lon))
    assert said.run("ga.grids.points(", "areas", lat=lat, lon=lon, areas=areas).size == 60
    with refused_by("grids/points.py", "would reach around the world") as said:
        ga.grids.points(lat, lon)
    assert said.run("ga.grids.points(", "areas", lat=lat, lon=lon, areas=areas).size == 60
    said.says('areas="voronoi"')
    assert ga.grids.points(lat, lon, areas="voronoi").weights.sum() == pytest.approx(4 * np.pi)


def test_points_that_are_nearly_those_of_a_grid(refused_by):
    grid = ga.grids.healpix(4)
    ds = points(grid.lat + 0.1 * (abs(grid.lat) < 80), grid.lon)
    with refused_by("grids/from_points.py", "are nearly those of the") as said:
        ga.grids.recognise(ds)
    assert said.run("ga.grids.recognise(", ds=ds).grid == grid
    assert said.run("ga.grids.points(", lat=ds["lat"], lon=ds["lon"]).size == 192


def test_points_of_axes_written_as_one_list(refused_by):
    ds = points(GRID.lat.ravel(), GRID.lon.ravel())
    with refused_by("grids/from_points.py", "points written as one list") as said:
        ga.grids.recognise(ds)
    whole = said.run("ds.coarsen(", ds=ds)
    assert ga.grids.from_xarray(whole) == GRID
    assert whole["t"].shape == GRID.shape


def test_lists_of_points(refused_by, monkeypatch):
    inner = slice(1, -1)
    lat, lon = GRID.lat[inner], GRID.lon[inner]
    for given in ((lat, lon), (lat[:, 0], lon[0])):
        with refused_by("grids/points.py", "lat and lon must be equally long lists of points") as said:
            ga.grids.points(*given)
        made = said.run("ga.grids.", lat=given[0], lon=given[1])
        assert made.size == 17 * 36
    lat, lon = fibonacci(50)
    lat[7], lon[7] = lat[3], lon[3]
    with refused_by("grids/points.py", "are the same point") as said:
        ga.grids.points(lat, lon)
    keep = said.run("keep = ", lat=lat, lon=lon)
    assert said.run("ga.grids.points(", lat=lat, lon=lon, keep=keep).size == 49
    circle = np.arange(0, 360, 30.0)
    with refused_by("grids/voronoi.py", "points lie in one plane") as said:
        ga.grids.points(np.zeros(12), circle, areas="voronoi")
    assert said.run("ga.grids.points(", "np.ones(12)", lat=np.zeros(12), lon=circle).size == 12
    lat, lon = fibonacci(50)
    # which points the hull loses differs between builds of Qhull
    monkeypatch.setattr(voronoi, "cell_areas", lambda xyz, *_: np.where(np.arange(len(xyz)) == 7, 0.0, 1.0))
    with refused_by("grids/voronoi.py", "is lost in round-off") as said:
        ga.grids.points(lat, lon)
    monkeypatch.undo()
    assert said.run("ga.grids.points(", "np.ones(50)", lat=lat, lon=lon).size == 50
    keep = np.delete(np.arange(50), 7)
    assert ga.grids.points(lat[keep], lon[keep]).size == 49


def test_columns_of_latlon(refused_by):
    with refused_by("grids/latlon.py", "eastward around the whole globe") as said:
        ga.grids.latlon(LAT, LON[:9])
    lat, lon = (x.ravel() for x in np.meshgrid(LAT, LON[:9], indexing="ij"))
    assert (
        said.run("ga.grids.points(", "np.ones(171)", lat=lat + 1e-3 * np.sign(-lat) * lon, lon=lon).size
        == 171
    )
    for lon in (np.linspace(0, 360, 37), LON[::-1], np.roll(LON[::-1], 5)):
        with refused_by("grids/latlon.py", "eastward around the whole globe") as said:
            ga.grids.latlon(LAT, lon)
        assert ga.grids.latlon(LAT, said.run("lon[", lon=lon)).shape == GRID.shape


# ---------------------------------------------------------------- declarations, names, numbers, recognisers


def pixels(cells, **attrs):
    crs = ((), 0, {"grid_mapping_name": "healpix", **attrs})
    index = ("cell", cells, {"standard_name": "healpix_index"})
    return xr.Dataset({"t": ("cell", np.asarray(cells, float)), "crs": crs}, {"pixel": index})


def test_declarations_of_healpix(refused_by):
    nested = {"refinement_level": 2, "indexing_scheme": "nested"}
    with refused_by("grids/from_declaration.py", "without refinement_level or healpix_nside") as said:
        ga.grids.recognise(pixels(np.arange(192)))
    assert said.run("ga.grids.healpix(", nside=4, order="nested") == ga.grids.healpix(4)
    with refused_by("grids/from_declaration.py", "declares HEALPix indices of scheme") as said:
        ga.grids.recognise(pixels(np.arange(192), **nested | {"indexing_scheme": "zuniq"}))
    assert said.run("ga.grids.healpix(") == ga.grids.healpix(4)
    shuffled = pixels(np.roll(np.arange(192), 5), **nested)
    with refused_by("grids/from_declaration.py", "the pixels of {name} are not in") as said:
        ga.grids.recognise(shuffled)
    fixed = said.run("ds.sortby(", ds=shuffled)
    assert ga.grids.from_xarray(fixed) == ga.grids.healpix(4)
    assert np.array_equal(fixed["t"], np.arange(192))
    with refused_by("grids/from_declaration.py", "of the {grid.size} pixels of") as said:
        ga.grids.recognise(pixels(np.arange(40), **nested))
    grid = ga.grids.healpix(4)
    areas = grid.weights[:40]
    assert said.run("ga.grids.points(", "areas", lat=grid.lat[:40], lon=grid.lon[:40], areas=areas).size == 40
    square = xr.Dataset({"t": (("a", "b"), np.zeros((192, 192)))}).assign(crs=pixels([0], **nested)["crs"])
    with refused_by("grids/from_declaration.py", "Say which are the pixels by a coordinate") as said:
        ga.grids.recognise(square)
    said.says("standard_name 'healpix_index'")
    index = ("b", np.arange(192), {"standard_name": "healpix_index"})
    assert ga.grids.recognise(square.assign_coords(pixel=index)).dims == ("b",)
    with refused_by("grids/healpix.py", "nested order needs nside to be a power of two") as said:
        ga.grids.healpix(6)
    said.says("order='ring'")
    assert ga.grids.healpix(6, order="ring").size == 432


def test_names_of_the_catalogue(refused_by):
    for wrong in ("era5-0.3", "xyzzy"):
        with refused_by("grids/catalogue.py", "the catalogue has no grid named") as said:
            ga.grids.named(wrong)
        assert "era5-0.25" in str(said.run("ga.grids.catalogue()"))


def test_numbers_that_carry_gradients(refused_by):
    radius = torch.tensor(30.0, requires_grad=True)
    with refused_by("grids/checks.py", "they would be lost: pass") as said:
        ga.geodesic(GRID, radius=radius)
    assert ga.geodesic(GRID, radius=said.run("radius.item()", radius=radius)).radius == 30


def test_recognisers(refused_by, monkeypatch):
    registry = Registry("recogniser", {}, (), recognisers._checked)
    monkeypatch.setattr(recognisers, "RECOGNISERS", registry)
    with refused_by("grids/recognisers.py", "a recogniser is called as f(ds") as said:
        registry.register("none", 3)
    said.says("f(ds, tolerance=…, use_areas=…)")
    whole = ga.grids.recognise(axes())
    registry.register("one", lambda ds, tolerance, use_areas: whole)
    assert ga.grids.recognise(axes()) == whole
    registry.register("two", lambda ds, *, tolerance, use_areas: whole)
    with refused_by("grids/recognisers.py", "is claimed by the recognisers") as said:
        ga.grids.recognise(axes())
    assert said.run("ga.grids.recognise(", "lat", "lon", ds=axes()).grid == GRID
