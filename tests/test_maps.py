"""Pictures of fields on spheres: projections against their formulas, and every picture drawn once."""

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn import plot
from geoattn.plot import maps

pytest.importorskip("matplotlib", reason="pictures need matplotlib")
from matplotlib.figure import Figure

from geoattn.tasks.panoramas import CLASSES, LEGEND, random_room, render

GRID = ga.grids.equiangular(16, 32, poles=False)


def drawn(field, grid=GRID, projection="equirectangular", **options):
    axes = maps.panel(Figure(), 111, projection)
    return np.ma.filled(maps.draw(axes, grid, field, projection, **options).get_array().astype(float), np.nan)


def test_an_equirectangular_picture_of_an_image_is_the_image():
    field = np.random.default_rng(0).random(GRID.shape)
    columns_from_0 = 180 - 180 / 32  # the middle of the picture, for its first pixel to lie at longitude 0
    np.testing.assert_array_equal(drawn(field, pixels=32, centre=(0, columns_from_0)), field)


def test_mollweide_is_matplotlibs_and_keeps_areas():
    axes = maps.panel(Figure(), 111, "mollweide")
    assert axes.name == "mollweide"
    image = maps.draw(axes, GRID, GRID.lat, pixels=200)
    corners = axes.transProjection.transform(image.get_coordinates().reshape(-1, 2))
    corners = corners.reshape(*image.get_coordinates().shape)
    ahead, across = np.diff(corners[:-1], axis=1), np.diff(corners[:, :-1], axis=0)
    areas = np.abs(ahead[..., 0] * across[..., 1] - ahead[..., 1] * across[..., 0])
    north = np.degrees(image.get_coordinates()[:-1, :-1, 1])
    for bound in (20.0, 45.0, 60.0):
        share = areas[north > bound].sum() / areas.sum()
        assert share == pytest.approx(0.5 * (1 - np.sin(np.radians(bound))), abs=0.02)


def test_orthographic_inverts_the_projection():
    centre = (35.0, 200.0)
    lat, lon, on_map = maps.places("orthographic", centre, 101)
    x, y = np.meshgrid((2 * np.arange(101) + 1) / 101 - 1, 1 - (2 * np.arange(101) + 1) / 101)
    phi, dlon, phi0 = np.radians(lat), np.radians(lon - centre[1]), np.radians(centre[0])
    # Snyder (1987), eqs. 20-3 and 20-4
    east = np.cos(phi) * np.sin(dlon)
    north = np.cos(phi0) * np.sin(phi) - np.sin(phi0) * np.cos(phi) * np.cos(dlon)
    np.testing.assert_allclose(east[on_map], x[on_map], atol=1e-9)
    np.testing.assert_allclose(north[on_map], y[on_map], atol=1e-9)
    assert lat[50, 50] == pytest.approx(35.0)


@pytest.mark.parametrize("projection", maps.PROJECTIONS)
@pytest.mark.parametrize("grid", [GRID, ga.grids.healpix(4), ga.grids.icosahedral(2)], ids=repr)
def test_each_pixel_shows_the_value_of_the_nearest_point(grid, projection):
    image = drawn(grid.lat, grid, projection, pixels=60)
    lat, _, on_map = maps.places(projection, (0, 0), 60)
    assert np.isnan(image[~on_map]).all()
    assert np.abs(image[on_map] - lat[on_map]).max() < 15.0


def test_colours_may_be_numbers_or_bytes_and_missing_numbers_stay_white():
    seen = render(random_room(), GRID)
    assert drawn(seen.rgb).shape[-1] == 4
    np.testing.assert_allclose(drawn(seen.rgb), drawn(seen.rgb / 255.0))
    holes = np.where(seen.depth > 2.0, seen.depth, np.nan)
    assert np.isnan(drawn(holes)).any()


def test_unknown_projections_and_other_grids_are_refused():
    axes = Figure().subplots()
    with pytest.raises(ValueError, match=r"projection must be one of 'equirectangular', .*got 'robinson'"):
        maps.draw(axes, GRID, GRID.lat, "robinson")
    with pytest.raises(ValueError, match=r"field of shape \(8, 32\) is not on"):
        maps.draw(axes, GRID, GRID.lat[:8], "equirectangular")
    with pytest.raises(ValueError, match=r"'mollweide' needs other axes.*projection='mollweide'"):
        maps.draw(axes, GRID, GRID.lat)
    assert maps.draw(Figure().add_subplot(projection="mollweide"), GRID, GRID.lat)


