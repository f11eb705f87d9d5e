import numpy as np
import pytest
import torch
from scipy.special import eval_legendre
from scipy_versions import sph_harm_y

import geoattn as ga
from geoattn.nn.position import resolve


def random_unit_vectors(count, seed=0):
    points = np.random.default_rng(seed).normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    points[:2] = [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]
    return points


# harmonics ------------------------------------------------------------------------------------


def test_real_spherical_harmonics_are_scipys_up_to_degree_30():
    xyz = random_unit_vectors(300)
    ours = ga.nn.real_spherical_harmonics(xyz, 30)
    theta, phi = np.arctan2(np.hypot(xyz[:, 0], xyz[:, 1]), xyz[:, 2]), np.arctan2(xyz[:, 1], xyz[:, 0])
    for degree in range(31):
        for order in range(degree + 1):
            theirs = (-1.0) ** order * sph_harm_y(degree, order, theta, phi)
            factor = 1.0 if order == 0 else np.sqrt(2.0)
            centre = degree * degree + degree
            np.testing.assert_allclose(ours[:, centre + order], factor * theirs.real, atol=2e-13)
            if order:
                np.testing.assert_allclose(ours[:, centre - order], factor * theirs.imag, atol=2e-13)


def test_spherical_harmonics_are_orthonormal_under_gaussian_quadrature():
    grid = ga.grids.gaussian(12, 24)
    values = np.moveaxis(ga.nn.real_spherical_harmonics(grid.xyz, 10), -1, 0)
    gram = grid.integrate(values[:, None] * values[None, :])
    np.testing.assert_allclose(gram, np.eye(len(values)), atol=1e-12)


def test_addition_theorem_makes_legendre_polynomials_of_the_angle():
    x, y = random_unit_vectors(20, 1), random_unit_vectors(20, 2)
    products = ga.nn.real_spherical_harmonics(x, 30) * ga.nn.real_spherical_harmonics(y, 30)
    for degree in range(31):
        ours = products[:, degree**2 : (degree + 1) ** 2].sum(-1)
        theirs = (2 * degree + 1) / (4 * np.pi) * eval_legendre(degree, (x * y).sum(-1))
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_sphere_and_plane_have_equally_many_position_features_of_mean_square_one():
    for grid in (ga.grids.gaussian(12, 24), ga.grids.cartesian((12, 24), periodic=(False, True))):
        features = ga.nn.position_features(grid, 4)
        assert features.shape == (12, 24, 24)
        mean_square = grid.integrate(np.moveaxis(features, -1, 0) ** 2) / grid.weights.sum()
        np.testing.assert_allclose(mean_square, 1.0)


def test_position_features_are_smooth_across_the_seam_of_a_periodic_axis():
    features = ga.nn.position_features(ga.grids.cartesian(64, periodic=True), 4)
    steps = np.diff(features, axis=0, append=features[:1])
    assert np.abs(steps[-1]).max() <= 1.05 * np.abs(steps[:-1]).max()


# the score ------------------------------------------------------------------------------------


def module(position, query_grid, key_grid, heads=2, head_dim=8):
    torch.manual_seed(0)
    made = resolve(position).module(query_grid, key_grid, heads, head_dim).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def scores(made, query_grid, key_grid, q, k, scale):
    """scale · q·k after the scheme, [H, Nq, Nk], with key heads shared by query heads."""
    q = q.reshape(1, *query_grid.shape, *q.shape[-2:])
    k = k.reshape(1, *key_grid.shape, *k.shape[-2:])
    q, k = made(q, k, scale)
    q, k = q.reshape(query_grid.size, *q.shape[-2:]), k.reshape(key_grid.size, *k.shape[-2:])
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    return scale * torch.einsum("ihd,jhd->hij", q, k).detach()


