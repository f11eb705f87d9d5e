"""The store that a forecast fills: allocated once, written lead time by lead time, named when complete."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn import _extras
from geoattn._files import differences, sync, whole, write_json
from geoattn._warning import warn
from geoattn.xarray.stores.zarr_private import chunk_key, consolidate, create_array

#: attribute of a finished store that says what was asked for
REQUEST = "geoattn_forecast"


#: where a finished store keeps its record: zarr warns of files it does not know, but not within an array
RECORD = Path("prediction_timedelta", "geoattn_forecast.json")


class RolloutStore:
    """A store being filled by batches of samples, each from its first lead time to its last.

    Until it is complete it lies beside its place, in ``<path>.unfinished``, with a record of the checksums
    of the lead times that each batch has reached. The record follows the data, once the disk holds them: a
    run that was killed at any moment repeats at most the lead time it was writing, and writes the same
    values again. The record is also the mark by which a folder is known as one that may be deleted. A
    finished store keeps it; one that was damaged since is unfinished again. One process at a time works on
    a store, or several that divide the bands of rows among them, each of which is a chunk: the caller holds
    the lock of ``path``.

    Parameters
    ----------
    path
        Where the finished store goes.
    request
        What is asked for, in JSON types: an unfinished store of another request is not continued.
    resume
        Whether a store that is there is continued.

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
        self.store = self.folder / "store.zarr"
        if not resume:
            if self.path.exists():
                raise FileExistsError(f"{str(self.path)!r} exists: give another output, or delete it")
            if self.folder.exists():
                raise FileExistsError(
                    f"{str(self.folder)!r} holds an unfinished forecast: continue it by --resume "
                    "(resume=True), or delete it"
                )
        self._record: Record | None = None
        if self.path.exists():
            self._reopen()
        if self.folder.exists():
            record = Record.read(self.folder / "progress.json")
            if record is None:
                raise FileExistsError(
                    f"{str(self.folder)!r} is no unfinished forecast of this version: give another output, "
                    "or move it away"
                )
            _check(record.request, request, self.folder)
            if record.fixed == _checksums(self.store, record.fixed):
                self._record = record
                self._forget_damaged()
            else:
                warn(
                    f"coordinates or descriptions in {str(self.store)!r} are damaged: the forecast is made "
                    "again from its start"
                )

    @staticmethod
    def is_finished(path: str | os.PathLike[str], request: dict[str, Any]) -> bool:
        """Whether a finished store of this request lies there, and every value in it is as it was written.

        All of it is read; nothing is written, so that folders may be read-only. A store without a record
        (of an earlier version, or copied by a tool that leaves it out) is taken as it is, with a warning.

        Raises
        ------
        FileExistsError
            If what lies there is no forecast.
        ValueError
            If it is another forecast.
        """
        path = Path(path)
        leftover = Record.read(path.with_name(path.name + ".unfinished") / "progress.json")
        if not path.exists() or leftover is not None:
            return False
        record = Record.read(path / RECORD)
        _check(record.request if record else _request_of(path), request, path)
        if record is None:
            warn(f"{str(path)!r} carries no checksums: it is taken as it is. To make it again, delete it")
            return True
        sound = record.fixed == _checksums(path, record.fixed)
        return sound and all(_sound_leads(path, record, b) == len(d) for b, d in enumerate(record.done))

    @classmethod
    def of(cls, path: str | os.PathLike[str], request: dict[str, Any], record: Record | None) -> Self:
        """The store that another process has opened, and found its record of."""
        made = cls.__new__(cls)
        made.path, made.request, made._record = Path(path), request, record
        made.folder = made.path.with_name(made.path.name + ".unfinished")
        made.store = made.folder / "store.zarr"
        return made

    @property
    def record(self) -> Record | None:
        """What is known of it, once it is allocated."""
        return self._record

    def adopt(self, record: Record | None) -> None:
        """Go by a record that another process has made."""
        self._record = record

    @property
    def allocated(self) -> bool:
        """Whether there is a store to write to."""
        return self._record is not None

    def allocate(
        self,
        coords: xarray.Dataset,
        arrays: Mapping[str, tuple[tuple[str, ...], dict[str, Any]]],
        batches: Sequence[Sequence[tuple[int, ...]]],
        bands: Mapping[str, int],
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
            Of each batch, where its samples lie: indices along the dimensions before the lead time.
        bands
            Dimension → length of its chunks; others are not divided.
        """
        _extras.require("a zarr store", "zarr")
        import zarr

        leading = ("time", "realization", "prediction_timedelta")
        attrs = {**coords.attrs, REQUEST: json.dumps(self.request)}
        with whole(self.folder, durable=True) as partial:
            store = partial / self.store.name
            coords.assign_attrs(attrs).to_zarr(store, mode="w-", consolidated=False)
            group = zarr.open_group(store, mode="r+")
            for name, (dims, attributes) in arrays.items():
                create_array(
                    group,
                    name,
                    dims,
                    attributes,
                    shape=tuple(int(coords.sizes[dim]) for dim in dims),
                    chunks=tuple(1 if d in leading else bands.get(d, int(coords.sizes[d])) for d in dims),
                    dtype="float32",
                    fill_value=np.float32(np.nan),
                )
            consolidate(store)  # now: what is written later changes no description
            files = [path for path in store.rglob("*") if path.is_file()]
            fixed = _checksums(store, [path.relative_to(store).as_posix() for path in files])
            places = [[tuple(place) for place in batch] for batch in batches]
            self._record = Record(self.request, fixed, list(arrays), places, [[] for _ in batches])
            self._record.write(partial / "progress.json")

    def done(self, batch: int) -> int:
        """Lead times that a batch has reached."""
        return len(self._known.done[batch])

    def height(self) -> int:
        """Rows of a band, which is one chunk: more than there are where nothing is divided."""
        leading = len(self._known.places[0][0]) + 1
        heights = [_height(self._group[name], leading) for name in self._known.names]
        return min(h for h in heights if h) if any(heights) else sys.maxsize

    def write(self, batch: int, lead: int, band: int, values: Mapping[str, NDArray[Any]]) -> str:
        """Write a band of one lead time (counted from 1) of a batch; its checksum, once the disk holds it.

        ``values[name]`` has one entry per sample of the batch.
        """
        for name, samples in values.items():
            for place, sample in zip(self._known.places[batch], samples, strict=True):
                array, leading = self._group[name], (*place, lead - 1)
                region, numbers = _region(array, len(leading), band)
                array[(*leading, *region)] = sample
                chunk = self.store / name / chunk_key(array)((*leading, *numbers))
                if chunk.exists():  # zarr writes no file where all values are missing
                    sync(chunk, up_to=self.store / name)
        return _checksum(values)

    def note(self, batch: int, lead: int, checksums: Sequence[str], *, write: bool) -> None:
        """Record a lead time of a batch, by the checksums of all its bands in their order."""
        self._known.done[batch][lead - 1 :] = [" ".join(checksums)]
        if write:
            self._known.write(self.folder / "progress.json")

    def read(self, batch: int, lead: int) -> dict[str, NDArray[np.float32]]:
        """What :meth:`write` wrote."""
        return _read(self._group, self._known, batch, lead)

    def finish(self) -> None:
        """Give the store its name."""
        for junk in self.store.rglob("*.partial"):  # files that zarr was writing when it was killed
            junk.unlink()
        self._known.write(self.store / RECORD)
        os.replace(self.store, self.path)
        sync(self.folder / "progress.json", up_to=self.path.parent)
        shutil.rmtree(self.folder)

    def _reopen(self) -> None:
        """Make a finished store unfinished again, as one whose last lead times may be damaged."""
        record = Record.read(self.path / RECORD)
        _check(record.request if record else _request_of(self.path), self.request, self.path)
        if record is None:
            raise FileExistsError(
                f"{str(self.path)!r} carries no checksums: give another output, or delete it"
            )
        if self.folder.exists():
            if Record.read(self.folder / "progress.json") is None:
                return  # none of ours
            shutil.rmtree(self.folder)  # killed while the store was given its name, or lost it
        with whole(self.folder, durable=True) as partial:
            record.write(partial / "progress.json")
        os.replace(self.path, self.store)

    def _forget_damaged(self) -> None:
        """Read all that was written, and forget each batch from its first lead time that is damaged."""
        for batch, done in enumerate(self._known.done):
            if (sound := _sound_leads(self.store, self._known, batch)) < len(done):
                warn(
                    f"lead time {sound + 1} of batch {batch + 1} in {str(self.folder)!r} is damaged: it and "
                    "the later ones of its batch are made again"
                )
                del done[sound:]
                self._known.write(self.folder / "progress.json")

    @property
    def _known(self) -> Record:
        if self._record is None:
            raise RuntimeError("nothing is allocated yet: call allocate() first")
        return self._record

    @cached_property
    def _group(self) -> Any:
        _extras.require("a zarr store", "zarr")
        import zarr

        return zarr.open_group(self.store, mode="r+")


@dataclasses.dataclass
class Record:
    """What is known of a store that is being filled, or was."""

    #: what was asked for
    request: dict[str, Any]
    #: checksums of the coordinates and descriptions, which no lead time changes
    fixed: dict[str, str]
    #: the forecast variables
    names: list[str]
    #: of each batch, where its samples lie along the dimensions before the lead time
    places: list[list[tuple[int, ...]]]
    #: of each batch, the checksums of the lead times that it has reached
    done: list[list[str]]

    def write(self, path: Path) -> None:
        write_json(dataclasses.asdict(self), path, durable=True)

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """None if the file is not there, or none of ours."""
        try:
            found = json.loads(path.read_bytes())
            if found.keys() != {field.name for field in dataclasses.fields(cls)}:
                return None
            places = [[tuple(place) for place in batch] for batch in found.pop("places")]
            return cls(places=places, **found)
        except (OSError, ValueError, AttributeError, TypeError):
            return None


def _height(array: Any, leading: int) -> int:
    """Length of the chunks along the one axis after ``leading`` that is divided; 0 if none is."""
    pairs = zip(array.chunks[leading:], array.shape[leading:], strict=True)
    return next((int(chunk) for chunk, size in pairs if chunk < size), 0)


def _region(array: Any, leading: int, band: int) -> tuple[tuple[slice, ...], tuple[int, ...]]:
    """What a band is of the axes after ``leading``, and the number of its chunk along them."""
    region, numbers = [], []
    for chunk, size in zip(array.chunks[leading:], array.shape[leading:], strict=True):
        number = band if chunk < size else 0
        region.append(slice(number * chunk, min((number + 1) * chunk, size)))
        numbers.append(number)
    return tuple(region), tuple(numbers)


def _read(group: Any, record: Record, batch: int, lead: int) -> dict[str, NDArray[np.float32]]:
    places = [(*place, lead - 1) for place in record.places[batch]]
    return {name: np.stack([group[name][place] for place in places]) for name in record.names}


def _sound_leads(store: Path, record: Record, batch: int) -> int:
    """How many lead times of a batch hold what was written, before the first that does not.

    Missing files are damage too: where nothing was known, values are missing by their checksum.
    """
    _extras.require("a zarr store", "zarr")
    import zarr

    for number, expected in enumerate(record.done[batch]):
        try:
            group = zarr.open_group(store, mode="r")
            values, sound = _read(group, record, batch, number + 1), True
            leading = len(record.places[batch][0]) + 1
            for band, checksum in enumerate(expected.split()):
                regions = {name: _region(group[name], leading, band)[0] for name in values}
                part = {name: array[(slice(None), *regions[name])] for name, array in values.items()}
                sound = sound and _checksum(part) == checksum
        except Exception:  # each of zarr's codecs has errors of its own
            sound = False
        if not sound:
            return number
    return len(record.done[batch])


def _request_of(path: Path) -> Any:
    """What a finished store says was asked for, or None."""
    _extras.require("a zarr store", "zarr")
    import zarr

    try:
        attributes = dict(zarr.open_group(path, mode="r").attrs)
    except (FileNotFoundError, NotADirectoryError, KeyError, ValueError):  # the last is zarr 2's
        attributes = {}
    return json.loads(str(attributes.get(REQUEST, "null")))


def _check(found: Any, request: dict[str, Any], path: Path) -> None:
    if found == request:
        return
    if not isinstance(found, dict):
        raise FileExistsError(f"{str(path)!r} is no forecast to resume: give another output, or delete it")
    raise ValueError(
        f"{str(path)!r} is another forecast: {differences(found, request)}. Give another output, or delete it"
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
