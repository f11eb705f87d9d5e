"""The shallow-water solver against exact solutions, conservation laws, and itself at higher resolution."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.special import lpmv

import geoattn as ga
from geoattn.tasks.shallow_water import (
    DAY,
    HOUR,
    Planet,
    ShallowWater,
    galewsky_jet,
    mountain,
    random_balanced_states,
    rossby_haurwitz,
    steady_zonal_flow,
)
from geoattn.tasks.shallow_water.harmonics import Harmonics
from geoattn.tasks.shallow_water.stepping import phi_functions, runge_kutta

T10, T21 = ga.grids.gaussian(16, 32), ga.grids.gaussian(32, 64)


def relative_error(solver, fields, reference):
    """Williamson's normalised l2 error, per channel."""
    difference = solver.grid.integrate((fields - reference).square())
    return (difference / solver.grid.integrate(reference.square())).sqrt()


# --- transforms -----------------------------------------------------------------------------------

WITH_TRANSFORM = [ga.grids.gaussian(16, 32), ga.grids.lobatto(17, 32), ga.grids.equiangular(25, 48)]


@pytest.mark.parametrize("grid", WITH_TRANSFORM, ids=repr)
def test_coefficients_are_of_orthonormal_harmonics(grid):
    """Against Legendre functions of scipy, for every degree and order; derivatives by differences."""
    transform = Harmonics(grid)
    size = transform.truncation + 1
    z, longitude = np.sin(np.radians(grid.lat)), np.radians(grid.lon)
    for degree in range(size):
        for order in range(degree + 1):
            norm = (2 * degree + 1) / (4 * np.pi)
            norm *= math.factorial(degree - order) / math.factorial(degree + order)
            wave = np.sqrt(norm) * lpmv(order, degree, z) * np.exp(1j * order * longitude)
            field = torch.from_numpy(wave.real if order == 0 else 2 * wave.real)
            expected = torch.zeros(size, size, dtype=torch.complex128)
            expected[degree, order] = 1
            torch.testing.assert_close(transform.analyse(field), expected, rtol=0, atol=1e-13)
            torch.testing.assert_close(transform.synthesise(expected), field, rtol=0, atol=1e-13)


def test_winds_of_potentials_are_their_slopes():
    """The stream function and the potential of random coefficients, differentiated along both axes."""
    grid = ga.grids.gaussian(16, 32)
    transform = Harmonics(grid, 6)
    size, step = 7, 1e-5
    generator = torch.Generator().manual_seed(0)
    of = torch.randn(2, size, size, dtype=torch.complex128, generator=generator).tril()
    of[:, 0] = 0
    of[..., 0] = of[..., 0].real.to(of.dtype)
    degree = torch.arange(size)[:, None]
    u, v = transform.wind(-degree * (degree + 1) * of)

    def value(lat, lon):
        xyz = np.stack((np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)), -1)
        table = ga.nn.real_spherical_harmonics(xyz, 6)
        total = np.zeros((2, *lat.shape))
        for n in range(size):
            for m in range(n + 1):
                c = of[:, n, m].numpy()[:, None, None] * (-1) ** m * (1 if m == 0 else np.sqrt(2))
                total += c.real * table[..., n * n + n + m] - (c.imag * table[..., n * n + n - m] if m else 0)
        return total

    lat, lon = np.radians(grid.lat), np.radians(grid.lon)
    northward = (value(lat + step, lon) - value(lat - step, lon)) / (2 * step)
    eastward = (value(lat, lon + step) - value(lat, lon - step)) / (2 * step * np.cos(lat))
    torch.testing.assert_close(u, torch.from_numpy(eastward[1] - northward[0]), rtol=0, atol=1e-7)
    torch.testing.assert_close(v, torch.from_numpy(northward[1] + eastward[0]), rtol=0, atol=1e-7)
    again = transform.curl_and_divergence(torch.stack((u, v)))
    torch.testing.assert_close(again, -degree * (degree + 1) * of, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("grid", "name"), [*zip(WITH_TRANSFORM, ("legendre-gauss", "lobatto", "equiangular"), strict=True)]
)
def test_torch_harmonics_finds_the_same_coefficients(grid, name):
    theirs = pytest.importorskip("torch_harmonics", reason="torch-harmonics, a witness, is not installed")
    transform = Harmonics(grid)
    size = transform.truncation + 1
    field = torch.randn(3, *grid.shape, dtype=torch.float64)
    expected = theirs.RealSHT(*grid.shape, lmax=size, mmax=size, grid=name).double()(field)
    torch.testing.assert_close(transform.analyse(field), expected, rtol=0, atol=1e-12)