def random_heads(query_grid, key_grid, heads=2, kv_heads=1, head_dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(query_grid.size, heads, head_dim, generator=generator, dtype=torch.float64)
    k = torch.randn(key_grid.size, kv_heads, head_dim, generator=generator, dtype=torch.float64)
    return q, k


@pytest.mark.parametrize("scale", [8**-0.5, 1.0, 0.03])
def test_harmonic_position_is_an_explicit_bias_in_the_great_circle_angle(scale):
    query_grid, key_grid = ga.grids.gaussian(4, 7), ga.grids.gaussian(5, 8)
    made = module(ga.nn.Harmonic(degree=5), query_grid, key_grid)
    q, k = random_heads(query_grid, key_grid)
    bias = np.zeros((2, query_grid.size, key_grid.size))
    cosine = np.clip(query_grid.xyz.reshape(-1, 3) @ key_grid.xyz.reshape(-1, 3).T, -1, 1)
    a = made.coefficient.detach().numpy()[:, 0]
    assert a.min() < 0 < a.max()  # both signs are reached
    for degree in range(1, 6):
        legendre = (2 * degree + 1) / (4 * np.pi) * eval_legendre(degree, cosine)
        bias += a[:, degree - 1, None, None] * legendre
    expected = scale * torch.einsum("ihd,jd->hij", q, k[:, 0]) + torch.from_numpy(bias)
    torch.testing.assert_close(scores(made, query_grid, key_grid, q, k, scale), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("position", ["harmonic", "directional"])
def test_spherical_positions_on_time_and_sphere_are_those_of_the_sphere(position):
    sphere, time = ga.grids.gaussian(3, 4), ga.grids.cartesian(2)
    both = ga.grids.product(time, sphere)
    zero = torch.zeros(24, 2, 8, dtype=torch.float64)
    score = scores(module(position, both, both), both, both, zero, zero, 0.3)
    alone = scores(module(position, sphere, sphere), sphere, sphere, zero[:12], zero[:12], 0.3)
    torch.testing.assert_close(score, alone.repeat(1, 2, 2))


def tangents(grid):
    lat, lon = np.radians(grid.lat).ravel(), np.radians(grid.lon).ravel()
    east = np.stack((-np.sin(lon), np.cos(lon), 0 * lon), -1)
    north = np.stack((-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)), -1)
    return east, north


@pytest.mark.parametrize("scale", [8**-0.5, 1.0])
def test_directional_position_is_an_explicit_bias_in_the_tangent_plane_of_the_query(scale):
    query_grid, key_grid = ga.grids.gaussian(4, 7), ga.grids.healpix(2)
    made = module(ga.nn.Directional(slope=3.0), query_grid, key_grid)
    q, k = random_heads(query_grid, key_grid)
    a, b = np.moveaxis(made.coefficient.detach().numpy()[..., 0], 1, 0)
    east, north = (tangent @ key_grid.xyz.reshape(-1, 3).T for tangent in tangents(query_grid))
    bias = 3.0 * (a[:, None, None] * east + b[:, None, None] * north)
    expected = scale * torch.einsum("ihd,jd->hij", q, k[:, 0]) + torch.from_numpy(bias)
    torch.testing.assert_close(scores(made, query_grid, key_grid, q, k, scale), expected, rtol=0, atol=1e-12)


def test_heads_look_in_directions_spread_evenly_at_first():
    grid = ga.grids.equiangular(19, 36, poles=True)
    made = resolve("directional").module(grid, grid, 4, 8).double()
    zero = torch.zeros(grid.size, 4, 8, dtype=torch.float64)
    score = scores(made, grid, grid, zero, zero, 1.0).reshape(4, *grid.shape, *grid.shape)
    row, column = 6, 11
    here = score[:, row, column]
    torch.testing.assert_close(here.sum(0), torch.zeros(grid.shape, dtype=torch.float64), rtol=0, atol=1e-12)
    ahead = [(row, column + 1), (row - 1, column), (row, column - 1), (row + 1, column)]
    if grid.lat[0, 0] < 0:
        ahead[1], ahead[3] = ahead[3], ahead[1]
    for head, place in enumerate(ahead):  # 10° of latitude; of longitude, 10° times the cosine of 30°
        assert here[(head, *place)] > 1.1
        assert here[(head, *place)] == max(here[(head, *other)] for other in ahead)


def test_directional_scores_turn_with_the_planet_and_are_finite_at_its_poles():
    grid = ga.grids.equiangular(5, 6, poles=True)
    made = module("directional", grid, grid)
    zero = torch.zeros(grid.size, 2, 8, dtype=torch.float64)
    score = scores(made, grid, grid, zero, zero, 1.0).reshape(2, 5, 6, 5, 6)
    assert torch.isfinite(score).all()
    between = score[:, 1:-1]
    torch.testing.assert_close(between, between.roll((1, 1), dims=(2, 4)), rtol=0, atol=1e-12)
    for pole in (score[:, 0], score[:, -1]):  # all its points are one point, and see the same
        torch.testing.assert_close(pole, pole[:, :1].expand_as(pole), rtol=0, atol=1e-12)


def test_a_block_of_directional_heads_learns_a_gradient_that_one_without_cannot():
    grid = ga.grids.healpix(8)
    hood = ga.geodesic(grid, radius=20)
    torch.manual_seed(0)
    harmonics = torch.tensor(ga.nn.position_features(grid, 3), dtype=torch.float32)
    east, _ = tangents(grid)
    ahead = grid.xyz.reshape(-1, 3) + 1e-4 * east
    ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True)
    beyond = ga.nn.real_spherical_harmonics(ahead, 3)[:, 1:] * np.sqrt(4 * np.pi)
    gradient = torch.tensor((beyond - ga.nn.position_features(grid, 3)) / 1e-4, dtype=torch.float32)
    errors = {}
    for position in ("directional", None):
        torch.manual_seed(0)
        lift, layer = torch.nn.Linear(1, 16), ga.nn.Attention(16, 4, hood, position=position)
        drop = torch.nn.Linear(16, 1)
        network = torch.nn.Sequential(lift, layer, drop)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
        for _ in range(100):
            mix = torch.randn(15, 4)
            fields, wanted = (harmonics @ mix).T[..., None], (gradient @ mix).T[..., None]
            error = (network(fields) - wanted).square().mean() / wanted.square().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        errors[position] = error.item()
    assert errors["directional"] < 0.1 < 0.9 < errors[None]


