"""Rendered panoramas: exact geometry, exact rotations, reproducible rooms."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.tasks.panoramas import (
    CLASSES,
    UNLABELLED,
    Camera,
    RenderedRooms,
    Room,
    random_room,
    render,
    render_rooms,
    sample_of,
)
from geoattn.tasks.panoramas.rendering.codes import BOX, CYLINDER, ELLIPSOID

GRID = ga.grids.equiangular(24, 48, poles=False)


def room_of(*parts, size=(4.0, 5.0, 3.0), lights=((2.0, 2.0, 2.9, 3.0, 3.0, 3.0),)):
    """A room with one thing for each (shape, centre, half, angle in radians, class)."""
    shapes, centres, halves, angles, names = zip(*parts, strict=True) if parts else ([], [], [], [], [])
    grey = [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0, 1.0, 0.0]
    return Room(
        size,
        np.array(shapes, np.int64),
        np.array(centres, float).reshape(-1, 3),
        np.array(halves, float).reshape(-1, 3),
        np.array([(math.cos(a), math.sin(a)) for a in angles]).reshape(-1, 2),
        np.array([CLASSES.index(n) for n in names], np.uint8),
        np.array([grey] * len(parts)).reshape(-1, 9),
        np.arange(len(parts) + 1),
        np.array([grey] * 6),
        np.array(lights, float).reshape(-1, 6),
        np.array([0.3, 0.3, 0.3]),
        1.0,
        Camera((1.5, 2.0, 1.4)),
        0,
    )


def directions(grid):
    """Rays of an upright camera that looks along x, from the definition: longitude grows to the right."""
    lat, lon = np.radians(grid.lat), np.radians(grid.lon)
    return np.stack((np.cos(lat) * np.cos(lon), -np.cos(lat) * np.sin(lon), np.sin(lat)), -1)


# geometry -------------------------------------------------------------------------------------


def test_depth_and_classes_of_an_empty_room_are_those_of_a_box():
    room, rays = room_of(), directions(GRID)
    low, high = -np.array(room.camera.position), np.array(room.size) - np.array(room.camera.position)
    with np.errstate(divide="ignore"):
        to_planes = np.where(rays > 0, high / rays, low / rays)
    seen = render(room, GRID)
    np.testing.assert_allclose(seen.depth, to_planes.min(-1), rtol=1e-6)
    wall = CLASSES.index("wall")
    vertical = np.where(rays[..., 2] > 0, CLASSES.index("ceiling"), CLASSES.index("floor"))
    assert np.array_equal(seen.label, np.where(to_planes.argmin(-1) == 2, vertical, wall))


def test_a_sphere_has_the_depth_of_the_quadratic_equation():
    centre, radius = np.array([3.0, 2.2, 1.2]), 0.6
    room = room_of((ELLIPSOID, centre, [radius] * 3, 0.3, "clutter"))
    rays, offset = directions(GRID), centre - np.array(room.camera.position)
    along = rays @ offset
    apart = offset @ offset - along**2
    hit = (apart < radius**2) & (along > 0)
    seen = render(room, GRID)
    assert hit.sum() > 20
    assert np.array_equal(seen.label == CLASSES.index("clutter"), hit)
    np.testing.assert_allclose(seen.depth[hit], (along - np.sqrt(np.abs(radius**2 - apart)))[hit], rtol=1e-6)


@pytest.mark.parametrize(("shape", "angle"), [(BOX, 0.0), (BOX, 0.7), (CYLINDER, 0.7), (ELLIPSOID, 0.4)])
def test_visible_points_lie_on_their_part_and_nothing_lies_before_them(shape, angle):
    """Walk along each ray: all points before the depth are outside the part, the point there is on it."""
    half = np.array([0.5, 0.5 if shape == CYLINDER else 0.3, 0.4])
    centre = np.array([2.8, 2.6, 1.0])
    room = room_of((shape, centre, half, angle, "table"))
    eye, rays = np.array(room.camera.position), directions(GRID)
    seen = render(room, GRID)

    def level(points):  # below 1 inside, 1 on the surface
        x, y, z = np.moveaxis(points - centre, -1, 0)
        x, y = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
        x, y, z = x / half[0], y / half[1], z / half[2]
        return {
            BOX: np.maximum(np.maximum(abs(x), abs(y)), abs(z)),
            CYLINDER: np.maximum(np.hypot(x, y), abs(z)),
            ELLIPSOID: np.sqrt(x**2 + y**2 + z**2),
        }[shape]

    hit = seen.label == CLASSES.index("table")
    assert hit.sum() > 10
    np.testing.assert_allclose(level(eye + seen.depth[..., None] * rays)[hit], 1.0, rtol=1e-5)
    for part in np.linspace(0, 0.999, 200):
        assert level(eye + part * seen.depth[..., None] * rays).min() > 1.0 - 1e-5


def test_the_nearer_of_two_things_hides_the_other():
    near = (BOX, [2.3, 2.0, 1.4], [0.1, 0.3, 0.3], 0.0, "chair")
    far = (BOX, [3.2, 2.0, 1.4], [0.1, 0.9, 0.9], 0.0, "table")
    both, only_far = render(room_of(near, far), GRID), render(room_of(far), GRID)
    front = both.label == CLASSES.index("chair")
    assert front.any()
    assert (only_far.label[front] == CLASSES.index("table")).all()
    assert (both.depth[front] < only_far.depth[front]).all()
    assert np.array_equal(both.depth[~front], only_far.depth[~front])
    assert np.array_equal(render(room_of(far, near), GRID).label, both.label)


def test_what_a_light_does_not_reach_is_dark():
    shade = (BOX, [2.0, 2.0, 2.0], [0.5, 0.5, 0.02], 0.0, "table")
    lit, shadowed = render(room_of(), GRID, noise=0.0), render(room_of(shade), GRID, noise=0.0)
    point = np.array(room_of().camera.position) + lit.depth[..., None] * directions(GRID)
    floor = (shadowed.label == CLASSES.index("floor")) & (abs(point[..., 2]) < 1e-5)
    # light at height 2.9, shade's near edge at height 2.02: the shadow on the floor is 2.9 / 0.88 as wide
    distance = abs(point[..., :2] - 2.0).max(-1)
    inside, outside = floor & (distance < 0.5 * 2.9 / 0.92), floor & (distance > 0.51 * 2.9 / 0.88)
    assert inside.sum() > 20 and outside.sum() > 20  # noqa: PT018
    assert (shadowed.rgb[inside] < lit.rgb[inside]).all()
    assert np.array_equal(shadowed.rgb[outside], lit.rgb[outside])


# cameras --------------------------------------------------------------------------------------


def test_a_camera_turned_left_by_whole_columns_sees_the_image_rolled():
    room = random_room("train", 3)
    seen = render(room, GRID, noise=0.0)
    turned = dataclasses.replace(room.camera, yaw=room.camera.yaw + 5 * 360 / 48)
    again = render(room, GRID, turned, noise=0.0)
    # the view ahead moves to the right
    for now, before in zip(again, seen, strict=True):
        same = np.isclose(now.astype(float), np.roll(before, 5, axis=1).astype(float), atol=1.0, rtol=1e-5)
        assert same.mean() > 0.998  # rounding may move a ray across an edge


def test_a_camera_upside_down_sees_the_image_turned_by_half():
    """Half a turn about the forward axis maps the grid onto itself: (lat, lon) to (−lat, −lon)."""
    room = random_room("train", 4)
    camera = dataclasses.replace(room.camera, yaw=30.0, pitch=0.0, roll=0.0)
    seen = render(room, GRID, camera, noise=0.0)
    again = render(room, GRID, dataclasses.replace(camera, roll=180.0), noise=0.0)
    for now, before in zip(again, seen, strict=True):
        mirrored = np.roll(before[::-1, ::-1], 1, axis=1)  # column 0 stays where it is
        same = np.isclose(now.astype(float), mirrored.astype(float), atol=1.0, rtol=1e-5)
        assert same.mean() > 0.998


@pytest.mark.parametrize(
    "held", [{"pitch": 20.0}, {"roll": -35.0}, {"yaw": 70.0, "pitch": -50.0, "roll": 10.0}]
)
def test_a_tilted_panorama_is_the_upright_one_at_turned_points(held):
    room = random_room("val", 1)
    upright = Camera(room.camera.position)
    tilted = Camera(room.camera.position, **held)
    rays = tilted.rays(GRID)
    lat, lon = np.degrees(np.arcsin(rays[:, 2])), np.degrees(np.arctan2(-rays[:, 1], rays[:, 0]))
    points = ga.grids.points(lat, lon, areas=np.ones(GRID.size))
    seen, again = render(room, GRID, tilted), render(room, points, upright)
    for now, before in zip(seen, again, strict=True):
        before = before.reshape(now.shape).astype(float)
        assert np.isclose(now.astype(float), before, atol=1.0, rtol=1e-5).mean() > 0.998


def test_pitch_looks_up_and_roll_is_clockwise():
    forward, right = ga.grids.points([0.0], [0.0], [1.0]), ga.grids.points([0.0], [90.0], [1.0])
    np.testing.assert_allclose(Camera((1, 1, 1)).rays(right), [[0, -1, 0]], atol=1e-15)
    assert Camera((1, 1, 1), pitch=30).rays(forward)[0, 2] == pytest.approx(0.5)
    assert Camera((1, 1, 1), yaw=90).rays(forward)[0].tolist() == [0, 1, 0]
    assert Camera((1, 1, 1), roll=30).rays(right)[0, 2] == pytest.approx(-0.5)


def test_any_grid_of_the_sphere_can_be_looked_through():
    room = random_room("train", 0)
    seen = render(room, ga.grids.healpix(4))
    assert seen.rgb.shape == (192, 3)
    assert seen.depth.dtype == np.float32


def test_supersampling_averages_colours_and_leaves_depth_and_classes_alone():
    room = random_room("train", 2)
    fine = ga.grids.equiangular(96, 192, poles=False)
    one, many = (render(room, GRID, noise=0.0, supersampling=n) for n in (1, 4))
    assert np.array_equal(one.depth, many.depth)
    assert np.array_equal(one.label, many.label)
    fine_rgb = np.roll(render(room, fine, noise=0.0).rgb, 2, axis=1)  # cells start half a cell to the left
    blocks = fine_rgb.reshape(24, 4, 48, 4, 3).mean((1, 3))[6:18]  # where cells are nearly square
    error = [np.abs(p.rgb[6:18] - blocks).mean() for p in (one, many)]
    assert error[1] < error[0]
    noisy, clean = (render(room, GRID, noise=n, supersampling=3).rgb / 255 for n in (0.03, 0.0))
    assert (noisy - clean).std() == pytest.approx(0.03, rel=0.1)


# rooms ----------------------------------------------------------------------------------------


def test_all_classes_occur_and_depths_are_those_of_rooms():
    seen = render_rooms(ga.grids.equiangular(16, 32, poles=False), 64, "train")
    assert set(np.unique(seen.label)) == set(range(len(CLASSES)))
    assert seen.depth.min() > 0.05
    assert seen.depth.max() < 12.0
    assert 60 < seen.rgb.mean() < 190
    assert seen.rgb.std() > 30


def test_a_room_depends_on_its_seed_split_and_number_only():
    small = ga.grids.equiangular(8, 16, poles=False)
    one = render_rooms(small, 6, "train", seed=7, threads=1)
    two = render_rooms(small, 3, "train", seed=7, first=3, threads=3)
    for all_six, last_three in zip(one, two, strict=True):
        assert np.array_equal(all_six[3:], last_three)
    firsts = [
        render_rooms(small, 1, split, seed=seed) for split in ("train", "val", "test") for seed in (7, 8)
    ]
    assert len({f.depth.tobytes() for f in firsts}) == 6


def test_rooms_are_the_same_on_every_machine():
    """Golden numbers: what is drawn must never change unnoticed."""
    room = random_room("test", 5, seed=1)
    assert (len(room.shapes), len(room.first_part) - 1) == (68, 17)
    expected = [3.532967259, 4.030635034, 3.177049688, 1.504521132, 3.504780073, 1.252437724]
    np.testing.assert_allclose([*room.size, *room.camera.position], expected, rtol=1e-9)


def test_cameras_stand_free_and_tilt_within_bounds():
    rooms = [random_room("train", i, tilt=15.0) for i in range(30)]
    assert max(abs(r.camera.pitch) for r in rooms) <= 15.0
    assert max(abs(r.camera.roll) for r in rooms) > 8.0
    assert all(render(r, GRID).depth.min() > 0.1 for r in rooms[:10])
    assert random_room("train", 0).camera.pitch == 0.0
    assert random_room("train", 0).camera.position == random_room("train", 0, tilt=15.0).camera.position


def test_noise_has_the_deviation_asked_for_and_no_more():
    lights = ((2.0, 2.5, 2.0, 0.2, 0.2, 0.2),)
    clean, noisy = (render(room_of(lights=lights), GRID, noise=n).rgb.astype(float) for n in (0.0, 0.02))
    difference = (noisy - clean) / 255
    assert abs(difference.mean()) < 0.001
    assert difference.std() == pytest.approx(0.02, rel=0.05)


def test_unknown_splits_and_cameras_outside_are_refused():
    with pytest.raises(ValueError, match=r"split must be one of 'train', 'val', 'test', got 'dev'"):
        random_room("dev")
    with pytest.raises(ValueError, match=r"camera at \(9, 1, 1\) is outside the room"):
        render(room_of(), GRID, Camera((9, 1, 1)))
    with pytest.raises(ValueError, match="supersampling must be at least 1, got 0"):
        render(room_of(), GRID, supersampling=0)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        render_rooms(GRID, 0)


# samples --------------------------------------------------------------------------------------


def test_rendered_rooms_are_a_data_set():
    rooms = RenderedRooms(GRID, 3, "val", seed=2, first=4, tilt=10.0)
    batch = next(iter(torch.utils.data.DataLoader(rooms, batch_size=3)))
    assert batch["rgb"].shape == (3, 3, 24, 48)
    assert batch["label"].dtype == torch.int64
    assert batch["name"] == [f"val room {i} of seed 2" for i in (4, 5, 6)]
    alone = render(random_room("val", 5, 2, tilt=10.0), GRID)
    assert np.array_equal(rooms[1]["depth"], alone.depth)
    with pytest.raises(IndexError, match="room 3 of 3"):
        rooms[3]


def good():
    return {
        "rgb": np.full((4, 8, 3), 100, np.uint8),
        "depth": np.ones((4, 8), np.float32),
        "label": np.zeros((4, 8), np.uint8),
    }


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("depth", np.nan, r"sample 'kitchen': 1 values of depth are NaN or infinite"),
        ("depth", -1.0, r"sample 'kitchen': a depth of -1.0 m"),
        ("label", 13, r"sample 'kitchen': label 13 is neither one of the 13 classes nor 255"),
        ("rgb", np.inf, r"sample 'kitchen': 3 values of rgb are NaN or infinite"),
        ("rgb", 1.5, r"sample 'kitchen': colours from .* to 1.5"),
    ],
)
def test_wrong_values_stop_with_the_name_of_the_sample(part, value, message):
    parts = good()
    if part == "rgb":
        parts["rgb"] = parts["rgb"] / 255.0
    parts[part][1, 2] = value
    with pytest.raises(ValueError, match=message):
        sample_of("kitchen", **parts)


@pytest.mark.parametrize(
    ("part", "dtype"),
    [("label", float), ("label", bool), ("depth", complex), ("depth", bool), ("rgb", complex), ("rgb", str)],
)
def test_samples_of_other_kinds_of_numbers_are_refused(part, dtype):
    parts = good()
    with pytest.raises(TypeError, match=f"sample 'kitchen': {part} must hold (real numbers|integers)"):
        sample_of("kitchen", **parts | {part: parts[part].astype(dtype)})


def test_samples_without_anything_valid_are_refused():
    with pytest.raises(ValueError, match="sample 'hall': no pixels"):
        sample_of("hall", **{part: values[:0] for part, values in good().items()})
    with pytest.raises(ValueError, match="sample 'hall': no pixel has a depth"):
        sample_of("hall", **good() | {"depth": np.zeros((4, 8))})
    with pytest.raises(ValueError, match="sample 'hall': no pixel has a class"):
        sample_of("hall", **good() | {"label": np.full((4, 8), UNLABELLED)})
    with pytest.raises(ValueError, match=r"sample 'hall': rgb, depth and label must have shapes"):
        sample_of("hall", **good() | {"label": np.zeros((4, 9), np.uint8)})


def test_the_same_places_may_be_seen_at_another_pitch_and_roll():
    held = render_rooms(GRID, 2, "test", seed=3, tilt=20.0, pitch=15.0, roll=-5.0)
    for i in range(2):
        room = random_room("test", i, seed=3)
        camera = dataclasses.replace(room.camera, pitch=15.0, roll=-5.0)
        assert np.array_equal(held.rgb[i], render(room, GRID, camera).rgb)
