"""The forecaster: a network between physical states, what its steps keep, and its file."""

import numpy as np
import pytest
import torch

import geoattn as ga

xr = pytest.importorskip("xarray", reason="forecasts are data sets")
pytest.importorskip("zarr", reason="forecasts are zarr stores")

from forecasts import STEP, network, prepared, source  # noqa: E402

from geoattn.xarray import Forecaster, Schema, statistics, to_tensor  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("forecast"))


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
