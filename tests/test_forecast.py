"""Forecasts from store to store: what they hold, and that nothing can half-write or repeat them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.__main__ import main

xr = pytest.importorskip("xarray", reason="forecasts are data sets")
pytest.importorskip("zarr", reason="forecasts are zarr stores")

from geoattn.xarray import Forecaster, Schema, forecast, statistics, to_tensor  # noqa: E402
from geoattn.xarray.forecasts import rollout_store  # noqa: E402
from geoattn.xarray.forecasts.rollout_store import RolloutStore  # noqa: E402

STEP = np.timedelta64(6, "h")
LAND = np.random.default_rng(7).random((7, 12)) < 0.3


def source(steps=12):
    """Temperatures, humidity longitude first, a sea with land, clouds with moving gaps, a static height."""
    random = np.random.default_rng(0)

    def noise(*shape):
        return random.standard_normal(shape).astype(np.float32)

    ds = xr.Dataset(
        {
            "t": (("time", "level", "latitude", "longitude"), 250 + noise(steps, 3, 7, 12), {"units": "K"}),
            "q": (("time", "level", "longitude", "latitude"), noise(steps, 3, 12, 7)),
            "sst": (("time", "latitude", "longitude"), np.where(LAND, np.nan, 290 + noise(steps, 7, 12))),
            "cloud": (("time", "latitude", "longitude"), noise(steps, 7, 12)),
            "z": (("latitude", "longitude"), noise(7, 12), {"units": "m"}),
        },
        {
            "time": np.datetime64("2001-01-01", "ns") + STEP * np.arange(steps),
            "level": ("level", [200, 500, 850], {"units": "hPa"}),
            "latitude": ("latitude", np.linspace(90, -90, 7), {"units": "degrees_north"}),
            "longitude": ("longitude", 30.0 * np.arange(12), {"units": "degrees_east"}),
        },
        {"title": "a source"},
    )
    ds["cloud"] = ds.cloud.where(ds.cloud < 1)
    ds.t.encoding = {"dtype": "int16", "scale_factor": 0.001, "add_offset": 250.0, "_FillValue": -32767}
    return ds


VARIABLES = {"t": [850, 500], "q": [500], "sst": None, "cloud": None, "z": None}
MASKED = {"sst": "static", "cloud": "changing"}


def network(schema, seed=0):
    torch.manual_seed(seed)
    config = ga.models.TransformerConfig(
        schema.grid,
        ga.geodesic(schema.grid, radius=40),
        in_channels=len(schema),
        out_channels=len(schema.changing),
        dim=8,
        depth=1,
        num_heads=2,
    )
    model = config.build()
    with torch.no_grad():
        model.decoder.projection.weight.normal_(std=0.05)  # a new model is persistence
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store, in.zarr, and a forecaster for it, model.pt."""
    folder = tmp_path_factory.mktemp("forecast")
    source().to_zarr(folder / "in.zarr", consolidated=False)
    ds = xr.open_zarr(folder / "in.zarr", chunks=None, consolidated=False)
    schema = Schema.of(ds, VARIABLES, masked=MASKED)
    stats = statistics(folder / "in.zarr", schema)
    Forecaster(network(schema), stats, STEP).save(folder / "model.pt")
    return folder


@pytest.fixture
def run(folder, tmp_path):
    """forecast() with the module's store and model, into the test's folder."""

    def call(output="out.zarr", **options):
        options = {"steps": 3, "progress": False, "device": "cpu", **options}
        return forecast(folder / "model.pt", folder / "in.zarr", tmp_path / output, **options)

    return call


def same_bits(a, b):
    """Whether two stores hold the same numbers, coordinates and attributes, missing values included."""
    a, b = (xr.open_zarr(path, chunks=None, consolidated=False, decode_timedelta=True) for path in (a, b))
    xr.testing.assert_identical(a, b)
    return all(a[name].values.tobytes() == b[name].values.tobytes() for name in a.variables)


# --- the forecaster ---------------------------------------------------------------------------------


