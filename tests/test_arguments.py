"""Numbers and grids of the wrong kind are refused at the call, by name and value."""

from functools import partial

import numpy as np
import pytest
import torch

import geoattn as ga

SPHERE, PLANE = ga.grids.gaussian(6, 12), ga.grids.cartesian((6, 8))
HOOD = ga.geodesic(SPHERE, radius=40)

#: calls that need a whole number, and its name
WHOLE = {
    "gaussian nlat": (lambda n: ga.grids.gaussian(n, 8), "nlat"),
    "equiangular nlon": (lambda n: ga.grids.equiangular(4, n), "nlon"),
    "lobatto": (lambda n: ga.grids.lobatto(n, 8), "nlat"),
    "cartesian": (lambda n: ga.grids.cartesian((n, 8)), "shape"),
    "healpix": (lambda n: ga.grids.healpix(n), "nside"),
    "icosahedral": (lambda n: ga.grids.icosahedral(n), "level"),
    "cubed sphere": (lambda n: ga.grids.cubed_sphere(n), "n"),
    "window size": (lambda n: ga.window(PLANE, n), "size"),
    "window stride": (lambda n: ga.window(PLANE, 3, n), "stride"),
    "window dilation": (lambda n: ga.window(PLANE, 3, 1, n), "dilation"),
    "window offset": (lambda n: ga.window(PLANE, 3, offset=n), "offset"),
    "curve window": (lambda n: ga.curve_window(PLANE, n), "size"),
    "hops": (lambda n: ga.k_hop(ga.grids.icosahedral(1), n), "hops"),
    "attention dim": (lambda n: ga.nn.Attention(n, 1, HOOD), "dim"),
    "attention heads": (lambda n: ga.nn.Attention(8, n, HOOD), "num_heads"),
    "attention kv heads": (lambda n: ga.nn.Attention(8, 4, HOOD, num_kv_heads=n), "num_kv_heads"),
    "attention head_dim": (lambda n: ga.nn.Attention(8, 2, HOOD, head_dim=n), "head_dim"),
    "block dim": (lambda n: ga.nn.Block(n, 1, HOOD), "dim"),
    "embedding": (lambda n: ga.nn.PatchEmbed(SPHERE, 1, n, 8), "in_channels"),
    "unembedding": (lambda n: ga.nn.PatchUnembed(SPHERE, 1, 8, n), "out_channels"),
}


@pytest.mark.parametrize("value", [2.5, 2.0, True, "2", None, torch.tensor(2.0), np.float64(2)], ids=repr)
@pytest.mark.parametrize(("call", "name"), WHOLE.values(), ids=WHOLE)
def test_fractions_are_no_whole_numbers(call, name, value):
    if value is None and name in ("head_dim", "num_kv_heads"):
        pytest.skip("None asks for the default")
    with pytest.raises(TypeError, match=rf"{name} must be (an integer|int)"):
        call(value)


@pytest.mark.parametrize("value", [np.int64(2), np.uint8(2), np.array(2)], ids=repr)
@pytest.mark.parametrize("name", ["gaussian nlat", "healpix", "attention heads", "block dim", "cartesian"])
def test_integers_of_numpy_are_whole_numbers(name, value):
    WHOLE[name][0](value)


@pytest.mark.parametrize("value", [0, -3])
@pytest.mark.parametrize("name", [n for n in WHOLE if n not in ("icosahedral", "window offset")])
def test_counts_below_one_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{value}"):
        WHOLE[name][0](value)


NUMBERS = {
    "radius": lambda x: ga.geodesic(SPHERE, radius=x),
    "spacing": lambda x: ga.grids.cartesian(4, spacing=x),
    "lon_start": lambda x: ga.grids.gaussian(4, 8, lon_start=x),
}


@pytest.mark.parametrize(("name", "call"), NUMBERS.items(), ids=NUMBERS)
def test_numbers_that_carry_gradients_are_refused(name, call):
    learned = torch.tensor(2.0, requires_grad=True)
    with pytest.raises(TypeError, match=rf"{name} must be a number .* gradients.*{name}\.item\(\)"):
        call(learned)
    assert call(learned.item()) == call(2)
    assert call(torch.tensor(2.0)) == call(np.float32(2)) == call(2)
    for wrong in (None, "2", True, [1.0, 2.0, 3.0]):
        with pytest.raises((TypeError, ValueError), match=name):
            call(wrong)