# --- kinematics -----------------------------------------------------------------------------------


def test_solid_body_rotation_has_vorticity_of_twice_its_rate_and_no_divergence():
    solver = ShallowWater(T10)
    rate = 1e-5
    wind = rate * solver.planet.radius * solver.lat.cos()
    fields = solver.to_fields(solver.from_wind(torch.zeros_like(wind), wind, torch.zeros_like(wind)))
    torch.testing.assert_close(fields[1], 2 * rate * solver.lat.sin(), rtol=0, atol=1e-18)
    assert fields[2].abs().max() < 1e-18


def test_flow_from_south_to_north_diverges_in_the_south_and_converges_in_the_north():
    solver = ShallowWater(T10)
    zero = torch.zeros(T10.shape)
    fields = solver.to_fields(solver.from_wind(zero, zero, solver.lat.cos()))
    torch.testing.assert_close(fields[2], -2 * solver.lat.sin() / solver.planet.radius, rtol=0, atol=1e-18)
    assert fields[1].abs().max() < 1e-18


def test_wind_of_a_state_is_the_wind_it_was_made_from():
    solver = ShallowWater(T21)
    state = random_balanced_states(solver, [3])[0]
    state[2] = 0.1 * random_balanced_states(solver, [4])[0, 1]
    u, v = solver.wind(state)
    again = solver.from_wind(solver.to_fields(state)[0], u, v)
    scale = state.abs().amax((-2, -1), keepdim=True)
    torch.testing.assert_close(again / scale, state / scale, rtol=0, atol=1e-12)


def test_the_2_3_rule_gives_the_classic_truncations():
    for nlat, truncation in ((32, 21), (48, 31), (64, 42), (96, 63)):
        assert ShallowWater(ga.grids.gaussian(nlat, 2 * nlat)).truncation == truncation


# --- exact solutions --------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "time_step"), [("runge-kutta", 3000.0), ("exponential", 9000.0)])
@pytest.mark.parametrize("radians", [0.0, 0.05, math.pi / 2 - 0.05, math.pi / 2])
def test_williamson_2_zonal_flow_is_steady_at_any_rotation_angle(radians, scheme, time_step):
    solver, state = steady_zonal_flow(T21, math.degrees(radians), scheme=scheme)
    assert solver.tendency(state).abs().max() < 1e-12
    start, end = solver.to_fields(solver.run(state, 2 * DAY, time_step=time_step)[[0, -1]])
    error = relative_error(solver, end, start)
    assert error[0] < 1e-13
    assert error[1] < 1e-12
    assert end[2].abs().max() < 1e-15  # divergence, against a vorticity of 1e-5


@pytest.mark.parametrize("grid", [ga.grids.lobatto(33, 64), ga.grids.equiangular(49, 96)], ids=repr)
def test_williamson_2_is_steady_on_other_grids_with_a_harmonic_transform(grid):
    solver, state = steady_zonal_flow(grid, 30.0)
    assert solver.truncation == {33: 21, 49: 16}[grid.shape[0]]
    start, end = solver.to_fields(solver.run(state, DAY / 4, time_step=1800.0)[[0, -1]])
    assert relative_error(solver, end, start)[0] < 1e-13