def test_a_forecaster_comes_back_from_its_file(folder):
    forecaster = Forecaster.load(folder / "model.pt")
    assert forecaster.step == STEP
    assert forecaster.schema.labels == ("t 850", "t 500", "q 500", "sst", "cloud", "z")
    ds = source().isel(time=[0, 1])
    fields, mask = to_tensor(ds, forecaster.schema, return_mask=True, dtype=torch.float32)
    stepped = forecaster(fields, mask)
    again = Forecaster.load(folder / "model.pt")
    assert torch.equal(again(fields, mask), stepped)
    assert torch.equal(stepped[:, 5], fields[:, 5])  # static
    assert torch.equal(stepped[~mask], fields[~mask])
    assert not torch.equal(stepped[:, :5][mask[:, :5]], fields[:, :5][mask[:, :5]])


def test_what_is_missing_has_no_influence(folder):
    forecaster = Forecaster.load(folder / "model.pt")
    fields, mask = to_tensor(
        source().isel(time=[0]), forecaster.schema, return_mask=True, dtype=torch.float32
    )
    other = torch.where(mask, fields, fields + 100.0)
    one, two = (forecaster(f, mask) for f in (fields, other))
    assert torch.equal(one[mask], two[mask])


def test_points_where_nothing_is_known_are_hidden_from_attention(folder):
    stats = Forecaster.load(folder / "model.pt").statistics
    sea = stats.select(stats.schema.select(["sst"]))
    forecaster = Forecaster(network(sea.schema), sea, STEP)
    fields, mask = to_tensor(source().isel(time=[0, 1]), sea.schema, return_mask=True, dtype=torch.float32)
    normal = sea.normalise(fields, mask)
    expected = sea.denormalise(forecaster.network(normal, key_mask=mask[:, 0]))
    with torch.no_grad():
        stepped = forecaster(fields, mask)
        torch.testing.assert_close(stepped[mask], expected[mask])
        seen = sea.denormalise(forecaster.network(normal))
    assert (stepped - seen)[mask].abs().max() > 1e-4


def test_a_new_network_is_persistence_with_a_loss_of_one(folder):
    """By the definition of the unit: the mean squared change, over the mean squared change."""
    forecaster = Forecaster.load(folder / "model.pt")
    torch.nn.init.zeros_(forecaster.network.decoder.projection.weight)
    ds = source()[["t", "q", "sst", "cloud", "z"]]
    fields, mask = to_tensor(ds, forecaster.schema, return_mask=True, dtype=torch.float32)
    changing = forecaster.changing
    with torch.no_grad():
        both = mask[:-1] & mask[1:]
        loss = forecaster.loss(fields[:-1], fields[1:, None, changing], mask[:-1], both[:, None, changing])
    assert loss.item() == pytest.approx(1, rel=0.05)  # the mean change is not quite 0


def test_forecasters_refuse_what_they_cannot_scale_or_fit(folder):
    good = Forecaster.load(folder / "model.pt")
    schema, stats = good.schema, good.statistics
    small = network(schema.select(["t"]))
    with pytest.raises(ValueError, match="the network has in_channels 2, but the schema"):
        Forecaster(small, stats, STEP)
    with pytest.raises(ValueError, match="a step leads forward"):
        Forecaster(network(schema), stats, -STEP)
    ds = source()
    still = ds[["t"]].copy(deep=True)
    still["t"][:] = still.t[0].values
    still.t.encoding = {}
    still.to_zarr(folder / "still.zarr", consolidated=False)
    schema = Schema.of(still)
    with pytest.raises(ValueError, match="'t 200' never changes"):
        Forecaster(network(schema), statistics(folder / "still.zarr", schema), STEP)
    ga.models.save(folder / "bare.pt", network(schema))
    with pytest.raises(ValueError, match="holds a model without the statistics"):
        Forecaster.load(folder / "bare.pt")


# --- what a step keeps ------------------------------------------------------------------------------

FLOW = ga.grids.gaussian(12, 24)
AREA = torch.tensor(FLOW.weights / FLOW.weights.sum(), dtype=torch.float32)


