"""What one of several processes holds of the grids of a model."""

from __future__ import annotations

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from geoattn.grids.base import Grid
from geoattn.grids.selection import Selection
from geoattn.neighborhoods.base import Neighborhood
from geoattn.parallel.attention import attention
from geoattn.parallel.cut import Cut
from geoattn.parallel.exchange import total
from geoattn.parallel.partition import Partition
from geoattn.parallel.rows import Rows
from geoattn.parallel.whole import Order, gather, take


class Shards:
    """The points that each process holds; :func:`geoattn.parallel.parallelize` makes it.

    Attributes
    ----------
    cut
        Who holds which point, on all grids of the model.
    rank, n
        The place of this process in the group, and the size of that.
    fields
        The grid of the model's fields, where it has one.

    Examples
    --------
    >>> import torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> grid = ga.grids.gaussian(8, 16)
    >>> model = ga.models.TransformerConfig(grid, ga.geodesic(grid, radius=40), 1, 1, depth=1).build()
    >>> model = ga.parallel.parallelize(model, dist.group.WORLD)
    >>> model(model.shards.shard(torch.randn(2, 1, 8, 16))).shape
    torch.Size([2, 1, 128])
    >>> dist.destroy_process_group()
    """

    attention = staticmethod(attention)

    def __init__(self, cut: Cut, group: dist.ProcessGroup, fields: Grid | None = None) -> None:
        self.cut, self.group, self.fields = cut, group, fields
        self.rank, self.n = group.rank(), group.size()
        self._parts: dict[str, Partition] = {}
        self._rows: dict[str, Rows] = {}
        self._grids: dict[Grid, Selection] = {}

    # ------------------------------------------------------------ fields, whole and local

    def tokens(self, grid: Grid | None = None) -> NDArray[np.int32]:
        """The points of a grid that this process holds, ascending; of the grid of the fields by default."""
        return self.cut.tokens(self._grid(grid), self.rank)

    def shard(self, x: Tensor, grid: Grid | None = None, axis: int | None = None) -> Tensor:
        """The points of this process: fields ``[B, …, *grid.shape]`` to ``[B, …, n_local]``.

        Parameters
        ----------
        x
            The whole.
        grid
            Whose points they are, by default the grid of the model's fields.
        axis
            Where the grid's shape begins; by default it comes last. Tokens ``[B, *grid.shape, dim]`` have
            ``axis=1``.
        """
        grid = self._grid(grid)
        return take(x, grid, self.tokens(grid), x.ndim - len(grid.shape) if axis is None else axis)

    def gather(self, x: Tensor, grid: Grid | None = None, axis: int | None = None) -> Tensor:
        """The inverse, on every process. All make the call.

        The gradient of a local part is the sum of those that all processes have for it.
        """
        grid = self._grid(grid)
        order = Order(self.cut, grid, x.device)
        return gather(x, order, self.group, x.ndim - 1 if axis is None else axis)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of a tensor over the processes, on each of them. All make the call.

        A loss that is a sum over points becomes that of the whole. It is then the same on all processes, and
        gradients of parameters are the *mean* over these, as ``DistributedDataParallel`` takes it.
        """
        return total(x, self.group.group_name)

    def _grid(self, grid: Grid | None) -> Grid:
        if grid is None:
            if self.fields is None:
                raise ValueError(
                    "this model has no grid of its own: say whose points are meant, "
                    f"grid=… of {', '.join(map(repr, self.cut.grids))}"
                )
            return self.fields
        return grid

    # ------------------------------------------------------------ what modules are made of

    def grid(self, grid: Grid) -> Selection:
        """The points of this process as a grid of their own."""
        if grid not in self._grids:
            self._grids[grid] = Selection(grid, self.tokens(grid))
        return self._grids[grid]

    def part(self, hood: Neighborhood) -> Partition:
        """The part of this process of a neighborhood. All make the call, for each the first time."""
        if hood.digest not in self._parts:
            self._parts[hood.digest] = Partition(hood, self.cut, self.group)
        return self._parts[hood.digest]

    def rows(self, hood: Neighborhood) -> Rows:
        """What fetches the keys that the queries of this process see. All make the call."""
        if hood.digest not in self._rows:
            self._rows[hood.digest] = Rows(Partition(hood, self.cut, self.group))
        return self._rows[hood.digest]

    def let_go(self) -> None:
        """Drop what was worked out of whole grids: see :meth:`Partition.let_go`."""
        for part in self._parts.values():
            part.let_go()

    def __deepcopy__(self, memo: object) -> Shards:
        return self  # a copied module works in the same group

    def __repr__(self) -> str:
        return f"{self.cut!r}, this is {self.rank}"
