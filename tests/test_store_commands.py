"""Commands on a user's own stores, in every form that stores come in, against the library and numpy."""

import json
import subprocess
import sys
import textwrap
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

import geoattn as ga
from geoattn.__main__ import main

xr = pytest.importorskip("xarray", reason="stores are read by xarray")
zarr = pytest.importorskip("zarr", reason="stores are zarr")
pytest.importorskip("netCDF4", reason="and netCDF")
pytest.importorskip("matplotlib", reason="scores are drawn")

from stores import needs_zarr_3  # noqa: E402
from test_statistics import fields  # noqa: E402

from geoattn.xarray import Schema, metrics, statistics  # noqa: E402
from geoattn.xarray.scores.spectra import zonal_spectrum  # noqa: E402
from geoattn.xarray.stores.joined import open_stores  # noqa: E402
from geoattn.xarray.stores.store import Store  # noqa: E402

HOUR = np.timedelta64(1, "h")
LAT, LON = np.linspace(80, -80, 9), 22.5 * np.arange(16)


def source(steps=24):
    """Two levels of a temperature and a sea with land, on rows from north to south."""
    random = np.random.default_rng(0)
    land = random.random((9, 16)) < 0.3
    dims = ("time", "level", "latitude", "longitude")
    sea = np.where(land, np.nan, 290 + random.standard_normal((steps, 9, 16)))
    return xr.Dataset(
        {
            "t": (dims, np.float32(250 + random.standard_normal((steps, 2, 9, 16))), {"units": "K"}),
            "sst": (("time", "latitude", "longitude"), np.float32(sea), {"units": "K"}),
            "z": (("latitude", "longitude"), np.float32(random.random((9, 16))), {"units": "m"}),
        },
        {
            "time": np.datetime64("2001-01-01", "ns") + 6 * HOUR * np.arange(steps),
            "level": ("level", [500, 850], {"units": "hPa"}),
            "latitude": ("latitude", LAT, {"units": "degrees_north"}),
            "longitude": ("longitude", LON, {"units": "degrees_east"}),
        },
    )


def run(*words):
    return main([str(word) for word in words])


def read_json(path):
    """The content of a file that every reader of JSON takes: no NaN, no Infinity."""
    return json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def opens_quietly(path):
    """Whether a store opens as users write it, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_zarr(path, chunks=None, decode_timedelta=True) as ds:
            return bool(ds.sizes)


def refused(capsys, *words):
    """What a command says instead of running."""
    capsys.readouterr()
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"geoattn {words[0]}: ")
    assert "Traceback" not in captured.err
    return captured.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same data in every form."""
    folder, ds = tmp_path_factory.mktemp("forms"), source()
    ds.to_zarr(folder / "2.zarr", zarr_format=2, consolidated=True)
    ds.to_zarr(folder / "group.zarr", group="inner", consolidated=False)
    ds.to_netcdf(folder / "whole.nc")
    ds.to_netcdf(folder / "group.nc", group="inner")
    for i, part in enumerate((slice(0, 7), slice(7, 8), slice(8, 24))):
        ds.isel(time=part).to_netcdf(folder / f"part{i}.nc")
    ds.isel(time=slice(0, 10)).to_zarr(folder / "first.zarr", consolidated=False)
    ds.isel(time=slice(10, 24)).to_zarr(folder / "last.zarr", zarr_format=2, consolidated=False)
    for name, inner in (("2.zarr", ""), ("group.zarr", "")):
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_STORED) as archive:
            for path in (folder / name).rglob("*"):
                if path.is_file():
                    archive.write(path, inner + path.relative_to(folder / name).as_posix())
    return folder


FORMS = {
    "zarr 2": ["2.zarr"],
    "a group in zarr": ["group.zarr/inner"],
    "netCDF": ["whole.nc"],
    "a group in netCDF": ["group.nc/inner"],
    "many netCDF files": ["part0.nc", "part1.nc", "part2.nc"],
    "many zarr stores": ["first.zarr", "last.zarr"],
    "stores of two kinds": ["first.zarr", "last.zarr"],
    "zip": ["2.zarr.zip"],
    "a group in a zip": ["group.zarr.zip/inner"],
}


@needs_zarr_3
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_store_is_read_as_the_same_data(folder, form):
    ds = open_stores([str(folder / name) for name in FORMS[form]])
    xr.testing.assert_identical(ds.load(), source())
    for name in FORMS[form]:  # by the fast route too, which statistics and training take
        store = Store(str(folder / name))
        (values,) = store.read([("t", (slice(0, 1), *(slice(None),) * 3))])
        np.testing.assert_array_equal(values, store.dataset.t[:1])


@needs_zarr_3
def test_many_stores_are_read_as_one_wherever_it_is_asked(folder):
    ds, whole = open_stores([str(folder / name) for name in FORMS["many netCDF files"]]), source()
    random = np.random.default_rng(0)
    for _ in range(20):
        times = random.integers(-24, 24, size=(3, 2))
        choice = {"time": xr.DataArray(times, dims=("a", "b")), "longitude": slice(None, None, -3)}
        xr.testing.assert_identical(ds.t.isel(choice).load(), whole.t.isel(choice))
        choice = {"time": times[:, 0], "latitude": [8, 0, 0], "level": 1}
        xr.testing.assert_identical(ds.t.isel(choice).load(), whole.t.isel(choice))
    assert open_stores([str(folder / "part0.nc"), str(folder / "part1.nc")]).sizes["time"] == 8