class Doubling(torch.nn.Module):
    """Mixes channels and pushes hard, so that whatever a step keeps is kept by the forecaster."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mix = torch.nn.Conv2d(3, 3, 1)
        torch.nn.init.constant_(self.mix.weight, 2.0)

    def forward(self, fields):
        return self.mix(fields)


def flow(path, masked=None):
    """Statistics of three channels of noise, and the noise ``[12, 3, 12, 24]``."""
    values = np.random.default_rng(0).standard_normal((12, 3, *FLOW.shape)).astype(np.float32)
    if masked is not None:
        values[:, 0, masked] = np.nan
    dims = ("time", "latitude", "longitude")
    ds = xr.Dataset(
        {name: (dims, values[:, c]) for c, name in enumerate(("depth", "vorticity", "divergence"))},
        {
            "time": np.datetime64("2001-01-01", "ns") + STEP * np.arange(12),
            "latitude": ("latitude", FLOW.lat_axis, {"units": "degrees_north"}),
            "longitude": ("longitude", FLOW.lon_axis, {"units": "degrees_east"}),
        },
    )
    ds.to_zarr(path, consolidated=False)
    variables = dict.fromkeys(("depth", "vorticity", "divergence"))
    schema = Schema.of(ds, variables, masked={} if masked is None else {"depth": "static"})
    return statistics(path, schema), torch.from_numpy(np.nan_to_num(values))


def mean_of(fields, seen=1.0):
    return (fields * AREA * seen).sum((-2, -1)) / (AREA * seen).sum((-2, -1))


def variance_of(fields, seen=1.0):
    return mean_of((fields - mean_of(fields, seen)[..., None, None]) ** 2, seen)


def test_a_network_that_predicts_changes_gives_them_in_units_of_the_typical_change(tmp_path):
    stats, fields = flow(tmp_path / "flow.zarr")
    forecaster = Forecaster(Doubling(), stats, STEP, predicts="change")
    with torch.no_grad():
        given = forecaster.network(stats.normalise(fields))
        scale = torch.tensor(stats.tendencies.std, dtype=torch.float32)[:, None, None]
        torch.testing.assert_close(forecaster(fields), fields + scale * given)
    with pytest.raises(ValueError, match="predicts 'state' or 'change', got 'tendency'"):
        Forecaster(Doubling(), stats, STEP, predicts="tendency")


@pytest.mark.parametrize("predicts", ["state", "change"])
def test_a_step_keeps_the_area_means_and_never_raises_the_variance_above_that_of_the_training_states(
    tmp_path, predicts
):
    stats, training = flow(tmp_path / "flow.zarr")
    options = {"predicts": predicts, "conserve": True, "bound_variance": True}
    forecaster = Forecaster(Doubling(), stats, STEP, **options)
    start = training[:3]
    with torch.no_grad():
        after = forecaster(forecaster(start))
        torch.testing.assert_close(mean_of(after), mean_of(start), atol=1e-5, rtol=0)
        largest = variance_of(training).amax(0)
        torch.testing.assert_close(variance_of(after), largest.expand(3, 3), rtol=1e-4, atol=0)
        strong = 3 * start  # what was larger before may stay, and does not grow
        torch.testing.assert_close(variance_of(forecaster(strong)), variance_of(strong), rtol=1e-4, atol=0)
        assert torch.isfinite(forecaster(torch.zeros(1, 3, *FLOW.shape))).all()
        for free in ("conserve", "bound_variance"):  # each by its own option
            other = Forecaster(Doubling(), stats, STEP, **{**options, free: False})
            kept = other(other(start))
            assert torch.allclose(mean_of(kept), mean_of(start), atol=1e-5) == (free != "conserve")
            assert bool((variance_of(kept) < 1.001 * largest).all()) == (free != "bound_variance")


def test_means_and_variances_are_over_the_points_with_values(tmp_path):
    holes = np.random.default_rng(1).random(FLOW.shape) < 0.4
    stats, training = flow(tmp_path / "flow.zarr", masked=holes)
    mask = torch.ones(3, 3, *FLOW.shape, dtype=torch.bool)
    mask[:, 0] = torch.from_numpy(~holes)
    start = training[:3]
    forecaster = Forecaster(Doubling(), stats, STEP, predicts="change", conserve=True, bound_variance=True)
    with torch.no_grad():
        after = forecaster(forecaster(start, mask), mask)
    torch.testing.assert_close(mean_of(after, mask), mean_of(start, mask), atol=1e-5, rtol=0)
    largest = variance_of(training, mask[:1]).amax(0)
    torch.testing.assert_close(variance_of(after, mask), largest.expand(3, 3), rtol=1e-4, atol=0)


def test_how_steps_are_taken_travels_in_the_file(folder, tmp_path):
    plain = Forecaster.load(folder / "model.pt")
    options = {"predicts": "change", "conserve": True, "bound_variance": True}
    forecaster = Forecaster(network(plain.schema), plain.statistics, STEP, **options).eval()
    forecaster.save(tmp_path / "model.pt")
    again = Forecaster.load(tmp_path / "model.pt", forecaster.network.config)
    assert again.options == options
    assert again.digest() == forecaster.digest() != plain.digest()
    fields, mask = to_tensor(source().isel(time=[0]), plain.schema, return_mask=True, dtype=torch.float32)
    assert torch.equal(again(fields, mask), forecaster(fields, mask))
    with pytest.raises(ValueError, match="holds another model"):
        Forecaster.load(tmp_path / "model.pt", ga.models.TransformerConfig(FLOW, ga.everything(FLOW), 3, 3))


def test_a_rollout_is_one_step_after_the_other(folder):
    forecaster = Forecaster.load(folder / "model.pt")
    fields, mask = to_tensor(
        source().isel(time=[0]), forecaster.schema, return_mask=True, dtype=torch.float32
    )
    with torch.no_grad():
        found = list(forecaster.rollout(fields, 3, mask))
        for stepped in found:
            fields = forecaster(fields, mask)
            assert torch.equal(stepped, fields)
    assert len(found) == 3


# --- what a forecast holds --------------------------------------------------------------------------


def test_a_forecaster_forecasts_as_its_file_does(run, folder, tmp_path):
    out = run()
    forecaster = Forecaster.load(folder / "model.pt").train()
    forecaster.network.library = torch  # as some networks hold one: they cannot be copied
    same = {"steps": 3, "progress": False}
    mine = forecast(forecaster, folder / "in.zarr", tmp_path / "mine.zarr", **same)
    xr.testing.assert_identical(mine.drop_attrs(deep=False), out.drop_attrs(deep=False))
    assert forecaster.training
    with torch.no_grad():
        forecaster.network.decoder.projection.weight.mul_(2)
    with pytest.raises(ValueError, match="is another forecast: checkpoint is"):
        forecast(forecaster, folder / "in.zarr", tmp_path / "mine.zarr", **same, resume=True)


def test_a_forecast_has_the_inputs_coordinates_and_weatherbench2s_dimensions(run):
    out = run(times=["2001-01-01T06", "2001-01-02"], steps=4)
    ds = source()
    assert out.t.dims == ("time", "prediction_timedelta", "level", "latitude", "longitude")
    assert out.q.dims == ("time", "prediction_timedelta", "level", "longitude", "latitude")
    assert out.sst.dims == ("time", "prediction_timedelta", "latitude", "longitude")
    assert out.t.attrs == {"units": "K"}
    assert out.attrs["title"] == "a source"
    assert "z" not in out
    np.testing.assert_array_equal(out.time, np.array(["2001-01-01T06", "2001-01-02"], "M8[ns]"))
    np.testing.assert_array_equal(out.prediction_timedelta, STEP * np.arange(1, 5))
    assert out.time.attrs["standard_name"] == "forecast_reference_time"
    assert out.prediction_timedelta.attrs["standard_name"] == "forecast_period"
    for name in ("latitude", "longitude"):
        xr.testing.assert_identical(out[name], ds[name])
    xr.testing.assert_identical(out.level, ds.level.sel(level=[850, 500]))
    assert all(variable.dtype == np.float32 for variable in out.data_vars.values())


def test_levels_and_rows_are_called_as_weatherbench2_calls_them_unless_told_otherwise(tmp_path):
    source().rename(latitude="lat", longitude="lon", level="plev").to_zarr(
        tmp_path / "in.zarr", consolidated=False
    )
    schema = Schema.of(
        xr.open_zarr(tmp_path / "in.zarr", chunks=None, consolidated=False), VARIABLES, masked=MASKED
    )
    stats = statistics(tmp_path / "in.zarr", schema)
    Forecaster(network(schema), stats, STEP).save(tmp_path / "model.pt")

    def run(output, **options):
        paths = (tmp_path / "model.pt", tmp_path / "in.zarr", tmp_path / output)
        return forecast(*paths, steps=2, progress=False, device="cpu", **options)

    out, kept = run("standard.zarr"), run("kept.zarr", names="input")
    assert out.q.dims == ("time", "prediction_timedelta", "level", "longitude", "latitude")
    assert kept.q.dims == ("time", "prediction_timedelta", "plev", "lon", "lat")
    renamed = kept.rename(lat="latitude", lon="longitude", plev="level")
    xr.testing.assert_identical(out.drop_attrs(deep=False), renamed.drop_attrs(deep=False))
    assert ga.grids.from_xarray(out) == ga.grids.from_xarray(kept) == schema.grid


def test_a_forecast_is_the_rollout_of_the_forecaster(run, folder):
    out = run(times=["2001-01-01T06", "2001-01-02"], steps=3)
    forecaster = Forecaster.load(folder / "model.pt")
    ds = xr.open_zarr(folder / "in.zarr", chunks=None, consolidated=False).sel(time=out.time)
    fields, mask = to_tensor(ds, forecaster.schema, return_mask=True, dtype=torch.float32)
    for lead in range(3):
        with torch.inference_mode():
            fields = forecaster(fields, mask)
        shown = torch.where(mask, fields, torch.nan).numpy()
        found = out.isel(prediction_timedelta=lead)
        np.testing.assert_array_equal(found.t, shown[:, :2])
        np.testing.assert_array_equal(found.q.sel(level=500).transpose("time", "latitude", ...), shown[:, 2])
        assert found.q.sel(level=850).isnull().all()
        np.testing.assert_array_equal(found.sst, shown[:, 3])
        np.testing.assert_array_equal(found.cloud, shown[:, 4])


def test_masks_are_restored(run):
    out, ds = run(times=["2001-01-01T06"]), source()
    np.testing.assert_array_equal(out.sst.isnull().values, np.broadcast_to(LAND, (1, 3, 7, 12)))
    started = ds.cloud.sel(time="2001-01-01T06").isnull().values
    assert 0 < started.sum() < started.size
    np.testing.assert_array_equal(out.cloud.isnull().values, np.broadcast_to(started, (1, 3, 7, 12)))


def test_the_last_time_is_the_default_start(run):
    np.testing.assert_array_equal(run().time, source().time[-1:])


def test_ensembles_start_from_states_perturbed_by_the_seed(run):
    options = {"times": ["2001-01-01", "2001-01-02"], "members": 3, "steps": 2, "batch_size": 4}
    out = run("a.zarr", **options)
    assert out.t.dims == ("time", "realization", "prediction_timedelta", "level", "latitude", "longitude")
    np.testing.assert_array_equal(out.realization, [0, 1, 2])
    control = run("control.zarr", times=options["times"], steps=2)
    np.testing.assert_allclose(out.t.isel(realization=0), control.t, rtol=1e-6)
    spread = out.t.std("realization")
    assert (spread > 0).all()
    again, other = run("b.zarr", **options), run("c.zarr", **options, seed=1)
    assert again.t.identical(out.t)
    assert not np.array_equal(other.t.isel(realization=1), out.t.isel(realization=1))
    assert other.t.isel(realization=0).identical(out.t.isel(realization=0))
    wide = run("d.zarr", **options, perturbation=1.0)
    assert wide.t.std("realization").mean() > 3 * spread.mean()
    # noise follows the initial time itself, whichever other times are asked for
    alone = run("e.zarr", **{**options, "times": ["2001-01-02"]})
    np.testing.assert_allclose(alone.t[0], out.t[1], rtol=1e-6)
    np.testing.assert_array_equal(out.sst.isnull()[0, 1, 0], LAND)


def test_weatherbench2s_scores_read_a_forecast_as_it_is(run):
    out = run(times=["2001-01-01", "2001-01-01T12"])[["t"]]
    score = ga.xarray.metrics.rmse(out, source()[["t"]])
    assert score.t.dims == ("prediction_timedelta", "level")
    assert (score.t > 0).all()


def test_dates_of_other_calendars(folder, tmp_path):
    ds = source()[["t"]]
    ds = ds.assign_coords(
        time=xr.date_range("2001-02-27", periods=12, freq="6h", calendar="noleap", use_cftime=True)
    )
    ds.t.encoding = {}
    ds.to_zarr(tmp_path / "in.zarr", consolidated=False)
    schema = Schema.of(ds)
    Forecaster(network(schema), statistics(tmp_path / "in.zarr", schema), STEP).save(tmp_path / "model.pt")
    out = forecast(
        tmp_path / "model.pt", tmp_path / "in.zarr", tmp_path / "out.zarr", steps=2, times=["2001-02-28T18"]
    )
    assert out.time.values[0] == ds.time.values[7]
    assert ga.xarray.metrics.bias(out, ds).t.shape == (2, 3)
    with pytest.raises(ValueError, match="'tomorrow' is no time"):
        forecast(tmp_path / "model.pt", tmp_path / "in.zarr", tmp_path / "o", steps=2, times=["tomorrow"])


# --- stopping and continuing ------------------------------------------------------------------------


class Stopped(Exception):
    pass


STOPPED = {"times": ["2001-01-01", "2001-01-02"], "members": 2, "steps": 4, "batch_size": 3}


@pytest.fixture(scope="module")
def whole(folder):
    """The forecast that STOPPED asks for, made without a break."""
    path = folder / "whole.zarr"
    forecast(folder / "model.pt", folder / "in.zarr", path, progress=False, device="cpu", **STOPPED)
    return path


@pytest.mark.parametrize(
    ("place", "function", "after"),
    [
        (rollout_store._Record, "write", 0),
        (rollout_store._Record, "write", 1),
        (rollout_store._Record, "write", 6),
        (rollout_store, "sync", 0),
        (rollout_store, "sync", 3),
        (rollout_store, "sync", 4),
        (rollout_store.shutil, "rmtree", 0),
    ],
)
def test_a_forecast_stopped_anywhere_continues_to_the_same_bits(
    run, whole, tmp_path, monkeypatch, place, function, after
):
    count = [0]
    original = getattr(place, function)

    def stop(*arguments, **options):
        if count[0] == after:
            raise Stopped
        count[0] += 1
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, function, stop)
        with pytest.raises(Stopped):
            run(**STOPPED)
    named = function == "rmtree"
    assert (tmp_path / "out.zarr").exists() == named
    unfinished = (tmp_path / "out.zarr.unfinished").exists()
    assert unfinished == ((function, after) != ("write", 0))  # before, it has no name
    if unfinished and not named:
        with pytest.raises(FileExistsError, match="unfinished forecast: continue it by --resume"):
            run(**STOPPED)
    run(**STOPPED, resume=True)
    assert same_bits(tmp_path / "out.zarr", whole)
    assert not (tmp_path / "out.zarr.unfinished").exists()


def reached(record):
    """Lead times that are finished, over all batches."""
    return sum(map(len, json.loads(record.read_text())["done"]))


def test_a_forecast_killed_at_a_random_moment_continues_to_the_same_bits(folder, tmp_path):
    arguments = ["forecast", "--checkpoint", str(folder / "model.pt"), "--input", str(folder / "in.zarr")]
    arguments += ["--steps", "60", "--times", "2001-01-01T00", "2001-01-02T12", "--members", "2"]
    arguments += ["--batch-size", "2", "--device", "cpu"]
    output, record = tmp_path / "out.zarr", tmp_path / "out.zarr.unfinished" / "progress.json"
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(ga.__file__).parent.parent), *sys.path])
    command = [sys.executable, "-m", "geoattn", *arguments]
    process = subprocess.Popen(
        [*command, "--output", str(output)], env=environment, stderr=subprocess.DEVNULL
    )
    while process.poll() is None:
        if record.exists() and reached(record):
            time.sleep(np.random.default_rng().uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "the forecast ended before it was killed"
    assert not output.exists()
    assert 0 < reached(record) < 2 * 60
    assert main([*arguments, "--output", str(output), "--resume"]) == 0
    assert main([*arguments, "--output", str(tmp_path / "whole.zarr")]) == 0
    assert same_bits(output, tmp_path / "whole.zarr")
    assert not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / "out.zarr.unfinished").exists()


@pytest.fixture
def stopped(run, tmp_path, monkeypatch):
    """The folder of a forecast that stopped after six lead times."""
    original, count = RolloutStore.write, [0]

    def write(self, *arguments):
        if count[0] == 6:
            raise Stopped
        count[0] += 1
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RolloutStore, "write", write)
        with pytest.raises(Stopped):
            run(**STOPPED)
    return tmp_path / "out.zarr.unfinished"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def a_chunk(store):
    """A file of the first batch's second lead time."""
    files = [path for path in (store / "t" / "c").rglob("*") if path.is_file()]
    (first, *_) = (path for path in sorted(files) if path.relative_to(store).parts[-4] == "1")
    return first


