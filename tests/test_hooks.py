"""Modules call what they are made of: hooks, adapters and wrapped layers act on every path."""

import pytest
import torch
from torch import nn

import geoattn as ga
from geoattn.models import EncoderDecoderConfig, TransformerConfig

GRID, COARSE = ga.grids.equiangular(8, 16, poles=False), ga.grids.healpix(2)
HOOD, ACROSS = ga.geodesic(GRID, radius=50), ga.nearest(COARSE, GRID, k=9)
MASK = torch.rand(GRID.shape, generator=torch.Generator().manual_seed(0)) < 0.7
OPTIONS = {"qk_norm": True, "position": "harmonic"}


def tokens(grid, dim=16):
    return torch.randn(2, *grid.shape, dim, generator=torch.Generator().manual_seed(1))


def transformer(**options):
    return TransformerConfig(GRID, (HOOD,), 3, 3, dim=16, depth=2, position="harmonic", **options).build()


def encoder_decoder(**options):
    half = ga.grids.patches(GRID, 2).grid
    hoods = (ga.geodesic(half, radius=70), ga.geodesic(ga.grids.patches(half, 2).grid, radius=90))
    if options.get("patches", 1) is None:
        hoods = (ga.geodesic(GRID, radius=40), ga.geodesic(COARSE, radius=70))
    sizes = {"dims": (8, 16), "depths": (1, 1), "num_heads": (1, 2), "patches": (2, 2), "decoder_dim": 8}
    return EncoderDecoderConfig(GRID, hoods, 3, 2, **(sizes | options)).build()


def fields(channels=3):
    return torch.randn(2, channels, *GRID.shape, generator=torch.Generator().manual_seed(2))


PATHS = {
    "attention, own tokens": (lambda: ga.nn.Attention(16, 2, HOOD, **OPTIONS), lambda m: m(tokens(GRID))),
    "attention, context": (
        lambda: ga.nn.Attention(16, 2, HOOD, **OPTIONS),
        lambda m: m(tokens(GRID), tokens(GRID)),
    ),
    "attention, masked": (
        lambda: ga.nn.Attention(16, 2, HOOD, **OPTIONS),
        lambda m: m(tokens(GRID), key_mask=MASK, key_bias=torch.zeros(GRID.shape)),
    ),
    "attention, across grids": (
        lambda: ga.nn.Attention(16, 2, ACROSS, **OPTIONS),
        lambda m: m(tokens(COARSE), tokens(GRID)),
    ),
    "block": (lambda: ga.nn.Block(16, 2, HOOD, layer_scale=0.1), lambda m: m(tokens(GRID))),
    "block, masked": (lambda: ga.nn.Block(16, 2, HOOD, dropout=0.1), lambda m: m(tokens(GRID), MASK)),
    "interpolation": (lambda: ga.nn.Resample(COARSE, GRID), lambda m: m(tokens(GRID))),
    "average": (lambda: ga.nn.Resample(COARSE, GRID, "average"), lambda m: m(tokens(GRID))),
    "resampling by attention": (
        lambda: ga.nn.Resample(COARSE, GRID, "attention", dim=16, num_heads=2),
        lambda m: m(tokens(GRID)),
    ),
    "patches": (lambda: ga.nn.PatchEmbed(GRID, 2, 16, 8), lambda m: m(tokens(GRID))),
    "no patches": (
        lambda: ga.nn.PatchUnembed(GRID, 2, 16, 3),
        lambda m: m(tokens(ga.grids.patches(GRID, 2).grid)),
    ),
    "position features": (lambda: ga.nn.PositionFeatures(GRID, 3), lambda m: m(tokens(GRID))),
    "transformer": (transformer, lambda m: m(fields())),
    "transformer, masked": (transformer, lambda m: m(fields(), MASK)),
    "transformer on another grid": (
        lambda: TransformerConfig(GRID, (ga.geodesic(COARSE, radius=70),), 3, 3, dim=16, depth=1).build(),
        lambda m: m(fields()),
    ),
    "encoder–decoder": (encoder_decoder, lambda m: m(fields())),
    "encoder–decoder without patches": (lambda: encoder_decoder(patches=None), lambda m: m(fields())),
}
#: containers are not called; their parts are
CONTAINERS = (nn.ModuleList,)


