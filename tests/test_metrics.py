"""Scores of data sets against WeatherBench 2's definitions, written out in numpy here.

The definitions were read in weatherbench2/metrics.py (google-research/weatherbench2): cell areas from
sin of the latitudes' midpoints, means over area and then over time, the root of RMSE last, ACC of
uncentred anomalies to the day of year and hour. The package itself is on no registry to run beside.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geoattn as ga

xr = pytest.importorskip("xarray", reason="scores are of xarray objects")

from geoattn.xarray import metrics  # noqa: E402

HOUR = np.timedelta64(1, "h")


def truth_on(lat, lon, steps=24, seed=0, start="2020-02-25"):
    random = np.random.default_rng(seed)
    shape = (steps, 2, len(lat), len(lon))
    names = ("temperature", "u_component_of_wind", "v_component_of_wind")
    dims = ("time", "level", "latitude", "longitude")
    return xr.Dataset(
        {name: (dims, 250 + random.standard_normal(shape), {"units": "SI"}) for name in names},
        {
            "time": np.datetime64(start, "ns") + 6 * HOUR * np.arange(steps),
            "level": [500, 850],
            "latitude": lat,
            "longitude": lon,
        },
    )


def forecast_for(truth, initial=5, leads=4, seed=1, members=None):
    """A forecast at the first times of the truth, wrong by noise."""
    random = np.random.default_rng(seed)
    lead = 6 * HOUR * np.arange(1, leads + 1)
    times = truth.time.values[: 2 * initial : 2]
    valid = xr.DataArray(times[:, None] + lead, {"time": times, "prediction_timedelta": lead}, None)
    valid = valid.rename(dict(zip(valid.dims, ("time", "prediction_timedelta"), strict=True)))
    right = truth.sel(time=valid).drop_vars("time").assign_coords(time=times)
    if members:
        right = right.expand_dims(realization=members, axis=1)
    return right.map(lambda v: v.copy(data=v.values + random.standard_normal(v.shape)))


def wb2_weights(lat):
    """weatherbench2.metrics.get_lat_weights for ascending latitudes."""
    bounds = np.radians(np.concatenate(([-90], (lat[1:] + lat[:-1]) / 2, [90])))
    areas = np.diff(np.sin(bounds))
    return areas / areas.mean()


def spatial(values, lat):
    """Mean over the last two axes."""
    w = np.broadcast_to(wb2_weights(lat)[:, None], values.shape[-2:])
    return (values * w).sum((-2, -1)) / w.sum()


LAT = np.linspace(-90, 67.5, 8)  # one pole is dropped: the weights of the grid are cell areas
LON = np.arange(0, 360, 30.0)


@pytest.fixture(scope="module")
def case():
    truth = truth_on(LAT, LON)
    return forecast_for(truth), truth


def pairs(forecast, truth, name):
    """Forecast and truth as [time, lead, level, lat, lon]."""
    f = forecast[name].transpose("time", "prediction_timedelta", "level", "latitude", "longitude")
    index = {t: i for i, t in enumerate(truth.time.values)}
    valid = [[index[t + d] for d in f.prediction_timedelta.values] for t in f.time.values]
    return f.values, truth[name].values[np.array(valid)], np.array(valid)


def test_errors_are_those_of_weatherbench2(case):
    forecast, truth = case
    assert isinstance(ga.grids.from_xarray(truth), ga.grids.LatLon)
    f, t, _ = pairs(forecast, truth, "temperature")
    expected = {
        metrics.rmse: np.sqrt(spatial((f - t) ** 2, LAT).mean(0)),
        metrics.mae: spatial(abs(f - t), LAT).mean(0),
        metrics.bias: spatial(f - t, LAT).mean(0),
    }
    for score, values in expected.items():
        found = score(forecast, truth)
        assert found.temperature.dims == ("prediction_timedelta", "level")
        assert found.temperature.attrs == {"units": "SI", "weights": "quadrature"}
        np.testing.assert_allclose(found.temperature, values, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(found.level, [500, 850])
        np.testing.assert_array_equal(found.prediction_timedelta, forecast.prediction_timedelta)


def test_the_root_is_taken_after_the_mean_over_time(case):
    forecast, truth = case
    each = metrics.rmse(forecast, truth, over=()).temperature
    assert each.dims[0] == "time"
    assert each.time.equals(forecast.time)
    whole = metrics.rmse(forecast, truth).temperature
    np.testing.assert_allclose(whole, np.sqrt((each**2).mean("time")), rtol=1e-12)
    assert (whole > each.mean("time")).all()


def test_relative_errors_are_norms_of_each_initial_time(case):
    forecast, truth = case
    f, t, _ = pairs(forecast, truth, "temperature")
    expected = np.sqrt(spatial((f - t) ** 2, LAT) / spatial(t**2, LAT))
    found = metrics.relative_l2(forecast, truth, over=()).temperature
    np.testing.assert_allclose(found.transpose("time", "prediction_timedelta", "level"), expected, rtol=1e-12)
    mean = metrics.relative_l2(forecast, truth).temperature
    np.testing.assert_allclose(mean.transpose("prediction_timedelta", "level"), expected.mean(0), rtol=1e-12)
    valid = truth.sel(time=forecast.time + forecast.prediction_timedelta)
    right = valid.drop_vars("time").assign_coords(time=forecast.time)
    np.testing.assert_allclose(metrics.relative_l2(1.5 * right, truth).temperature, 0.5, rtol=1e-12)
    assert float(metrics.relative_l2(right, truth).temperature.max()) == 0
    with pytest.raises(ValueError, match=r"the truth of \['temperature'.*is 0 everywhere at some time"):
        metrics.relative_l2(forecast, 0 * truth)


def test_the_correlation_of_known_fields_with_one_climatology_for_all_times():
    grid = ga.grids.gaussian(12, 24)
    times = np.datetime64("2020-01-01", "ns") + 6 * HOUR * np.arange(3)
    coords = {"time": times, "latitude": grid.lat_axis, "longitude": grid.lon_axis}
    fields = [np.broadcast_to(np.asarray(grid.xyz)[..., i], (3, 12, 24)) for i in (2, 0)]
    truth, other = (
        xr.Dataset({"depth": (("time", "latitude", "longitude"), field)}, coords) for field in fields
    )
    zero = 0 * truth.isel(time=0, drop=True)
    for forecast, expected in ((2 * truth, 1.0), (-truth, -1.0), (other, 0.0), (truth + other, 0.5**0.5)):
        found = float(metrics.acc(forecast, truth, zero).depth)
        assert found == pytest.approx(expected, abs=1e-12)
        shifted = float(metrics.acc(forecast + 3, truth + 3, zero + 3).depth)
        assert shifted == pytest.approx(expected, abs=1e-12)


def test_persistence_is_the_truth_at_the_initial_times_for_every_lead_time(case):
    forecast, truth = case
    still = metrics.persistence(forecast, truth)
    assert still.temperature.dims[:2] == ("time", "prediction_timedelta")
    xr.testing.assert_identical(still.prediction_timedelta, forecast.prediction_timedelta)
    for lead in range(forecast.sizes["prediction_timedelta"]):
        found = still.temperature.isel(prediction_timedelta=lead).values
        np.testing.assert_array_equal(found, truth.temperature.sel(time=forecast.time).values)
    _, t, valid = pairs(still, truth, "temperature")
    start = truth.temperature.values[valid[:, 0] - 1][:, None]
    expected = np.sqrt(spatial((start - t) ** 2, LAT).mean(0))
    np.testing.assert_allclose(metrics.rmse(still, truth).temperature, expected, rtol=1e-12)
    one = metrics.persistence(forecast.temperature, truth.temperature)
    xr.testing.assert_equal(one, still.temperature)
    with pytest.raises(ValueError, match="the truth lacks time"):
        metrics.persistence(forecast, truth.isel(time=slice(1, None)))
    with pytest.raises(ValueError, match="needs the initial and the lead times"):
        metrics.persistence(truth, truth)
    with pytest.raises(ValueError, match=r"the truth lacks \['temperature'\]"):
        metrics.persistence(forecast[["temperature"]], truth.drop_vars("temperature"))


def test_arguments_that_would_give_other_scores_are_refused(case):
    forecast, truth = case
    u, v = "u_component_of_wind", "v_component_of_wind"
    other = [ds.assign({v: ds[v].assign_attrs(units="km h-1")}) for ds in (forecast, truth)]
    refused = [
        (lambda: metrics.crps(forecast, truth, ensemble_dim="latitude"), ValueError, "not of members"),
        (
            lambda: metrics.crps(forecast, truth, ensemble_dim="prediction_timedelta"),
            ValueError,
            "not of members",
        ),
        (lambda: metrics.wind_vector_rmse(forecast, truth, u, u), ValueError, "'u_component_of_wind' twice"),
        (lambda: metrics.wind_vector_rmse(forecast[u], truth[u]), TypeError, "give data sets, got DataArray"),
        (lambda: metrics.wind_vector_rmse(*other), ValueError, "is in 'km h-1' in the forecast, but in 'SI'"),
        (lambda: metrics.acc(forecast, truth, None), TypeError, "xarray objects, got NoneType"),
        (
            lambda: metrics.acc(forecast, truth, truth),
            ValueError,
            r"metrics\.climatology\(climatology, time=",
        ),
        (lambda: metrics.rmse(forecast, truth, over=3), TypeError, "over must name dimensions, got 3"),
        (
            lambda: metrics.rmse(forecast, truth, weights=0 * ga.xarray.weights(truth)),
            ValueError,
            "0 everywhere",
        ),
        (lambda: metrics.climatology(truth.isel(time=[])), ValueError, "there are none"),
        (lambda: metrics.climatology(truth.astype(str)), ValueError, r"ds\['temperature'\] holds <U\d+"),
    ]
    for call, error, words in refused:
        with pytest.raises(error, match=words):
            call()


def test_wind_vectors(case):
    forecast, truth = case
    squares = sum(
        (f - t) ** 2 for f, t, _ in (pairs(forecast, truth, f"{c}_component_of_wind") for c in "uv")
    )
    found = metrics.wind_vector_rmse(forecast, truth)
    np.testing.assert_allclose(found, np.sqrt(spatial(squares, LAT).mean(0)), rtol=1e-12)
    with pytest.raises(ValueError, match="no 'u10', only"):
        metrics.wind_vector_rmse(forecast, truth, "u10", "v10")


@pytest.mark.parametrize("hours", [True, False])
def test_anomaly_correlation_with_the_climatology_of_the_valid_day(hours):
    years = [truth_on(LAT, LON, seed=year, start=f"{year}-02-25") for year in (2016, 2020, 2024)]
    history = xr.concat(years, "time")
    truth = years[1]
    forecast = forecast_for(truth)
    normal = metrics.climatology(history, hours=hours)
    f, t, valid = pairs(forecast, truth, "temperature")
    times = truth.time.values[valid]
    c = np.empty_like(f)
    everything, all_times = history.temperature.values, history.time
    for index in np.ndindex(times.shape):
        day, hour = (int(xr.DataArray(times[index]).dt.__getattribute__(k)) for k in ("dayofyear", "hour"))
        chosen = (all_times.dt.dayofyear == day) & (True if not hours else all_times.dt.hour == hour)
        assert int(chosen.sum()) == (3 if hours else 12)
        c[index] = everything[chosen.values].mean(0)
    a, b = f - c, t - c
    expected = (spatial(a * b, LAT) / np.sqrt(spatial(a**2, LAT) * spatial(b**2, LAT))).mean(0)
    found = metrics.acc(forecast, truth, normal).temperature
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(metrics.acc(truth, truth, normal).temperature, 1.0, rtol=1e-12)


def brute_crps(x, y, fair):
    n = len(x)
    pairs = sum(abs(a - b) for a in x for b in x) / (n * (n - 1) if fair else n * n)
    return np.mean(abs(x - y)) - pairs / 2


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.booleans(), st.integers(0, 100))
def test_crps_is_the_mean_over_all_pairs_of_members(members, fair, seed):
    truth = truth_on(LAT, LON, steps=3, seed=seed)
    forecast = forecast_for(truth, initial=1, leads=2, members=members, seed=seed)
    f = forecast.temperature.transpose("realization", "time", "prediction_timedelta", ...).values
    t = pairs(forecast.isel(realization=0), truth, "temperature")[1]
    points = np.empty_like(t)
    for index in np.ndindex(t.shape):
        points[index] = brute_crps(f[(slice(None), *index)], t[index], fair)
    found = metrics.crps(forecast, truth, fair=fair).temperature
    np.testing.assert_allclose(found, spatial(points, LAT).mean(0), rtol=1e-10, atol=1e-13)


def test_plain_crps_is_the_integral_of_the_squared_step_functions(case):
    """∫ (F(z) − 1[z ≥ y])² dz, Hersbach (2000), Weather and Forecasting 15, 559–570, equation 1."""
    truth = case[1].isel(time=[0], level=[0])[["temperature"]]
    random = np.random.default_rng(3)
    members = truth.expand_dims(realization=4).map(
        lambda v: v.copy(data=v.values + random.normal(size=v.shape))
    )
    z = np.linspace(240, 260, 40001)
    x, y = members.temperature.values[..., 0, 0], truth.temperature.values[..., 0, 0]
    step = (z >= x.reshape(-1, 1)).mean(0) - (z >= y.reshape(-1, 1)).mean(0)
    one = np.zeros((len(LAT), len(LON)))
    one[0, 0] = 1
    point = xr.DataArray(one, {"latitude": LAT, "longitude": LON}, ("latitude", "longitude"))
    found = metrics.crps(members, truth, fair=False, weights=point)
    np.testing.assert_allclose(found.temperature.values.item(), (step**2).sum() * (z[1] - z[0]), rtol=1e-3)


def test_the_fair_crps_does_not_depend_on_the_size_of_the_ensemble():
    truth = truth_on(np.linspace(-88, 88, 45), np.arange(0, 360, 4.0), steps=2)
    truth = truth[["temperature"]].isel(level=0) * 0 + np.random.default_rng(9).normal(size=(2, 45, 90))
    big = truth.expand_dims(realization=32).copy(deep=True)
    big["temperature"][:] = np.random.default_rng(8).normal(size=big.temperature.shape)
    fair, plain = (
        [float(metrics.crps(big.isel(realization=slice(n)), truth, fair=f).temperature) for n in (2, 32)]
        for f in (True, False)
    )
    assert abs(fair[0] - fair[1]) < 0.02
    # the plain score exceeds the fair one by E|X − X′| / 2n, which is 1/(n √π) for normal numbers
    assert plain[0] - plain[1] == pytest.approx((1 / 2 - 1 / 32) / np.sqrt(np.pi), abs=0.02)


# --- weights and grids ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grid",
    [ga.grids.gaussian(16, 32), ga.grids.equiangular(17, 32), ga.grids.equiangular(16, 32, poles=False)],
)
def test_means_use_the_quadrature_of_the_grid(grid):
    ones = np.ones(grid.shape)
    field = np.sin(np.radians(grid.lat)) ** 8  # its mean over the sphere is 1/9
    coords = {"latitude": grid.lat_axis, "longitude": grid.lon_axis}
    truth = xr.Dataset({"a": (("latitude", "longitude"), 0 * ones)}, coords)
    forecast = xr.Dataset({"a": (("latitude", "longitude"), field)}, coords)
    assert float(metrics.bias(forecast, truth).a) == pytest.approx(1 / 9, rel=1e-12)


def test_axes_in_any_order_and_under_other_names_give_the_same_scores(case):
    forecast, truth = case
    expected = metrics.rmse(forecast, truth)
    turned = truth.transpose("longitude", "level", "latitude", "time")
    xr.testing.assert_allclose(metrics.rmse(forecast, turned), expected, rtol=1e-12)
    other = truth.rename(latitude="lat", longitude="lon").isel(level=[1, 0])
    xr.testing.assert_allclose(metrics.rmse(forecast, other), expected, rtol=1e-12)
    array = metrics.rmse(forecast.temperature, truth.temperature)
    xr.testing.assert_allclose(array, expected.temperature)


def test_each_member_of_an_ensemble_is_scored_against_the_one_truth(case):
    _, truth = case
    ensemble = forecast_for(truth, members=3)
    each = metrics.rmse(ensemble, truth)
    assert each.temperature.sizes["realization"] == 3
    xr.testing.assert_allclose(
        each.isel(realization=1), metrics.rmse(ensemble.isel(realization=1), truth), rtol=1e-12
    )


def test_blocks_of_initial_times_change_nothing(case, monkeypatch):
    forecast, truth = case
    whole = metrics.rmse(forecast, truth)
    monkeypatch.setattr("geoattn.xarray.scores.pairs.BLOCK_BYTES", 1)
    xr.testing.assert_identical(metrics.rmse(forecast, truth), whole)


def test_points_without_axes_are_scored_like_any_grid():
    grid = ga.grids.reduced_gaussian("O8")
    coords = {"latitude": ("values", grid.lat), "longitude": ("values", grid.lon)}
    truth = xr.Dataset({"t": (("values",), np.zeros(grid.shape))}, coords)
    forecast = xr.Dataset({"t": (("values",), np.sin(np.radians(grid.lat)))}, coords)
    assert float(metrics.rmse(forecast, truth).t) == pytest.approx(np.sqrt(1 / 3), rel=1e-12)


def test_weights_of_a_region_replace_those_of_the_globe(case):
    forecast, truth = case
    tropics = ga.xarray.weights(truth).where(abs(truth.latitude) <= 30, 0)
    f, t, _ = pairs(forecast, truth, "temperature")
    rows = abs(LAT) <= 30
    w = wb2_weights(LAT)[rows, None] * np.ones(len(LON))
    expected = ((f - t)[..., rows, :] * w).sum((-2, -1)) / w.sum()
    found = metrics.bias(forecast, truth, weights=tropics)
    np.testing.assert_allclose(found.temperature, expected.mean(0), rtol=1e-10, atol=1e-13)


# --- missing values ---------------------------------------------------------------------------------


def with_land(ds, land):
    return ds.where(~xr.DataArray(land, dims=("latitude", "longitude")))


def test_missing_values_are_refused_unless_a_mask_says_which_points_count(case):
    forecast, truth = case
    land = np.random.default_rng(5).random((len(LAT), len(LON))) < 0.3
    holes = with_land(truth, land)
    with pytest.raises(
        ValueError, match=r"squared error of temperature' has values that are missing.*level 500"
    ):
        metrics.rmse(forecast, holes)
    f, t, _ = pairs(forecast, truth, "temperature")
    w = np.where(land, 0, wb2_weights(LAT)[:, None])
    expected = np.sqrt((((f - t) ** 2 * w).sum((-2, -1)) / w.sum()).mean(0))
    sea = xr.DataArray(~land, {"latitude": LAT, "longitude": LON}, ("latitude", "longitude"))
    for mask in ("truth", sea, xr.Dataset(dict.fromkeys(truth.data_vars, sea))):
        np.testing.assert_allclose(metrics.rmse(forecast, holes, mask=mask).temperature, expected, rtol=1e-12)
    worse = forecast.copy(deep=True)
    worse.temperature[{"time": 1, "level": 0, "latitude": np.argmin(land[:, 0]), "longitude": 0}] = np.nan
    with pytest.raises(ValueError, match=f"time {str(forecast.time.values[1])[:13]}"):
        metrics.rmse(worse, holes, mask="truth")


def test_a_mask_that_moves_follows_the_valid_time(case):
    forecast, truth = case
    holes = truth.where(truth.temperature > 249)
    given = holes.notnull()
    by_truth, by_mask = (metrics.mae(forecast, holes, mask=m) for m in ("truth", given))
    xr.testing.assert_identical(by_truth, by_mask)


def test_a_mask_must_leave_points_and_be_boolean(case):
    forecast, truth = case
    nothing = xr.zeros_like(truth.temperature.isel(time=0, level=0, drop=True), dtype=bool)
    with pytest.raises(ValueError, match="leaves no point to average over"):
        metrics.mae(forecast, truth, mask=nothing)
    with pytest.raises(
        ValueError, match=r"mask holds float64, but must be True where a point counts.*mask > 0.5"
    ):
        metrics.mae(forecast, truth, mask=nothing.astype(float))
    with pytest.raises(TypeError, match="got 'skip'"):
        metrics.mae(forecast, truth, mask="skip")
    with pytest.raises(ValueError, match=r"the mask lacks \["):
        metrics.mae(forecast, truth, mask=nothing.to_dataset(name="temperature"))


# --- what does not fit ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.isel(time=slice(6)), r"truth lacks time 2020-02-26T12.* it has 6, 2020-02-25"),
        (lambda t: t.sel(level=[500]), "truth lacks level 850"),
        (lambda t: t[["temperature"]], r"the truth lacks \[.* of the forecast"),
        (
            lambda t: t.isel(latitude=slice(None, None, -1)),
            r"in another order, .*: bring .* truth\.isel\(latitude=",
        ),
        (lambda t: t.expand_dims(number=2), "has dimensions .'number'. that the forecast lacks"),
        (lambda t: t.temperature, "must be of one type"),
    ],
)
def test_what_has_no_counterpart_is_refused(case, change, message):
    forecast, truth = case
    with pytest.raises((ValueError, TypeError), match=message):
        metrics.rmse(forecast, change(truth))


def test_other_mistakes_name_the_remedy(case):
    forecast, truth = case
    with pytest.raises(ValueError, match="no ensemble dimension 'realization'"):
        metrics.crps(forecast, truth)
    with pytest.raises(ValueError, match="at least two members"):
        metrics.crps(forecast.expand_dims("realization"), truth)
    with pytest.raises(ValueError, match=r"over names \['member'\]"):
        metrics.rmse(forecast, truth, over="member")
    hours = forecast.assign_coords(prediction_timedelta=[6, 12, 18, 24])
    with pytest.raises(ValueError, match=r"holds int64 in the units ''.*attrs\['units'\] = 'hours'"):
        metrics.rmse(hours, truth)
    normal = metrics.climatology(truth)
    with pytest.raises(ValueError, match="the climatology lacks dayofyear 59"):
        metrics.acc(forecast, truth, normal.isel(dayofyear=slice(3)))
    with pytest.raises(ValueError, match="vanish"):
        metrics.acc(truth, truth, normal)
    with pytest.raises(ValueError, match="no sample lies at day 56, hour 0"):
        metrics.climatology(truth.isel(time=slice(1, None)))
    with pytest.raises(ValueError, match="needs dates along 'time'"):
        metrics.climatology(truth.isel(time=0))


def test_scores_are_weighed_by_the_area_of_cells_where_asked():
    grid = ga.grids.equiangular(7, 12)
    coords = {"latitude": grid.lat_axis, "longitude": grid.lon_axis}
    truth = xr.Dataset({"t": (("latitude", "longitude"), np.zeros(grid.shape))}, coords)
    forecast = truth + abs(truth["latitude"]) / 90
    edges = np.radians([90, 75, 45, 15, -15, -45, -75, -90])  # of the zones of WeatherBench 2
    zones = np.sin(edges[:-1]) - np.sin(edges[1:])
    np.testing.assert_allclose(grid.cell_areas, np.outer(zones, np.full(12, 2 * np.pi / 12)), rtol=1e-12)
    error = np.abs(grid.lat_axis) / 90
    for weights, rows in (("area", zones), ("quadrature", grid.lat_weights), (None, grid.lat_weights)):
        score = metrics.mae(forecast, truth, weights=weights)
        np.testing.assert_allclose(score["t"], (rows * error).sum() / rows.sum())
        assert score["t"].attrs["weights"] == score.attrs["weights"] == (weights or "quadrature")
    given = ga.xarray.weights(truth, by="area")
    score = metrics.rmse(forecast["t"], truth["t"], weights=given)
    np.testing.assert_allclose(score, np.sqrt((zones * error**2).sum() / 2))
    assert score.attrs["weights"] == "given"
    with pytest.raises(ValueError, match="weights must be 'quadrature', 'area' or a DataArray, got 'cells'"):
        metrics.rmse(forecast, truth, weights="cells")
    with pytest.raises(ValueError, match=r"by must be one of \['area', 'quadrature'\], got 'cells'"):
        ga.xarray.weights(truth, by="cells")


# --- what lies elsewhere --------------------------------------------------------------------------------


def test_weights_with_levels_are_matched_by_them():
    truth = truth_on(np.linspace(80, -80, 9), 22.5 * np.arange(16), start="2020-01-01")[["temperature"]]
    forecast = truth + xr.DataArray([1.0, 3.0], {"level": [500, 850]}, "level")
    area = ga.xarray.weights(truth)
    weights = area * xr.DataArray([0.25, 0.75], {"level": [850, 500]}, "level")
    expected = np.sqrt(0.75 * 1 + 0.25 * 9)
    for ours, theirs in ((forecast, truth), (forecast.isel(level=[1, 0]), truth)):
        assert metrics.rmse(ours, theirs, weights=weights).temperature.item() == pytest.approx(expected)
    assert metrics.rmse(
        forecast.sel(level=[850]), truth, weights=weights
    ).temperature.item() == pytest.approx(3)


def test_variables_that_lie_elsewhere_are_refused(refused_by):
    truth = truth_on(np.linspace(80, -80, 9), 22.5 * np.arange(16), start="2020-01-01")[["temperature"]]
    forecast = (truth + 1.0).assign(gauge=(("time", "station"), np.ones((24, 3))))
    with refused_by("xarray/scores/pairs.py", "lies not on the points {dims} that are averaged over") as said:
        metrics.rmse(forecast, truth)
    assert "the forecast's 'gauge' over ('time', 'station')" in said.message
    fewer = said.run("forecast.drop_vars(", forecast=forecast)
    np.testing.assert_allclose(metrics.rmse(fewer, truth).temperature, 1.0)
    waves = fewer.assign(waves=fewer.temperature * 1j)
    with refused_by("xarray/schema/schema.py", "is no field of real numbers") as said:
        metrics.rmse(waves, truth)
    np.testing.assert_allclose(
        metrics.rmse(said.run("forecast.drop_vars(", forecast=waves), truth).temperature, 1
    )
    bounds = forecast.drop_vars("gauge").assign(time_bounds=(("time", "nv"), np.zeros((24, 2))))
    bounds.time.attrs["bounds"] = "time_bounds"  # these tell of the times
    np.testing.assert_allclose(metrics.rmse(bounds, truth).temperature, 1.0)
