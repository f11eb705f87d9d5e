"""Writing stores whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import xarray


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
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    partial, replaced = (path.with_name(f"{path.name}.{mark}.{word}") for word in ("partial", "replaced"))
    try:
        ds.to_zarr(partial, mode="w-", consolidated=False, **options)
        if path.exists():
            os.replace(path, replaced)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
