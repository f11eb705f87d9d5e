"""What stores, scores, forecasts and runs refuse: each remedy that a message names is carried out."""

from datetime import timedelta

import numpy as np
import pandas
import pytest

import geoattn as ga

xr = pytest.importorskip("xarray", reason="the bridge needs xarray")
cftime = pytest.importorskip("cftime", reason="dates of other calendars")
pytest.importorskip("lightning", reason="training stands on Lightning")
pytest.importorskip("matplotlib", reason="runs draw their learning curves")

from test_remedies_fields import FORECAST, GOOD, HOUR, LAND, LAT, SCHEMA, score  # noqa: E402

from geoattn import models  # noqa: E402
from geoattn.training import FitConfig, train_forecaster  # noqa: E402
from geoattn.xarray import Forecaster, Schema, Windows, metrics, statistics  # noqa: E402
from geoattn.xarray.forecasts.rollout_store import RolloutStore  # noqa: E402


def saved(ds, path):
    ds.to_netcdf(path)
    return path


@pytest.fixture
def store(tmp_path):
    return saved(GOOD, tmp_path / "good.nc")


def taken(ds, path, steps=4):
    """A store of the data set is read."""
    assert statistics(saved(ds, path), SCHEMA, gaps="split").steps == steps


# ---------------------------------------------------------------- times and stores


def test_times_of_a_store(refused_by, tmp_path):
    bad = tmp_path / "bad.nc"
    unsorted = GOOD.isel(time=[0, 2, 1, 3])
    with refused_by("xarray/schema/times.py", "{dim} is not sorted") as said:
        Windows(saved(unsorted, bad), SCHEMA)
    taken(said.run("ds.sortby(", ds=unsorted), tmp_path / "a.nc")
    twice = GOOD.isel(time=[0, 1, 1, 2, 3])
    with refused_by("xarray/schema/times.py", "{dim} repeats") as said:
        Windows(saved(twice, tmp_path / "twice.nc"), SCHEMA)
    taken(said.run("ds.drop_duplicates(", ds=twice), tmp_path / "b.nc")
    time = GOOD["time"].values.copy()
    time[2] = "NaT"
    missing = GOOD.assign_coords(time=time)
    with refused_by("xarray/schema/times.py", "missing values, the first at index") as said:
        Windows(saved(missing, tmp_path / "missing.nc"), SCHEMA)
    with pytest.warns(UserWarning, match="leaves out"):
        taken(said.run("ds.isel(", ds=missing), tmp_path / "c.nc", 3)
    with refused_by("xarray/schema/times.py", ", while most steps are ") as said:
        Windows(tmp_path / "c.nc", SCHEMA)
    said.says("gaps='split'")
    with pytest.warns(UserWarning, match="leaves out"):
        assert len(Windows(tmp_path / "c.nc", SCHEMA, gaps="split")) == 1
    bare = GOOD.drop_vars("time")
    with refused_by("xarray/stores/reader.py", "of the {store} has no coordinate") as said:
        Windows(saved(bare, tmp_path / "bare.nc"), SCHEMA)
    taken(said.run("ds.assign_coords(", "GOOD['time']", ds=bare, GOOD=GOOD), tmp_path / "d.nc")
    members = GOOD.expand_dims(number=2)
    with refused_by("xarray/stores/reader.py", "is not among the schema's") as said:
        Windows(saved(members, tmp_path / "members.nc"), SCHEMA)
    taken(said.run("ds.isel(", ds=members), tmp_path / "e.nc")
    with refused_by("xarray/stores/store.py", "expected the path of a store") as said:
        Windows(GOOD, SCHEMA)
    said.run("ds.to_zarr(", ds=GOOD, path=tmp_path / "good.zarr")
    assert len(Windows(tmp_path / "good.zarr", SCHEMA)) == 3


def test_samples_of_several_dimensions(refused_by, tmp_path):
    for dims in ("number",), ("number", "step"):
        ds = GOOD.expand_dims(dict.fromkeys(dims, 2))
        with refused_by("xarray/stores/reader.py", "samples must follow one another along one dim") as said:
            Windows(saved(ds, tmp_path / f"{len(dims)}.nc"), Schema.of(ds))
        taken(said.run("ds.isel(", ds=ds), tmp_path / f"{len(dims)} fixed.nc")
    still = GOOD.isel(time=0, drop=True)
    with pytest.raises(ValueError, match="no variable of the schema changes along any dimension"):
        Windows(saved(still, tmp_path / "still.nc"), Schema.of(still))