def test_williamson_2_is_steady_in_single_precision_to_its_round_off():
    solver, state = steady_zonal_flow(T21, 45.0, dtype=torch.float32)
    start, end = solver.to_fields(solver.run(state, DAY, time_step=1800.0)[[0, -1]])
    assert end.dtype == torch.float32
    assert relative_error(solver, end, start)[0] < 3e-6


@pytest.mark.parametrize("degree", [1, 5, 10])
def test_gravity_waves_oscillate_at_the_frequency_of_the_dispersion_relation(degree):
    solver = ShallowWater(T10, planet=Planet(angular_velocity=0.0))
    depth, amplitude = 4000.0, 1e-4
    state = torch.zeros(3, 11, 11, dtype=torch.complex128)
    state[0, 0, 0] = depth * math.sqrt(4 * math.pi)
    state[0, degree, 1] = amplitude
    frequency = math.sqrt(solver.planet.gravity * depth * degree * (degree + 1)) / solver.planet.radius
    seconds = 0.3 * 2 * math.pi / frequency
    final = solver.run(state, seconds, time_step=seconds / 60)[-1]
    assert final[0, degree, 1].real / amplitude == pytest.approx(math.cos(frequency * seconds), abs=1e-6)
    assert final[2, degree, 1].real == pytest.approx(
        amplitude / depth * frequency * math.sin(frequency * seconds), rel=1e-6
    )


@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize("z", [0.0, 1e-9j, 0.7j, -0.3 + 0.99j, 1.01j, -2.0 + 5.0j, -40.0, 60.0j])
def test_phi_functions_are_those_of_a_matrix_exponential(z, k):
    """φ_k(z) is the last entry in the first row of exp of z beside a chain of k ones."""
    chain = np.diag(np.ones(k), 1).astype(complex)
    chain[0, 0] = z
    found = phi_functions(torch.tensor(z, dtype=torch.complex128))[k]
    assert complex(found) == pytest.approx(expm(chain)[0, k], rel=1e-12, abs=1e-13)


def test_the_exponential_step_takes_gravity_waves_exactly_however_long_it_is():
    solver = ShallowWater(T10, planet=Planet(angular_velocity=0.0), scheme="exponential")
    depth, amplitude, degree = 4000.0, 1e-7, 10
    state = torch.zeros(3, 11, 11, dtype=torch.complex128)
    state[0, 0, 0] = depth * math.sqrt(4 * math.pi)
    state[0, degree, 1] = amplitude
    frequency = math.sqrt(solver.planet.gravity * depth * degree * (degree + 1)) / solver.planet.radius
    seconds = 7.3 * 2 * math.pi / frequency  # seven periods and a part in one step
    final = solver.step(state, seconds)
    assert final[0, degree, 1].real / amplitude == pytest.approx(math.cos(frequency * seconds), abs=1e-8)
    assert final[2, degree, 1].real == pytest.approx(
        amplitude / depth * frequency * math.sin(frequency * seconds), rel=1e-7
    )


def test_the_exponential_step_is_of_fourth_order_with_damping_and_a_mountain():
    solver, state = mountain(T10, scheme="exponential", damping_time=4 * HOUR)
    finals = [solver.run(state, DAY / 2, time_step=DAY / n)[-1] for n in (24, 48, 192)]
    errors = [float((final - finals[-1]).abs().norm() / finals[-1].abs().norm()) for final in finals[:2]]
    assert errors[0] / errors[1] > 12
    degree = torch.arange(11.0, dtype=torch.float64)[:, None]
    rate = (degree * (degree + 1) / 110) ** 2 / (4 * HOUR)

    def damped(state):
        """Of the surface: a level one over a mountain is at rest."""
        ground = torch.stack((solver._ground, *torch.zeros(2, 11, 11, dtype=state.dtype)))
        return solver.tendency(state) - rate * (state + ground)

    for _ in range(144):
        state = runge_kutta(damped, state, 300.0)
    scale = state.abs().amax((-2, -1), keepdim=True)
    torch.testing.assert_close(finals[-1] / scale, state / scale, rtol=0, atol=5e-6)


