"""Several processes that make one forecast: who writes which rows, and how their values get there."""

from __future__ import annotations

import contextlib
import copy
import datetime
import os
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from geoattn.grids import cartesian
from geoattn.neighborhoods.edges import Edges
from geoattn.parallel.agreement import agreed
from geoattn.parallel.cut import Cut
from geoattn.parallel.parallelize import parallelize
from geoattn.parallel.partition import Partition
from geoattn.parallel.rows import Rows
from geoattn.parallel.shards import Shards
from geoattn.xarray.forecasts.forecaster import Forecaster
from geoattn.xarray.schema.schema import Schema

Result = TypeVar("Result")

#: after which a process that waits for another in vain gives up
PATIENCE = datetime.timedelta(minutes=10)


@contextlib.contextmanager
def started(
    domain: dist.ProcessGroup | DeviceMesh | None, device: str
) -> Iterator[dist.ProcessGroup | DeviceMesh | None]:
    """The processes that are meant: those given, or all that torchrun started, in a group for the time."""
    available = dist.is_available() and int(os.environ.get("WORLD_SIZE", 1)) > 1
    alone = domain is not None or not available or dist.is_initialized()
    if alone or not dist.is_torchelastic_launched():
        yield domain
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


class Team:
    """The processes of a forecast, or the one: each on its points, and the first writes the records."""

    def __init__(self, forecaster: Forecaster, shards: Shards | None) -> None:
        self.forecaster, self.shards = forecaster, shards
        self.n = 1 if shards is None else shards.n
        self.is_first = shards is None or shards.rank == 0

    @classmethod
    def of(
        cls, forecaster: Forecaster, group: dist.ProcessGroup | DeviceMesh | None, request: dict[str, Any]
    ) -> Self:
        """With a forecaster that is on many processes already, or a copy of one that is brought there."""
        shards: Shards | None = getattr(forecaster, "shards", None)
        if shards is None and group is not None:
            forecaster = parallelize(copy.deepcopy(forecaster), group)
            shards = forecaster.shards  # type: ignore[assignment]
        if shards is not None:
            agreed(shards.group, "the forecast", str(request), None, None)
        return cls(forecaster, shards)

    def first(self, action: Callable[[], Result]) -> Result:
        """What the first process gets by an action; what it is refused is an error of all."""
        if self.shards is None:
            return action()
        result, failure = None, None
        if self.is_first:
            try:
                result = action()
            except Exception as error:
                failure = error
        found: Result = agreed(self.shards.group, "the forecast", "", result, failure)[0]
        return found

    def gather(self, entries: dict[int, str]) -> dict[int, str]:
        """The entries of all."""
        if self.shards is None:
            return entries
        told = agreed(self.shards.group, "the forecast", "", entries, None)
        return {key: value for some in told for key, value in some.items()}


class Regions:
    """Bands of rows of a store, dealt out to processes in turn.

    Called with fields ``[B, C, *grid.shape]`` of one process, or ``[B, C, n_local]`` of each of several, it
    gives the rows of this process's bands, ``[B, C, rows, …]``, with the dimensions of the store.

    Parameters
    ----------
    schema
        Whose first dimension of the grid the rows are on.
    height
        Rows of a band; the last may have fewer.
    shards
        What this process holds.
    """

    def __init__(self, schema: Schema, height: int, shards: Shards | None) -> None:
        self.sizes = schema.grid_sizes
        rows, grid = self.sizes[0], schema.grid
        n, rank = (1, 0) if shards is None else (shards.n, shards.rank)
        band = np.arange(rows) // height
        mine = np.flatnonzero(band % n == rank)
        #: of each band of this process: its number, its rows of the grid, and places among all rows here
        self.bands: list[tuple[int, slice, slice]] = []
        for number in np.unique(band[mine]).tolist():
            here = np.flatnonzero(band[mine] == number)
            own = slice(int(here[0]), int(here[-1]) + 1)
            self.bands.append((number, slice(number * height, number * height + len(here)), own))
        self.rows = len(mine)
        self._fetch: Rows | None = None
        if shards is not None:
            line = cartesian((grid.size,), spacing=1 / 3)  # the same points, as they are written
            owner = np.repeat(band % n, grid.size // rows).astype(np.int16)
            cut = Cut(n, (grid, line), (shards.cut.owner(grid), owner))
            ways = Edges(line, grid, np.arange(grid.size + 1), np.arange(grid.size, dtype=np.int32))
            self._fetch = Rows(Partition(ways, cut, shards.group))
            self._places = torch.from_numpy(self._fetch.places(np.flatnonzero(owner == rank)))

    def __call__(self, fields: Tensor) -> NDArray[Any]:
        if self._fetch is not None:
            there = self._fetch(fields.movedim(-1, 1))
            fields = there.index_select(1, self._places.to(there.device)).movedim(1, -1)
        return fields.reshape(*fields.shape[:2], self.rows, *self.sizes[1:]).cpu().numpy()
