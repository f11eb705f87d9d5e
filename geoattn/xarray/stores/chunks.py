"""Zarr arrays on a local disk, read chunk by chunk: the direct route for plainly stored numbers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn import _extras
from geoattn.xarray.stores.zarr_private import chunk_key, description, local_folder

#: codecs whose data say by themselves how they were compressed
CODECS = ("zstd", "blosc", "gzip")

Task = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class LocalArray:
    """Where the chunks of an array lie, and how they are decoded."""

    folder: Path
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    #: a codec of numcodecs, or None
    codec: Any
    #: value of chunks that were never written
    fill: Any
    #: file of a chunk in the folder
    key: Callable[[tuple[int, ...]], str]

    @classmethod
    def of(cls, array: Any) -> LocalArray | None:
        """The direct route to a ``zarr.Array``, or None where it is stored in any uncommon way.

        Common is: on a local disk, unsharded, in C order and the machine's byte order, and compressed
        by one of :data:`CODECS` at most.
        """
        folder, stored = local_folder(array), description(array)
        sharded = getattr(array, "shards", None) is not None
        if folder is None or sharded or array.dtype.kind not in "biuf" or not array.dtype.isnative:
            return None
        codec = _codec_of_format_3(stored) if hasattr(stored, "codecs") else _codec_of_format_2(stored)
        if codec is _UNCOMMON:
            return None
        return cls(
            folder=folder,
            shape=array.shape,
            chunks=array.chunks,
            dtype=array.dtype,
            codec=codec,
            fill=0 if array.fill_value is None else array.fill_value,
            key=chunk_key(array),
        )

    def plan(self, index: tuple[slice, ...]) -> tuple[NDArray[Any], list[Task]]:
        """An array for the values at ``index``, and what fills it: one task for each chunk."""
        axes = [list(_pieces(*axis)) for axis in zip(index, self.shape, self.chunks, strict=True)]
        values = np.empty([piece[-1][-1].stop for piece in axes], self.dtype)
        return values, [self._task(values, pieces) for pieces in itertools.product(*axes)]

    def _task(self, values: NDArray[Any], pieces: tuple[tuple[int, slice, slice], ...]) -> Task:
        numbers, inside, outside = zip(*pieces, strict=True)
        file = self.folder / self.key(numbers)

        def read() -> None:
            try:
                stored = file.read_bytes()
            except FileNotFoundError:
                values[outside] = self.fill
                return
            decoded = stored if self.codec is None else self.codec.decode(stored)
            values[outside] = np.frombuffer(decoded, self.dtype).reshape(self.chunks)[inside]

        return read


def _pieces(selection: slice, size: int, chunk: int) -> Iterator[tuple[int, slice, slice]]:
    """Of each chunk along an axis: its number, the selected places in it, and where they go."""
    start, stop, step = selection.indices(size)
    done = 0
    while start < stop:
        number = start // chunk
        count = len(range(start, min(stop, (number + 1) * chunk), step))
        first = start - number * chunk
        yield number, slice(first, first + (count - 1) * step + 1, step), slice(done, done + count)
        start, done = start + count * step, done + count


_UNCOMMON = object()


def _codec_of_format_2(stored: Any) -> Any:
    if stored.filters or stored.order != "C":
        return _UNCOMMON
    compressor = stored.compressor
    return compressor if compressor is None or compressor.codec_id in CODECS else _UNCOMMON


def _codec_of_format_3(stored: Any) -> Any:
    _extras.require("reading chunks of zarr", "numcodecs")
    import numcodecs

    first, *others = (codec.to_dict() for codec in stored.codecs)
    endian = first.get("configuration", {}).get("endian", "little")
    if first["name"] != "bytes" or endian != "little" or len(others) > 1:
        return _UNCOMMON
    if not others:
        return None
    name = others[0]["name"]
    return numcodecs.get_codec({"id": name}) if name in CODECS else _UNCOMMON
