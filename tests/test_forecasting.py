"""Training a forecaster: what a sample is, what is learned from it, and what a folder keeps."""

import json

import numpy as np
import pytest
import torch

for module in ("lightning", "xarray", "zarr", "matplotlib"):
    pytest.importorskip(module, reason="forecasters train on stores with Lightning, and draw their curve")

import lightning  # noqa: E402
import xarray  # noqa: E402

import geoattn as ga  # noqa: E402
from geoattn.training import FitConfig, train_forecaster  # noqa: E402
from geoattn.training.forecasting import Forecasting  # noqa: E402
from geoattn.xarray import Forecaster, Schema, Windows, statistics  # noqa: E402

GRID = ga.grids.gaussian(8, 16)
STEP = np.timedelta64(3, "h")
CONFIG = FitConfig(steps=80, validate_every=40, batch_size=4, learning_rate=1e-2, seed=3, accelerator="cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A wave that runs east, over a height that does not change."""
    path = tmp_path_factory.mktemp("forecasting") / "store.zarr"
    phase = np.radians(GRID.lon_axis)[None, None] - 0.3 * np.arange(48)[:, None, None]
    wave = np.cos(np.radians(GRID.lat_axis))[:, None] * np.cos(phase)
    height = np.random.default_rng(0).standard_normal(GRID.shape)
    xarray.Dataset(
        {
            "wave": (("time", "latitude", "longitude"), wave.astype(np.float32)),
            "height": (("latitude", "longitude"), height.astype(np.float32)),
        },
        {
            "time": np.datetime64("2001-01-01", "ns") + STEP * np.arange(48),
            "latitude": ("latitude", GRID.lat_axis, {"units": "degrees_north"}),
            "longitude": ("longitude", GRID.lon_axis, {"units": "degrees_east"}),
        },
    ).to_zarr(path, consolidated=False)
    return path


def setup(store, **options):
    schema = Schema.of(
        xarray.open_zarr(store, chunks=None, consolidated=False), {"wave": None, "height": None}
    )
    lightning.seed_everything(CONFIG.seed, verbose=False)
    hood = ga.geodesic(GRID, radius=50.0)
    size = {"dim": 16, "depth": 1, "num_heads": 4, "position": "directional", "residual": False}
    config = ga.models.TransformerConfig(GRID, hood, 2, 1, **size)
    forecaster = Forecaster(config.build(), statistics(store, schema), STEP, **options)
    return forecaster, schema


def windows(store, schema, **options):
    return Windows(store, schema, in_memory=True, **options)


def batch_of(windows, *indices):
    return torch.utils.data.default_collate([windows[i] for i in indices])


def nudge(forecaster):
    with torch.no_grad():
        forecaster.network.decoder.projection.weight.normal_(std=0.1)


def test_a_forecaster_learns_and_its_folder_continues_the_run(store, tmp_path):
    forecaster, schema = setup(store, predicts="change")
    data = windows(store, schema, times=slice("2001-01-01", "2001-01-05"))
    validation = windows(store, schema, times=slice("2001-01-05T12", None))
    trained = train_forecaster(forecaster, data, validation, tmp_path, CONFIG, settings={"task": "wave"})
    assert trained is forecaster
    assert not trained.training
    rounds = json.loads((tmp_path / "metrics.json").read_text())["rounds"]
    assert rounds[-1]["val_loss"] < 0.9  # persistence: 1
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["task"] == "wave"
    assert kept["forecaster"]["predicts"] == "change"
    assert "48 steps" in kept["forecaster"]["data"]
    again, _ = setup(store, predicts="change")
    train_forecaster(again, data, validation, tmp_path, CONFIG, settings={"task": "wave"})
    assert again.digest() == forecaster.digest()
    other, _ = setup(store, predicts="state")
    with pytest.raises(ValueError, match=r"forecaster\.predicts is 'change' there, 'state' here"):
        train_forecaster(other, data, validation, tmp_path, CONFIG, settings={"task": "wave"})
    longer = windows(store, schema, target_steps=2)
    with pytest.raises(ValueError, match="target_steps is 1 there, 2 here"):
        train_forecaster(again, longer, validation, tmp_path, CONFIG, settings={"task": "wave"})


def test_all_steps_of_a_rollout_count(store):
    forecaster, schema = setup(store)
    nudge(forecaster)
    data = windows(store, schema, target_steps=3)
    batch = batch_of(data, 0, 5)
    loss = Forecasting(forecaster, CONFIG).loss(batch)
    found = forecaster.loss(batch["input"][:, 0], batch["target"], None, None)
    assert loss.item() == pytest.approx(found.item())
    fields, errors = batch["input"][:, 0], []
    for target in batch["target"].unbind(1):
        fields = forecaster(fields)
        square = ((fields[:, :1] - target) / forecaster.change).square()
        errors.append((square * forecaster.area).sum((-2, -1)).mean())
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_pushforward_learns_from_the_last_step_alone_at_the_forecast_before_it(store):
    forecaster, schema = setup(store)
    nudge(forecaster)
    batch = batch_of(windows(store, schema, target_steps=3), 0, 5)
    loss = Forecasting(forecaster, CONFIG, pushforward=True).loss(batch)
    loss.backward()
    found = {name: p.grad.clone() for name, p in forecaster.named_parameters() if p.grad is not None}
    forecaster.zero_grad()
    with torch.no_grad():
        before = forecaster(forecaster(batch["input"][:, 0]))
    forecaster.loss(before, batch["target"][:, -1:], None, None).backward()
    for name, parameter in forecaster.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad)


def test_windows_that_do_not_fit_are_refused(store, tmp_path):
    forecaster, schema = setup(store)
    good = windows(store, schema)

    def train(data, validation=good):
        train_forecaster(forecaster, data, validation, tmp_path, CONFIG)

    with pytest.raises(ValueError, match="the windows for training are normalised"):
        train(windows(store, schema, normalise=forecaster.statistics))
    with pytest.raises(ValueError, match="those for validation have 2 and 1"):
        train(good, windows(store, schema, input_steps=2))
    with pytest.raises(ValueError, match="the windows for training are of the"):
        train(windows(store, schema.select(["wave"])))
    with pytest.raises(ValueError, match=r"have the targets \['wave', 'height'\]"):
        train(windows(store, schema, targets=["wave", "height"]))
    assert not list(tmp_path.iterdir())


def test_a_window_with_nan_stops_the_run_with_its_times(store, tmp_path):
    forecaster, schema = setup(store)
    data = windows(store, schema)
    data[0]
    data._held[0][7] = np.nan
    with pytest.raises(ValueError, match=r"values of the window from 2001-01-01T(18|21):00:00 to .* are NaN"):
        train_forecaster(forecaster, data, windows(store, schema), tmp_path, CONFIG)
