"""A neighborhood divided among processes: what each holds, and what it needs of the others."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from geoattn._value import forget
from geoattn.backends.base import accumulation_dtype
from geoattn.grids.base import Grid
from geoattn.neighborhoods.base import Neighborhood, Restricted
from geoattn.neighborhoods.heads import Heads
from geoattn.neighborhoods.known import known
from geoattn.neighborhoods.selected import Selected, select, selected
from geoattn.parallel import estimate as estimates
from geoattn.parallel.agreement import agreed
from geoattn.parallel.cut import Cut
from geoattn.parallel.cut import cut as make_cut
from geoattn.parallel.estimate import Estimate
from geoattn.parallel.exchange import Picked, Route
from geoattn.parallel.share import Share, share
from geoattn.parallel.whole import Order, gather, take
from geoattn.relations.base import On, Relation
from geoattn.relations.selected import Selected as SelectedRelation


@dataclasses.dataclass(frozen=True)
class Counts:
    """What an estimate takes of a process's share, so that all know it of each."""

    queries: int
    keys: int
    interior: int
    edges: int
    #: keys that it needs of each process
    halo: tuple[int, ...]

    @classmethod
    def of(cls, own: Share) -> Counts:
        interior = len(own.queries) - int(own.border.sum())
        halo = tuple(len(tokens) for tokens in own.halo)
        return cls(len(own.queries), len(own.keys), interior, own.edges, halo)


