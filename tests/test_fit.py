"""What fits what: masks and fields, units, times, labels, slices. Every refusal's remedy is carried out."""

import numpy as np
import pandas as pd
import pytest

import geoattn as ga

xr = pytest.importorskip("xarray", reason="the bridge needs xarray")

from geoattn.xarray import metrics  # noqa: E402
from geoattn.xarray.schema.times import segments, settled  # noqa: E402
from geoattn.xarray.schema.units import check_units, same_units  # noqa: E402

HOUR = np.timedelta64(1, "h")
LAT, LON = np.linspace(90, -90, 13), np.arange(0, 360, 15.0)


def field(values=None, lat=LAT, lon=LON, name="t", **attrs):
    if values is None:
        values = np.random.default_rng(0).standard_normal((len(lat), len(lon)))
    coords = {
        "latitude": ("latitude", lat, {"units": "degrees_north"}),
        "longitude": ("longitude", lon, {"units": "degrees_east"}),
    }
    return xr.DataArray(values, coords, ("latitude", "longitude"), name, attrs)


def weighted(array, mask):
    w = ga.xarray.weights(array).values * mask
    return float((array.values * w).sum() / w.sum())


LAND = np.random.default_rng(1).random((len(LAT), len(LON))) < 0.3


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [1, 100])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_a_fraction_is_no_mask_until_a_threshold_makes_it_one(percent, dtype):
    t = field(np.full((len(LAT), len(LON)), 280.0))
    largest = percent if percent > 1 or dtype != np.int16 else 2  # as integers, 0 and 1
    fraction = field((np.random.default_rng(0).random(t.shape) * largest).astype(dtype))
    threshold = 50 if percent == 100 else 0.5
    with pytest.raises(
        ValueError, match=rf"mask holds {np.dtype(dtype)}, but must be True.*mask > {threshold}"
    ):
        ga.xarray.mean(t, mask=fraction)
    assert float(ga.xarray.mean(t, mask=fraction > threshold)) == pytest.approx(280)
    with pytest.raises(ValueError, match="mask holds"):
        metrics.rmse(t, t, mask=fraction)
    assert float(metrics.rmse(t, t, mask=fraction > threshold)) == 0


def test_a_mean_weighted_by_a_fraction_is_two_means():
    t, fraction = field(), field(np.random.default_rng(3).random((len(LAT), len(LON))))
    by_hand = ga.xarray.mean(t * fraction) / ga.xarray.mean(fraction)
    assert float(by_hand) == pytest.approx(weighted(t, fraction.values))


