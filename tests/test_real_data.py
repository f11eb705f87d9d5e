"""What holds on made-up fields holds on real ones: ERA5's members, an ocean's mesh, the land of the Earth."""

import numpy as np
import pytest
from real_fields import real_data, real_field

import geoattn as ga

xr = pytest.importorskip("xarray", reason="the bridge needs xarray")
pytest.importorskip("netCDF4", reason="the files are netCDF")

G, Regridder, metrics = ga.grids, ga.xarray.Regridder, ga.xarray.metrics


@pytest.fixture(scope="module")
def era5():
    ds = xr.open_dataset(real_field("era5")).load()
    ds = ds.rename(number="realization", isobaricInhPa="level").drop_vars(["valid_time", "step"])
    return ds.assign_coords(time=("time", ds.time.values))


@pytest.fixture(scope="module")
def orca2():
    return xr.open_dataset(real_field("orca2"), decode_times=False).load()


@pytest.fixture(scope="module")
def land():
    """The share of land in boxes of a quarter degree, from 90°N and 180°W."""
    return np.load(real_field("land")).astype(float)


def test_era5_is_recognised_and_its_members_scored(era5):
    grid = G.from_xarray(era5)
    assert grid == G.equiangular(61, 120)
    truth, members = era5.isel(realization=0, drop=True), era5.isel(realization=slice(1, None))
    forecast = members.expand_dims(prediction_timedelta=[np.timedelta64(0, "ns")])
    found = metrics.crps(forecast, truth).t.values.ravel()
    t, x = members.t.values, truth.t.values
    n = len(t)
    skill = np.abs(t - x).mean(0)
    pairs = sum(np.abs(t[i] - t).sum(0) for i in range(n)) / (n * (n - 1))
    expected = ((skill - pairs / 2) * grid.shares).sum((-2, -1)).mean(0)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert ((found > 0.01) & (found < 1.0)).all()  # K


def test_glosea4s_members_are_recognised_averaged_attended_to_and_scored():
    ds = xr.open_dataset(real_field("glosea4")).load()
    grid = G.from_xarray(ds)
    assert grid == G.equiangular(145, 192, south_first=True)
    field = ds.surface_temperature.values.astype(float)
    assert ((field > 180) & (field < 340)).all()  # K
    assert 285 < grid.mean(field[0, 0]) < 295
    one = ds.isel(realization=0, drop=True)
    schema = ga.xarray.Schema.of(one)
    found = ga.xarray.statistics(one, schema).to_dataset()
    mean = grid.mean(field[0]).mean()
    assert found.state_mean.item() == pytest.approx(mean, rel=1e-6)
    deviation = np.sqrt(grid.mean((field[0] - mean) ** 2).mean())
    assert found.state_std.item() == pytest.approx(deviation, rel=1e-5)
    values = ga.xarray.to_tensor(one.isel(time=slice(1)), schema).movedim(1, -1)[..., None]
    smooth = ga.attention(0 * values, values, values, ga.geodesic(grid, radius=2.6))
    assert values.min() <= smooth.min() <= smooth.max() <= values.max()
    assert grid.mean(smooth[0, ..., 0, 0].double()) == pytest.approx(grid.mean(field[0, 0]), abs=0.5)
    truth, members = one, ds.isel(realization=slice(1, None))
    forecast = members.expand_dims(prediction_timedelta=[np.timedelta64(0, "ns")])
    x, t = truth.surface_temperature.values, members.surface_temperature.values
    n = len(t)
    pairs = sum(np.abs(t[i] - t).sum(0) for i in range(n)) / (n * (n - 1))
    expected = grid.mean((np.abs(t - x).mean(0) - pairs / 2).astype(float)).mean()
    assert metrics.crps(forecast, truth).surface_temperature.item() == pytest.approx(expected, rel=1e-5)
    assert 0.05 < expected < 2.0


@pytest.mark.parametrize("target", ["wb2-64x32", "hpx16", "o32"])
def test_integrals_of_era5_stay(era5, target):
    grid = {"hpx16": G.healpix(16), "o32": G.reduced_gaussian("O32")}.get(target) or G.named(target)
    operator = Regridder(G.from_xarray(era5), grid, "conservative")
    for name in ("z", "t"):
        field = era5[name].values[:, 0]
        out = operator(field)
        rank = tuple(range(-len(grid.shape), 0))
        kept = (out * grid.cell_areas).sum(rank)
        np.testing.assert_allclose(kept, (field * operator.source.cell_areas).sum((-2, -1)), rtol=1e-12)
        assert field.min() <= out.min() <= out.max() <= field.max()
        near = Regridder(operator.source, grid, "interpolation")(field)
        assert np.abs(out - near).mean() < 0.2 * field.std()


