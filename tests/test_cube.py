"""FV3's cubed sphere: its corners by the steps of FV3's own sources, and what those say of it."""

import numpy as np
import pytest

import geoattn as ga
from geoattn.grids.polygons import signed_areas
from geoattn.grids.sphere import unit_vectors


def turned(axis, points, degrees):
    """rot_3d of fv_grid_tools.F90."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x, y, z = np.moveaxis(points, -1, 0)
    rotated = {1: (x, c * y + s * z, c * z - s * y), 2: (c * x - s * z, y, s * x + c * z)}
    return np.stack(rotated.get(axis, (c * x + s * y, c * y - s * x, z)), -1)


def fv3(n):
    """Where cells meet, ``[tile, j, i, 3]``: gnomonic_ed by latitudes of an edge, then mirror_grid."""
    alpha = np.arcsin(1 / np.sqrt(3))
    edge = unit_vectors(np.degrees(np.linspace(-alpha, alpha, n + 1)), np.full(n + 1, 135.0))
    heights = -edge[:, 2] / edge[:, 0] / np.sqrt(3)  # on the face x = -1/√3
    face = np.stack(np.broadcast_arrays(-1 / np.sqrt(3), -heights[None], heights[:, None]), -1)
    face /= np.linalg.norm(face, axis=-1, keepdims=True)
    one = face * [-1, -1, -1]  # lon - π, and FV3's z points south while it turns tiles
    tiles = [
        one,
        turned(3, one, -90),
        turned(1, turned(3, one, -90), 90),
        turned(1, turned(3, one, -180), 90),
        turned(2, turned(3, one, 90), 90),
        turned(2, one, 90),
    ]
    return turned(3, np.stack(tiles) * [1, 1, -1], 10)  # grid_global - pi / 18


@pytest.mark.parametrize("n", [1, 6, 48])
def test_corners_and_centres_are_those_of_fv3(n):
    grid, meeting = ga.grids.cubed_sphere(n, "equal-edge"), fv3(n)
    around = [meeting[:, :-1, :-1], meeting[:, :-1, 1:], meeting[:, 1:, 1:], meeting[:, 1:, :-1]]
    np.testing.assert_allclose(grid.corners, np.stack(around, 3), atol=1e-14)
    centres = sum(around)  # cell_center2
    np.testing.assert_allclose(
        grid.xyz, centres / np.linalg.norm(centres, axis=-1, keepdims=True), atol=1e-14
    )
    np.testing.assert_allclose(grid.weights, np.abs(signed_areas(grid.corners)), rtol=1e-10)
    np.testing.assert_allclose(grid.weights.sum(), 4 * np.pi, rtol=1e-13)


def test_spacings_are_the_published_ones():
    """The header of gnomonic_ed: ratio √2, aspect at most 1.06089, 3.921 and 5.545 km for C2000."""
    corners = ga.grids.cubed_sphere(400, "equal-edge").corners[0]
    side = [
        2 * np.arcsin(np.linalg.norm(corners[..., k, :] - corners[..., k - 1, :], axis=-1) / 2)
        for k in (1, 2)
    ]
    assert max(s.max() for s in side) / min(s.min() for s in side) == pytest.approx(np.sqrt(2), rel=1e-4)
    aspect = side[0] / side[1]
    assert max(aspect.max(), 1 / aspect.min()) == pytest.approx(1.06089, abs=1e-3)
    kilometres = 6371.2 * 400 / 2000
    assert min(s.min() for s in side) * kilometres == pytest.approx(3.921, abs=2e-3)
    assert max(s.max() for s in side) * kilometres == pytest.approx(5.545, abs=2e-3)


def test_tiles_lie_where_fv3_has_them():
    grid = ga.grids.cubed_sphere(3, "equal-edge")
    np.testing.assert_allclose(grid.lat[:, 1, 1], [0, 0, 90, 0, 0, -90], atol=1e-12)
    np.testing.assert_allclose(grid.lon[[0, 1, 3, 4], 1, 1], [350, 80, 170, 260])
    assert (grid.lat[0, 0] < 0).all()  # j from south to north on tile 1
    assert (np.diff(grid.lon[1, 1]) > 0).all()  # i eastward on tile 2
    assert (np.diff(grid.lat[3, 1]) < 0).all()  # i southward on tile 4


@pytest.mark.parametrize("kind", ["equiangular", "equal-edge"])
def test_cells_that_share_a_side_are_edges(kind):
    grid = ga.grids.cubed_sphere(8, kind)
    found = {tuple(e) for e in grid.edges}
    sides = {}
    for token, corners in enumerate(np.round(grid.corners.reshape(-1, 4, 3), 9) + 0.0):
        for k in range(4):
            sides.setdefault(frozenset((tuple(corners[k]), tuple(corners[k - 1]))), []).append(token)
    assert found == {tuple(sorted(pair)) for pair in sides.values()}


def test_patches_are_the_coarser_grid():
    fine = ga.grids.cubed_sphere(8, "equal-edge")
    coarse, members = ga.grids.patches(fine, 2)
    assert coarse == ga.grids.cubed_sphere(4, "equal-edge")
    np.testing.assert_allclose(fine.weights.ravel()[members].sum(1), coarse.weights.ravel(), rtol=1e-12)


def test_names_tell_which_cube():
    assert ga.grids.named("c96-equiangular") == ga.grids.cubed_sphere(96)
    assert ga.grids.named("fv3-c96") == ga.grids.cubed_sphere(96, "equal-edge", -10)
    with pytest.raises(ValueError, match=r"no grid named 'c96'; near it: c96-equiangular, c96-fv3, "):
        ga.grids.named("c96")


def test_other_kinds_are_refused():
    with pytest.raises(ValueError, match='kind must be "equiangular" or "equal-edge", got \'conformal\''):
        ga.grids.cubed_sphere(4, "conformal")
    with pytest.raises(ValueError, match="rotation must be finite"):
        ga.grids.cubed_sphere(4, rotation=np.inf)