@needs_zarr_3
def test_stores_that_are_not_one_are_refused(folder, tmp_path, capsys):
    inspect = lambda *names: refused(capsys, "inspect", *names)  # noqa: E731
    parts = [folder / f"part{i}.nc" for i in range(3)]
    assert "do not follow one another" in inspect(parts[0], parts[2], parts[1])
    assert "leave out what both have" in inspect(parts[0], parts[0])
    assert "there is no store at" in inspect(tmp_path / "nowhere.zarr")
    assert "keeps its variables in the groups ['/inner']" in inspect(folder / "group.zarr")
    assert "keeps its variables in the groups ['/inner']" in inspect(folder / "group.nc")
    ds = source().isel(time=slice(7, 9))
    changed = {
        "differ in the variables ['z']": ds.drop_vars("z"),
        "is not that of the": ds.assign_coords(latitude=ds.latitude + 1),
        "is in 'degC' in the netCDF file": ds.assign(t=ds.t.assign_attrs(units="degC")),
        "'t' is float64 over": ds.astype(float),
        "dates along no dimension": ds.isel(time=0, drop=True),
    }
    for i, (words, other) in enumerate(changed.items()):
        path = tmp_path / f"{i}.nc"
        other.to_netcdf(path)
        given = (path, parts[0]) if "no dimension" in words else (parts[0], path)
        assert words in inspect(*given)


# --- inspect ----------------------------------------------------------------------------------------


@needs_zarr_3
@pytest.mark.parametrize("form", ["zarr 2", "many netCDF files", "a group in netCDF"])
def test_inspect_says_grid_times_variables_and_masks(folder, tmp_path, capsys, form):
    names = [folder / name for name in FORMS[form]]
    assert run("inspect", *names, "--json", tmp_path / "r.json") == 0
    said, found = capsys.readouterr().out, json.loads((tmp_path / "r.json").read_text())
    assert repr(ga.grids.from_xarray(source())) == found["grid"]
    assert f"grid: {found['grid']}" in said
    assert "from coordinates 'latitude' and 'longitude'" in said
    assert "time: 24 steps every 6 h, 2001-01-01T00:00:00 to 2001-01-06T18:00:00, no gaps" in said
    assert "the first, the last and 8 steps between of 24; --full looks at all" in said
    variables = {v["name"]: v for v in found["variables"]}
    ten = np.linspace(0, 23, 10).round().astype(int)
    seen = source().isel(time=ten)
    assert variables["t"]["levels"] == "level 500 850"
    assert variables["t"]["units"] == "K"
    assert variables["t"]["missing"] == 0
    assert variables["sst"]["missing"] == pytest.approx(float(seen.sst.isnull().mean()))
    assert variables["sst"]["mask"] == "static"
    assert variables["t"]["maximum"] == pytest.approx(float(seen.t.max()))
    assert [r["by"] for r in found["refused"]] == ["a schema without masks"]
    assert "--masked sst=static" in found["refused"][0]["reason"]


def test_inspect_finds_what_would_be_refused(tmp_path, capsys):
    ds = source().isel(time=[0, 1, 2, 5, 6, 7])
    ds["t"][1, 0, 0, 0] = np.inf
    ds["sst"][3, 0, 0] = np.nan
    ds["sst"][2, 0, 0] = 290
    ds["text"] = (("latitude", "longitude"), np.full((9, 16), "a"))
    ds["depth"] = (("time", "layer", "latitude", "longitude"), np.zeros((6, 2, 9, 16)))
    ds.to_netcdf(tmp_path / "a.nc")
    assert run("inspect", tmp_path / "a.nc", "--full", "--json", tmp_path / "r.json") == 0
    said = capsys.readouterr().out
    refusals = json.loads((tmp_path / "r.json").read_text())["refused"]
    reasons = "\n".join(r["reason"] for r in refusals)
    assert "1 gap: 2001-01-01T12:00:00 to 2001-01-02T06:00:00" in said
    assert "gaps='split' (on the command line: --gaps split; of geoattn train: --data.gaps split)" in reasons
    assert "1 values of 't' are infinite" in reasons
    assert "'sst' has missing values at changing places" in reasons
    assert "'layer'" in reasons
    assert "Missing values and ranges are those of all 6 steps" in said
    unsorted = ds.isel(time=[1, 0])[["t"]]
    unsorted.to_netcdf(tmp_path / "b.nc")
    assert run("inspect", tmp_path / "b.nc") == 0
    assert capsys.readouterr().out.count("Sort it first: ds.sortby('time')") == 1
    nowhere = ds[["t"]].drop_vars(["latitude", "longitude"])
    nowhere.to_netcdf(tmp_path / "c.nc")
    assert run("inspect", tmp_path / "c.nc") == 0
    said = capsys.readouterr().out
    assert "by every command: no latitude found" in said
    assert "the coordinates are missing" in said
    other = ds[["t"]].rename(latitude="TLAT", longitude="lon")
    other["TLAT"].attrs.clear()
    other.to_netcdf(tmp_path / "d.nc")
    assert run("inspect", tmp_path / "d.nc") == 0
    said = capsys.readouterr().out
    assert "lat='…') (on the command line: --lat NAME; of geoattn train: --data.lat NAME)" in said
    assert "longitude 0" not in said
    assert "lon 0" not in said
    assert "(on this command line: --lat NAME)" in refused(capsys, "statistics", tmp_path / "d.nc")