def test_stores_that_follow_one_another(refused_by, tmp_path):
    parts = [saved(GOOD.isel(time=s), tmp_path / f"{s.start}.nc") for s in (slice(2, 4), slice(0, 2))]
    with refused_by("xarray/stores/reader.py", "the stores do not follow one another") as said:
        Windows(parts, SCHEMA)
    assert len(Windows(said.run("stores = ", stores=parts), SCHEMA)) == 3
    longer = GOOD.isel(time=slice(1, 4))
    both = [parts[1], saved(longer, tmp_path / "longer.nc")]
    with refused_by("xarray/stores/reader.py", "leave out what both have") as said:
        Windows(both, SCHEMA)
    rest = said.run("ds.isel(", ds=longer)
    assert len(Windows([parts[1], saved(rest, tmp_path / "rest.nc")], SCHEMA)) == 3


def test_statistics_of_another_state(refused_by, store):
    stats = statistics(store, SCHEMA)
    other = Schema.of(GOOD, {"t": [500]})
    with refused_by(
        "xarray/stores/statistics.py",
        "the statistics are those of another schema: {self.schema}, not {reader.schema}",
    ) as said:
        Windows(store, other, normalise=stats)
    again = said.run("ga.xarray.statistics(", store=store, schema=other)
    assert len(Windows(store, other, normalise=again)) == 3
    saved(GOOD + 1, store)
    with refused_by("xarray/stores/statistics.py", "has changed since its statistics were taken") as said:
        Windows(store, SCHEMA, normalise=stats)
    again = said.run("ga.xarray.statistics(", store=store, schema=SCHEMA)
    assert len(Windows(store, SCHEMA, normalise=again)) == 3


def test_files_that_exist(refused_by, store, tmp_path):
    statistics(store, SCHEMA, output=tmp_path / "stats")
    with refused_by("xarray/stores/files.py", "exists; to replace it") as said:
        statistics(store, SCHEMA, output=tmp_path / "stats")
    said.says("overwrite=True")
    assert statistics(store, SCHEMA, output=tmp_path / "stats", overwrite=True).steps == 4


# ---------------------------------------------------------------- scores


ONE = metrics.bias(GOOD, GOOD)["t"] + 1


def right(found):
    found = found["t"] if isinstance(found, xr.Dataset) else found
    np.testing.assert_allclose(found, np.ones(found.shape), rtol=1e-4)


CALENDARS = {"noleap": "noleap", "360_day": "360_day", "standard": "standard"}


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("calendar", CALENDARS)
def test_calendars(refused_by, calendar, array):
    options = {"align_on": "date"} if calendar == "360_day" else {}
    other = GOOD.convert_calendar(calendar, use_cftime=True, **options)
    for ours, theirs in ((GOOD, other), (other, GOOD)):
        forecast, truth = (ours + 1, theirs) if not array else (ours["t"] + 1, theirs["t"])
        with refused_by("xarray/schema/times.py", "{dim} is in the calendar") as said:
            score(forecast, truth)
        right(score(forecast, said.run("truth.convert_calendar(", truth=truth)))


def undecoded(ds):
    hours = (ds["time"] - GOOD["time"][0]) / HOUR
    return ds.assign_coords(time=("time", hours.values.astype(int)))


def textual(ds):
    return ds.assign_coords(time=np.datetime_as_string(ds["time"].values, unit="h"))


