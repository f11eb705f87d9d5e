"""Statistics of stores: the moments of the whole, however it is cut, and never those of another store."""

import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import geoattn as ga

xr = pytest.importorskip("xarray", reason="the bridge needs xarray")
pytest.importorskip("zarr", reason="stores are zarr")

import stores  # noqa: E402

from geoattn.xarray.stores.reader import Reader  # noqa: E402

Schema, Statistics, statistics = ga.xarray.Schema, ga.xarray.Statistics, ga.xarray.statistics

GRID = ga.grids.gaussian(8, 16)
MASKED = {"sst": "static", "ice": "changing"}
NAMES = ["t", "sst", "ice", "z"]


def fields(steps=10, seed=0, mean=280.0, std=5.0):
    """With a land mask, values that come and go, two levels, a static field; longitude first."""
    random = np.random.default_rng(seed)

    def noise(*shape):
        return (mean + std * random.standard_normal(shape)).astype(np.float32)

    land, gone = random.random((8, 16)) < 0.3, random.random((steps, 8, 16)) < 0.2
    return xr.Dataset(
        {
            "t": (("time", "longitude", "latitude", "level"), noise(steps, 16, 8, 2)),
            "sst": (("time", "latitude", "longitude"), np.where(land, np.nan, noise(steps, 8, 16))),
            "ice": (("time", "latitude", "longitude"), np.where(gone, np.nan, noise(steps, 8, 16))),
            "z": (("latitude", "longitude"), noise(8, 16)),
        },
        {
            "time": np.datetime64("2001-01-01", "ns") + np.arange(steps) * np.timedelta64(6, "h"),
            "level": [500, 850],
            "latitude": GRID.lat_axis,
            "longitude": GRID.lon_axis,
        },
    )


def save(ds, path, chunk=1):
    encoding = {
        n: {"chunks": tuple(chunk if d == "time" else v.sizes[d] for d in v.dims)} for n, v in ds.items()
    }
    ds.to_zarr(path, encoding=encoding, consolidated=False)
    return path


def expected(values):
    """Moments of ``values [time, lat, lon]`` in extended precision, by the definition."""
    values = np.asarray(values, np.longdouble)
    fields = [field for field in values if len(values) > 1 and not np.isnan(field).all()]
    spread = max((expected(field[None])[1] for field in fields), default=None)
    weights = np.broadcast_to(GRID.weights.astype(np.longdouble), values.shape)[~np.isnan(values)]
    values = values[~np.isnan(values)]
    if not values.size:
        return np.nan, np.nan, np.nan, np.nan, np.nan, 0
    mean = (weights * values).sum() / weights.sum()
    std = np.sqrt((weights * (values - mean) ** 2).sum() / weights.sum())
    spread = float(std) if spread is None else spread
    return float(mean), float(std), float(values.min()), float(values.max()), spread, values.size


def check(moments, channel, values, rtol=1e-12):
    found = [
        getattr(moments, name)[channel] for name in ("mean", "std", "minimum", "maximum", "spread", "count")
    ]
    true = expected(values)
    # a mean may cancel to nearly nothing: its error is one of the values that it is a mean of
    size = np.nanmax(np.abs(values), initial=0.0)
    np.testing.assert_allclose(found, true, rtol=rtol, atol=rtol * size)


def arrays(ds):
    """``[time, lat, lon]`` of each channel."""
    t = ds.t.transpose("level", "time", "latitude", "longitude").values
    return [*t, ds.sst.values, ds.ice.values, ds.z.values[None]]


@settings(max_examples=25, deadline=None)
@given(
    steps=st.integers(1, 9),
    chunk=st.integers(1, 4),
    block=st.sampled_from([1, 3000, 10**9]),
    lag=st.integers(1, 4),
    first=st.integers(0, 3),
)
def test_moments_are_those_of_the_whole_however_it_is_cut(steps, chunk, block, lag, first, tmp_path_factory):
    ds = fields(first + steps)
    path = save(ds, tmp_path_factory.mktemp("s") / "s.zarr", chunk)
    schema = Schema.of(ds, NAMES, masked=MASKED)
    times = slice(ds.time.values[first], None)
    found = statistics(path, schema, times=times, lag=lag, block_bytes=block)
    ds = ds.isel(time=slice(first, None))
    assert found.steps == steps
    assert schema.labels == ("t 500", "t 850", "sst", "ice", "z")
    for channel, values in enumerate(arrays(ds)):
        check(found.states, channel, values)
        check(found.tendencies, channel, values[lag:].astype(np.float64) - values[:-lag])


