"""What caches, folders, packages and tasks refuse: each remedy that a message names is carried out."""

import os
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import geoattn as ga
from geoattn import _files
from geoattn.__main__ import main
from geoattn.backends.cpu import compiled
from geoattn.backends.cuda import compiler
from geoattn.commands import experiments
from geoattn.grids import recognisers
from geoattn.plans import cache
from geoattn.tasks.depth.metrics import DepthScores

GRID = ga.grids.gaussian(6, 12)
EXTRAS = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


def brings(message, package):
    """The extras that a message installs bring the package."""
    (extras,) = [part.split("]")[0] for part in message.split('pip install "geoattn[')[1:]]
    return any(line.startswith(package) for extra in extras.split(",") for line in EXTRAS[extra])


# ---------------------------------------------------------------- caches and folders


def test_caches_that_others_could_have_written(refused_by, tmp_path, monkeypatch):
    path = tmp_path / "cache" / "file"
    _files.write_checked(b"content", path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
        with refused_by("_files.py", "belongs to another user") as said:
            _files.read_checked(path)
    said.says("GEOATTN_CACHE")
    monkeypatch.setenv("GEOATTN_CACHE", str(tmp_path / "own"))
    assert _files.cache_folder("plans").is_relative_to(tmp_path / "own")


def test_caches_that_cannot_be_written(refused_by, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GEOATTN_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(cache, "WORTH_KEEPING", 0.0)
    with refused_by("plans/cache.py", "is not kept on disk") as said:
        ga.plans.plan(ga.geodesic(GRID, radius=41.0))
    said.says("GEOATTN_CACHE")
    with refused_by("backends/cuda/compiler.py", "compiled CUDA kernels cannot be kept in") as said:
        compiler._keep(_files.cache_folder("kernels") / "a.cubin", b"kernel")
    said.says("GEOATTN_CACHE")
    made = SimpleNamespace(lifted=(), library=SimpleNamespace(has_dynamic_globals=False), codegen=None)
    kernels = SimpleNamespace(_place=lambda *_: (_files.cache_folder("cpu") / "a.nbc", b""))
    made._reduce = lambda: 0
    compiled._warn_once.cache_clear()
    with refused_by("backends/cpu/compiled.py", "compiled CPU kernels cannot be kept") as said:
        compiled._Cache.save_overload(kernels, None, made)
    said.says("GEOATTN_CACHE")
    monkeypatch.setenv("GEOATTN_CACHE", str(tmp_path / "own"))
    compiled._Cache.save_overload(kernels, None, made)
    assert (tmp_path / "own" / "cpu" / "a.nbc").exists()
    ga.plans.plan(ga.geodesic(GRID, radius=42.0))
    assert list((tmp_path / "own").rglob("*.plan"))
    compiler._keep(_files.cache_folder("kernels") / "a.cubin", b"kernel")
    assert compiler._kept(tmp_path / "own" / "kernels" / "a.cubin") == b"kernel"


def test_folders_of_other_settings(refused_by, tmp_path):
    _files.claim(tmp_path, {"a": 1})
    for damage in (None, "{"):
        if damage:
            (tmp_path / "config.json").write_text(damage)
            with refused_by("_files.py", "is damaged ({error})") as said:
                _files.claim(tmp_path, {"a": 2})
        else:
            with refused_by("_files.py", "with other settings") as said:
                _files.claim(tmp_path, {"a": 2})
        said.says("Give another folder")
        other = tmp_path / f"other {damage}"
        other.mkdir()
        _files.claim(other, {"a": 2})


# ---------------------------------------------------------------- recognisers


def test_grids_that_a_recogniser_refuses(refused_by, monkeypatch):
    from geoattn._registry import Registry

    def strict(ds, *, tolerance, use_areas):
        raise ValueError("half of the grid is missing")

    monkeypatch.setattr(recognisers, "RECOGNISERS", Registry("recogniser", {}, (), recognisers._checked))
    ga.grids.register_recogniser("strict", strict)
    xarray = pytest.importorskip("xarray", reason="data sets are xarray's")
    ds = xarray.Dataset(coords={"lat": GRID.lat[:, 0], "lon": GRID.lon[0]})
    with refused_by("grids/recognisers.py", "said by recogniser") as said:
        ga.grids.recognise(ds)
    assert said.run("ga.grids.recognise(", "lat", "lon", ds=ds).grid == GRID


# ---------------------------------------------------------------- packages


def absent(name, package=None):
    raise ImportError(f"No module named {name!r}", name=name)


def test_packages_that_are_missing(refused_by, monkeypatch):
    import builtins

    from geoattn import _extras
    from geoattn.plot import figures
    from geoattn.tasks.panoramas import stanford

    monkeypatch.setattr(_extras, "find_spec", lambda name: None)
    with refused_by("_extras.py", "{what} needs {package}") as said:
        figures.require()
    said.says("pip install")
    assert brings(said.message, "matplotlib")
    found = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "PIL":
            absent(name)
        return found(name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without)
        with refused_by("tasks/panoramas/stanford.py", "reading images needs Pillow") as pillow:
            stanford._read(Path("a.png"))
    pillow.says("pip install")
    assert brings(pillow.message, "pillow")


# ---------------------------------------------------------------- tasks


def test_commands(refused_by, tmp_path, capsys, monkeypatch):
    pytest.importorskip("jsonargparse", reason="settings come by jsonargparse")
    experiment = pytest.importorskip("geoattn.tasks.depth.experiment", reason="panoramas need their packages")
    with refused_by("commands/experiments.py", "usage: geoattn {action}") as said:
        experiments.train(["weather"])
    said.says("--output FOLDER", "--help")
    for task in said.message.split("{")[1].split("}")[0].split(","):
        with pytest.raises(SystemExit) as left:
            main(["train", task, "--output", str(tmp_path), "--help"])
        assert left.value.code == 0
    assert "--output" in capsys.readouterr().out
    with refused_by("commands/experiments.py", "there is no finished run in") as said:
        experiments.evaluate(["depth", "--output", str(tmp_path / "run")])
    command = said.message.split(": geoattn ")[1]
    said.says(command)
    trained = []
    monkeypatch.setattr(experiment, "train", lambda settings, output: trained.append(output))
    monkeypatch.setattr(experiment, "evaluate", lambda settings, output: {})
    main(command.split())
    main(["evaluate", "depth", "--output", str(tmp_path / "run")])
    assert trained == [tmp_path / "run"]


def test_depths_aligned_by_medians_of_panoramas_in_pieces(refused_by):
    alone = SimpleNamespace(sum=lambda sums: sums)  # of shards, all that scores ask for
    with refused_by("tasks/depth/metrics.py", "takes the median of whole panoramas") as said:
        DepthScores(GRID, alignment="median").divide(alone)
    said.says("alignment='none'")
    DepthScores(GRID, alignment="none").divide(alone)


def test_depths_that_are_not_positive(refused_by):
    truth = torch.ones(1, *GRID.shape)
    with refused_by("tasks/depth/metrics.py", "what is not positive cannot be scaled") as said:
        DepthScores(GRID, alignment="median").update(-truth, truth)
    said.says("alignment='none'")
    DepthScores(GRID, alignment="none").update(-truth, truth)
    DepthScores(GRID, alignment="median").update(2 * truth, truth)


def test_shallow_water(refused_by):
    from geoattn.tasks.shallow_water import ShallowWater, random_balanced_states

    healpix = ga.grids.healpix(4)
    with refused_by("tasks/shallow_water/harmonics.py", "has no harmonic transform") as said:
        ShallowWater(healpix)
    solver = ShallowWater(said.run("ga.grids.gaussian(", nlat=8, nlon=16))
    (state,) = random_balanced_states(solver, [3])
    with refused_by("tasks/shallow_water/solver.py", "the run blew up before") as said:
        solver.run(state, 50 * 86400.0, time_step=86400.0)
    said.says("time_step", "ShallowWater(..., damping_time=...)")
    assert solver.run(state, 3600.0, time_step=900.0).isfinite().all()
    assert ShallowWater(solver.grid, damping_time=3600.0).run(state, 3600.0).isfinite().all()