def dated(said, name, given, text):
    """What the message makes of data whose times are numbers or text."""
    if not text:
        said.run(f"{name}['time'].attrs", "2001-01-01", **{name: given})
    blanks = ("t", "t") if isinstance(given, xr.DataArray) and not text else ()
    return said.run(f"{name} = ", *blanks, **{name: given})


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("text", [False, True])
def test_numbers_and_text_in_place_of_dates(refused_by, text, array, tmp_path):
    change = textual if text else undecoded
    good, forecast, bare, foretold = (
        ds["t"] if array else ds for ds in (GOOD, FORECAST, change(GOOD), change(FORECAST))
    )
    with refused_by("xarray/schema/times.py", "{theirs.dtype} in {other}: ") as said:
        score(forecast, bare)
    right(score(forecast, dated(said, "truth", bare.copy(), text)))
    with refused_by("xarray/schema/times.py", "{theirs.dtype} in {other}: ") as said:
        score(foretold, good)
    right(score(dated(said, "forecast", foretold.copy(), text), good))
    mask = change(LAND.expand_dims(time=GOOD["time"])).transpose(*LAND.dims, "time").rename("t")
    with refused_by("xarray/schema/times.py", "{theirs.dtype} in {other}: ") as said:
        ga.xarray.mean(GOOD["t"], mask=mask)
    ga.xarray.mean(GOOD["t"], mask=dated(said, "mask", mask, text))
    with refused_by("xarray/scores/metrics.py", "it holds {held}") as said:
        metrics.climatology(bare)
    assert metrics.climatology(dated(said, "ds", bare.copy(), text)).sizes["hour"] == 4
    if text:
        with refused_by("xarray/stores/reader.py", "neither dates nor numbers") as said:
            Windows(saved(textual(GOOD), tmp_path / "text.nc"), SCHEMA)
        fixed = said.run("ds = ", ds=textual(GOOD))
        said.run("ds.to_zarr(", ds=fixed, path=tmp_path / "fixed.zarr")
        assert len(Windows(tmp_path / "fixed.zarr", SCHEMA)) == 3


@pytest.mark.parametrize("array", [False, True])
def test_times_that_are_not_decoded(refused_by, array):
    coded = undecoded(GOOD)
    coded["time"].attrs["units"] = "hours since 2001-01-01"
    for name in ("truth", "forecast", "ds"):
        pair = {"forecast": FORECAST, "truth": GOOD, name: coded + 1 if name == "forecast" else coded}
        given = {key: ds["t"] if array else ds for key, ds in pair.items()}

        def call(given):
            if "ds" in given:
                return metrics.climatology(given["ds"]) * 0 + 1
            return score(**given)

        with refused_by("xarray/scores/lead_times.py", "not dates: decode them first") as said:
            call(given)
        blanks = ("t", "t") if array else ()
        fixed = said.run(f"{name} = ", *blanks, **{name: given[name]})
        right(call({**given, name: fixed}))
    leads = [0 * HOUR.astype("m8[ns]")]
    still = coded.expand_dims(lead_time=leads)
    with refused_by("xarray/scores/lead_times.py", "not dates: decode them first") as said:
        metrics.persistence(GOOD.expand_dims(lead_time=leads), still)
    said.run("truth = ", truth=still)


def test_packed_arrays(refused_by):
    packed = ((GOOD["t"] - 280) / 1e-3).round().astype("i2")
    packed.attrs.update(units="K", scale_factor=1e-3, add_offset=280.0)
    with refused_by("xarray/schema/values.py", "holds numbers as a file stores them") as said:
        score(FORECAST["t"], packed)
    fixed = said.run("truth = ", "t", "t", truth=packed)
    right(score(FORECAST["t"], fixed))
    with refused_by("xarray/schema/values.py", "holds numbers as a file stores them") as said:
        ga.xarray.mean(packed)
    assert ga.xarray.mean(said.run("field = ", "t", "t", field=packed)).notnull().all()


def test_lead_times(refused_by):
    forecast = GOOD.expand_dims(lead_time=[0]) + 1
    with refused_by("xarray/scores/lead_times.py", "not lengths of time: say which they are") as said:
        score(forecast, GOOD)
    said.run("forecast['lead_time'].attrs", forecast=forecast)
    right(score(forecast, GOOD))
    for lead in ("6h", timedelta(hours=6)):
        forecast = (GOOD.isel(time=[1, 2]) + 1).assign_coords(time=GOOD["time"][:2])
        forecast = forecast.expand_dims(lead_time=np.array([lead], object))
        with refused_by("xarray/scores/lead_times.py", "not lengths of time: make them of it") as said:
            score(forecast, GOOD)
        right(score(said.run("forecast = ", forecast=forecast, pandas=pandas), GOOD))

    bare = GOOD.expand_dims(step=2) + 1
    with refused_by("xarray/scores/lead_times.py", "has no coordinate that tells its lead times") as said:
        score(bare, GOOD)
    found = said.run("forecast = ", "0, 0", forecast=bare, pandas=pandas)
    right(score(found.isel(step=[0]), GOOD))