@pytest.mark.parametrize("fault", ["points", "areas"])
def test_what_a_grid_is_taken_for_is_an_option_too(tmp_path, capsys, fault):
    ds = source()[["t"]]
    if fault == "points":
        ds = ds.assign_coords(longitude=ds.longitude * 1.0003)
        flag, trained = "--tolerance 0.0", "--data.tolerance 0.0"
    else:
        areas = 1.0 + 0.1 * np.random.default_rng(0).random(ds.t.shape[-2:])
        ds["cell_area"] = (ds.t.dims[-2:], areas)
        flag, trained = "--no-use-areas", "--data.use_areas false"
    ds.to_netcdf(path := tmp_path / "a.nc")
    assert run("inspect", path) == 0
    said = capsys.readouterr().out
    told = said.partition("(on the command line: ")[2].partition(")")[0]
    asked, of_train = told.split("; of geoattn train: ")
    assert asked.startswith(flag)
    assert of_train.startswith(trained)
    assert asked in refused(capsys, "statistics", path)
    assert run("inspect", path, *asked.split()) == 0
    assert "Nothing would be refused." in capsys.readouterr().out
    assert run("statistics", path, *asked.split(), "--output", tmp_path / "statistics.nc") == 0
    output = tmp_path / "coarse.zarr"
    assert run("regrid", path, "--grid", "healpix(2)", *asked.split(), "--output", output) == 0


def test_inspect_looks_at_ten_steps_and_no_more(tmp_path, monkeypatch):
    from geoattn.xarray.stores import looking

    assert looking.looked_at(10_000) == [0, 1111, 2222, 3333, 4444, 5555, 6666, 7777, 8888, 9999]
    assert looking.looked_at(3) == [0, 1, 2]
    assert looking.looked_at(0) == []
    ds, read = source(), []
    monkeypatch.setattr(looking.Look, "add", lambda self, values: read.append(values.shape))
    looking.look(ds, {"t": ("time",), "z": ()})
    assert read == [(2, 9, 16)] * 10 + [(9, 16)]
    read.clear()
    looking.look(ds, {"t": ("time",)}, full=True)
    assert len(read) == 24


def test_inspect_says_lead_times_in_hours(pair, capsys):
    assert run("inspect", pair / "forecast.zarr") == 0
    assert "prediction_timedelta 6 h 12 h 18 h 24 h" in capsys.readouterr().out
    ds = forecast_of(source())
    lead = ds.prediction_timedelta
    for kept in (lead, lead.astype("i8").assign_attrs(units="nanoseconds")):
        ds = ds.assign_coords(prediction_timedelta=kept)
        assert "prediction_timedelta 6 h" in ga.xarray.plot(ds.t[0, 0, 0]).get_title()


def test_masks_that_are_given_are_beside_those_that_are_found(tmp_path, capsys):
    ds = source(30)
    ds["t"][14, 0, 2, 3] = np.nan  # not among the steps that are looked at
    ds["z"][1, 1] = np.nan
    ds.to_netcdf(path := tmp_path / "s.nc")
    assert "(on this command line: --masked t)" in refused(capsys, "statistics", path)
    capsys.readouterr()
    assert run("statistics", path, "--masked", "t") == 0
    said = capsys.readouterr().out
    for name, kind in {"t": "changing", "sst": "static", "z": "static"}.items():
        assert f"{name}: a {kind} mask hides what is missing" in said
    assert run("statistics", path, "--masked", "t", "z", "sst=changing") == 0
    said = capsys.readouterr().out
    for name, kind in {"t": "changing", "sst": "changing", "z": "static"}.items():
        assert f"{name}: a {kind} mask hides what is missing" in said


def test_one_remedy_scores_against_a_truth_with_gaps_on_another_grid(pair, tmp_path, capsys):
    fine = ga.xarray.regrid(source(), ga.grids.equiangular(13, 24), missing="renormalise")
    fine.to_netcdf(truth := tmp_path / "fine.nc")
    words = ["score", pair / "forecast.zarr", "--truth"]
    said = refused(capsys, *words, truth)
    told = "geoattn regrid TRUTH --like FORECAST --missing renormalise --output NEW; --mask both"
    assert f"(on this command line: {told})" in said
    moved = ["--like", pair / "forecast.zarr", "--missing", "renormalise", "--output", tmp_path / "new.zarr"]
    assert run("regrid", truth, *moved) == 0
    assert run(*words, tmp_path / "new.zarr", "--mask", "both") == 0


# --- statistics -------------------------------------------------------------------------------------


@needs_zarr_3
def test_statistics_prints_what_the_library_finds(folder, tmp_path, capsys):
    parts = [folder / name for name in FORMS["many zarr stores"]]
    out, file = tmp_path / "s.zarr", tmp_path / "s.json"
    words = ["statistics", *parts, "--variables", "t=850", "sst", "--times", "2001-01-01", "2001-01-04"]
    assert run(*words, "--output", out, "--json", file) == 0
    said = capsys.readouterr().out
    ds = open_stores(list(map(str, parts)))
    schema = Schema.of(ds, {"t": [850], "sst": None}, masked={"sst": "static"})
    found = statistics(list(map(str, parts)), schema, times=slice("2001-01-01", "2001-01-04"))
    assert ga.xarray.Statistics.open(out) == found
    assert "sst: a static mask hides what is missing" in said
    row = next(line.split() for line in said.splitlines() if line.startswith("t 850"))
    assert [float(x) for x in row[3:7]] == [
        float(f"{x[0]:.5g}")
        for x in (found.states.mean, found.states.std, found.states.minimum, found.states.maximum)
    ]
    (first, *_) = json.loads(file.read_text())
    assert first["state_mean"] == found.states.mean[0]
    assert "to replace it: overwrite=True (on this command line: --overwrite)" in refused(
        capsys, *words, "--output", out
    )
    assert run(*words, "--output", out, "--overwrite") == 0