def test_a_state_does_not_depend_on_others_of_other_depths_beside_it():
    solver, state = mountain(T10, scheme="exponential")
    deeper = state.clone()
    deeper[0, 0, 0] *= 1.5
    both = solver.run(torch.stack((state, deeper)), 12 * HOUR, time_step=3 * HOUR)[-1]
    for alone, found in zip((state, deeper), both, strict=True):
        expected = solver.run(alone, 12 * HOUR, time_step=3 * HOUR)[-1]
        scale = expected.abs().amax((-2, -1), keepdim=True)
        torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-13)


def test_the_exponential_step_is_as_exact_as_the_classical_one_in_a_quarter_of_the_steps():
    """On flows like those of the training data, against short steps."""
    options = {"damping_time": 4 * HOUR, "dtype": torch.float64}
    classical, exponential = (ShallowWater(T21, scheme=s, **options) for s in ("runge-kutta", "exponential"))
    state = random_balanced_states(classical, [1, 2])
    step = classical.stable_time_step(state)
    truth = exponential.run(state, DAY, time_step=step / 2)[-1]

    def error(solver, time_step):
        found = solver.run(state, DAY, time_step=time_step)[-1]
        return (
            (found - truth).abs().square().sum((0, -2, -1)) / truth.abs().square().sum((0, -2, -1))
        ).sqrt()

    theirs, ours = error(classical, step), error(exponential, 4 * step)
    assert (ours[:2] < 2 * theirs[:2]).all()  # depth and vorticity
    assert exponential.stable_time_step(state) > 3 * step


def test_an_unknown_scheme_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"scheme='leapfrog' must be one of 'runge-kutta', 'exponential'"):
        ShallowWater(T10, scheme="leapfrog")


def test_williamson_6_in_a_deep_fluid_turns_at_the_speed_of_the_nondivergent_wave():
    solver, state = rossby_haurwitz(T10, mean_depth=8e5)
    start, end = solver.run(state, DAY / 8, time_step=160.0)[:, 1, 5, 4]
    turned = -float(torch.angle(end / start)) / 4
    rate = 7.848e-6
    nondivergent = (4 * 7 * rate - 2 * solver.planet.angular_velocity) / (5 * 6)
    assert turned / (DAY / 8) == pytest.approx(nondivergent, rel=2e-3)
    assert abs(end / start) == pytest.approx(1, abs=1e-3)