@stores.needs_zarr_3
def test_every_chunk_is_read_once(tmp_path):
    """Though blocks are smaller than the lag, and tendencies need steps of the block before."""
    ds = fields(11)
    path = save(ds, tmp_path / "s.zarr", chunk=3)
    counting = stores.Counting(path)
    statistics(
        counting,
        Schema.of(ds, NAMES, masked=MASKED),
        lag=4,
        times=slice(ds.time.values[1], None),
        block_bytes=1,
    )
    chunks = sorted(key for key in counting.keys if re.match(r"(t|sst|ice)/c/", key))
    assert chunks == sorted(
        f"{name}/c/{i}/0/0" + "/0" * (name == "t") for name in ("t", "sst", "ice") for i in range(4)
    )


def reads(monkeypatch):
    """The steps that are read from now on, by variable."""
    steps, read = {}, Reader.read

    def noting(self, chosen):
        for name in self.schema.names:
            steps.setdefault(name, []).extend(range(chosen.start, chosen.stop))
        return read(self, chosen)

    monkeypatch.setattr(Reader, "read", noting)
    return steps


KILLED = """
import os, signal, sys
import xarray as xr
import geoattn as ga
from geoattn.xarray.stores.sums import Progress

store, output, blocks = sys.argv[1], sys.argv[2], int(sys.argv[3])
keep = Progress.keep

def keep_and_die(*arguments):
    global blocks
    keep(*arguments)
    blocks -= 1
    if not blocks:
        os.kill(os.getpid(), signal.SIGKILL)

Progress.keep = keep_and_die
ds = xr.open_zarr(store, consolidated=False)
schema = ga.xarray.Schema.of(ds, ["t", "sst", "ice", "z"], masked={"sst": "static", "ice": "changing"})
ga.xarray.statistics(store, schema, lag=2, block_bytes=1, output=output)
"""


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_statistics_survive_a_kill(tmp_path, monkeypatch, damaged):
    """The blocks that are summed are not read again, and the bits are those of a run without a kill."""
    path, output = save(fields(11), tmp_path / "s.zarr", chunk=1), tmp_path / "statistics.zarr"
    command = [sys.executable, "-c", KILLED, str(path), str(output), "17"]  # all of t, six steps of sst
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert not output.exists()
    kept = sorted(tmp_path.glob("statistics.zarr.sums/*.part"), key=lambda p: p.stat().st_mtime_ns)
    assert len(kept) == 2
    if damaged:
        content = kept[1].read_bytes()
        kept[1].write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    schema = Schema.of(xr.open_zarr(path, consolidated=False), NAMES, masked=MASKED)
    read = reads(monkeypatch)
    found = statistics(path, schema, lag=2, block_bytes=1, output=output)
    # the last two steps before the block that comes next are needed for its tendencies
    assert "t" not in read
    assert read["sst"] == list(range(0 if damaged else 4, 11))
    assert read["ice"] == list(range(11))
    usual = statistics(path, schema, lag=2, block_bytes=1)
    assert json.dumps(found.to_dict()) == json.dumps(usual.to_dict())
    assert json.dumps(Statistics.open(output).to_dict()) == json.dumps(usual.to_dict())
    assert not list(tmp_path.glob("*.sums"))


def test_sums_of_other_settings_are_not_gone_on_with(tmp_path, monkeypatch):
    path, output = save(fields(11), tmp_path / "s.zarr", chunk=1), tmp_path / "statistics.zarr"
    command = [sys.executable, "-c", KILLED, str(path), str(output), "17"]
    assert subprocess.run(command, capture_output=True).returncode == -9
    schema = Schema.of(xr.open_zarr(path, consolidated=False), NAMES, masked=MASKED)
    read = reads(monkeypatch)
    found = statistics(path, schema, lag=3, block_bytes=1, output=output)
    assert read["t"] == list(range(11))
    assert json.dumps(found.to_dict()) == json.dumps(statistics(path, schema, lag=3).to_dict())


