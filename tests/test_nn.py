import copy

import numpy as np
import pytest
import torch

import geoattn as ga

SPHERE = ga.grids.gaussian(5, 8)
COARSE_SPHERE = ga.grids.gaussian(3, 4)
PLANE = ga.grids.cartesian((5, 8), periodic=(False, True))


def attention(dim=16, heads=4, hood=None, seed=0, **options):
    torch.manual_seed(seed)
    layer = ga.nn.Attention(dim, heads, ga.everything(SPHERE) if hood is None else hood, **options).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_attention_is_the_softmax_integral_written_out():
    layer = attention(dim=12, heads=4, num_kv_heads=2, head_dim=5)
    x = tokens(2, 5, 8, 12)
    q, k, v = layer.qkv(x).reshape(2, 40, 8 * 5).split([20, 10, 10], dim=-1)
    expected = torch.zeros(2, 40, 4, 5, dtype=torch.float64)
    weights = torch.from_numpy(SPHERE.weights.reshape(-1).copy())
    for head in range(4):
        shared = head // 2
        qh = q[..., head * 5 : head * 5 + 5]
        kh, vh = (t[..., shared * 5 : shared * 5 + 5] for t in (k, v))
        kernel = weights * torch.exp(qh @ kh.mT / np.sqrt(5))
        expected[:, :, head] = (kernel @ vh) / kernel.sum(-1, keepdim=True)
    torch.testing.assert_close(layer(x), layer.out(expected.reshape(2, 5, 8, 20)))


def test_cross_attention_to_the_own_tokens_is_self_attention():
    layer = attention()
    x = tokens(2, 5, 8, 16)
    torch.testing.assert_close(layer(x, x), layer(x))


def test_cross_attention_takes_keys_from_another_grid():
    layer = attention(hood=ga.everything(COARSE_SPHERE, SPHERE), bias=False)
    x, context = tokens(2, 3, 4, 16), tokens(2, 5, 8, 16, seed=1)
    assert layer(x, context).shape == (2, 3, 4, 16)
    torch.testing.assert_close(layer(x, 2 * context).shape, layer(x, context).shape)
    constant = torch.ones_like(context)
    value = torch.nn.functional.linear(constant[0, 0, 0], layer.key_value.weight[16:])
    torch.testing.assert_close(layer(x, constant)[1, 2, 3], layer.out(value))


def test_masked_keys_have_no_say():
    layer = attention(position="harmonic")
    x = tokens(2, 5, 8, 16)
    mask = torch.rand(5, 8, generator=torch.Generator().manual_seed(3)) > 0.4
    changed = torch.where(mask[..., None], x, 100.0 * x)
    visible = layer(x, x, key_mask=mask)
    torch.testing.assert_close(layer(x, changed, key_mask=mask), visible)
    assert not torch.allclose(layer(x), visible)


def test_a_query_without_keys_gets_the_output_bias():
    layer = attention()
    out = layer(tokens(1, 5, 8, 16), key_mask=torch.zeros(5, 8, dtype=torch.bool))
    torch.testing.assert_close(out, layer.out.bias.expand_as(out))


@pytest.mark.parametrize("hood", [ga.everything(SPHERE), ga.geodesic(SPHERE, radius=50.0)], ids=repr)
@pytest.mark.parametrize("options", [{}, {"position": "harmonic", "num_kv_heads": 1}, {"qk_norm": True}])
def test_shifting_longitudes_shifts_the_result(options, hood):
    layer = attention(hood=hood, **options)
    x = tokens(2, 5, 8, 16)
    torch.testing.assert_close(layer(x.roll(3, 2)), layer(x).roll(3, 2), rtol=0, atol=1e-12)


def random_points(count, rotation):
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(count, 3))
    xyz = xyz / np.linalg.norm(xyz, axis=-1, keepdims=True) @ rotation.T
    lat, lon = np.degrees(np.arcsin(xyz[:, 2])), np.degrees(np.arctan2(xyz[:, 1], xyz[:, 0]))
    return ga.grids.points(lat, lon, areas=rng.uniform(0.5, 1.5, size=count))


@pytest.mark.parametrize("pattern", ["everything", "geodesic"])
def test_rotating_the_sphere_changes_nothing(pattern):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    x, results = tokens(2, 60, 16), []
    for turn in (np.eye(3), rotation):
        grid = random_points(60, turn)
        hood = ga.everything(grid) if pattern == "everything" else ga.geodesic(grid, radius=70.0)
        results.append(attention(hood=hood, position=ga.nn.Harmonic(degree=6))(x))
    torch.testing.assert_close(*results, rtol=0, atol=1e-11)


@pytest.mark.parametrize("position", [None, "rotary", "fourier"])
def test_translating_along_a_periodic_axis_translates_the_result(position):
    layer = attention(hood=ga.everything(PLANE), position=position)
    x = tokens(2, 5, 8, 16)
    torch.testing.assert_close(layer(x.roll(3, 2)), layer(x).roll(3, 2), rtol=0, atol=1e-12)


