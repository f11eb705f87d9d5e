"""Where some points of a grid lie among the chunks of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Box(NamedTuple):
    """A box of the grid within one chunk."""

    #: along each of the grid's dimensions
    slices: tuple[slice, ...]
    #: the points in it: flat places within the box
    inside: NDArray[np.int64]
    #: and which of all points they are
    places: NDArray[np.int64]


def boxes(points: NDArray[np.integer], sizes: Sequence[int], chunks: Sequence[int]) -> list[Box]:
    """The boxes that hold flat ``points [n]`` of a grid, one for each chunk that has any, as small as may be.

    ``sizes`` are those of the grid's dimensions, ``chunks`` the lengths of the chunks along them.
    """
    index = np.stack(np.unravel_index(points, sizes), axis=-1)
    counts = tuple(-(-n // c) for n, c in zip(sizes, chunks, strict=True))
    numbers = np.ravel_multi_index(tuple((index // chunks).T), counts)
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    found = []
    for places in np.split(order, starts[1:]) if len(points) else []:
        own = index[places]
        low, shape = own.min(0), np.ptp(own, axis=0) + 1
        slices = tuple(slice(int(a), int(a + n)) for a, n in zip(low, shape, strict=True))
        found.append(Box(slices, np.ravel_multi_index(tuple((own - low).T), tuple(shape)), places))
    return found