@pytest.mark.parametrize("periodic", [(True, True), (False, True), (False, False)])
def test_fourier_position_is_an_explicit_bias_in_the_displacement(periodic):
    query_grid = ga.grids.cartesian((4, 6), spacing=(1.0, 0.5), periodic=periodic)
    key_grid = ga.grids.cartesian((8, 3), spacing=(0.5, 1.0), periodic=periodic)
    made = module(ga.nn.Fourier(wavenumber=1), query_grid, key_grid)
    q, k = random_heads(query_grid, key_grid)
    periods = np.array([4.0, 3.0]) * np.where(periodic, 1.0, 2.0)
    x = np.stack(np.mgrid[0:4, 0:6], -1).reshape(-1, 2) * [1.0, 0.5] + [0.5, 0.25]
    y = np.stack(np.mgrid[0:8, 0:3], -1).reshape(-1, 2) * [0.5, 1.0] + [0.25, 0.5]
    displacement = x[:, None] - y[None]
    a, b = np.moveaxis(made.coefficient.detach().numpy(), 1, 0)
    bias = np.zeros((2, 24, 24))
    for i, wave in enumerate([(0, 1), (1, -1), (1, 0), (1, 1)]):
        phase = 2 * np.pi * (displacement * wave / periods).sum(-1)
        bias += a[:, i, None, None] * np.cos(phase) + b[:, i, None, None] * np.sin(phase)
    expected = 0.3 * torch.einsum("ihd,jd->hij", q, k[:, 0]) + torch.from_numpy(bias)
    torch.testing.assert_close(scores(made, query_grid, key_grid, q, k, 0.3), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("position", ["rotary", "fourier"])
@pytest.mark.parametrize("periodic", [True, False])
def test_planar_scores_depend_on_the_displacement_only(position, periodic):
    grid = ga.grids.cartesian((5, 6), periodic=periodic)
    made = module(position, grid, grid)
    q, k = (x[:1].expand(grid.size, -1, -1) for x in random_heads(grid, grid))
    score = scores(made, grid, grid, q, k, 0.3).reshape(2, 5, 6, 5, 6)
    one_step_on = score.roll((1, 1, 1, 1), dims=(1, 2, 3, 4))
    if not periodic:  # an open plane has no seam to cross
        score, one_step_on = score[:, 1:, 1:, 1:, 1:], one_step_on[:, 1:, 1:, 1:, 1:]
    torch.testing.assert_close(score, one_step_on, rtol=0, atol=1e-12)
    assert score.std() > 0.01


def test_rotary_keeps_lengths_and_tells_opposite_displacements_apart():
    grid = ga.grids.cartesian((5, 6))
    made = module("rotary", grid, grid)
    q, k = random_heads(grid, grid)
    turned, _ = made(q.reshape(1, 5, 6, 2, 8), k.reshape(1, 5, 6, 1, 8), 1.0)
    torch.testing.assert_close(turned.norm(dim=-1).reshape(-1, 2), q.norm(dim=-1))
    q, k = (x[:1].expand(30, -1, -1) for x in (q, k))
    score = scores(made, grid, grid, q, k, 1.0)[0]
    assert abs(score[0, 1] - score[1, 0]) > 1e-3


# bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ("harmonic", r"needs points on a sphere.*cartesian.*position='fourier' or 'rotary'"),
        ("directional", r"needs points on a sphere.*cartesian.*position='fourier' or 'rotary'"),
        ("alibi", r"position 'alibi' is unknown.*fourier.*harmonic.*rotary"),
    ],
)
def test_positions_that_do_not_work_on_planes_name_those_that_do(position, message):
    with pytest.raises(ValueError, match=message):
        ga.nn.Attention(16, 2, ga.everything(ga.grids.cartesian((3, 4))), position=position)


