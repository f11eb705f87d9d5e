"""Models in folders as model hubs lay them out, and what a model shows of itself."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

import geoattn as ga
from geoattn import models

GRID = ga.grids.gaussian(8, 16)
MESH = ga.grids.healpix(2)
#: more numbers than a configuration writes out
POINTS = ga.grids.points(np.linspace(-80, 80, 5000), np.linspace(0, 7000, 5000) % 360, areas=np.ones(5000))
PATCHED = ga.nn.patches(GRID, 2).grid
SMALL = {"dim": 8, "depth": 2, "num_heads": 2}
CONFIGS = {
    "on patches": models.TransformerConfig(
        GRID, ga.geodesic(PATCHED, radius=50.0), 3, 2, patch=2, position="harmonic", drop_path=0.1, **SMALL
    ),
    "by a mesh": models.TransformerConfig(GRID, ga.nearest(MESH, k=5), 1, 1, key_weights=None, **SMALL),
    "points of one's own": models.TransformerConfig(POINTS, ga.nearest(POINTS, k=3), 1, 1, **SMALL),
    "a plane": models.TransformerConfig(
        ga.grids.cartesian((6, 8)),
        (ga.window(ga.grids.cartesian((6, 8)), 3),),
        2,
        1,
        position=ga.nn.Fourier(wavenumber=1),
        **SMALL,
    ),
    "stages": models.EncoderDecoderConfig(
        GRID,
        (ga.everything(PATCHED), ga.everything(ga.nn.patches(PATCHED, 2).grid)),
        1,
        2,
        dims=(8, 16),
        depths=(1, 1),
        num_heads=(1, 2),
        patches=(2, 2),
    ),
}


def made(config):
    model = config.build().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_comes_back_with_its_results(name, tmp_path):
    config = CONFIGS[name]
    model = made(config)
    model.save_pretrained(tmp_path / "model")
    assert sorted(os.listdir(tmp_path / "model")) == ["config.json", "model.safetensors"]
    again = type(model).from_pretrained(tmp_path / "model")
    assert again.config == config
    assert not again.training
    x = torch.randn(1, config.in_channels, *config.grid.shape)
    assert torch.equal(again(x), model(x))
    general = models.Model.from_pretrained(tmp_path / "model", dtype=torch.float64)
    assert {p.dtype for p in general.parameters()} == {torch.float64}


def test_files_are_what_a_hub_expects(tmp_path):
    model = made(CONFIGS["points of one's own"])
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    model.bfloat16().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "a card"
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["architectures"] == ["Transformer"]
    assert content["model_type"] == "transformer"
    assert content["dim"] == 8
    assert (tmp_path / "config.json").stat().st_size < 5000
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    longs = {name for name in tensors if name.startswith("config.")}
    assert longs == {f"config.grid.{name}" for name in ("latitudes", "longitudes", "areas")}  # each once
    assert set(tensors) - longs == set(model.state_dict())
    again = models.Model.from_pretrained(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}  # as they were stored


def test_a_model_of_another_class_is_refused(tmp_path, refused_by):
    made(CONFIGS["stages"]).save_pretrained(tmp_path)
    with refused_by("models/base.py", "holds a model of class") as said:
        models.Transformer.from_pretrained(tmp_path)
    assert isinstance(
        said.run("geoattn.models.EncoderDecoder.from_pretrained(", "tmp_path", tmp_path=tmp_path),
        models.EncoderDecoder,
    )


def test_what_is_not_there_is_not_fetched(tmp_path, refused_by):
    with refused_by("models/pretrained.py", "and nothing is fetched") as said:
        models.Model.from_pretrained("someone/somewhere")
    said.says("model.save_pretrained(path)")
    made(CONFIGS["by a mesh"]).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no model\.safetensors in"):
        models.Model.from_pretrained(tmp_path)


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])


def another_configuration(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"depth": 2', '"depth": 1'))


def another_kind(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": "bert", "hidden_size": 768}))


def another_kind_of_weights(folder):
    safetensors.torch.save_file({"x": torch.ones(2)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncated, "SafetensorError"),
        (another_configuration, "is not the one that was saved with"),
        (another_kind, "is not the one that was saved with"),
        (another_kind_of_weights, "config_sha256"),
    ],
)
def test_damaged_and_foreign_folders_are_refused(damage, told, tmp_path, refused_by):
    made(CONFIGS["by a mesh"]).save_pretrained(tmp_path)
    damage(tmp_path)
    with refused_by("models/pretrained.py", "is no model of geoattn, or a damaged one") as said:
        models.Model.from_pretrained(tmp_path)
    said.says("model.save_pretrained(path)")
    assert told in said.message


# --- models of one's own -----------------------------------------------------------------------------

OWN = """
import dataclasses

