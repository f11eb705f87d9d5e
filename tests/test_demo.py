"""The demo at toy size: all its products, resuming, and refusing to mix settings."""

import json
import re

import numpy as np
import pytest

import geoattn as ga
from geoattn.__main__ import main

xarray = pytest.importorskip("xarray")
pytest.importorskip("lightning", reason="the demo trains with Lightning")
pytest.importorskip("matplotlib", reason="the demo draws with matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    main(["demo", "--quick", "--steps", "12", "--output", str(folder)])
    return folder


def test_the_demo_leaves_forecast_scores_pictures_and_checkpoints(folder):
    assert (folder / "forecast.png").read_bytes().startswith(b"\x89PNG")
    for model in ("geodesic-discs", "planar-windows"):
        assert (folder / model / "checkpoints" / "last.ckpt").exists()
        assert (folder / model / "metrics.csv").exists()
    assert not list(folder.glob("*.partial"))


def opened(path):
    return xarray.open_zarr(path, consolidated=False, decode_timedelta=True).load()


def test_the_forecast_store_carries_coordinates_attributes_and_the_grid(folder):
    forecast = opened(folder / "geodesic-discs" / "forecast-test.zarr")
    assert forecast.depth.dims == ("time", "prediction_timedelta", "latitude", "longitude")
    assert forecast.latitude.attrs["units"] == "degrees_north"
    assert forecast.depth.attrs["units"] == "m"
    assert forecast.prediction_timedelta.values[0] == np.timedelta64(3, "h")
    assert ga.grids.from_xarray(forecast) == ga.grids.gaussian(16, 32)
    assert all(np.isfinite(variable).all() for variable in forecast.data_vars.values())


def test_scores_agree_with_the_stores(folder):
    """The printed depth errors again, from the two stores alone."""
    run = folder / "geodesic-discs"
    found = json.loads((run / "evaluation.json").read_text())["test_model"]["rmse"]["depth"]
    forecast = opened(run / "forecast-test.zarr").depth
    truth = opened(folder / "trajectories" / "test.zarr").depth.values.reshape(2, 9, 16, 32)
    mean = ga.grids.gaussian(16, 32).mean((forecast.values - truth[:, 1:5]).astype(float) ** 2).mean(0)
    np.testing.assert_allclose(found, np.sqrt(mean), rtol=1e-5)


def test_its_model_and_data_serve_the_other_commands(folder, tmp_path, capsys):
    """A preset of what ``geoattn train`` and ``geoattn forecast`` run."""
    run = folder / "geodesic-discs"
    main(
        [
            *("forecast", "--checkpoint", str(run / "model.pt"), "--steps", "4"),
            *("--input", str(folder / "trajectories" / "test.zarr"), "--times", "2000-01-07T06"),
            *("--output", str(tmp_path / "forecast.zarr")),
        ]
    )
    again, there = opened(tmp_path / "forecast.zarr"), opened(run / "forecast-test.zarr")
    np.testing.assert_allclose(again.depth[0], there.depth.sel(time=again.time[0]), rtol=1e-5)


def test_a_second_run_continues_with_what_is_there(folder, capsys):
    run = folder / "geodesic-discs"
    kept = [run / "checkpoints" / "last.ckpt", folder / "trajectories" / "test.zarr" / "zarr.json"]
    kept.append(run / "forecast-test.zarr" / "zarr.json")
    before, scores = [path.stat().st_mtime_ns for path in kept], (run / "evaluation.json").read_text()
    main(["demo", "--quick", "--steps", "12", "--output", str(folder)])
    assert "Simulating" not in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert (run / "evaluation.json").read_text() == scores


def test_other_settings_in_the_same_folder_are_refused(folder, capsys):
    assert main(["demo", "--quick", "--steps", "12", "--seed", "1", "--output", str(folder)]) == 2
    assert re.search(r"seed is 0 there, 1 here.*--fresh", capsys.readouterr().err)
