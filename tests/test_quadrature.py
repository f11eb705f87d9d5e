"""Quadrature rules in latitude against Legendre polynomials and torch-harmonics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import eval_legendre

from geoattn.grids import quadrature

RULES = {
    quadrature.gauss_legendre: lambda n: 2 * n - 1,
    quadrature.gauss_lobatto: lambda n: max(2 * n - 3, 1),
    quadrature.clenshaw_curtis: lambda n: n - 1 if n % 2 == 0 else n,  # odd degrees vanish by symmetry
    quadrature.fejer: lambda n: n - 1 if n % 2 == 0 else n,
}
rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)


def check(rule, n):
    lat, weights = rule(n)
    assert lat.shape == weights.shape == (n,)
    assert (np.diff(lat) < 0).all()
    assert np.abs(lat).max() <= 90.0
    np.testing.assert_array_equal(lat, -lat[::-1])
    np.testing.assert_array_equal(weights, weights[::-1])
    assert (weights > 0).all()
    assert np.isfinite(np.log(weights.astype(np.float32))).all()
    assert abs(weights.sum() - 2.0) < 1e-12


@rules
@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 400))
def test_every_size_gives_a_symmetric_rule_with_positive_weights(rule, n):
    check(rule, n)


@rules
@pytest.mark.parametrize("n", [721, 1280, 1281, 2560, 6000])
def test_large_rules_are_symmetric_with_positive_weights(rule, n):
    check(rule, n)


@rules
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 33, 160, 721, 2560])
def test_rule_is_exact_to_its_degree(rule, n):
    lat, weights = rule(n)
    z = np.sin(np.radians(lat))
    degree = RULES[rule](n)
    for k in {0, 1, 2, degree // 2, degree - 1, degree}:
        if 0 <= k <= degree:
            assert abs(weights @ eval_legendre(k, z) - 2.0 * (k == 0)) < 1e-12, k


@rules
@pytest.mark.parametrize("n", [2, 3, 8, 33])
def test_rule_is_not_exact_one_degree_further(rule, n):
    lat, weights = rule(n)
    degree = RULES[rule](n) + 1
    assert abs(weights @ eval_legendre(degree, np.sin(np.radians(lat)))) > 1e-6


@pytest.mark.parametrize("n", [2, 3, 17, 32, 181])
@pytest.mark.parametrize(
    ("rule", "witness"),
    [
        (quadrature.gauss_legendre, "legendre_gauss_weights"),
        (quadrature.gauss_lobatto, "lobatto_weights"),
        (quadrature.clenshaw_curtis, "clenshaw_curtiss_weights"),
    ],
    ids=["gauss_legendre", "gauss_lobatto", "clenshaw_curtis"],
)
def test_agrees_with_torch_harmonics(rule, witness, n):
    torch_quadrature = pytest.importorskip("torch_harmonics.quadrature", reason="needs torch-harmonics")
    z, weights = (np.asarray(a, dtype=np.float64) for a in getattr(torch_quadrature, witness)(n, -1, 1))
    lat, ours = rule(n)
    np.testing.assert_allclose(np.sort(np.sin(np.radians(lat))), np.sort(z), atol=1e-12)
    np.testing.assert_allclose(ours, weights, atol=1e-12)


def test_gauss_legendre_is_fast_at_the_largest_rows_in_use():
    """One vectorised recurrence per step: a budget far above the measured time, far below O(n³)."""
    import time

    start = time.perf_counter()
    quadrature.gauss_legendre(2560)
    assert time.perf_counter() - start < 5.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-9000, 9000), min_size=1, max_size=50, unique=True), st.booleans())
def test_midpoint_zones_cover_the_sphere_for_any_rows(hundredths, south_first):
    lat = np.sort(np.array(hundredths) / 100.0)
    lat = lat if south_first else lat[::-1]
    weights = quadrature.midpoint_cells(lat)
    assert (weights > 0).all()
    assert abs(weights.sum() - 2.0) < 1e-12
    np.testing.assert_allclose(quadrature.midpoint_cells(lat[::-1]), weights[::-1], rtol=1e-12)


def test_midpoint_zones_of_cell_centres_are_the_exact_zones():
    lat = 89.5 - np.arange(180)
    edges = np.sin(np.radians(90.0 - np.arange(181)))
    np.testing.assert_allclose(quadrature.midpoint_cells(lat), edges[:-1] - edges[1:], rtol=1e-9)
