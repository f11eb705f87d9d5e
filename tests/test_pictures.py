"""Pictures show the keys that a query sees, no more and no fewer."""

import itertools

import numpy as np
import pytest

import geoattn as ga
from geoattn.plot.curves import COLOURS
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
    found = [np.empty((0, 2))]
    for group in ax.collections:
        offsets = np.asarray(group.get_offsets())
        kinds = [kind for kind in (group.get_edgecolors(), group.get_facecolors()) if len(kind)]
        colored = [np.isclose(np.broadcast_to(kind, (len(offsets), 4)), rgb).all(1) for kind in kinds]
        found.append(offsets[np.any(colored, axis=0)])
    return np.concatenate(found)


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
    assert ["slice 1" in panels[0].get_title(), "slice 3" in panels[2].get_title()] == [True, True]
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
    assert "slice 2" in ax.get_title()
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
        ga.relations.edges(ga.nearest(SPHERE, k=4)),
        ga.relations.edges(ga.geodesic(SPHERE, radius=9.0).without_keys(np.ones(SPHERE.shape, bool))),
    ],
    ids=repr,
)
def test_any_neighborhood_has_a_picture(hood):
    ax = ga.picture(hood, 3)
    ax.figure.canvas.draw()
    counts = (hood.hood if isinstance(hood, ga.relations.Relation) else hood).counts
    assert f"{counts.reshape(-1)[3]} keys" in ax.get_title()


def test_keys_of_one_number_have_one_color():
    hood = ga.window(PLANE, 3)
    ax = ga.picture(ga.relations.labels(hood, np.arange(hood.counts.sum()) % 4 * 100), (2, 2))
    cells = np.zeros((6, 8))
    cells[1:4, 1:4] = np.reshape(np.arange(9) + 9 * 18, (3, 3)) % 4 + 1
    assert np.array_equal(ax.images[0].get_array(), cells)
    assert "9 keys, 4 numbers" in ax.get_title()
    colors = [tuple(ax.images[0].to_rgba(cells)[i]) for i in ((0, 0), (1, 1), (1, 2), (1, 3), (2, 1))]
    assert len(set(colors)) == 5  # the plain ground, and four


def test_numbers_are_colors_on_the_sphere_and_in_slices():
    relation = ga.relations.angles(ga.geodesic(SPHERE, radius=30.0), 3)
    viridis = matplotlib.colormaps["viridis"]
    _, indices, numbers = relation.rows(np.array([100]))
    ax = ga.picture(relation, 100)
    assert [len(dots(ax, viridis(i / 3))) for i in range(4)] == np.bincount(numbers).tolist()
    assert np.allclose(dots(ax, viridis(0.0)), 0.0)
    assert ax.get_title() == f"query 100: {len(indices)} keys, 4 numbers"
    time = ga.relations.offsets(ga.window(TIME, 3, causal=True))
    panels = ga.picture(ga.relations.product(time, relation), (3, 100))
    for panel, axes in enumerate(panels):  # each time has its own four of twelve colors
        found = [len(dots(axes, viridis((4 * panel + i) / 11))) for i in range(4)]
        assert found == np.bincount(numbers).tolist()


def test_a_bar_tells_the_numbers_of_a_relation():
    ax = ga.picture(ga.relations.labels(ga.window(PLANE, 3), np.arange(9 * PLANE.size) % 4 * 100), (2, 2))
    (bar,) = ax.child_axes
    ax.figure.canvas.draw()
    # as high as the picture, whose cells have their own numbers
    assert np.isclose(bar.get_window_extent().height, ax.get_window_extent().height)
    assert [label.get_text() for label in ax.get_xticklabels()] == [str(i) for i in range(0, 8, 2)]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0", "100", "200", "300"]
    assert bar.get_ylabel() == "number"
    many = ga.picture(ga.relations.edges(ga.window(PLANE, 5)), (2, 2))
    labels = [label.get_text() for label in many.child_axes[0].get_yticklabels()]
    first = 25 * (2 * 8 + 2)
    assert labels == [str(first + i) for i in range(0, 25, 5)]