def test_statistics_refuses_in_words_of_the_command_line(tmp_path, capsys):
    ds = fields(8).isel(time=[0, 1, 2, 5, 6, 7])
    ds.to_netcdf(path := tmp_path / "s.nc")
    said = refused(capsys, "statistics", path, "--variables", "t")
    assert "(on this command line: --gaps split)" in said
    with pytest.warns(UserWarning, match="leaves out 1 change that"):
        assert run("statistics", path, "--variables", "t", "--gaps", "split") == 0
    said = refused(capsys, "statistics", path, "--variables", "hum")
    assert "no variable 'hum'" in said
    said = refused(capsys, "statistics", path, "--variables", "t=300")
    assert "'t' has no level 300" in said


# --- regrid -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 10**9])
def test_regrid_writes_what_the_library_gives(tmp_path, monkeypatch, capsys, block):
    monkeypatch.setattr("geoattn.xarray.regridding.stores.BLOCK_BYTES", block)
    ds = source().assign_coords(season=("time", np.arange(24) % 4))
    ds.to_netcdf(path := tmp_path / "in.nc")
    out = tmp_path / "out.zarr"
    given = ["--grid", "healpix(2)", "--missing", "renormalise", "--method", "average", "--output", out]
    assert run("regrid", path, *given) == 0
    assert "average from" in capsys.readouterr().out
    expected = ga.xarray.regrid(ds, ga.grids.healpix(2), method="average", missing="renormalise")
    with xr.open_zarr(out, consolidated=False, chunks=None) as found:
        assert set(found.variables) == set(expected.variables)
        for name in expected.variables:
            np.testing.assert_array_equal(found[name].values, expected[name].values)
            assert found[name].dims == expected[name].dims
        assert found.t.attrs == expected.t.attrs
        assert ga.grids.from_xarray(found) == ga.grids.healpix(2)
    assert "exists; to replace it" in refused(capsys, "regrid", path, *given)
    like = tmp_path / "like.zarr"
    assert run("regrid", out, "--like", path, "--variables", "t", "--output", like) == 0
    with xr.open_zarr(like, consolidated=False, chunks=None) as found:
        assert list(found.data_vars) == ["t"]
        np.testing.assert_array_equal(found.latitude, LAT)


