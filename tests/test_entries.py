"""Data sets and masks that do not fit are refused alike wherever they enter, by the value and the remedy."""

import numpy as np
import pytest

import geoattn as ga

xr = pytest.importorskip("xarray", reason="the bridge needs xarray")
cftime = pytest.importorskip("cftime", reason="dates of other calendars")

from geoattn.__main__ import main  # noqa: E402
from geoattn.training import FitConfig, train_forecaster  # noqa: E402
from geoattn.xarray import Forecaster, Schema, Windows, metrics, statistics, to_tensor  # noqa: E402

HOUR = np.timedelta64(1, "h")
LAT, LON = np.linspace(90, -90, 7), np.arange(0, 360, 30.0)
LEVELS = [500.2, 850.0]  # one that float32 rounds
DIMS = ("time", "level", "latitude", "longitude")


def data(lat=LAT, lon=LON, steps=8, dtype="f4"):
    values = 280 + np.random.default_rng(0).standard_normal((steps, 2, len(lat), len(lon)))
    coords = {
        "time": np.datetime64("2001-01-01", "ns") + 6 * HOUR * np.arange(steps),
        "level": LEVELS,
        "latitude": lat,
        "longitude": lon,
    }
    return xr.Dataset({"t": (DIMS, values.astype(dtype), {"units": "K"})}, coords)


GOOD = data()
SCHEMA = Schema.of(GOOD)


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.nc"
    GOOD.to_netcdf(path)
    config = ga.models.TransformerConfig(
        grid=SCHEMA.grid,
        hoods=(ga.geodesic(SCHEMA.grid, radius=60),),
        in_channels=2,
        out_channels=2,
        dim=8,
        depth=1,
        num_heads=1,
    )
    return Forecaster(config.build(), statistics(path, SCHEMA), 6 * HOUR)


def cli(ds, path, forecaster, capsys):
    forecaster.save(path.with_suffix(".pt"))
    arguments = [
        "--checkpoint",
        path.with_suffix(".pt"),
        "--input",
        path,
        "--output",
        path.with_suffix(".out"),
    ]
    status = main(["forecast", *map(str, arguments), "--steps", "1"])
    if status:
        raise ValueError(capsys.readouterr().err)


def trained(ds, path, forecaster, capsys):
    windows = Windows(path, SCHEMA)
    config = FitConfig(steps=1, batch_size=1, validate_every=1)
    train_forecaster(forecaster, windows, windows, path.parent / "run", config)


#: entry → the call of it with a data set, the same on disk, and a forecaster
BY_SCHEMA = {
    "to_tensor": lambda ds, path, forecaster, capsys: to_tensor(ds, SCHEMA),
    "Windows": lambda ds, path, forecaster, capsys: Windows(path, SCHEMA)[0],
    "statistics": lambda ds, path, forecaster, capsys: statistics(path, SCHEMA),
    "DataModule": lambda ds, path, forecaster, capsys: ga.xarray.DataModule(path, SCHEMA, train=slice(None)),
    "forecast": lambda ds, path, forecaster, capsys: ga.xarray.forecast(
        forecaster, path, path.with_suffix(".zarr"), steps=1, progress=False
    ),
    "geoattn forecast": cli,
    "train_forecaster": trained,
}
BY_PAIR = {
    "the truth of rmse": lambda ds, *_: metrics.rmse(GOOD, ds),
    "the truth of acc": lambda ds, *_: metrics.acc(GOOD, ds, metrics.climatology(GOOD, hours=False)),
    "the truth of crps": lambda ds, *_: metrics.crps(GOOD.expand_dims(realization=2), ds),
    "the climatology": lambda ds, *_: metrics.acc(GOOD, GOOD, metrics.climatology(ds, hours=False)),
    "the truth of a region": lambda ds, *_: metrics.rmse(
        GOOD.isel(latitude=slice(1, 5)), ds.isel(latitude=slice(1, 5))
    ),
}


def noleap(ds):
    return ds.convert_calendar("noleap", use_cftime=True)


def packed(ds):
    """As a file stores it, opened without decoding."""
    stored = ((ds.t - 280) / 1e-3).round().astype("i2")
    return ds.assign(t=stored.assign_attrs(units="K", scale_factor=1e-3, add_offset=280.0))


