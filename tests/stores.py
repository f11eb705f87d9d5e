"""What tests of stores share, on zarr 2 and on zarr 3."""

from pathlib import Path

import pytest

zarr = pytest.importorskip("zarr", reason="stores are zarr")

ZARR_2 = zarr.__version__.startswith("2.")
#: the newest format that this zarr writes
ZARR = "zarr-2" if ZARR_2 else "zarr-3"
FORMATS = ["zarr-2", "netcdf"] if ZARR_2 else ["zarr-2", "zarr-3", "netcdf"]
needs_zarr_3 = pytest.mark.skipif(ZARR_2, reason="zarr 2 has neither this format nor these store objects")


def chunk_files(folder: Path) -> list[Path]:
    """The files of an array's chunks, by name."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.name.startswith((".z", "zarr.json")))


def local_store(path: Path):
    """An object of zarr for a store on a local disk."""
    return zarr.storage.DirectoryStore(path) if ZARR_2 else zarr.storage.LocalStore(path, read_only=True)


if not ZARR_2:

    class Counting(zarr.storage.WrapperStore):
        """Keeps the keys that are asked for."""

        def __init__(self, path):
            super().__init__(local_store(path))
            self.keys = []

        async def get(self, key, prototype, byte_range=None):
            self.keys.append(key)
            return await super().get(key, prototype, byte_range)
