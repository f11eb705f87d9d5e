import json

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.models import Transformer, TransformerConfig

SPHERE = ga.grids.gaussian(6, 12)
PLANE = ga.grids.cartesian((6, 12), periodic=(False, True))


def config(grid=SPHERE, **options):
    settings = {"in_channels": 3, "out_channels": 3, "dim": 16, "depth": 2, "num_heads": 4}
    return TransformerConfig(grid, ga.everything(grid), **(settings | options))


def transformer(*args, **options):
    """A model in float64 whose last layer is not zero."""
    torch.manual_seed(0)
    model = Transformer(config(*args, **options)).double()
    torch.nn.init.normal_(model.decoder.projection.weight, std=0.1)
    return model


def fields(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_new_model_is_persistence():
    x = torch.randn(2, 4, 6, 12)
    assert torch.equal(Transformer(config(in_channels=4))(x), x[:, :3])


def test_without_residual_the_output_is_the_prediction_itself():
    x = fields(2, 3, 6, 12)
    change = transformer(residual=False)(x)
    torch.testing.assert_close(transformer()(x) - x, change)


def test_without_position_features_shifting_longitudes_shifts_the_forecast():
    model = transformer(features=0, position="harmonic", qk_norm=True)
    x = fields(2, 3, 6, 12)
    torch.testing.assert_close(model(x.roll(5, -1)), model(x).roll(5, -1), rtol=0, atol=1e-12)


def test_sphere_and_plane_give_models_of_the_same_size():
    count = [sum(p.numel() for p in transformer(grid).parameters()) for grid in (SPHERE, PLANE)]
    assert count[0] == count[1]


@pytest.mark.parametrize(("grid", "position"), [(SPHERE, "harmonic"), (PLANE, "rotary")])
def test_gradients_reach_every_parameter(grid, position):
    model = transformer(grid, position=position, layer_scale=0.1)
    model(fields(2, 3, 6, 12)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_blocks_take_several_neighborhoods_in_turn():
    ring = np.arange(SPHERE.size)
    itself = ga.from_edges(SPHERE, SPHERE, np.arange(SPHERE.size + 1), ring)
    both = config()
    both = TransformerConfig(SPHERE, (ga.everything(SPHERE), itself), 3, 3, dim=16, depth=3)
    assert [b.attention.hood for b in Transformer(both).processor] == [
        ga.everything(SPHERE),
        itself,
        ga.everything(SPHERE),
    ]


COARSE = [
    (ga.grids.gaussian(6, 12), 3, ga.nn.patches(ga.grids.gaussian(6, 12), 3).grid),
    (ga.grids.gaussian(6, 12), 1, ga.grids.healpix(2)),
    (ga.grids.healpix(4), 2, ga.grids.healpix(2)),
    (ga.grids.healpix(4), 2, ga.grids.icosahedral(1)),
    (ga.grids.cartesian((6, 12)), (2, 3), ga.grids.cartesian((3, 4), (2.0, 3.0))),
]


@pytest.mark.parametrize(("grid", "patch", "processor_grid"), COARSE, ids=lambda x: repr(x)[:30])
def test_the_processor_may_work_on_a_coarser_grid(grid, patch, processor_grid):
    torch.manual_seed(0)
    model = Transformer(
        TransformerConfig(grid, ga.everything(processor_grid), 3, 2, dim=16, depth=1, patch=patch)
    )
    x = torch.randn(2, 3, *grid.shape)
    assert torch.equal(model(x), x[:, :2])  # persistence at first
    torch.nn.init.normal_(model.decoder.projection.weight)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_configuration_survives_json():
    original = config(position=ga.nn.Harmonic(degree=2), features=3)
    again = TransformerConfig.from_dict(json.loads(json.dumps(original.to_dict())))
    assert again == original
    model = transformer(position=ga.nn.Harmonic(degree=2), features=3)
    copy = Transformer(again).double()
    copy.load_state_dict(model.state_dict())
    x = fields(1, 3, 6, 12)
    assert torch.equal(copy(x), model(x))


def test_a_few_steps_of_training_beat_persistence():
    torch.manual_seed(0)
    model = Transformer(config(dim=32, position="harmonic"))
    x = torch.randn(4, 3, 6, 12)
    y = x + 0.3 * x.roll(1, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    start = (x - y).square().mean().item()
    for _ in range(15):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.9 * start


def test_the_whole_model_is_one_graph_to_the_compiler():
    resampled = ga.everything(ga.grids.healpix(1))
    model = Transformer(TransformerConfig(SPHERE, resampled, 3, 3, dim=8, depth=1, position="harmonic"))
    torch.nn.init.normal_(model.decoder.projection.weight)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 6, 12, requires_grad=True)
    (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    (compiled_gradient,) = torch.autograd.grad(compiled(x).square().sum(), x)
    torch.testing.assert_close(compiled(x), model(x))
    torch.testing.assert_close(compiled_gradient, expected)


# bad input ------------------------------------------------------------------------------------


def test_wrong_fields_are_quoted_with_the_shape_expected():
    with pytest.raises(ValueError, match=r"fields must have shape \[B, 3, 6, 12\].*got \[1, 6, 12, 3\]"):
        transformer()(fields(1, 6, 12, 3))


def test_residual_needs_the_predicted_fields_in_the_input():
    with pytest.raises(ValueError, match="out_channels 3 exceeds in_channels 2"):
        config(in_channels=2)


def test_the_neighborhoods_must_lie_on_one_grid():
    with pytest.raises(ValueError, match="must lie on one grid"):
        TransformerConfig(SPHERE, (ga.everything(SPHERE), ga.everything(PLANE)), 3, 3)
    with pytest.raises(ValueError, match="must lie on one grid"):
        TransformerConfig(SPHERE, ga.everything(SPHERE, PLANE), 3, 3)


def test_hidden_points_have_no_influence_on_others():
    grid = ga.grids.gaussian(6, 12)
    config = TransformerConfig(grid, ga.geodesic(grid, radius=50), 2, 2, dim=8, depth=2, num_heads=2)
    torch.manual_seed(0)
    model = config.build()
    torch.nn.init.normal_(model.decoder.projection.weight)
    fields, visible = torch.randn(3, 2, *grid.shape), torch.rand(3, *grid.shape) < 0.6
    other = torch.where(visible[:, None], fields, torch.randn_like(fields))
    shown = visible[:, None].expand_as(fields)
    assert torch.equal(model(fields, visible)[shown], model(other, visible)[shown])
    assert not torch.equal(model(fields)[shown], model(other)[shown])


def test_a_model_on_patches_cannot_hide_points():
    grid = ga.grids.cartesian((8, 8))
    hood = ga.window(ga.nn.patches(grid, 2).grid, 3)
    model = TransformerConfig(grid, hood, 1, 1, dim=8, depth=1, num_heads=2, patch=2).build()
    assert not model.takes_key_mask
    with pytest.raises(ValueError, match=r"key_mask hides points of the .* use patch=1"):
        model(torch.randn(1, 1, 8, 8), torch.ones(8, 8, dtype=torch.bool))