#: what is wrong → the data set, words of the refusal by a schema, words of the refusal by a forecast
BAD = {
    "a variable is missing": (
        GOOD.rename(t="q"),
        r"the data set lacks \['t'\] of the schema, it has \['q'\].*ds\.rename\(q='t'\)",
        r"lacks \['t'\] of the forecast, it has \['q'\].*\.rename\(q='t'\)",
    ),
    "other units": (
        GOOD.assign(t=(GOOD.t - 273.15).assign_attrs(units="degC")),
        r"'t' is in 'degC' in the data set, but in 'K' in the schema.*ds\['t'\] \+ 273\.15",
        r"'t' is in 'degC' in the .*, but in 'K' in the forecast.*\['t'\] \+ 273\.15",
    ),
    "levels are missing": (
        GOOD.sel(level=LEVELS[:1]),
        r"lacks the levels \[850\.0\]: there are \[500\.2\]",
        r"lacks level 850.0 .*that the forecast has",
    ),
    "levels in other units": (
        GOOD.assign_coords(level=[50020, 85000]),
        r"lacks the levels \[500\.2, 850\.0\].*ds\.assign_coords\(level=ds\['level'\] / 100\)",
        r"lacks level 500.2 .*that the forecast has",
    ),
    "levels without names": (
        GOOD.drop_vars("level"),
        r"'level' of 't' has no coordinate that names its levels: ds = ds\.assign_coords\(level=",
        r"has no coordinate along 'level'.*\.assign_coords\(level=forecast\['level'\]\)",
    ),
    "another grid": (
        data(lat=np.linspace(90, -90, 9)),
        r"lies on the equiangular grid 9×12.*ga\.xarray\.regrid\(ds, schema\.grid\)",
        r"lies on the .*9×12.*ga\.xarray\.regrid\(.*, forecast\)|points along 'latitude'|at index"
        r"|truth lies on the region .*forecast on the region .*bring one to the other, ga\.xarray\.regrid",
    ),
    "off by more than the tolerance": (
        data(lon=LON + 0.5),
        r"lies on the equiangular grid .*ga\.xarray\.regrid\(ds, schema\.grid\)",
        r"lies on the .*ga\.xarray\.regrid\(.*, forecast\)|differ along 'longitude': at index 0",
    ),
    "south first": (
        GOOD.isel(latitude=slice(None, None, -1)),
        r"in another order.*ds\.isel\(latitude=slice\(None, None, -1\)\)",
        r"\.isel\(latitude=slice\(None, None, -1\)\)|differ along 'latitude': at index 0"
        r"|truth lies on the region .*forecast on the region .*bring one to the other, ga\.xarray\.regrid",
    ),
    "packed numbers": (
        packed(GOOD),
        r"ds\['t'\] holds numbers as a file stores them, with scale_factor 0\.001.*xarray\.decode_cf\(ds\)",
        r"\['t'\] holds numbers as a file stores them, with scale_factor 0\.001.*xarray\.decode_cf\(",
    ),
    "another kind of numbers": (
        GOOD.astype("i2"),
        r"'t' holds int16 in the data set, but float32 in the schema.*astype\('<f4'\)",
        None,
    ),
    "text": (GOOD.astype(str), r"ds\['t'\] holds <U\d+, not real numbers.*astype\(float\)", None),
    "no latitudes": (
        GOOD.drop_vars("latitude"),
        "no latitude found",
        "no latitude found|differ along 'latitude'",
    ),
    "a dimension more": (GOOD.expand_dims(number=2), r"'number'.*ds\.isel\(number=0\)", "'number'"),
    "another calendar": (
        noleap(GOOD),
        None,
        r"'time' is in the calendar 'noleap'.*\.convert_calendar\('standard'",
    ),
}
#: what an entry takes in its own way, and why
TAKES = {
    ("to_tensor", "a dimension more"): "dimensions beside the grid's lead the tensor",
    **{(entry, "packed numbers"): "stores are decoded as they are opened" for entry in BY_SCHEMA},
    ("the climatology", "another calendar"): "it has days of the year, whatever the calendar",
    ("the climatology", "a dimension more"): "",
}
del TAKES["to_tensor", "packed numbers"]


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("entry", [*BY_SCHEMA, *BY_PAIR])
def test_what_does_not_fit_is_refused_at_every_entry(entry, what, forecaster, tmp_path, capsys):
    ds, by_schema, by_pair = BAD[what]
    words = by_schema if entry in BY_SCHEMA else by_pair
    if words is None or (entry, what) in TAKES:
        pytest.skip("not of this entry")
    path = tmp_path / "bad.nc"
    if entry in BY_SCHEMA:
        ds.to_netcdf(path)
    with pytest.raises(ValueError, match=words):
        {**BY_SCHEMA, **BY_PAIR}[entry](ds, path, forecaster, capsys)


