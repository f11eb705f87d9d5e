"""Stores as torch data sets: the values of xarray, whatever the format, the workers and the window."""

import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schema import CONVENTIONS
from torch.utils.data import DataLoader

import geoattn as ga

xr = pytest.importorskip("xarray", reason="the bridge needs xarray")
zarr = pytest.importorskip("zarr", reason="stores are zarr")

import numcodecs  # noqa: E402
import stores  # noqa: E402
from stores import FORMATS, ZARR, ZARR_2, chunk_files, local_store, needs_zarr_3  # noqa: E402

Schema, Windows, to_tensor = ga.xarray.Schema, ga.xarray.Windows, ga.xarray.to_tensor


def era5(steps=12, levels=(200, 500, 700, 850)):
    """Packed temperatures, a sea surface with land, humidity with a fill value, a static orography."""
    random = np.random.default_rng(0)
    times = np.datetime64("2001-01-01", "ns") + np.arange(steps) * np.timedelta64(6, "h")
    land = random.random((7, 12)) < 0.3

    def noise(*shape):
        return random.standard_normal(shape).astype(np.float32)

    ds = xr.Dataset(
        {
            "t": (("time", "level", "latitude", "longitude"), 250 + noise(steps, len(levels), 7, 12)),
            "q": (("time", "level", "longitude", "latitude"), noise(steps, len(levels), 12, 7)),
            "t2m": (("time", "latitude", "longitude"), 280 + noise(steps, 7, 12), {"units": "K"}),
            "sst": (("time", "latitude", "longitude"), np.where(land, np.nan, noise(steps, 7, 12))),
            "z": (("latitude", "longitude"), noise(7, 12)),
        },
        {
            "time": times,
            "level": list(levels),
            "latitude": np.linspace(90, -90, 7),
            "longitude": 30.0 * np.arange(12),
        },
    )
    ds.t.encoding = {"dtype": "int16", "scale_factor": 0.001, "add_offset": 250.0, "_FillValue": -32767}
    ds.sst.encoding = {"dtype": "float32", "_FillValue": np.float32(-999)}
    return ds


MASKED = {"sst": "static"}


def save(ds, path, format, **chunks):
    """Write in one of the formats, and open it again as a user would."""
    if format == "netcdf":
        pytest.importorskip("netCDF4", reason="netCDF files are read by netCDF4")
        path = path.with_suffix(".nc")
        ds.to_netcdf(path)
        return path, xr.open_dataset(path, chunks=None)
    encoding = {
        name: {"chunks": tuple(chunks.get(d, 1 if d == "time" else ds.sizes[d]) for d in v.dims)}
        for name, v in ds.data_vars.items()
    }
    ds.to_zarr(path, zarr_format=int(format[-1]), encoding=encoding, consolidated=format == "zarr-2")
    return path, xr.open_zarr(path, chunks=None, consolidated=format == "zarr-2")


@pytest.fixture
def store(tmp_path):
    return save(era5(), tmp_path / "era5.zarr", ZARR)


# --- the values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_samples_are_what_xarray_reads_to_the_bit(format, tmp_path):
    path, ds = save(era5(), tmp_path / "era5", format)
    schema = Schema.of(ds, masked=MASKED)
    windows = Windows(path, schema, input_steps=2, target_steps=3, step=2, stride=1, dtype=torch.float64)
    values, mask = to_tensor(ds, schema, dtype=torch.float64, return_mask=True)
    assert len(windows) == 12 - 4 * 2
    for i in (0, 3, len(windows) - 1, -1):
        sample, start = windows[i], i % len(windows)
        given, wanted = slice(start, start + 3, 2), slice(start + 4, start + 9, 2)
        assert torch.equal(sample["input"], values[given])
        assert torch.equal(sample["input_mask"], mask[given])
        changing = [c for c, name in enumerate(schema.labels) if name != "z"]
        assert torch.equal(sample["target"], values[wanted][:, changing])
        assert torch.equal(sample["target_mask"], mask[wanted][:, changing])
        given_times, wanted_times = windows.times_of(i)
        np.testing.assert_array_equal(given_times, ds.time.values[given])
        np.testing.assert_array_equal(wanted_times, ds.time.values[wanted])
        assert sample["index"] == start
    with pytest.raises(IndexError):
        windows[len(windows)]


