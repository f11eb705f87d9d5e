"""The bias for every pair: a relation's table as the kernels read it, and the gradient of the table."""

from __future__ import annotations

import functools
from array import array
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from geoattn.backends.base import Pairs
from geoattn.backends.cpu import memory, rows, threads
from geoattn.backends.cpu.compiled import Task, task
from geoattn.backends.cpu.lists import LOG2_E, LOWEST
from geoattn.backends.cpu.memory import record_at
from geoattn.backends.cpu.passes import Related, like_of, n_threads_for
from geoattn.backends.cpu.schedule import address_of, schedule
from geoattn.plans import numbered_plan

#: how often a bias must be used for it to be looked up beforehand
_WORTH_A_ROW = 2
#: places of a table of each query's own: offsets in it are int32
_MOST_PLACES = 2**31 - 2**20
#: biases that are looked up beforehand, at most
_MOST_IN_ROWS = 1 << 24


def relate(pairs: Pairs | None, batch: int) -> Related:
    """Rows for the entries of a plan that many tiles share, else the table, to be looked up."""
    if pairs is None:
        return Related(None, None, None)
    plan, table = numbered_plan(pairs.relation), pairs.table
    if table.ndim == 4 and (held := table.shape[1:].numel()) > _MOST_PLACES:
        raise ValueError(
            f"relation_bias holds {held} numbers for each entry of the batch, and the cpu backend finds at "
            f"most {_MOST_PLACES} of them; attend with some of the heads at a time"
        )
    places = table.shape[:-1].numel() * plan.numbers.size
    uses = batch * table.shape[-2] * schedule(plan, pairs.relation.hood.key_grid.size).work
    in_rows = table.ndim == 3 and _WORTH_A_ROW * places <= uses and places <= _MOST_IN_ROWS
    numbers = np.ascontiguousarray(plan.numbers)
    biases = _in_base_two(table)
    if in_rows:
        by_number, biases = biases, table.new_empty(*table.shape[:-1], numbers.size)
        _run(look_up, by_number, biases, address_of(numbers))
    return Related(numbers, True if in_rows else None, biases)


def _in_base_two(table: Tensor) -> Tensor:
    """A table in units of log 2, with one 0 more in each row."""
    result = table.new_empty(*table.shape[:-1], table.shape[-1] + 1)
    _run(scale, table.contiguous(), result, 0)
    return result


def _run(kernel: Task, source: Tensor, target: Tensor, numbers: int) -> None:
    """Make rows of rows, as a kernel says."""
    n_rows = source.shape[:-1].numel()
    addresses = source.data_ptr(), target.data_ptr(), numbers
    words = array("q", Rows(0, n_rows, source.shape[-1], target.shape[-1], *addresses))
    run = functools.partial(kernel.of(like_of(source.dtype)), words.buffer_info()[0])
    threads.run(run, n_threads_for(target.numel()))


def gradient_tables(pairs: Pairs, n_runs: int, batch: int) -> Tensor:
    """Zeros to which the runs add: ``[1, B, Nq, H, count + 1]``, or ``[runs, B, H, count + 1]``.

    One table serves all runs where each of its numbers belongs to one query, so to one tile.
    """
    *sizes, count = pairs.table.shape
    if pairs.table.ndim == 4 or pairs.relation.of_one_query:
        n_runs = 1
    return pairs.table.new_zeros(n_runs, batch, *sizes[1:], count + 1)


def table_gradient(tables: Tensor, table: Tensor) -> Tensor:
    """The sum over runs, and over the batch where it has one table: in one order for any threads."""
    total = functools.reduce(torch.Tensor.add_, tables.unbind())[..., :-1]
    if len(table) < len(total):
        total = functools.reduce(torch.Tensor.add_, total.unbind()).unsqueeze(0)
    return total


class Rows(NamedTuple):
    """What :func:`scale` and :func:`look_up` read: addresses of numbers ``[n_rows, …]``, and their widths."""

    #: how many rows are taken: shared by all threads
    taken: int
    n_rows: int
    source_width: int
    target_width: int
    source: int
    target: int
    #: address of int32: which number of a row of the source stands at each place of the target
    numbers: int


_rows_at = record_at(Rows)


@task
def scale(like, block):  # type: ignore[no-untyped-def]
    """Rows in units of log 2, and one 0 more; one thread's share."""
    work, width = _rows_at(block, 0), memory.size_of(like)
    most = type(like)(-LOWEST[width // 8])
    while True:
        row = memory.take_ticket(block)
        if row >= work.n_rows:
            break
        source = work.source + row * work.source_width * width
        target = work.target + row * work.target_width * width
        for place in range(work.source_width):
            bias = memory.load(like, source, place)
            scaled = bias * type(like)(LOG2_E)
            # a finite bias stays finite, however large
            memory.store(like, target, place, min(max(scaled, -most), most) if abs(bias) <= most else scaled)
        memory.store(like, target, work.source_width, like * 0)


@task
def look_up(like, block):  # type: ignore[no-untyped-def]
    """Rows of what stands under numbers, one thread's share."""
    work, width = _rows_at(block, 0), memory.size_of(like)
    while True:
        row = memory.take_ticket(block)
        if row >= work.n_rows:
            break
        source = work.source + row * work.source_width * width
        target = work.target + row * work.target_width * width
        rows.look_up(like, source, work.numbers, work.target_width, target)