@pytest.mark.parametrize("entry", [*BY_SCHEMA, *BY_PAIR])
@pytest.mark.parametrize(
    "name", ["as it is", "float32 coordinates", "another spelling of the units", "doubles"]
)
def test_what_fits_is_taken_at_every_entry(entry, name, forecaster, tmp_path, capsys):
    ds = {
        "as it is": GOOD,
        "float32 coordinates": GOOD.assign_coords(
            longitude=(LON + 1e-5).astype("f4"), latitude=LAT.astype("f4"), level=np.float32(LEVELS)
        ),
        "another spelling of the units": GOOD.assign(t=GOOD.t.assign_attrs(units="kelvin")),
        "doubles": GOOD.astype("f8"),
    }[name]
    path = tmp_path / "good.nc"
    ds.to_netcdf(path)
    {**BY_SCHEMA, **BY_PAIR}[entry](ds, path, forecaster, capsys)


# --- masks ------------------------------------------------------------------------------------------

LAND = xr.DataArray(
    np.random.default_rng(1).random((len(LAT), len(LON))) < 0.4,
    {"latitude": LAT, "longitude": LON},
    ("latitude", "longitude"),
)
MASKED = {
    "mean of an array": lambda mask: ga.xarray.mean(GOOD.t, mask=mask),
    "mean of a data set": lambda mask: ga.xarray.mean(GOOD, mask=mask).t,
    "the accessor": lambda mask: GOOD.geoattn.mean(mask=mask).t,
    "a Dataset of masks": lambda mask: (
        ga.xarray.mean(GOOD, mask=mask if not isinstance(mask, xr.DataArray) else mask.to_dataset(name="t")).t
    ),
    "rmse": lambda mask: metrics.rmse(GOOD.t, GOOD.t + 1, mask=mask),
    "acc": lambda mask: metrics.acc(GOOD, GOOD, 0 * metrics.climatology(GOOD), mask=mask).t,
    "crps": lambda mask: metrics.crps(GOOD.expand_dims(realization=2), GOOD, mask=mask).t,
}
BAD_MASKS = {
    "a fraction": (LAND.astype(float), r"holds float64, but must be True.*> 0\.5"),
    "percent": (LAND * 100, r"holds int64, but must be True.*> 50"),
    "bytes": (LAND.astype("u1"), r"holds uint8, but must be True.*> 0\.5"),
    "south first": (LAND[::-1], r"other direction.*\.isel\(latitude=slice\(None, None, -1\)\)"),
    "from −180°": (
        LAND.assign_coords(longitude=(LON + 180) % 360 - 180).sortby("longitude"),
        r"counts 'longitude' from -180.*% 360\)\.sortby\('longitude'\)",
    ),
    "off by more": (
        LAND.assign_coords(longitude=LON + 0.5),
        r"differ along 'longitude': at index 0.*nearest",
    ),
    "coarser": (LAND[::2, ::2], r"4 points along 'latitude'.*method='nearest'"),
    "fewer, without coordinates": (
        LAND[1:].drop_vars(["latitude", "longitude"]),
        "6 points along 'latitude'",
    ),
    "other levels": (LAND.expand_dims(level=[500.2, 700]), "lacks level 850.0"),
    "other times": (
        LAND.expand_dims(time=GOOD.time + HOUR),
        r"lacks time 2001-01-01T00:00:00\.0+ and 7 more",
    ),
    "another calendar": (
        LAND.expand_dims(time=noleap(GOOD).time.values),
        r"'time' is in the calendar 'noleap'.*mask.*\.convert_calendar\('standard'",
    ),
}


@pytest.mark.parametrize("what", BAD_MASKS)
@pytest.mark.parametrize("entry", MASKED)
def test_masks_that_do_not_fit_are_refused_at_every_entry(entry, what):
    mask, words = BAD_MASKS[what]
    with pytest.raises(ValueError, match=words):
        MASKED[entry](mask)


