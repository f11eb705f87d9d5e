import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import geoattn as ga
from geoattn.grids.interpolation import average, interpolation
from geoattn.nn.resampling import WeightedSum

G = ga.grids


def random_points(count, seed=0):
    xyz = np.random.default_rng(seed).normal(size=(count, 3))
    xyz /= np.linalg.norm(xyz, axis=-1, keepdims=True)
    xyz[:3] = [[0, 0, 1], [0, 0, -1], [1, 0, 0]]
    lat, lon = np.degrees(np.arcsin(xyz[:, 2])), np.degrees(np.arctan2(xyz[:, 1], xyz[:, 0]))
    return G.points(lat, lon, areas=np.full(count, 4 * np.pi / count))


def smooth_field(grid):
    x, y, z = np.moveaxis(grid.xyz, -1, 0)
    return (np.exp(x) * np.sin(2 * y + 1) + z**3 + x * z).reshape(-1)


def apply(stencil, field):
    return (stencil.weights * field[stencil.keys]).sum(-1)


# interpolation --------------------------------------------------------------------------------

SPHERES = {
    "gaussian": [G.gaussian(16, 32), G.gaussian(32, 64)],
    "equiangular with poles": [G.equiangular(17, 32), G.equiangular(33, 64)],
    "equiangular from the south": [
        G.equiangular(n, 2 * n + 1, poles=False, south_first=True, lon_start=33.0) for n in (16, 32)
    ],
    "healpix": [G.healpix(8), G.healpix(16)],
    "healpix rings": [G.healpix(8, order="ring"), G.healpix(16, order="ring")],
    "reduced gaussian": [G.reduced_gaussian("O32"), G.reduced_gaussian("O64")],
    "icosahedral": [G.icosahedral(3), G.icosahedral(4)],
    "cubed sphere": [G.cubed_sphere(8), G.cubed_sphere(16)],
}


@pytest.mark.parametrize("name", SPHERES)
def test_interpolation_on_the_sphere_is_of_second_order(name):
    target = random_points(800)
    coarse, fine = (
        np.sqrt(np.mean((apply(interpolation(target, g), smooth_field(g)) - smooth_field(target)) ** 2))
        for g in SPHERES[name]
    )
    assert fine < 0.01
    assert np.log2(coarse / fine) > 1.8


@pytest.mark.parametrize("name", SPHERES)
def test_interpolation_keeps_constants_and_is_exact_on_the_keys(name):
    grid = SPHERES[name][0]
    stencil = interpolation(random_points(800), grid)
    np.testing.assert_allclose(stencil.weights.sum(-1), 1.0, rtol=0, atol=1e-14)
    assert np.abs(stencil.weights).sum(-1).max() < 1.6  # no blow-up of noise
    values = np.random.default_rng(0).normal(size=grid.size)
    if grid.shape != (17, 32):  # at a pole of many tokens, all are right
        np.testing.assert_allclose(apply(interpolation(grid, grid), values), values, atol=1e-9)


def test_interpolation_runs_on_over_the_pole():
    grid, target = (
        G.equiangular(18, 36, poles=False),
        G.points([89.0, 89.0, -90.0], [10.0, 200.0, 0.0], areas=np.ones(3)),
    )
    x, y, _ = np.moveaxis(grid.xyz, -1, 0)
    field = (2 * x - y).reshape(-1)  # linear across the pole
    expected = 2 * target.xyz[:, 0] - target.xyz[:, 1]
    np.testing.assert_allclose(apply(interpolation(target, grid), field), expected, atol=3e-4)


@pytest.mark.parametrize("periodic", [True, False])
def test_interpolation_on_planes_is_linear_and_wraps_where_the_axis_does(periodic):
    coarse = G.cartesian((4, 6), spacing=(2.0, 1.0), periodic=(False, periodic))
    fine = G.cartesian((16, 24), spacing=(0.5, 0.25), periodic=(False, periodic))
    stencil = interpolation(fine, coarse)
    got = apply(stencil, coarse.coordinates[..., 0].ravel()).reshape(16, 24)
    np.testing.assert_allclose(got, np.clip(fine.coordinates[..., 0], 1.0, 7.0))
    wave = np.cos(2 * np.pi * np.arange(6) / 6)[None].repeat(4, 0).ravel()
    seam = apply(stencil, wave).reshape(16, 24)[0, [0, -1]]
    half_way = 0.375 * wave[5] + 0.625 * wave[0], 0.375 * wave[0] + 0.625 * wave[5]
    np.testing.assert_allclose(seam, half_way if periodic else (wave[0], wave[5]))