def test_regrid_keeps_integrals_block_by_block(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("geoattn.xarray.regridding.stores.BLOCK_BYTES", 1)
    made = []
    shared = ga.xarray.regrid.__globals__["Regridder"]
    monkeypatch.setitem(ga.xarray.regrid.__globals__, "Regridder", lambda *a: made.append(a) or shared(*a))
    ds = source()
    ds.to_netcdf(path := tmp_path / "in.nc")
    given = ["--grid", "healpix(3,'ring')", "--missing", "renormalise", "--method", "conservative"]
    out = tmp_path / "out.zarr"
    assert run("regrid", path, *given, "--normalisation", "destarea", "--least", "0", "--output", out) == 0
    assert "conservative, destarea from" in capsys.readouterr().out
    assert len(made) == 1  # one for all blocks
    usual = ga.xarray.Regridder(
        ga.grids.from_xarray(ds), ga.grids.healpix(3, "ring"), "conservative", "destarea"
    )
    with xr.open_zarr(out, consolidated=False, chunks=None) as found:
        expected = usual(ds.t.values, "renormalise", least=0)
        np.testing.assert_array_equal(found.t.values, expected.astype(found.t.dtype))


def test_regrid_keeps_weights_in_a_file_and_takes_them_from_it(tmp_path, monkeypatch, capsys, refused_by):
    source()[["t"]].to_netcdf(path := tmp_path / "in.nc")
    kept, other = tmp_path / "weights.nc", tmp_path / "other.nc"
    given = ["regrid", path, "--grid", "healpix(2)", "--method", "conservative", "--weights"]
    assert run(*given, kept, "--output", tmp_path / "one.zarr") == 0
    usual = ga.xarray.Regridder.open(kept)
    assert usual.method == "conservative"
    assert usual.target == ga.grids.healpix(2)

    def none(*_):
        raise AssertionError("weights are made although they are kept")

    monkeypatch.setattr("geoattn.xarray.regridding.regridder.weights_of", none)
    written = kept.stat().st_mtime_ns
    for i, method in enumerate((["auto"], ["conservative"])):
        again = ["regrid", path, "--grid", "healpix(2)", "--method", *method, "--weights", kept]
        assert run(*again, "--output", tmp_path / f"{i}.zarr") == 0
        with (
            xr.open_zarr(tmp_path / "one.zarr", consolidated=False, chunks=None) as a,
            xr.open_zarr(tmp_path / f"{i}.zarr", consolidated=False, chunks=None) as b,
        ):
            xr.testing.assert_identical(a, b)
    assert kept.stat().st_mtime_ns == written
    out = ["--output", tmp_path / "no.zarr"]
    said = refused(capsys, "regrid", path, "--grid", "healpix(4)", "--weights", kept, *out)
    assert "weights.nc is for 48 target points, but the HEALPix grid nside 4" in said
    assert "has 192" in said
    assert "are made and kept in a new file, weights=… (on this command line: --weights FILE)" in said
    coarser = source().isel(longitude=slice(0, None, 2))[["t"]]
    coarser.to_netcdf(tmp_path / "coarser.nc")
    said = refused(capsys, "regrid", tmp_path / "coarser.nc", "--grid", "healpix(2)", "--weights", kept, *out)
    assert "is for 144 source points, but the equiangular grid 9×8" in said
    assert "has 72" in said
    for words in (["--method", "nearest"], ["--method", "conservative", "--normalisation", "destarea"]):
        said = refused(capsys, "regrid", path, "--grid", "healpix(2)", *words, "--weights", kept, *out)
        assert "are conservative by fracarea, and asked is" in said
        assert "--method conservative; --normalisation fracarea; --weights FILE)" in said
    monkeypatch.undo()
    grids = usual.source, usual.target
    with refused_by("xarray/regridding/regridder.py", "the weights in {path} are {}") as said:
        ga.xarray.Regridder.kept(kept, *grids, "nearest")
    taken = said.message[said.message.index("method=") :].split(",")[0]
    said.says(taken, "normalisation='fracarea'", "weights=…")
    assert ga.xarray.Regridder.kept(kept, *grids, "conservative", "fracarea").method == "conservative"
    with refused_by("xarray/regridding/regridder.py", "between these grids are made and kept") as said:
        ga.xarray.regrid(source()[["t"]], ga.grids.healpix(4), weights=kept)
    said.says("weights=…")
    moved = ga.xarray.regrid(source()[["t"]], ga.grids.healpix(4), weights=other)
    assert "interpolation" in moved.attrs["regridding"]
    assert ga.xarray.Regridder.open(other).target == ga.grids.healpix(4)
    other.unlink()  # nothing is remembered of a file that is gone
    ga.xarray.regrid(source()[["t"]], ga.grids.healpix(4), weights=other)
    assert other.exists()


def test_a_regridding_that_fails_leaves_nothing(tmp_path, capsys):
    source().to_netcdf(path := tmp_path / "in.nc")
    said = refused(capsys, "regrid", path, "--grid", "healpix(2)", "--output", tmp_path / "out.zarr")
    assert "missing='renormalise'" in said
    assert "(on this command line: --missing renormalise" in said
    ds = source()[["t"]]
    ds["t"][20, 0, 0, 0] = np.nan  # found when the store is there already, beside its place
    ds.to_netcdf(late := tmp_path / "late.nc")
    refused(capsys, "regrid", late, "--grid", "healpix(2)", "--output", tmp_path / "out.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.nc", "late.nc"]
    for words, grid in {
        "the catalogue has no grid named 'era5-9'": "era5-9",
        "there is no grid 'ring'": "ring(3)",
        "'healpix()' is no grid: ": "healpix()",
        "nside": "healpix(-1)",
    }.items():
        said = refused(capsys, "regrid", path, "--grid", grid, "--output", tmp_path / "out.zarr")
        assert words in said


def test_grids_in_words():
    from geoattn.grids.spelling import from_words

    assert from_words("gaussian(8, 16)") == ga.grids.gaussian(8, 16)
    assert from_words("ga.grids.equiangular(8, 16, poles=False)") == ga.grids.equiangular(8, 16, poles=False)
    assert from_words("reduced_gaussian('O8')") == ga.grids.reduced_gaussian("O8")
    assert from_words("era5-1.5") == ga.grids.named("era5-1.5")


# --- score ------------------------------------------------------------------------------------------


def forecast_of(truth, members=None):
    random = np.random.default_rng(1)
    lead = 6 * HOUR * np.arange(1, 5)
    times = truth.time.values[:12:3]
    valid = xr.DataArray(times[:, None] + lead, dims=("time", "prediction_timedelta"))
    ds = truth[["t", "sst"]].sel(time=valid).drop_vars("time")
    ds = ds.assign_coords(time=times, prediction_timedelta=lead.astype("m8[ns]"))
    if members:
        ds = ds.expand_dims(realization=members)
    return ds.map(lambda v: (v + random.standard_normal(v.shape)).assign_attrs(v.attrs))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder, truth = tmp_path_factory.mktemp("pair"), source()
    truth.to_zarr(folder / "truth.zarr", consolidated=False)
    forecast_of(truth).to_zarr(folder / "forecast.zarr", consolidated=False)
    forecast_of(truth, 3).to_zarr(folder / "ensemble.zarr", consolidated=False)
    metrics.climatology(truth[["t"]], hours=False).to_netcdf(folder / "climatology.nc")
    return folder


def test_score_is_the_librarys_by_region_and_its_file_in_weatherbench2s_layout(pair, tmp_path, capsys):
    words = ["score", pair / "forecast.zarr", "--truth", pair / "truth.zarr", "--mask", "truth"]
    words += ["--regions", "global", "tropics", "europe", "box=-30:60,100:-100", "--weights", "area"]
    files = {name: tmp_path / f"s.{name}" for name in ("nc", "json", "png")}
    words += ["--output", files["nc"], "--json", files["json"], "--picture", files["png"], "--spectra"]
    assert run(*words) == 0
    said = capsys.readouterr().out
    truth, forecast = source(), forecast_of(source())
    with xr.open_dataset(files["nc"], decode_timedelta=True) as found:
        assert found.metric.values.tolist() == ["rmse", "mae", "bias"]
        assert found.region.values.tolist() == ["global", "tropics", "europe", "box"]
        usual = metrics.rmse(forecast, truth, weights="area", mask="truth")
        np.testing.assert_allclose(found.t.sel(metric="rmse", region="global"), usual.t, rtol=1e-12)
        np.testing.assert_allclose(found.sst.sel(metric="rmse", region="global"), usual.sst, rtol=1e-12)
        # a box, written out: rows from 30° south to 60° north, across the date line
        rows, columns = (LAT >= -30) & (LAT <= 60), (LON >= 100) & (LON <= 260)
        area = np.array(ga.grids.from_xarray(truth).cell_areas) * np.outer(rows, columns)
        error = (forecast.t - truth.t.sel(time=forecast.time + forecast.prediction_timedelta)).values
        mean = (error.mean(0) * area).sum((-1, -2)) / area.sum()
        np.testing.assert_allclose(found.t.sel(metric="bias", region="box"), mean, rtol=1e-6)
        assert found.t.dims == ("metric", "region", "prediction_timedelta", "level")
    row = next(line.split() for line in said.splitlines() if line.startswith("t 850") and "tropics" in line)
    assert row[:5] == ["t", "850", "K", "tropics", "rmse"]
    assert len(row) == 9
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "s-spectrum.png").exists()
    spectra = json.loads(files["json"].read_text())["spectra"]
    power = np.array(spectra["spectrum of the forecast"]["variables"]["t"]["values"])
    grid = ga.grids.from_xarray(truth)
    squares = grid.mean(forecast.t.values.astype(float) ** 2).mean(0)
    np.testing.assert_allclose(power.sum(-1), squares, rtol=1e-6)  # Parseval