@pytest.mark.parametrize("entry", MASKED)
def test_what_is_no_mask_is_refused_at_every_entry(entry):
    with pytest.raises(
        TypeError, match=r"DataArray of bool, got ndarray.*xarray\.DataArray\(mask, field\.coords"
    ):
        MASKED[entry](LAND.values)


GOOD_MASKS = {
    "as it is": LAND,
    "turned": LAND.T,
    "float32 coordinates": LAND.assign_coords(latitude=LAT.astype("f4"), longitude=LON.astype("f4")),
    "off by less": LAND.assign_coords(longitude=LON + 0.02),
    "other names": LAND.rename(latitude="lat", longitude="lon"),
    "without coordinates": LAND.drop_vars(["latitude", "longitude"]),
    "of every level": LAND.expand_dims(level=LEVELS),
    "of every level, float32": LAND.expand_dims(level=np.float32(LEVELS)),
    "of every time": LAND.expand_dims(time=GOOD.time.values),
    "of every time, jittered": LAND.expand_dims(
        time=GOOD.time.values + np.timedelta64(3, "ms") * np.array([0, 1, 2, -1, 1, 0, 2, 1])
    ),
}


@pytest.mark.parametrize("what", GOOD_MASKS)
@pytest.mark.parametrize("entry", MASKED)
def test_masks_that_fit_count_the_same_points_at_every_entry(entry, what):
    xr.testing.assert_allclose(MASKED[entry](GOOD_MASKS[what]), MASKED[entry](LAND))


def test_a_mask_of_latitudes_counts_whole_rows():
    rows = GOOD.latitude > 20
    whole = rows.broadcast_like(LAND)
    for call in MASKED.values():
        xr.testing.assert_allclose(call(rows), call(whole))


def test_masks_of_lists_of_points_are_compared_point_by_point():
    nested, ring = ga.grids.healpix(4), ga.grids.healpix(4, "ring")
    coords = {"lat": ("cell", nested.lat), "lon": ("cell", nested.lon)}
    field = xr.DataArray(nested.lat, coords, ("cell",), "t")
    other = xr.DataArray(
        ring.lat > 0, {"lat": ("cell", ring.lat), "lon": ("cell", ring.lon)}, ("cell",), "north"
    )
    for call in (lambda m: ga.xarray.mean(field, mask=m), lambda m: metrics.bias(field, 0 * field, mask=m)):
        with pytest.raises(
            ValueError, match=r"lies elsewhere.*regrid\(mask, (field|forecast), method='nearest'"
        ):
            call(other)
        moved = ga.xarray.regrid(other, field, method="nearest")
        assert float(call(moved)) == pytest.approx(nested.lat[nested.lat > 0].mean())


def test_weights_in_place_of_the_grids_lie_on_the_points_too():
    area = ga.xarray.weights(GOOD)
    error = GOOD + abs(GOOD.latitude - 45)
    found = metrics.bias(error, GOOD, weights=area.where(area.latitude > 20, 0.0)).t
    with pytest.raises(ValueError, match=r"weights runs along 'latitude'.*weights\.isel\(latitude="):
        metrics.bias(
            error, GOOD, weights=area.where(area.latitude > 20, 0.0).isel(latitude=slice(None, None, -1))
        )
    for wrong in (-area, area / 0):
        with pytest.raises(ValueError, match="weights must be finite numbers of at least 0"):
            metrics.bias(error, GOOD, weights=wrong)
    with pytest.raises(TypeError, match=r"weights must be an xarray DataArray.*ga\.xarray\.weights\(ds\)"):
        metrics.bias(error, GOOD, weights=area.values)
    rows = (LAT > 20) * SCHEMA.grid.weights[:, 0]
    assert float(found[0]) == pytest.approx(float((abs(LAT - 45) * rows).sum() / rows.sum()), rel=1e-5)


# --- regridding -------------------------------------------------------------------------------------