def test_no_tendency_crosses_a_gap(tmp_path):
    ds = fields(12).isel(time=[0, 1, 2, 5, 6, 9, 10, 11])
    path = save(ds, tmp_path / "s.zarr")
    schema = Schema.of(ds, ["sst"], masked=["sst"])
    with pytest.raises(ValueError, match=r"'time' has 2 gaps.*gaps='split'"):
        statistics(path, schema)
    found = statistics(path, schema, gaps="split", block_bytes=1)
    values = ds.sst.values.astype(np.float64)
    inside = [(0, 1), (1, 2), (3, 4), (5, 6), (6, 7)]
    check(found.tendencies, 0, np.stack([values[j] - values[i] for i, j in inside]))
    check(found.states, 0, values)


def test_a_large_mean_and_many_steps_cost_no_digits(tmp_path):
    """Geopotential in double precision: sums of squares would keep no digit of a spread of 1e-4."""
    ds = fields(40)[["t"]].astype(np.float64)
    ds.t[:] = 5e5 + 1e-4 * np.random.default_rng(1).standard_normal(ds.t.shape)
    path = save(ds, tmp_path / "s.zarr")
    found = statistics(path, Schema.of(ds))
    for channel, values in enumerate(ds.t.transpose("level", "time", "latitude", "longitude").values):
        check(found.states, channel, values, rtol=1e-9)
        assert found.states.std[channel] == pytest.approx(1e-4, rel=0.1)


def test_constant_fields_weigh_by_area_and_masks_take_area_away(tmp_path):
    """Sine of latitude squared has the mean 1/3 over the globe and 1/3 over each hemisphere."""
    ds = fields(3)
    ds["sst"] = (np.sin(np.radians(ds.latitude)) ** 2).broadcast_like(ds.sst)
    schema = Schema.of(ds, ["sst"])
    whole = statistics(save(ds, tmp_path / "a.zarr"), schema)
    assert whole.states.mean[0] == pytest.approx(1 / 3, abs=1e-14)
    assert whole.states.std[0] == pytest.approx(np.sqrt(1 / 5 - 1 / 9), abs=1e-14)
    north = ds.where(ds.latitude > 0)[["sst"]].transpose("time", "latitude", "longitude")
    half = statistics(save(north, tmp_path / "b.zarr"), Schema.of(north, masked={"sst": "static"}))
    assert half.states.mean[0] == pytest.approx(1 / 3, abs=1e-14)
    assert half.states.count[0] == whole.states.count[0] / 2


def test_missing_values_without_a_mask_are_refused(tmp_path):
    ds = fields()
    path = save(ds, tmp_path / "s.zarr")
    with pytest.raises(ValueError, match=r"'sst' is nan at time 2001-01-01T00.*masked=\['sst'\]"):
        statistics(path, Schema.of(ds, masked=["ice"]))


# --- use --------------------------------------------------------------------------------------------


@pytest.fixture
def taken(tmp_path):
    ds = fields()
    path = save(ds, tmp_path / "s.zarr")
    schema = Schema.of(ds, NAMES, masked=MASKED)
    return path, ds, schema, statistics(path, schema)


def test_normalised_samples_have_zero_mean_and_unit_variance(taken):
    path, ds, schema, found = taken
    windows = ga.xarray.Windows(path, schema, input_steps=10, target_steps=0, normalise=found)
    sample = windows[0]
    values, mask = sample["input"].double(), sample["input_mask"]
    assert (values[~mask] == 0).all()
    weights = torch.from_numpy(GRID.weights.copy()) * mask
    total = weights.sum((0, 2, 3))
    torch.testing.assert_close(
        (weights * values).sum((0, 2, 3)) / total, torch.zeros(5).double(), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        (weights * values**2).sum((0, 2, 3)) / total, torch.ones(5).double(), atol=1e-5, rtol=0
    )
    plain, mask = ga.xarray.to_tensor(ds, schema, dtype=torch.float64, return_mask=True)
    back = found.denormalise(found.normalise(plain, mask))
    torch.testing.assert_close(back[mask], plain[mask], atol=0, rtol=1e-14)


def test_statistics_of_part_of_the_variables(taken):
    _, _, schema, found = taken
    part = found.select(schema.select(["z", "ice"]))
    assert part.schema.labels == ("ice", "z")
    np.testing.assert_array_equal(part.states.mean, found.states.mean[[3, 4]])
    np.testing.assert_array_equal(part.tendencies.count, found.tendencies.count[[3, 4]])
    with pytest.raises(ValueError, match="the statistics are those of another schema"):
        part.select(schema)


