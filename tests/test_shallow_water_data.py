"""Random balanced flows, and their trajectories."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.tasks.shallow_water import (
    ShallowWater,
    filter_gravity_waves,
    generate_trajectories,
    ground_height,
    random_balanced_states,
)

GRID = ga.grids.gaussian(24, 48)
SMALL = {"count": 2, "steps": 2, "dt_hours": 3.0, "filter_hours": 6.0}


def test_random_states_have_the_wind_asked_for_and_no_tendency_of_divergence():
    solver = ShallowWater(GRID)
    states = random_balanced_states(solver, range(4), wind_speed=(15.0, 15.0), mean_depth=6000.0)
    speed = (GRID.integrate(solver.wind(states).square().sum(-3)) / (4 * math.pi)).sqrt()
    torch.testing.assert_close(speed, torch.full_like(speed, 15.0))
    fields = solver.to_fields(states)
    assert fields[:, 2].abs().max() == 0
    assert fields[:, 0].min() > 0
    torch.testing.assert_close(GRID.integrate(fields[:, 0]) / (4 * math.pi), torch.full_like(speed, 6000.0))
    tendency = solver.tendency(states)
    assert tendency[:, 2].abs().max() < 1e-10 * tendency[:, 1].abs().max()
    assert tendency[:, 1].abs().max() > 0


def test_balanced_flows_radiate_less_than_the_same_winds_over_a_level_surface():
    solver = ShallowWater(GRID)
    balanced = random_balanced_states(solver, [5])
    level = balanced.clone()
    level[:, 0, 1:] = 0
    finals = solver.run(torch.stack((balanced, level)), 6 * 3600.0, time_step=1200.0)[-1]
    quiet, loud = finals[:, 0, 2].abs().square().sum((-2, -1)).sqrt()
    assert quiet < 0.2 * loud


def test_filtered_flows_have_a_divergence_that_stays_and_the_vorticity_they_had():
    solver = ShallowWater(GRID)
    raw = random_balanced_states(solver, [5])[0]
    raw = solver.run(raw, 12 * 3600.0, time_step=1900.0)[-1]
    filtered = filter_gravity_waves(solver, random_balanced_states(solver, [5])[0], 24.0, time_step=1900.0)
    start, end = solver.to_fields(
        solver.run(torch.stack((raw, filtered)), 3 * 3600.0, time_step=1800.0)[[0, -1]]
    ).unbind()

    def norm(fields):
        return GRID.integrate(fields.square()).sqrt()

    change = norm(end - start)[:, 2] / norm(start)[:, 2]
    assert change[0] > 0.7
    assert change[1] < 0.5
    assert norm(start[1] - start[0])[1] < 0.2 * norm(start[0])[1]
    assert filtered[0, 0, 0].real == pytest.approx(float(raw[0, 0, 0].real), rel=1e-12)


def test_a_state_depends_on_its_own_seed_and_not_on_the_truncation():
    coarse, fine = ShallowWater(GRID), ShallowWater(ga.grids.gaussian(48, 96))
    first, second = (random_balanced_states(coarse, seeds)[-1] for seeds in ([7], [1, 7]))
    torch.testing.assert_close(first, second, rtol=1e-12, atol=0)
    finer = random_balanced_states(fine, [7], peak_degree=4.0)[0, 1, :16, :16]
    coarser = random_balanced_states(coarse, [7], peak_degree=4.0)[0, 1]
    torch.testing.assert_close(finer, coarser, rtol=1e-5, atol=1e-12)


def test_trajectories_are_float32_finite_repeatable_and_continued_by_first():
    fields = generate_trajectories(GRID, seed=3, **SMALL)
    assert fields.shape == (2, 3, 3, 24, 48)
    assert fields.dtype == torch.float32
    assert torch.isfinite(fields).all()
    assert torch.equal(fields, generate_trajectories(GRID, seed=3, **SMALL))
    second = generate_trajectories(GRID, seed=3, first=1, **{**SMALL, "count": 1})
    scale = fields.std((0, 1, 3, 4), keepdim=True)
    torch.testing.assert_close(second / scale, fields[1:] / scale, rtol=1e-5, atol=1e-3)
    assert not torch.allclose(fields[0, 0], fields[1, 0])
    assert not torch.equal(fields, generate_trajectories(GRID, seed=4, **SMALL))


def test_single_precision_trajectories_follow_those_in_double_precision():
    single, double = (generate_trajectories(GRID, dtype=d, **SMALL) for d in (torch.float32, torch.float64))
    scale = double.std((0, 1, 3, 4), keepdim=True)
    assert ((single - double) / scale).abs().max() < 2e-3


def test_trajectories_keep_their_mass():
    fields = generate_trajectories(GRID, dtype=torch.float64, **SMALL).double()
    mean = GRID.integrate(fields[:, :, 0]) / (4 * math.pi)
    torch.testing.assert_close(mean, torch.full_like(mean, 8000.0), rtol=1e-7, atol=0)  # float32 output


def test_errors_quote_what_was_given():
    with pytest.raises(ValueError, match=r"count=0, steps=2 and dt_hours=3.0 must all be positive"):
        generate_trajectories(GRID, **{**SMALL, "count": 0})
    with pytest.raises(ValueError, match=r"wind_speed=\(300.0, 300.0\) m/s balance a depth of -"):
        random_balanced_states(ShallowWater(GRID), [0], wind_speed=(300.0, 300.0))


def test_a_level_surface_over_the_relief_of_a_file_stays_at_rest(tmp_path):
    boxes = np.zeros((36, 72))
    boxes[6:12, 40:50], boxes[20:, 10:14] = 1.0, 0.4  # shares of land
    np.save(tmp_path / "land.npy", boxes)
    grid = ga.grids.gaussian(24, 48)
    heights = ground_height(grid, str(tmp_path / "land.npy"), 1500.0)
    given = ga.grids.equiangular(36, 72, poles=False, lon_start=-177.5)
    expected = 1500 * (boxes * given.cell_areas).sum()
    assert float((heights.numpy() * grid.cell_areas).sum()) == pytest.approx(expected, rel=1e-10)
    assert (
        1400 < heights[torch.from_numpy((abs(grid.lat - 45) < 5) & (abs(grid.lon - 45) < 10))].min() <= 1500
    )
    solver = ShallowWater(grid, orography=heights)
    level = torch.stack((8000 - solver.orography, *torch.zeros(2, *grid.shape, dtype=torch.float64)))
    start = solver.to_state(level)
    end = solver.run(start, 6 * 3600.0)[-1]
    torch.testing.assert_close(solver.to_fields(end), level, rtol=0, atol=1e-6)


def test_flows_go_around_what_is_in_their_way():
    settings = SMALL | {"filter_hours": 0.0}
    ground = ground_height(GRID, "mountain")
    over, without = (generate_trajectories(GRID, seed=3, orography=o, **settings) for o in (ground, None))
    there = ground > 1200
    surface, level = over[:, 0, 0] + ground, without[:, 0, 0]
    assert (over[:, 0, 0] - without[:, 0, 0])[:, there].mean() < -1000
    assert (surface - level)[:, there].abs().mean() < 300
    assert not torch.allclose(over[:, -1, 1], without[:, -1, 1], atol=1e-7)


def test_ground_that_is_not_there_is_named_with_what_keeps_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no ground 'hills': it is 'mountain'"):
        ground_height(GRID, "hills")
    np.save(tmp_path / "holes.npy", np.full((4, 8), np.nan))
    with pytest.raises(ValueError, match=r"got float64 \[4, 8\] with 32 that are not finite"):
        ground_height(GRID, str(tmp_path / "holes.npy"))
