"""The hierarchical model: one code for planes, lat-lon spheres and HEALPix."""

import dataclasses
import json

import pytest
import torch

import geoattn as ga
from geoattn import models
from geoattn.models import EncoderDecoderConfig

SMALL = {"dims": (8, 16, 16), "depths": (1, 1, 1), "num_heads": (1, 2, 2), "decoder_dim": 12}


def hierarchy(grid, patches=(2, 2, 2), hood=None, **options):
    """A configuration on the grid's own patches."""
    stages, at = [], grid
    for side in patches:
        at = ga.nn.patches(at, side).grid
        stages.append((hood or (lambda g: ga.geodesic(g, radius=60.0)))(at))
    return EncoderDecoderConfig(grid, tuple(stages), 3, 2, patches=patches, **(SMALL | options))


def window(grid):
    return ga.window(grid, 3, boundary="clip")


CONFIGS = {
    "lat-lon": hierarchy(ga.grids.gaussian(16, 32)),
    "plane": hierarchy(ga.grids.cartesian((16, 32)), hood=window),
    "HEALPix": hierarchy(ga.grids.healpix(8)),
    "global": hierarchy(ga.grids.gaussian(16, 32), hood=ga.everything),
    "no patches": hierarchy(ga.grids.gaussian(16, 32), patches=(1, 2, 2), residual=True),
    "between grids": EncoderDecoderConfig(
        ga.grids.gaussian(12, 24),
        tuple(
            ga.nearest(g, k=9) for g in (ga.grids.healpix(4), ga.grids.icosahedral(1), ga.grids.healpix(1))
        ),
        3,
        2,
        patches=None,
        **SMALL,
    ),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients_reach_every_parameter_and_the_configuration_survives_json(config):
    torch.manual_seed(0)
    model = config.build()
    x = torch.randn(2, 3, *config.grid.shape)
    expected = x[:, :2] if config.residual else torch.zeros_like(x[:, :2])
    assert torch.equal(model(x), expected)  # at first
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert EncoderDecoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_turning_the_fields_by_a_patch_of_the_coarsest_grid_turns_the_result():
    model = hierarchy(ga.grids.gaussian(16, 32), features=0).build().double()
    torch.nn.init.normal_(model.head.projection.weight)
    x = torch.randn(1, 3, 16, 32, dtype=torch.float64)
    torch.testing.assert_close(model(x.roll(8, -1)), model(x).roll(8, -1))
    assert not torch.allclose(model(x.roll(3, -1)), model(x).roll(3, -1))


def test_the_decoder_sees_every_stage():
    torch.manual_seed(0)
    model = CONFIGS["lat-lon"].build()
    torch.nn.init.normal_(model.head.projection.weight)
    x = torch.randn(1, 3, 16, 32)
    whole = model(x)
    for mix in model.mix:
        kept = mix.weight.detach().clone()
        torch.nn.init.zeros_(mix.weight)
        assert not torch.allclose(model(x), whole)
        mix.weight.data.copy_(kept)


def test_a_stored_model_comes_back(tmp_path):
    model = CONFIGS["HEALPix"].build()
    models.save(tmp_path / "model.pt", model)
    again, _ = models.load(tmp_path / "model.pt", CONFIGS["HEALPix"])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def sized(name, size, grid, hood):
    if name == "transformer":
        coarse = ga.nn.patches(grid, 2).grid
        shape = models.TRANSFORMER_SIZES[size]
        return models.TransformerConfig(grid, hood(coarse), 3, 3, patch=2, **shape)
    config = hierarchy(grid, hood=hood, **models.ENCODER_DECODER_SIZES[size])
    return dataclasses.replace(config, out_channels=3)


COUNTS = {
    ("transformer", "S"): 310_956,
    ("transformer", "M"): 4_248_332,
    ("transformer", "L"): 25_296_396,
    ("encoder_decoder", "S"): 409_388,
    ("encoder_decoder", "M"): 3_990_860,
    ("encoder_decoder", "L"): 25_625_484,
}


@pytest.mark.parametrize(("name", "size"), COUNTS)
def test_sizes_have_the_parameters_listed_on_sphere_plane_and_healpix(name, size):
    sphere = sized(name, size, ga.grids.gaussian(16, 32), ga.everything)
    plane = sized(name, size, ga.grids.cartesian((16, 32)), window)
    count = models.parameter_count(sphere)
    assert count == models.parameter_count(plane)
    assert count == models.parameter_count(sized(name, size, ga.grids.healpix(8), ga.everything))
    assert count == COUNTS[name, size]


# bad input ------------------------------------------------------------------------------------


def test_stages_that_do_not_fit_are_refused():
    config = CONFIGS["lat-lon"]
    with pytest.raises(ValueError, match=r"dims .* must have one entry for each of the 3 neighborhoods"):
        dataclasses.replace(config, dims=(8, 16))
    with pytest.raises(ValueError, match=r"stage 0 works on the .*8×16.* pass patches=None"):
        dataclasses.replace(config, hoods=(ga.everything(config.grid), *config.hoods[1:]))
    between = ga.everything(*(hood.query_grid for hood in config.hoods[:2]))
    with pytest.raises(ValueError, match="the neighborhood of stage 1 must lie on one grid"):
        dataclasses.replace(config, hoods=(config.hoods[0], between, config.hoods[2]))
    with pytest.raises(ValueError, match="out_channels 4 exceeds in_channels 3"):
        dataclasses.replace(config, out_channels=4, residual=True)
    with pytest.raises(ValueError, match=r"fields must have shape \[B, 3, 16, 32\].*got \[1, 2, 16, 32\]"):
        config.build()(torch.zeros(1, 2, 16, 32))


def test_the_command_line_lists_the_sizes(capsys):
    from geoattn.__main__ import main

    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    for (_, size), count in COUNTS.items():
        assert any(f" {size} " in line and f"{count:,}" in line for line in printed.splitlines())