def test_climatologies(refused_by):
    wrong = GOOD.rename(time="valid")
    with refused_by("xarray/scores/metrics.py", "the dimensions are {}: name the") as said:
        metrics.climatology(wrong)
    found = said.run("climatology(", "valid", climatology=metrics.climatology, ds=wrong)
    assert found["t"].sizes["dayofyear"] == 1
    uneven = GOOD.assign_coords(time=GOOD["time"] + np.array([0, 0, 0, 7]) * HOUR)
    with refused_by("xarray/scores/metrics.py", "no sample lies at day") as said:
        metrics.climatology(uneven)
    assert said.run("climatology(", climatology=metrics.climatology, ds=uneven).sizes["dayofyear"] == 2


def test_pairs_of_other_kinds(refused_by):
    for forecast, truth in ((FORECAST, GOOD["t"]), (FORECAST["t"], GOOD)):
        with refused_by("xarray/scores/jobs.py", "forecast and truth must be of one type") as said:
            score(forecast, truth)
        given = {"forecast": forecast, "truth": truth}
        (name,) = (name for name, data in given.items() if isinstance(data, xr.DataArray))
        right(score(**{**given, name: said.run(f"{name}.to_dataset(", "t", **given)}))
    with refused_by("xarray/scores/jobs.py", "if they are of one kind") as said:
        score(FORECAST["t"], GOOD["t"].rename("analysis"))
    right(score(FORECAST["t"], said.run("truth.rename(", truth=GOOD["t"].rename("analysis"))))


def test_ensembles(refused_by):
    one = FORECAST.expand_dims(realization=1)
    with refused_by("xarray/scores/metrics.py", "the fair CRPS needs at least two members") as said:
        metrics.crps(one, GOOD)
    said.says("fair=False")
    right(metrics.crps(one, GOOD, fair=False))
    several = FORECAST.expand_dims(member=3)
    with refused_by("xarray/scores/pairs.py", "the forecast has no ensemble dimension") as said:
        metrics.crps(several, GOOD)
    said.says("ensemble_dim=…")
    right(metrics.crps(several, GOOD, ensemble_dim="member"))

    with refused_by("xarray/scores/pairs.py", "not of members of an ensemble") as said:
        metrics.crps(several, GOOD, ensemble_dim="latitude")
    said.says("ensemble_dim=…")


def test_climatologies_of_times_and_labels(refused_by):
    with refused_by("xarray/scores/pairs.py", "not days of the year: make one of it") as said:
        metrics.acc(FORECAST, GOOD, GOOD)
    found = said.run("ga.xarray.metrics.climatology(", climatology=GOOD)
    xr.testing.assert_identical(found, metrics.climatology(GOOD))
    flags = GOOD.assign(t=GOOD["t"].round().assign_attrs(flag_values=[280, 281]))
    with refused_by("xarray/schema/values.py", "whose average is another label") as said:
        metrics.climatology(flags)
    shares = flags.assign(t=said.run("ds['t'] ==", "280", ds=flags))
    assert float(metrics.climatology(shares)["t"].max()) <= 1
    with refused_by("xarray/schema/values.py", "whose average is another label") as said:
        score(FORECAST, flags)
    share = said.run("truth['t'] ==", "280", truth=flags)
    assert abs(score(FORECAST["t"].round() == 280, share)).max() <= 1