@pytest.mark.parametrize(
    "grid",
    [
        ga.grids.equiangular(5, 8),
        ga.grids.gaussian(6, 8),
        ga.grids.equiangular(6, 8, poles=False, lon_start=2.0, south_first=True),
        ga.grids.gaussian(6, 8, lon_start=-176.0),
    ],
    ids=repr,
)
def test_lat_lon_maps_are_painted_to_their_edges(grid):
    field = np.random.default_rng(0).random(grid.shape)
    axes = maps.lat_lon_map(Figure().subplots(), grid, field, "numbers")
    mesh = axes.collections[0]
    lon, lat = np.moveaxis(mesh.get_coordinates(), -1, 0)
    assert (lon.min() <= -180, lon.max() >= 180, lat.min(), lat.max()) == (True, True, -90, 90)
    shown = np.asarray(mesh.get_array()).reshape(np.subtract(lon.shape, 1))
    north, east = (a + 1e-6 for a in (grid.lat, (grid.lon + 180) % 360 - 180))  # within each cell
    rows = [
        np.flatnonzero(np.diff(np.sign(lat[:, 0] - place)) != 0)[0] for place in north[:, 0].clip(-90, 89)
    ]
    columns = np.searchsorted(lon[0], east[0]) - 1
    np.testing.assert_array_equal(shown[np.ix_(rows, columns)], field)


def test_regions_between_parallels_and_meridians_are_drawn_by_their_cells():
    grid = ga.grids.regional([40.0, 42.0, 46.0], [350.0, 355.0, 0.0, 5.0])
    axes = maps.lat_lon_map(Figure().subplots(), grid, grid.lat, "latitude (degrees)")
    lon, lat = np.moveaxis(axes.collections[0].get_coordinates(), -1, 0)
    np.testing.assert_allclose(lon[0], [-12.5, -7.5, -2.5, 2.5, 7.5])
    np.testing.assert_allclose(lat[:, 0], [39.0, 41.0, 44.0, 48.0])
    assert (*axes.get_xlim(), *axes.get_ylim()) == (-12.5, 7.5, 39.0, 48.0)


@pytest.mark.parametrize("projection", ["rectilinear", "mollweide"])
def test_coastlines_lie_where_land_begins(projection):
    grid = ga.grids.equiangular(36, 72, poles=False)
    land = (np.abs(grid.lat) < 30) & (np.abs((grid.lon + 180) % 360 - 180) > 120)
    axes = Figure().add_subplot(projection=projection)
    assert plot.coastlines(axes, grid, land) is axes
    (found,) = axes.collections
    points = np.concatenate([path.vertices for path in found.get_paths()])
    points = np.degrees(points) if projection == "mollweide" else points
    lon, lat = np.abs(points).T
    at_side, at_end = np.abs(lon - 120) < 2.6, np.abs(lat - 30) < 2.6
    assert (at_side | at_end).all()
    assert at_side.any()
    assert lon.max() >= 179.9  # it goes around
    with pytest.raises(TypeError, match=r"coastlines are drawn of land on a lat-lon grid.*regrid"):
        plot.coastlines(axes, ga.grids.healpix(2), np.ones(48))


def test_a_map_of_a_data_set_says_level_time_and_unit():
    xarray = pytest.importorskip("xarray", reason="fields come from data sets")
    coords = {"time": np.datetime64("2020-01-02T06", "ns"), "level": ((), 850, {"units": "hPa"})}
    coords["prediction_timedelta"] = np.timedelta64(12, "h").astype("m8[ns]")
    ds = ga.xarray.coordinates(GRID).assign_coords(coords)
    ds["t"] = xarray.Variable(("latitude", "longitude"), GRID.lat, {"long_name": "temperature", "units": "K"})
    axes = ga.xarray.plot(ds.t)
    assert axes.get_title() == (
        "temperature, time 2020-01-02T06:00, level 850 hPa, prediction_timedelta 12 h"
    )
    assert axes.collections[0].colorbar.ax.get_ylabel() == "temperature (K)"


def test_points_are_painted_where_they_are_and_nowhere_else():
    lat, lon = np.repeat(np.linspace(-78, 85, 80), 90), np.tile(np.arange(0, 360, 4.0), 80)
    grid = ga.grids.points(lat, lon, areas="voronoi")
    image = drawn(np.ones(grid.size), grid, pixels=180)
    south = maps.places("equirectangular", (0, 0), 180)[0] < -83
    assert np.isnan(image[south]).all()
    assert np.isfinite(image[~south & (np.abs(maps.places("equirectangular", (0, 0), 180)[0]) < 77)]).all()


def test_curvilinear_regions_are_painted_within_their_cells_and_nowhere_else():
    x, y = np.meshgrid(np.arange(-20, 20.1, 2.0), np.arange(-14, 14.1, 2.0))
    grid = ga.grids.regional(50 + y - x / 2, 10 + 1.5 * x + y)
    axes = maps.lat_lon_map(Figure().subplots(), grid, np.ones(grid.shape), "ones")
    mesh = axes.collections[0]
    lon, lat = np.moveaxis(mesh.get_coordinates(), -1, 0)
    lon, lat = (0.25 * (a[1:, 1:] + a[:-1, 1:] + a[1:, :-1] + a[:-1, :-1]) for a in (lon, lat))
    painted = np.isfinite(np.ma.filled(mesh.get_array(), np.nan)).reshape(lon.shape)
    # back to the rows and columns of the grid; cells reach half a step beyond its points
    north, east = lat - 50, lon - 10
    column, row = (east - north) / 2 / 2, (north + (east - north) / 4) / 2
    inside = (np.abs(column) < 10.4) & (np.abs(row) < 7.4)
    beyond = (np.abs(column) > 10.7) | (np.abs(row) > 7.7)
    assert painted[inside].all()
    assert not painted[beyond].any()


