"""Statistics, scores and regridding in pieces: the same numbers here, on threads, and on a cluster."""

import functools
import json
import os
import pickle
import random

import numpy as np
import pytest

import geoattn as ga

xr = pytest.importorskip("xarray", reason="the bridge needs xarray")
pytest.importorskip("zarr", reason="stores are zarr")
pytest.importorskip("dask", reason="lazy arrays are dask's")

from test_statistics import MASKED, NAMES, fields, save  # noqa: E402

from geoattn.xarray import Schema, Statistics, Windows, metrics, partial, statistics  # noqa: E402

HOUR = np.timedelta64(1, "h")
GRID = ga.grids.gaussian(8, 16)


@pytest.fixture(scope="module")
def client():
    """A cluster of two processes on this machine."""
    distributed = pytest.importorskip("distributed", reason="clusters are dask.distributed's")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    before = dict(os.environ)
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as found:
        # the cluster's processes have one thread each, which it also tells all later children of this one
        os.environ.clear()
        os.environ.update(before)
        yield found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return save(fields(13), tmp_path_factory.mktemp("partial") / "s.zarr", chunk=2)


def schema_of(path):
    with xr.open_zarr(path, consolidated=False) as ds:
        return Schema.of(ds, NAMES, masked=MASKED)


def numbers(found):
    """All that statistics say of the data, to the bit."""
    return json.dumps([found.states.to_dict(), found.tendencies.to_dict(), found.first, found.steps])


# --- statistics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 3000, 10**9])
@pytest.mark.parametrize("lag", [1, 3])
def test_statistics_are_the_same_to_the_bit_however_they_are_cut_and_put_together(store, block, lag):
    schema = schema_of(store)
    usual = statistics(store, schema, lag=lag)
    job = pickle.loads(pickle.dumps(partial.statistics(store, schema, lag=lag)))
    pieces = partial.statistics(store, schema, lag=lag, block_bytes=block).pieces
    parts = [pickle.loads(pickle.dumps(job.map(piece))) for piece in pieces]
    assert numbers(job.finish(functools.reduce(job.combine, parts))) == numbers(usual)
    random.Random(0).shuffle(parts)
    other = job.finish(functools.reduce(job.combine, parts))
    for mine, theirs in ((other.states, usual.states), (other.tendencies, usual.tendencies)):
        np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-13, atol=1e-12)
        np.testing.assert_allclose(mine.std, theirs.std, rtol=1e-12)
        np.testing.assert_array_equal(mine.count, theirs.count)
        np.testing.assert_array_equal(mine.maximum, theirs.maximum)


@pytest.mark.parametrize("chunk", [1, 4, 13])
def test_statistics_of_dask_arrays_are_those_of_the_store(store, chunk):
    schema, days = schema_of(store), slice("2001-01-01T06", "2001-01-03T12")
    usual = statistics(store, schema, times=days, lag=2)
    with xr.open_zarr(store, consolidated=False) as ds:
        found = statistics(ds.chunk(time=chunk, latitude=4), schema, times=days, lag=2, block_bytes=1)
        assert numbers(found) == numbers(usual)
        assert numbers(statistics(ds.load(), schema, times=days, lag=2)) == numbers(usual)
    Windows(store, schema, normalise=found)  # they are known to be of this store
    with pytest.raises(ValueError, match="has changed since its statistics were taken"):
        Windows(save(fields(12), store.with_name(f"other{chunk}.zarr")), schema, normalise=found)


def test_statistics_on_a_cluster_are_those_of_one_process(store, client, tmp_path):
    schema = schema_of(store)
    usual = statistics(store, schema)
    seen = []
    found = statistics(
        store,
        schema,
        client=client,
        block_bytes=1,
        output=tmp_path / "out.zarr",
        progress=lambda done, of: seen.append((done, of)),
    )
    assert numbers(found) == numbers(usual)
    assert Statistics.open(tmp_path / "out.zarr") == found == usual
    assert seen[-1][0] == seen[-1][1] == len(seen) > 20
    with xr.open_zarr(store, consolidated=False) as ds:  # lazy arrays go to the current client by themselves
        assert numbers(statistics(ds.chunk(time=3), schema)) == numbers(usual)


def test_a_piece_that_fails_says_so_from_a_cluster(client, tmp_path):
    path = save(fields(6), tmp_path / "s.zarr")
    with xr.open_zarr(path, consolidated=False) as ds:
        schema = Schema.of(ds, ["sst"])
    with pytest.raises(ValueError, match=r"'sst' is nan at time 2001-01-01T00.*masked=\['sst'\]"):
        statistics(path, schema, client=client)


# --- scores -----------------------------------------------------------------------------------------


def case(members=None, seed=0):
    """A forecast of six initial times, its truth, and a mask that comes and goes."""
    noise = np.random.default_rng(seed)
    times = np.datetime64("2001-01-01", "ns") + 6 * HOUR * np.arange(14)
    dims = ("time", "level", "latitude", "longitude")
    coords = {"level": [500, 850], "latitude": GRID.lat_axis, "longitude": GRID.lon_axis}
    truth = xr.Dataset({"t": (dims, noise.standard_normal((14, 2, 8, 16)))}, {"time": times, **coords})
    lead = 6 * HOUR * np.arange(1, 4)
    shape = (6, *(() if members is None else (members,)), 3, 2, 8, 16)
    ensemble = () if members is None else ("realization",)
    forecast = xr.Dataset(
        {"t": (("time", *ensemble, "prediction_timedelta", *dims[1:]), noise.standard_normal(shape))},
        {"time": times[:6], "prediction_timedelta": lead, **coords},
    )
    return forecast, truth