@pytest.mark.parametrize("rows", [ga.grids.gaussian(16, 24).lat_axis, np.linspace(90, -90, 101)])
@pytest.mark.parametrize("score", ["mean", "rmse"])
def test_coordinates_rounded_to_float32_are_the_same_points(rows, score):
    lon = np.arange(len(rows) // 2 * 4) * (360 / (len(rows) // 2 * 4))
    t = field(lat=rows, lon=lon)
    land = np.random.default_rng(2).random(t.shape) < 0.3
    mask = field(land, rows.astype(np.float32), lon.astype(np.float32))
    if score == "mean":
        assert float(ga.xarray.mean(t, mask=mask)) == pytest.approx(weighted(t, land))
    else:
        error = field(np.random.default_rng(5).standard_normal(t.shape), rows, lon)
        assert float(metrics.mae(t + error, t, mask=mask)) == pytest.approx(weighted(abs(error), land))


def test_masks_elsewhere_are_refused_by_calls_that_work():
    t, mask = field(), field(LAND)
    expected = weighted(t, LAND)

    turned = mask.isel(latitude=slice(None, None, -1))
    with pytest.raises(
        ValueError, match=r"runs along 'latitude' in the other direction.*slice\(None, None, -1\)"
    ):
        ga.xarray.mean(t, mask=turned)
    assert float(ga.xarray.mean(t, mask=turned.isel(latitude=slice(None, None, -1)))) == pytest.approx(
        expected
    )

    shifted = mask.assign_coords(longitude=(mask.longitude + 180) % 360 - 180).sortby("longitude")
    with pytest.raises(ValueError, match=r"counts 'longitude' from -180, the field from 0.*% 360\)\.sortby"):
        ga.xarray.mean(t, mask=shifted)
    remedied = shifted.assign_coords(longitude=shifted["longitude"] % 360).sortby("longitude")
    assert float(ga.xarray.mean(t, mask=remedied)) == pytest.approx(expected)

    other = field(LAND, lon=LON + 7.5)
    with pytest.raises(
        ValueError, match=r"differ along 'longitude': at index 0 .*regrid\(mask, field, method='nearest'"
    ):
        ga.xarray.mean(t, mask=other)
    moved = ga.xarray.regrid(other, t, method="nearest")
    assert moved.dtype == bool
    assert np.isfinite(float(ga.xarray.mean(t, mask=moved)))

    finer = field(np.repeat(LAND, 2, 1), lon=np.arange(0, 360, 7.5))
    with pytest.raises(
        ValueError, match=r"mask has 48 points along 'longitude', the field 24.*method='nearest'"
    ):
        ga.xarray.mean(t, mask=finer)
    chosen = finer.sel(longitude=t["longitude"], method="nearest")
    assert np.isfinite(float(ga.xarray.mean(t, mask=chosen)))

    with pytest.raises(ValueError, match=r"dimensions \('lat', 'longitude'\), the field.*mask.rename\(lat="):
        ga.xarray.mean(t, mask=mask.rename(latitude="lat"))
    with pytest.raises(TypeError, match="DataArray of bool, got ndarray"):
        ga.xarray.mean(t, mask=LAND)


def test_a_dataset_of_masks_has_one_for_each_variable():
    ds = xr.Dataset({"t": field(), "q": field(name="q") * 2})
    masks = xr.Dataset({"t": field(LAND), "q": field(~LAND)})
    found = ga.xarray.mean(ds, mask=masks)
    assert float(found.t) == pytest.approx(weighted(ds.t, LAND))
    assert float(found.q) == pytest.approx(weighted(ds.q, ~LAND))


# --- units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [("K", "kelvin"), ("m s-1", "m/s"), ("m s**-1", "m s^-1"), ("m**2 s**-2", "s-2 m2"), ("hPa", "mbar"),
     ("degC", "Celsius"), ("%", "percent"), ("1", "(0 - 1)"), ("", "K"), ("kg m-2 s-1", "kg/m^2/s")],
)  # fmt: skip
def test_spellings_of_one_unit_are_the_same(one, other):
    assert same_units(one, other)
    assert same_units(other, one)


@pytest.mark.parametrize(
    ("found", "wanted", "value", "right"),
    [("degC", "K", 7.0, 280.15), ("K", "degC", 280.15, 7.0), ("hPa", "Pa", 2.0, 200.0),
     ("m", "mm", 0.5, 500.0),
     ("percent", "1", 25.0, 0.25), ("g kg**-1", "kg kg-1", 3.0, 0.003), ("km", "metres", 2.0, 2000.0)],
)  # fmt: skip
def test_other_units_are_refused_by_a_conversion_that_is_right(found, wanted, value, right):
    with pytest.raises(ValueError, match=r"'t' is in .* convert it, ") as refusal:
        check_units("t", found, wanted, "the data set", "the schema")
    ds = xr.Dataset({"t": ((), value, {"units": found})})
    target, expression = str(refusal.value).split("convert it, ")[1].split("; if only")[0].split(" = ", 1)
    assert target == "ds['t']"
    converted = eval(expression, {"ds": ds})
    assert converted.attrs["units"] == wanted
    assert float(converted) == pytest.approx(right)


@pytest.mark.parametrize(("found", "wanted"), [("m", "K"), ("m s-1", "m s-2"), ("mm", "m"), ("kg", "g")])
def test_other_units_are_not_the_same(found, wanted):
    assert not same_units(found, wanted)


