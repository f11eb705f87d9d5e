"""torch-harmonics' attention layers and models give the same on this package's operator."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.compat import torch_harmonics as ours
from geoattn.compat.torch_harmonics.layers import grid

theirs = pytest.importorskip("torch_harmonics", reason="torch-harmonics, the peer, is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:Default theta_cutoff changed")

KINDS = ("equiangular", "legendre-gauss", "lobatto", "equiangular-trapezoidal")
SHAPES = {  # keys and queries
    "self": ((12, 24), (12, 24)),
    "down": ((13, 24), (7, 12)),
    "up": ((6, 12), (12, 24)),
}


def outputs_and_gradients(layer, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    layer.zero_grad()
    out = layer(*inputs)
    out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).cos())
    gradients = {name: p.grad.clone() for name, p in layer.named_parameters()}
    return out.detach(), gradients | {f"input {i}": x.grad for i, x in enumerate(inputs)}


def assert_same(found, expected):
    """To 1e-5 of the largest output and of the largest gradient.

    Relative to each gradient it could not be: that of a key bias is exactly 0, as a shift of all scores
    of a query cancels, and what both compute for it is rounding.
    """
    assert (found[0] - expected[0]).abs().max() < 1e-5 * expected[0].abs().max()
    assert found[1].keys() == expected[1].keys()
    largest = max(x.abs().max() for x in expected[1].values())
    worst = {name: float((found[1][name] - x).abs().max() / largest) for name, x in expected[1].items()}
    assert max(worst.values()) < 1e-5, worst


def agree(name, in_shape, out_shape, **settings):
    """Theirs and ours with one state dict, loaded both ways, on random fields."""
    torch.manual_seed(0)
    settings = {"in_channels": 8, "num_heads": 2, "in_shape": in_shape, "out_shape": out_shape} | settings
    layer, mine = getattr(theirs, name)(**settings), getattr(ours, name)(**settings)
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    mine.load_state_dict(layer.state_dict())
    layer.load_state_dict(mine.state_dict())
    query, key, value = torch.randn(2, 8, *out_shape), *torch.randn(2, 2, 8, *in_shape)
    inputs = (query, key, value)
    assert_same(outputs_and_gradients(mine, *inputs), outputs_and_gradients(layer, *inputs))


@pytest.mark.parametrize("way", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_neighborhoods_agree_on_every_grid_and_between_grids(kind, way):
    agree("NeighborhoodAttentionS2", *SHAPES[way], grid_in=kind, grid_out=kind)  # their default of the radius
    other = KINDS[KINDS.index(kind) - 1]
    agree("NeighborhoodAttentionS2", *SHAPES[way], grid_in=kind, grid_out=other, theta_cutoff=0.7)


@pytest.mark.parametrize("kind", KINDS)
def test_global_attention_agrees_on_every_grid(kind):
    for way in ("self", "down"):
        agree("AttentionS2", *SHAPES[way], grid_in=kind, grid_out=kind)


BOTH = ("AttentionS2", "NeighborhoodAttentionS2")
SETTINGS = [
    *((name, {"k_channels": 12, "out_channels": 4, "bias": False}) for name in BOTH),
    *((name, {"use_qknorm": True, "scale": 0.3}) for name in BOTH),
    *((name, {"scale": torch.nn.Parameter(torch.tensor(0.7)), "num_heads": 4}) for name in BOTH),
    (
        "AttentionS2",
        {"scale": torch.linspace(0.1, 1, 8).view(2, 1, 4)},
    ),  # [heads, tokens, channels of a head]
    ("NeighborhoodAttentionS2", {"scale": torch.linspace(0.1, 1, 8)}),  # [k_channels]
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_settings_agree(name, settings):
    agree(name, *SHAPES["down"], **settings)


@pytest.mark.parametrize("way", SHAPES)
@pytest.mark.parametrize("side", [1 + 1e-6, 1 - 1e-6], ids=["in reach", "out of reach"])
def test_discs_end_where_theirs_end_at_1001_thousandths_of_the_cutoff(way, side):
    in_shape, out_shape = SHAPES[way]
    query_grid, key_grid = grid("legendre-gauss", out_shape), grid("lobatto", in_shape)
    cosines = (query_grid.xyz.reshape(-1, 3) @ key_grid.xyz.reshape(-1, 3).T).clip(-1, 1)
    distances = np.unique(np.arccos(cosines).round(9))
    lonely = (np.diff(distances[:-1]) > 1e-4) & (np.diff(distances[1:]) > 1e-4) & (distances[1:-1] > 0.6)
    cutoff = side * distances[1:-1][lonely][0] / 1.001
    kinds = {"grid_in": "lobatto", "grid_out": "legendre-gauss"}
    agree("NeighborhoodAttentionS2", in_shape, out_shape, **kinds, theta_cutoff=cutoff)


@pytest.mark.parametrize("cutoff", [math.pi / 1.0005, math.pi, 4.0])
def test_a_cutoff_of_pi_and_more_means_everything(cutoff):
    agree("NeighborhoodAttentionS2", *SHAPES["down"], theta_cutoff=cutoff)
    layer = ours.NeighborhoodAttentionS2(8, *SHAPES["down"], theta_cutoff=cutoff)
    assert set(layer.hood.counts.ravel()) == {layer.hood.key_grid.size}


@pytest.mark.parametrize("name", BOTH)
def test_one_seed_gives_both_the_same_weights(name):
    layers = []
    for package in (theirs, ours):
        torch.manual_seed(0)
        layers.append(getattr(package, name)(8, num_heads=2, in_shape=(6, 12), out_shape=(6, 12)))
    for expected, found in zip(*(layer.state_dict().items() for layer in layers), strict=True):
        assert expected[0] == found[0]
        assert torch.equal(expected[1], found[1])
    assert repr(layers[0]) == repr(layers[1])


def test_float64_and_derivatives_of_gradients_which_theirs_lacks():
    layer = ours.NeighborhoodAttentionS2(2, (4, 6), (3, 6), theta_cutoff=0.9).double()
    fields = [torch.randn(1, 2, n, 6, dtype=torch.float64, requires_grad=True) for n in (3, 4, 4)]
    assert torch.autograd.gradgradcheck(layer, fields, fast_mode=True)


def test_dropped_weights_are_refused_in_training_and_ignored_in_evaluation(refused_by):
    layer, fields = ours.AttentionS2(4, 2, (4, 8), (4, 8), drop_rate=0.1), torch.ones(1, 4, 4, 8)
    with refused_by("compat/torch_harmonics/layers.py", "in training: attention weights") as said:
        layer(fields)
    said.run("model.eval()", model=layer)
    in_evaluation = layer(fields)
    said.says("layer.drop_rate = 0.0")
    layer.drop_rate = 0.0
    assert torch.equal(layer.train()(fields), in_evaluation)


def test_one_latitude_takes_a_cutoff(refused_by):
    settings = {"in_shape": (1, 4), "out_shape": (1, 4), "grid_in": KINDS[1], "grid_out": KINDS[1]}
    with refused_by("compat/torch_harmonics/layers.py", "a grid of one latitude has no spacing") as said:
        ours.NeighborhoodAttentionS2(4, **settings)
    said.says("give theta_cutoff")
    ours.NeighborhoodAttentionS2(4, **settings, theta_cutoff=1.0)(torch.ones(1, 4, 1, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid_in": "healpix"}, "unknown grid 'healpix'; torch-harmonics has 'equiangular'"),
        ({"theta_cutoff": 0.0}, r"theta_cutoff must be above 0 radians, got 0\.0"),
        ({"in_shape": (4, 9)}, "9 in and 6 out"),
        ({"num_heads": 3}, "num_heads 3 must divide k_channels 4"),
        ({"num_heads": 4, "out_channels": 6}, "num_heads 4 must divide out_channels 6"),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        ours.NeighborhoodAttentionS2(**{"in_channels": 4, "in_shape": (4, 6), "out_shape": (4, 6)} | settings)


def test_inputs_that_do_not_fit_are_refused_as_theirs_are():
    layer = ours.NeighborhoodAttentionS2(4, (4, 6), (2, 6))
    good, query = torch.randn(1, 4, 4, 6), torch.randn(1, 4, 2, 6)
    for inputs, message in (
        ((good, good, good), r"query must be \[B, 4, 2, 6\], got shape \(1, 4, 4, 6\)"),
        ((query, good[0], good), r"key must be"),
        ((query, good, good.double()), r"one dtype, got torch\.float32, torch\.float32 and torch\.float64"),
    ):
        with pytest.raises(RuntimeError, match=message):
            layer(*inputs)


def test_a_knob_of_theirs_is_noted_once(refused_by):
    from geoattn.compat import _knobs

    _knobs._said.clear()
    with refused_by("compat/_knobs.py", "chooses among the kernels of {peer}") as said:
        layer = ours.NeighborhoodAttentionS2(4, (4, 6), (4, 6), optimized_kernel=False)
    assert said.message.startswith("optimized_kernel=False: chooses among the kernels of torch-harmonics")
    x = torch.ones(1, 4, 6, 1, 4)
    assert said.run("geoattn.explain(", q=x, k=x, v=x, hood=layer.hood).chosen == "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.NeighborhoodAttentionS2(4, (4, 6), (4, 6), optimized_kernel=False)


# models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "settings"),
    [  # more sizes and grids: benchmarks/harmonics_models.py
        ("SphericalTransformer", (48, 96), {}),
        ("SphericalTransformer", (48, 96), {"attention_mode": "global", "embed_dim": 32}),
        ("SphericalSegformer", (33, 64), {}),
    ],
)
def test_models_give_the_same_after_conversion(name, size, settings):
    models = pytest.importorskip("torch_harmonics.examples.models", reason="without the example models")
    torch.manual_seed(0)
    model = getattr(models, name)(img_size=size, **settings).eval()
    fields = torch.randn(1, 3, *size)
    expected = outputs_and_gradients(model, fields)
    state = copy.deepcopy(model.state_dict())
    done = ours.convert(model)
    assert not done.left
    assert not [
        m for m in model.modules() if isinstance(m, theirs.AttentionS2 | theirs.NeighborhoodAttentionS2)
    ]
    model.load_state_dict(state)
    assert_same(outputs_and_gradients(model, fields), expected)


def layer(kind="NeighborhoodAttentionS2", **settings):
    return getattr(theirs, kind)(
        **{"in_channels": 4, "num_heads": 2, "in_shape": (6, 12), "out_shape": (6, 12)} | settings
    )


@pytest.mark.parametrize("kinds", [("lobatto", "equiangular"), ("equiangular-trapezoidal", "legendre-gauss")])
@pytest.mark.parametrize("way", SHAPES)
def test_conversion_finds_the_grids_which_layers_do_not_keep(kinds, way):
    in_shape, out_shape = SHAPES[way]
    settings = {"in_shape": in_shape, "out_shape": out_shape, "grid_in": kinds[0], "grid_out": kinds[1]}
    model = torch.nn.ModuleList([layer(**settings, theta_cutoff=0.8)])
    ours.convert(model)
    assert model[0].hood == ours.NeighborhoodAttentionS2(4, **settings, theta_cutoff=0.8).hood


def test_conversion_keeps_parameters_shared_layers_and_modes():
    shared = layer(scale=torch.nn.Parameter(torch.tensor(0.5))).eval()
    shared.q_weights.requires_grad_(False)
    model = torch.nn.ModuleDict(
        {"a": shared, "b": torch.nn.Sequential(shared, layer("AttentionS2").double())}
    )
    before = dict(model.named_parameters(remove_duplicate=False))
    done = ours.convert(model)
    assert done.converted == ("a", "b.0", "b.1")
    assert model["a"] is model["b"][0]
    assert not model["a"].training
    after = dict(model.named_parameters(remove_duplicate=False))
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert model["a"].scale is model["a"]._parameters["scale"]


def test_conversion_says_what_it_left_and_why():
    class Own(theirs.AttentionS2):
        pass

    hooked = layer()
    hooked.register_forward_hook(lambda *_: None)
    other_edges = layer()
    other_edges.psi_col_idx = other_edges.psi_col_idx.flip(0)
    other_weights = layer("AttentionS2")
    other_weights.log_quad_weights = other_weights.log_quad_weights * 1.1
    model = torch.nn.ModuleDict(
        {
            "own": Own(4, 2, (6, 12), (6, 12)),
            "hooked": hooked,
            "dropping": layer("AttentionS2", drop_rate=0.1),
            "edges": other_edges,
            "weights": other_weights,
            "good": layer("AttentionS2", drop_rate=0.1).eval(),
        }
    )
    kept = dict(model)
    with pytest.warns(UserWarning, match="1 attention layers of torch-harmonics converted, 5 left"):
        done = ours.convert(model)
    assert done.converted == ("good",)
    assert {name: model[name] is kept[name] for name in kept} == {name: name != "good" for name in kept}
    for name, reason in {
        "own": "Own, not one of torch-harmonics' own two",
        "hooked": "it has hooks",
        "dropping": r"call model.eval() first",
        "edges": "its edges",
        "weights": "its quadrature weights",
    }.items():
        assert reason in done.left[name]
        assert f"{name}: {done.left[name]}" in str(done)


def test_conversion_of_nothing_says_so():
    with pytest.warns(
        UserWarning, match="nothing to convert: Linear holds no attention layer of torch-harmonics"
    ):
        ours.convert(torch.nn.Linear(2, 2))
    assert ga.compat.torch_harmonics is ours


def test_a_layer_alone_is_converted_inside_another(refused_by):
    alone = layer()
    with refused_by("compat/torch_harmonics/conversion.py", "the model is itself a {}") as said:
        ours.convert(alone)
    done = said.run("convert(", convert=ours.convert, layer=alone)
    assert done.converted == ("0",)
