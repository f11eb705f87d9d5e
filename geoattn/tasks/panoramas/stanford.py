"""The panoramas of 2D-3D-S (Armeni et al. 2017, arXiv:1702.01105), read from its published layout."""

from __future__ import annotations

import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from geoattn.grids import SphericalGrid
from geoattn.grids.sphere import lat_lon
from geoattn.tasks.panoramas.classes import CLASSES, NO_DEPTH, UNLABELLED
from geoattn.tasks.panoramas.rendering.camera import Camera
from geoattn.tasks.panoramas.samples import Sample, sample_of

#: areas to test on in each fold; the others are to train on
FOLDS = {1: ("5a", "5b"), 2: ("2", "4"), 3: ("1", "3", "6")}
AREAS = ("1", "2", "3", "4", "5a", "5b", "6")
SPLITS = ("train", "val", "test")

#: index of a pixel that no label was drawn for: the colour #0D0D0D
MISSING_INDEX = 0x0D0D0D
#: stored depth of a pixel without one; all others are multiples of 1/512 m
MISSING_DEPTH, DEPTH_UNIT = 65535, 1.0 / 512.0
#: one room in so many of the training areas is for validation
VALIDATION_SHARE = 10

_NAME = re.compile(r"camera_(?P<camera>[^_]+)_(?P<room>.+)_frame_equirectangular_domain_rgb\.png")


