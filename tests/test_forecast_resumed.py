"""Forecasts that were stopped, killed or damaged, and what else may lie in their folder."""

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

from forecasts import prepared, runner  # noqa: E402
from stores import chunk_files  # noqa: E402

from geoattn.xarray import forecast  # noqa: E402
from geoattn.xarray.forecasts import rollout_store  # noqa: E402
from geoattn.xarray.forecasts.rollout_store import RolloutStore  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("forecast"))


@pytest.fixture
def run(folder, tmp_path):
    return runner(folder, tmp_path)


def same_bits(a, b):
    """Whether two stores hold the same numbers, coordinates and attributes, missing values included."""
    a, b = (xr.open_zarr(path, chunks=None, consolidated=False, decode_timedelta=True) for path in (a, b))
    xr.testing.assert_identical(a, b)
    return all(a[name].values.tobytes() == b[name].values.tobytes() for name in a.variables)


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
        (rollout_store.Record, "write", 0),
        (rollout_store.Record, "write", 1),
        (rollout_store.Record, "write", 6),
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
        return original(self, *arguments)

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
    keys = ((path, path.relative_to(store).as_posix().replace("/", ".")) for path in chunk_files(store / "t"))
    return next(path for path, key in keys if key.split(".")[-4] == "1")


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
    flip(chunk_files(stopped / "store.zarr" / "latitude")[0])
    with pytest.warns(UserWarning, match="damaged: the forecast is made again from its start"):
        run(**STOPPED, resume=True)
    assert same_bits(tmp_path / "out.zarr", whole)


@pytest.mark.filterwarnings("error:.*made again")
def test_what_is_recorded_is_on_the_disk_before(run, whole, stopped, tmp_path, monkeypatch):
    synced, original, known = set(), os.fsync, []

    def fsync(handle):
        synced.add(os.readlink(f"/proc/self/fd/{handle}"))
        original(handle)

    write_record = rollout_store.Record.write

    def record(self, path):
        store = stopped / "store.zarr"
        files = {str(path) for path in store.rglob("*") if "c" in path.parts and path.is_file()}
        known.append({path for path in files - before if path not in synced})
        write_record(self, path)

    before = {str(path) for path in stopped.rglob("*")}
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(rollout_store.Record, "write", record)
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
    untouched = chunk_files(tmp_path / "out.zarr" / "t")[0]
    before = untouched.stat().st_mtime_ns
    damage(a_chunk(tmp_path / "out.zarr"))
    with pytest.warns(UserWarning, match="lead time 2 of batch 1 .* is damaged: it and the later ones"):
        run(**STOPPED, resume=True)
    assert same_bits(tmp_path / "out.zarr", whole)
    assert untouched.stat().st_mtime_ns == before, "sound lead times are not made again"


def test_a_finished_forecast_with_damaged_descriptions_is_made_again(run, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out.zarr")
    flip(chunk_files(tmp_path / "out.zarr" / "latitude")[0])
    with pytest.warns(UserWarning, match="damaged: the forecast is made again from its start"):
        run(**STOPPED, resume=True)
    assert same_bits(tmp_path / "out.zarr", whole)


def test_a_finished_forecast_without_checksums_is_taken_as_it_is_with_a_warning(run, tmp_path):
    run()
    (tmp_path / "out.zarr" / rollout_store.RECORD).unlink()
    with pytest.warns(UserWarning, match="carries no checksums: it is taken as it is"):
        run(resume=True)