def test_columns_of_a_table_are_as_high_with_and_without_a_colour_bar():
    column = np.zeros((1, *GRID.shape))
    with_bar = plot.Column("depth", column, {}, "depth (m)")
    figure = plot.table(None, GRID, [plot.Column("input", column), with_bar], "mollweide")
    figure.canvas.draw()
    first, second = (axes.get_position() for axes in figure.axes[:2])
    assert first.y0 == pytest.approx(second.y0)
    assert first.height == pytest.approx(second.height)


@pytest.mark.parametrize("size", [(7, 3.2), (5, 5), (9, 2)])
def test_a_colour_bar_is_as_high_as_its_map_and_within_the_figure(size):
    figure = Figure(figsize=size, layout="constrained")
    axes = maps.lat_lon_map(figure.subplots(), GRID, GRID.lat, "latitude (degrees)")
    figure.canvas.draw()
    bar = axes.collections[0].colorbar.ax
    shown, beside = axes.get_window_extent(), bar.get_window_extent()
    assert (beside.y0, beside.y1) == pytest.approx((shown.y0, shown.y1))
    assert beside.x0 > shown.x1
    assert bar.yaxis.label.get_window_extent().x1 <= figure.bbox.width


def test_titles_lie_within_the_figure():
    figure = plot.sphere_picture(None, GRID, GRID.lat, "latitude, 500 hPa, 2020-01-01", "latitude (degrees)")
    forecast = plot.forecast_picture(
        None, GRID, [0, 6], 1, GRID.lat, {"model": GRID.lat}, {"model": [0, 1]}, "latitude (degrees)"
    )
    assert forecast.get_suptitle() == "latitude (degrees), 6 hours ahead"
    for drawn_figure in (figure, forecast):
        drawn_figure.canvas.draw()
        titles = [axes.title for axes in drawn_figure.axes if axes.get_title()] + [drawn_figure._suptitle]
        assert len(titles) > 4
        for title in titles:
            box = title.get_window_extent()
            assert box.x0 >= 0, title
            assert box.y1 <= drawn_figure.bbox.height, title
            assert box.x1 <= drawn_figure.bbox.width, title


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("geoattn._extras.find_spec", lambda name: None)
    for call in (
        lambda: ga.picture(ga.everything(GRID), 0),
        lambda: plot.curves(None, "x", {"y": {}}),
        lambda: plot.lat_lon_map(None, GRID, GRID.lat, ""),
    ):
        with pytest.raises(ModuleNotFoundError, match=r'pip install "geoattn\[plot\]"'):
            call()


def test_a_picture_that_fails_leaves_the_one_before(tmp_path):
    path = tmp_path / "a.png"
    plot.curves(path, "x", {"y": {"line": ([0, 1], [0, 1])}})
    before = path.read_bytes()
    figure = Figure()
    figure.savefig = lambda *_, **__: (_ for _ in ()).throw(OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        plot.save(figure, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_pictures_of_the_tasks_are_written(tmp_path):
    pytest.importorskip("lightning", reason="the tasks import Lightning and torchmetrics")
    seen = render(random_room(), GRID)
    rgb = torch.from_numpy(seen.rgb).movedim(-1, 0)[None] / 255
    label, depth = torch.from_numpy(seen.label).long()[None], torch.from_numpy(seen.depth)[None]
    depth[0, 0] = 0.0
    wrong = (label + 1) % len(CLASSES)
    plot.segmentation_picture(tmp_path / "segmentation.png", GRID, rgb, label, wrong, legend=LEGEND)
    plot.depth_picture(tmp_path / "depth.png", GRID, rgb, depth, 1.1 * depth + 0.1, "mollweide")
    plot.sphere_picture(tmp_path / "sphere.png", GRID, seen.rgb, "a room")
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_learning_curves_come_from_the_files_of_runs(tmp_path):
    from geoattn.plot import learning_curves, read_metrics

    log = tmp_path / "metrics.csv"
    log.write_text("epoch,step,train_loss,val_loss\n0,9,1.5,\n0,9,,1.25\n1,19,0.5,\n")
    assert read_metrics(log) == {"train_loss": ([9, 19], [1.5, 0.5]), "val_loss": ([9], [1.25])}
    figure = learning_curves(tmp_path / "curves.png", {"a run": log}, ["train_loss", "val_loss"])
    assert [axes.get_title() for axes in figure.axes] == ["train loss", "val loss"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="run 'a run' has no metric 'val_iou'; it has train_loss, val_loss"):
        learning_curves(None, {"a run": log}, ["val_iou"])
    log.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="has no column 'step'"):
        read_metrics(log)