def test_two_lines_are_a_plane():
    line = ga.grids.cartesian(8)
    ax = ga.picture(ga.product(ga.window(TIME, 3, causal=True), ga.window(line, 3)), (3, 4))
    expected = np.zeros((5, 8))
    expected[1:4, 3:6] = 1
    assert np.array_equal(ax.images[0].get_array(), expected)
    assert ax.get_title() == "query (3, 4): 9 keys"


def test_what_panels_have_in_common_is_said_once():
    panels = ga.picture(ga.product(ga.window(TIME, 3), ga.geodesic(SPHERE, radius=20.0)), (3, 100))
    keys = ga.geodesic(SPHERE, radius=20.0).counts[100]
    assert panels[0].figure.get_suptitle() == f"query (3, 100): {3 * keys} keys"
    assert [ax.get_title() for ax in panels] == [f"slice {time}: {keys} keys" for time in (2, 3, 4)]


def test_each_group_of_heads_is_a_panel():
    panels = ga.picture(ga.heads(ga.window(PLANE, 3), ga.window(PLANE, (1, 8))), (2, 2))
    assert [ax.images[0].get_array().sum() for ax in panels] == [9, 8]
    assert [ax.get_title() for ax in panels] == [
        "heads 1 of 2: query (2, 2): 9 keys",
        "heads 2 of 2: query (2, 2): 8 keys",
    ]


@pytest.mark.parametrize("query", [48, -1, (6, 0), (0, 0, 0), (3,)])
def test_queries_outside_the_grid_are_refused(query):
    with pytest.raises(IndexError, match=r"query .* is outside the shape"):
        ga.picture(ga.window(PLANE, 3), query)


def test_dates_along_an_axis_do_not_run_into_each_other():
    times = np.arange("2020-01-01T00", "2020-01-11T00", 6, dtype="datetime64[h]")
    figure = ga.plot.curves(None, "time", {"height (m)": {"mean": (times, np.arange(len(times)))}})
    figure.canvas.draw()
    labels = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) > 2
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0, [label.get_text() for label in labels]


def test_a_dashed_line_has_the_colour_of_another():
    x = [1, 2, 3]
    lines = {"model": (x, x), "persistence": (x, x), "other": (x, x)}
    figure = ga.plot.curves(None, "x", {"y": lines}, dashed={"persistence": "model"})
    model, persistence, other = figure.axes[0].lines
    assert [line.get_linestyle() for line in (model, persistence, other)] == ["-", "--", "-"]
    assert persistence.get_color() == model.get_color() == COLOURS[0]
    assert other.get_color() == COLOURS[1]


def test_logarithmic_axes_need_something_above_zero(refused_by):
    for values in ([0.0, -1.0], [np.nan, np.inf]):
        with refused_by("plot/curves.py", "only those are on a logarithmic axis") as said:
            ga.plot.curves(None, "x", {"power": {"line": ([1, 2], values)}}, logarithmic="xy")
        assert "no point of 'power' is a number above zero" in said.message
        logarithmic = said.run("logarithmic=")
        assert ga.plot.curves(None, "x", {"power": {"line": ([1, 2], values)}}, logarithmic=logarithmic)
    assert ga.plot.curves(None, "x", {"power": {"line": ([1, 2], [0.0, 1.0])}}, logarithmic="y")


def test_pictures_of_forecasts_show_what_is_there():
    grid = ga.grids.gaussian(8, 16)
    truth = grid.lat.copy()
    truth[0] = np.nan
    figure = ga.plot.forecast_picture(
        None, grid, [0, 6], 1, truth, {"model": truth + 1}, {"model": [0, 1]}, "temperature (K)"
    )
    limits = [
        image.get_clim()
        for axes in figure.axes
        for image in axes.collections
        if image.get_array() is not None
    ]
    assert np.isfinite(limits).all()
    assert limits[0] == tuple(np.nanpercentile(truth, [0.5, 99.5]))
    nothing = np.full(grid.shape, np.nan)
    ga.plot.forecast_picture(None, grid, [0, 6], 1, nothing, {"m": nothing}, {"m": [0, np.nan]}, "t")
