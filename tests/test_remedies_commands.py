"""What commands on stores refuse: each remedy that a message names is carried out."""

import argparse
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from geoattn.commands import experiments

xr = pytest.importorskip("xarray", reason="stores are read by xarray")
pytest.importorskip("zarr", reason="stores are zarr")
for module in ("lightning", "jsonargparse", "matplotlib"):
    pytest.importorskip(module, reason="runs need it")

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import climate_stores  # noqa: E402
from test_store_commands import forecast_of, source  # noqa: E402

from geoattn.xarray import metrics  # noqa: E402
from geoattn.xarray.scores.regions import regions  # noqa: E402
from geoattn.xarray.scores.spectra import zonal_spectrum  # noqa: E402


def command(name, *words):
    """Run a command; what it refuses is raised."""
    parser, module = argparse.ArgumentParser(), import_module(f"geoattn.commands.{name}")
    module.arguments(parser)
    return module.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    source()[["t"]].to_netcdf(folder / "truth.nc")
    forecast_of(source())[["t"]].to_netcdf(folder / "forecast.nc")
    forecast_of(source(), 2)[["t"]].rename(realization="number").to_netcdf(folder / "members.nc")
    metrics.climatology(source()[["t"]], hours=False).to_netcdf(folder / "climatology.nc")
    climate_stores.write("healpix", folder, times=40)
    return folder


def test_scores(refused_by, folder):
    words = [folder / "forecast.nc", "--truth", folder / "truth.nc"]
    with refused_by("commands/score.py", "anomalies are of a climatology") as said:
        command("score", *words, "--scores", "acc")
    said.says("--climatology STORE")
    assert command("score", *words, "--scores", "acc", "--climatology", folder / "climatology.nc") == 0
    words[0] = folder / "members.nc"
    with refused_by("commands/score.py", "the CRPS is of members") as said:
        command("score", *words, "--scores", "crps")
    said.says("ensemble_dim=…")
    assert command("score", *words, "--scores", "crps", "--ensemble-dim", "number") == 0


def test_regions(refused_by):
    ds = source()
    with refused_by("xarray/scores/regions.py", "there is no region {name}") as said:
        regions(ds, ["asia"])
    said.says("name=south:north,west:east")
    with refused_by("xarray/scores/regions.py", "is no region: write it as") as said:
        regions(ds, ["asia=5"])
    said.says("name=south:north,west:east")
    (area,) = regions(ds, ["asia=5:60,40:150"]).values()
    assert 0 < (area > 0).sum() < area.size
    assert set(regions(ds, ["tropics", "ausnz"])) == {"tropics", "ausnz"}


def test_spectra(refused_by, folder):
    ds = xr.open_zarr(folder / "healpix.zarr", consolidated=False, chunks=None)[["ta"]].isel(time=[0])
    with refused_by("xarray/scores/spectra.py", "waves along parallels need rows") as said:
        zonal_spectrum(ds)
    moved = said.run("ds = ga.xarray.regrid(", ds=ds, nlat=19, nlon=36)
    assert zonal_spectrum(moved).ta.sizes["wavenumber"] == 19


def test_plots(refused_by, folder, tmp_path):
    words = ["map", folder / "truth.nc", "--variable", "t", "--output", tmp_path / "p.png", "--select"]
    with refused_by("commands/plot.py", "selects nothing of the dimensions") as said:
        command("plot", *words, "time")
    said.says("DIM=NUMBER")
    assert command("plot", *words, "time=3") == 0