def test_interpolation_between_products_is_that_of_their_factors():
    time = [G.cartesian(n, spacing=12.0 / n) for n in (3, 6)]
    sphere = [G.gaussian(6, 12), G.healpix(4)]
    stencil = interpolation(G.product(time[1], sphere[1]), G.product(time[0], sphere[0]))
    a, b = np.random.default_rng(0).normal(size=3), np.random.default_rng(1).normal(size=72)
    parts = apply(interpolation(time[1], time[0]), a), apply(interpolation(sphere[1], sphere[0]), b)
    np.testing.assert_allclose(apply(stencil, np.outer(a, b).ravel()), np.outer(*parts).ravel())


def test_neighbors_in_one_line_still_give_a_mean():
    meridian = G.points(np.linspace(-80, 80, 20), np.zeros(20), areas=np.ones(20))
    stencil = interpolation(G.points([0.0], [30.0], areas=[1.0]), meridian)
    assert stencil.weights.min() >= 0
    np.testing.assert_allclose(stencil.weights.sum(-1), 1.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.floats(-400, 400), st.booleans(), st.integers(0, 100))
def test_any_lat_lon_grid_interpolates_within_its_range(nlat, nlon, start, south_first, seed):
    grid = G.equiangular(nlat, nlon, poles=False, lon_start=start, south_first=south_first)
    stencil = interpolation(random_points(50, seed), grid)
    assert stencil.weights.min() >= 0
    np.testing.assert_allclose(stencil.weights.sum(-1), 1.0)
    assert 0 <= stencil.keys.min() <= stencil.keys.max() < grid.size


def test_grids_of_different_domains_are_refused():
    for keys, queries in [
        (G.gaussian(4, 8), G.cartesian((4, 8))),
        (G.cartesian((4, 8)), G.gaussian(4, 8)),
        (G.healpix(2), G.cartesian((4, 8, 2))),
        (G.product(G.cartesian(3), G.healpix(2)), G.healpix(2)),
    ]:
        with pytest.raises(ValueError, match="do not lie in the same space"):
            interpolation(queries, keys)


# averages -------------------------------------------------------------------------------------


def test_area_means_over_siblings_keep_the_integral():
    fine, coarse = G.healpix(8), G.healpix(4)
    field = np.random.default_rng(0).normal(size=fine.size)
    means = apply(average(coarse, fine), field)
    np.testing.assert_allclose(means, field.reshape(-1, 4).mean(-1))
    assert coarse.integrate(means) == pytest.approx(fine.integrate(field))


def test_area_means_weigh_by_area():
    fine = G.points([1.0, -1.0, 0.0], [0.0, 0.0, 180.0], areas=[3.0, 1.0, 4 * np.pi - 4])
    means = apply(average(G.points([0.0, 0.0], [0.0, 180.0]), fine), np.array([1.0, 5.0, 7.0]))
    np.testing.assert_allclose(means, [2.0, 7.0])


def test_a_query_nearest_to_no_key_interpolates():
    keys, queries = G.healpix(4), G.gaussian(12, 24)  # finer than its keys at the poles
    stencil = average(queries, keys)
    np.testing.assert_allclose(stencil.weights.sum(-1), 1.0)
    between = apply(interpolation(queries, keys), smooth_field(keys))
    empty = np.isclose(apply(stencil, smooth_field(keys)), between)
    assert 0.1 < empty.mean() < 0.9


