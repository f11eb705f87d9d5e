"""Models in folders as model hubs lay them out, and what a model shows of itself."""

import json
import os

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