@pytest.mark.parametrize(
    "encoding",
    [
        {"dtype": "int16", "scale_factor": 0.01, "add_offset": 3.0, "_FillValue": -32767},
        {"dtype": "int16", "scale_factor": np.float32(0.01), "add_offset": np.float32(3), "_FillValue": -1},
        {"dtype": "int32", "scale_factor": 0.001, "_FillValue": -9999},
        {"dtype": "uint8", "scale_factor": 0.05, "add_offset": -6.0, "_FillValue": 255},
        {"dtype": "int8", "scale_factor": 0.05, "add_offset": 0.0, "_FillValue": -1, "_Unsigned": "true"},
        {"dtype": "float64", "_FillValue": -1e20},
        {"dtype": "float32", "missing_value": np.float32(1e20)},
        {"dtype": ">f4"},
        {"dtype": "float16"},
    ],
    ids=str,
)
@pytest.mark.parametrize("format", FORMATS)
def test_packed_values_are_decoded_as_xarray_decodes_them(encoding, format, tmp_path):
    ds = era5()[["t2m"]] - 280
    if encoding.get("_FillValue") is not None or "missing_value" in encoding:
        ds.t2m[3, 2, :4] = np.nan
    if format == "netcdf" and encoding["dtype"] == "float16":
        pytest.skip("netCDF has no half precision")
    ds.t2m.encoding = encoding
    path, ds = save(ds, tmp_path / "packed", format)
    schema = Schema.of(ds, masked=["t2m"])
    sample = Windows(path, schema, input_steps=12, target_steps=0, dtype=torch.float64)[0]
    expected = ds.t2m.values.astype(np.float64)[:, None]
    np.testing.assert_array_equal(sample["input_mask"], ~np.isnan(expected))
    np.testing.assert_array_equal(sample["input"], np.nan_to_num(expected))


@settings(max_examples=12, deadline=None)
@given(
    levels=st.lists(st.sampled_from([200, 500, 700, 850]), min_size=1, unique=True),
    names=st.lists(st.sampled_from(["t", "q"]), min_size=1, unique=True),
    level_chunk=st.sampled_from([1, 2, 4]),
    time_chunk=st.sampled_from([1, 5]),
)
def test_any_choice_of_levels_is_read_from_any_chunks(
    levels, names, level_chunk, time_chunk, tmp_path_factory
):
    path = tmp_path_factory.mktemp("levels") / "era5.zarr"
    path, ds = save(era5(), path, ZARR, level=level_chunk, time=time_chunk)
    schema = Schema.of(ds, dict.fromkeys(names, levels))
    expected = to_tensor(ds.isel(time=slice(2, 12, 2)), schema, dtype=torch.float32)
    routes = (
        [path, local_store(path)]
        if ZARR_2
        else [path, f"file://{path}", local_store(path), stores.Counting(path)]
    )
    for route in routes:
        sample = Windows(route, schema, input_steps=5, target_steps=0, step=2, stride=2)[1]
        assert torch.equal(sample["input"], expected)


FORMAT_3 = (
    []
    if ZARR_2
    else [
        (3, {"compressors": None}, True),
        (3, {"compressors": zarr.codecs.ZstdCodec(level=3)}, True),
        (3, {"compressors": zarr.codecs.BloscCodec(cname="lz4", shuffle="bitshuffle")}, True),
        (3, {"compressors": zarr.codecs.GzipCodec()}, True),
        (3, {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]}, False),
        (3, {"filters": [zarr.codecs.TransposeCodec(order=(2, 1, 0))]}, False),
        (3, {"serializer": zarr.codecs.BytesCodec(endian="big")}, False),
        (3, {"shards": (4, 7, 12), "chunks": (1, 7, 12)}, False),
    ]
)