class Stanford2D3DS(Dataset[Sample]):
    """Panoramas of 2D-3D-S on a grid.

    Parameters
    ----------
    root
        The folder with ``area_1`` … ``area_6``, each with ``pano/rgb``, ``pano/semantic`` and
        ``pano/depth``, and with ``semantic_labels.json`` or ``assets/semantic_labels.json``.
    fold
        1, 2 or 3: which areas are for testing (5a and 5b; 2 and 4; 1, 3 and 6).
    grid
        Where the samples live; ``ga.grids.equiangular(nlat, nlon, poles=False)`` for images.
    split
        ``"test"``: all rooms of the fold's test areas. ``"train"`` and ``"val"``: the rooms of the
        other areas, about nine and one in ten; the panoramas of a room stay together, and which rooms
        are for validation depends on their names alone.
    pitch, roll
        Turn the camera by so many degrees: see :class:`Camera`.

    Notes
    -----
    A sample's colours are means over square blocks of the image, about as large as the grid's cells;
    class and depth are those of the pixel in the middle of the block, never averages. Pixels with the
    missing label, with the class ``<UNK>``, or without a depth are marked as such and excluded from
    losses and metrics.

    Raises
    ------
    ValueError
        If fold, split or an image size is unknown, or a label has no entry in the table.
    FileNotFoundError
        If a folder or a file of the layout is missing.
    OSError
        If an image is truncated or no image, when it is read.
    """

    def __init__(
        self,
        root: str | Path,
        fold: int,
        grid: SphericalGrid,
        split: str = "train",
        *,
        pitch: float = 0.0,
        roll: float = 0.0,
    ) -> None:
        if fold not in FOLDS:
            raise ValueError(f"fold must be 1, 2 or 3, got {fold!r}")
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}, got {split!r}")
        self.root, self.fold, self.grid, self.split = Path(root), fold, grid, split
        self.class_of_index = _class_table(self.root)
        rays = Camera((0.0, 0.0, 0.0), 0.0, pitch, roll).rays(grid).reshape(*grid.shape, 3)
        self._lat, self._lon = lat_lon(rays * np.array([1.0, -1.0, 1.0]))  # as the upright image has them
        testing = split == "test"
        areas = [area for area in AREAS if (area in FOLDS[fold]) == testing]
        self.images = [path for area in areas for path in self._panoramas(area)]
        if not self.images:
            raise FileNotFoundError(f"no panorama for {split!r} in areas {', '.join(areas)} of {self.root}")

    def _panoramas(self, area: str) -> list[Path]:
        folder = self.root / f"area_{area}" / "pano"
        for part in ("rgb", "semantic", "depth"):
            if not (folder / part).is_dir():
                raise FileNotFoundError(f"{folder / part} is missing; 2D-3D-S keeps its panoramas there")
        found = []
        for path in sorted((folder / "rgb").glob("*.png")):
            match = _NAME.fullmatch(path.name)
            if match is None:
                raise ValueError(f"{path} is not named camera_…_frame_equirectangular_domain_rgb.png")
            room = f"area_{area}/{match['room']}"
            held_out = zlib.crc32(room.encode()) % VALIDATION_SHARE == 0
            if self.split == "test" or held_out == (self.split == "val"):
                found.append(path)
        for path in found:
            for part in ("semantic", "depth"):
                if not _beside(path, part).is_file():
                    raise FileNotFoundError(f"{_beside(path, part)} is missing beside {path.name}")
        return found

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        path = self.images[index]
        name = f"{path.parent.parent.parent.name}/{path.name.removesuffix('_domain_rgb.png')}"
        image = _read(path)
        width, height = image.size
        if width != 2 * height:
            raise ValueError(f"{path} has {width} × {height} pixels; a panorama is twice as wide as high")
        semantic, depth = (_read(_beside(path, part)) for part in ("semantic", "depth"))
        for other in (semantic, depth):
            if other.size != image.size:
                raise ValueError(
                    f"{other.filename} has {other.size[0]} × {other.size[1]} pixels, "
                    f"{path.name} {width} × {height}"
                )
        block = block_size(height, self.grid)
        rows, columns = self._blocks(height // block)
        colours = np.asarray(image.convert("RGB").reduce(block))
        middle = slice(block // 2, None, block)
        _check_mode(depth, ("I;16", "I;16B", "I;16L", "I"), "16-bit depths of one channel, steps of 1/512 m")
        _check_mode(semantic, ("RGB", "RGBA"), "semantic indices in three channels of 8 bits")
        _check_mode(image, ("RGB", "RGBA"), "colours in three channels of 8 bits")
        raw = np.asarray(depth)[middle, middle]
        if raw.min() < 0 or raw.max() > MISSING_DEPTH:
            raise ValueError(f"{depth.filename} holds {raw.min()} to {raw.max()}: no 16-bit depths")
        metres = np.where(raw == MISSING_DEPTH, NO_DEPTH, raw * DEPTH_UNIT)
        label = self._classes(np.asarray(semantic.convert("RGB"))[middle, middle], name)
        return sample_of(
            name, colours[rows, columns], metres[rows, columns].astype(np.float32), label[rows, columns]
        )

    def _blocks(self, height: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of the block at each point of the grid; column 0 has its middle at longitude 0."""
        rows = np.floor((90.0 - self._lat) / 180.0 * height).astype(np.int64)
        columns = np.round(self._lon / 360.0 * 2 * height).astype(np.int64)
        return np.clip(rows, 0, height - 1), columns % (2 * height)

    def _classes(self, colours: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        channels = colours.astype(np.int64)
        index = channels[..., 0] * 65536 + channels[..., 1] * 256 + channels[..., 2]
        missing = index == MISSING_INDEX
        index = np.where(missing, 0, index)
        if index.max() >= len(self.class_of_index):
            raise ValueError(
                f"sample {name!r}: semantic index {index.max()} is beyond the {len(self.class_of_index)} "
                f"entries of semantic_labels.json"
            )
        return np.where(missing, UNLABELLED, self.class_of_index[index]).astype(np.uint8)


def block_size(height: int, grid: SphericalGrid) -> int:
    """Side of the blocks of an image of 2·height × height pixels: a divisor, at most a cell of the grid."""
    largest = max(1, math.isqrt(2 * height**2 // grid.size))
    return next(size for size in range(largest, 0, -1) if height % size == 0)


def _class_table(root: Path) -> NDArray[np.uint8]:
    """The class of each semantic index; ``class_instance_room_number_area`` are the entries."""
    candidates = (root / "semantic_labels.json", root / "assets" / "semantic_labels.json")
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"neither {candidates[0]} nor {candidates[1]} exists")
    try:
        entries = json.loads(path.read_text())
        names = [str(entry).split("_")[0] for entry in entries]
    except (json.JSONDecodeError, TypeError) as reason:
        raise ValueError(f"{path} is no JSON list of labels: {reason}") from reason
    strange = sorted(set(names) - {*CLASSES, "<UNK>"})
    if strange:
        raise ValueError(f"{path} has labels of unknown classes: {', '.join(strange)}")
    return np.array([CLASSES.index(n) if n in CLASSES else UNLABELLED for n in names], dtype=np.uint8)


def _check_mode(image: Any, modes: tuple[str, ...], what: str) -> None:
    """Refuse an image that a tool has saved in another form: its numbers are others by then."""
    if image.mode not in modes:
        raise ValueError(
            f"{image.filename} is an image of mode {image.mode!r}, and {what} were expected (mode "
            f"{modes[0]!r}): a tool may have converted it; take the file as it was published"
        )


def _beside(rgb: Path, part: str) -> Path:
    """The file of another modality of the same panorama."""
    return rgb.parent.parent / part / rgb.name.replace("_domain_rgb.png", f"_domain_{part}.png")


def _read(path: Path) -> Any:
    """An image, wholly read."""
    try:
        from PIL import Image
    except ImportError as reason:
        raise ImportError(
            f'reading images needs Pillow ({reason}): pip install "geoattn[vision]"'
        ) from reason
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError) as reason:  # what Pillow raises for broken PNG files
        raise OSError(f"{path} cannot be read as an image: {reason}") from reason
