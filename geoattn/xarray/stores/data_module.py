"""Windows of a store for Lightning. Imported on use: lightning is slow to load."""

from __future__ import annotations

from typing import Any

from geoattn import _extras

_extras.require("ga.xarray.DataModule", "lightning")

import lightning
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from geoattn.xarray.schema.schema import Schema
from geoattn.xarray.stores.parts import check_apart, check_period
from geoattn.xarray.stores.reader import Reader
from geoattn.xarray.stores.statistics import Statistics
from geoattn.xarray.stores.windows import Windows


class DataModule(lightning.LightningDataModule):
    """Batches of :class:`Windows` for training, validation and test.

    The order of training samples depends on ``seed`` and the epoch alone, however many workers read
    them; among processes the samples are divided. Validation and test run in the order of time.

    Parameters
    ----------
    stores, schema
        As for :class:`Windows`.
    train, validation, test
        First and last time of each part, ``slice("1979", "2015")``; None leaves a part out. No step may be in
        two of them.
    batch_size, num_workers
        As for ``torch.utils.data.DataLoader``.
    seed
        Of the order of training samples.
    multiprocessing_context
        How workers start: ``"fork"``, ``"forkserver"`` or ``"spawn"``; the platform's default if None.
    **windows
        Options of :class:`Windows`, such as ``target_steps`` and ``normalise``.

    Raises
    ------
    TypeError
        If a part is no slice.
    ValueError
        If two parts have a step in common, or as :class:`Windows`.

    Examples
    --------
    >>> import tempfile
    >>> grid = ga.grids.gaussian(4, 8)
    >>> times = np.arange("2001-01-01", "2001-01-11", dtype="datetime64[D]").astype("datetime64[ns]")
    >>> coords = ga.xarray.coordinates(grid).assign_coords(time=times)
    >>> ds = coords.assign(t=(("time", "latitude", "longitude"), np.random.default_rng(0).random((10, 4, 8))))
    >>> schema = ga.xarray.Schema.of(ds)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ds.to_netcdf(path := f"{folder}/store.nc")
    ...     data = ga.xarray.DataModule(path, schema, train=slice("2001-01-01", "2001-01-08"))
    >>> data.batch_size
    1
    """

    def __init__(
        self,
        stores: Any,
        schema: Schema,
        *,
        train: slice,
        validation: slice | None = None,
        test: slice | None = None,
        batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        multiprocessing_context: str | None = None,
        **windows: Any,
    ) -> None:
        super().__init__()
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.multiprocessing_context = multiprocessing_context if num_workers else None
        parts = {"train": train, "validation": validation, "test": test}
        for name, times in parts.items():
            if times is not None or name == "train":
                check_period(times, name)
        #: the windows of each part
        self.windows = {
            name: Windows(stores, schema, times=times, **windows)
            for name, times in parts.items()
            if times is not None
        }
        check_apart(
            {name: windows.reader.span for name, windows in self.windows.items()},
            Reader(stores, schema).times,
            {name: f"{name}={_written(times)}" for name, times in parts.items() if times is not None},
            lambda name, first, last: f"{name}=slice({first!r}, {last!r})",
        )
        self.statistics: Statistics | None = self.windows["train"].statistics

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        return self._loader("validation") if "validation" in self.windows else []

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        return self._loader("test") if "test" in self.windows else []

    def _loader(self, part: str, shuffle: bool = False) -> DataLoader[dict[str, Tensor]]:
        # without a trainer, or with one process, this sampler is a shuffle that knows its epoch
        replicas, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        windows = self.windows[part]
        return DataLoader(
            windows,
            batch_size=self.batch_size,
            sampler=DistributedSampler(windows, replicas, rank, shuffle=shuffle, seed=self.seed),
            num_workers=self.num_workers,
            multiprocessing_context=self.multiprocessing_context,
            persistent_workers=self.num_workers > 0,
        )


def _written(times: slice) -> str:
    return f"slice({times.start!r}, {times.stop!r})"
