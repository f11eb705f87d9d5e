"""Models in files: what comes back, and what is refused."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

import geoattn as ga
from geoattn import models

GRID = ga.grids.gaussian(4, 8)
CONFIG = models.TransformerConfig(
    GRID, ga.geodesic(GRID, radius=50.0), 3, 2, dim=8, depth=1, num_heads=2, position="harmonic"
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = CONFIG.build()
    torch.nn.init.normal_(model.decoder.projection.weight)
    return model


def test_a_model_comes_back_with_its_weights_its_configuration_and_what_belongs_to_it(model, tmp_path):
    extra = {"mean": torch.arange(3.0), "names": ["depth", "vorticity"], "seed": 3, "note": None}
    models.save(tmp_path / "runs" / "model.pt", model, statistics=extra)
    again, found = models.load(tmp_path / "runs" / "model.pt", CONFIG)
    assert again.config == CONFIG
    assert not again.training
    x = torch.randn(2, 3, 4, 8)
    assert torch.equal(again(x), model.eval()(x))
    assert torch.equal(found["statistics"].pop("mean"), extra.pop("mean"))
    assert found["statistics"] == extra
    assert os.listdir(tmp_path / "runs") == ["model.pt"]


def test_any_pattern_and_grid_goes_through_a_file(tmp_path):
    grid = ga.grids.points([0.0, 10.0, -40.0, 70.0], [0.0, 90.0, 180.0, 270.0])
    hood = ga.from_edges(grid, grid, [0, 2, 3, 4, 6], [0, 1, 1, 2, 0, 3])
    config = models.TransformerConfig(grid, hood, 1, 1, dim=4, depth=1, num_heads=1)
    models.save(tmp_path / "model.pt", config.build())
    assert models.load(tmp_path / "model.pt")[0].config == config


def test_a_failed_write_leaves_the_earlier_file_alone(model, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    models.save(path, model, seed=1)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        models.save(path, model, seed=2)
    assert models.load(path)[1] == {"seed": 1}
    assert os.listdir(tmp_path) == ["model.pt"]


def test_truncated_files_are_refused_at_every_length(model, tmp_path):
    path = tmp_path / "model.pt"
    models.save(path, model)
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match=rf"is no model, or a damaged or truncated one \({length} bytes\)"
        ):
            models.load(path)


def test_a_single_bit_flipped_anywhere_is_refused(model, tmp_path):
    path = tmp_path / "model.pt"
    models.save(path, model, mean=torch.arange(3.0), note="by hand")
    whole = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    places = np.random.default_rng(0).integers(0, 8 * len(whole), 150).tolist()
    # every bit of the length, the mark and the digest, and many of the header
    places += [*range(8 * 8), *range(8 * 8, 8 * header, 37)]
    places += range(8 * whole.index(b'"digest"'), 8 * (whole.index(b'"digest"') + 76))
    for place in places:
        whole[place // 8] ^= 1 << place % 8
        path.write_bytes(whole)
        with pytest.raises(ValueError, match=r"damaged|was not written|layout version|torch\.save"):
            models.load(path)
        whole[place // 8] ^= 1 << place % 8
    path.write_bytes(whole)
    assert models.load(path)[1]["note"] == "by hand"


def test_extras_of_every_kind_come_back(model, tmp_path):
    shared = torch.arange(4, dtype=torch.int16)
    extra = {
        "numbers": [1, -2.5, float("inf"), True, None, 10**30],
        "views": {"a": shared, "b": shared[::2], "c": {"scalar": torch.tensor(2.0, dtype=torch.bfloat16)}},
        "geoattn.tensor": {"geoattn.tensor": "a string", "geoattn.dict": {}, '"digest":"0"': "ü"},
        "empty": torch.zeros(0, 3),
    }
    models.save(tmp_path / "model.pt", model, **extra)
    found = models.load(tmp_path / "model.pt")[1]
    assert found["numbers"] == extra["numbers"]
    assert found["geoattn.tensor"] == extra["geoattn.tensor"]
    for name in "ab":
        assert torch.equal(found["views"][name], extra["views"][name])
    assert found["views"]["c"]["scalar"].dtype == torch.bfloat16
    assert found["empty"].shape == (0, 3)


def test_other_programs_read_the_weights_of_a_file(model, tmp_path):
    models.save(tmp_path / "model.safetensors", model)
    found = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[f"state.{name}"], value) for name, value in model.state_dict().items())


def test_other_files_and_other_versions_are_refused(model, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    with pytest.raises(FileNotFoundError, match="there is no model at"):
        models.load(path)
    safetensors.torch.save_file({"state": torch.zeros(1)}, path, {"mark": "of someone else"})
    with pytest.raises(ValueError, match="was not written by geoattn"):
        models.load(path)
    monkeypatch.setattr(models.checkpoint, "VERSION", 7)
    models.save(path, model)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has layout version 7, and this geoattn reads 2"):
        models.load(path)


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path):
    path = tmp_path / "model.pt"
    program = "import sys, torch, os\nclass Code:\n def __reduce__(self): return os.mkdir, (sys.argv[2],)\n"
    subprocess.run(
        [sys.executable, "-c", program + "torch.save(Code(), sys.argv[1])", path, tmp_path / "x"], check=True
    )
    with pytest.raises(ValueError, match=r"is a file of torch\.save"):
        models.load(path)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": ga.grids.gaussian(8, 16), "hoods": ga.everything(ga.grids.gaussian(8, 16))}, "grid is"),
        ({"hoods": ga.geodesic(GRID, radius=40.0)}, r"hoods is .*50.* there, .*40.* here"),
        ({"key_weights": None}, "key_weights is 'quadrature' there, None here"),
        ({"dim": 16}, "dim is 8 there, 16 here"),
    ],
)
def test_a_checkpoint_of_another_grid_or_geometry_is_refused(model, tmp_path, change, message):
    models.save(tmp_path / "model.pt", model)
    with pytest.raises(ValueError, match=f"holds another model: .*{message}"):
        models.load(tmp_path / "model.pt", dataclasses.replace(CONFIG, **change))


def test_what_a_file_cannot_hold_is_refused_by_name(model, tmp_path):
    with pytest.raises(TypeError, match=r"options\['when'\] is of type set"):
        models.save(tmp_path / "model.pt", model, options={"when": {1}})
    with pytest.raises(TypeError, match="keys of options must be strings, got 1"):
        models.save(tmp_path / "model.pt", model, options={1: 2})
    with pytest.raises(
        TypeError, match="Linear has no configuration, without which it could not be built again"
    ):
        models.save(tmp_path / "model.pt", torch.nn.Linear(1, 1))
    assert os.listdir(tmp_path) == []


def test_attention_without_key_weights_counts_all_keys_alike():
    grid = ga.grids.equiangular(5, 8)
    weighted, plain = (
        ga.nn.Attention(8, 2, ga.everything(grid), key_weights=rule) for rule in ("quadrature", None)
    )
    plain.load_state_dict(weighted.state_dict())
    x = torch.randn(1, *grid.shape, 8)
    flat = ga.grids.cartesian(grid.shape)
    witness = ga.nn.Attention(8, 2, ga.everything(flat))
    witness.load_state_dict(weighted.state_dict())
    torch.testing.assert_close(plain(x), witness(x))
    assert not torch.allclose(weighted(x), witness(x), atol=1e-4)
    with pytest.raises(ValueError, match=r"key_weights must be .* got 'cosine'"):
        ga.nn.Attention(8, 2, ga.everything(grid), key_weights="cosine")