# the module -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["interpolation", "average"])
def test_resampling_keeps_constants_in_every_channel(method):
    resample = ga.nn.Resample(G.healpix(4), G.gaussian(16, 32), method)
    constant = torch.tensor([1.0, -3.0]).expand(2, 16, 32, 2)
    torch.testing.assert_close(resample(constant), torch.tensor([1.0, -3.0]).expand(2, 192, 2))


def test_resampling_has_the_exact_gradient_and_repeats_bit_for_bit():
    resample = ga.nn.Resample(G.healpix(1), G.gaussian(3, 4)).double()
    x = torch.randn(2, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(resample, x)
    torch.autograd.gradgradcheck(resample, x)
    grads = [torch.autograd.grad(resample(x).square().sum(), x)[0] for _ in range(2)]
    assert torch.equal(*grads)


def test_weighted_sums_are_those_of_the_dense_matrix():
    stencil = interpolation(G.healpix(2), G.gaussian(5, 8))
    matrix = np.zeros((48, 40))
    np.add.at(matrix, (np.arange(48)[:, None], stencil.keys), stencil.weights)
    x = torch.randn(3, 40, 4, dtype=torch.float64)
    got = WeightedSum(stencil.matrix(40)).double()(x)
    torch.testing.assert_close(got, torch.from_numpy(matrix) @ x)
    half = WeightedSum(stencil.matrix(40)).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), got, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("queries", "keys"), [(G.gaussian(4, 8), G.healpix(4)), (G.healpix(4), G.gaussian(4, 8))]
)
def test_resampling_by_attention_starts_from_the_fixed_weights_and_learns(queries, keys):
    torch.manual_seed(0)
    resample = ga.nn.Resample(queries, keys, "attention", dim=8, num_heads=2, position="harmonic")
    x = torch.randn(2, *keys.shape, 8)
    resample(x).square().sum().backward()
    for name, parameter in resample.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    torch.nn.init.zeros_(resample.attention.out.weight)
    torch.nn.init.zeros_(resample.attention.out.bias)
    method = "average" if queries.size < keys.size else "interpolation"
    torch.testing.assert_close(resample(x), ga.nn.Resample(queries, keys, method)(x))


def test_resampling_state_holds_what_is_learned_only():
    assert not ga.nn.Resample(G.healpix(4), G.gaussian(8, 16)).state_dict()
    resample = ga.nn.Resample(G.healpix(4), G.gaussian(8, 16), "attention", dim=8, num_heads=2)
    assert set(resample.state_dict()) == {name for name, _ in resample.named_parameters()}


def test_resampling_refuses_what_it_cannot_use():
    a, b = G.healpix(2), G.gaussian(4, 8)
    with pytest.raises(
        ValueError, match="method must be 'interpolation', 'average' or 'attention', got 'cubic'"
    ):
        ga.nn.Resample(a, b, "cubic")
    with pytest.raises(ValueError, match="'attention' needs dim and num_heads"):
        ga.nn.Resample(a, b, "attention")
    with pytest.raises(ValueError, match="'average' has nothing to learn; use method='attention'"):
        ga.nn.Resample(a, b, "average", dim=8)
    with pytest.raises(ValueError, match=r"x must have shape \[B, 4, 8, 3\].*got \[1, 48, 3\]"):
        ga.nn.Resample(a, b)(torch.zeros(1, 48, 3))


# patches --------------------------------------------------------------------------------------

PATCHED = [
    (
        G.cartesian((4, 6), spacing=(1.0, 0.5), periodic=(False, True)),
        2,
        G.cartesian((2, 3), (2.0, 1.0), (False, True)),
    ),
    (G.cartesian((4, 6, 2)), (2, 3, 1), G.cartesian((2, 2, 2), (2.0, 3.0, 1.0))),
    (G.healpix(8), 4, G.healpix(2)),
    (G.healpix(8, order="ring"), 2, G.healpix(4, order="ring")),
    (G.cubed_sphere(6), 3, G.cubed_sphere(2)),
    (G.product(G.cartesian(4), G.healpix(2)), (2, 1, 1), G.product(G.cartesian(2, 2.0), G.healpix(2))),
    (G.gaussian(5, 7), 1, G.gaussian(5, 7)),
]