def test_dimensions_of_pairs(refused_by):
    bare = GOOD.drop_vars("level")
    with refused_by("xarray/scores/pairs.py", "that tells which values these are") as said:
        score(FORECAST, bare)
    right(score(FORECAST, said.run("truth = ", truth=bare, forecast=FORECAST)))
    with refused_by("xarray/scores/pairs.py", "that tells which values these are") as said:
        score(FORECAST.drop_vars("level"), GOOD)
    right(score(said.run("forecast = ", truth=GOOD, forecast=FORECAST.drop_vars("level")), GOOD))
    flat = GOOD.isel(level=0, drop=True)
    for forecast in (FORECAST, FORECAST.drop_vars("level")):
        with refused_by("xarray/scores/pairs.py", "the {what} has no such dimension") as said:
            score(forecast, flat)
        assert score(forecast, said.run("truth = ", truth=flat, forecast=forecast))["t"].shape[-1] == 2
    less = GOOD.isel(level=[0]).drop_vars("level")
    with refused_by("xarray/scores/pairs.py", "and neither has a coordinate that tells which") as said:
        score(FORECAST.drop_vars("level"), less)
    forecast = said.run("forecast = ", "500, 850", forecast=FORECAST.drop_vars("level"))
    truth = said.run("truth = ", "500", truth=less)
    right(score(forecast.sel(level=[500]), truth))
    several = GOOD.expand_dims(run=[1, 2])
    with refused_by("xarray/scores/pairs.py", "that the forecast lacks: select") as said:
        score(FORECAST, several)
    right(score(FORECAST, said.run("truth.sel(", "run=1", truth=several).drop_vars("run")))
    still = FORECAST.isel(time=0, drop=True)
    with refused_by("xarray/scores/pairs.py", "the forecast no time: select one") as said:
        score(still, GOOD)
    chosen = said.run("truth.sel(", "time='2001-01-01T00'", truth=GOOD)
    right(score(still, chosen))


def test_times_that_a_pair_does_not_tell(refused_by):
    for given in ("forecast", "truth"):
        pair = {"forecast": FORECAST, "truth": GOOD}
        values = pair[given]["time"].values.copy()
        values[-1] = "NaT"
        pair[given] = pair[given].assign_coords(time=values)
        with refused_by("xarray/scores/lead_times.py", "{missing} missing values: drop them") as said:
            score(**pair)
        pair[given] = said.run(f"{given}.isel(", **pair)
        pair["forecast"] = pair["forecast"].isel(time=slice(0, 1))
        right(score(**pair))
    leads = FORECAST.expand_dims(lead_time=[0 * HOUR.astype("m8[ns]")])
    for numbers in (leads.drop_vars("time"), leads.assign_coords(time=np.arange(leads.sizes["time"]))):
        with refused_by("xarray/scores/lead_times.py", "not dates to which the lead times") as said:
            score(numbers, GOOD)
        dates = said.run("forecast = ", "2001-01-01T00", forecast=numbers.isel(time=[0]), pandas=pandas)
        right(score(dates, GOOD))
    with refused_by("xarray/scores/pairs.py", "has lead times of its own along") as said:
        score(leads, leads)
    right(score(leads, said.run("truth.isel(", truth=leads - 1)))
    for given in ("forecast", "truth"):
        pair = {"forecast": FORECAST.isel(time=[0]), "truth": GOOD.isel(time=[0])}
        pair[given] = pair[given].drop_vars("time")
        with refused_by("xarray/scores/pairs.py", "that tells which times these are") as said:
            score(**pair)
        right(score(**{**pair, given: said.run(f"{given} = ", "2001-01-01", **pair, pandas=pandas)}))


def test_single_levels_and_rows_left_out(refused_by):
    with refused_by("xarray/scores/pairs.py", "select the same of both") as said:
        score(FORECAST.isel(level=0), GOOD.isel(level=1))
    right(score(*(said.run("ds.sel(", ds=ds) for ds in (FORECAST, GOOD))))
    ds = GOOD.interp(latitude=np.linspace(90, -90, 13))
    truth = ds.isel(latitude=[1, 2, 5, 6])
    forecast = truth + abs(truth["latitude"])
    with refused_by("grids/from_region.py", "no slice of a grid") as said:
        metrics.bias(forecast, truth)
    known = [said.run("ds.assign_coords(", ds=side, whole=ds) for side in (forecast, truth)]
    area = ga.xarray.weights(ds).sel(latitude=forecast["latitude"])
    by_hand = (abs(area["latitude"]) * area).sum() / area.sum()
    np.testing.assert_allclose(metrics.bias(*known)["t"], by_hand)