DAMAGES = [flip, Path.unlink, lambda path: path.write_bytes(b"")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_lead_time_is_made_again(run, whole, stopped, tmp_path, damage):
    before = reached(stopped / "progress.json")
    damage(a_chunk(stopped / "store.zarr"))
    with pytest.warns(UserWarning, match="lead time 2 of batch 1 .* is damaged: it and the later ones"):
        run(**STOPPED, resume=True)
    assert before == 6
    assert same_bits(tmp_path / "out.zarr", whole)


def test_damaged_coordinates_are_made_again(run, whole, stopped, tmp_path):
    flip(next(path for path in (stopped / "store.zarr" / "latitude" / "c").rglob("*") if path.is_file()))
    with pytest.warns(UserWarning, match="damaged: the forecast is made again from its start"):
        run(**STOPPED, resume=True)
    assert same_bits(tmp_path / "out.zarr", whole)


@pytest.mark.filterwarnings("error:.*made again")
def test_what_is_recorded_is_on_the_disk_before(run, whole, stopped, tmp_path, monkeypatch):
    synced, original, known = set(), os.fsync, []

    def fsync(handle):
        synced.add(os.readlink(f"/proc/self/fd/{handle}"))
        original(handle)

    write_record = rollout_store._Record.write

    def record(self, path):
        store = stopped / "store.zarr"
        files = {str(path) for path in store.rglob("*") if "c" in path.parts and path.is_file()}
        known.append({path for path in files - before if path not in synced})
        write_record(self, path)

    before = {str(path) for path in stopped.rglob("*")}
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(rollout_store._Record, "write", record)
    run(**STOPPED, resume=True)
    assert known
    assert not any(known)
    assert same_bits(tmp_path / "out.zarr", whole)


def test_a_second_process_is_refused(run, tmp_path):
    holder = "import sys, pathlib, geoattn._files as f\n"
    holder += "with f.lock(pathlib.Path(sys.argv[1])): print(flush=True); input()"
    command = [sys.executable, "-c", holder, str(tmp_path / "out.zarr")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(ga.__file__).parents[1]), *sys.path])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        process.stdout.readline()
        with pytest.raises(BlockingIOError, match=r"another process is working on .*out\.zarr"):
            run(resume=True)
        process.communicate(b"\n")
    run(resume=True)