@pytest.mark.parametrize(("fine", "patch", "coarse"), PATCHED, ids=lambda x: repr(x)[:40])
def test_patches_make_the_coarser_grid_of_the_same_kind(fine, patch, coarse):
    grid, members = ga.nn.patches(fine, patch)
    assert grid == coarse
    assert sorted(members.ravel()) == list(range(fine.size))
    np.testing.assert_allclose(fine.weights.reshape(-1)[members].sum(-1), grid.weights.reshape(-1), rtol=0.2)


@pytest.mark.parametrize(("fine", "patch"), [(f, p) for f, p, _ in PATCHED] + [(G.gaussian(8, 16), (2, 4))])
def test_patches_hold_the_points_around_their_own(fine, patch):
    grid, members = ga.nn.patches(fine, patch)
    dimensions = fine.positions.shape[-1]
    centres = fine.positions.reshape(-1, dimensions)[members].mean(1)
    if isinstance(fine, G.SphericalGrid):
        centres /= np.linalg.norm(centres, axis=-1, keepdims=True)
    deviation = np.linalg.norm(centres - grid.positions.reshape(-1, dimensions), axis=-1)
    assert deviation.max() < 0.15 * np.sqrt(grid.weights.mean())


def test_patches_of_a_lat_lon_grid_weigh_as_much_as_their_members():
    fine = G.gaussian(12, 24, lon_start=10.0, south_first=True)
    grid, members = ga.nn.patches(fine, (3, 2))
    assert grid.shape == (4, 12)
    np.testing.assert_allclose(
        fine.weights.reshape(-1)[members].sum(-1), grid.weights.reshape(-1), rtol=1e-14
    )
    assert grid.weights.sum() == pytest.approx(4 * np.pi, rel=1e-14)
    assert grid.lon_axis[0] == pytest.approx(10.0 + 7.5)
    assert (np.diff(grid.lat_axis) > 0).all()
    np.testing.assert_array_equal(members[0], [0, 1, 24, 25, 48, 49])
    assert G.Grid.from_dict(grid.to_dict()) == grid


def test_patch_embedding_is_a_strided_convolution_on_a_plane():
    grid = G.cartesian((6, 8))
    embed = ga.nn.PatchEmbed(grid, 2, 3, 5)
    x = torch.randn(2, 6, 8, 3)
    kernel = embed.projection.weight.reshape(5, 2, 2, 3).permute(0, 3, 1, 2)
    expected = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), kernel, embed.projection.bias, stride=2)
    torch.testing.assert_close(embed(x), expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize(("fine", "patch"), [(G.healpix(4, order="ring"), 2), (G.gaussian(6, 8), (3, 2))])
def test_unembedding_inverts_embedding(fine, patch):
    embed = ga.nn.PatchEmbed(fine, patch, 2, 12 if patch != 2 else 8).double()
    unembed = ga.nn.PatchUnembed(fine, patch, 12 if patch != 2 else 8, 2).double()
    torch.nn.init.orthogonal_(embed.projection.weight)
    with torch.no_grad():
        unembed.projection.weight.copy_(embed.projection.weight.T)
        unembed.projection.bias.copy_(-unembed.projection.weight @ embed.projection.bias)
    x = torch.randn(2, *fine.shape, 2, dtype=torch.float64)
    assert embed.coarse_grid == unembed.coarse_grid
    torch.testing.assert_close(unembed(embed(x)), x)


def test_patches_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="patches of 3 do not divide the 8 points along a side of Gaussian"):
        ga.nn.patches(G.gaussian(8, 16), 3)
    with pytest.raises(ValueError, match=r"must be square, got \(2, 1\)"):
        ga.nn.patches(G.healpix(4), (2, 1))
    with pytest.raises(ValueError, match=r"one positive number or 2 of them.*got \(2, 2, 2\)"):
        ga.nn.patches(G.healpix(4), (2, 2, 2))
    with pytest.raises(ValueError, match=r"no rectangular patches.*ga\.nn\.Resample"):
        ga.nn.patches(G.icosahedral(2), 2)