GRIDS = {
    "everything": lambda g: ga.everything(g),
    "everything, keys": lambda g: ga.everything(SPHERE, g),
    "geodesic": lambda g: ga.geodesic(g, radius=3),
    "geodesic, keys": lambda g: ga.geodesic(SPHERE, g, radius=3),
    "nearest": lambda g: ga.nearest(g, k=3),
    "window": lambda g: ga.window(g, 3),
    "curve window": lambda g: ga.curve_window(g, 3),
    "hops": lambda g: ga.k_hop(g if g is not HOOD else 5, 3),
    "edges": lambda g: ga.from_edges(g, SPHERE, [0], []),
}


@pytest.mark.parametrize("wrong", [5, (4, 8), "era5-1.5", HOOD], ids=repr)
@pytest.mark.parametrize("call", GRIDS.values(), ids=GRIDS)
def test_neighborhoods_are_of_grids(call, wrong):
    with pytest.raises(TypeError, match=r"must be a grid, got .*geoattn\.grids\."):
        call(wrong)


def test_edges_are_not_cut_to_whole_numbers():
    grid = ga.grids.cartesian(2)
    with pytest.raises(TypeError, match=r"indices must hold whole numbers, got 0\.9"):
        ga.from_edges(grid, grid, [0, 1, 2], [1, 0.9])
    with pytest.raises(TypeError, match=r"indptr must hold whole numbers, got 1\.5"):
        ga.from_edges(grid, grid, [0, 1.5, 2], [1, 0])
    with pytest.raises(TypeError, match="indices must hold whole numbers, got bool"):
        ga.from_edges(grid, grid, [0, 1, 2], [True, False])
    assert ga.from_edges(grid, grid, [0.0, 1.0, 2.0], [1, 0]).counts.tolist() == [1, 1]


@pytest.mark.parametrize("wrong", [15.0, SPHERE, None, torch.nn.Linear(2, 2)], ids=lambda x: type(x).__name__)
def test_modules_take_neighborhoods(wrong):
    for make in (ga.nn.Attention, ga.nn.Block):
        with pytest.raises(TypeError, match=r"hood must be a neighborhood, got .*geoattn\.geodesic\(grid"):
            make(8, 2, wrong)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, True, "0.5", float("nan")])
def test_rates_are_probabilities(wrong):
    for make in (ga.nn.Attention, ga.nn.Block):
        with pytest.raises(ValueError, match=r"dropout must be a number from 0 to 1, got"):
            make(8, 2, HOOD, dropout=wrong)


def test_modules_take_tensors():
    layer = ga.nn.Attention(8, 2, HOOD)
    with pytest.raises(TypeError, match=r"x must be a tensor, got ndarray; .*torch\.as_tensor"):
        layer(np.zeros((1, 6, 12, 8), np.float32))


# --- modules, positions, configurations, rows, fields -------------------------------------------------

