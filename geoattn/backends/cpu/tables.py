"""The bias for every pair: a relation's table as the kernels read it, and the gradient of the table."""

from __future__ import annotations

import functools
from array import array
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from geoattn.backends.base import Pairs
from geoattn.backends.cpu import memory, threads
from geoattn.backends.cpu.compiled import task
from geoattn.backends.cpu.lists import LOG2_E, LOWEST
from geoattn.backends.cpu.memory import int_at, record_at
from geoattn.backends.cpu.passes import Related, like_of, n_threads_for
from geoattn.backends.cpu.schedule import address_of
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
    uses = batch * table.shape[-2] * int(plan.lengths.sum()) * plan.query_tile
    in_rows = table.ndim == 3 and _WORTH_A_ROW * places <= uses and places <= _MOST_IN_ROWS
    biases = table.new_empty(*table.shape[:-1], plan.numbers.size if in_rows else table.shape[-1] + 1)
    source, numbers = table.contiguous(), np.ascontiguousarray(plan.numbers)
    spreading = Spreading(
        tickets=0,
        rows=source.shape[:-1].numel(),
        n_biases=source.shape[-1],
        numbers=address_of(numbers) if in_rows else 0,
        places=biases.shape[-1],
        source=source.data_ptr(),
        target=biases.data_ptr(),
    )
    words = array("q", spreading)
    run = functools.partial(spread.of(like_of(table.dtype)), words.buffer_info()[0])
    threads.run(run, n_threads_for(biases.numel()))
    return Related(numbers, True if in_rows else None, biases)


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


class Spreading(NamedTuple):
    """What :func:`spread` reads."""

    #: how many rows are taken: shared by all threads
    tickets: int
    #: of ``source``, and the biases of each
    rows: int
    n_biases: int
    #: address of int32: which bias of a row stands at each place of its result, ``n_biases`` for 0; 0 for all
    #: in turn, and one more 0
    numbers: int
    #: of a row of the result
    places: int
    #: addresses of ``[rows, n_biases]`` and of ``[rows, places]`` numbers
    source: int
    target: int


_spreading_at = record_at(Spreading)


@task
def spread(like, block):  # type: ignore[no-untyped-def]
    """Rows of a table in units of log 2, one thread's share; ``block`` is the address of a record."""
    work, width = _spreading_at(block, 0), memory.size_of(like)
    most = type(like)(-LOWEST[width // 8])
    while True:
        row = memory.take_ticket(block)
        if row >= work.rows:
            break
        source = work.source + row * work.n_biases * width
        target = work.target + row * work.places * width
        for place in range(work.places):
            number = place if work.numbers == 0 else int_at(work.numbers, place)
            bias = like * 0
            if number < work.n_biases:
                bias = memory.load(like, source, number)
                scaled = bias * type(like)(LOG2_E)
                # a finite bias stays finite, however large
                bias = min(max(scaled, -most), most) if abs(bias) <= most else scaled
            memory.store(like, target, place, bias)
