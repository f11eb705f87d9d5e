"""Refinement: attention on a grid converges to the integral over the domain, at the rule's own pace.

Queries, keys and values are smooth functions of position. The integral is known from a much finer
Gaussian grid; a sphere's quadrature is spectrally exact there.
"""

import math

import numpy as np
import pytest
import torch

import geoattn as ga

SCALE = 0.7


def fields(points):
    """Smooth query, key and value fields at unit vectors ``[n, 3]``, as ``[1, n, 1, 2]``."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    query = np.stack((1 + x * z, y - z), -1)
    key = np.stack((2 * z + x * y, x - y * y), -1)
    value = np.stack((x + z * z, np.exp(y)), -1)
    return tuple(torch.tensor(f)[None, :, None, :] for f in (query, key, value))


def attend(query_grid, hood, key_weights="quadrature"):
    query, _, _ = fields(query_grid.xyz.reshape(-1, 3))
    _, key, value = fields(hood.key_grid.xyz.reshape(-1, 3))
    shape = (hood.query_grid.shape, hood.key_grid.shape, hood.key_grid.shape)
    query, key, value = (f.reshape(1, *s, 1, 2) for f, s in zip((query, key, value), shape, strict=True))
    return ga.attention(query, key, value, hood, scale=SCALE, key_weights=key_weights, return_lse=True)


QUERIES = ga.grids.points([90.0, 61.3, 7.7, -12.9, -88.8], [0.0, 10.1, 200.2, 359.9, 45.0], areas=np.ones(5))
EXACT = ga.everything(QUERIES, ga.grids.gaussian(64, 128))


def errors(grids, key_weights="quadrature"):
    exact = attend(QUERIES, EXACT)[0]
    return [
        (attend(QUERIES, ga.everything(QUERIES, grid), key_weights)[0] - exact).abs().max().item()
        for grid in grids
    ]


def test_spectral_rules_converge_faster_than_any_power():
    for rule in (ga.grids.gaussian, ga.grids.lobatto, ga.grids.equiangular):
        coarse, medium, fine = errors([rule(n, 2 * n) for n in (5, 9, 17)])
        assert medium < coarse / 20
        assert fine < 1e-7


@pytest.mark.parametrize(
    ("grids", "order"),
    [
        ([ga.grids.healpix(n) for n in (4, 8, 16)], 1.8),
        ([ga.grids.icosahedral(level) for level in (2, 3, 4)], 1.8),
        ([ga.grids.cubed_sphere(n) for n in (6, 12, 24)], 1.8),
    ],
    ids=["HEALPix", "icosahedral", "cubed sphere"],
)
def test_cell_areas_converge_at_second_order(grids, order):
    coarse, medium, fine = errors(grids)
    assert math.log2(medium / fine) > order
    assert math.log2(coarse / medium) > order


def test_equal_weights_on_a_lat_lon_grid_converge_to_something_else():
    unweighted = errors([ga.grids.gaussian(n, 2 * n) for n in (8, 16, 32)], key_weights=None)
    assert min(unweighted) > 0.05


def test_every_grid_converges_to_the_same_disc():
    """A disc's edge cuts cells, so convergence is of first order, whatever the grid."""
    radius = 40.0
    exact, exact_lse = attend(QUERIES, ga.geodesic(QUERIES, ga.grids.gaussian(400, 800), radius=radius))
    for family in (
        [ga.grids.gaussian(n, 2 * n) for n in (16, 128)],
        [ga.grids.healpix(n) for n in (8, 64)],
        [ga.grids.icosahedral(level) for level in (3, 5)],
    ):
        found = [attend(QUERIES, ga.geodesic(QUERIES, grid, radius=radius)) for grid in family]
        error = [(out - exact).abs().max().item() for out, _ in found]
        error_lse = [(lse - exact_lse).abs().max().item() for _, lse in found]
        assert error[-1] < error[0] / 3
        assert error_lse[-1] < error_lse[0] / 3
        assert error[-1] < 0.01


def test_lse_of_constant_scores_is_the_logarithm_of_the_area():
    radius = 30.0
    grid = ga.grids.gaussian(180, 360)
    hood = ga.geodesic(QUERIES, grid, radius=radius)
    zeros = torch.zeros(1, *grid.shape, 1, 1, dtype=torch.float64)
    _, lse = ga.attention(zeros.new_zeros(1, 5, 1, 1), zeros, zeros, hood, return_lse=True)
    area = 2 * math.pi * (1 - math.cos(math.radians(radius)))
    torch.testing.assert_close(lse.exp(), torch.full_like(lse, area), rtol=1.5e-2, atol=0)
