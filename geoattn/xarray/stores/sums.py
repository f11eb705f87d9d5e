"""Moments being gathered: parts that add up, and the file in which a killed run finds them again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn._files import read_checked, write_checked
from geoattn.xarray.stores.statistics import Floats, Moments


class Sums:
    """Moments being gathered, of some channels: those of fields, not yet added up, or their sum.

    They are added up field by field in the order in which parts are merged. So the sum does not depend, to
    the bit, on how the fields were cut into parts.
    """

    def __init__(self, rows: Floats) -> None:
        #: ``[n, 8, channels]``, see :func:`geoattn.xarray.stores.moments.of_fields`
        self.rows = rows

    @classmethod
    def none(cls, channels: int) -> Sums:
        """Of no field."""
        return cls(np.zeros((0, 8, channels)))

    @classmethod
    def of(
        cls, values: NDArray[Any], earlier: NDArray[Any], mask: NDArray[np.bool_] | None, weights: Floats
    ) -> Sums:
        """Of fields ``values [n, channels, …]``, less ``earlier`` unless it is empty."""
        from geoattn.xarray.stores.moments import of_fields

        later, before = (array.reshape(*array.shape[:2], weights.size) for array in (values, earlier))
        shown = np.ones((0, 0, 0), bool) if mask is None else mask.reshape(later.shape)
        return cls(of_fields(later, before, shown, weights))

    def merged(self, *others: Sums) -> Sums:
        """All together."""
        from geoattn.xarray.stores.moments import fold

        total = np.zeros(self.rows.shape[1:])
        total[3], total[4] = np.inf, -np.inf
        for part in (self, *others):
            fold(total, part.rows)
        return Sums(total[None])

    def to_bytes(self) -> bytes:
        """The sum; counts below 2^53 are exact as float64."""
        return self.merged().rows.tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> Sums:
        """What :meth:`to_bytes` gave."""
        return cls(np.frombuffer(content).reshape(1, 8, -1).copy())

    def result(self) -> Moments:
        """The moments."""
        (sums,) = self.merged().rows
        found = np.where(sums[7] > 0, sums, np.nan)
        with np.errstate(invalid="ignore"):
            std = np.sqrt(found[2] / found[0])
        return Moments(found[1] + found[6], std, found[3], found[4], found[5], sums[7].astype(np.int64))


#: of the states and of their changes
Pair = tuple[Sums, Sums]


def merged(one: Pair, other: Pair) -> Pair:
    """Both together."""
    return one[0].merged(other[0]), one[1].merged(other[1])


class Progress:
    """Sums of the blocks that are read, in a folder beside the output, so that a killed run goes on.

    A file for each variable, named by a digest of all that decides the sums, and checked when it is read.
    """

    def __init__(self, output: str | os.PathLike[str] | None, decides: list[Any]) -> None:
        self._folder = None if output is None else Path(f"{os.fspath(output)}.sums")
        self._decides = decides
        self._written: set[Path] = set()

    def _path(self, variable: str) -> Path | None:
        if self._folder is None:
            return None
        key = hashlib.sha256(json.dumps([*self._decides, variable]).encode()).hexdigest()
        return self._folder / f"{key}.part"

    def take(self, variable: str) -> tuple[int, Pair] | None:
        """What is there of a variable, and of how many of its blocks."""
        path = self._path(variable)
        content = None if path is None else read_checked(path, own=False)
        if path is None or content is None:
            return None
        self._written.add(path)
        half = (len(content) - 8) // 2
        states, changes = (Sums.from_bytes(content[8 + i * half : 8 + (i + 1) * half]) for i in range(2))
        return int.from_bytes(content[:8], "little"), (states, changes)

    def keep(self, variable: str, blocks: int, sums: Pair) -> None:
        """Note that so many blocks of a variable are summed."""
        if (path := self._path(variable)) is not None:
            self._written.add(path)
            content = blocks.to_bytes(8, "little") + b"".join(each.to_bytes() for each in sums)
            write_checked(content, path, own=False)

    def forget(self) -> None:
        """Delete the files of this run, and the folder if nothing else is in it."""
        for path in self._written:
            path.unlink(missing_ok=True)
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._folder.rmdir()