@pytest.mark.parametrize(
    ("format", "storage", "direct"),
    [
        *FORMAT_3,
        (2, {"compressors": None}, True),
        (2, {"compressors": numcodecs.Blosc("zstd")}, True),
        (2, {"compressors": numcodecs.Zlib()}, False),
        (2, {"filters": [numcodecs.Delta("<f4")]}, False),
        (2, {"order": "F"}, False),
        (2, {"chunks": (5, 4, 5)}, True),
    ],
    ids=str,
)
def test_every_way_of_storing_is_read_right_and_the_common_ones_directly(format, storage, direct, tmp_path):
    expected = np.random.default_rng(0).standard_normal((12, 7, 12)).astype(np.float32)
    if ZARR_2:
        group = zarr.open_group(tmp_path / "s.zarr", mode="w")
        storage = {name.replace("compressors", "compressor"): value for name, value in storage.items()}
    else:
        group = zarr.create_group(tmp_path / "s.zarr", zarr_format=format)
    axes = {n: era5()[n].values for n in ("latitude", "longitude")} | {"time": np.arange(12)}
    for name, dims, values, options in (
        ("x", ("time", "latitude", "longitude"), expected, {"chunks": (2, 7, 12)} | storage),
        *((name, (name,), values, {}) for name, values in axes.items()),
    ):
        names = {"dimension_names": dims} if format == 3 else {}
        array = (group.create_dataset if ZARR_2 else group.create_array)(
            name,
            shape=values.shape,
            dtype=values.dtype,
            fill_value=np.nan if name == "x" else None,
            **names,
            **options,
        )
        array[:] = values
        if format == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = list(dims)
    ds = xr.open_zarr(tmp_path / "s.zarr", chunks=None, consolidated=False)
    windows = Windows(tmp_path / "s.zarr", Schema.of(ds), input_steps=4, target_steps=0, step=2)
    (store,) = windows.reader.stores
    assert (store._open()["local"]["x"] is not None) == direct
    np.testing.assert_array_equal(windows[3]["input"][:, 0], ds.x[3:10:2])


def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path):
    ds = era5()[["t2m"]]
    ds.t2m[4:8] = np.nan
    encoding = {"chunks": (2, 7, 12), "_FillValue" if ZARR_2 else "fill_value": np.nan}
    ds.to_zarr(tmp_path / "s.zarr", encoding={"t2m": encoding}, write_empty_chunks=False)
    assert len(chunk_files(tmp_path / "s.zarr" / "t2m")) == 4
    schema = Schema.of(ds, masked=["t2m"])
    sample = Windows(tmp_path / "s.zarr", schema, input_steps=12, target_steps=0)[0]
    np.testing.assert_array_equal(sample["input_mask"][:, 0], ~np.isnan(ds.t2m))