@pytest.mark.parametrize("position", ["fourier", "rotary"])
def test_planar_positions_on_spheres_name_the_spherical_one(position):
    with pytest.raises(
        ValueError, match=r"needs a cartesian grid, got Gaussian.*position='harmonic' or 'directional'"
    ):
        ga.nn.Attention(16, 2, ga.everything(ga.grids.gaussian(3, 4)), position=position)


def test_rotary_refuses_odd_heads():
    with pytest.raises(ValueError, match="even head_dim of at least 4 on 2 axes, got 5"):
        ga.nn.Attention(10, 2, ga.everything(ga.grids.cartesian((3, 4))), position="rotary")


def test_planar_positions_refuse_grids_of_different_extent():
    hood = ga.everything(ga.grids.cartesian((3, 4)), ga.grids.cartesian((6, 8)))
    with pytest.raises(ValueError, match="same extent and periodicity"):
        ga.nn.Attention(16, 2, hood, position="rotary")


def test_harmonic_degree_zero_is_refused():
    with pytest.raises(ValueError, match="degree must be at least 1, got 0"):
        ga.nn.Attention(16, 2, ga.everything(ga.grids.gaussian(3, 4)), position=ga.nn.Harmonic(degree=0))


@pytest.mark.parametrize("slope", [0.0, -1.0, float("inf"), float("nan")])
def test_directional_slopes_must_be_positive_and_finite(slope):
    hood = ga.everything(ga.grids.gaussian(3, 4))
    with pytest.raises(ValueError, match=f"slope must be positive and finite, got {slope}"):
        ga.nn.Attention(16, 2, hood, position=ga.nn.Directional(slope=slope))


def test_positions_are_values_that_survive_a_dictionary():
    for position in (
        ga.nn.Harmonic(degree=6),
        ga.nn.Directional(slope=5.0),
        ga.nn.Fourier(wavenumber=3),
        ga.nn.Rotary(),
    ):
        assert ga.nn.Position.from_dict(position.to_dict()) == position
    assert repr(ga.nn.Harmonic(degree=6)) == "Harmonic(degree=6)"


# a bias for every pair -------------------------------------------------------------------------

PLANE, SPHERE = ga.grids.cartesian((6, 8)), ga.grids.gaussian(6, 12)


def attention_with(hood, position, **options):
    torch.manual_seed(0)
    made = ga.nn.Attention(16, 4, hood, position=position, **options)
    if hasattr(made.position, "table"):
        torch.nn.init.normal_(made.position.table)
    return made


def by_hand(made, x, scale, normalise=lambda x: x):
    """The same attention, dense: the bias edge by edge."""
    hood, position = made.hood, made.position
    q, k, v = (y.unflatten(-1, (4, 4)).flatten(1, -3) for y in made.qkv(x).chunk(3, -1))
    q, k = normalise(q), normalise(k)
    score = torch.einsum("bihd,bjhd->bhij", q, k) * scale
    indptr, keys, numbers = position.relation.rows(np.arange(hood.query_grid.size))
    queries = np.repeat(np.arange(hood.query_grid.size), np.diff(indptr))
    bias = torch.full(score.shape[-2:], float("-inf")).expand(4, -1, -1).clone()
    bias[:, queries, keys] = position()[:, torch.as_tensor(numbers).long()]
    weights = torch.as_tensor(np.array(hood.key_grid.weights)).flatten().float().log()
    mixed = torch.einsum("bhij,bjhd->bihd", (score + bias + weights).softmax(-1), v)
    return made.out(mixed.flatten(-2)).unflatten(1, hood.query_grid.shape)