@pytest.mark.parametrize(("make", "run"), PATHS.values(), ids=PATHS)
def test_every_submodule_is_called_on_every_path(make, run):
    model, called = make(), set()
    for name, part in model.named_modules():
        part.register_forward_hook(lambda *_, name=name: called.add(name))
    run(model)
    parts = {name for name, part in model.named_modules() if not isinstance(part, CONTAINERS)}
    walked = {  # a processor whose blocks are called one by one
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Sequential) and all(f"{name}.{i}" in called for i in range(len(part)))
    }
    # tables of the way back are read by the gradient
    back = {name for name in parts if "backward_tables" in name}
    assert parts - called - walked - back == set()


class Adapted(nn.Module):
    """A linear layer and a low-rank correction, as adapters wrap one."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize(("make", "run"), PATHS.values(), ids=PATHS)
def test_an_adapter_around_any_linear_layer_acts_and_learns(make, run):
    names = [name for name, part in make().named_modules() if isinstance(part, nn.Linear)]
    for name in names:
        torch.manual_seed(0)
        model = make()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        before = run(model.eval())
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, adapted := Adapted(model.get_submodule(name)))
        after = run(model.eval())
        assert not torch.allclose(before, after), name
        after.square().sum().backward()
        assert adapted.up.weight.grad.abs().max() > 0, name


def test_self_and_cross_attention_agree_with_an_adapter():
    torch.manual_seed(0)
    layer = ga.nn.Attention(16, 2, HOOD)
    layer.qkv = Adapted(layer.qkv)
    x = tokens(GRID)
    torch.testing.assert_close(layer(x, context=x), layer(x))


@pytest.mark.parametrize(("make", "run"), PATHS.values(), ids=PATHS)
def test_a_module_on_another_dtype_computes_in_it(make, run):
    model = make().double()
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        assert values.dtype in (torch.float64, torch.int64), name


MAKERS = {
    "attention": lambda **o: ga.nn.Attention(16, 2, HOOD, position="harmonic", qk_norm=True, **o),
    "attention across": lambda **o: ga.nn.Attention(16, 2, ACROSS, position="directional", **o),
    "block": lambda **o: ga.nn.Block(16, 2, HOOD, layer_scale=0.1, **o),
    "interpolation": lambda **o: ga.nn.Resample(COARSE, GRID, **o),
    "resampling by attention": lambda **o: ga.nn.Resample(
        COARSE, GRID, "attention", dim=16, num_heads=2, **o
    ),
    "patches": lambda **o: ga.nn.PatchEmbed(GRID, 2, 16, 8, **o),
    "no patches": lambda **o: ga.nn.PatchUnembed(GRID, 2, 16, 3, **o),
    "position features": lambda **o: ga.nn.PositionFeatures(GRID, 3, **o),
    "layer scale": lambda **o: ga.nn.LayerScale(3, 0.1, **o),
    "transformer": lambda **o: TransformerConfig(GRID, (HOOD,), 3, 3, dim=16, depth=1).build(**o),
    "encoder–decoder": lambda **o: encoder_decoder().config.build(**o),
    "encoder–decoder without patches": lambda **o: encoder_decoder(patches=None).config.build(**o),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_modules_are_made_on_a_device_and_of_a_dtype(make):
    for device, dtype in (("meta", None), ("cpu", torch.float64)):
        made = make(device=device, dtype=dtype)
        for name, values in (*made.named_parameters(), *made.named_buffers()):
            assert values.device.type == device, name
            assert values.dtype in (dtype or torch.float32, torch.int64), name
