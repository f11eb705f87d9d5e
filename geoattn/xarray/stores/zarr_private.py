"""What differs between zarr 2 and 3, and its names that are not public; other files take both from here.

Each was read in zarr 2.18 and 3.0 to 3.4. If a release moves one, this file and no other has to follow.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn import _extras

#: an array of zarr, and what is read along each of its dimensions
Read = tuple[Any, tuple[slice, ...]]


def is_release_2() -> bool:
    """Whether the zarr at hand is of release 2, which has neither format 3 nor asynchronous reads."""
    _extras.require("a zarr store", "zarr")
    import zarr

    return zarr.__version__.startswith("2.")


def read_all(reads: Sequence[Read]) -> list[NDArray[Any]]:
    """The stored values of several selections: asked of zarr 3 at once, of zarr 2 one after another."""
    if not reads:
        return []
    if is_release_2():
        return [np.asarray(array[index]) for array, index in reads]
    from zarr.core.sync import sync

    async def gather() -> list[Any]:
        # public as ``async_array`` in releases after 3.1.3
        return await asyncio.gather(*(array._async_array.getitem(index) for array, index in reads))

    return [np.asarray(values) for values in sync(gather())]


def is_consolidated(group: Any) -> bool:
    """Whether the descriptions of a group's arrays are also kept together."""
    if is_release_2():
        return ".zmetadata" in group.store
    return group.metadata.consolidated_metadata is not None


def consolidate(path: Path) -> None:
    """Keep the descriptions of all arrays together, at the root of a store whose arrays are all made.

    What opens a store looks for that first; xarray warns where it is missing. In format 3 it lies within
    the description of the group, where readers that do not know it pass it over, and zarr warns that the
    format does not specify it yet.
    """
    _extras.require("a zarr store", "zarr")
    import zarr

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        zarr.consolidate_metadata(str(path))


def local_folder(array: Any) -> Path | None:
    """The folder of an array's chunks, if they lie plainly on a local disk."""
    store = array.store
    if is_release_2():  # other stores of its have names of their own, and extend this one
        return Path(store.path) / array.path if type(store).__name__ == "DirectoryStore" else None
    from zarr.storage import LocalStore

    return Path(store.root) / array.path if isinstance(store, LocalStore) else None


def description(array: Any) -> Any:
    """What holds filters, order and compressor of an array of format 2, or the codecs of one of format 3."""
    return array if is_release_2() else array.metadata


def chunk_key(array: Any) -> Callable[[tuple[int, ...]], str]:
    """The file of a chunk in the array's folder, from its number along each dimension."""
    if is_release_2():
        separator = array._dimension_separator or "."
        return lambda numbers: separator.join(map(str, numbers)) or "0"
    key: Callable[[tuple[int, ...]], str] = array.metadata.encode_chunk_key
    return key


def create_array(
    group: Any,
    name: str,
    dims: tuple[str, ...],
    attributes: dict[str, Any],
    **storage: Any,
) -> None:
    """Make an array in a group, with the names of its dimensions where xarray looks for them."""
    if is_release_2():
        array = group.create_dataset(name, **storage)
        array.attrs.update(attributes | {"_ARRAY_DIMENSIONS": list(dims)})
    else:
        group.create_array(name, dimension_names=dims, attributes=attributes, **storage)