def test_every_entry_compares_units(tmp_path):
    time = np.datetime64("2001-01-01", "ns") + 6 * HOUR * np.arange(12)
    values = 280 + np.random.default_rng(0).standard_normal((12, 13, 24))
    kelvin = xr.Dataset({"t": field().expand_dims(time=time).copy(data=values).assign_attrs(units="K")})
    celsius = kelvin.assign(t=(kelvin.t - 273.15).assign_attrs(units="degC"))
    schema = ga.xarray.Schema.of(kelvin)
    path = tmp_path / "celsius.nc"
    celsius.to_netcdf(path)
    message = r"'t' is in 'degC' in the (data set|truth|climatology), but in 'K' in"
    for entry in (
        lambda: ga.xarray.to_tensor(celsius, schema),
        lambda: ga.xarray.Windows(path, schema),
        lambda: ga.xarray.statistics(path, schema),
        lambda: metrics.rmse(kelvin, celsius),
        lambda: metrics.acc(kelvin, kelvin, metrics.climatology(celsius)),
    ):
        with pytest.raises(ValueError, match=message):
            entry()
    again = celsius.assign(t=(celsius["t"] + 273.15).assign_attrs(units="kelvin"))
    assert float(metrics.rmse(kelvin, again).t) < 1e-9


# --- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "dtype", "step"),
    [("hours", np.float32, 6 * HOUR), ("days", np.float64, HOUR), ("days", np.float32, 24 * HOUR)],
)
def test_jitter_of_floating_point_times_is_rounded(unit, dtype, step):
    exact = np.datetime64("1999-12-28", "ns") + step * np.arange(200)
    length = {"hours": HOUR, "days": 24 * HOUR}[unit]
    stored = ((exact - np.datetime64("1900-01-01", "ns")) / length).astype(dtype)
    read = xr.decode_cf(xr.Dataset(coords={"time": ("time", stored, {"units": f"{unit} since 1900-01-01"})}))
    times = read.time.values.astype("datetime64[ns]")
    jittered = times + (np.random.default_rng(0).integers(-9, 9, 200)).astype("timedelta64[ms]")
    assert np.array_equal(settled(jittered), exact)
    assert segments(settled(jittered), "time", "error") == [(0, 200)]


def test_times_that_are_irregular_stay_as_they_are():
    times = np.datetime64("2001-01-01", "ns") + HOUR * np.array([0, 6, 12, 19, 30])
    assert np.array_equal(settled(times), times)
    with pytest.raises(ValueError, match="gaps"):
        segments(times, "time", "error")
    cftime = pytest.importorskip("cftime", reason="dates of other calendars")
    dates = np.array([cftime.DatetimeNoLeap(2001, 1, 1, hour, 0, 0, 7 * hour**2) for hour in range(9)])
    expected = [cftime.DatetimeNoLeap(2001, 1, 1, hour) for hour in range(9)]
    assert list(settled(dates)) == expected


