"""The ``cpu`` backend: tensors in, compiled kernels, tensors out."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoattn.backends.base import Forward, Gradients, Pairs, say_extreme
from geoattn.backends.cpu import threads
from geoattn.backends.cpu.backward import add_runs, backward
from geoattn.backends.cpu.forward import forward
from geoattn.backends.cpu.lists import spread_table
from geoattn.backends.cpu.micro import MACHINE
from geoattn.backends.cpu.schedule import Chunks, Schedule, frozen, schedule
from geoattn.backends.reference import Reference
from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans import lane_plan, numbered_plan

#: multiply-adds below which waking other threads costs more than it saves
_WORTH_A_THREAD = 2_000_000


#: key heads of a tile, at most, that are worked on in turn with the same lists
_HEADS_AT_ONCE = 4

#: items of work for each thread, at least, before heads are worked on together
_ITEMS_PER_THREAD = 2

#: numbers of k and v that are worked on together
_CACHED_NUMBERS = 16384

#: how often a bias must be used for it to be looked up beforehand
_WORTH_A_ROW = 2
#: places of a table of each query's own: offsets in it are int32
_MOST_PLACES = 2**31 - 2**20
#: biases that are looked up beforehand, at most
_MOST_IN_ROWS = 1 << 24


class Cpu:
    """Fused attention over gathered keys in the processor's vector lanes, for every neighborhood.

    What is not a number reaches the queries that see it. In ``v`` and ``grad_out``, and in ``q`` and ``k`` by
    way of the gradients, it may spread to other queries of the same tile of 32 and to the keys that these
    see, and no further; keys that a bias of −∞ hides may hold anything.

    A query that sees only keys with biases beyond half of the largest number needs its largest score taken
    off first: the reference computes such a call, with a warning.
    """

    name = "cpu"
    skips_hidden = True
    knows_relations = True

    def unavailable(self) -> str | None:
        return None

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> str | None:
        if q.device.type != "cpu":
            return f"it runs on the CPU, and q is on {q.device}"
        if q.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            return f"it computes float16, bfloat16, float32 and float64, and q is {q.dtype}"
        return None

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_bias: Tensor | None,
        hood: Neighborhood,
        scale: float | Tensor,
        pairs: Pairs | None = None,
    ) -> Forward:
        operands = q, k, v, key_bias, hood, scale, pairs
        dtype = q.dtype
        q, k, v = map(_readable, (q, k, v))
        work = _schedule(hood, pairs)
        batch, n_queries, heads, depth = q.shape
        value_width = _whole_vectors(v.shape[3], q.dtype)
        related = _related(pairs, batch)
        sizes = (batch, heads, k.shape[2], depth, v.shape[3], value_width)
        out = q.new_empty(batch, n_queries, heads, v.shape[3])
        lse = q.new_empty(batch, n_queries, heads)
        n_threads = _threads(work.work * batch * heads * (depth + v.shape[3]))
        bias = _bias(key_bias, q.dtype)
        counters = np.zeros(2, np.int64)
        task = functools.partial(
            forward,
            _like(q.dtype),
            counters,
            work.lists,
            work.order,
            _block(work, depth + value_width),
            _together(k.shape[2], batch * len(work.order), n_threads),
            *(_operand(x) for x in (q, k, v)),
            _bias_operand(bias),
            _operand(out),
            _operand(lse),
            sizes,
            _scales(scale, heads, q.dtype),
            *related[:2],
            _table_operand(related.biases),
        )
        threads.run(task, n_threads)
        if counters[1]:
            say_extreme()
            return Reference().forward(*operands)
        return Forward(out if out.dtype is dtype else out.to(dtype), lse)

    def backward(
        self,
        grad_out: Tensor,
        grad_lse: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_bias: Tensor | None,
        out: Tensor,
        lse: Tensor,
        hood: Neighborhood,
        scale: float | Tensor,
        needs_key_bias: bool,
        needs_scale: bool = False,
        pairs: Pairs | None = None,
        needs_table: bool = False,
    ) -> Gradients:
        dtype = q.dtype
        grad_out, q, k, v, out = map(_readable, (grad_out, q, k, v, out))
        work = _schedule(hood, pairs)
        batch, n_queries, heads, depth = q.shape
        n_keys, key_heads, value_depth = v.shape[1:]
        sizes = (batch, heads, key_heads, depth, value_depth)
        grad_q, grad_k, grad_v = q.new_empty(q.shape), q.new_empty(k.shape), q.new_empty(v.shape)
        multiply_adds = 5 * work.work * batch * heads * max(depth, value_depth)
        n_threads = _threads(multiply_adds)
        runs = work.chunks(_runs(batch * key_heads, multiply_adds, n_threads))
        widths = [_whole_vectors(n, q.dtype) for n in (depth, value_depth, int(needs_key_bias))]
        table = q.new_empty(batch, key_heads, len(runs.keys), sum(widths))
        own_bias = q.new_zeros(batch, key_heads, n_keys) if needs_key_bias else None
        own_scale = q.new_empty(batch, n_queries, heads) if needs_scale else None
        related = _related(pairs, batch)
        learned = pairs if needs_table else None
        own_tables = None if learned is None else _gradient_tables(learned, len(runs.tiles) - 1, batch)
        like, bias, tickets = _like(q.dtype), _bias(key_bias, q.dtype), np.zeros(2, np.int64)
        shares = (
            tickets,
            _block(work, sum(widths)),
            _together(key_heads, batch * (len(runs.tiles) - 1), n_threads),
            n_keys,
        )
        inputs = (
            *map(_operand, (q, k, v)),
            _bias_operand(bias),
            *map(_operand, (out, lse, grad_out)),
            (0, 0, 0, 0) if grad_lse is None else _operand(grad_lse),
            _table_operand(related.biases),
        )
        outputs = (
            *map(_operand, (grad_q, grad_k, grad_v)),
            0 if own_bias is None else own_bias.data_ptr(),
            (0, 0, 0, 0) if own_scale is None else _operand(own_scale),
            (table.data_ptr(), *widths),
            _table_operand(None if own_tables is None else own_tables[0]),
            0 if own_tables is None or len(own_tables) == 1 else own_tables.stride(0),
        )
        scales = _scales(scale, heads, q.dtype)
        added = (None, None) if learned is None else related[:2]
        task = functools.partial(
            backward, like, work.lists, runs, shares, inputs, scales, outputs, sizes, *related[:2], *added
        )
        threads.run(task, n_threads)
        if len(runs.keys):  # that several runs touch
            threads.run(
                functools.partial(add_runs, like, tickets[1:], runs, n_keys, outputs, sizes), n_threads
            )
        grad_bias = None
        if own_bias is not None and key_bias is not None:
            grad_bias = _bias_gradient(own_bias, table[..., -widths[2]], runs, key_bias)
        grad_scale = None
        if own_scale is not None and isinstance(scale, Tensor):
            grad_scale = own_scale.sum((0, 1)).unsqueeze(0) if scale.shape[0] == 1 else own_scale.sum(1)
        grad_table = None
        if own_tables is not None and learned is not None:
            grad_table = _table_gradient(own_tables, learned.table)
        if q.dtype is not dtype:
            grad_q, grad_k, grad_v = grad_q.to(dtype), grad_k.to(dtype), grad_v.to(dtype)
        return Gradients(grad_q, grad_k, grad_v, grad_bias, grad_scale, grad_table)


def _whole_vectors(depth: int, dtype: torch.dtype) -> int:
    """A number of channels rounded up to whole vectors."""
    lanes = MACHINE.vector_bytes // dtype.itemsize
    return -(-depth // lanes) * lanes


def _block(work: Schedule, channels: int) -> int:
    """Keys to work on together: as many as leave their k and v in a core's cache."""
    # at least one, as a neighborhood may hold no edge at all
    return max(1, min(work.longest, max(_CACHED_NUMBERS // channels, 48)))


def _together(key_heads: int, items: int, n_threads: int) -> int:
    """Key heads that share their lists: as many as leave each thread some of the items of each head."""
    parts = min(key_heads, -(-_ITEMS_PER_THREAD * n_threads // items))
    return max(1, min(_HEADS_AT_ONCE, key_heads // parts))


def _runs(independent: int, multiply_adds: int, n_threads: int) -> int:
    """Runs of tiles for each of so many key heads.

    One where the work is too little for a second thread, else at least 16 items in all: what is summed in
    which order then depends on the number of threads only beyond 16 of them.
    """
    if multiply_adds < _WORTH_A_THREAD:
        return 1
    items = max(16, 1 << (2 * n_threads - 1).bit_length() if n_threads > 16 else 0)
    return -(-items // max(1, independent))


def _bias_gradient(own: Tensor, columns: Tensor, runs: Chunks, key_bias: Tensor) -> Tensor:
    """Sum the gradients of keys of one run ``[B, Hkv, keys]`` and the bias columns ``[B, Hkv, rows]``."""
    gradient, rows = own.sum(1), columns.sum(1)
    if key_bias.shape[0] == 1:
        gradient, rows = gradient.sum(0, keepdim=True), rows.sum(0, keepdim=True)
    for low, high in itertools.pairwise(runs.indptr.tolist()):
        gradient[:, torch.as_tensor(runs.keys[low:high].copy()).long()] += rows[:, low:high]
    return gradient


class _Related(NamedTuple):
    """A bias for every pair as the kernels take it; all None without one."""

    numbers: NDArray[np.int32] | None
    #: True where ``biases`` holds a row for each entry of the plan, so that none is looked up again
    rows: bool | None
    #: in units of log 2, ``[B or 1, H, count + 1]``, ``[B, Nq, H, count + 1]``, or rows
    #: ``[B or 1, H, entries * 32]``; 0 for the pairs that do not see each other
    biases: Tensor | None


def _related(pairs: Pairs | None, batch: int) -> _Related:
    """Rows for the entries of a plan that many tiles share, else the table, to be looked up."""
    if pairs is None:
        return _Related(None, None, None)
    plan, table = numbered_plan(pairs.relation), pairs.table
    if table.ndim == 4 and (held := table.shape[1:].numel()) > _MOST_PLACES:
        raise ValueError(
            f"relation_bias holds {held} numbers for each entry of the batch, and the cpu backend finds at "
            f"most {_MOST_PLACES} of them; attend with some of the heads at a time"
        )
    places = table.shape[:-1].numel() * plan.numbers.size
    uses = batch * table.shape[-2] * int(plan.lengths.sum()) * plan.query_tile
    in_rows = table.ndim == 3 and _WORTH_A_ROW * places <= uses and places <= _MOST_IN_ROWS
    biases = table.new_empty(*table.shape[:-1], plan.numbers.size if in_rows else table.shape[-1] + 1)
    like, source = _like(table.dtype), table.contiguous()
    numbers = frozen(plan.numbers)
    tickets = np.zeros(1, np.int64)
    task = functools.partial(
        spread_table,
        like,
        tickets,
        numbers.reshape(-1) if in_rows else None,
        source.data_ptr(),
        source.shape[:-1].numel(),
        source.shape[-1],
        biases.data_ptr(),
    )
    threads.run(task, _threads(biases.numel()))
    return _Related(numbers, True if in_rows else None, biases)


def _gradient_tables(pairs: Pairs, n_runs: int, batch: int) -> Tensor:
    """Zeros to which the runs add: ``[1, B, Nq, H, count + 1]``, or ``[runs, B, H, count + 1]``.

    One table serves all runs where each of its numbers belongs to one query, so to one tile.
    """
    *sizes, count = pairs.table.shape
    if pairs.table.ndim == 4 or pairs.relation.of_one_query:
        n_runs = 1
    return pairs.table.new_zeros(n_runs, batch, *sizes[1:], count + 1)


def _table_gradient(tables: Tensor, table: Tensor) -> Tensor:
    """The sum over runs, and over the batch where it has one table: in one order for any threads."""
    total = functools.reduce(torch.Tensor.add_, tables.unbind())[..., :-1]
    if len(table) < len(total):
        total = functools.reduce(torch.Tensor.add_, total.unbind()).unsqueeze(0)
    return total


def _table_operand(table: Tensor | None) -> tuple[int, int, int, int]:
    """(address or 0, batch stride, token stride, head stride), in elements; 0 for what is shared."""
    if table is None:
        return 0, 0, 0, 0
    batch = 0 if table.shape[0] == 1 else table.stride(0)
    return table.data_ptr(), batch, 0 if table.ndim == 3 else table.stride(1), table.stride(-2)


def _schedule(hood: Neighborhood, pairs: Pairs | None) -> Schedule:
    plan = lane_plan(hood) if pairs is None else numbered_plan(pairs.relation)
    return schedule(plan, hood.key_grid.size)


def _threads(multiply_adds: int) -> int:
    return int(min(torch.get_num_threads(), 1 + multiply_adds // _WORTH_A_THREAD))


def _scales(scale: float | Tensor, heads: int, dtype: torch.dtype) -> NDArray[np.floating]:
    """Factors of q·k, ``[B or 1, heads]``."""
    return (
        np.ascontiguousarray(scale.detach().numpy())
        if isinstance(scale, Tensor)
        else _one_scale(scale, heads, dtype)
    )


@functools.lru_cache(maxsize=64)
def _one_scale(scale: float, heads: int, dtype: torch.dtype) -> NDArray[np.floating]:
    # nobody writes to it; marked so, it would be of another type to numba
    return np.full((1, heads), scale, np.float64 if dtype == torch.float64 else np.float32)


def _like(dtype: torch.dtype) -> np.floating:
    return np.float64(0) if dtype == torch.float64 else np.float32(0)


def _readable(x: Tensor) -> Tensor:
    """In a dtype that the kernels compute in, with adjacent channels; no copy where that is so already."""
    if x.dtype is not torch.float32 and x.dtype is not torch.float64:
        x = x.float()
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _operand(x: Tensor) -> tuple[int, int, int, int]:
    """(address, batch stride, token stride, head stride), in elements."""
    strides = x.stride()
    return x.data_ptr(), strides[0], strides[1], strides[2]


def _bias(key_bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if key_bias is None:
        return None
    return (key_bias if key_bias.dtype is dtype else key_bias.to(dtype)).contiguous()


def _bias_operand(bias: Tensor | None) -> tuple[int, int]:
    """(address or 0, batch stride)."""
    if bias is None:
        return 0, 0
    return bias.data_ptr(), 0 if bias.shape[0] == 1 else bias.stride(0)
