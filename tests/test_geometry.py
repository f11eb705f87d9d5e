"""The four settings of geometry: each step changes one thing."""

import numpy as np
import pytest

import geoattn as ga
from geoattn.tasks.geometry import SETTINGS, geometry, window_size

GRID = ga.grids.gaussian(24, 48)
RADIUS = 20.0


def keys(hood, row, column):
    indptr, indices = hood.to_csr()
    query = row * 48 + column
    return set(indices[indptr[query] : indptr[query + 1]].tolist())


def test_all_settings_live_on_the_grid_given_and_only_the_last_weighs_keys():
    made = [geometry(name, GRID, RADIUS) for name in SETTINGS]
    assert all(hood.query_grid == hood.key_grid == GRID for hood, _ in made)
    assert [weights for _, weights in made] == [None, None, None, "quadrature"]


def test_wrapping_adds_keys_across_the_seam_and_changes_nothing_elsewhere():
    plane, periodic = (geometry(name, GRID, RADIUS).hood for name in SETTINGS[:2])
    rows, columns = window_size(GRID, RADIUS)
    assert (rows, columns) == (5, 5)
    assert keys(plane, 12, 20) == keys(periodic, 12, 20)
    assert len(keys(plane, 12, 20)) == 25
    across = keys(periodic, 12, 0) - keys(plane, 12, 0)
    assert {key % 48 for key in across} == {46, 47}
    assert keys(plane, 12, 0) < keys(periodic, 12, 0)


def test_discs_see_over_the_poles_and_windows_do_not():
    window, disc = geometry("plane-periodic", GRID, RADIUS).hood, geometry("sphere", GRID, RADIUS).hood
    assert {key % 48 for key in keys(disc, 0, 0)} == set(range(48))
    assert len({key % 48 for key in keys(window, 0, 0)}) == 5
    assert geometry("sphere-unweighted", GRID, RADIUS).hood == disc


@pytest.mark.parametrize("radius", [10.0, 20.0, 30.0])
def test_windows_and_discs_have_the_same_area_at_the_equator(radius):
    grid = ga.grids.gaussian(96, 192)
    window, disc = (geometry(name, grid, radius).hood for name in ("plane", "sphere"))
    ratio = window.counts[48, 96] / disc.counts[48, 96]
    assert 0.85 < ratio < 1.15
    assert np.median(disc.counts) > 0


def test_coarser_grids_of_patches_have_the_settings_too():
    coarse = ga.nn.patches(GRID, 2).grid
    assert all(geometry(name, coarse, RADIUS).hood.query_grid == coarse for name in SETTINGS)


def test_other_settings_and_grids_are_refused():
    with pytest.raises(ValueError, match="geometry 'cylinder' is none of plane, plane-periodic"):
        geometry("cylinder", GRID, 10.0)
    with pytest.raises(TypeError, match="on lat-lon grids, and HEALPix"):
        geometry("sphere", ga.grids.healpix(4), 10.0)