import torch

import geoattn as ga


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OwnConfig(ga.models.ModelConfig, kind="own_in_a_module"):
    hood: ga.neighborhoods.Neighborhood
    dim: int = 8

    def build(self, device=None, dtype=None):
        return Own(self).to(device, dtype)


class Own(ga.models.Model):
    def __init__(self, config):
        super().__init__()
        self.config, self.block = config, ga.nn.Block(config.dim, 2, config.hood)

    def forward(self, x):
        return self.block(x)
"""


def test_a_model_of_ones_own_is_read_where_its_module_is_imported(tmp_path, monkeypatch):
    (tmp_path / "own_module.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = importlib.import_module("own_module")
    config = own.OwnConfig(ga.nearest(MESH, k=5))
    assert repr(config) == f"OwnConfig(hood={ga.nearest(MESH, k=5)!r}, dim=8)"
    model, x = made(config), torch.randn(1, *MESH.shape, 8)
    model.save_pretrained(tmp_path / "folder")
    models.save(tmp_path / "file", model)
    for again in (models.Model.from_pretrained(tmp_path / "folder"), models.load(tmp_path / "file")[0]):
        assert torch.equal(again(x), model.eval()(x))
    assert "OwnConfig(hood=" in repr(model)
    for read in ("Model.from_pretrained('folder')", "load('file')"):
        program = f"import geoattn as ga; ga.models.{read}"
        alone = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert "kind 'own_in_a_module' is no model config" in alone.stderr
        assert "is known once the module that defines it is imported" in alone.stderr
        assert "damaged" not in alone.stderr
        together = [sys.executable, "-c", f"import own_module; {program}"]
        assert subprocess.run(together, cwd=tmp_path, check=False).returncode == 0


class WithoutConfig(models.Model):
    def __init__(self, config=None):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        if config is not None:
            self.config = config


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (WithoutConfig(), "WithoutConfig has no configuration"),
        (WithoutConfig({"dim": 8}), "WithoutConfig has a dict for its configuration"),
    ],
)
def test_a_model_without_a_configuration_is_told_how_to_have_one(model, told, tmp_path, refused_by):
    assert "Linear" in repr(model)
    for save in (lambda: model.save_pretrained(tmp_path / "a"), lambda: models.save(tmp_path / "a", model)):
        with refused_by("models/config.py", "without which it could not be built again") as said:
            save()
        assert told in said.message
        said.says(
            "class WithoutConfigConfig(geoattn.models.ModelConfig, kind='…')",
            "build(self, device=None, dtype=None)",
        )
    assert os.listdir(tmp_path) == []  # what is said is what the module above does


def test_classes_that_could_not_be_read_again_are_refused_when_they_are_made(refused_by):
    with refused_by("models/config.py", "must take a device and a dtype") as said:
        type("Short", (models.ModelConfig,), {"build": lambda self: None}, kind="short")
    said.says("def build(self, device=None, dtype=None)")
    with refused_by("_value.py", "has no kind, under which files name it") as said:
        dataclasses.dataclass(frozen=True, eq=False)(
            type("Nameless", (models.ModelConfig,), {"build": models.TransformerConfig.build})
        )()
    said.says("class Nameless(…, kind='…')")
    with pytest.raises(TypeError, match="a parameter 'digest', which is what every value calls the digest"):
        type("Taken", (models.ModelConfig,), {"__annotations__": {"digest": str}}, kind="taken")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_shows_itself_on_a_screen(name):
    model = CONFIGS[name].build()
    lines = repr(model).splitlines()
    assert len(lines) <= 25
    assert repr(CONFIGS[name]) in lines[0]
    count = sum(p.numel() for p in model.parameters())
    assert f"{count:,}  parameters, torch.float32 on cpu" in lines[-1]
    parts = [int(line.split()[1].replace(",", "")) for line in lines[1:-1]]
    assert sum(parts) == count
    if name == "on patches":
        assert any("2 × Block" in line for line in lines)
