"""Training on many processes: the losses of one, checkpoints for any number, and what a death leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist

for module in ("lightning", "xarray", "zarr", "matplotlib"):
    pytest.importorskip(module, reason="forecasters train on stores with Lightning, and draw their curve")
if not dist.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

import lightning  # noqa: E402
import parallel_model_jobs  # noqa: E402
import parallel_run_jobs as jobs  # noqa: E402
import xarray  # noqa: E402
from crew import Crew  # noqa: E402

import geoattn as ga  # noqa: E402
from geoattn.training import FitConfig, fit, train_forecaster  # noqa: E402
from geoattn.training.checkpoints import check  # noqa: E402
from geoattn.xarray import Schema, Windows, statistics  # noqa: E402

GRID = ga.grids.gaussian(8, 16)


pytestmark = pytest.mark.usefixtures("on_the_reference")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run by one process: its folder, and the lines of its metrics."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, jobs.train(folder, folder / "one", 1)


def same(found, true):
    assert [row["step"] for row in found] == [row["step"] for row in true]
    for name in ("train_loss", "val_loss"):
        assert [row[name] for row in found] == pytest.approx([row[name] for row in true], rel=1e-5)


@pytest.mark.parametrize("domain", [4, 2], ids=["4 × 1", "2 × 2"])
def test_shallow_water_learns_as_on_one_process(crew, one, domain):
    folder, rows = one
    for found in crew(jobs.train, folder, folder / f"domain-{domain}", domain):
        same(found, rows)
    models = [ga.models.load(folder / name / "model.pt")[0] for name in ("one", f"domain-{domain}")]
    for a, b in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", ["segmentation", "depth"])
def test_panoramas_are_learned_as_on_one_process(crew, tmp_path, name):
    """Losses, and the scores of whole panoramas."""
    true = jobs.learn(tmp_path / "one", name, 1)
    for found in crew(jobs.learn, tmp_path / "four", name, 4):
        for a, b in zip(found, true, strict=True):
            names = [key for key in b if key == "train_loss" or key.startswith("val_")]
            assert len(names) > 7
            assert [a[key] for key in names] == pytest.approx([b[key] for key in names], rel=1e-5)


def test_when_one_is_killed_the_others_end_and_any_number_goes_on(one):
    """They end with an error at once; the last checkpoint is whole, and one process goes on from it."""
    folder, rows = one
    output, two = folder / "killed", Crew(2)
    try:
        two(parallel_model_jobs.on_the_reference, True)
        said = two.survivors(jobs.train_until_one_dies, folder, output, 5, patience=150)
    finally:
        two.close()
    ((told, _),) = said.values()
    assert "Error" in told.splitlines()[-1]
    check(output / "checkpoints" / "last.ckpt")
    assert not [path for path in output.rglob("*") if "partial" in path.name]
    same(jobs.train(folder, output, 1), rows)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("divisor", "domain=3 does not divide the 4 processes"),
        ("batch", "batch_size=6 does not divide among 4 processes"),
    ],
)
def test_what_does_not_divide_is_refused(crew, one, name, told):
    for words in crew(jobs.refused, one[0], name):
        assert told in words


def test_what_cannot_be_divided_is_told_what_can(one, tmp_path, refused_by):
    two = FitConfig(domain=2)
    with refused_by("training/processes.py", "divides each field among as many") as said:
        jobs.train(one[0], tmp_path, 2)
    said.says("torchrun --nproc-per-node 2")
    with refused_by("training/fit.py", "works on whole ones") as said:
        fit(lightning.LightningModule(), None, tmp_path, two)
    said.says("domain=1")
    with refused_by("training/forecasting.py", "domain divides fields among processes") as said:
        train_forecaster(None, [], [], tmp_path, two)
    said.says("domain=1")
    path = written(tmp_path / "store.zarr", 8, 16)
    windows = Windows(path, schema_of(path), normalise=statistics(path, schema_of(path)))
    with refused_by("xarray/stores/windows.py", "a part of windows is in physical units") as said:
        windows.part(np.arange(3))
    said.says("normalise=None")
    assert Windows(path, schema_of(path), normalise=None).part(np.arange(3))[0]["input"].shape[-1] == 3


# ---------------------------------------------------------------- what each process reads


def written(path, rows, columns):
    """Fields on levels with missing values, a height that does not change, and chunks along the grid."""
    rng = np.random.default_rng(0)
    wave = rng.standard_normal((6, 16, 8, 2)).astype(np.float32)
    wave[rng.random(wave.shape) < 0.1] = np.nan
    height = rng.standard_normal((8, 16)).astype(np.float32)
    height[0, :3] = np.nan
    xarray.Dataset(
        {
            "wave": (("time", "longitude", "latitude", "level"), wave),
            "height": (("latitude", "longitude"), height),
        },
        {
            "time": np.datetime64("2001-01-01", "ns") + np.timedelta64(3, "h") * np.arange(6),
            "level": ("level", [850, 500], {"units": "hPa"}),
            "latitude": ("latitude", GRID.lat_axis, {"units": "degrees_north"}),
            "longitude": ("longitude", GRID.lon_axis, {"units": "degrees_east"}),
        },
    ).to_zarr(
        path,
        consolidated=False,
        encoding={"wave": {"chunks": (1, columns, rows, 1)}, "height": {"chunks": (rows, columns)}},
    )
    return path


@pytest.fixture(scope="module", params=[(8, 16), (3, 5), (1, 16)], ids=str)
def store(request, tmp_path_factory):
    return written(tmp_path_factory.mktemp("parts") / "store.zarr", *request.param)


def schema_of(store, masked=("wave", "height")):
    ds = xarray.open_zarr(store, chunks=None, consolidated=False)
    kinds = {"wave": "changing", "height": "static"}
    return Schema.of(ds, {"wave": [500, 850], "height": None}, masked={name: kinds[name] for name in masked})


def test_a_part_of_windows_is_the_part_of_each(store):
    windows = Windows(store, schema_of(store))
    tokens = np.random.default_rng(1).permutation(GRID.size)[:37]
    part = windows.part(tokens)
    for index in (0, 3):
        whole = windows[index]
        for name, values in part[index].items():
            wanted = whole[name] if name == "index" else whole[name].flatten(-2)[..., tokens]
            assert torch.equal(values, wanted), name


def test_no_chunk_is_read_that_has_none_of_the_points(store, monkeypatch):
    from geoattn.xarray.stores.chunks import LocalArray

    read, actual = [], LocalArray._task

    def noted(self, values, pieces):
        read.append((self.folder.name, tuple(piece[0] for piece in pieces)))
        return actual(self, values, pieces)

    monkeypatch.setattr(LocalArray, "_task", noted)
    tokens = np.array([0, 1, 16, 17])  # two rows of two points
    Windows(store, schema_of(store)).reader.part(tokens).read(slice(0, 1))
    _, columns, rows, _ = xarray.open_zarr(store, chunks=None, consolidated=False).wave.encoding["chunks"]
    wanted = {(t % 16 // columns, t // 16 // rows) for t in tokens.tolist()}
    assert {numbers[1:3] for name, numbers in read if name == "wave"} == wanted


def test_missing_values_of_a_part_are_told_by_their_place_on_the_grid(store):
    reader = Windows(store, schema_of(store, masked=["wave"])).reader.part(np.arange(GRID.size)[::-1])
    with pytest.raises(ValueError, match=r"'height' is nan, at point \(0, [012]\) of the grid"):
        reader.read(slice(0, 1))


def test_a_step_on_many_processes_is_that_of_one(crew, tmp_path):
    store = written(tmp_path / "store.zarr", 3, 5)
    found = crew(jobs.stepped, 4, store, {"wave": [500], "height": None})[0]
    assert not {name: e for name, e in found.items() if not e < 1e-12}
