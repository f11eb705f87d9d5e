"""A package of someone else adds a part of every sort, by entry points."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PLUGIN = HERE / "plugin"


def install(folder: Path, project: dict) -> None:
    """What an installer leaves beside a package: its name, its version and its entry points."""
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project.get("entry-points", {}).items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def run(program: str, *folders: Path) -> subprocess.CompletedProcess:
    """A fresh process that finds packages in these folders first."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", ""), str(HERE.parent)])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False
    )


@pytest.fixture
def installed(tmp_path):
    install(tmp_path, tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"])
    return tmp_path


def succeeds(program, *folders):
    done = run(program, *folders)
    assert done.returncode == 0, done.stderr
    return done


GEOMETRY = """
import sys, warnings
warnings.simplefilter("error")
import geoattn as ga

assert "spiral_attention" not in " ".join(sys.modules)
grid = ga.grids.Grid.from_dict({"kind": "spiral", "count": 60})
assert repr(grid) == "spiral of 60 points" and abs(grid.weights.sum() - 12.566370614) < 1e-9
hood = ga.neighborhoods.Neighborhood.from_dict(
    {"kind": "antipodal", "query_grid": grid.to_dict(), "key_grid": grid.to_dict(), "radius": 40.0}
)
assert hood.counts.mean() > 2 and hood.without_keys(grid.lat > 0).counts.min() == 0
assert ga.neighborhoods.Neighborhood.from_dict(hood.to_dict()) == hood
relation = ga.relations.Relation.from_dict({"kind": "crossing", "hood": hood.to_dict(), "lat": 10.0})
_, keys, numbers = relation.on(hood.without_keys(grid.lat > 0)).rows([20])
assert len(keys) and numbers.tolist() == [int(grid.lat[20] > 10)] * len(keys)
assert set(relation.transpose().rows([*range(60)]).numbers) == {0, 1}
assert ga.relations.product(relation, relation).count == 4 and relation.rotation is relation.along is None
assert "torch" not in sys.modules
"""


def test_values_of_kinds_elsewhere_are_read_in_a_fresh_process(installed):
    succeeds(GEOMETRY, installed, PLUGIN)


def test_without_the_package_its_kinds_are_unknown(tmp_path):
    done = run(GEOMETRY, tmp_path)
    assert "kind 'spiral' is no grid" in done.stderr
    assert "entry point" in done.stderr


def test_its_grid_is_recognised_in_a_data_set(installed):
    succeeds(
        """
import numpy as np, xarray as xr
import geoattn as ga

grid = ga.grids.Grid.from_dict({"kind": "spiral", "count": 60})
lat = ("cell", grid.lat, {"arrangement": "spiral", "units": "degrees_north"})
lon = ("cell", grid.lon, {"units": "degrees_east"})
ds = xr.Dataset({"t": (("time", "cell"), np.ones((3, 60)))}, coords={"lat": lat, "lon": lon})
assert ga.grids.from_xarray(ds) == grid
report = ga.grids.recognise(ds["t"])
assert report.grid == grid and report.dims == ("cell",) and "arrangement" in repr(report)
np.testing.assert_allclose(ds.geoattn.mean()["t"], 1.0)
assert ga.grids.from_xarray(ds, lat="lat", lon="lon").kind == "points"  # by the coordinates alone

ds["lat"] = ("cell", grid.lat + 1.0, ds["lat"].attrs)
try:
    ga.grids.from_xarray(ds)
except ValueError as error:
    assert "off by up to 1°" in str(error) and "package spiral-attention 0.3" in error.__notes__[0]
else:
    raise AssertionError("latitudes that are no spiral")
plain = xr.Dataset(coords={"lat": ga.grids.gaussian(8, 16).lat[:, 0], "lon": np.arange(16) * 22.5})
assert ga.grids.from_xarray(plain) == ga.grids.gaussian(8, 16)

# what is written on it keeps its weights
written = plain.assign(t=(("lat", "lon"), np.ones((8, 16)))).geoattn.regrid(grid)
np.testing.assert_allclose(ga.grids.from_xarray(written).weights, grid.weights, rtol=1e-12)
""",
        installed,
        PLUGIN,
    )


def test_its_backend_passes_the_random_matrix_and_serves_its_pattern_and_position(installed):
    done = succeeds(
        """
import torch
import geoattn as ga
from geoattn import testing

assert list(ga.backends())[-1] == "dense" and ga.backends()["dense"] == "available"
assert ga.backends.AUTOMATIC["cpu"] == ("sdpa", "dense", "cpu", "reference")
assert "dense" not in ga.backends.AUTOMATIC["cuda"]
print(testing.check_backend("dense", count=24, seed=3))

grid = ga.grids.Grid.from_dict({"kind": "spiral", "count": 60})
hood = ga.neighborhoods.Neighborhood.from_dict(
    {"kind": "antipodal", "query_grid": grid.to_dict(), "key_grid": grid.to_dict(), "radius": 40.0}
)
print(testing.check_backend("dense", count=4, neighborhood=lambda rng: hood))
print(testing.check_backend("reference", count=4, neighborhood=lambda rng: hood))
layer = ga.nn.Attention(8, 2, hood, position="closeness")
x = torch.randn(2, 60, 8)
out = layer(x)
assert ga.backends.last() == "dense"
assert type(layer.position).__module__ == "spiral_attention.position"
assert not torch.allclose(out, ga.nn.Attention(8, 2, hood)(x))
q = torch.randn(1, 60, 1, 4)
assert ga.explain(q, q, q, hood).chosen == "dense"
config = ga.models.TransformerConfig(grid, hood, 1, 1, position="closeness", features=0, patch=1)
assert ga.models.ModelConfig.from_dict(config.to_dict()) == config
""",
        installed,
        PLUGIN,
    )
    assert "backend 'dense': 24 problems agree with the oracle" in done.stdout


def test_a_broken_package_is_named_once_and_breaks_nothing_else(installed):
    project = {
        "name": "broken-attention",
        "version": "1.0",
        "entry-points": {
            "geoattn.backends": {"lost": "no_such_module:Lost", "unclear": "json", "wrong": "json:loads"},
            "geoattn.grids": {"misnamed": "spiral_attention.grid:Spiral"},
            "geoattn.recognisers": {"absent": "json:absent"},
        },
    }
    install(installed, project)
    done = succeeds(
        """
import warnings
import geoattn as ga

def said(action):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = action()
    return result, [str(w.message) for w in caught]

found, words = said(ga.backends)
assert found["dense"] == found["reference"] == "available"
assert "no_such_module" in found["lost"] and "it lacks unavailable" in found["wrong"]
assert found["lost"].startswith("backend 'lost' (no_such_module:Lost of package broken-attention 1.0) cannot")
assert "unclear" not in found
assert len(words) == 3 and all("package broken-attention 1.0" in w for w in words), words
assert sum("ModuleNotFoundError" in w for w in words) == 1
assert sum("'json' names no part" in w for w in words) == 1
assert said(ga.backends)[1] == []

import torch
q = torch.randn(1, 4, 8, 1, 4)
hood = ga.geodesic(ga.grids.gaussian(4, 8), radius=40)
(_, words) = said(lambda: ga.attention(q, q, q, hood))
assert words == []
try:
    ga.attention(q, q, q, hood, backend="lost")
except RuntimeError as error:
    assert "package broken-attention 1.0" in str(error) and "no_such_module" in str(error)
else:
    raise AssertionError

_, words = said(lambda: ga.grids.Grid.from_dict({"kind": "spiral", "count": 9}))
assert words == []
try:
    said(lambda: ga.grids.Grid.from_dict({"kind": "misnamed", "count": 9}))
except ImportError as error:
    assert "Spiral is of kind 'spiral', not 'misnamed'" in str(error)
else:
    raise AssertionError

import xarray as xr, numpy as np
plain = xr.Dataset(coords={"lat": ga.grids.gaussian(8, 16).lat[:, 0], "lon": np.arange(16) * 22.5})
grid, words = said(lambda: ga.grids.from_xarray(plain))
assert grid == ga.grids.gaussian(8, 16)
assert len(words) == 1 and "absent" in words[0] and "package broken-attention 1.0" in words[0]
assert said(lambda: ga.grids.from_xarray(plain))[1] == []
""",
        installed,
        PLUGIN,
    )
    assert not done.stderr


def test_names_claimed_twice_are_refused_and_both_are_named(installed):
    install(
        installed,
        {
            "name": "other-attention",
            "version": "2.0",
            "entry-points": {
                "geoattn.backends": {"dense": "other:Dense", "cpu": "other:Cpu"},
                "geoattn.positions": {
                    "harmonic": "other:Harmonic",
                    "closeness": "spiral_attention.position:Closeness",
                },
            },
        },
    )
    succeeds(
        """
import warnings
import geoattn as ga

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = ga.backends()
    assert ga.nn.Attention(8, 2, ga.everything(ga.grids.gaussian(4, 8)), position="harmonic")
words = [str(w.message) for w in caught]
assert len(words) == 3, words
dense, cpu, harmonic = (next(w for w in words if f"{name!r}" in w) for name in ("dense", "cpu", "harmonic"))
assert "package spiral-attention 0.3" in dense and "package other-attention 2.0" in dense
assert "neither gets it" in dense and "dense" not in found
assert "geoattn.backends.cpu.backend:Cpu keeps it" in cpu and "package other-attention 2.0" in cpu
assert found["cpu"] == "available"
assert "geoattn.nn.position.channels:Harmonic keeps it" in harmonic
""",
        installed,
        PLUGIN,
    )


def test_a_module_that_runs_as_a_program_may_be_imported_as_well(tmp_path):
    """``python -m`` runs its code under another name than ``import`` does: one class, defined twice."""
    (tmp_path / "program.py").write_text(
        "import geoattn as ga\n"
        "class Ring(ga.grids.PointSet, kind='ring'):\n    pass\n"
        "if __name__ == '__main__':\n    import program\n    print(program.Ring.__module__)\n"
    )
    done = succeeds(
        "import runpy; runpy.run_module('program', run_name='__main__', alter_sys=True)", tmp_path
    )
    assert done.stdout.strip() == "program"
