"""One forecast by many processes: what one process forecasts, in one store, each writing its rows."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch.distributed as dist

xr = pytest.importorskip("xarray", reason="forecasts go from store to store")
pytest.importorskip("lightning", reason="the jobs beside these train")
if not dist.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

import parallel_run_jobs as jobs  # noqa: E402
from forecasts import prepared  # noqa: E402

import geoattn as ga  # noqa: E402

ASKED = {"times": ["2001-01-01", "2001-01-02"], "members": 2, "steps": 3, "batch_size": 3}


pytestmark = pytest.mark.usefixtures("on_the_reference")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("together"))


def alone(folder, output, **options):
    return ga.xarray.forecast(
        folder / "model.pt", folder / "in.zarr", output, progress=False, device="cpu", **(ASKED | options)
    )


@pytest.fixture(scope="module")
def whole(folder):
    return alone(folder, folder / "whole.zarr").load()


def opened(path):
    return xr.open_zarr(path, chunks=None, consolidated=False, decode_timedelta=True)


def same(path, whole):
    found = opened(path)
    for name in whole.data_vars:
        assert found[name].dims == whole[name].dims
        np.testing.assert_allclose(found[name].values, whole[name].values, rtol=1e-5, atol=1e-5)
    xr.testing.assert_identical(found.coords.to_dataset(), whole.coords.to_dataset())
    assert not path.with_name(path.name + ".unfinished").exists()


@pytest.mark.parametrize("n", [3, 4])
def test_many_processes_write_the_rows_of_one_store(crew, folder, whole, tmp_path, n):
    crew(jobs.forecast, n, folder, tmp_path / "out.zarr", ASKED)
    same(tmp_path / "out.zarr", whole)
    rows = -(-7 // n)
    assert opened(tmp_path / "out.zarr").t.encoding["chunks"] == (1, 1, 1, 2, rows, 12)
    assert opened(tmp_path / "out.zarr").q.encoding["chunks"] == (1, 1, 1, 2, 12, rows)


def test_any_number_goes_on_with_what_others_began(crew, folder, whole, tmp_path):
    output = tmp_path / "out.zarr"
    said = crew(jobs.forecast, 4, folder, output, ASKED, 2)
    assert said == ["Stopped: "] * 4
    assert crew(jobs.forecast, 3, folder, output, ASKED | {"resume": True}, 1)[:3] == ["Stopped: "] * 3
    alone(folder, output, resume=True)
    same(output, whole)


def test_a_damaged_band_is_made_again(crew, folder, whole, tmp_path):
    output = tmp_path / "out.zarr"
    crew(jobs.forecast, 4, folder, output, ASKED)
    (output / "t" / "c" / "0" / "0" / "1" / "0" / "2" / "0").write_bytes(b"")
    with pytest.warns(UserWarning, match="lead time 2 of batch 1 in .* is damaged"):
        alone(folder, output, resume=True)
    same(output, whole)


def test_all_are_told_what_one_is_refused(crew, folder, whole):
    first, *others = crew(jobs.forecast, 4, folder, folder / "whole.zarr", ASKED)
    assert "exists: give another output" in first
    assert all("process 0 of 4 could not go on with the forecast" in told for told in others)
    assert all("exists: give another output" in told for told in others)


def test_the_command_under_torchrun(folder, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    asked = [
        "--checkpoint",
        folder / "model.pt",
        "--input",
        folder / "in.zarr",
        "--output",
        tmp_path / "out.zarr",
    ]
    command = [*torchrun, "-m", "geoattn", "forecast", *map(str, asked), "--steps", "2", "--device", "cpu"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    same(
        tmp_path / "out.zarr",
        alone(folder, tmp_path / "alone.zarr", steps=2, times=None, members=1, batch_size=4).load(),
    )
    assert opened(tmp_path / "out.zarr").t.encoding["chunks"] == (1, 1, 2, 4, 12)
