"""Writing stores whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import xarray

from geoattn._files import whole
from geoattn.xarray.stores.zarr_private import consolidate


def refuse_existing(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Refuse to write where something is.

    Raises
    ------
    FileExistsError
        If there is something at ``path`` and ``overwrite`` is False.
    """
    if not overwrite and Path(path).exists():
        raise FileExistsError(f"{str(path)!r} exists; to replace it: overwrite=True")


def write_zarr(
    ds: xarray.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False, **options: Any
) -> None:
    """Write a data set as a zarr store that takes its name only when it is complete.

    ``options`` are those of ``xarray.Dataset.to_zarr``.

    Raises
    ------
    FileExistsError
        If there is something at ``path`` and ``overwrite`` is False.
    """
    refuse_existing(path, overwrite)
    with whole(path) as partial:
        ds.to_zarr(partial, mode="w-", consolidated=False, **options)
        consolidate(partial)