def test_score_of_an_ensemble_and_of_anomalies(pair, capsys, tmp_path):
    words = ["score", pair / "ensemble.zarr", "--truth", pair / "truth.zarr", "--variables", "t"]
    words += ["--levels", "850", "--output", tmp_path / "s.nc"]
    assert run(*words, "--climatology", pair / "climatology.nc", "--persistence") == 0
    truth, forecast = source(), forecast_of(source(), 3)[["t"]].sel(level=[850])
    mean = forecast.mean("realization", keep_attrs=True)
    with xr.open_dataset(tmp_path / "s.nc", decode_timedelta=True) as found:
        expected = {
            "rmse": metrics.rmse(mean, truth),
            "acc": metrics.acc(mean, truth, metrics.climatology(truth[["t"]], hours=False)),
            "crps": metrics.crps(forecast, truth),
            "rmse of persistence": metrics.rmse(metrics.persistence(mean, truth), truth),
        }
        for name, score in expected.items():
            np.testing.assert_allclose(
                found.t.sel(metric=name, region="global").values, score.t.values, rtol=1e-6
            )


def test_score_refuses(pair, capsys):
    words = ["score", pair / "forecast.zarr", "--truth", pair / "truth.zarr"]
    assert "(on this command line: --mask truth|both)" in refused(capsys, *words)
    words += ["--variables", "t"]
    assert "there is no region 'asia'" in refused(capsys, *words, "--regions", "asia")
    assert "write it as name=south:north" in refused(capsys, *words, "--regions", "a=b")
    assert "not from south to north" in refused(capsys, *words, "--regions", "a=9:3")
    assert "lies in the region" in refused(capsys, *words, "--regions", "a=81:82")
    assert "--climatology STORE" in refused(capsys, *words, "--scores", "acc")
    said = refused(capsys, *words, "--scores", "crps")
    assert "no dimension 'realization'" in said
    assert "--ensemble-dim" in said
    assert "the forecast has no ['q']" in refused(capsys, *words[:-1], "q")
    assert "the forecast has no levels [300.0]" in refused(capsys, *words, "--levels", "300")


def test_a_zonal_spectrum_is_that_of_waves(tmp_path):
    lat, lon = np.radians(LAT)[:, None], np.radians(LON)
    coords, dims = {"latitude": LAT, "longitude": LON}, ("latitude", "longitude")
    field = xr.DataArray(3 + np.cos(lat) * np.cos(4 * lon), coords, dims, attrs={"units": "m"})
    spectrum = zonal_spectrum(field)
    grid = ga.grids.from_xarray(field)
    expected = np.zeros(9)
    expected[0], expected[4] = 9, grid.mean((np.cos(lat) ** 2 / 2).repeat(16, axis=1))
    np.testing.assert_allclose(spectrum.values, expected, atol=1e-12)
    assert spectrum.attrs["units"] == "(m)2"
    np.testing.assert_allclose(zonal_spectrum(field.to_dataset(name="h")).h, spectrum)


# --- plot -------------------------------------------------------------------------------------------


