"""Pictures of fields on spheres: projections against their formulas, and every picture drawn once."""

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.tasks import maps

pytest.importorskip("matplotlib", reason="pictures need matplotlib")
from matplotlib.figure import Figure

from geoattn.tasks.panoramas import CLASSES, random_room, render
from geoattn.tasks.panoramas.pictures import sphere_picture

GRID = ga.grids.equiangular(16, 32, poles=False)


def drawn(field, grid=GRID, projection="equirectangular", **options):
    return np.ma.filled(
        maps.draw(Figure().subplots(), grid, field, projection, **options).get_array().astype(float), np.nan
    )


def test_an_equirectangular_picture_of_an_image_is_the_image():
    field = np.random.default_rng(0).random(GRID.shape)
    columns_from_0 = 180 - 180 / 32  # the middle of the picture, for its first pixel to lie at longitude 0
    np.testing.assert_array_equal(drawn(field, pixels=32, centre=(0, columns_from_0)), field)


def test_mollweide_keeps_areas():
    latitude, _, on_map = maps.places("mollweide", (0, 0), 800)
    for bound in (-60.0, -20.0, 10.0, 45.0):
        share = (latitude[on_map] < bound).mean()
        assert share == pytest.approx(0.5 * (1 + np.sin(np.radians(bound))), abs=2e-3)


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


@pytest.mark.parametrize("projection", maps.SHAPES)
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
        maps.draw(axes, GRID, GRID.lat[:8])


def test_pictures_of_the_tasks_are_written(tmp_path):
    pytest.importorskip("lightning", reason="the tasks import Lightning and torchmetrics")
    from geoattn.tasks.depth import depth_picture
    from geoattn.tasks.segmentation import segmentation_picture

    seen = render(random_room(), GRID)
    rgb = torch.from_numpy(seen.rgb).movedim(-1, 0)[None] / 255
    label, depth = torch.from_numpy(seen.label).long()[None], torch.from_numpy(seen.depth)[None]
    depth[0, 0] = 0.0
    wrong = (label + 1) % len(CLASSES)
    segmentation_picture(tmp_path / "segmentation.png", GRID, rgb, label, wrong)
    depth_picture(tmp_path / "depth.png", GRID, rgb, depth, 1.1 * depth + 0.1, "mollweide")
    sphere_picture(tmp_path / "sphere.png", GRID, seen.rgb, "a room")
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_learning_curves_come_from_the_files_of_runs(tmp_path):
    from geoattn.tasks.curves import learning_curves, read_metrics

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