def test_several_stores_that_follow_one_another_are_one(tmp_path):
    ds = era5()
    parts = [
        save(ds.isel(time=steps), tmp_path / f"part{i}.zarr", ZARR)[0]
        for i, steps in enumerate((slice(0, 5), slice(5, 6), slice(6, 12)))
    ]
    whole, ds = save(ds, tmp_path / "whole.zarr", ZARR)
    schema = Schema.of(ds, masked=MASKED)
    options = {"input_steps": 3, "step": 2, "times": slice("2001-01-01T12", "2001-01-03T12")}
    joined, single = Windows(parts, schema, **options), Windows(whole, schema, **options)
    assert len(joined) == len(single) == 3
    for a, b in zip((joined[i] for i in range(3)), (single[i] for i in range(3)), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    with pytest.raises(
        ValueError, match=r"do not follow one another.*stores = \[stores\[i\] for i in \[2, 1, 0\]\]"
    ):
        Windows(parts[::-1], schema)


@pytest.mark.parametrize("make", CONVENTIONS)
def test_stores_in_every_convention_are_read_as_their_data_sets(make, tmp_path):
    ds = make()
    ds.to_zarr(tmp_path / "s.zarr", consolidated=False)
    schema = Schema.of(ds)
    sample = Windows(tmp_path / "s.zarr", schema, input_steps=2, target_steps=1, dtype=torch.float64)[0]
    with xr.open_zarr(tmp_path / "s.zarr", chunks=None, consolidated=False) as stored:
        expected = to_tensor(stored, schema, dtype=torch.float64)
    assert torch.equal(sample["input"], expected[:2])
    assert torch.equal(sample["target"][0], expected[2, schema.channels(schema.changing.names)])


def test_targets_may_be_some_of_the_variables(store):
    path, ds = store
    schema = Schema.of(ds, masked=MASKED)
    windows = Windows(path, schema, targets=["t2m"])
    assert windows.target_schema.labels == ("t2m",)
    sample = windows[4]
    assert sample["input"].shape == (1, 11, 7, 12)
    np.testing.assert_array_equal(sample["target"][0, 0], ds.t2m[5])


@needs_zarr_3
def test_a_sample_reads_its_own_chunks_once_and_no_others(tmp_path):
    path, ds = save(era5(), tmp_path / "era5.zarr", ZARR, level=1)
    counting = stores.Counting(path)
    schema = Schema.of(ds, {"t": [200, 850], "t2m": None, "z": None})
    windows = Windows(counting, schema, input_steps=1, target_steps=2, step=3)
    windows[0]
    counting.keys.clear()
    windows[2]
    steps = (2, 5, 8)
    expected = [f"t2m/c/{s}/0/0" for s in steps]
    expected += [f"t/c/{s}/{level}/0/0" for s in steps for level in (0, 3)]
    assert sorted(counting.keys) == sorted(expected)
    # nor are others needed on the direct route
    sample = windows[2]
    for file in path.rglob("c/*/**/*"):
        if file.is_file() and str(file.relative_to(path)) not in [*expected, "z/c/0/0"]:
            file.unlink()
    direct = Windows(path, schema, input_steps=1, target_steps=2, step=3)
    assert all(torch.equal(direct[2][key], sample[key]) for key in sample)


# --- windows ----------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    input_steps=st.integers(1, 3),
    target_steps=st.integers(0, 3),
    step=st.integers(1, 3),
    stride=st.integers(1, 4),
    missing=st.sets(st.integers(1, 28), max_size=3),
)
def test_windows_are_all_equally_spaced_stretches(
    input_steps, target_steps, step, stride, missing, tmp_path_factory
):
    """Against every window spelled out from the times."""
    ds = era5(30)[["t2m"]].isel(time=[i for i in range(30) if i not in missing])
    path, ds = save(ds, tmp_path_factory.mktemp("gaps") / "s.zarr", ZARR)
    times, hour = ds.time.values, np.timedelta64(1, "h")
    needed = np.arange(input_steps + target_steps) * step * 6 * hour
    starts, previous, count = [], None, 0
    for i, time in enumerate(times):
        contiguous = previous is not None and time - previous == 6 * hour
        count, previous = (count + 1 if contiguous else 0), time
        stretch = time + np.arange(needed[-1] // hour // 6 + 1) * 6 * hour
        if np.isin(stretch, times).all() and count % stride == 0:
            starts.append(i)
    options = {"input_steps": input_steps, "target_steps": target_steps, "step": step, "stride": stride}
    schema = Schema.of(ds)
    if not starts:
        with pytest.raises(ValueError, match=r"no window of \d+ steps fits"):
            Windows(path, schema, gaps="split", **options)
        return
    windows = Windows(path, schema, gaps="split", **options)
    assert [windows.times_of(i)[0][0] for i in range(len(windows))] == [times[i] for i in starts]
    for i in range(len(windows)):
        np.testing.assert_array_equal(np.concatenate(windows.times_of(i)), times[starts[i]] + needed)
    if (np.diff(times) != 6 * hour).any():
        with pytest.raises(ValueError, match=r"'time' has \d gaps?: .* most steps are 6 h.*gaps='split'"):
            Windows(path, schema, **options)


def test_times_choose_a_part_of_the_store(store):
    path, ds = store
    schema = Schema.of(ds, ["t2m"])
    windows = Windows(path, schema, times=slice("2001-01-02", "2001-01-02"))
    assert len(windows) == 3
    np.testing.assert_array_equal(windows[0]["input"][0, 0], ds.t2m[4])
    with pytest.raises(ValueError, match=r"no time lies in slice\('1999', '2000', None\)"):
        Windows(path, schema, times=slice("1999", "2000"))
    with pytest.raises(ValueError, match=r"no window of 15 steps fits: the longest stretch .* has 12"):
        Windows(path, schema, target_steps=14)


def test_cftime_calendars_work(tmp_path):
    pytest.importorskip("cftime", reason="calendars are cftime's")
    ds = era5(9).assign_coords(time=xr.date_range("2001-02-26", periods=9, calendar="noleap", freq="12h"))
    path, ds = save(ds[["t2m"]], tmp_path / "noleap.zarr", ZARR)
    windows = Windows(path, Schema.of(ds), times=slice("2001-02-28", "2001-03-01"))
    assert len(windows) == 3
    assert str(windows.times_of(2)[1][0]) == "2001-03-01 12:00:00"


# --- workers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "format"),
    [("fork", ZARR), ("fork", "netcdf"), ("forkserver", "netcdf"), ("spawn", "zarr-2")],
)
def test_workers_read_what_the_parent_reads(method, format, tmp_path):
    """Also after the parent has opened the store, read from it and computed with dask's threads."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot {method}")
    path, ds = save(era5(), tmp_path / "era5", format)
    windows = Windows(path, Schema.of(ds, masked=MASKED), normalise=None)
    here = [windows[i] for i in range(len(windows))]
    pytest.importorskip("dask", reason="the parent computes with dask")
    engine = "netcdf4" if format == "netcdf" else "zarr"
    options = {"consolidated": False} if engine == "zarr" else {}
    xr.open_dataset(path, engine=engine, chunks={}, **options).t2m.mean().compute()
    loader = DataLoader(windows, batch_size=None, num_workers=2, multiprocessing_context=method, timeout=300)
    there = list(loader)
    assert len(here) == len(there) == 11
    for a, b in zip(here, there, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_fork_while_the_parent_reads_does_not_hang(store):
    """A thread of the parent reads all the time; children are forked from under it."""
    import threading

    path, ds = store
    windows = Windows(path, Schema.of(ds, masked=MASKED))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # so that reading has threads of its own, which no child inherits
    stop = threading.Event()

    def read():
        while not stop.is_set():
            windows[3]

    reading = threading.Thread(target=read)
    reading.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                ok = torch.equal(windows[4]["target"], windows[5]["input"][:, windows.target_channels])
                os._exit(0 if ok else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        reading.join()
        torch.set_num_threads(threads)


EPOCH = """
import resource, sys
import torch
import xarray
import geoattn as ga

