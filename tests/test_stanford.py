"""2D-3D-S in its published layout, on a tiny tree that these tests write."""

import json
import shutil

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.tasks.panoramas import CLASSES, UNLABELLED, Stanford2D3DS
from geoattn.tasks.panoramas.stanford import AREAS

Image = pytest.importorskip("PIL.Image", reason="panoramas are read with Pillow")

GRID = ga.grids.equiangular(8, 16, poles=False)
LABELS = ["<UNK>_0_<UNK>_0_0"] + [f"{name}_{i}_office_1_1" for i in range(30) for name in CLASSES]


def write_panorama(root, area, room, number=0, height=16):
    """Columns cycle through the classes from label 1; depth in each block of 2 × 2 is its row in 1/512 m."""
    width = 2 * height
    index = np.broadcast_to(np.arange(width) // 2 + 300, (height, width)).copy()
    index[:2, :2] = 0x0D0D0D  # missing
    index[:2, 2:4] = 0  # <UNK>
    semantic = np.stack((index // 65536, index // 256 % 256, index % 256), -1).astype(np.uint8)
    depth = (
        np.broadcast_to(np.arange(height)[:, None] // 2 * 512 + 256, (height, width)).astype(np.uint16).copy()
    )
    depth[-2:, -2:] = 65535
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[::2, :, 0] = 200  # every other row: a mean of 100
    name = f"camera_{number:032x}_{room}_frame_equirectangular_domain"
    for part, pixels in (("rgb", rgb), ("semantic", semantic), ("depth", depth)):
        folder = root / f"area_{area}" / "pano" / part
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{name}_{part}.png")
    return root / f"area_{area}" / "pano" / "rgb" / f"{name}_rgb.png"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("2d3ds")
    (root / "semantic_labels.json").write_text(json.dumps(LABELS))
    for area in AREAS:
        for i in range(12):
            for number in range(2):
                write_panorama(root, area, f"office_{i}", number)
    return root


@pytest.fixture
def root(published, tmp_path):
    """A copy that a test may break."""
    for path in published.iterdir():
        if path.name in ("semantic_labels.json", "area_5a", "area_5b"):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    return tmp_path


def areas(data):
    return {path.parent.parent.parent.name.removeprefix("area_") for path in data.images}


@pytest.mark.parametrize(("fold", "testing"), [(1, {"5a", "5b"}), (2, {"2", "4"}), (3, {"1", "3", "6"})])
def test_folds_test_on_areas_that_they_do_not_train_on(published, fold, testing):
    data = {split: Stanford2D3DS(published, fold, GRID, split) for split in ("train", "val", "test")}
    assert areas(data["test"]) == testing
    assert areas(data["train"]) == set(AREAS) - testing
    assert areas(data["val"]) <= set(AREAS) - testing
    files = [path for split in data.values() for path in split.images]
    assert len(files) == len(set(files)) == 7 * 12 * 2


def test_panoramas_of_one_room_are_never_in_two_splits(published):
    rooms = {}
    for split in ("train", "val"):
        paths = Stanford2D3DS(published, 1, GRID, split).images
        rooms[split] = {(p.parts[-4], p.name.split("_office_")[1]) for p in paths}
    assert rooms["val"]
    assert not rooms["train"] & rooms["val"]


def test_classes_follow_the_table_and_missing_ones_are_excluded(published):
    label = Stanford2D3DS(published, 1, GRID, "test")[0]["label"]
    expected = torch.tensor([CLASSES.index(LABELS[300 + c].split("_")[0]) for c in range(16)])
    assert torch.equal(label[1:], expected.expand(7, 16))
    assert label[0, :2].tolist() == [UNLABELLED, UNLABELLED]  # never drawn, and <UNK>
    assert torch.equal(label[0, 2:], expected[2:])


def test_depth_is_in_metres_and_missing_depth_is_none(published):
    depth = Stanford2D3DS(published, 1, GRID, "test")[0]["depth"]
    expected = (torch.arange(8)[:, None] + 0.5).expand(8, 16).clone()
    expected[-1, -1] = 0.0
    assert torch.equal(depth, expected)


def test_colours_are_means_over_blocks(published):
    sample = Stanford2D3DS(published, 1, GRID, "test")[0]
    torch.testing.assert_close(sample["rgb"][0], torch.full((8, 16), 100 / 255))
    assert sample["rgb"][1:].abs().max() == 0
    assert sample["name"] == f"area_5a/camera_{0:032x}_office_0_frame_equirectangular"


def test_other_grids_of_the_sphere_read_the_pixel_around_each_point(published):
    mesh = ga.grids.healpix(2)
    sample = Stanford2D3DS(published, 1, mesh, "test")[0]
    assert sample["label"].shape == (48,)
    row = np.floor((90 - mesh.lat) / 180 * 8)
    known = sample["depth"].numpy() > 0
    np.testing.assert_allclose(sample["depth"].numpy()[known], (row + 0.5)[known])


def test_the_table_may_lie_among_the_assets(root):
    (root / "assets").mkdir()
    (root / "semantic_labels.json").rename(root / "assets" / "semantic_labels.json")
    assert len(Stanford2D3DS(root, 1, GRID, "test")) == 48


# bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [0, 4, "1"])
def test_unknown_folds_are_refused(root, fold):
    with pytest.raises(ValueError, match=f"fold must be 1, 2 or 3, got {fold!r}"):
        Stanford2D3DS(root, fold, GRID)


def test_unknown_splits_are_refused(root):
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'test', got 'valid'"):
        Stanford2D3DS(root, 1, GRID, "valid")


def test_missing_folders_and_files_are_named(root):
    with pytest.raises(FileNotFoundError, match=r"area_1/pano/rgb is missing"):
        Stanford2D3DS(root, 1, GRID, "train")
    victim = Stanford2D3DS(root, 1, GRID, "test").images[3]
    lost = victim.parent.parent / "depth" / victim.name.replace("_rgb", "_depth")
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=f"{lost.name} is missing beside {victim.name}"):
        Stanford2D3DS(root, 1, GRID, "test")
    (root / "semantic_labels.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither .*semantic_labels.json nor"):
        Stanford2D3DS(root, 1, GRID, "test")


@pytest.mark.parametrize("part", ["rgb", "semantic", "depth"])
def test_truncated_and_foreign_files_are_named(root, part):
    data = Stanford2D3DS(root, 1, GRID, "test")
    victim = data.images[0].parent.parent / part / data.images[0].name.replace("_rgb", f"_{part}")
    whole = victim.read_bytes()
    for content in (whole[: len(whole) // 2], b"no image"):
        victim.write_bytes(content)
        with pytest.raises(OSError, match=rf"{victim.name} cannot be read as an image"):
            data[0]


def test_wrong_image_sizes_are_refused(root):
    data = Stanford2D3DS(root, 1, GRID, "test")
    path = data.images[0]
    Image.fromarray(np.zeros((16, 30, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match="has 30 × 16 pixels; a panorama is twice as wide as high"):
        data[0]
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"semantic.png has 32 × 16 pixels, .*rgb.png 16 × 8"):
        data[0]


def test_panoramas_without_valid_pixels_are_refused_by_name(root):
    data = Stanford2D3DS(root, 1, GRID, "test")
    path = data.images[0]
    depth = path.parent.parent / "depth" / path.name.replace("_rgb", "_depth")
    Image.fromarray(np.full((16, 32), 65535, np.uint16)).save(depth)
    with pytest.raises(ValueError, match=r"sample 'area_5a/camera_.*': no pixel has a depth"):
        data[0]


def test_indices_beyond_the_table_and_strange_tables_are_refused(root):
    (root / "semantic_labels.json").write_text(json.dumps(LABELS[:305]))
    with pytest.raises(ValueError, match=r"sample 'area_5a.*semantic index 315 is beyond the 305 entries"):
        Stanford2D3DS(root, 1, GRID, "test")[0]
    (root / "semantic_labels.json").write_text(json.dumps([*LABELS, "pool_1_garden_1_1"]))
    with pytest.raises(ValueError, match="labels of unknown classes: pool"):
        Stanford2D3DS(root, 1, GRID, "test")
    (root / "semantic_labels.json").write_text("[")
    with pytest.raises(ValueError, match="is no JSON list of labels"):
        Stanford2D3DS(root, 1, GRID, "test")


def test_depths_of_eight_bits_and_three_channels_are_refused(root):
    data = Stanford2D3DS(root, 1, GRID, "test")
    path = data.images[0]
    depth = path.parent.parent / "depth" / path.name.replace("_rgb", "_depth")
    Image.fromarray(np.zeros((16, 32, 3), np.uint8)).save(depth)
    with pytest.raises(ValueError, match="mode 'RGB', and 16-bit depths of one channel"):
        data[0]


def test_a_turned_camera_reads_the_image_at_turned_points(published):
    """Upside down about the forward axis, (lat, lon) shows what was at (−lat, −lon)."""
    upright, turned = (Stanford2D3DS(published, 1, GRID, "test", roll=r)[0] for r in (0.0, 180.0))
    for part in ("depth", "label"):
        assert torch.equal(turned[part], upright[part].flip(0, 1).roll(1, 1))


@pytest.mark.parametrize(
    ("part", "mode"),
    [("depth", "L"), ("depth", "P"), ("depth", "F"), ("depth", "RGBA"), ("depth", "1"),
     ("semantic", "L"), ("semantic", "P"), ("semantic", "I;16"), ("rgb", "P"), ("rgb", "L")],
)  # fmt: skip
def test_images_that_a_tool_has_converted_are_refused(root, part, mode):
    data = Stanford2D3DS(root, 1, GRID, "test")
    path = data.images[0].parent.parent / part / data.images[0].name.replace("_rgb.png", f"_{part}.png")
    size = Image.open(path).size
    content = np.zeros(size[::-1], {"F": np.float32, "I;16": np.uint16}.get(mode, np.uint8))
    image = Image.fromarray(content)
    image = image if image.mode == mode else image.convert(mode)
    path.unlink()
    if mode == "F":  # PNG holds no floating point: a TIFF under that name
        image.save(path, format="TIFF")
    else:
        image.save(path)
    with pytest.raises(ValueError, match=rf"{path.name} is an image of mode '{mode}', and .* were expected"):
        data[0]