@pytest.mark.parametrize(
    ("hood", "position"),
    [
        (ga.window(PLANE, (3, 5)), "offsets"),
        (ga.window(PLANE, (3, 5)), ga.nn.Offsets(by=(0,))),
        (ga.window(SPHERE, 3), "offsets"),
        (ga.geodesic(SPHERE, radius=40.0), "angles"),
        (ga.geodesic(SPHERE, radius=40.0), ga.nn.Angles(bins=5, sectors=3)),
        (ga.window(PLANE, (3, 5), causal=True), "continuous"),
        (ga.geodesic(SPHERE, radius=40.0), ga.nn.Continuous(hidden=7, sectors=1)),
    ],
    ids=str,
)
def test_a_pair_position_adds_the_entry_of_its_table(hood, position):
    made = attention_with(hood, position)
    x = torch.randn(2, *hood.query_grid.shape, 16)
    found, expected = made(x), by_hand(made, x, 0.5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    parameters = dict(made.named_parameters())
    gradients = torch.autograd.grad(found.square().sum(), parameters.values())
    trues = torch.autograd.grad(expected.square().sum(), parameters.values())
    for name, gradient, true in zip(parameters, gradients, trues, strict=True):
        torch.testing.assert_close(gradient, true, rtol=1e-4, atol=1e-4, msg=name)
    assert any("position" in name for name in parameters)


def test_learned_tables_begin_without_a_say():
    hood = ga.window(PLANE, 3)
    x = torch.randn(2, *PLANE.shape, 16)
    plain, biased = (ga.nn.Attention(16, 4, hood, position=position) for position in (None, "offsets"))
    biased.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(plain(x), biased(x))


def test_continuous_tables_are_those_of_swin_v2():
    hood = ga.window(PLANE, 4, stride=4, boundary="clip")
    made = ga.nn.Continuous(hidden=8).bias(hood, 3)
    steps = 8.0 * torch.arange(-3, 4) / 3
    steps = steps.sign() * (steps.abs() + 1.0).log2() / np.log2(8.0)
    coordinates = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).flatten(0, 1)
    torch.testing.assert_close(made.coordinates(), coordinates.to(made.coordinates().dtype))
    torch.testing.assert_close(made(), (16 * torch.sigmoid(made.network(coordinates.float()))).T)


@pytest.mark.parametrize("position", [None, "harmonic", "angles"])
def test_a_learned_scale_is_cosine_attention_at_a_clamped_temperature(position):
    hood = ga.geodesic(SPHERE, radius=40.0)
    made = attention_with(hood, position, scale="learned")
    x = torch.randn(2, *SPHERE.shape, 16)
    with torch.no_grad():
        made.log_scale.copy_(torch.tensor([0.0, 1.0, np.log(100.0), 20.0]))
    (gradient,) = torch.autograd.grad(made(x).square().sum(), made.log_scale)
    assert gradient[:2].all()
    assert gradient[3] == 0  # clamped
    if position == "angles":
        scale = torch.tensor([1.0, np.e, 100.0, 100.0])[:, None, None]
        expected = by_hand(made, x, scale, lambda x: torch.nn.functional.normalize(x, dim=-1))
        torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-4)
    twice = attention_with(hood, position, scale="learned")
    twice.load_state_dict(made.state_dict())
    assert torch.equal(twice(x), made(x))


def test_heads_with_neighborhoods_of_their_own_have_tables_of_their_own():
    hood = ga.heads(ga.window(PLANE, 3), ga.window(PLANE, 5))
    made = ga.nn.Attention(16, 4, hood, position="offsets")
    assert [tuple(p.shape) for p in made.position.parameters()] == [(2, 25), (2, 81)]
    made(torch.randn(1, *PLANE.shape, 16)).sum().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_models_take_pair_positions_and_their_files_keep_them(tmp_path):
    from geoattn import models

    hood = ga.geodesic(SPHERE, radius=40.0)
    config = models.TransformerConfig(SPHERE, hood, 2, 2, dim=16, depth=1, num_heads=4, position="angles")
    model = config.build()
    for name, parameter in model.named_parameters():
        if name.endswith("table"):
            torch.nn.init.normal_(parameter)
    models.save(tmp_path / "model.safetensors", model)
    again, _ = models.load(tmp_path / "model.safetensors")
    x = torch.randn(1, 2, *SPHERE.shape)
    assert torch.equal(again(x), model(x))