def test_labels_that_the_truth_lacks(refused_by):
    for less in (GOOD.isel(level=[1]), GOOD.isel(time=[1, 2])):
        with refused_by("xarray/scores/pairs.py", "the {what} lacks {dim}") as said:
            score(FORECAST, less)
        right(score(said.run("forecast.sel(", forecast=FORECAST, truth=less), less))
    rounded = FORECAST.isel(level=[1, 0]).assign_coords(level=np.float32([500.2, 300]))
    less = GOOD.isel(level=[0]).assign_coords(level=[500.2])
    with refused_by("xarray/scores/pairs.py", "the {what} lacks {dim}") as said:
        score(rounded, less)
    assert score(said.run("forecast.", forecast=rounded, truth=less), less)["t"].sizes["level"] == 1
    leads = np.array([6, 12]) * HOUR.astype("m8[ns]")
    forecast = (GOOD + 1).expand_dims(lead_time=leads)
    with pytest.raises(ValueError, match="the truth lacks time") as refusal:
        score(forecast, GOOD)
    assert "sel(" not in str(refusal.value)  # valid times are no labels of the forecast


def test_weights_in_place_of_the_grids(refused_by):
    area = ga.xarray.weights(GOOD)
    with refused_by("xarray/scores/pairs.py", "weights must be an xarray DataArray") as said:
        metrics.bias(FORECAST, GOOD, weights=area.values)
    right(metrics.bias(FORECAST, GOOD, weights=said.run("ga.xarray.weights(", ds=GOOD)))
    wrong = area.where(LAND)
    with refused_by("xarray/scores/pairs.py", "weights must be finite numbers of at least 0") as said:
        metrics.bias(FORECAST, GOOD, weights=wrong)
    right(metrics.bias(FORECAST, GOOD, weights=said.run("weights.where(", weights=wrong, counts=LAND)))


# ---------------------------------------------------------------- forecasts and training


def network(schema=SCHEMA):
    hoods = (ga.geodesic(schema.grid, radius=60),)
    config = models.TransformerConfig(
        schema.grid, hoods, len(schema), len(schema), dim=8, depth=1, num_heads=1
    )
    return config.build()


STEP = 6 * HOUR


def test_forecasters(refused_by, store, tmp_path):
    stats = statistics(store, SCHEMA)
    with refused_by("xarray/forecasts/forecaster.py", "are calendar months, of no one length") as said:
        Forecaster(network(), stats, np.timedelta64(1, "M"))
    assert Forecaster(network(), stats, said.run("np.timedelta64(")).step == 720 * HOUR
    models.save(tmp_path / "a.safetensors", network())
    with refused_by(
        "xarray/forecasts/forecaster.py", "holds a model without the statistics and the time step"
    ) as said:
        Forecaster.load(tmp_path / "a.safetensors")
    said.run(
        "ga.xarray.Forecaster(",
        network=network(),
        statistics=stats,
        step=STEP,
        path=tmp_path / "b.safetensors",
    )
    assert Forecaster.load(tmp_path / "b.safetensors").step == STEP


def test_inputs_of_forecasts(refused_by, store, tmp_path):
    forecaster = Forecaster(network(), statistics(store, SCHEMA), STEP)
    bare = undecoded(GOOD)
    with refused_by("xarray/forecasts/forecast.py", "{reader.dim} of {} holds") as said:
        ga.xarray.forecast(forecaster, saved(bare, tmp_path / "bare.nc"), tmp_path / "out.zarr", steps=1)
    fixed = dated(said, "ds", bare, False)
    said.run("ds.to_zarr(", ds=fixed, path=tmp_path / "in.zarr")
    ga.xarray.forecast(forecaster, tmp_path / "in.zarr", tmp_path / "out.zarr", steps=1, progress=False)
    assert (tmp_path / "out.zarr").exists()