def test_the_sea_of_orca2_moves_to_a_globe_and_its_heat_stays(orca2):
    points = orca2.stack(cell=("dim0", "dim1"))
    points = points.isel(cell=G.distinct(points.nav_lat, points.nav_lon))
    points = points.isel(cell=np.flatnonzero(np.isfinite(points.votemper.values)))
    corners = tuple(points[f"{name}_bnds"].transpose("cell", ...).values for name in ("nav_lat", "nav_lon"))
    grid = G.regional(points.nav_lat.values.astype(float), points.nav_lon.values.astype(float), corners)
    found = G.recognise(points)  # whose bounds have the points last
    assert "within the bounds 'nav_lat_bnds'" in found.weights
    np.testing.assert_allclose(found.grid.weights, grid.weights, rtol=1e-12)
    assert 0.65 < grid.weights.sum() / (4 * np.pi) < 0.72  # of the Earth is sea
    globe = G.equiangular(90, 180, poles=False)
    operator = Regridder(grid, globe, "conservative")
    heat = points.votemper.values.astype(float)
    out = operator(heat, least=0.0).ravel()
    total = np.nansum(out * operator.weights.covered * globe.cell_areas.ravel())
    assert total == pytest.approx((heat * grid.cell_areas).sum(), rel=1e-12)
    out = operator(heat)
    assert heat.min() <= np.nanmin(out) <= np.nanmax(out) <= heat.max()
    tropics, poles = (np.nanmean(out[rows]) for rows in (abs(globe.lat_axis) < 10, abs(globe.lat_axis) > 65))
    assert tropics > 24 > 5 > poles
    back = Regridder(globe, grid, "conservative")(out, "renormalise", least=0.0)
    assert np.nanstd(back - heat) < 1.0


def test_orca2_is_taken_as_its_file_has_it(orca2):
    """All in two dimensions: cells over land that are none, and the row that folds, count nothing."""
    found = G.recognise(orca2)
    grid, sea = found.grid, np.isfinite(orca2.votemper.values)
    assert grid.shape == (148, 180)
    assert "115 points that repeat others count once; 639 points without a value have no cells" in str(found)
    assert 0.65 < grid.weights[sea].sum() / (4 * np.pi) < 0.72  # of the Earth is sea
    assert (grid.weights[sea & ~grid.repeats] > 0).all()
    assert not grid.bare.ravel()[ga.nearest(grid, k=9).to_csr().indices].any()
    temperature = orca2[["votemper", "nav_lat_bnds", "nav_lon_bnds"]]
    schema = ga.xarray.Schema.of(temperature, ["votemper"], masked={"votemper": "static"})
    back = ga.xarray.to_xarray(ga.xarray.to_tensor(orca2, schema), schema, orca2)
    xr.testing.assert_identical(back.votemper, orca2.votemper)
    globe = ga.xarray.regrid(
        temperature, G.equiangular(45, 90, poles=False), method="conservative", missing="renormalise"
    )
    assert globe.votemper.dims == ("latitude", "longitude")
    again = ga.xarray.regrid(globe, orca2, method="conservative", missing="renormalise").votemper
    assert again.dims == ("dim0", "dim1")
    there = grid.repeats & np.isfinite(again.values)
    assert there.sum() > 20
    places, values = grid.xyz[~grid.repeats], again.values[~grid.repeats]
    for xyz, value in zip(grid.xyz[there], again.values[there], strict=True):
        assert value == values[np.linalg.norm(places - xyz, axis=1).argmin()]


def test_the_land_of_the_earth(land):
    boxes = G.equiangular(720, 1440, poles=False, lon_start=-180 + 1 / 8)
    share = boxes.mean(land)
    assert share == pytest.approx(0.29, abs=0.01)
    target = G.equiangular(90, 180, poles=False)
    moved = Regridder(boxes, target, "conservative")(land)
    assert (moved * target.cell_areas).sum() == pytest.approx((land * boxes.cell_areas).sum(), rel=1e-12)
    mainland = (land > 0.5).astype(np.int8)
    classes = Regridder(boxes, target, "majority")(mainland)
    shares = Regridder(boxes, target, "conservative")(mainland.astype(float))
    clear = np.abs(shares - 0.5) > 1e-6
    np.testing.assert_array_equal(classes[clear], (shares > 0.5)[clear])
    places = {
        "Sahara": (23, 10, 1),
        "Amazon": (-5, -60, 1),
        "Pacific": (0, -150, 0),
        "Antarctica": (-85, 60, 1),
    }
    for lat, lon, expected in places.values():
        row, column = np.abs(target.lat_axis - lat).argmin(), np.abs(target.lon_axis - lon % 360).argmin()
        assert classes[row, column] == expected


def test_the_relief_of_the_earth_fits_its_land_and_is_ground_for_shallow_water(land):
    path = real_field("relief")
    heights = np.load(path).astype(float)
    boxes = G.equiangular(720, 1440, poles=False, lon_start=-180 + 1 / 8)
    assert heights.shape == land.shape
    assert (heights[land == 0] == 0).mean() > 0.98
    assert 700 < (boxes.mean(heights) / boxes.mean(land)) < 950  # metres: the mean of the land, with its ice
    from geoattn.tasks.shallow_water import ground_height

    grid = G.gaussian(48, 96)
    ground = ground_height(grid, str(path)).numpy()
    for lat, lon, low, high in (
        (33, 88, 4000, 5500),
        (-85, 90, 2000, 4000),
        (0, -150, -1, 1),
        (-20, -67, 2500, 4500),
    ):
        row, column = np.abs(grid.lat_axis - lat).argmin(), np.abs(grid.lon_axis - lon % 360).argmin()
        assert low < ground[row, column] < high, (lat, lon)


def test_what_is_shipped_says_whose_it_is():
    told = real_data.__doc__
    for name, shipped in real_data.SHIPPED.items():
        assert f"``{name}``" in told
        assert f"{shipped.package} {shipped.version}" in told
    for licence in ("Copernicus", "Open Government Licence", "MIT", "BSD"):
        assert licence in told


def test_a_package_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOATTN_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert real_data.kept("land") is None
    with pytest.raises(
        real_data.NotThere, match=r"pip did not fetch global-land-mask==1\.0\.0: .*global-land-mask"
    ):
        real_data.fetch("land")
    assert not list(tmp_path.rglob("*.npy"))