def test_plot_draws_maps_series_and_spectra(pair, tmp_path, capsys):
    store, file = pair / "truth.zarr", tmp_path / "p.json"

    def drawn(*words):
        picture = tmp_path / "p.png"
        picture.unlink(missing_ok=True)
        assert run("plot", *words, "--output", picture, "--json", file) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
        return json.loads(file.read_text())

    ds = source()
    found = drawn("map", store, "--variable", "t", "--level", 850, "--time", "2001-01-02T06")
    assert found["title"] == "t, time 2001-01-02T06:00:00, level 850 hPa"
    np.testing.assert_array_equal(found["values"], ds.t.sel(time="2001-01-02T06", level=850))
    found = drawn("series", store, "--variable", "t")
    np.testing.assert_allclose(found["values"], ga.xarray.mean(ds[["t"]]).t.sel(level=500), rtol=1e-6)
    found = drawn("series", store, "--variable", "t", "--point", "38,-20", "--level", "850")
    np.testing.assert_array_equal(found["values"], ds.t.sel(level=850, latitude=40, longitude=337.5))
    found = drawn("spectrum", store, "--variable", "t")
    np.testing.assert_allclose(found["mean_square"], zonal_spectrum(ds.t[0, 0]).values[1:], rtol=1e-6)
    forecast = pair / "ensemble.zarr"
    found = drawn("map", forecast, "--variable", "t", "--select", "realization=2", "prediction_timedelta=1")
    assert "prediction_timedelta 12 h" in found["title"]
    capsys.readouterr()
    for words, options in {
        "there is no variable 'q'": ["--variable", "q"],
        "there is no level 300": ["--variable", "t", "--level", "300"],
        "there is no time 2002": ["--variable", "t", "--time", "2002"],
        "'soon' is no time": ["--variable", "t", "--time", "soon"],
        "selects nothing of the dimensions": ["--variable", "t", "--select", "member=1"],
    }.items():
        assert words in refused(capsys, "plot", "map", store, *options, "--output", tmp_path / "q.png")
    said = refused(
        capsys, "plot", "series", store, "--variable", "t", "--point", "here", "--output", tmp_path / "q.png"
    )
    assert "'here' is no point" in said
    assert "a series is along time" in refused(
        capsys, "plot", "series", store, "--variable", "z", "--output", tmp_path / "q.png"
    )


def test_a_series_with_missing_values_is_of_the_points_that_are_there(pair, tmp_path, capsys):
    file, words = tmp_path / "p.json", ["--output", tmp_path / "p.png", "--json", tmp_path / "p.json"]
    ds = source()
    sea, area = ds.sst.notnull().all("time"), ga.xarray.weights(ds)
    share = 100 * float((area * sea).sum() / area.sum())
    assert run("plot", "series", pair / "truth.zarr", "--variable", "sst", *words) == 0
    said = f"mean over the points that are there at all times ({share:.3g} % of the area)"
    assert said in capsys.readouterr().out
    found = read_json(file)
    assert found["of"] == said
    np.testing.assert_allclose(found["values"], ga.xarray.mean(ds.sst, mask=sea), rtol=1e-6)
    # a time without any value is a gap, and takes no point away
    ds.sst[3] = np.nan
    ds.to_netcdf(tmp_path / "gap.nc")
    assert run("plot", "series", tmp_path / "gap.nc", "--variable", "sst", *words) == 0
    gap = read_json(file)
    assert gap["of"] == f"{said}, none at 1 of 24 times"
    assert gap["values"] == [None if place == 3 else value for place, value in enumerate(found["values"])]


def test_plots_of_nothing_are_refused(tmp_path, capsys):
    ds = source()
    ds.sst[0] = np.nan
    ds["flat"] = ds.t[:, 0, :, 0] + 0 * ds.t[:, 0]
    for place, some in enumerate(np.array_split(np.arange(16), 4)):
        ds.t[place::4, 0, :, some] = np.nan
    ds.t[:, 1] = np.nan
    ds.to_netcdf(path := tmp_path / "s.nc")
    picture = tmp_path / "p.png"

    def said(kind, name, *words):
        return refused(capsys, "plot", kind, path, "--variable", name, "--output", picture, *words)

    assert "every value is missing or infinite, and a map would be empty" in said("map", "sst")
    assert "no point has a value at all times" in said("series", "t")
    assert "every value is missing or infinite at all times" in said("series", "t", "--level", "850")
    assert "every value is missing or infinite at all times" in said(
        "series", "t", "--level", "850", "--point", "0,0"
    )
    at = ds.sst[1].isnull().stack(point=["latitude", "longitude"])
    land = ",".join(f"{float(value):g}" for value in at.point.values[at.values][0])
    assert "has no value at" in said("series", "sst", f"--point={land}")
    assert "144 of 144 values are missing or infinite" in said("spectrum", "sst")
    land_points = int(at.sum())
    assert f"{land_points} of 144 values" in said("spectrum", "sst", "--time", "2001-01-02")
    assert "there are no waves" in said("spectrum", "flat")
    assert not picture.exists()