def test_plots_of_missing_values(refused_by, folder, tmp_path):
    ds = source()
    ds.sst[0] = np.nan
    ds.t[0, 0] = np.nan
    ds["ice"] = ds.sst.expand_dims(realization=2).copy()
    ds.ice[0] = np.nan
    columns = xr.DataArray(np.arange(16), dims="longitude")
    ds["cloud"] = ds.t[:, 1].where(columns // 3 != ds.time.dt.dayofyear - 1)
    ds["flat"] = ds.t[:, 1] * 0 + ds.t[:, 1, :, 0]
    ds["some"] = ds.t.copy()
    ds.some[:, 0] = np.nan
    ds.flat[1] = ds.t[1, 1]
    ds.to_netcdf(store := tmp_path / "gaps.nc")

    def draw(kind, name, *words, store=store):
        return command("plot", kind, store, "--variable", name, "--output", tmp_path / "p.png", *words)

    with refused_by("commands/plot.py", "and a map would be empty") as said:
        draw("map", "sst")
    said.says("--time TIME", "--level LEVEL", "--select DIM=NUMBER")
    assert draw("map", "sst", "--time", "2001-01-02") == 0
    assert draw("map", "t", "--level", "850") == 0
    assert draw("map", "ice", "--select", "time=1", "realization=1") == 0
    with refused_by("commands/plot.py", "every value is missing or infinite at all times") as said:
        draw("series", "ice")
    said.says("--level LEVEL", "--select DIM=NUMBER")
    assert draw("series", "ice", "--select", "realization=1") == 0
    assert draw("series", "some", "--level", "850") == 0
    land = ds.sst[1].isnull().stack(point=["latitude", "longitude"])
    point = ",".join(str(float(value)) for value in land.point.values[land.values][-1])
    with refused_by("commands/plot.py", "has no value at {lat}°N {lon}°E, the point nearest to") as said:
        draw("series", "sst", f"--point={point}")
    (other,) = re.findall(r"--point=[\d.,-]+\d", said.message)
    said.says(other)
    assert draw("series", "sst", other) == 0
    with refused_by("commands/plot.py", "no point has a value at all times") as said:
        draw("series", "cloud")
    (other,) = re.findall(r"--point=[\d.,-]+\d", said.message)
    said.says(other)
    assert draw("series", "cloud", other) == 0
    with refused_by("commands/plot.py", "values are missing or infinite, and waves along") as said:
        draw("spectrum", "sst", "--time", "2001-01-02")
    said.says("ds.fillna({'sst': 0}).to_zarr('filled.zarr')")
    ds[["sst"]].fillna({"sst": 290}).to_zarr(filled := tmp_path / "filled.zarr", zarr_format=2)
    assert draw("spectrum", "sst", "--time", "2001-01-02", store=filled) == 0
    with refused_by("commands/plot.py", "there are no waves") as said:
        draw("spectrum", "flat")
    said.says("--time TIME")
    assert draw("spectrum", "flat", "--time", "2001-01-01T06") == 0


def test_training(refused_by, folder, tmp_path):
    small = "--model.dim 16 --model.depth 1 --model.num_heads 2 --fit.steps 1 --fit.validate_every 1"
    small = shlex.split(small + " --fit.batch_size 2 --fit.accelerator cpu")

    def train(*words, output="run"):
        given = [*map(str, words), "--output", str(tmp_path / output), *small]
        return experiments.train(["forecast", *given])

    store = ["--data.store", folder / "healpix.zarr"]
    with refused_by("tasks/forecast/experiment.py", "there is no store to train on") as said:
        train()
    said.says("--data.store STORE")
    with refused_by("tasks/forecast/network.py", "a window of the plane needs rows") as said:
        train(*store, "--model.geometry", "plane")
    said.says("geometry='sphere'")
    assert train(*store, "--model.geometry", "sphere", "--data.variables", "ta=500") == 0
    short = xr.open_zarr(folder / "healpix.zarr", consolidated=False, chunks=None).isel(time=slice(0, 8))
    short[["ta"]].drop_encoding().to_zarr(tmp_path / "short.zarr", consolidated=False)
    store = ["--data.store", tmp_path / "short.zarr"]
    with refused_by("tasks/forecast/experiment.py", "steps are too few to be parted") as said:
        train(*store, output="short")
    said.says("--data.validation FIRST/LAST")
    times = ["--data.train", "2001-01-01T00/2001-01-01T12", "--data.test", "2001-01-02T06/2001-01-02T18"]
    times += ["--data.validation", "2001-01-01T18/2001-01-02T00"]
    assert train(*store, *times, output="short") == 0
    output = ["forecast", "--output", str(tmp_path / "short")]
    with refused_by("tasks/forecast/experiment.py", "too few for forecasts of") as said:
        experiments.evaluate(output)
    said.says("--lead_steps")
    settings = tmp_path / "short" / "settings.yaml"
    settings.write_text(settings.read_text().replace("lead_steps: 8", "lead_steps: 2"))
    assert experiments.evaluate(output) == 0
