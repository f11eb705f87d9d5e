"""``geoattn train forecast`` and ``geoattn evaluate forecast``: from one's own store to a scored model."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import geoattn as ga
from geoattn.__main__ import main

xr = pytest.importorskip("xarray", reason="stores are read by xarray")
for module in ("lightning", "jsonargparse", "matplotlib", "zarr"):
    pytest.importorskip(module, reason="runs need it")

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import climate_stores  # noqa: E402

from geoattn.xarray import Forecaster, Statistics, metrics, statistics  # noqa: E402
from geoattn.xarray.stores import parts  # noqa: E402

MODEL = ["--model.dim", "16", "--model.depth", "1", "--model.num_heads", "2", "--fit.accelerator", "cpu"]
FIT = ["--fit.steps", "40", "--fit.validate_every", "20", "--fit.learning_rate", "1e-2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    climate_stores.write("healpix", folder, times=64)
    store = str(folder / "healpix.zarr")
    words = ["train", "forecast", "--data.store", store, "--output", str(folder / "run"), *MODEL, *FIT]
    assert main(words) == 0
    return folder


def refused(capsys, *words):
    capsys.readouterr()
    assert main(["train", "forecast", *MODEL, *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("geoattn train: ")
    return said


def test_a_run_leaves_one_folder_and_beats_persistence(folder, capsys):
    run = folder / "run"
    for name in ("config.json", "metrics.csv", "model.pt", "settings.yaml", "learning.png"):
        assert (run / name).stat().st_size > 0
    forecaster = Forecaster.load(run / "model.pt")
    assert forecaster.schema.labels == ("ta 850", "ta 500", "tos", "orog")
    assert forecaster.network.config.hoods[0].key_grid == ga.grids.healpix(8)
    assert forecaster.step == np.timedelta64(6, "h")
    (kept,) = run.glob("statistics-*.zarr")
    times = xr.open_zarr(folder / "healpix.zarr", consolidated=False).time.values
    training = slice(times[0], times[44])  # 70 % of 64
    usual = statistics(folder / "healpix.zarr", forecaster.schema, times=training)
    assert Statistics.open(kept) == usual == forecaster.statistics
    assert main(["evaluate", "forecast", "--output", str(run)]) == 0
    said = capsys.readouterr().out
    assert "rmse ta 850 model" in said
    result = json.loads((run / "evaluation.json").read_text())
    for errors in result["rmse"].values():
        assert errors["model"][0] < errors["persistence"][0]
    assert (run / "errors.png").exists()
    with xr.open_zarr(run / "forecast.zarr", consolidated=False, decode_timedelta=True) as forecast:
        truth = xr.open_zarr(folder / "healpix.zarr", consolidated=False, chunks=None)
        assert forecast.time.values[0] == times[54]  # after 85 %
        rmse = metrics.rmse(forecast, truth, mask="truth")
        np.testing.assert_allclose(result["rmse"]["ta 500"]["model"], rmse.ta.sel(level=500), rtol=1e-6)


def test_the_same_command_goes_on_and_another_is_refused(folder, capsys):
    run, store = folder / "run", folder / "healpix.zarr"
    before = (run / "metrics.csv").stat().st_mtime_ns
    words = ["--data.store", store, "--output", run, *FIT]
    assert main(["train", "forecast", *map(str, words), *MODEL]) == 0
    assert (run / "metrics.csv").stat().st_mtime_ns == before  # finished, and loaded
    assert "holds a run with other settings" in refused(
        capsys, *words, "--data.train", "2001-01-01/2001-01-05"
    )


def test_parts_by_date_levels_and_a_grid_of_ones_own_for_the_blocks(folder, tmp_path):
    words = ["--data.store", f"[{folder / 'healpix.zarr'}]", "--data.variables", "ta=500 orog"]
    words += ["--data.train", "2001-01-01/2001-01-08", "--data.validation", "2001-01-09/2001-01-12"]
    words += ["--data.step", "2", "--model.grid", "icosahedral(2)", "--output", str(tmp_path / "run")]
    fit = ["--fit.steps", "2", "--fit.validate_every", "2"]
    assert main(["train", "forecast", *words, *fit, *MODEL]) == 0
    forecaster = Forecaster.load(tmp_path / "run" / "model.pt")
    assert forecaster.schema.labels == ("ta 500", "orog")
    assert forecaster.network.config.hoods[0].key_grid == ga.grids.icosahedral(2)
    assert forecaster.step == np.timedelta64(12, "h")
    assert forecaster.statistics.last == "2001-01-08T18:00:00"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["validation"] == ["2001-01-09", "2001-01-12"]


def test_what_cannot_be_trained_is_refused(folder, tmp_path, capsys):
    store = ["--data.store", folder / "healpix.zarr", "--output", tmp_path / "run"]
    said = refused(capsys, *store, "--model.geometry", "plane")
    assert "the blocks work on the HEALPix grid" in said
    assert "(on this command line: --model.geometry sphere)" in said
    assert "name it, --data.store STORE" in refused(capsys, "--output", tmp_path / "run")
    assert "there is no store at" in refused(capsys, "--data.store", "nowhere.zarr")
    assert "write them as 1979/2015" in refused(capsys, *store, "--data.train", "2001")
    assert "no variable 'q'" in refused(capsys, *store, "--data.variables", "q")
    assert "no time lies in" in refused(capsys, *store, "--data.train", "1979/1980")
    assert "the catalogue has no grid named" in refused(capsys, *store, "--model.grid", "nowhere")
    assert "unroll must be at least 1" in refused(capsys, *store, "--unroll", "0")
    short = xr.open_zarr(folder / "healpix.zarr", consolidated=False, chunks=None).isel(time=slice(0, 5))
    short.drop_encoding().to_zarr(tmp_path / "short.zarr", consolidated=False)
    said = refused(capsys, "--data.store", tmp_path / "short.zarr", "--output", tmp_path / "run")
    assert "5 steps are too few to be parted" in said
    gaps = xr.open_zarr(folder / "healpix.zarr", consolidated=False, chunks=None).isel(time=[0, 1, 2, 5, 6])
    gaps.drop_encoding().to_zarr(tmp_path / "gaps.zarr", consolidated=False)
    said = refused(
        capsys,
        "--data.store",
        tmp_path / "gaps.zarr",
        "--data.train",
        "/2001-01-02T06",
        "--data.validation",
        "2001-01-02T12/",
    )
    assert "(on this command line: --data.gaps split)" in said


def test_what_a_user_can_do_is_said_in_words_of_the_command_line(folder, tmp_path, capsys):
    ds = xr.open_zarr(folder / "healpix.zarr", consolidated=False, chunks=None)
    coarse = ga.xarray.regrid(ds, ga.grids.healpix(4), missing="renormalise")
    coarse.drop_encoding().to_netcdf(tmp_path / "coarse.nc")
    words = ["--checkpoint", folder / "run" / "model.pt", "--input", tmp_path / "coarse.nc", "--steps", "1"]
    assert main(["forecast", *map(str, words), "--output", str(tmp_path / "f.zarr")]) == 2
    said = capsys.readouterr().err
    assert "(on this command line: geoattn regrid " in said
    store = ["--data.store", folder / "healpix.zarr", "--output", tmp_path / "run"]
    said = refused(capsys, *store, "--model.dim", "30", "--model.num_heads", "4")
    assert "(on this command line: --model.num_heads 3; --model.dim 32)" in said
    said = refused(capsys, *store, "--model.grid", "nowhere")
    assert "(on this command line: geoattn grids" in said


def test_areas_that_fit_no_grid_are_left_out_of_training(folder, tmp_path, capsys):
    ds = xr.open_zarr(folder / "healpix.zarr", consolidated=False, chunks=None)
    ds = ga.xarray.regrid(ds, ga.grids.gaussian(8, 16), missing="renormalise")
    areas = 1.0 + 0.1 * np.random.default_rng(0).random((8, 16))
    ds["cell_area"] = (("latitude", "longitude"), areas)
    ds.drop_encoding().to_netcdf(tmp_path / "a.nc")
    words = ["--data.store", tmp_path / "a.nc", "--data.variables", "ta=500", "--output", tmp_path / "run"]
    words += ["--fit.steps", "2", "--fit.validate_every", "2", *MODEL]
    said = refused(capsys, *words)
    assert "(on this command line: --data.use_areas False)" in said
    assert main(["train", "forecast", *map(str, words), "--data.use_areas", "False"]) == 0
    assert Forecaster.load(tmp_path / "run" / "model.pt").schema.grid == ga.grids.gaussian(8, 16)


def test_no_step_is_in_two_parts(folder, tmp_path, capsys, refused_by):
    store = folder / "healpix.zarr"
    words = ["--data.store", store, "--data.variables", "ta=500", "--output", tmp_path / "run"]
    days = ("2001-01-01/2001-01-08", "2001-01-08/2001-01-12")
    said = refused(capsys, *words, "--data.train", days[0], "--data.validation", days[1])
    assert f"train, {days[0]}, and validation, {days[1]}, share 4 steps" in said
    (remedy,) = re.findall(r"part them, (--data\.train) (\S+)", said)
    fit = ["--fit.steps", "2", "--fit.validate_every", "2"]
    given = [*map(str, words), *remedy, "--data.validation", days[1], *fit, *MODEL]
    assert main(["train", "forecast", *given]) == 0
    assert Forecaster.load(tmp_path / "run" / "model.pt").statistics.last == "2001-01-07T18:00:00"
    # the test, which is not given, is what follows
    assert main(["evaluate", "forecast", "--output", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["first_initial_time"] == "2001-01-13T00:00:00"
    test = "2001-01-02/2001-01-03"
    said = refused(capsys, *words, "--data.train", days[0], "--data.test", test)
    assert f"train, {days[0]}, and test, {test}, share 8 steps" in said
    said = refused(capsys, *words, "--data.train", "2001/2002")
    assert "64 steps are too few to be parted: train 2001/2002 leave 0 for validation" in said


def test_parts_that_are_left_out_share_what_the_others_leave(folder, tmp_path):
    store = folder / "healpix.zarr"
    words = ["--data.store", store, "--data.variables", "ta=500", "--output", tmp_path / "run"]
    words += ["--data.train", "2001-01-01/2001-01-10", "--fit.steps", "2", "--fit.validate_every", "2"]
    assert main(["train", "forecast", *map(str, words), *MODEL]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["validation"] == ["2001-01-11T00:00:00", "2001-01-13T18:00:00"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"train": (0, 70), "validation": (70, 85), "test": (85, 100)}),
        ({"train": (0, 40)}, {"train": (0, 40), "validation": (40, 70), "test": (70, 100)}),
        ({"train": (0, 40), "test": (60, 80)}, {"train": (0, 40), "validation": (40, 60), "test": (60, 80)}),
        ({"test": (85, 100)}, {"train": (0, 70), "validation": (70, 85), "test": (85, 100)}),
        ({"validation": (50, 60)}, {"train": (0, 50), "validation": (50, 60), "test": (60, 100)}),
        (
            {"train": (20, 40), "test": (0, 20)},
            {"train": (20, 40), "validation": (40, 100), "test": (0, 20)},
        ),
    ],
)
def test_shares_lie_between_the_parts_that_are_given(given, expected):
    assert parts.shared_out(given, 100) == expected


def test_random_parts_never_overlap():
    random = np.random.default_rng(0)
    for _ in range(500):
        steps, given = int(random.integers(1, 50)), {}
        for name in random.permutation(list(parts.SHARES))[: random.integers(0, 3)]:
            start = int(random.integers(0, steps))
            span = start, int(random.integers(start + 1, steps + 1))
            if all(span[1] <= a or b <= span[0] for a, b in given.values()):
                given[str(name)] = span
        found = parts.shared_out(given, steps)
        assert sum(np.arange(a, b).size for a, b in found.values()) == len(
            {step for a, b in found.values() for step in range(a, b)}
        )
        assert given.items() <= found.items()