def test_score_says_which_spectra_are_left_out_and_its_json_is_json(pair, tmp_path, capsys):
    words = ["score", pair / "forecast.zarr", "--truth", pair / "truth.zarr", "--mask", "truth", "--spectra"]
    assert run(*words, "--json", tmp_path / "s.json", "--picture", tmp_path / "s.png") == 0
    said = capsys.readouterr().out
    for of in ("forecast", "truth"):
        assert f"The spectrum of the {of} leaves out sst, which has missing values" in said
    spectra = read_json(tmp_path / "s.json")["spectra"]
    assert {name: list(found["variables"]) for name, found in spectra.items()} == {
        "spectrum of the forecast": ["t"],
        "spectrum of the truth": ["t"],
    }
    assert run(*words, "--variables", "sst", "--picture", tmp_path / "sea.png") == 0
    assert "leaves out sst" in capsys.readouterr().out
    assert not (tmp_path / "sea-spectrum.png").exists()
    # gaps at some lead times are null
    gap = xr.open_zarr(pair / "forecast.zarr", consolidated=False, chunks=None, decode_timedelta=True)
    gap = gap[["t"]].load().drop_encoding()
    gap.t[:, 1] = np.nan
    gap.to_netcdf(tmp_path / "gap.nc")
    words[1], words[5] = tmp_path / "gap.nc", "both"
    words += ["--variables", "t", "--mask", "both"]
    said = refused(capsys, *words)  # no point is left at that lead time
    assert "leaves no point" in said
    gap.t[:, 1] = 0.0
    gap.t[:, 1, :, 4, 4] = np.nan
    gap.to_netcdf(tmp_path / "gap2.nc")
    words[1] = tmp_path / "gap2.nc"
    assert run(*words, "--json", tmp_path / "s.json") == 0
    assert "The spectrum of the forecast has gaps: t has missing values" in capsys.readouterr().out
    power = read_json(tmp_path / "s.json")["spectra"]["spectrum of the forecast"]["variables"]["t"]["values"]
    assert power[1][0][0] is None
    assert power[0][0][0] > 0


def test_the_picture_of_scores_has_persistence_dashed(pair, tmp_path, monkeypatch):
    drawn = []

    def curves(path, xlabel, panels, *arguments, **options):
        drawn.append((panels, options))
        return of_library(path, xlabel, panels, *arguments, **options)

    of_library = ga.plot.curves
    monkeypatch.setattr("geoattn.plot.curves", curves)
    words = ["score", pair / "forecast.zarr", "--truth", pair / "truth.zarr", "--variables", "t"]
    words += ["--regions", "global", "tropics", "--persistence", "--output", tmp_path / "s.nc"]
    assert run(*words, "--picture", tmp_path / "s.png") == 0
    ((panels, options),) = drawn
    lines = panels["rmse of t 850 (K)"]
    assert list(lines) == ["global", "global, persistence", "tropics", "tropics, persistence"]
    assert options["dashed"] == {"global, persistence": "global", "tropics, persistence": "tropics"}
    with xr.open_dataset(tmp_path / "s.nc", decode_timedelta=True) as found:
        for name, metric in (("tropics", "rmse"), ("tropics, persistence", "rmse of persistence")):
            expected = found.t.sel(metric=metric, region="tropics", level=850)
            np.testing.assert_array_equal(lines[name][1], expected)
    assert run(*words[:-3], "--picture", tmp_path / "s.png") == 0
    assert drawn[1][1]["dashed"] == {}


def test_stores_that_commands_write_open_without_a_warning(pair, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            run(
                "regrid",
                pair / "truth.zarr",
                "--variables",
                "t",
                "--grid",
                "healpix(4)",
                "--output",
                tmp_path / "r",
            )
            == 0
        )
        assert run("statistics", pair / "truth.zarr", "--variables", "t", "--output", tmp_path / "s") == 0
    for name in "rs":
        assert opens_quietly(tmp_path / name)
        whole = xr.open_zarr(tmp_path / name, chunks=None)
        xr.testing.assert_identical(whole, xr.open_zarr(tmp_path / name, chunks=None, consolidated=False))


WARNED = """
    import sys, warnings
    from geoattn import _warning
    from geoattn.__main__ import main
    from geoattn.commands import grids

    def run(options):
        _warning.warn("this grid\\n is odd")
        warnings.warn("others say so", stacklevel=1)
        return 0

    grids.run, before = run, warnings.formatwarning
    assert main(["grids"]) == 0
    assert warnings.formatwarning is before
    sys.exit(main(["statistics", sys.argv[1], "--variables", "t", "--gaps", "split"]))
"""


def test_warnings_of_the_library_are_one_line_on_the_command_line(tmp_path):
    fields(8).isel(time=[0, 1, 2, 5, 6, 7]).to_netcdf(path := tmp_path / "s.nc")
    (program := tmp_path / "program.py").write_text(textwrap.dedent(WARNED))
    words = [sys.executable, str(program), str(path)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stderr.splitlines()
    assert said[0] == "geoattn grids: this grid is odd"
    assert said[1].startswith(f"{program}:9: UserWarning: others say so")  # those of others keep their place
    (line,) = [line for line in said if "leaves out" in line]
    assert line.startswith("geoattn statistics: ")
    assert len([line for line in said if "Warning" in line]) == 1


def test_every_command_refuses_a_store_that_is_not_there(tmp_path, capsys):
    for words in (
        ["inspect", "nowhere.nc"],
        ["statistics", "nowhere.nc"],
        ["score", "nowhere.nc", "--truth", "nowhere.nc"],
        ["regrid", "nowhere.nc", "--grid", "healpix(2)", "--output", tmp_path / "out"],
        ["plot", "map", "nowhere.nc", "--variable", "t", "--output", tmp_path / "out"],
    ):
        assert "there is no store at 'nowhere.nc'" in refused(capsys, *words)
    (tmp_path / "text.nc").write_text("this is no store")
    for words in (["inspect", tmp_path / "text.nc"], ["statistics", tmp_path / "text.nc"]):
        refused(capsys, *words)
    assert not Path("out").exists()
