"""The six settings of geometry: what each changes, and what it leaves alone."""

import pytest

import geoattn as ga
from geoattn.tasks.geometry import SETTINGS, geometry, holding, reaching

GRID = ga.grids.gaussian(24, 48)
RADIUS = 20.0


def keys(hood, row, column):
    indptr, indices = hood.to_csr()
    query = row * 48 + column
    return set(indices[indptr[query] : indptr[query + 1]].tolist())


def test_all_settings_live_on_the_grid_given_and_only_the_last_weighs_keys():
    made = [geometry(name, GRID, RADIUS) for name in SETTINGS]
    assert all(hood.query_grid == hood.key_grid == GRID for hood, _ in made)
    assert [weights for _, weights in made] == [None] * 5 + ["quadrature"]


@pytest.mark.parametrize("kind", ["", "-reach"])
def test_wrapping_adds_keys_across_the_seam_and_changes_nothing_elsewhere(kind):
    plane, periodic = (geometry(name + kind, GRID, RADIUS).hood for name in ("plane", "plane-periodic"))
    side = 5 if kind else 7
    assert keys(plane, 12, 20) == keys(periodic, 12, 20)
    assert len(keys(plane, 12, 20)) == side**2
    across = keys(periodic, 12, 0) - keys(plane, 12, 0)
    assert {key % 48 for key in across} == set(range(48 - side // 2, 48))
    assert keys(plane, 12, 0) < keys(periodic, 12, 0)


def test_discs_see_over_the_poles_and_windows_do_not():
    window, disc = geometry("plane-periodic", GRID, RADIUS).hood, geometry("sphere", GRID, RADIUS).hood
    assert {key % 48 for key in keys(disc, 0, 0)} == set(range(48))
    assert len({key % 48 for key in keys(window, 0, 0)}) == 7
    assert geometry("sphere-unweighted", GRID, RADIUS).hood == disc


@pytest.mark.parametrize(
    "grid", [GRID, ga.grids.equiangular(16, 32, poles=False), ga.grids.gaussian(64, 128)]
)
@pytest.mark.parametrize("radius", [15.0, 25.0, 30.0])
@pytest.mark.parametrize("name", ["plane", "plane-periodic"])
def test_windows_hold_as_many_keys_as_discs_in_the_mean_over_all_queries(name, radius, grid):
    window, disc = (geometry(setting, grid, radius).hood for setting in (name, "sphere"))
    assert window.counts.mean() == pytest.approx(disc.counts.mean(), rel=0.14)


@pytest.mark.parametrize("radius", [7.4, 7.6, 20.0, 25.0, 40.0])
def test_windows_of_reach_end_where_discs_end_at_the_equator(radius):
    grid = ga.grids.equiangular(25, 48)  # a row on the equator, and as many degrees between rows and columns
    for name in ("plane-reach", "plane-periodic-reach"):
        window, disc = (geometry(setting, grid, radius).hood for setting in (name, "sphere"))
        seen = [keys(hood, 12, 20) for hood in (window, disc)]
        for along in (lambda key: key // 48, lambda key: key % 48):  # rows of the column, columns of the row
            window_line, disc_line = ({along(key) for key in some} for some in seen)
            assert window_line == disc_line


def test_windows_take_whole_rows_and_columns_at_most():
    grid = ga.grids.equiangular(4, 8, poles=False)
    assert reaching(grid, 170.0) == (7, 7)
    assert holding(grid, 1e3, wraps=False) == (7, 15)
    assert holding(grid, 1e3, wraps=True) == (7, 7)
    assert holding(grid, 1.0, wraps=False) == (1, 1)


def test_coarser_grids_of_patches_have_the_settings_too():
    coarse = ga.nn.patches(GRID, 2).grid
    assert all(geometry(name, coarse, RADIUS).hood.query_grid == coarse for name in SETTINGS)


def test_other_settings_and_grids_are_refused():
    with pytest.raises(ValueError, match="geometry 'cylinder' is none of plane, plane-reach, plane-periodic"):
        geometry("cylinder", GRID, 10.0)
    with pytest.raises(TypeError, match="on lat-lon grids, and HEALPix"):
        geometry("sphere", ga.grids.healpix(4), 10.0)