GRID, DISCS = SPHERE, HOOD
CONFIG = partial(ga.models.TransformerConfig, GRID, DISCS, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: ga.nn.PatchEmbed(5, 2, 3, 8), TypeError, "grid must be a grid, got 5; make one with"),
        (lambda: ga.nn.PatchEmbed(GRID, 2.5, 3, 8), TypeError, "patch must be an integer, got 2.5"),
        (lambda: ga.nn.PatchUnembed("S", 2, 3, 8), TypeError, "grid must be a grid, got 'S'"),
        (lambda: ga.nn.PositionFeatures(3, 2), TypeError, "grid must be a grid, got 3"),
        (lambda: ga.nn.PositionFeatures(GRID, 2.5), TypeError, "degree must be an integer, got 2.5"),
        (lambda: ga.nn.PositionFeatures(GRID, -1), ValueError, "degree must be at least 0, got -1"),
        (lambda: ga.nn.Resample(GRID, 5), TypeError, "key_grid must be a grid, got 5"),
        (lambda: ga.nn.Resample(DISCS, GRID), TypeError, "query_grid must be a grid, got geodesic"),
        (
            lambda: ga.nn.Resample(GRID, ga.grids.healpix(1), "attention", 8, 2, DISCS),
            ValueError,
            r"hood must lead from HEALPix.* to Gaussian.*make it with both grids",
        ),
        (
            lambda: ga.nn.Resample(GRID, ga.grids.healpix(1), "attention", "8", 2),
            TypeError,
            "dim must be an integer, got '8'",
        ),
        (lambda: ga.nn.Directional("a"), TypeError, "slope must be a number, got 'a'"),
        (lambda: ga.nn.Directional(float("nan")), ValueError, "slope must be positive and finite, got nan"),
        (lambda: ga.nn.Fourier(1.5), TypeError, "wavenumber must be a whole number, got 1.5"),
        (lambda: ga.nn.Fourier(0), ValueError, "wavenumber must be at least 1, got 0"),
        (lambda: ga.nn.Harmonic("4"), TypeError, "degree must be a whole number, got '4'"),
        (lambda: ga.nn.Harmonic(-1), ValueError, "degree must be at least 1, got -1"),
        (lambda: ga.nn.LayerScale(8.5, 1.0), TypeError, "dim must be an integer, got 8.5"),
        (lambda: ga.nn.LayerScale(8, "x"), TypeError, "start must be a number, got 'x'"),
        (lambda: ga.nn.Block(8, 2, DISCS, mlp_ratio="4"), TypeError, "mlp_ratio must be a number, got '4'"),
        (
            lambda: ga.nn.Block(8, 2, DISCS, mlp_ratio=float("nan")),
            ValueError,
            "mlp_ratio nan leaves no",
        ),
        (lambda: CONFIG(dim="8"), TypeError, "dim must be a whole number, got '8'"),
        (lambda: CONFIG(depth=0), ValueError, "depth must be at least 1, got 0"),
        (lambda: CONFIG(residual="no"), TypeError, "residual must be True or False, got 'no'"),
        (
            lambda: CONFIG(key_weights="areas"),
            ValueError,
            "must be one of 'quadrature', got 'areas'",
        ),
        (lambda: CONFIG(num_kv_heads=1.5), TypeError, "num_kv_heads must be a whole number or None, got 1.5"),
        (lambda: ga.models.TransformerConfig(4, DISCS, 3, 3), TypeError, "grid must be a Grid, got 4"),
        (
            lambda: ga.models.TransformerConfig(GRID, GRID, 3, 3),
            TypeError,
            "hoods must be a neighborhood, got",
        ),
        (lambda: ga.models.TransformerConfig(GRID, (), 3, 3), ValueError, "hoods must name at least one"),
        (lambda: DISCS.rows(np.array([0.5])), TypeError, r"queries must be flat indices \[n\] .*float64"),
        (lambda: DISCS.rows(np.ones(72, bool)), TypeError, r"np.flatnonzero\(mask\)"),
        (lambda: DISCS.rows(np.array([[0]])), TypeError, r"shape \(1, 1\)"),
        (lambda: DISCS.rows(np.array([0, 72])), ValueError, r"queries must lie in \[0, 72\).*got 0 … 72"),
        (lambda: DISCS.rows(np.array([-1])), ValueError, r"got -1 … -1"),
        (lambda: GRID.integrate("x"), TypeError, "field must be a numpy array or a torch tensor, got str"),
        (lambda: GRID.mean([1.0]), TypeError, "field must be a numpy array or a torch tensor, got list"),
        (lambda: ga.grids.named(5), TypeError, r"ga.grids.catalogue\(\) lists all"),
        (
            lambda: ga.nn.real_spherical_harmonics(np.zeros((3, 2)), 2),
            ValueError,
            r"xyz must be unit vectors \[..., 3\].*got shape \(3, 2\)",
        ),
        (
            lambda: ga.nn.Resample(ga.grids.healpix(1), GRID)(torch.ones(1, 6, 12, 2, dtype=torch.int64)),
            TypeError,
            r"x must be floating point of 16 to 64 bits, got torch.int64; convert it with x.float\(\)",
        ),
    ],
)
def test_modules_and_values_refuse_wrong_kinds_at_the_call(call, error, said):
    with pytest.raises(error, match=said):
        call()


@pytest.mark.parametrize("name", ["key_weights", "key_bias", "scale", "relation_bias"])
def test_numbers_of_eight_bits_are_none_that_attention_computes_with(name):
    relation = ga.relations.edges(DISCS)
    shapes = {"scale": (), "relation_bias": (1, relation.count)}
    numbers = torch.ones(shapes.get(name, GRID.shape)).to(torch.float8_e5m2)
    more = {"relation": relation} if name == "relation_bias" else {}
    x = torch.ones(1, *GRID.shape, 1, 4)
    with pytest.raises(TypeError, match=f"{name} must be floating point of 16 to 64 bits, got .*float8_e5m2"):
        ga.attention(x, x, x, DISCS, **{name: numbers}, **more)
    ga.attention(x, x, x, DISCS, **{name: numbers.float()}, **more)


def test_no_queries_have_no_rows_and_whole_numbers_of_numpy_are_ints():
    assert DISCS.rows([]).indptr.tolist() == [0]
    assert DISCS.rows([3, 1]).indptr[-1] == len(DISCS.rows(np.array([1, 3], np.uint8)).indices)
    config = CONFIG(dim=np.int64(8), mlp_ratio=2)
    assert type(config.dim) is int
    assert config.digest == CONFIG(dim=8, mlp_ratio=2).digest