def test_a_constant_channel_is_refused_when_it_is_scaled(tmp_path):
    ds = fields()
    ds["t"] = xr.ones_like(ds.t)
    found = statistics(save(ds, tmp_path / "s.zarr"), Schema.of(ds, NAMES, masked=MASKED))
    with pytest.raises(
        ValueError, match=r"channel 't 500' has the standard deviation 0.0: it cannot be scaled"
    ):
        found.normalise(torch.zeros(5, 8, 16))


# --- storage ----------------------------------------------------------------------------------------


def test_statistics_are_a_value_and_a_small_data_set(taken, tmp_path):
    path, _, schema, found = taken
    found.save(tmp_path / "statistics.zarr")
    assert Statistics.open(tmp_path / "statistics.zarr") == found
    assert pickle.loads(pickle.dumps(found)) == found
    assert Statistics.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    with xr.open_zarr(tmp_path / "statistics.zarr", consolidated=False) as ds:
        assert ds.channel.values.tolist() == list(schema.labels)
        assert ds.level.values.tolist() == ["500", "850", "", "", ""]
        np.testing.assert_array_equal(ds.state_mean, found.states.mean)
        np.testing.assert_array_equal(ds.tendency_std, found.tendencies.std)
    assert statistics(path, schema) == found
    with pytest.raises(ValueError, match="holds no statistics"):
        Statistics.open(path)


def test_an_output_that_exists_is_refused_before_anything_is_read(taken, tmp_path):
    path, _, schema, found = taken
    output = tmp_path / "statistics.zarr"
    output.mkdir()
    (output / "precious").write_text("data")
    for write in (
        lambda **o: statistics(path, schema, output=output, **o),
        lambda **o: found.save(output, **o),
    ):
        with pytest.raises(FileExistsError, match=r"statistics.zarr' exists; to replace it: overwrite=True"):
            write()
        assert (output / "precious").read_text() == "data"
    statistics(path, schema, output=output, overwrite=True)
    assert Statistics.open(output) == found
    assert sorted(os.listdir(tmp_path)) == ["s.zarr", "statistics.zarr"]


def test_a_failing_write_leaves_what_was_there(taken, tmp_path, monkeypatch):
    _, _, _, found = taken
    output = tmp_path / "statistics.zarr"
    found.save(output)

    def fail(self, path, **options):
        os.makedirs(path / "half")
        raise OSError("disk full")

    monkeypatch.setattr(xr.Dataset, "to_zarr", fail)
    with pytest.raises(OSError, match="disk full"):
        found.save(output, overwrite=True)
    with pytest.raises(OSError, match="disk full"):
        found.save(tmp_path / "other.zarr")
    assert Statistics.open(output) == found
    assert sorted(os.listdir(tmp_path)) == ["s.zarr", "statistics.zarr"]


def test_statistics_of_a_store_that_changed_since_are_refused(taken):
    path, ds, schema, found = taken

    def use(schema=schema):
        ga.xarray.Windows(path, schema, normalise=found)

    def refuses(match="the zarr store .* has changed since its statistics were taken"):
        with pytest.raises(ValueError, match=match):
            use()

    use()
    value = ds.t.isel(time=[4]).copy()
    value[0, 3, 2, 1] += 1
    region = value.to_dataset().drop_vars(["latitude", "longitude", "level", "time"])
    region.to_zarr(path, region={"time": slice(4, 5)}, consolidated=False)
    refuses()
    found = statistics(path, schema)
    use()
    later = fields(2).assign_coords(time=ds.time[-2:] + np.timedelta64(12, "h"))
    later.drop_vars("z").to_zarr(path, append_dim="time", consolidated=False)
    refuses()
    with pytest.raises(ValueError, match="the statistics are those of another schema"):
        use(Schema.of(ds, NAMES, masked=MASKED, fills={"sst": 1.0}))


def test_a_store_that_moves_keeps_its_statistics(taken, tmp_path):
    path, _, schema, found = taken
    (tmp_path / "elsewhere").mkdir()
    os.rename(path, tmp_path / "elsewhere" / "t.zarr")
    ga.xarray.Windows(tmp_path / "elsewhere" / "t.zarr", schema, normalise=found)


def test_a_lag_of_no_steps_is_refused(taken):
    path, _, schema, _ = taken
    with pytest.raises(ValueError, match="lag must be at least one step, got 0"):
        statistics(path, schema, lag=0)
