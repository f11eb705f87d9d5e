"""The tests: pytest test_own_model.py, in seconds."""

from pathlib import Path

import torch
from data import GRID, Turns
from model import OwnModel
from train import main

from geoattn.training import FitConfig


def test_every_weight_has_a_gradient_and_results_are_finite():
    model = OwnModel(GRID)
    out = model(torch.randn(2, 1, *GRID.shape))
    assert out.shape == (2, 1, *GRID.shape)
    out.square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert bool(torch.isfinite(weight.grad).all()), name


def test_a_turn_keeps_the_mean_of_a_field():
    data, share = Turns(4, seed=0), torch.tensor(GRID.weights / GRID.weights.sum())
    before, after = ((x.double() * share).sum((-2, -1)) for x in (data.fields, data.turned))
    torch.testing.assert_close(before, after, atol=1e-4, rtol=0)


def test_it_learns(tmp_path: Path):
    config = FitConfig(steps=40, validate_every=40, learning_rate=1e-2, accelerator="cpu")
    assert main(config, tmp_path / "run") < 0.3
