"""The tests: pytest test_own_model.py, in seconds."""

from pathlib import Path

import torch
from data import GRID, Turns
from model import OwnConfig
from train import main

from geoattn.models import Model
from geoattn.training import FitConfig


def test_every_weight_has_a_gradient_and_results_are_finite():
    model = OwnConfig(GRID).build()
    out = model(torch.randn(2, 1, *GRID.shape))
    assert out.shape == (2, 1, *GRID.shape)
    out.square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert bool(torch.isfinite(weight.grad).all()), name


def test_a_model_comes_back_from_its_folder(tmp_path: Path):
    model, fields = OwnConfig(GRID, channels=3).build().eval(), torch.randn(2, 3, *GRID.shape)
    model.save_pretrained(tmp_path)
    assert torch.equal(Model.from_pretrained(tmp_path)(fields), model(fields))


def test_a_turn_keeps_the_mean_of_a_field():
    # as far as the grid's quadrature is exact: some take a thousandth of a field's spread for its mean
    data = Turns(4, seed=0)
    before, after = (GRID.mean(x.double()) for x in (data.fields, data.turned))
    torch.testing.assert_close(before, after, atol=5e-3 * float(data.fields.std()), rtol=0)


def test_it_learns(tmp_path: Path):
    config = FitConfig(steps=40, validate_every=40, learning_rate=1e-2, accelerator="cpu")
    assert main(config, tmp_path / "run") < 0.3
