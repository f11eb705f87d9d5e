"""The store that a forecast fills: allocated once, written lead time by lead time, named when complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn._files import differences, write_json

#: attribute of a finished store that says what was asked for
REQUEST = "geoattn_forecast"


class RolloutStore:
    """A store being filled by batches of samples, each from its first lead time to its last.

    Until it is complete it lies beside its place, in ``<path>.unfinished``, with a record of the lead
    times that each batch has reached. The record follows the data: a run that was killed at any moment
    repeats at most the lead time it was writing, and writes the same values again.

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
        If there is a store, or an unfinished one, and ``resume`` is False.
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
        self._done: list[int] = []
        if self.complete:
            self._check(self._finished_request(), str(self.path))
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self._record.exists():
            record = json.loads(self._record.read_text())
            self._check(record["request"], str(self.folder))
            self._done = record["done"]

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

        shutil.rmtree(self.folder, ignore_errors=True)  # an allocation that was cut short
        self.folder.mkdir(parents=True)
        attrs = {**coords.attrs, REQUEST: json.dumps(self.request)}
        coords.assign_attrs(attrs).to_zarr(self.store, mode="w-", consolidated=False)
        group = zarr.open_group(self.store, mode="r+")
        leading = ("time", "realization", "prediction_timedelta")
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
        self._done = [0] * batches
        self._write_record()

    def done(self, batch: int) -> int:
        """Lead times that a batch has reached."""
        return self._done[batch]

    def write(
        self, batch: int, places: Sequence[tuple[int, ...]], lead: int, values: Mapping[str, NDArray[Any]]
    ) -> None:
        """Write one lead time (counted from 1) of a batch, then record it.

        ``values[name]`` has one entry per place, the index along the dimensions before the lead time.
        """
        arrays = self._arrays(values)
        for name, samples in values.items():
            for place, sample in zip(places, samples, strict=True):
                arrays[name][(*place, lead - 1)] = sample
        self._done[batch] = lead
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
        shutil.rmtree(self.folder)
        self.complete = True

    @cached_property
    def _group(self) -> Any:
        import zarr

        return zarr.open_group(self.store, mode="r+")

    def _arrays(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: self._group[name] for name in names}

    def _write_record(self) -> None:
        write_json({"request": self.request, "done": self._done}, self._record)

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