@pytest.mark.parametrize("name", ["notes.txt", "progress.json"])
def test_a_folder_without_our_mark_is_left_alone(run, tmp_path, name):
    folder = tmp_path / "out.zarr.unfinished"
    folder.mkdir()
    (folder / name).write_text('{"done": 3}')
    with pytest.raises(FileExistsError, match="is no unfinished forecast of this version"):
        run(resume=True)
    assert (folder / name).read_text() == '{"done": 3}'
    run("other.zarr")
    os.replace(tmp_path / "other.zarr", tmp_path / "out.zarr")
    run(resume=True)  # finished: what lies beside it is no business of ours
    assert (folder / name).read_text() == '{"done": 3}'


def test_resuming_a_finished_forecast_leaves_it_as_it_is(run, tmp_path, monkeypatch):
    run()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    # nothing is written, not even a lock: the folder may be read-only
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("a file is opened to be written"))
    run(resume=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.filterwarnings("error:.*not recognized as a component")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_finished_forecast_that_was_damaged_is_made_again_from_there(run, whole, tmp_path, damage):
    shutil.copytree(whole, tmp_path / "out.zarr")
    untouched = next(p for p in (tmp_path / "out.zarr" / "t" / "c").rglob("0/0/0/0/0/0") if p.is_file())
    before = untouched.stat().st_mtime_ns
    damage(a_chunk(tmp_path / "out.zarr"))
    with pytest.warns(UserWarning, match="lead time 2 of batch 1 .* is damaged: it and the later ones"):
        run(**STOPPED, resume=True)
    assert same_bits(tmp_path / "out.zarr", whole)
    assert untouched.stat().st_mtime_ns == before, "sound lead times are not made again"


def test_a_finished_forecast_with_damaged_descriptions_is_made_again(run, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out.zarr")
    flip(next(p for p in (tmp_path / "out.zarr" / "latitude" / "c").rglob("*") if p.is_file()))
    with pytest.warns(UserWarning, match="damaged: the forecast is made again from its start"):
        run(**STOPPED, resume=True)
    assert same_bits(tmp_path / "out.zarr", whole)


def test_a_finished_forecast_without_checksums_is_taken_as_it_is_with_a_warning(run, tmp_path):
    run()
    (tmp_path / "out.zarr" / rollout_store.RECORD).unlink()
    with pytest.warns(UserWarning, match="carries no checksums: it is taken as it is"):
        run(resume=True)


# --- refusals ---------------------------------------------------------------------------------------


def test_nothing_is_overwritten_or_mixed_up(run, tmp_path):
    run()
    with pytest.raises(FileExistsError, match=r"out\.zarr' exists: give another output"):
        run()
    with pytest.raises(ValueError, match="is another forecast: steps is 3 there, 4 here"):
        run(steps=4, resume=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "data").write_text("kept")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="precious"):
            run("precious", resume=resume)
    assert (tmp_path / "precious" / "data").read_text() == "kept"


def test_a_changed_input_is_no_longer_the_same_request(folder, tmp_path):
    shutil.copytree(folder / "in.zarr", tmp_path / "in.zarr")
    options = {"steps": 2, "progress": False}
    forecast(folder / "model.pt", tmp_path / "in.zarr", tmp_path / "out.zarr", **options)
    chunk = next(path for path in (tmp_path / "in.zarr" / "t" / "c").rglob("*") if path.is_file())
    os.utime(chunk)
    with pytest.raises(ValueError, match="another forecast: input is"):
        forecast(folder / "model.pt", tmp_path / "in.zarr", tmp_path / "out.zarr", **options, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda ds: ds.isel(latitude=slice(None, None, -1)),
            r"does not fit .*model.pt'.* the data set has the points of the schema.*7×12.*south "
            r"first.*ds\.isel\(latitude=",
        ),
        (
            lambda ds: ds.drop_vars("q"),
            r"the data set lacks \['q'\] of the schema, it has \[.*'sst'",
        ),
        (lambda ds: ds.sel(level=[200, 850]), r"lacks the levels \[500\]: there are \[200, 850\]"),
        (
            lambda ds: ds.assign(t=ds.t.assign_attrs(units="degC")),
            "'t' is in 'degC' in the data set, but in 'K' in the schema",
        ),
        (lambda ds: ds.isel(time=[0, 2, 1]), "not sorted"),
        (lambda ds: ds.assign(t=ds.t.where(ds.level > 500)), "'t 500' is nan at time .*declares no mask"),
    ],
)
def test_an_input_that_does_not_fit_the_checkpoint_is_refused(folder, tmp_path, change, message):
    ds = change(source())
    for variable in ds.variables.values():
        variable.encoding = {}
    ds.to_zarr(tmp_path / "in.zarr", consolidated=False)
    with pytest.raises(ValueError, match=message):
        forecast(folder / "model.pt", tmp_path / "in.zarr", tmp_path / "out.zarr", steps=2, progress=False)
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": "cf"}, "names must be 'weatherbench2' or 'input', got 'cf'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"members": 0}, "members must be at least 1"),
        ({"perturbation": -1.0}, "perturbation must not be negative"),
        ({"times": ["2001-01-01T03"]}, "the input has no time 2001-01-01T03: it has 12, 2001-01-01T00"),
        ({"times": []}, "times is empty"),
        ({"times": ["soon"]}, "'soon' is no time; write it as"),
        ({"times": ["2001-01-01", "2001-01-01"]}, "asked for twice"),
    ],
)
def test_impossible_requests_name_the_mistake_and_write_nothing(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)
    assert not list(tmp_path.iterdir())


def test_a_forecast_that_leaves_the_finite_numbers_stops(folder, tmp_path):
    forecaster = Forecaster.load(folder / "model.pt")
    torch.nn.init.constant_(forecaster.network.decoder.projection.bias, float("inf"))
    forecaster.save(tmp_path / "wild.pt")
    with pytest.raises(FloatingPointError, match=r"'t 850' from 2001-01-03T18.* at step 1"):
        forecast(tmp_path / "wild.pt", folder / "in.zarr", tmp_path / "out.zarr", steps=2, progress=False)
    assert not (tmp_path / "out.zarr").exists()


def test_the_command_says_what_is_wrong_without_a_traceback(folder, tmp_path, capsys):
    arguments = ["forecast", "--input", str(folder / "in.zarr"), "--output", str(tmp_path / "out.zarr")]
    assert main([*arguments, "--checkpoint", "nowhere.pt", "--steps", "2"]) == 1
    assert "geoattn forecast: there is no model at 'nowhere.pt'" in capsys.readouterr().err
    arguments += ["--checkpoint", str(folder / "model.pt"), "--steps", "2"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "2/2" in captured.err
    assert str(tmp_path / "out.zarr") in captured.out
    assert main(arguments) == 1
    assert "exists" in capsys.readouterr().err
