"""Forecasts from store to store: what they hold, and what is refused."""

import os
import shutil
import warnings

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.__main__ import main

xr = pytest.importorskip("xarray", reason="forecasts are data sets")
pytest.importorskip("zarr", reason="forecasts are zarr stores")

from forecasts import LAND, MASKED, STEP, VARIABLES, network, prepared, runner, source  # noqa: E402
from stores import chunk_files  # noqa: E402

from geoattn.xarray import Forecaster, Schema, forecast, statistics, to_tensor  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("forecast"))


@pytest.fixture
def run(folder, tmp_path):
    return runner(folder, tmp_path)


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


def test_a_forecast_opens_without_a_warning(run, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run()
        ds = xr.open_zarr(tmp_path / "out.zarr", chunks=None, decode_timedelta=True)
        plain = xr.open_zarr(tmp_path / "out.zarr", chunks=None, decode_timedelta=True, consolidated=False)
    xr.testing.assert_identical(ds, plain)


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
    chunk = chunk_files(tmp_path / "in.zarr" / "t")[0]
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
        ({"perturbation": -1.0}, "perturbation must be finite and not negative, got -1.0"),
        ({"perturbation": float("inf")}, "perturbation must be finite and not negative, got inf"),
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
    assert main([*arguments, "--checkpoint", "nowhere.pt", "--steps", "2"]) == 2
    assert "geoattn forecast: there is no model at 'nowhere.pt'" in capsys.readouterr().err
    arguments += ["--checkpoint", str(folder / "model.pt"), "--steps", "2"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no bar but on a terminal
    assert str(tmp_path / "out.zarr") in captured.out
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err
