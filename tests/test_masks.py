"""Values that lack by time, variable and depth: hidden, left out of losses and scores, written back."""

import numpy as np
import pytest
import torch

import geoattn as ga

xr = pytest.importorskip("xarray", reason="forecasts are data sets")
pytest.importorskip("zarr", reason="forecasts are zarr stores")

from geoattn.xarray import Forecaster, Schema, Windows, forecast, metrics, statistics  # noqa: E402

GRID = ga.grids.equiangular(8, 16, poles=False)
STEP = np.timedelta64(6, "h")
DEPTHS = [5.0, 50.0, 500.0]


def ocean(steps=14):
    """A temperature that ends where the sea does, by depth, and ice that comes and goes."""
    random = np.random.default_rng(0)
    wander = random.standard_normal((steps, 4, 8, 16)).astype(np.float32).cumsum(0) * 0.1
    sea = random.random((8, 16)) > np.array([0.2, 0.4, 0.6])[:, None, None]
    seen = random.random((steps, 8, 16)) > 0.3
    seen[3, :, :] = False  # a time without any
    return xr.Dataset(
        {
            "temperature": (("time", "depth", "lat", "lon"), np.where(sea, 10 + wander[:, :3], np.nan)),
            "ice": (("time", "lat", "lon"), np.where(seen & sea[0], 280 + wander[:, 3], np.nan)),
        },
        {
            "time": np.datetime64("2001-01-01", "ns") + np.arange(steps) * STEP,
            "depth": ("depth", DEPTHS, {"units": "m", "positive": "down"}),
            "lat": GRID.lat_axis,
            "lon": GRID.lon_axis,
        },
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The data set, its store, and a forecaster that moves fields."""
    path = tmp_path_factory.mktemp("ocean") / "ocean.zarr"
    ds = ocean()
    ds.to_zarr(path, consolidated=False)
    schema = Schema.of(ds, ["temperature", "ice"], masked={"temperature": "static", "ice": "changing"})
    torch.manual_seed(0)
    hood = ga.geodesic(GRID, radius=40.0)
    config = ga.models.TransformerConfig(GRID, hood, in_channels=4, out_channels=4, dim=8, depth=1)
    network = config.build()
    with torch.no_grad():
        network.decoder.projection.weight.normal_(std=0.05)
    return ds, path, Forecaster(network, statistics(path, schema), STEP)


def batch(path, schema, *samples):
    windows = Windows(path, schema, input_steps=1, target_steps=2)
    found = [windows[i] for i in samples]
    return [
        torch.stack([w[name] for w in found]) for name in ("input", "target", "input_mask", "target_mask")
    ]


def test_losses_are_over_what_was_there_at_both_ends(made):
    _, path, forecaster = made
    inputs, targets, shown, later = batch(path, forecaster.schema, 0, 2, 5)
    found = forecaster.loss(inputs[:, 0], targets, shown[:, 0], later)
    area, change = GRID.shares, forecaster.change.numpy()
    steps = [x.detach().numpy() for x in forecaster.rollout(inputs[:, 0], 2, shown[:, 0])]
    losses = []
    for i, field in enumerate(steps):
        errors = []
        for b in range(3):
            for c in range(4):
                counts = (shown[b, 0, c] & later[b, i, c]).numpy()
                if counts.any():  # sample 2 has no ice at its first target, sample 3 none at the start
                    squares = ((field[b, c] - targets[b, i, c].numpy()) / change[c, 0, 0]) ** 2
                    errors.append((squares * area * counts).sum() / (area * counts).sum())
        losses.append(np.mean(errors))
        assert len(errors) == (12 if i else 11)
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert found.item() < 10  # not in thousands, as with what fills points that the start lacks


def test_what_fills_missing_points_has_no_influence(made):
    _, path, forecaster = made
    inputs, targets, shown, later = batch(path, forecaster.schema, 0, 5)
    other = torch.where(shown, inputs, 1e6), torch.where(later, targets, torch.nan)
    one = forecaster.loss(inputs[:, 0], targets, shown[:, 0], later)
    two = forecaster.loss(other[0][:, 0], other[1], shown[:, 0], later)
    assert one.item() == two.item()
    two.backward()
    assert all(p.grad.isfinite().all() for p in forecaster.network.parameters() if p.grad is not None)
    forecaster.zero_grad()


def test_each_sample_hides_its_own_keys(made):
    _, path, forecaster = made
    schema = forecaster.schema.select(["ice"])
    assert schema.masked
    inputs, _, shown, _ = batch(path, forecaster.schema, 0, 5)
    together = forecaster(inputs[:, 0], shown[:, 0])
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], forecaster(inputs[i : i + 1, 0], shown[i : i + 1, 0]))
    nothing = torch.zeros_like(shown[:1, 0])  # a mask that hides all hides all, and is no NaN
    assert torch.equal(forecaster(inputs[:1, 0], nothing), inputs[:1, 0])


def test_forecasts_lack_what_their_start_lacks_and_are_scored_where_both_have_values(made, tmp_path):
    ds, path, forecaster = made
    forecaster.save(tmp_path / "f.pt")
    times = ["2001-01-01T00", "2001-01-02T06"]
    found = forecast(tmp_path / "f.pt", path, tmp_path / "out.zarr", steps=2, times=times)
    for time in found["time"].values:
        for name in ("temperature", "ice"):
            start = ds[name].sel(time=time).notnull().values
            for lead in range(2):
                there = found[name].sel(time=time).isel(prediction_timedelta=lead).notnull()
                np.testing.assert_array_equal(there.transpose(..., "latitude", "longitude"), start)
    with pytest.raises(ValueError, match="has values that are missing or infinite"):
        metrics.rmse(found, ds, mask="truth")
    scores = metrics.rmse(found, ds, mask="both", over=())
    area = GRID.weights
    for i, time in enumerate(found["time"].values):
        for lead in range(2):
            valid = time + found["prediction_timedelta"].values[lead]
            for depth in (*range(3), None):
                name = "ice" if depth is None else "temperature"
                own = found[name].isel(time=i, prediction_timedelta=lead)
                truth, score = ds[name].sel(time=valid), scores[name].isel(time=i, prediction_timedelta=lead)
                if depth is not None:
                    own, score, truth = (
                        own.isel(level=depth),
                        score.isel(level=depth),
                        truth.isel(depth=depth),
                    )
                error = own.transpose("latitude", "longitude").values - truth.values
                counts = np.isfinite(error)
                expected = np.sqrt((np.where(counts, error, 0.0) ** 2 * area).sum() / area[counts].sum())
                assert float(score) == pytest.approx(expected, rel=1e-6)


def test_ensembles_are_scored_where_all_members_have_values(made):
    ds = made[0][["temperature"]].isel(time=slice(0, 3))
    members = xr.concat([ds, ds + 1.0], "realization")
    members["temperature"][0, :, 0, 2, 3] = np.nan
    found = metrics.crps(members, ds, mask="both", over=())
    assert np.isfinite(found["temperature"]).all()


def test_masks_that_hide_all_are_refused(refused_by, made):
    ds = ocean()
    ds["temperature"] = ds["temperature"].where(ds["depth"] < 100)
    with refused_by("xarray/schema/variable.py", "the mask of {name} hides all") as said:
        Schema.of(ds, masked={"temperature": "static", "ice": "changing"})
    assert "at the level 500.0" in said.message
    upper = {"temperature": [5.0, 50.0]}
    said.run("Schema.of(", "upper", ds=ds, upper=upper, Schema=Schema)
    said.says("masked={'temperature': 'changing'}")
    assert len(Schema.of(ds, upper, masked={"temperature": "static"})) == 2
    assert len(Schema.of(ds, masked={"temperature": "changing", "ice": "changing"})) == 4


def test_channels_without_a_value_make_no_forecaster(tmp_path):
    ds = ocean()
    ds["temperature"] = ds["temperature"].where(ds["depth"] < 100)
    ds.to_zarr(tmp_path / "a.zarr", consolidated=False)
    schema = Schema.of(ds, ["temperature"], masked=["temperature"])
    with pytest.raises(ValueError, match=r"'temperature 500.0' has no value anywhere in the data"):
        Forecaster(torch.nn.Conv2d(3, 3, 1), statistics(tmp_path / "a.zarr", schema), STEP)