def peak():  # in MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

schema = ga.xarray.Schema.of(xarray.open_zarr(sys.argv[1], chunks=None, consolidated=False))
windows = ga.xarray.Windows(sys.argv[1], schema)
order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0)).tolist()
for i in order[:40]:
    windows[i]
warm = peak()
samples = (windows[i] for i in order)
read = sum(s["input"].nbytes + s["target"].nbytes for s in samples) / 2**20
print(peak() - warm, read)
"""


def test_memory_stays_flat_over_an_epoch_larger_than_what_it_may_take(tmp_path):
    pytest.importorskip("resource", reason="peak memory is read from the resource module of Unix")
    steps, shape = 400, (91, 180)
    random = np.random.default_rng(0)
    ds = xr.Dataset(
        {"t2m": (("time", "latitude", "longitude"), random.random((steps, *shape), dtype=np.float32))},
        {
            "time": np.datetime64("2001-01-01", "ns") + np.arange(steps) * np.timedelta64(6, "h"),
            "latitude": np.linspace(90, -90, shape[0]),
            "longitude": 2.0 * np.arange(shape[1]),
        },
    )
    path, _ = save(ds, tmp_path / "epoch.zarr", ZARR)
    command = [sys.executable, "-c", EPOCH, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert run.returncode == 0, run.stderr[-2000:]
    grown, read = map(float, run.stdout.split())
    assert read > 45  # MB; every step is read as a start and as an end
    assert grown < 0.2 * read


def test_a_data_set_pickles_to_little_and_reads_the_same(store):
    path, ds = store
    windows = Windows(path, Schema.of(ds, masked=MASKED))
    sample = windows[5]
    text = pickle.dumps(windows)
    assert len(text) < 20_000
    copy = pickle.loads(text)
    assert copy.reader.stores[0]._opened == {}
    assert all(torch.equal(copy[5][key], sample[key]) for key in sample)


# --- refusals ---------------------------------------------------------------------------------------


def refuses(ds, tmp_path, match, schema=None, **options):
    path, opened = save(ds, tmp_path / f"{len(os.listdir(tmp_path))}.zarr", ZARR)
    with pytest.raises(ValueError, match=match):
        Windows(path, schema or Schema.of(opened, masked=MASKED), **options)


def test_bad_time_axes_are_refused(tmp_path):
    ds = era5()
    refuses(ds.drop_vars("time"), tmp_path, r"'time' of the zarr store .* has no coordinate")
    repeated = ds.isel(time=[0, 1, 1, 2])
    refuses(repeated, tmp_path, r"'time' repeats 2001-01-01T06.* at indices 1 and 2.*drop_duplicates")
    refuses(ds.isel(time=[0, 2, 1]), tmp_path, r"'time' is not sorted: 2001-01-01T12.*sortby\('time'\)")
    gap = ds.isel(time=[0, 1, 2, 5, 6])
    refuses(gap, tmp_path, r"'time' has 1 gap: 2001-01-01T12.* is followed by 2001-01-02T06")
    missing = ds.assign_coords(time=np.where(np.arange(12) == 3, np.datetime64("NaT", "ns"), ds.time))
    refuses(missing, tmp_path, r"'time' has 1 missing values, the first at index 3")
    refuses(ds, tmp_path, r"gaps must be one of \('error', 'split'\), got 'ignore'", gaps="ignore")


def test_bad_horizontal_axes_are_refused_with_the_stores_schema(tmp_path):
    schema = Schema.of(era5(), masked=MASKED)
    ds = era5()
    lat = ds.latitude.values
    for wrong, match in (
        (np.where(lat == 30, np.nan, lat), r"'latitude' has 1 missing values"),
        (np.where(lat == 30, 60, lat), r"'latitude' repeats 60"),
        (lat[[0, 2, 1, 3, 4, 5, 6]], r"'latitude' is not sorted"),
    ):
        refuses(ds.assign_coords(latitude=wrong), tmp_path, match, schema)
    refuses(ds.isel(latitude=slice(None, None, -1)), tmp_path, r"in another order", schema)
    finer = ds.reindex(longitude=np.arange(0, 360, 15.0), method="nearest")
    refuses(finer, tmp_path, r"lies on the equiangular grid 7×24.*the schema on the .*7×12", schema)


def test_missing_values_without_a_mask_are_refused_when_they_are_read(tmp_path):
    ds = era5()
    ds.q[7, 2, 3, 4] = np.nan
    path, opened = save(ds, tmp_path / "s.zarr", ZARR)
    windows = Windows(path, Schema.of(opened, masked=MASKED))
    windows[5]
    with pytest.raises(ValueError, match=r"'q 700' is nan at time 2001-01-02T18.*\(4, 3\).*masked=\['q'\]"):
        windows[6]


def test_what_is_no_store_is_refused(store, tmp_path):
    path, ds = store
    schema = Schema.of(ds, masked=MASKED)
    with pytest.raises(TypeError, match=r"expected the path of a store.*got an opened Dataset"):
        Windows(ds, schema)
    with pytest.raises(FileNotFoundError, match=r"there is no store at '.*nowhere.zarr'"):
        Windows(tmp_path / "nowhere.zarr", schema)
    for options, match in (
        ({"input_steps": 0}, "input_steps must be at least 1, got 0"),
        ({"target_steps": -1}, "target_steps must be at least 0, got -1"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"targets": ["q", "tp"]}, "no variable 'tp'"),
    ):
        with pytest.raises(ValueError, match=match):
            Windows(path, schema, **options)
    with pytest.raises(ValueError, match="no variable of the schema changes along 'time'"):
        Windows(path, schema.select(["z"]))


# --- lightning --------------------------------------------------------------------------------------


def test_the_data_module_shuffles_by_seed_and_epoch_alone(store):
    pytest.importorskip("lightning", reason="the data module is Lightning's")
    path, ds = store
    schema = Schema.of(ds, masked=MASKED)

    def orders(workers, seed):
        module = ga.xarray.DataModule(
            path,
            schema,
            train=slice("2001-01-01", "2001-01-02"),
            validation=slice("2001-01-03", None),
            batch_size=2,
            num_workers=workers,
            seed=seed,
            multiprocessing_context="fork",
        )
        loader = module.train_dataloader()
        epochs = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            epochs.append(torch.cat([batch["index"] for batch in loader]).tolist())
        validation = torch.cat([batch["index"] for batch in module.val_dataloader()]).tolist()
        assert validation == sorted(validation) == [0, 1, 2]
        assert module.test_dataloader() == []
        return epochs

    first = orders(0, seed=1)
    assert sorted(first[0]) == sorted(first[1]) == list(range(7))
    assert first[0] != first[1]
    assert orders(2, seed=1) == first
    assert orders(0, seed=2) != first


def test_a_model_trains_on_the_data_module(store, tmp_path):
    lightning = pytest.importorskip("lightning", reason="the data module is Lightning's")
    path, ds = store
    schema = Schema.of(ds, ["t", "t2m", "z"])
    statistics = ga.xarray.statistics(path, schema, times=slice("2001-01-01", "2001-01-02"))
    module = ga.xarray.DataModule(
        path, schema, train=slice("2001-01-01", "2001-01-02"), normalise=statistics, batch_size=2
    )

    class Linear(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.mix = torch.nn.Linear(len(schema), len(schema.changing))

        def training_step(self, batch, _):
            out = self.mix(batch["input"][:, 0].movedim(1, -1)).movedim(-1, 1)
            return (out - batch["target"][:, 0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.1)

    model = Linear()
    before = model.mix.weight.detach().clone()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, module)
    assert not torch.equal(model.mix.weight, before)


def test_windows_in_memory_are_the_same_and_read_once(tmp_path, monkeypatch):
    era5().to_zarr(tmp_path / "store.zarr", consolidated=False)
    schema = Schema.of(era5(), {"t": [850, 500], "sst": None, "z": None}, masked={"sst": "static"})
    options = {"target_steps": 2, "stride": 3}
    plain = Windows(tmp_path / "store.zarr", schema, **options)
    held = Windows(tmp_path / "store.zarr", schema, in_memory=True, **options)
    reads = []
    read = type(held.reader).read
    monkeypatch.setattr(
        type(held.reader), "read", lambda self, steps: reads.append(steps) or read(self, steps)
    )
    for i in range(len(held)):
        sample = held[i]
        sample["input"] += 1  # a sample is its owner's
        sample = held[i]
        for name, values in plain[i].items():
            assert torch.equal(sample[name], values), name
    assert len(reads) == 1 + len(plain)
    assert len(pickle.dumps(held)) < 2 * len(pickle.dumps(plain))
    assert held.name_of(1) == "the window from 2001-01-01T18:00:00 to 2001-01-02T06:00:00"


def test_parts_of_the_data_module_have_no_step_in_common(store, refused_by):
    pytest.importorskip("lightning", reason="the data module is Lightning's")
    path, ds = store
    schema = Schema.of(ds, masked=MASKED)
    times = ds.time.values

    def module(**parts):
        return ga.xarray.DataModule(path, schema, **parts)

    cases = [  # each with the parts that remain, in steps
        ({"train": slice(0, 5), "validation": slice(4, 8)}, {"train": 4, "validation": 4}),
        ({"train": slice(4, 8), "validation": slice(2, 6)}, {"train": 2, "validation": 4}),
        ({"train": slice(2, 4), "test": slice(0, 8)}, {"train": 2, "test": 4}),
        ({"train": slice(2, 8), "validation": slice(8, 10), "test": slice(6, 8)}, {"train": 4, "test": 2}),
        ({"train": slice(0, 6), "validation": slice(0, 6)}, {"train": 3, "validation": 3}),
    ]
    for parts, remain in cases:
        given = {name: slice(str(times[p.start]), str(times[p.stop - 1])) for name, p in parts.items()}
        with refused_by("xarray/stores/parts.py", "and a model is not judged by what it has learned") as said:
            module(**given)
        assert f"train=slice({given['train'].start!r}, {given['train'].stop!r})" in said.message
        told = said.message.split("part them, ")[1]
        for name, first, last in re.findall(r"(\w+)=slice\('(\S+)', '(\S+)'\)", told):
            given[name] = slice(first, last)
        said.says(*told.split(" and "))
        found = module(**given).windows
        assert {name: len(found[name].reader) for name in remain} == remain


def test_times_that_are_no_slice_are_refused_with_the_slice_that_is_meant(store, refused_by):
    pytest.importorskip("lightning", reason="the data module is Lightning's")
    path, ds = store
    schema = Schema.of(ds, masked=MASKED)
    pair = ("2001-01-01", "2001-01-02")
    for taken in (
        lambda **times: len(ga.xarray.Windows(path, schema, **times).reader),
        lambda **times: ga.xarray.statistics(path, schema, **times).steps,
    ):
        with refused_by("xarray/stores/parts.py", "are the first and the last time, as a slice") as said:
            taken(times=pair)
        assert "got tuple ('2001-01-01', '2001-01-02')" in said.message
        said.says("times=slice('2001-01-01', '2001-01-02')")
        assert taken(times=slice(*pair)) == 8
    with pytest.raises(TypeError, match=r"got str '2001'.*times=slice\('…', '…'\)"):
        ga.xarray.Windows(path, schema, times="2001")
    with pytest.raises(TypeError, match=r"validation are .* validation=slice\('2001-01-03', None\)"):
        ga.xarray.DataModule(path, schema, train=slice(*pair), validation=["2001-01-03", None])
    with pytest.raises(TypeError, match="train are the first and the last time"):
        ga.xarray.DataModule(path, schema, train=None)
