"""Attention on a grid against attention on the sphere: turned exactly, refined with fixed weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

import geoattn as ga
from geoattn.tasks.equivariance import (
    BandLimitedAttention,
    Cap,
    continuous,
    equivariance_error,
    equivariance_errors_in,
    order_of_convergence,
    refinement_error,
    relative_error,
)

GLOBAL, DISC = BandLimitedAttention(), BandLimitedAttention(radius=60.0)
LAT_LON = [ga.grids.equiangular(n, 2 * n, poles=False) for n in (8, 16, 32)]
HEALPIX = [ga.grids.healpix(n) for n in (4, 8, 16)]
CUBE = [ga.grids.cubed_sphere(n) for n in (4, 8, 16)]
ICOSAHEDRAL = [ga.grids.icosahedral(level) for level in (1, 2, 3)]
TURN = Rotation.from_rotvec([0.7, 0.4, -0.9]).as_matrix()


def order(layer, grids, **options):
    errors = [equivariance_error(layer, grid, TURN, **options) for grid in grids]
    return order_of_convergence([g.size for g in grids], errors), errors


# rotations ------------------------------------------------------------------------------------


def test_global_attention_with_quadrature_is_equivariant_to_rounding_on_a_lat_lon_grid():
    errors = [equivariance_error(GLOBAL, grid, TURN) for grid in LAT_LON]
    assert errors[0] < 0.1
    assert errors[1] < 1e-3
    assert errors[2] < 1e-6


def test_without_weights_lat_lon_grids_do_not_become_equivariant():
    for layer in (GLOBAL, DISC):
        rate, errors = order(layer, LAT_LON, key_weights=None)
        assert abs(rate) < 0.2
        assert min(errors) > 0.3


def test_cells_of_equal_area_need_no_weights():
    for layer in (GLOBAL, DISC):
        weighted, unweighted = (order(layer, HEALPIX, key_weights=w)[1] for w in ("quadrature", None))
        np.testing.assert_allclose(weighted, unweighted, rtol=1e-6)
        assert weighted[-1] < 0.02


def test_healpix_becomes_equivariant_at_second_order_over_all_keys():
    assert order(GLOBAL, HEALPIX)[0] == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("grids", [CUBE, ICOSAHEDRAL], ids=["cube", "icosahedral"])
def test_other_grids_become_equivariant_over_all_keys(grids):
    rate, errors = order(GLOBAL, grids)
    assert rate > 1.7
    assert errors[-1] < 0.01


@pytest.mark.parametrize("grids", [LAT_LON, HEALPIX], ids=["lat-lon", "HEALPix"])
def test_discs_become_equivariant_at_the_order_of_points_near_an_edge(grids):
    """A disc's edge keeps or drops cells as if by chance: spacing to the power 3/2."""
    assert order(DISC, grids)[0] == pytest.approx(1.5, abs=0.35)


@pytest.mark.parametrize("grids", [LAT_LON, HEALPIX, CUBE, ICOSAHEDRAL], ids=lambda grids: repr(grids[0]))
def test_a_bias_by_angle_is_kept_by_rotations_and_one_by_bearing_is_not(grids):
    by_angle, by_bearing = (BandLimitedAttention(radius=60.0, bins=4, sectors=s) for s in (1, 6))
    rate, errors = order(by_angle, grids)
    assert rate > 0.9
    assert errors[-1] < 0.15
    rate, errors = order(by_bearing, grids)
    assert errors[-1] > 0.3


def test_in_a_region_only_the_rim_breaks_equivariance():
    layer, region, queries = (
        BandLimitedAttention(radius=20.0),
        Cap(-25.0, 20.0, 65.0),
        ga.grids.icosahedral(3),
    )
    for grids in (LAT_LON, HEALPIX):
        found = [equivariance_errors_in(layer, grid, TURN, region, queries) for grid in grids]
        inside, rim = zip(*found, strict=True)
        assert order_of_convergence([g.size for g in grids], inside) > 1.1
        assert rim[-1] > 4 * inside[-1]
        assert rim[-1] > 0.5 * rim[-2]
    globe = equivariance_error(layer, LAT_LON[-1], TURN, queries=queries)
    assert 0.5 < equivariance_errors_in(layer, LAT_LON[-1], TURN, region, queries)[0] / globe < 2