def test_unfinished_forecasts(refused_by, store, tmp_path, monkeypatch):
    forecaster = Forecaster(network(), statistics(store, SCHEMA), STEP)
    output = tmp_path / "out.zarr"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(forecaster.network), "forward", killed)
        with pytest.raises(KeyboardInterrupt):
            ga.xarray.forecast(forecaster, store, output, steps=2, progress=False)
    with refused_by("xarray/forecasts/rollout_store.py", "holds an unfinished forecast") as said:
        ga.xarray.forecast(forecaster, store, output, steps=2, progress=False)
    said.says("--resume", "resume=True")
    ga.xarray.forecast(forecaster, store, output, steps=2, progress=False, resume=True)
    assert xr.open_zarr(output, consolidated=False)["t"].notnull().all()


def test_a_store_is_allocated_before_it_is_filled(refused_by, tmp_path):
    pytest.importorskip("zarr", reason="forecasts are zarr stores")
    store = RolloutStore(tmp_path / "a.zarr", {}, resume=False)
    with refused_by("xarray/forecasts/rollout_store.py", "nothing is allocated yet") as said:
        store.done(0)
    said.says("allocate()")
    coords = xr.Dataset(
        coords={"time": [0], "realization": [0], "prediction_timedelta": [0], "latitude": LAT}
    )
    dims = ("time", "realization", "prediction_timedelta", "latitude")
    store.allocate(coords, {"t": (dims, {})}, [[(0, 0)]], {})
    assert store.done(0) == 0


def test_windows_for_a_forecaster(refused_by, store, tmp_path):
    stats = statistics(store, SCHEMA)
    config = FitConfig(steps=1, batch_size=1, validate_every=1, accelerator="cpu")

    def train(windows, forecaster=None):
        forecaster = forecaster or Forecaster(network(), stats, STEP)
        folder = tmp_path / f"run {len(list(tmp_path.iterdir()))}"
        return train_forecaster(forecaster, windows, windows, folder, config)

    windows = Windows(store, SCHEMA)
    long = Forecaster(network(), stats, 2 * STEP)
    with refused_by("training/forecasting.py", "step by {} s, the forecaster by") as said:
        train(windows, long)
    assert train(windows, said.run("ga.xarray.Forecaster(", network=network(), statistics=stats)).step == STEP
    assert (
        train(said.run("Windows(", "store, SCHEMA", "2", Windows=Windows, store=store, SCHEMA=SCHEMA), long)
        is long
    )
    with refused_by("training/forecasting.py", "leave it to the forecaster") as said:
        train(Windows(store, SCHEMA, normalise=stats))
    said.says("normalise=None")
    train(Windows(store, SCHEMA, normalise=None))
    with refused_by("training/forecasting.py", "a forecaster sees one step and predicts others") as said:
        train(Windows(store, SCHEMA, input_steps=2))
    train(said.run("Windows(", "store, SCHEMA", Windows=Windows, store=store, SCHEMA=SCHEMA))


def test_runs(refused_by, store, tmp_path):
    with refused_by("training/config.py", ": take {} steps, or another validate_every") as said:
        FitConfig(steps=10, validate_every=4)
    steps = int(said.message.split("take ")[1].split(" steps")[0])
    assert FitConfig(steps=steps, validate_every=4).steps == 8
    windows = Windows(store, SCHEMA)
    config = FitConfig(steps=1, batch_size=5, validate_every=1, accelerator="cpu")
    forecaster = Forecaster(network(), statistics(store, SCHEMA), STEP)
    with refused_by("training/data.py", "samples fill no batch of") as said:
        train_forecaster(forecaster, windows, windows, tmp_path / "run", config)
    said.says("lower batch_size")
    config = FitConfig(steps=1, batch_size=3, validate_every=1, accelerator="cpu")
    train_forecaster(forecaster, windows, windows, tmp_path / "other", config)
    wild = {"steps": 4, "batch_size": 3, "validate_every": 4, "accelerator": "cpu"}
    with refused_by("training/callbacks.py", "the training loss became") as said:
        wilder = FitConfig(learning_rate=1e30, gradient_norm=None, **wild)
        train_forecaster(forecaster, windows, windows, tmp_path / "wild", wilder)
    said.says("learning_rate", "gradient_norm")
    forecaster = Forecaster(network(), statistics(store, SCHEMA), STEP)
    train_forecaster(forecaster, windows, windows, tmp_path / "tame", FitConfig(learning_rate=1e-3, **wild))