def same(found, usual):
    """The same attributes and coordinates, and the same numbers but for how matrices are multiplied."""
    xr.testing.assert_allclose(found, usual, rtol=1e-13)
    assert found.attrs == usual.attrs


SCORES = {
    "rmse": {},
    "mae": {"weights": "area"},
    "bias": {"over": ()},
    "relative_l2": {},
    "acc": {},
    "crps": {},
    "wind_vector_rmse": {"u": "t", "v": "v"},
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_the_same_however_they_are_cut(name, client, monkeypatch):
    forecast, truth = case(4 if name == "crps" else None)
    if name == "wind_vector_rmse":
        forecast, truth = (ds.assign(v=2 * ds.t) for ds in (forecast, truth))
    others = [metrics.climatology(truth, hours=False)] if name == "acc" else []
    score, options = getattr(metrics, name), SCORES[name]
    usual = score(forecast, truth, *others, **options)
    lazy = forecast.chunk(time=2, latitude=3), truth.chunk(time=5)
    by_pieces = partial.score(name, *lazy, *others, **options)
    assert len(by_pieces.pieces) == 1
    monkeypatch.setattr("geoattn.xarray.scores.pairs.BLOCK_BYTES", 10_000)
    same(score(forecast, truth, *others, **options), usual)
    job = partial.score(name, *lazy, *others, **options)
    assert len(job.pieces) == 3  # of the chunks of the forecast
    (on_cluster,) = partial.run(job, client).values()
    same(on_cluster, usual)
    parts = [pickle.loads(pickle.dumps(job)).map(piece) for piece in job.pieces]
    shuffled = job.finish(functools.reduce(job.combine, parts[::-1]))
    same(shuffled[name], usual)


def test_scores_on_threads_of_what_is_lazy(monkeypatch):
    forecast, truth = case()
    visible = truth.t > -1
    usual = metrics.rmse(forecast, truth, mask=visible)
    monkeypatch.setattr("geoattn.xarray.scores.pairs.BLOCK_BYTES", 10_000)
    found = metrics.rmse(forecast.chunk(time=1), truth.chunk(time=2), mask=visible.chunk(time=1))
    same(found, usual)
    monkeypatch.setattr("geoattn.xarray.stores.jobs.AT_ONCE", 1)
    same(metrics.rmse(forecast.chunk(time=1), truth, mask=visible), usual)


def test_pieces_that_are_read_are_not_kept():
    """Flat memory: what a piece reads goes with it, also where the data set would keep it."""
    forecast, truth = case()
    job = partial.score("rmse", forecast.chunk(time=1), truth)
    job.map(job.pieces[0])
    assert job.pieces[0][1].chunks
    assert job.pieces[0] is not job.pieces[0]


def test_scores_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"name must be one of \['rmse', .*got 'rsme'"):
        partial.score("rsme", *case())


class Counting(partial.Job):
    """Counts words."""

    def __init__(self, *pieces):
        self.words = pieces

    @property
    def pieces(self):
        return self.words

    def map(self, piece):
        return len(piece.split())

    def combine(self, one, other):
        return one + other

    def finish(self, part):
        return f"{part} words"


def test_a_job_of_ones_own_runs_and_one_without_pieces_is_refused():
    seen = []
    assert partial.run(Counting("a b", "c"), progress=seen.append) == "3 words"
    assert seen == [1, 1]
    with pytest.raises(ValueError, match="the job has no pieces"):
        partial.run(Counting())


def test_the_command_sends_its_work_to_a_cluster(store, client, capsys):
    from geoattn.__main__ import main

    address = client.scheduler.address
    assert main(["statistics", str(store), "--variables", "t", "z", "--cluster", address]) == 0
    on_cluster = capsys.readouterr().out
    assert main(["statistics", str(store), "--variables", "t", "z"]) == 0
    assert on_cluster == capsys.readouterr().out


# --- regridding -------------------------------------------------------------------------------------


def test_regridding_on_a_cluster_is_that_of_one_process(client):
    _, truth = case()
    target = ga.grids.healpix(4)
    usual = ga.xarray.regrid(truth, target)
    for chunks in ({"time": 3}, {"time": 1, "latitude": 3}):
        lazy = ga.xarray.regrid(truth.chunk(chunks), target)
        assert lazy.t.chunks
        xr.testing.assert_identical(lazy.compute(scheduler=client), usual)


def test_regridding_into_a_store_on_a_cluster_is_that_of_one_process(client, tmp_path):
    _, truth = case()
    truth.to_zarr(tmp_path / "in.zarr", consolidated=False)
    with xr.open_zarr(tmp_path / "in.zarr", consolidated=False, chunks=None) as ds:
        job = partial.regrid(ds, ga.grids.healpix(4), tmp_path / "out.zarr", block_bytes=1)
        assert len(job.pieces) == 14
        assert partial.run(job, client) == tmp_path / "out.zarr"
    usual = ga.xarray.regrid(truth, ga.grids.healpix(4))
    with xr.open_zarr(tmp_path / "out.zarr", consolidated=False, chunks=None) as found:
        np.testing.assert_array_equal(found.t, usual.t)
    with pytest.raises(FileExistsError, match="exists"):
        partial.regrid(truth, ga.grids.healpix(4), tmp_path / "out.zarr")
