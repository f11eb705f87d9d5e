"""Fields from grid to grid, in numpy, torch and xarray; and what a data set's grid says of its fields."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import geoattn as ga

xr = pytest.importorskip("xarray", reason="the bridge needs xarray")

G, Regridder, regrid = ga.grids, ga.xarray.Regridder, ga.xarray.regrid


def random_points(count=300):
    xyz = np.random.default_rng(0).normal(size=(count, 3))
    xyz /= np.linalg.norm(xyz, axis=-1, keepdims=True)
    return G.points(np.degrees(np.arcsin(xyz[:, 2])), np.degrees(np.arctan2(xyz[:, 1], xyz[:, 0])))


GRIDS = [
    G.equiangular(37, 72),
    G.equiangular(16, 32, poles=False, lon_start=-180, south_first=True),
    G.latlon(np.linspace(90, -80, 18), np.arange(0, 360, 10.0)),
    G.gaussian(24, 48),
    G.lobatto(12, 20),
    G.reduced_gaussian("O16"),
    G.healpix(8),
    G.healpix(5, order="ring"),
    G.icosahedral(3),
    G.cubed_sphere(9),
    random_points(),
]


def smooth(grid):
    x, y, z = np.moveaxis(grid.xyz, -1, 0)
    return np.exp(x) * np.sin(y + 1) + z**3 + x * z


def dataset(grid, lead=(2,), **attrs):
    coords = ga.xarray.coordinates(grid)
    dims = tuple(dict.fromkeys(coords.latitude.dims + coords.longitude.dims))
    values = smooth(grid) + np.arange(np.prod(lead)).reshape(*lead, *(1 for _ in grid.shape))
    names = ("time", "level")[: len(lead)]
    return xr.Dataset({"t": ((*names, *dims), values, {"units": "K"})}, coords.coords, attrs)


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_coordinates_of_a_grid_are_recognised_as_that_grid(grid):
    found = G.from_xarray(dataset(grid))
    np.testing.assert_allclose(found.xyz, grid.xyz, atol=1e-12)
    np.testing.assert_allclose(found.weights, grid.weights, rtol=1e-12)
    if not isinstance(grid, G.Points | G.LatLon):
        assert found == grid


@pytest.mark.parametrize("method", ["average", "interpolation"])
@pytest.mark.parametrize("target", GRIDS, ids=repr)
@pytest.mark.parametrize("source", GRIDS[:1] + GRIDS[3:6], ids=repr)
def test_constants_are_kept_and_smooth_fields_nearly(source, target, method):
    operator = Regridder(source, target, method)
    np.testing.assert_allclose(operator.matrix.sum(axis=1), 1, rtol=1e-12)
    error = np.abs(operator(smooth(source)) - smooth(target)).max()
    assert error < (0.4 if method == "average" else 0.15)
    # no field between 0 and 1 changes its mean by more than is reported
    random = np.random.default_rng(1).random((20, *source.shape))
    assert np.abs(operator.conservation(random)).max() <= operator.conservation_error + 1e-12
    worst = (operator.matrix.T @ target.weights.ravel() > source.weights.ravel()).reshape(source.shape)
    assert operator.conservation(worst.astype(float)) <= operator.conservation_error + 1e-9


def test_the_bound_on_the_change_of_the_mean_is_reached():
    operator = Regridder(G.gaussian(16, 32), G.healpix(4))
    gains = operator.matrix.T @ operator.target.weights.ravel() > operator.source.weights.ravel()
    field = gains.reshape(operator.source.shape).astype(float)
    assert operator.conservation(field) == pytest.approx(operator.conservation_error, rel=1e-9)
    assert f"at most {operator.conservation_error:.2g}" in repr(operator)


def test_means_over_whole_cells_conserve_the_integral():
    fine = G.gaussian(12, 24)
    rows = fine.lat_weights.reshape(4, 3).sum(axis=1)
    coarse = G.latlon(fine.lat_axis[1::3], fine.lon_axis[1::3], areas=rows)
    operator = Regridder(fine, coarse, "average")
    assert operator.conservation_error < 1e-14
    field = np.random.default_rng(2).normal(size=fine.shape)
    assert operator.conservation(field) == pytest.approx(0, abs=1e-14)


def test_averages_are_symmetric_where_the_grids_are():
    """Points on the border of two cells count half in each: turning and mirroring a field commutes."""
    operator = Regridder(G.equiangular(33, 64), G.equiangular(9, 16))
    field = np.random.default_rng(3).normal(size=(33, 64))
    np.testing.assert_allclose(operator(field[::-1]), operator(field)[::-1], atol=1e-12)
    np.testing.assert_allclose(operator(np.roll(field, 4, 1)), np.roll(operator(field), 1, 1), atol=1e-12)
    assert np.ptp(operator(field)[0]) < 1e-12  # one value at the pole


def test_interpolation_converges_with_the_square_of_the_spacing():
    target = random_points()
    coarse, fine = (
        np.std(Regridder(grid, target, "interpolation")(smooth(grid)) - smooth(target))
        for grid in (G.gaussian(16, 32), G.gaussian(32, 64))
    )
    assert np.log2(coarse / fine) > 1.8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_and_numpy_agree_and_gradients_are_the_transpose(dtype):
    operator = Regridder(G.gaussian(16, 32), G.healpix(4))
    field = torch.randn(2, 3, 16, 32, dtype=dtype, requires_grad=True)
    out = operator(field)
    assert out.shape == (2, 3, 192)
    assert out.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    np.testing.assert_allclose(out.detach(), operator(field.detach().numpy()), atol=tolerance)
    seed = torch.randn_like(out)
    out.backward(seed)
    expected = (operator.matrix.T @ seed.double().numpy().reshape(6, -1).T).T.reshape(field.shape)
    np.testing.assert_allclose(field.grad, expected, atol=10 * tolerance)


# --- missing values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_missing_values_are_refused_propagated_or_left_out(kind):
    source, target = G.equiangular(33, 64), G.equiangular(9, 16)
    operator = Regridder(source, target)
    values = smooth(source)
    land = (source.lat > 20) & (source.lon > 90) & (source.lon < 200)
    values[land] = np.nan
    field = kind(values)
    with pytest.raises(ValueError, match=rf"{land.sum()} of {land.size} values are missing.*'renormalise'"):
        operator(field)
    reads = (operator.matrix @ land.ravel().astype(float)).reshape(target.shape)
    spread = np.asarray(operator(field, "propagate"))
    np.testing.assert_array_equal(np.isnan(spread), reads > 0)
    left = np.asarray(operator(field, "renormalise"))
    np.testing.assert_array_equal(np.isnan(left), reads > 0.5 + 1e-6)
    np.testing.assert_allclose(left[reads == 0], spread[reads == 0])
    ones = np.where(land, np.nan, 1.0)
    kept = np.asarray(operator(kind(ones), "renormalise"))
    np.testing.assert_allclose(kept[~np.isnan(kept)], 1.0, rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 0.6))
def test_what_is_left_out_never_takes_values_beyond_those_that_are_there(seed, share):
    random = np.random.default_rng(seed)
    operator = Regridder(G.reduced_gaussian("O8"), G.gaussian(8, 16), "interpolation")
    values = np.where(random.random(operator.source.shape) < share, np.nan, 1 + random.random())
    values = np.where(np.isnan(values), np.nan, 1 + random.random(values.shape))
    found = operator(values, "renormalise")
    gaps = ~np.isclose(operator.matrix @ np.isfinite(values).ravel(), 1).reshape(found.shape)
    inside = found[gaps & np.isfinite(found)]
    assert ((inside >= 1 - 1e-9) & (inside <= 2 + 1e-9)).all()


# --- xarray -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", GRIDS, ids=repr)
def test_a_data_set_moves_with_its_other_dimensions_and_attributes(target):
    ds = dataset(GRIDS[0], lead=(2, 3), title="a title").assign_coords(time=[10, 20], level=[500, 700, 850])
    ds["scalar"] = ("time", [1.0, 2.0])
    moved = regrid(ds, target)
    assert G.from_xarray(moved).shape == target.shape
    assert moved.t.dims[:2] == ("time", "level")
    assert moved.t.attrs == ds.t.attrs
    assert moved.attrs["title"] == "a title"
    assert "changes by at most" in moved.attrs["regridding"]
    assert moved.scalar.variable.identical(ds.scalar.variable)
    np.testing.assert_array_equal(moved.level, [500, 700, 850])
    np.testing.assert_allclose(moved.t, Regridder(GRIDS[0], target)(ds.t.values), rtol=1e-12)


def test_a_target_data_set_gives_its_coordinates():
    ds = dataset(G.gaussian(24, 48))
    other = dataset(G.equiangular(9, 16, poles=False)).rename(latitude="lat", longitude="lon").transpose()
    other = other.assign_coords(lat=other.lat.astype(np.float32))
    for target in (other, other.t):
        moved = regrid(ds, target)
        xr.testing.assert_identical(moved.lat, other.lat)
        assert moved.t.dims == ("time", "lat", "lon")
    array = regrid(ds.t, other)
    xr.testing.assert_identical(array.drop_attrs(), moved.t.drop_attrs())
    assert array.attrs["units"] == "K"
    assert regrid(ds, "era5-1.5").t.shape == (2, 121, 240)


def test_dask_arrays_are_regridded_when_they_are_computed():
    pytest.importorskip("dask", reason="lazy arrays are dask's")
    ds = dataset(G.gaussian(24, 48), lead=(4,))
    moved = regrid(ds.chunk(time=1, latitude=12), G.healpix(4))
    assert moved.chunks
    xr.testing.assert_allclose(moved.compute(), regrid(ds, G.healpix(4)), rtol=1e-12)


def test_mistakes_are_named():
    ds = dataset(G.gaussian(24, 48))
    holes = ds.where(ds.latitude > 0)
    with pytest.raises(ValueError, match=r"ds\['t'\]: \d+ of \d+ values are missing"):
        regrid(holes, G.healpix(4))
    assert regrid(holes, G.healpix(4), missing="renormalise").t.isnull().any()
    with pytest.raises(ValueError, match=r"missing must be one of .* got 'skip'"):
        regrid(ds, G.healpix(4), missing="skip")
    with pytest.raises(ValueError, match=r"method must be one of .* got 'cubic'"):
        regrid(ds, G.healpix(4), method="cubic")
    with pytest.raises(TypeError, match="target must be a grid of the sphere"):
        Regridder(G.gaussian(4, 8), G.cartesian((4, 8)))
    with pytest.raises(ValueError, match=r"does not end with the shape \(24, 48\)"):
        Regridder(G.gaussian(24, 48), G.healpix(4))(np.zeros((48, 24)))


# --- fields and the accessor ------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_the_accessor_is_sugar_over_plain_functions(grid):
    ds = dataset(grid)
    assert ds.geoattn.grid == ds.t.geoattn.grid == G.from_xarray(ds)
    xr.testing.assert_identical(ds.geoattn.weights, ds.pipe(ga.xarray.weights))
    assert float(ds.geoattn.weights.sum()) == pytest.approx(4 * np.pi)
    expected = grid.integrate(ds.t.values) / (4 * np.pi)
    for mean in (ds.geoattn.mean().t, ds.pipe(ga.xarray.mean).t, ds.t.geoattn.mean()):
        np.testing.assert_allclose(mean, expected, rtol=1e-12)
        assert mean.dims == ("time",)
        assert mean.attrs == {"units": "K"}
    xr.testing.assert_identical(ds.geoattn.regrid(GRIDS[0]), regrid(ds, GRIDS[0]))
    assert repr(ds.geoattn) == repr(G.recognise(ds))


def test_means_refuse_missing_values_and_take_masks():
    grid = G.equiangular(37, 72)
    ds = dataset(grid)
    sea = abs(ds.latitude) < 45
    holes = ds.where(sea)
    with pytest.raises(ValueError, match=r"'t' has values that are missing .* time 0, and in 1 more place"):
        holes.geoattn.mean()
    w = np.where(sea.values[:, None], grid.weights, 0)
    expected = (ds.t.values * w).sum((-2, -1)) / w.sum()
    whole = sea & (ds.longitude > -1)
    for mask in (whole, holes.notnull()):
        np.testing.assert_allclose(holes.geoattn.mean(mask=mask).t, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="leaves no point to average over"):
        ds.geoattn.mean(mask=whole & False)


def test_means_by_areas_are_what_conservative_regridding_keeps():
    grid = G.equiangular(19, 36)
    ds = dataset(grid)
    moved = regrid(ds, G.healpix(4), method="conservative")
    assert "the global mean by cell areas changes by at most" in moved.attrs["regridding"]
    np.testing.assert_allclose(moved.geoattn.mean(by="area").t, ds.geoattn.mean(by="area").t, rtol=1e-12)
    expected = (ds.t.values * grid.cell_areas).sum((-2, -1)) / np.sum(grid.cell_areas)
    np.testing.assert_allclose(ga.xarray.mean(ds.t, by="area"), expected, rtol=1e-12)
    rough = ds.assign(t=ds.t.where(ds.latitude < 45, 0.0))
    assert abs(rough.geoattn.mean() - rough.geoattn.mean(by="area")).t.max() > 1e-5
    with pytest.raises(ValueError, match=r"by must be one of \['area', 'quadrature'\], got 'cells'"):
        ds.geoattn.mean(by="cells")


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_maps_show_every_grid(grid):
    plt = pytest.importorskip("matplotlib.pyplot", reason="maps are drawn by matplotlib")
    ds = dataset(grid)
    axes = ds.t.isel(time=0).geoattn.plot(cmap="magma")
    (mesh,) = axes.collections
    low, high = mesh.get_clim()
    assert low == pytest.approx(ds.t[0].min().item(), abs=0.3)
    assert high == pytest.approx(ds.t[0].max().item(), abs=0.3)
    corners = mesh.get_coordinates()
    centres = (corners[1:, 1:] + corners[:-1, :-1]) / 2
    place = np.abs(centres - (30.0, 40.0)).sum(axis=-1).argmin()
    nearest = np.hypot(grid.lat - 40, (grid.lon - 30) * np.cos(np.radians(40))).argmin()
    assert mesh.get_array().ravel()[place] == pytest.approx(smooth(grid).ravel()[nearest], abs=0.25)
    plt.close(axes.figure)
    with pytest.raises(ValueError, match=r"has the dimensions \['time'\] beside"):
        ds.t.geoattn.plot()
    with pytest.raises(TypeError, match="one variable is plotted"):
        ds.geoattn.plot()


def test_a_region_is_no_source_of_what_lies_outside(refused_by):
    globe = ga.grids.equiangular(37, 72)
    fine = ga.grids.regional(np.arange(30.0, 71.0), np.arange(0.0, 81.0))
    with refused_by("xarray/regridding/regridder.py", "lie outside of the {source}") as said:
        Regridder(fine, globe)
    rows, columns = (globe.lat_axis <= 70) & (globe.lat_axis >= 30), globe.lon_axis <= 80
    within = said.run("ga.grids.regional(", target=globe, rows=rows, columns=columns)
    said.says("method='conservative'")
    assert np.isnan(Regridder(fine, globe, method="conservative")(np.ones(fine.shape))).any()
    plane = fine.xyz @ [1.0, -2.0, 0.5]
    for method in ("interpolation", "average"):
        moved = Regridder(fine, within, method)(plane)
        np.testing.assert_allclose(moved, within.xyz @ [1.0, -2.0, 0.5], atol=0.05)
    onto = Regridder(globe, fine)(globe.xyz @ [1.0, -2.0, 0.5])  # from the globe a region is any grid
    np.testing.assert_allclose(onto, plane, atol=5e-3)
    ds = xr.Dataset({"t": (("lat", "lon"), plane)}, {"lat": fine.lat_axis, "lon": fine.lon_path})
    moved = ga.xarray.regrid(ds, within)
    assert ga.grids.from_xarray(moved).shape == within.shape


BENT = np.arange(10.0, 16.0)[:, None] + 0.1 * np.arange(6)
REGIONS = [
    G.regional(np.arange(30.0, 41.0), np.arange(350.0, 371.0)),
    G.regional(np.arange(30.0, 90.5), np.arange(0.0, 360.0, 10.0)),
    G.regional(BENT, BENT.T),
    G.patches(G.regional(BENT, BENT.T), 2).grid,
    G.regional([10.0, 11.0], [5.0, 7.0], ([[9.0, 9, 11], [10, 12, 12]], [[4.0, 6, 5], [7, 8, 6]])),
]


@pytest.mark.parametrize("region", REGIONS, ids=repr)
def test_regions_are_written_as_they_are_recognised(region):
    found = G.from_xarray(ga.xarray.coordinates(region))
    assert type(found) is type(region)
    assert found.shape == region.shape
    for name in ("lat", "lon", "weights", "corners"):
        np.testing.assert_allclose(getattr(found, name), getattr(region, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("region", REGIONS[2:], ids=repr)
def test_bounds_of_a_region_stay_with_what_is_made_of_its_fields(region):
    """Corners are along a dimension that no field has: xarray leaves them out of ds[names]."""
    place = ga.xarray.coordinates(region).coords
    dims = place["latitude"].dims
    times = np.datetime64("2001-01-01", "ns") + np.arange(6) * np.timedelta64(1, "D")
    values = np.random.default_rng(0).random((6, *region.shape)).astype(np.float32)
    ds = xr.Dataset({"t": (("time", *dims), values)}, {"time": times}).assign_coords(place)
    schema = ga.xarray.Schema.of(ds, ["t"])
    back = ga.xarray.to_xarray(ga.xarray.to_tensor(ds, schema), schema, ds)
    forecast = ds.isel(time=[0]).expand_dims(prediction_timedelta=times[1:3] - times[0])
    still = ga.xarray.metrics.persistence(forecast, ds)
    normal = ga.xarray.metrics.climatology(ds, hours=False)
    for made in (back, still, normal):
        assert G.from_xarray(made) == G.from_xarray(ds)
    found = ga.xarray.metrics.rmse(still, ds).t.values
    squares = (values[1:3] - values[0]) ** 2 * region.shares
    np.testing.assert_allclose(found, np.sqrt(squares.reshape(2, -1).sum(1)), rtol=1e-5)