def test_the_depth_in_a_cap_is_the_angle_to_its_rim():
    cap = Cap(90.0, 0.0, 30.0)
    xyz = ga.grids.points([90.0, 70.0, 60.0, -90.0], [0.0, 5.0, 77.0, 0.0], areas=np.ones(4)).xyz
    np.testing.assert_allclose(cap.depth(xyz), [30.0, 10.0, 0.0, -150.0], atol=1e-6)
    assert cap.part(ga.grids.gaussian(32, 64)).size == 5 * 64


def test_a_region_needs_a_disc_and_queries_of_both_kinds():
    with pytest.raises(ValueError, match="radius=None sees the whole sphere"):
        equivariance_errors_in(GLOBAL, LAT_LON[0], TURN, Cap(0.0, 0.0, 60.0))
    with pytest.raises(ValueError, match=r"0 of \d+ queries lie 60\.0° or more inside"):
        equivariance_errors_in(DISC, LAT_LON[0], TURN, Cap(0.0, 0.0, 50.0))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_any_rotation_commutes_with_global_attention(seed):
    rotation = Rotation.random(None, np.random.default_rng(seed)).as_matrix()
    layer = BandLimitedAttention(degree=3, seed=seed, sharpness=0.5)
    assert equivariance_error(layer, LAT_LON[2], rotation) < 1e-6


# refinement -----------------------------------------------------------------------------------


def test_refinement_converges_to_the_continuous_layer_at_each_rules_order():
    exact = continuous(GLOBAL, 48)
    assert refinement_error(GLOBAL, LAT_LON[2], exact) < 1e-7
    assert refinement_error(GLOBAL, LAT_LON[2], exact, key_weights=None) > 0.1
    errors = [refinement_error(GLOBAL, grid, exact) for grid in HEALPIX]
    assert order_of_convergence([g.size for g in HEALPIX], errors) == pytest.approx(2.0, abs=0.2)


def test_refinement_of_a_disc_converges_on_weighted_grids_only():
    exact = continuous(DISC, 96)
    for grids in (LAT_LON, HEALPIX):
        errors = [refinement_error(DISC, grid, exact) for grid in grids]
        assert order_of_convergence([g.size for g in grids], errors) > 1.1
    assert refinement_error(DISC, LAT_LON[2], exact, key_weights=None) > 0.2


def test_the_order_is_the_slope_against_spacing():
    assert order_of_convergence([100, 400, 1600], [1.0, 0.25, 0.0625]) == pytest.approx(2.0)
    x = torch.randn(50, 4, dtype=torch.float64)
    assert relative_error(x, x) == 0.0
    assert relative_error(x.mean(0).expand_as(x), x) == pytest.approx(1.0)


# exact symmetries -----------------------------------------------------------------------------

QUARTER = Rotation.from_euler("z", 90, degrees=True).as_matrix()
TUMBLE = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # x → z → y → x
MIRROR = np.diag([1.0, 1.0, -1.0])
FIFTH = Rotation.from_rotvec(np.radians(72) * ga.grids.icosahedral(0).xyz.reshape(-1, 3)[0]).as_matrix()


@pytest.mark.parametrize(
    ("grid", "symmetry"),
    [
        (ga.grids.equiangular(8, 16, poles=False), QUARTER),
        (ga.grids.gaussian(8, 16), MIRROR),
        (ga.grids.healpix(4), QUARTER),
        (ga.grids.healpix(4), MIRROR),
        (ga.grids.cubed_sphere(6), QUARTER),
        (ga.grids.cubed_sphere(6), TUMBLE),
        (ga.grids.icosahedral(2), FIFTH),
    ],
    ids=lambda x: repr(x) if isinstance(x, ga.grids.Grid) else "",
)
@pytest.mark.parametrize("radius", [None, 35.0])
def test_the_layer_commutes_with_every_symmetry_of_its_grid(grid, symmetry, radius):
    points = grid.xyz.reshape(-1, 3)
    distance, image = cKDTree(points).query(points @ symmetry.T)
    assert distance.max() < 1e-9, "no symmetry of this grid"
    hood = ga.everything(grid) if radius is None else ga.geodesic(grid, radius=radius)
    torch.manual_seed(0)
    layer = ga.nn.Attention(16, 2, hood, qk_norm=True).double()
    x = torch.randn(grid.size, 16, dtype=torch.float64)
    turned = torch.empty_like(x)
    turned[image] = x
    out = layer(x.reshape(1, *grid.shape, 16)).reshape(-1, 16)
    out_of_turned = layer(turned.reshape(1, *grid.shape, 16)).reshape(-1, 16)
    torch.testing.assert_close(out_of_turned[image], out, rtol=0, atol=1e-10)
