"""Pictures show the keys that a query sees, no more and no fewer."""

import numpy as np
import pytest

import geoattn as ga
from geoattn.plot.neighborhoods import QUERY, SEEN

matplotlib = pytest.importorskip("matplotlib", reason="pictures need matplotlib")
matplotlib.use("Agg")

TIME = ga.grids.cartesian(5)
PLANE = ga.grids.cartesian((6, 8), spacing=(2.0, 1.0))
SPHERE = ga.grids.healpix(8)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def dots(ax, color):
    """Positions of the dots of one color, ``[n, 2]``; rings count by their edge."""
    rgb = matplotlib.colors.to_rgba(color)
    groups = [c for c in ax.collections if len(c.get_edgecolors()) or len(c.get_facecolors())]
    chosen = [
        c for c in groups if any(np.allclose(e, rgb) for e in (*c.get_edgecolors(), *c.get_facecolors()))
    ]
    return np.concatenate([np.empty((0, 2)), *(np.asarray(c.get_offsets()) for c in chosen)])


def test_a_plane_is_drawn_as_cells():
    ax = ga.picture(ga.window(PLANE, 3), (0, 7))
    cells = ax.images[0].get_array()
    expected = np.zeros((6, 8))
    expected[:3, 5:] = 1
    assert np.array_equal(cells, expected)
    assert ax.images[0].get_extent() == [0, 8, 12, 0]  # in units of the spacing
    assert np.allclose(dots(ax, QUERY), [[7.5, 1.0]])


def test_a_line_is_drawn_as_a_strip():
    ax = ga.picture(ga.window(TIME, 3, causal=True), 4)
    assert ax.images[0].get_array().tolist() == [[0, 0, 1, 1, 1]]
    assert "3 keys" in ax.get_title()


@pytest.mark.parametrize("radius", [10.0, 50.0, 89.0])
def test_a_sphere_is_seen_from_above_the_query(radius):
    ax = ga.picture(ga.geodesic(SPHERE, radius=radius), 100)
    seen = dots(ax, SEEN)
    assert len(seen) == ga.geodesic(SPHERE, radius=radius).counts[100]
    assert np.hypot(*seen.T).max() <= np.sin(np.radians(radius)) * (1 + 1e-9)
    assert np.allclose(dots(ax, QUERY), 0.0)


def test_poles_have_a_view_of_their_own():
    grid = ga.grids.equiangular(19, 36)
    for query in ((0, 0), (18, 20)):
        ax = ga.picture(ga.geodesic(grid, radius=25.0), query)
        assert len(dots(ax, SEEN)) == 3 * 36


def test_north_is_up_and_east_is_right():
    grid = ga.grids.equiangular(19, 36)
    ax = ga.picture(ga.window(grid, (2, 2)), (9, 9))  # one key north, one west, one north-west, itself
    seen = np.round(dots(ax, SEEN), 6)
    step = np.round(np.sin(np.radians(10)), 6)
    assert {(0.0, 0.0), (0.0, step), (-step, 0.0)} <= {(x + 0.0, y + 0.0) for x, y in seen.tolist()}


def test_each_slice_of_a_product_is_a_panel():
    hood = ga.product(ga.window(TIME, 3, causal=True), ga.geodesic(SPHERE, radius=20.0))
    panels = ga.picture(hood, (3, 100))
    assert [len(dots(ax, SEEN)) for ax in panels] == [ga.geodesic(SPHERE, radius=20.0).counts[100]] * 3
    assert ["slice (1,)" in panels[0].get_title(), "slice (3,)" in panels[2].get_title()] == [True, True]
    swapped = ga.picture(
        ga.product(ga.geodesic(SPHERE, radius=20.0), ga.window(TIME, 3, causal=True)), (100, 3)
    )
    assert [len(dots(ax, SEEN)) for ax in swapped] == [len(dots(ax, SEEN)) for ax in panels]


def test_slices_of_a_volume_are_panels():
    panels = ga.picture(ga.window(ga.grids.cartesian((5, 6, 6)), (3, 3, 3)), (2, 2, 2))
    assert len(panels) == 3
    assert all(ax.images[0].get_array().sum() == 9 for ax in panels)


def test_given_axes_hold_the_slice_of_the_query():
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    hood = ga.product(ga.window(TIME, 3), ga.window(PLANE, 3))
    assert ga.picture(hood, (2, 0, 0), ax=ax) is ax
    assert "slice (2,)" in ax.get_title()
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize(
    "hood",
    [
        ga.geodesic(ga.grids.gaussian(4, 8), SPHERE, radius=0.1),
        ga.everything(TIME, SPHERE),
        ga.everything(SPHERE, TIME),
        ga.nearest(PLANE, ga.grids.cartesian((3, 4), spacing=(4.0, 2.0)), k=4),
        ga.curve_window(ga.grids.reduced_gaussian("O8"), 16),
        ga.everything(SPHERE).without_keys(np.ones(SPHERE.shape, bool)),
        ga.everything(ga.grids.product(TIME, SPHERE), PLANE),
    ],
    ids=repr,
)
def test_any_neighborhood_has_a_picture(hood):
    ax = ga.picture(hood, 3)
    ax.figure.canvas.draw()
    assert f"{hood.counts.reshape(-1)[3]} keys" in ax.get_title()


@pytest.mark.parametrize("query", [48, -1, (6, 0), (0, 0, 0), (3,)])
def test_queries_outside_the_grid_are_refused(query):
    with pytest.raises(IndexError, match=r"query .* is outside the shape"):
        ga.picture(ga.window(PLANE, 3), query)