class Partition:
    """A neighborhood divided among n processes; made by :func:`partition`.

    A process holds the query and key tokens that the cut gives it, ascending by their number in the whole
    grid: local tensors are ``[B, n_local, …]``.

    Examples
    --------
    >>> ga.parallel.partition(ga.geodesic(ga.grids.gaussian(8, 16), radius=40), 4)
    geodesic discs of 40° on Gaussian grid 8×16 among 4 processes
    """

    def __init__(self, hood: Neighborhood, cut: Cut, group: dist.ProcessGroup | None) -> None:
        self.hood, self.cut, self.n, self.group = hood, cut, cut.n, group
        #: the place of this process in the group, None without one
        self.rank = None if group is None else group.rank()
        #: of neighborhoods for groups of heads: that of each
        self.parts: tuple[Partition, ...] = ()
        if isinstance(hood, Heads):
            self.parts = tuple(Partition(part, cut, group) for part in hood.parts)
        elif group is None:
            self._counts = [Counts.of(share(hood, cut, rank)) for rank in range(self.n)]
        else:
            self._meet(group)
        #: calls that all processes have agreed on
        self.settled: set[object] = set()
        self._exchanges: dict[object, str] = {}
        self._places: dict[torch.device, Places] = {}
        self._related: dict[tuple[str, str], Relation] = {}
        self._orders: dict[torch.device, tuple[Order, Order]] = {}

    def _meet(self, group: dist.ProcessGroup) -> None:
        """Work out this process's share, and learn what the others need of it."""
        own, failure = None, None
        try:
            own = share(self.hood, self.cut, group.rank())
        except Exception as error:  # told to the others, who would wait for this process
            failure = error
        said = f"{self.hood!r} ({self.hood.digest[:8]}), cut as {self.cut.digest[:8]}"
        told = agreed(group, "the neighborhood", said, own and (Counts.of(own), own.halo), failure)
        assert own is not None
        self._share = own
        self._counts = [counts for counts, _ in told]
        #: the keys of this process that each of the others needs, ascending
        self.wanted_here = [halo[own.rank] for _, halo in told]
        self._near = self._known(own)
        for some in (self.hood, self.home, self.outer):  # what plans ask for, while the whole is at hand
            some.query_grid.positions, some.key_grid.positions, some.key_grid.weights  # noqa: B018

    def _known(self, own: Share) -> Neighborhood:
        """The neighborhood, as far as it concerns this process."""
        hood = self.hood
        if len(own.queries) == hood.query_grid.size and len(own.keys) == hood.key_grid.size:
            return hood  # with its symmetries
        return known(hood, own.queries, np.sort(np.concatenate((own.keys, own.wanted))))

    def let_go(self) -> None:
        """Drop what was worked out of whole grids: points, weights, trees, counts."""
        forget(self.hood)
        forget(self.cut)

    # ------------------------------------------------------------ before anything runs

    def estimate(
        self,
        batch: int = 1,
        heads: int = 1,
        kv_heads: int | None = None,
        dim: int = 64,
        dim_v: int | None = None,
        dtype: torch.dtype = torch.float32,
        key_terms: int = 0,
        return_lse: bool = False,
    ) -> Estimate:
        """Tokens, pairs and bytes of each process, for a forward pass; the backward pass moves as much again.

        Parameters
        ----------
        batch, heads, kv_heads, dim, dim_v, dtype
            Sizes of the operands ``q [B, n, H, D]``, ``k [B, n, H_kv, D]``, ``v [B, n, H_kv, D_v]``.
        key_terms
            How many numbers of a bias, weight or mask each key has: 0, 1 or ``batch``. They travel as one.
        return_lse
            Whether the log-sum-exp is asked for.
        """
        kv_heads, dim_v = heads if kv_heads is None else kv_heads, dim if dim_v is None else dim_v
        if self.parts:
            m = len(self.parts)
            of_parts = [
                part.estimate(batch, heads // m, kv_heads // m, dim, dim_v, dtype, key_terms, return_lse)
                for part in self.parts
            ]
            return _sum(of_parts)
        added = accumulation_dtype(dtype).itemsize
        queries, keys, interior, edges = (
            np.array([getattr(c, name) for c in self._counts], np.int64)
            for name in ("queries", "keys", "interior", "edges")
        )
        halo = np.array([sum(c.halo) for c in self._counts], np.int64)
        bias = key_terms * added
        moved = {"halo": estimates.halo_bytes(halo, batch, kv_heads, dim + dim_v, dtype.itemsize, bias)}
        by_heads = estimates.heads_bytes(
            queries,
            keys,
            batch,
            heads,
            kv_heads,
            dim,
            dim_v,
            dtype.itemsize,
            bias,
            added if return_lse else 0,
        )
        if by_heads is not None:
            moved["heads"] = by_heads
        return Estimate(
            queries, keys, halo, interior, edges, estimates.cheaper(moved["halo"], by_heads), moved
        )

    # ------------------------------------------------------------ whole tensors and local ones

    def shard_queries(self, x: Tensor) -> Tensor:
        """The part of ``x [B, *query_grid.shape, …]`` that this process holds, ``[B, n_local, …]``."""
        return self._shard(x, self.hood.query_grid)

    def shard_keys(self, x: Tensor) -> Tensor:
        """The part of ``x [B, *key_grid.shape, …]`` that this process holds, ``[B, n_local, …]``."""
        return self._shard(x, self.hood.key_grid)

    def gather_queries(self, x: Tensor) -> Tensor:
        """The whole ``[B, *query_grid.shape, …]``, on every process, of local ``x [B, n_local, …]``.

        The gradient of a local part is the sum of those that all processes have for it: as everywhere here,
        the loss is the sum of the losses of all processes.
        """
        return self._gather(x, self.hood.query_grid)

    def gather_keys(self, x: Tensor) -> Tensor:
        """The whole ``[B, *key_grid.shape, …]`` of local ``x``: see :meth:`gather_queries`."""
        return self._gather(x, self.hood.key_grid)

    def _shard(self, x: Tensor, grid: Grid) -> Tensor:
        return take(x, grid, self.cut.tokens(grid, self.here), 1)

    def _gather(self, x: Tensor, grid: Grid) -> Tensor:
        self.here  # noqa: B018 - refuses an estimate
        assert self.group is not None
        return gather(x, Order(self.cut, grid, x.device), self.group, 1)

    @property
    def here(self) -> int:
        """The place of this process in the group.

        Raises
        ------
        RuntimeError
            If the partition has none.
        """
        if self.rank is None:
            raise RuntimeError(
                f"this partition is an estimate for {self.n} processes, made of their number; to run, make "
                "it of their group, geoattn.parallel.partition(hood, group), or of a mesh's dimension, "
                'geoattn.parallel.partition(hood, mesh["domain"])'
            )
        return self.rank

    # ------------------------------------------------------------ what the attention runs on

    @property
    def share(self) -> Share:
        """What falls to this process."""
        return self._share

    def held(self, grid: Grid) -> int:
        """How many tokens of the query or key grid this process holds."""
        home = self.home
        return (home.query_grid if grid == self.hood.query_grid else home.key_grid).size

    @cached_property
    def home(self) -> Selected:
        """The edges from own queries to own keys: what local tensors are checked against."""
        grids = self.hood.query_grid, self.hood.key_grid
        tokens = [self.cut.tokens(grid, self.here) for grid in grids]
        return select(self.hood if self.parts else self._near, *tokens)

    def exchange(self, *sizes: Any) -> str:
        """That of an estimate, kept for the next call."""
        if sizes not in self._exchanges:
            self._exchanges[sizes] = self.estimate(*sizes).exchange
        return self._exchanges[sizes]

    @cached_property
    def inner(self) -> Neighborhood:
        """The edges of the queries whose keys are all at home.

        The others are among the queries too, and see nothing here: so no operand need be copied.
        """
        own = self.share
        if not own.border.any():
            return selected(self._near, own.queries, own.keys)
        none = np.zeros(len(own.keys), bool)
        return Restricted(self.home.query_grid, self.home.key_grid, self.home, own.border, none)

    @cached_property
    def outer(self) -> Neighborhood:
        """The edges of the others: to keys at home, ascending, then to those of others as they arrive."""
        own = self.share
        return selected(self._near, own.queries[own.border], np.concatenate((own.near, own.wanted)))

    @cached_property
    def route(self) -> Route | None:
        """How the halo travels; None where no process needs any."""
        if not any(any(c.halo) for c in self._counts):
            return None
        assert self.group is not None
        sent = [len(tokens) for tokens in self.wanted_here]
        return Route(self.group.group_name, sent, list(self._counts[self.share.rank].halo))

    def places(self, device: torch.device) -> Places:
        """Where rows of local tensors go, on a device."""
        if device in self._places:
            return self._places[device]
        own = self.share

        def tensor(x: np.ndarray) -> Tensor:  # type: ignore[type-arg]
            return torch.as_tensor(x, dtype=torch.int64, device=device)

        near, *wanted = (
            tensor(np.searchsorted(own.keys, tokens)) for tokens in (own.near, *self.wanted_here)
        )
        self._places[device] = found = Places(
            tensor(np.flatnonzero(own.border)),
            near,
            Picked(len(own.keys), tuple(wanted)),
            Picked(len(own.keys), (near, *wanted)),
        )
        return found

    def related(self, relation: Relation, hood: Neighborhood) -> Relation:
        """A relation of the whole on the edges of :attr:`inner` or :attr:`outer`.

        It is kept, because compiled programs name it.
        """
        if hood is self.hood:
            return relation
        key = relation.identity, hood.identity
        if key not in self._related:
            some = SelectedRelation(hood if isinstance(hood, Selected) else self.home, relation)
            self._related[key] = some if some.hood is hood else On(hood, some)
        return self._related[key]

    def orders(self, device: torch.device) -> tuple[Order, Order]:
        """All queries and keys, process after process and as they are numbered, on a device."""
        if device not in self._orders:
            queries, keys = self.hood.query_grid, self.hood.key_grid
            self._orders[device] = Order(self.cut, queries, device), Order(self.cut, keys, device)
        return self._orders[device]

    def __deepcopy__(self, memo: object) -> Partition:
        return self  # a copied module works in the same group

    def __repr__(self) -> str:
        here = "" if self.rank is None else f", this is {self.rank}"
        return f"{self.hood!r} among {self.n} processes{here}"


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Rows of local tensors."""

    #: queries that see a key of others
    outer: Tensor
    #: keys that these see
    near: Tensor
    #: keys that others need
    wanted: Picked
    #: both, one after the other
    near_and_wanted: Picked


def partition(
    hood: Neighborhood, group: dist.ProcessGroup | DeviceMesh | int, cut: Cut | None = None
) -> Partition:
    """Divide a neighborhood among processes.

    Every process of the group makes the same call; they compare what they were given, once.

    Parameters
    ----------
    hood
        The neighborhood of the whole.
    group
        A process group, or a mesh of one dimension, ``mesh["domain"]``. A number of processes gives a
        partition that only estimates, in a program of one process.
    cut
        Who holds which token, by default :func:`geoattn.parallel.cut` of this neighborhood alone.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    ValueError
        If the cut is one for another number of processes, or of other grids; if the mesh has several
        dimensions.
    RuntimeError
        If there is no process group yet, this process is not part of it, or the processes disagree.

    Examples
    --------
    >>> part = ga.parallel.partition(ga.geodesic(ga.grids.gaussian(8, 16), radius=40), 4)
    >>> bool(max(part.estimate().halo) < 128)
    True
    """
    found, n = group_of(group)
    if found is None:
        _check(hood, n, cut)
        return Partition(hood, cut or make_cut(hood, n), None)
    failure: Exception | None = None
    try:
        _check(hood, n, cut)
    except Exception as error:  # told to the others, who would wait for this process
        failure = error
    given = "a cut of its own" if cut is None else f"the cut {cut.digest[:8]}"
    said = f"{hood!r} ({getattr(hood, 'digest', '')[:8]}) and {given}" if failure is None else ""
    agreed(found, "the neighborhood", said, None, failure)
    part = Partition(hood, cut or cut_of_all([hood], found), found)
    part.let_go()
    return part


def _check(hood: Neighborhood, n: int, cut: Cut | None) -> None:
    if not isinstance(hood, Neighborhood):
        raise TypeError(f"a partition is of a neighborhood, got {hood!r}; say geodesic(grid, radius=…), …")
    check_cut(cut, [hood], n)


def check_cut(cut: Cut | None, hoods: list[Neighborhood], n: int) -> None:
    """Refuse a cut that is not one of these neighborhoods among n processes."""
    if cut is None:
        return
    if not isinstance(cut, Cut):
        raise TypeError(f"cut must be one that geoattn.parallel.cut(hoods, {n}) makes, got {cut!r}")
    if cut.n != n:
        raise ValueError(f"{cut!r} is not for {n} processes; make geoattn.parallel.cut(hoods, {n})")
    for hood in hoods:
        cut.owner(hood.query_grid)
        cut.owner(hood.key_grid)


def cut_of_all(hoods: list[Neighborhood], group: dist.ProcessGroup) -> Cut:
    """The cut that the first process makes for all, who have agreed about the neighborhoods."""
    told: list[Any] = [None]
    if group.rank() == 0:
        try:
            made = make_cut(hoods, group.size())
            told = [(made.grids, made.owners)]
        except Exception as error:
            told = [f"{type(error).__name__}: {error}"]
    dist.broadcast_object_list(told, group=group, group_src=0)
    if isinstance(told[0], str):
        raise RuntimeError(f"the first of {group.size()} processes could not cut the grids: {told[0]}")
    return Cut(group.size(), *told[0])


def group_of(group: object) -> tuple[dist.ProcessGroup | None, int]:
    """The process group that is meant, and its size."""
    if dist.is_available() and group is not None and group == dist.GroupMember.NON_GROUP_MEMBER:
        raise RuntimeError("this process is no member of the group that it gives")
    if isinstance(group, int) and not isinstance(group, bool):
        return None, group
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "there is no process group yet: start the program with torchrun --nproc-per-node 4, and call "
            "torch.distributed.init_process_group() first; for an estimate give the number of processes, "
            "geoattn.parallel.partition(hood, 4)"
        )
    if isinstance(group, DeviceMesh):
        names = group.mesh_dim_names or ()
        if group.ndim != 1:
            one = f"mesh[{names[-1]!r}]" if names else "one of mesh_dim_names"
            raise ValueError(
                f"a neighborhood is divided along one dimension of a mesh, got {group!r} of {group.ndim}; "
                f"take one by its name, {one}"
            )
        group = group.get_group()
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"group must be a process group, a mesh's dimension or a number of processes, got {group!r}; "
            "the group of all processes is torch.distributed.group.WORLD"
        )
    return group, group.size()


def _sum(parts: list[Estimate]) -> Estimate:
    """Of groups of heads: what all of them move and compute."""
    names = {part.exchange for part in parts}
    exchange = " and ".join(sorted(names))
    return dataclasses.replace(
        parts[0],
        halo=np.sum([part.halo for part in parts], axis=0),
        interior=np.min([part.interior for part in parts], axis=0),
        edges=np.sum([part.edges for part in parts], axis=0),
        exchange=exchange,
        bytes_by={exchange: np.sum([part.received for part in parts], axis=0)},
    )