def test_regridding_looks_at_the_numbers_too():
    target = ga.grids.healpix(4)
    with pytest.raises(
        ValueError, match=r"holds numbers as a file stores them, with scale_factor.*decode_cf\(ds\)"
    ):
        ga.xarray.regrid(packed(GOOD), target)
    with pytest.raises(ValueError, match=r"ds\['when'\], datetime64.*ds\.drop_vars\('when'\)"):
        ga.xarray.regrid(GOOD.assign(when=GOOD.t.astype("datetime64[ns]")), target)
    with pytest.raises(ValueError, match=r"ds\['rows'\], float32 over .*ds\.drop_vars\('rows'\)"):
        ga.xarray.regrid(GOOD.assign(rows=GOOD.t.mean("longitude")), target)
    with pytest.raises(
        TypeError, match=r"coordinates would not be looked at: ga\.xarray\.regrid\(field, target\)"
    ):
        ga.xarray.Regridder(SCHEMA.grid, target)(GOOD.t)


def test_means_look_at_the_numbers_too():
    for field in (packed(GOOD), GOOD.assign(t=GOOD.t.assign_attrs(_FillValue=-999.0))):
        with pytest.raises(
            ValueError, match=r"ds\['t'\] holds numbers as a file stores them.*decode_cf\(ds\)"
        ):
            ga.xarray.mean(field)
    with pytest.raises(ValueError, match=r"field holds numbers.*field\.to_dataset\(name='…'\)"):
        ga.xarray.mean(packed(GOOD).t)
    xr.testing.assert_allclose(ga.xarray.mean(xr.decode_cf(packed(GOOD))), ga.xarray.mean(GOOD), atol=1e-3)


# --- stores that follow one another, and steps ---------------------------------------------------------


def test_stores_of_several_calendars_do_not_follow_one_another(tmp_path):
    later = GOOD.assign_coords(time=GOOD.time + np.timedelta64(48, "h"))
    GOOD.to_netcdf(tmp_path / "a.nc")
    noleap(later).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(
        ValueError, match=r"calendar 'noleap' in the netCDF file .*ds\.convert_calendar\('standard'"
    ):
        Windows([tmp_path / "a.nc", tmp_path / "b.nc"], SCHEMA)
    noleap(later).convert_calendar("standard", use_cftime=False, dim="time").to_netcdf(tmp_path / "c.nc")
    assert len(Windows([tmp_path / "a.nc", tmp_path / "c.nc"], SCHEMA)) == 15


@pytest.mark.parametrize("count", [1.5, True, "2", None])
def test_numbers_of_steps_are_whole(count, forecaster, tmp_path):
    GOOD.to_netcdf(path := tmp_path / "a.nc")
    calls = {name: lambda **given: Windows(path, SCHEMA, **given) for name in ("input_steps", "target_steps")}
    calls |= dict.fromkeys(("step", "stride"), calls["input_steps"])
    calls["lag"] = lambda lag: statistics(path, SCHEMA, lag=lag)
    calls["steps"] = lambda steps: ga.xarray.forecast(forecaster, path, tmp_path / "f.zarr", steps=steps)
    calls["members"] = lambda members: ga.xarray.forecast(
        forecaster, path, tmp_path / "f.zarr", steps=1, members=members
    )
    calls["batch_size"] = lambda batch_size: FitConfig(batch_size=batch_size)
    for name, call in calls.items():
        with pytest.raises(TypeError, match=f"{name} must be (an integer|a whole number), got {count!r}"):
            call(**{name: count})


def test_stores_that_hold_nothing_are_refused(tmp_path):
    GOOD.isel(time=[]).to_netcdf(path := tmp_path / "a.nc")
    for call in (Windows, statistics):
        with pytest.raises(ValueError, match="holds nothing: it has no value along 'time'"):
            call(path, SCHEMA)


def test_a_forecaster_learns_from_windows_of_its_own_step(forecaster, tmp_path):
    GOOD.to_netcdf(tmp_path / "a.nc")
    windows = Windows(tmp_path / "a.nc", SCHEMA, step=2)
    config = FitConfig(steps=1, batch_size=1, validate_every=1)
    with pytest.raises(
        ValueError, match=r"step by 43200 s, the forecaster by 21600 s.*np\.timedelta64\(43200, 's'\)"
    ):
        train_forecaster(forecaster, windows, windows, tmp_path / "run", config)
    with pytest.raises(ValueError, match="calendar months, of no one length"):
        Forecaster(forecaster.network, forecaster.statistics, np.timedelta64(1, "M"))