def test_williamson_6_travels_eastward_and_keeps_its_shape_and_its_symmetry():
    solver, state = rossby_haurwitz(T21)
    states = solver.run(state, 2 * DAY, save_every=DAY, time_step=1800.0)
    wave = states[:, 1, 5, 4]
    degrees_a_day = -torch.rad2deg(torch.angle(wave[1:] / wave[:-1])) / 4
    assert ((degrees_a_day > 10.5) & (degrees_a_day < 12.2)).all()  # below the nondivergent 12.2
    torch.testing.assert_close(wave.abs(), wave.abs()[:1].expand(3), rtol=0.05, atol=0)
    others = [m for m in range(22) if m % 4]
    assert states[-1][..., others].abs().max() < 1e-9
    mirrored = solver.to_fields(states[-1])[:2].flip(-2) * torch.tensor([1.0, -1.0])[:, None, None]
    torch.testing.assert_close(solver.to_fields(states[-1])[0], mirrored[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(solver.to_fields(states[-1])[1], mirrored[1], rtol=0, atol=1e-14)


# --- conservation and convergence -------------------------------------------------------------------


REFERENCES = Path(__file__).parents[1] / "benchmarks" / "results" / "shallow_water_references.npz"


def surface_error(solver, state, truth):
    """Relative l2 difference of h + b from coefficients, by Parseval's identity, with all their scales."""
    size = solver.truncation + 1
    difference = truth.clone()
    difference[:size, :size] -= state[0] + solver._ground
    twice = torch.full((truth.shape[-1],), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    return float(((difference.abs() ** 2 * twice).sum() / (truth.abs() ** 2 * twice).sum()).sqrt())


@pytest.mark.parametrize(
    ("case", "name", "days", "published"),
    [  # errors of the finite-volume model GME on 10,242 points
        (mountain, "williamson 5, day 15", 15, 1.37e-3),
        (rossby_haurwitz, "williamson 6, day 10", 10, 9.0e-3),
    ],
)
def test_standard_cases_come_as_close_to_runs_at_t106_as_published_models(case, name, days, published):
    """At T21, of 484 coefficients; `benchmarks/shallow_water.py` has finer ones."""
    solver, state = case(T21, scheme="exponential")
    with np.load(REFERENCES) as kept:
        truth = torch.from_numpy(kept[name]).to(torch.complex128)
    final = solver.run(state, days * DAY)[-1]
    drift = solver.drift(state, final)
    assert abs(drift["mass"]) < 1e-12
    assert abs(drift["energy"]) < 5e-5
    assert abs(drift["potential_enstrophy"]) < 5e-4
    error = surface_error(solver, final, truth)
    assert error < published
    assert error < 0.2 * surface_error(solver, state, truth)  # and the flow has moved
    assert error > 1e-4  # further than rounding from a finer run


def test_errors_of_a_flow_over_a_mountain_fall_with_resolution():
    with np.load(REFERENCES) as kept:
        truth = torch.from_numpy(kept["williamson 5, day 15"]).to(torch.complex128)
    errors = []
    for nlat in (16, 32):
        solver, state = mountain(ga.grids.gaussian(nlat, 2 * nlat), scheme="exponential")
        errors.append(surface_error(solver, solver.run(state, 15 * DAY)[-1], truth))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("scheme", ["runge-kutta", "exponential"])
def test_a_lake_at_rest_over_a_mountain_stays_at_rest_with_hyperdiffusion_too(scheme):
    still = mountain(T10, damping_time=HOUR, scheme=scheme).solver
    depth = 5000.0 - still.orography
    state = still.from_wind(depth, torch.zeros_like(depth), torch.zeros_like(depth))
    final = still.run(state, DAY, time_step=1200.0)[-1]
    assert still.wind(final).abs().max() < 1e-9
    torch.testing.assert_close(final[0], state[0], rtol=1e-12, atol=1e-8)


def test_hyperdiffusion_damps_the_highest_degree_by_e_in_its_time_and_leaves_mass_alone():
    solver = ShallowWater(T10, planet=Planet(angular_velocity=0.0), damping_time=2 * HOUR)
    state = torch.zeros(3, 11, 11, dtype=torch.complex128)
    state[0, 0, 0] = 1000 * math.sqrt(4 * math.pi)
    state[1, 10, 3] = 1e-12  # too weak to advect anything
    final = solver.run(state, 2 * HOUR, time_step=600.0)[-1]
    assert float(final[1, 10, 3].real) == pytest.approx(1e-12 / math.e, rel=1e-9)
    assert final[0, 0, 0] == state[0, 0, 0]


def test_turning_the_sphere_about_its_axis_commutes_with_the_dynamics():
    solver = ShallowWater(T21)
    fields = solver.to_fields(random_balanced_states(solver, [0])[0])
    turned = torch.roll(fields, 11, dims=-1)
    final, turned_final = solver.to_fields(
        solver.run(solver.to_state(torch.stack((fields, turned))), 6 * HOUR, time_step=1200.0)[-1]
    )
    scale = fields.abs().amax((-2, -1), keepdim=True)
    torch.testing.assert_close(
        turned_final / scale, torch.roll(final, 11, dims=-1) / scale, rtol=0, atol=1e-11
    )


# --- the unstable jet -------------------------------------------------------------------------------


def test_galewsky_depth_by_quadrature_is_the_balanced_depth_of_the_equations():
    solver, state = galewsky_jet(ga.grids.gaussian(96, 192), perturbed=False)
    balanced = solver.harmonics.synthesise(solver.balanced_depth(state, 10_000.0))
    depth = solver.to_fields(state)[0]
    assert (balanced - depth).abs().max() < 0.01  # of a range of 1,087 m
    assert float(solver.grid.integrate(depth)) / (4 * math.pi) == pytest.approx(10_000.0, rel=1e-12)
    assert float(solver.wind(state)[0].max()) == pytest.approx(80.0, abs=1.0)


def test_galewsky_bump_is_120_m_on_the_jet_and_narrow_in_latitude():
    grid = ga.grids.gaussian(128, 256)
    rough, smooth = (galewsky_jet(grid, perturbed, truncation=85).state[0] for perturbed in (True, False))
    solver = ShallowWater(grid)
    bump = solver.harmonics.synthesise(rough - smooth)
    row, column = divmod(int(bump.argmax()), 256)
    assert column == 0
    assert grid.lat_axis[row] == pytest.approx(45, abs=1.5)
    lat = math.radians(grid.lat_axis[row])
    expected = 120 * math.cos(lat) * math.exp(-((15 * (math.pi / 4 - lat)) ** 2))
    assert float(bump.max()) == pytest.approx(expected, rel=0.01)
    # ∬ 120 cosφ e^(−9λ²) e^(−225(φ−π/4)²) cosφ dλ dφ, the cosines taken at 45° (0.2 % off)
    volume = 120 * 0.5 * math.pi / (3 * 15)
    assert float(grid.integrate(bump)) == pytest.approx(volume, rel=5e-3)


@pytest.mark.slow
def test_galewsky_jet_is_steady_when_balanced_and_unstable_when_perturbed():
    grid, options = ga.grids.gaussian(64, 128), {"dtype": torch.float32}
    solver, steady = galewsky_jet(grid, perturbed=False, **options)
    states = torch.stack((steady, galewsky_jet(grid, perturbed=True, **options).state))
    days = solver.run(states, 4 * DAY, save_every=DAY, time_step=solver.stable_time_step(states, 2.5))
    northward = solver.wind(days)[:, :, 1].abs().amax((-2, -1))
    moved = (solver.to_fields(days[-1, 0]) - solver.to_fields(days[0, 0]))[0].abs().max()
    assert northward[:, 0].max() < 0.01
    assert moved < 1.0  # of a range of 1,087 m
    assert (northward[2:, 1] > 2.5 * northward[1:-1, 1]).all()  # exponential growth, in less than a day
    assert northward[-1, 1] > 10.0
    assert torch.equal(days[-1, :, 0, 0, 0], days[0, :, 0, 0, 0])  # mass


# --- bad input --------------------------------------------------------------------------------------


def test_errors_quote_what_was_given():
    with pytest.raises(ValueError, match=r"truncation=40 does not fit Gaussian grid 32×64.*degrees 1 to 31"):
        ShallowWater(T21, truncation=40)
    with pytest.raises(ValueError, match=r"cell-centred has no harmonic transform.*ga.grids.gaussian"):
        ShallowWater(ga.grids.equiangular(32, 64, poles=False))
    with pytest.raises(ValueError, match=r"HEALPix.* has no harmonic transform.*ga.grids.gaussian"):
        ShallowWater(ga.grids.healpix(4))
    with pytest.raises(ValueError, match=r"damping_time=-1 must be positive seconds"):
        ShallowWater(T21, damping_time=-1)
    with pytest.raises(ValueError, match=r"dtype=torch.float16"):
        ShallowWater(T21, dtype=torch.float16)
    solver, state = steady_zonal_flow(T10)
    with pytest.raises(ValueError, match=r"seconds=10000 is not a whole number of intervals.*3600"):
        solver.run(state, 10_000, save_every=3600)
    with pytest.raises(FloatingPointError, match=r"steps of 86400 s: take a shorter time_step"):
        solver.run(state * 1.01, 20 * DAY, save_every=DAY, time_step=DAY)
