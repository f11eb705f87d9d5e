"""The demo at toy size: all its products, resuming, and refusing to mix settings."""

import json

import numpy as np
import pytest
import torch

from geoattn.__main__ import main

xarray = pytest.importorskip("xarray")
pytest.importorskip("torch_harmonics", reason="the demo simulates with torch-harmonics")
pytest.importorskip("lightning", reason="the demo trains with Lightning")
pytest.importorskip("matplotlib", reason="the demo draws with matplotlib")

from geoattn.tasks.shallow_water.evaluation import persistence, root_mean_square_error  # noqa: E402
from geoattn.tasks.shallow_water.learning import Transitions  # noqa: E402


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


def test_the_forecast_store_carries_coordinates_attributes_and_weights(folder):
    forecast = xarray.open_zarr(folder / "forecast.zarr", consolidated=False)
    assert forecast.depth.dims == ("time", "prediction_timedelta", "latitude", "longitude")
    assert forecast.latitude.attrs["units"] == "degrees_north"
    assert forecast.depth.attrs["units"] == "m"
    assert forecast.prediction_timedelta.values[1] == np.timedelta64(3, "h")
    np.testing.assert_allclose(forecast.cell_area.sum(), 4 * np.pi)
    assert all(np.isfinite(variable).all() for variable in forecast.data_vars.values())


def test_scores_agree_with_the_stores(folder):
    """The printed depth errors again, from the two stores alone."""
    scores = json.loads((folder / "scores.json").read_text())
    forecast = xarray.open_zarr(folder / "forecast.zarr", consolidated=False).load()
    truth = xarray.open_zarr(folder / "trajectories.zarr", consolidated=False).load()
    truth = truth.isel(
        time=slice(-forecast.sizes["time"], None),
        prediction_timedelta=slice(forecast.sizes["prediction_timedelta"]),
    )
    square = (forecast.depth - truth.depth.values) ** 2
    rmse = np.sqrt(square.weighted(forecast.cell_area).mean(["latitude", "longitude"]).mean("time"))
    np.testing.assert_allclose(scores["rmse"]["geodesic discs"]["depth"], rmse, rtol=1e-5)


def test_a_second_run_continues_with_what_is_there(folder, capsys):
    before = (folder / "geodesic-discs" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    scores = (folder / "scores.json").read_text()
    main(["demo", "--quick", "--steps", "12", "--output", str(folder)])
    assert "Reading" in capsys.readouterr().out
    assert (folder / "geodesic-discs" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before
    assert (folder / "scores.json").read_text() == scores


def test_other_settings_in_the_same_folder_are_refused(folder):
    with pytest.raises(SystemExit, match=r"seed is 0 there, 1 here.*--fresh"):
        main(["demo", "--quick", "--steps", "12", "--seed", "1", "--output", str(folder)])


def test_windows_of_a_trajectory_are_successive_states():
    trajectories = torch.arange(2 * 5.0).reshape(2, 5, 1, 1, 1)
    windows = Transitions(trajectories, unroll=2)
    assert len(windows) == 6
    start, targets = windows[4]
    assert start.item() == 6
    assert targets.flatten().tolist() == [7, 8]
    with pytest.raises(ValueError, match="trajectories of 5 states hold no window of 6"):
        Transitions(trajectories, unroll=5)


def test_root_mean_square_error_weighs_by_area():
    import geoattn as ga

    grid = ga.grids.gaussian(4, 8)
    truth = torch.zeros(2, 3, 1, 4, 8)
    forecast = persistence(torch.tensor(np.array(grid.lat)).float().sign()[None, None].expand(2, 1, 4, 8), 2)
    forecast = forecast * torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1, 1)
    expected = torch.full((3, 1), 5.0).sqrt().double()
    torch.testing.assert_close(root_mean_square_error(forecast, truth, grid), expected)