@pytest.mark.parametrize("place", ["start", "middle", "end"])
@pytest.mark.parametrize("months", [1, 3, 12])
def test_calendar_steps_are_steps(place, months):
    starts = np.datetime64("1999-01", "M") + months * np.arange(40)
    ends = (starts + 1).astype("datetime64[ns]")
    first = starts.astype("datetime64[ns]")
    times = {"start": first, "middle": first + (ends - first) // 2, "end": ends - 24 * HOUR}[place]
    assert segments(times, "time", "error") == [(0, 40)]
    with pytest.raises(ValueError, match=rf"1 gap:.*most steps are {months} calendar month"):
        segments(np.delete(times, 7), "time", "error")
    assert segments(np.delete(times, 7), "time", "split") == [(0, 7), (7, 39)]


def test_a_gap_in_days_is_no_calendar_step():
    times = np.datetime64("2001-01-01", "ns") + 24 * HOUR * np.array([0, 1, 2, 31, 32])
    assert segments(times, "time", "split") == [(0, 3), (3, 5)]


def test_windows_say_how_many_a_gap_costs(tmp_path):
    time = np.datetime64("2001-01-01", "ns") + 6 * HOUR * np.array([0, 1, 2, 3, 6, 7, 8, 9])
    ds = xr.Dataset({"t": field().expand_dims(time=time)})
    ds.to_netcdf(tmp_path / "a.nc")
    with pytest.warns(UserWarning, match=r"leaves out 2 windows that would cross one of 1 gap; 4 remain"):
        windows = ga.xarray.Windows(tmp_path / "a.nc", ga.xarray.Schema.of(ds), target_steps=2, gaps="split")
    assert (len(windows), windows.dropped) == (4, 2)


def test_windows_that_are_left_out_are_counted_among_those_that_the_stride_takes(tmp_path):
    time = np.datetime64("2001-01-01", "ns") + 6 * HOUR * np.array([0, 1, 2, 3, 6, 7, 8, 9])
    ds = xr.Dataset({"t": field().expand_dims(time=time)})
    ds.to_netcdf(tmp_path / "a.nc")
    # starts 0, 2, 4 of windows of three steps: the one from 2 crosses
    with pytest.warns(UserWarning, match=r"leaves out 1 window that would cross one of 1 gap; 2 remain"):
        ga.xarray.Windows(tmp_path / "a.nc", ga.xarray.Schema.of(ds), target_steps=2, stride=2, gaps="split")


@pytest.mark.parametrize("levels", [[500.0, 850.0], 2])
def test_a_truth_without_the_levels_of_a_forecast_is_refused_by_a_call_that_works(levels):
    time = np.datetime64("2001-01-01", "ns") + 6 * HOUR * np.arange(4)
    truth = xr.Dataset({"t": field().expand_dims(time=time)})
    forecast = truth.expand_dims(level=levels).expand_dims(lead_time=[0 * HOUR.astype("m8[ns]")]) + 1
    with pytest.raises(ValueError, match="has no such dimension: ") as refusal:
        metrics.bias(forecast, truth)
    names = {"truth": truth, "forecast": forecast}
    exec(str(refusal.value).split(": ", 1)[1].split(" if ")[0], names)
    np.testing.assert_allclose(metrics.bias(forecast, names["truth"]).t, np.ones((1, 2)))


LENGTHS = [("hour", 6.0), ("hours", 6), ("h", 6), ("hr", 6), ("day", 0.25), ("minutes", 360), ("s", 21600)]
LENGTHS += [("hrs", 6), ("week", 1 / 28), ("mins", 360), ("secs", 21600), ("msecs", 21.6e6), ("µs", 21.6e9)]


@pytest.mark.parametrize(("units", "step"), LENGTHS)
def test_lead_times_are_numbers_in_any_of_the_units_of_time(units, step):
    time = np.datetime64("2001-01-01", "ns") + 6 * HOUR * np.arange(8)
    truth = xr.Dataset({"t": field().expand_dims(time=time).copy()})
    truth["t"] = truth.t * xr.DataArray(np.arange(8.0), dims="time")
    leads = [truth.isel(time=slice(k, k + 4)).assign_coords(time=time[:4]) + k for k in (1, 2)]
    numbers = np.array([step, 2 * step])
    forecast = xr.concat(leads, "lead_time").assign_coords(lead_time=("lead_time", numbers, {"units": units}))
    score = metrics.bias(forecast, truth).t
    np.testing.assert_allclose(score, [1, 2])
    assert score.lead_time.dtype.kind == "m"
    bare = forecast.assign_coords(lead_time=numbers)
    with pytest.raises(
        ValueError, match=r"in the units ''.*forecast\['lead_time'\].attrs\['units'\] = 'hours'"
    ):
        metrics.bias(bare, truth)
    bare["lead_time"].attrs["units"] = units
    np.testing.assert_allclose(metrics.bias(bare, truth).t, [1, 2])


def cf(initial="time", lead="lead", valid=None, **coords):
    """A truth that counts its times, and forecasts of it that are above it by their lead time in hours."""
    time = np.datetime64("2001-01-01", "ns") + 6 * HOUR * np.arange(8)
    truth = xr.Dataset({"t": field().expand_dims(time=time).copy()})
    truth["t"] = truth.t * xr.DataArray(np.arange(8.0), dims="time")
    parts = [truth.isel(time=slice(k, k + 4)).assign_coords(time=time[:4]) + 6 * k for k in (1, 2)]
    forecast = xr.concat(parts, "lead").assign_coords(lead=("lead", [6, 12], {"units": "hours"}))
    return forecast.rename(
        {old: new for old, new in (("time", initial), ("lead", lead)) if old != new}
    ), truth


@pytest.mark.parametrize("lengths", [False, True])
def test_initial_and_lead_times_are_found_by_their_standard_names(lengths):
    forecast, truth = cf(initial="start", lead="ahead")
    forecast["start"].attrs["standard_name"] = "forecast_reference_time"
    forecast["ahead"].attrs["standard_name"] = "forecast_period"
    if lengths:  # which say what they are without a name
        forecast = forecast.assign_coords(ahead=pd.to_timedelta([6, 12], "h"))
    for theirs in (truth, truth.rename(time="t0").assign_coords(t0=("t0", truth.time.values, {"axis": "T"}))):
        if "t0" in theirs.coords:
            theirs["t0"].attrs["standard_name"] = "time"
        found = metrics.bias(forecast, theirs).t
        np.testing.assert_allclose(found, [6, 12])
        assert found.ahead.dtype.kind == "m"
        still = metrics.persistence(forecast, theirs)
        np.testing.assert_array_equal(still.t.isel(ahead=1), truth.t[:4])


@pytest.mark.parametrize("along", ["each", "one"])
def test_valid_times_of_a_single_run_are_not_added_to(along):
    _, truth = cf()
    run = truth.isel(time=slice(1, 4)) + 1
    since = xr.DataArray(np.arange(6, 24, 6), dims="time", attrs={"units": "hours"})
    run = run.assign_coords(forecast_reference_time=truth.time.values[0])
    run["time"].attrs["standard_name"] = "time"
    run = run.assign_coords(
        forecast_period=since if along == "each" else since[0].drop_vars("time", errors="ignore")
    )
    np.testing.assert_allclose(metrics.bias(run, truth).t, 1)


def test_persistence_has_the_levels_of_the_forecast():
    truth = levels({"t": [300.2, 500, 850]})
    forecast = truth.sel(level=[850, 300.2]).assign_coords(level=np.float32([850, 300.2])) + 1
    forecast = forecast.expand_dims(lead_time=[0 * HOUR.astype("m8[ns]")])
    still = metrics.persistence(forecast, truth)
    np.testing.assert_array_equal(still.level, forecast.level)
    np.testing.assert_array_equal(still.t[:, 0], truth.t[:, [2, 0]])
    np.testing.assert_allclose(metrics.rmse(still, truth).t, 0)
    with pytest.raises(ValueError, match="the truth lacks level 850"):
        metrics.persistence(forecast, truth.isel(level=[0, 1]))
    with pytest.raises(ValueError, match=r"the truth lies on the .*ga\.xarray\.regrid\(truth, forecast\)"):
        metrics.persistence(forecast, truth.isel(longitude=slice(None, None, 2)))


def test_times_that_a_truth_repeats_are_refused():
    forecast, truth = cf(lead="lead_time")
    twice = xr.concat([truth, truth.isel(time=[2]) + 1], "time")
    with pytest.raises(ValueError, match=r"'time' repeats 2001-01-01T12.*truth\.drop_duplicates\('time'\)"):
        metrics.bias(forecast, twice)


def test_a_single_time_is_a_label_too():
    forecast, truth = cf(lead="lead_time")
    for lead in (slice(None), 0, [1]):
        for one in (forecast.isel(time=1), forecast.isel(time=[1])):
            found = metrics.bias(one.isel(lead_time=lead), truth).t
            np.testing.assert_allclose(found, np.array([6, 12])[lead])
    one = forecast.isel(time=1, lead_time=0)
    assert float(metrics.bias(one, truth.isel(time=2)).t) == pytest.approx(6)
    for wrong in (one, forecast):
        with pytest.raises(ValueError, match="the truth lacks time 2001-01-01T"):
            metrics.bias(wrong, truth.isel(time=5))
    mask = (truth.t > -99).isel(time=5)  # of no time in particular
    np.testing.assert_allclose(metrics.bias(forecast, truth, mask=mask).t, [6, 12])
    later = truth.assign_coords(time=truth.time - 6 * HOUR, step=6 * HOUR.astype("m8[ns]"))
    np.testing.assert_allclose(metrics.bias(forecast, later).t, [6, 12])


@pytest.mark.parametrize("dim", ["time", "lead_time", "latitude"])
def test_what_holds_nothing_is_refused(dim):
    forecast, truth = cf(lead="lead_time")
    for score in (metrics.rmse, metrics.persistence):
        with pytest.raises(ValueError, match=f"the forecast holds nothing: it has no value along '{dim}'"):
            score(forecast.isel({dim: []}), truth)
        if dim == "time":
            with pytest.raises(ValueError, match="the truth holds nothing: it has no value along 'time'"):
                score(forecast, truth.isel(time=[]))


def test_undecoded_times_are_refused_by_the_call_that_decodes():
    numbers = ("time", 6 * np.arange(4), {"units": "hours since 2001-01-01"})
    truth = xr.Dataset({"t": field().expand_dims(time=4)}).assign_coords(time=numbers)
    with pytest.raises(ValueError, match=r"numbers in 'hours since 2001-01-01'.*xarray\.decode_cf"):
        metrics.rmse(truth, truth)
    assert float(metrics.rmse(xr.decode_cf(truth), xr.decode_cf(truth)).t) == 0


# --- levels of their own, regions --------------------------------------------------------------------


def levels(names):
    time = np.datetime64("2001-01-01", "ns") + 6 * HOUR * np.arange(3)
    random = np.random.default_rng(4)
    parts = [
        xr.DataArray(
            random.standard_normal((3, len(own), len(LAT), len(LON))),
            {"time": time, "level": own, "latitude": LAT, "longitude": LON},
            ("time", "level", "latitude", "longitude"),
            name,
        )
        for name, own in names.items()
    ]
    return xr.merge(parts, join="outer", compat="no_conflicts")


@pytest.mark.parametrize("stated", [True, False], ids=["by the attribute", "missing in both"])
def test_variables_with_different_levels_are_scored_each_on_its_own(stated):
    whole = levels({"t": [500, 850], "z": [500, 850]})
    truth = whole if stated else levels({"t": [500, 850], "z": [500]})
    forecast = truth + 1
    if stated:  # as forecasts are written
        schema = ga.xarray.Schema.of(whole, {"t": [500, 850], "z": [500]})
        written = ga.xarray.to_xarray(ga.xarray.to_tensor(whole + 1, schema), schema, whole)
        assert np.isnan(written.z.sel(level=850)).all()
        forecast = written
    found = metrics.rmse(forecast, truth)
    np.testing.assert_allclose(found.t, 1)
    np.testing.assert_allclose(found.z.sel(level=500), 1)
    assert np.isnan(found.z.sel(level=850))


def test_a_level_that_the_forecast_lost_is_not_left_out():
    truth = levels({"t": [500, 850], "z": [500, 850]})
    broken = truth.assign(z=truth.z.where(truth.level == 500))
    with pytest.raises(ValueError, match="missing or infinite"):
        metrics.rmse(broken, truth)


@pytest.mark.parametrize("lat", [np.linspace(90, -90, 37), ga.grids.gaussian(32, 72).lat_axis])
def test_a_slice_is_scored_as_a_region_by_its_own_cells(lat):
    lon = np.arange(0, 360, 5.0)
    truth, error = field(np.zeros((len(lat), 72)), lat, lon), field(None, lat, lon)
    box = {"latitude": slice(65, 30), "longitude": slice(10, 50)}
    found = float(metrics.rmse((truth + error).sel(box), truth.sel(box)))
    part = error.sel(box)
    edges = np.concatenate(([90], (lat[1:] + lat[:-1]) / 2, [-90]))
    rows = -np.diff(np.sin(np.radians(edges)))[np.isin(lat, part.latitude)]
    by_hand = np.sqrt((part.values**2).mean(1) @ rows / rows.sum())
    assert found == pytest.approx(by_hand, rel=2e-3)  # the outer cells of a slice are extrapolated
    inside = (
        (error.latitude <= 65) & (error.latitude >= 30) & (error.longitude >= 10) & (error.longitude <= 50)
    )
    masked = float(metrics.rmse(truth + error, truth, mask=inside.broadcast_like(error)))
    assert masked == pytest.approx(found, rel=2e-2)
    with pytest.raises(ValueError, match=r"truth lies on the \w+ grid .*forecast on the region"):
        metrics.rmse((truth + error).sel(box), truth)


# --- labels -----------------------------------------------------------------------------------------


TARGETS = [ga.grids.equiangular(7, 12), ga.grids.healpix(8), ga.grids.equiangular(91, 180)]


@pytest.mark.parametrize("method", ["nearest", "majority"])
@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_labels_are_taken_not_averaged(method, target):
    source = ga.grids.gaussian(32, 64)
    codes = np.where(source.lon < 180, 13, 17).astype(np.int8)
    codes[source.lat > 60] = 2
    ds = xr.Dataset({"cover": (("latitude", "longitude"), codes, {"flag_values": [2, 13, 17]})})
    ds = ds.assign_coords(ga.xarray.coordinates(source).coords)
    for refused in ("auto", "average", "interpolation"):
        with pytest.raises(
            ValueError, match=r"ds\['cover'\] has flag values.*method='nearest' or method='majority'"
        ):
            ga.xarray.regrid(ds, target, method=refused)
    found = ga.xarray.regrid(ds, target, method=method).cover
    assert found.dtype == np.int8
    assert set(np.unique(found)) <= {2, 13, 17}
    lat, lon = target.lat, target.lon
    clear = (lat > -88) & (abs(lat - 60) > 12) & (abs(lon - 180) > 20) & (lon > 20) & (lon < 340)
    expected = np.where(lat > 60, 2, np.where(lon < 180, 13, 17))
    assert np.array_equal(found.values.reshape(lat.shape)[clear], expected[clear])


def test_the_majority_is_by_area():
    source, target = ga.grids.equiangular(36, 72, poles=False), ga.grids.equiangular(4, 8, poles=False)
    labels = np.random.default_rng(0).integers(0, 3, source.shape)
    found = ga.xarray.Regridder(source, target, "majority")(labels)
    nearest = (source.xyz.reshape(-1, 3) @ target.xyz.reshape(-1, 3).T).round(9).argmax(1)
    shares = np.zeros((target.size, 3))
    np.add.at(shares, (nearest, labels.ravel()), source.weights.ravel())
    decided = np.sort(shares, axis=1)
    decided = decided[:, -1] > 1.1 * decided[:, -2]  # ties between cells are shared, not counted here
    assert decided.sum() > 8
    assert np.array_equal(found.ravel()[decided], shares.argmax(1)[decided])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_integers_and_bools_are_not_averaged(dtype):
    values = field((LAND * 3).astype(dtype), name="soil")
    with pytest.raises(ValueError, match=r"field: the field holds .*method='nearest' or method='majority'"):
        ga.xarray.regrid(values, TARGETS[1])
    assert ga.xarray.regrid(values, TARGETS[1], method="majority").dtype == dtype
    assert ga.xarray.regrid(values.astype(float), TARGETS[1]).dtype == np.float64


def test_labels_of_a_field_that_is_missing_somewhere_are_refused_as_others_are():
    values = field(np.where(LAND, np.nan, 1.0))
    with pytest.raises(ValueError, match="missing"):
        ga.xarray.regrid(values, TARGETS[0], method="nearest")
    found = ga.xarray.regrid(values, TARGETS[0], method="nearest", missing="propagate")
    assert set(np.unique(found.values[np.isfinite(found.values)])) == {1.0}


# --- where things lie in a file ------------------------------------------------------------------------


def series(steps=6):
    time = np.datetime64("2001-01-01", "ns") + 6 * HOUR * np.arange(steps)
    values = np.random.default_rng(8).standard_normal((steps, len(LAT), len(LON)))
    return xr.Dataset({"t": field().expand_dims(time=time).copy(data=values)})


def test_groups_of_a_file_are_named_and_can_be_read(tmp_path):
    ds, path = series(), str(tmp_path / "a.nc")
    ds.to_netcdf(path, group="Grid/Deep")
    schema = ga.xarray.Schema.of(ds)
    with pytest.raises(ValueError, match=r"its variables in the groups \['/Grid/Deep'\]") as refusal:
        ga.xarray.Windows(path, schema)
    assert f"{path}/Grid/Deep" in str(refusal.value)
    windows = ga.xarray.Windows(f"{path}/Grid/Deep", schema)
    assert len(windows) == 5
    np.testing.assert_allclose(windows[0]["input"][0, 0], ds.t[0])
    assert ga.xarray.statistics(f"{path}/Grid/Deep", schema).steps == 6
    with pytest.raises(FileNotFoundError, match="there is no store at"):
        ga.xarray.Windows(str(tmp_path / "b.nc" / "Grid"), schema)


@pytest.mark.parametrize("as_object", [False, True])
def test_a_zarr_store_in_a_zip_file_is_read_by_forked_workers(tmp_path, as_object):
    zarr = pytest.importorskip("zarr", reason="stores are zarr")
    import torch
    from torch.utils.data import DataLoader

    ds, path = series(12), tmp_path / "a.zarr.zip"
    with zarr.storage.ZipStore(path, mode="w") as store:
        ds.to_zarr(store, zarr_format=2, consolidated=False, encoding={"t": {"chunks": (1, *ds.t.shape[1:])}})
    schema = ga.xarray.Schema.of(ds)
    windows = ga.xarray.Windows(zarr.storage.ZipStore(path, mode="r") if as_object else path, schema)
    assert len(windows) == 11
    first = windows[0]["input"]  # the parent has read
    loader = DataLoader(windows, batch_size=1, num_workers=2, multiprocessing_context="fork")
    for _ in range(3):
        batches = [batch["input"][0] for batch in loader]
        assert torch.equal(batches[0], first)
        np.testing.assert_allclose(torch.cat(batches)[:, 0], ds.t[:-1].astype("f4"), rtol=1e-6)


@pytest.mark.parametrize("moving", [False, True])
def test_coordinates_with_a_time_axis_are_refused_by_a_call_that_works(moving):
    base = ga.grids.equiangular(20, 40, poles=False)
    bent = np.clip(base.lat + 2 * np.sin(np.radians(base.lon)), -89, 89)
    lat = np.stack([bent + 0.5 * step * moving for step in range(3)]).clip(-89.5, 89.5)
    lon = np.stack([base.lon] * 3)
    ds = xr.Dataset(
        {"t": (("Time", "y", "x"), np.zeros(lat.shape))},
        {"XLAT": (("Time", "y", "x"), lat), "XLONG": (("Time", "y", "x"), lon)},
    )
    remedies = r"same at every 'Time'.*assign_coords\(XLAT=", r"moves with 'Time'.*ds.isel\(Time=0\)"
    with pytest.raises(ValueError, match=remedies[moving]):
        ga.grids.from_xarray(ds)
    if moving:
        fixed = ds.isel(Time=0)
    else:
        fixed = ds.assign_coords(XLAT=ds["XLAT"].isel(Time=0), XLONG=ds["XLONG"].isel(Time=0))
    assert ga.grids.from_xarray(fixed).size == 800
