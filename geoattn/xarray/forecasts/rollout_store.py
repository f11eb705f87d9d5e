"""The store that a forecast fills: allocated once, written lead time by lead time, named when complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn._files import differences, sync, whole, write_json

#: attribute of a finished store that says what was asked for
REQUEST = "geoattn_forecast"


class RolloutStore:
    """A store being filled by batches of samples, each from its first lead time to its last.

    Until it is complete it lies beside its place, in ``<path>.unfinished``, with a record of the checksums
    of the lead times that each batch has reached. The record follows the data, once the disk holds them: a
    run that was killed at any moment repeats at most the lead time it was writing, and writes the same
    values again. The record is also the mark by which a folder is known as one that may be deleted. One
    process at a time works on a store: the caller holds the lock of ``path``.

    Parameters
    ----------
    path
        Where the finished store goes.
    request
        What is asked for, in JSON types: an unfinished store of another request is not continued.
    resume
        Whether an unfinished store is continued.

    Raises
    ------
    FileExistsError
        If there is a store, or an unfinished one, and ``resume`` is False; or a folder that is neither.
    ValueError
        If there is one of another request.
    """

    def __init__(self, path: str | os.PathLike[str], request: dict[str, Any], resume: bool) -> None:
        self.path, self.request = Path(path), request
        self.folder = self.path.with_name(self.path.name + ".unfinished")
        self.store, self._record = self.folder / "store.zarr", self.folder / "progress.json"
        #: whether there is nothing left to do
        self.complete = self.path.exists()
        if not resume:
            if self.complete:
                raise FileExistsError(f"{str(self.path)!r} exists: give another output, or delete it")
            if self.folder.exists():
                raise FileExistsError(
                    f"{str(self.folder)!r} holds an unfinished forecast: continue it by --resume "
                    "(resume=True), or delete it"
                )
        #: of each batch, the checksums of the lead times that it has reached
        self._done: list[list[str]] = []
        #: checksums of the coordinates and descriptions, which no lead time changes
        self._fixed: dict[str, str] = {}
        if self.complete:
            self._check(self._finished_request(), str(self.path))
            if self._read_record() is not None:  # killed after the store got its name
                shutil.rmtree(self.folder)
        elif self.folder.exists():
            record = self._read_record()
            if record is None:
                raise FileExistsError(
                    f"{str(self.folder)!r} is no unfinished forecast of this version: give another output, "
                    "or move it away"
                )
            self._check(record[REQUEST], str(self.folder))
            if record["fixed"] == _checksums(self.store, record["fixed"]):
                self._done, self._fixed = record["done"], record["fixed"]
            else:
                warnings.warn(
                    f"coordinates or descriptions in {str(self.store)!r} are damaged: the forecast is made "
                    "again from its start",
                    stacklevel=3,
                )

    @property
    def allocated(self) -> bool:
        """Whether there is a store to write to."""
        return bool(self._done)

    def allocate(
        self,
        coords: xarray.Dataset,
        arrays: Mapping[str, tuple[tuple[str, ...], dict[str, Any]]],
        batches: int,
    ) -> None:
        """Write the coordinates and make the arrays, of missing values.

        Parameters
        ----------
        coords
            Coordinates, and variables that are not forecast; its attributes become the store's.
        arrays
            Name → dimensions and attributes. The leading dimensions, those without the grid and the
            levels, have chunks of length 1.
        batches
            Number of batches that fill the store.
        """
        import zarr

        leading = ("time", "realization", "prediction_timedelta")
        attrs = {**coords.attrs, REQUEST: json.dumps(self.request)}
        with whole(self.folder, durable=True) as partial:
            store = partial / self.store.name
            coords.assign_attrs(attrs).to_zarr(store, mode="w-", consolidated=False)
            group = zarr.open_group(store, mode="r+")
            for name, (dims, attributes) in arrays.items():
                group.create_array(
                    name,
                    shape=tuple(int(coords.sizes[dim]) for dim in dims),
                    chunks=tuple(1 if dim in leading else int(coords.sizes[dim]) for dim in dims),
                    dtype="float32",
                    fill_value=np.float32(np.nan),
                    dimension_names=dims,
                    attributes=attributes,
                )
            self._done = [[] for _ in range(batches)]
            files = [path for path in store.rglob("*") if path.is_file()]
            self._fixed = _checksums(store, [path.relative_to(store).as_posix() for path in files])
            self._write_record(partial)

    def done(self, batch: int) -> int:
        """Lead times that a batch has reached."""
        return len(self._done[batch])

    def verify(self, names: Sequence[str], places: Sequence[Sequence[tuple[int, ...]]]) -> None:
        """Read all that was written, and forget each batch from its first lead time that is damaged.

        Missing files are damage too: where nothing was known, values are missing by their checksum.
        ``places`` are those of each batch. A warning says what is made again.
        """
        for batch, own in enumerate(places):
            for lead, expected in enumerate(self._done[batch], 1):
                try:
                    sound = _checksum(self.read(names, own, lead)) == expected
                except Exception:  # each of zarr's codecs has errors of its own
                    sound = False
                if not sound:
                    warnings.warn(
                        f"lead time {lead} of batch {batch + 1} in {str(self.folder)!r} is damaged: it and "
                        "the later ones of its batch are made again",
                        stacklevel=2,
                    )
                    del self._done[batch][lead - 1 :]
                    self._write_record()
                    break

    def write(
        self, batch: int, places: Sequence[tuple[int, ...]], lead: int, values: Mapping[str, NDArray[Any]]
    ) -> None:
        """Write one lead time (counted from 1) of a batch, then record it when the disk holds it.

        ``values[name]`` has one entry per place, the index along the dimensions before the lead time.
        """
        arrays = self._arrays(values)
        for name, samples in values.items():
            for place, sample in zip(places, samples, strict=True):
                arrays[name][(*place, lead - 1)] = sample
                chunk = self.store / name / "c" / "/".join(map(str, (*place, lead - 1)))
                if chunk.exists():  # zarr writes no file where all values are missing
                    sync(chunk, up_to=self.store / name)
        self._done[batch][lead - 1 :] = [_checksum(values)]
        self._write_record()

    def read(
        self, names: Sequence[str], places: Sequence[tuple[int, ...]], lead: int
    ) -> dict[str, NDArray[np.float32]]:
        """What :meth:`write` wrote."""
        arrays = self._arrays(names)
        return {name: np.stack([arrays[name][(*place, lead - 1)] for place in places]) for name in names}

    def finish(self) -> None:
        """Give the store its name."""
        for junk in self.store.rglob("*.partial"):  # files that zarr was writing when it was killed
            junk.unlink()
        os.replace(self.store, self.path)
        sync(self._record, up_to=self.path.parent)
        shutil.rmtree(self.folder)
        self.complete = True

    @cached_property
    def _group(self) -> Any:
        import zarr

        return zarr.open_group(self.store, mode="r+")

    def _arrays(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: self._group[name] for name in names}

    def _write_record(self, folder: Path | None = None) -> None:
        record = {REQUEST: self.request, "fixed": self._fixed, "done": self._done}
        write_json(record, (folder or self.folder) / self._record.name, durable=True)

    def _read_record(self) -> dict[str, Any] | None:
        """What is recorded in the folder; None if it does not carry our mark."""
        try:
            record = json.loads(self._record.read_bytes())
        except (OSError, ValueError):
            return None
        known = isinstance(record, dict) and record.keys() == {REQUEST, "fixed", "done"}
        return record if known else None

    def _finished_request(self) -> Any:
        import zarr

        try:
            attributes = dict(zarr.open_group(self.path, mode="r").attrs)
        except (FileNotFoundError, NotADirectoryError, KeyError):
            attributes = {}
        return json.loads(str(attributes.get(REQUEST, "null")))

    def _check(self, found: Any, where: str) -> None:
        if found == self.request:
            return
        if not isinstance(found, dict):
            raise FileExistsError(f"{where!r} is no forecast to resume: give another output, or delete it")
        raise ValueError(
            f"{where!r} is another forecast: {differences(found, self.request)}. "
            "Give another output, or delete it"
        )


def _checksum(values: Mapping[str, NDArray[Any]]) -> str:
    """Of one lead time of a batch; all that is not a number counts as missing."""
    digest = hashlib.sha256()
    for name in sorted(values):
        array = np.ascontiguousarray(values[name], "<f4")
        digest.update(f"{name} {array.shape}".encode())
        digest.update(np.where(np.isnan(array), np.float32(np.nan), array).tobytes())
    return digest.hexdigest()


def _checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Of files in a folder; those that are missing are left out."""
    found = {}
    for name in names:
        try:
            found[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError:
            continue
    return found
