"""Panoramas as samples to train on: the checks that every source of them goes through."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from geoattn.grids import SphericalGrid
from geoattn.tasks.panoramas.classes import CLASSES, NO_DEPTH, UNLABELLED
from geoattn.tasks.panoramas.rendering.render import render_rooms


class Sample(TypedDict):
    """One panorama on a grid. Collated, each entry gains a leading axis; names make a list."""

    #: float32 ``[3, *grid.shape]`` in [0, 1]
    rgb: Tensor
    #: metres along the ray, float32 ``[*grid.shape]``; 0 where there is none
    depth: Tensor
    #: int64 ``[*grid.shape]``; 255 where there is none
    label: Tensor
    name: str


def sample_of(
    name: str, rgb: NDArray[np.generic], depth: NDArray[np.floating], label: NDArray[np.integer]
) -> Sample:
    """A checked sample.

    Parameters
    ----------
    name
        For error messages.
    rgb
        ``[*shape, 3]``: uint8, or floating point in [0, 1].
    depth
        Metres, ``[*shape]``; 0 where it is missing.
    label
        Classes, ``[*shape]``; 255 where it is missing.

    Raises
    ------
    TypeError
        With the name: if colours or depths are no real numbers, or labels no integers.
    ValueError
        With the name: if shapes differ, a number is not finite or out of range, or if no pixel has a
        depth, or none a class.
    """
    if not rgb.shape[:-1] == depth.shape == label.shape or rgb.shape[-1] != 3:
        raise ValueError(
            f"sample {name!r}: rgb, depth and label must have shapes [*shape, 3], [*shape] and [*shape], "
            f"got {list(rgb.shape)}, {list(depth.shape)} and {list(label.shape)}"
        )
    kinds = {"rgb": (rgb, "uif"), "depth": (depth, "uif"), "label": (label, "ui")}
    for part, (values, kind) in kinds.items():
        if values.dtype.kind not in kind:
            wanted = "integers, the classes" if part == "label" else "real numbers"
            raise TypeError(f"sample {name!r}: {part} must hold {wanted}, got {values.dtype}")
    if not depth.size:
        raise ValueError(f"sample {name!r}: no pixels, of shape {list(depth.shape)}")
    colours = rgb.astype(np.float32) / (255.0 if rgb.dtype == np.uint8 else 1.0)
    for part, values in (("rgb", colours), ("depth", depth)):
        wrong = np.size(values) - int(np.isfinite(values).sum())
        if wrong:
            raise ValueError(f"sample {name!r}: {wrong} values of {part} are NaN or infinite")
    if depth.min() < 0.0:
        raise ValueError(f"sample {name!r}: a depth of {depth.min()} m; missing depths must be {NO_DEPTH}")
    if colours.min() < 0.0 or colours.max() > 1.0:
        raise ValueError(
            f"sample {name!r}: colours from {colours.min()} to {colours.max()}; expected uint8, or 0 to 1"
        )
    outside = (label != UNLABELLED) & ((label < 0) | (label >= len(CLASSES)))
    if outside.any():
        raise ValueError(
            f"sample {name!r}: label {label[outside].flat[0]} is neither one of the {len(CLASSES)} classes "
            f"nor {UNLABELLED} for none"
        )
    if not (depth > NO_DEPTH).any():
        raise ValueError(f"sample {name!r}: no pixel has a depth, nothing can be learned or scored")
    if (label == UNLABELLED).all():
        raise ValueError(f"sample {name!r}: no pixel has a class, nothing can be learned or scored")
    return Sample(
        rgb=torch.from_numpy(np.ascontiguousarray(np.moveaxis(colours, -1, 0))),
        depth=torch.from_numpy(depth.astype(np.float32)),
        label=torch.from_numpy(label.astype(np.int64)),
        name=name,
    )


class Part(Dataset[Sample]):
    """Some points of each panorama of a set, ``[..., n]`` in place of ``[..., *grid.shape]``.

    Parameters
    ----------
    whole
        The set.
    grid
        Where its panoramas live.
    points
        Flat indices ``[n]``.
    """

    def __init__(self, whole: Dataset[Sample], grid: SphericalGrid, points: NDArray[np.int32]) -> None:
        self.whole, self.rank = whole, len(grid.shape)
        self.points = torch.from_numpy(points.astype(np.int64))

    def __len__(self) -> int:
        return len(self.whole)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        rgb, depth, label = (
            x.flatten(-self.rank)[..., self.points] for x in (sample["rgb"], sample["depth"], sample["label"])
        )
        return Sample(rgb=rgb, depth=depth, label=label, name=sample["name"])


class RenderedRooms(Dataset[Sample]):
    """Panoramas of furnished rooms, rendered when the set is made and kept in memory.

    Parameters
    ----------
    grid, count, split, seed, first
        As for :func:`render_rooms`.
    **options
        Further arguments of :func:`render_rooms`.
    """

    def __init__(
        self,
        grid: SphericalGrid,
        count: int,
        split: str = "train",
        seed: int = 0,
        *,
        first: int = 0,
        **options: Any,
    ) -> None:
        self.grid, self.split, self.seed, self.first = grid, split, seed, first
        self.panoramas = render_rooms(grid, count, split, seed, first=first, **options)

    def __len__(self) -> int:
        return len(self.panoramas.label)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"room {index} of {len(self)}")
        rgb, depth, label = (part[index] for part in self.panoramas)
        name = f"{self.split} room {self.first + index % len(self)} of seed {self.seed}"
        return sample_of(name, rgb, depth, label)