def test_qk_norm_makes_the_result_blind_to_the_length_of_queries():
    layer = attention(qk_norm=True, bias=False)
    x, context = tokens(2, 5, 8, 16), tokens(2, 5, 8, 16, seed=1)
    torch.testing.assert_close(layer(7.0 * x, context), layer(x, context), rtol=0, atol=1e-6)


def test_dropout_acts_in_training_only_and_on_the_result():
    layer = attention(dropout=0.5)
    x = tokens(1, 5, 8, 16)
    dropped, kept = layer.train()(x), layer.eval()(x)
    zero = dropped == 0
    assert 0.3 < zero.double().mean() < 0.7
    torch.testing.assert_close(dropped[~zero], 2.0 * kept[~zero])


SPHERICAL = {"hood": ga.everything(SPHERE), "position": ga.nn.Harmonic(degree=3)}
PLANAR = {"hood": ga.everything(PLANE), "position": "fourier"}


@pytest.mark.parametrize("where", [SPHERICAL, PLANAR], ids=["sphere", "plane"])
def test_gradients_reach_every_parameter_of_a_block(where):
    torch.manual_seed(0)
    block = ga.nn.Block(16, 4, num_kv_heads=2, qk_norm=True, layer_scale=0.1, **where)
    block(torch.randn(2, 5, 8, 16)).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_gradients_of_the_layer_are_those_of_finite_differences():
    grid = ga.grids.gaussian(2, 3)
    layer = attention(dim=4, heads=2, hood=ga.everything(grid), position=ga.nn.Harmonic(degree=1))
    torch.autograd.gradcheck(layer, tokens(1, 2, 3, 4).requires_grad_())


def test_block_without_attention_and_mlp_is_the_identity():
    block = ga.nn.Block(16, 4, ga.everything(SPHERE), layer_scale=0.0)
    x = torch.randn(2, 5, 8, 16)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("where", [SPHERICAL, PLANAR], ids=["sphere", "plane"])
def test_state_holds_no_grid_tables_and_survives_a_round_trip(where):
    layer = attention(qk_norm=True, **where)
    state = layer.state_dict()
    assert set(state) == {name for name, _ in layer.named_parameters()}
    other = attention(seed=1, qk_norm=True, **where)
    other.load_state_dict(state)
    x = tokens(1, 5, 8, 16)
    assert torch.equal(other(x), layer(x))


def test_tables_are_exact_after_a_change_of_dtype():
    layer = ga.nn.Attention(16, 4, ga.everything(SPHERE), position="harmonic")
    assert layer.position.key().dtype == torch.float32
    exact = torch.from_numpy(ga.nn.real_spherical_harmonics(SPHERE.xyz, 4)[..., None, 1:])
    assert torch.equal(layer.double().position.key(), exact)
    assert layer.bfloat16().position.key().dtype == torch.bfloat16
    assert torch.equal(layer.double().position.key(), exact)


def test_a_layer_made_without_memory_gets_its_tables_when_it_gets_a_device():
    with torch.device("meta"):
        layer = ga.nn.Attention(16, 4, ga.everything(SPHERE), position="harmonic")
    layer = layer.to_empty(device="cpu")
    assert torch.equal(layer.double().position.key(), attention(position="harmonic").position.key())


def test_layers_copy_deeply():
    layer = attention(position="harmonic")
    x = tokens(1, 5, 8, 16)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_autocast_runs_the_features_in_the_precision_of_the_heads():
    layer = ga.nn.Attention(16, 4, ga.everything(SPHERE), position="harmonic")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(1, 5, 8, 16)).dtype == torch.bfloat16


# bad input ------------------------------------------------------------------------------------


def test_wrong_shapes_are_quoted_with_the_shape_expected():
    layer = attention()
    with pytest.raises(
        ValueError, match=r"x must have shape \[B, 5, 8, 16\] on Gaussian.*got \[1, 8, 5, 16\]"
    ):
        layer(tokens(1, 8, 5, 16))
    with pytest.raises(ValueError, match=r"context must have shape \[B, 5, 8, 16\].*got \[1, 5, 8, 12\]"):
        layer(tokens(1, 5, 8, 16), tokens(1, 5, 8, 12))


def test_two_grids_need_a_context():
    layer = attention(hood=ga.everything(COARSE_SPHERE, SPHERE))
    with pytest.raises(ValueError, match=r"leads from one grid to another: pass the tokens of.*as context"):
        layer(tokens(1, 3, 4, 16))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="dim 16 is no multiple of num_heads 3: take num_heads=2, or dim=18"):
        ga.nn.Attention(16, 3, ga.everything(SPHERE))
    with pytest.raises(ValueError, match="multiple of num_kv_heads, got 4 and 3"):
        ga.nn.Attention(16, 4, ga.everything(SPHERE), num_kv_heads=3)


def test_position_features_need_a_grid_with_positions():
    with pytest.raises(TypeError, match="grid must be a grid"):
        ga.nn.PositionFeatures("sphere", 2)
