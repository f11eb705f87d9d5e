"""Blocks: all numbers that Python hands a kernel, in one array of int64 words.

A kernel is called with the address of its block, which takes Python a tenth of the time that as many
arguments would. Calls that differ in nothing but where their tensors lie copy a block and write the addresses
anew.
"""

from __future__ import annotations

from array import array
from collections import namedtuple
from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor

from geoattn.backends.cpu.memory import addresses_at, record_at
from geoattn.backends.cpu.room import Listed, Room, State


class Plan(NamedTuple):
    """A gather plan: the addresses of its arrays, see :class:`geoattn.plans.Plan`; int32 but ``indptr``."""

    query_order: int
    key_order: int
    tile_class: int
    tile_shift: int
    #: places that turn as a whole
    ring: int
    #: int64
    indptr: int
    key_tiles: int
    lanes: int
    #: how many classes of tiles there are
    classes: int


class Runs(NamedTuple):
    """Addresses of the arrays of :class:`geoattn.backends.cpu.schedule.Chunks`; int64 but where told."""

    tiles: int
    own_indptr: int
    #: int32
    own: int
    indptr: int
    #: int32
    keys: int
    #: bytes
    begins: int
    #: how many runs there are, and how many keys of all runs together
    n_runs: int
    n_shared: int


class View(NamedTuple):
    """Where the rows of a tensor ``[B, tokens, H, channels]`` lie; strides in elements."""

    #: 0 for none
    address: int
    batch: int
    token: int
    head: int


class Sizes(NamedTuple):
    """Extents of the operands."""

    batch: int
    heads: int
    key_heads: int
    depth: int
    value_depth: int
    #: the latter in whole vectors
    value_width: int


class Table(NamedTuple):
    """Rows of gradients, one per shared key of each run, for each batch entry and key head."""

    address: int
    #: channels of dk, of dv and of the bias, each rounded up to whole vectors, or 0
    key_width: int
    value_width: int
    bias_width: int
    #: their sum
    row: int
    #: channels of a packed row of k: 0 where rows are whole vectors, and read where they lie
    packed_width: int


class Scales(NamedTuple):
    """Factors of q·k: ``[B or 1, heads]``."""

    address: int
    batch: int


#: words of each field
_FIELDS = {
    #: how many threads have begun, items are taken, and ranges of keys are added up: shared by all threads
    "threads": 1,
    "items": 1,
    "ranges": 1,
    #: address of what the threads work in, and bytes of each
    "memory": 2,
    #: where all lies in that: see :mod:`geoattn.backends.cpu.room`
    "listed": len(Listed._fields),
    "state": len(State._fields),
    "room": len(Room._fields),
    "state_size": 1,
    "pair_gradients_size": 1,
    #: keys that there is room for
    "capacity": 1,
    #: 1 once a query met scores too large for these kernels
    "extreme": 1,
    "plan": len(Plan._fields),
    #: address of the tiles in the order of work, and how many there are
    "order": 2,
    "runs": len(Runs._fields),
    #: address of a byte for each key: whether the first run touches it, where that is what is asked
    "touched": 1,
    #: keys and key heads that are worked on together at most, and keys in all
    "block": 1,
    "together": 1,
    "n_keys": 1,
    "sizes": len(Sizes._fields),
    "q": len(View._fields),
    "k": len(View._fields),
    "v": len(View._fields),
    #: address or 0, batch stride
    "bias": 2,
    "out": len(View._fields),
    "lse": len(View._fields),
    "grad_out": len(View._fields),
    "grad_lse": len(View._fields),
    "scales": len(Scales._fields),
    #: address of the number of each pair in a relation, and of those whose table has a gradient: int32
    #: ``[entries of the plan, TILE]``
    "numbers": 1,
    "added": 1,
    #: in units of log 2, what is added to the score of a pair with each number, or a row of biases for each
    #: entry of the plan
    "pair_bias": len(View._fields),
    "grad_q": len(View._fields),
    "grad_k": len(View._fields),
    "grad_v": len(View._fields),
    #: one number for each batch entry, key head and key: 0 at first, unused without channels
    "grad_bias": 1,
    #: like lse, or none: what each query adds to the gradient of its head's scale
    "grad_scale": len(View._fields),
    "table": len(Table._fields),
    #: one table for each run, where runs have numbers in common, and from that of one run to the next
    "grad_pair_bias": len(View._fields),
    "grad_pair_bias_run": 1,
}

_Places: Any = namedtuple("_Places", _FIELDS)  # type: ignore[misc]
#: the first word of each field
AT: Any = _Places(*(end - n for end, n in zip(accumulate(_FIELDS.values()), _FIELDS.values(), strict=True)))
_FIRST: dict[str, int] = AT._asdict()
WORDS = sum(_FIELDS.values())


def block_of(**fields: tuple[int, ...]) -> array[int]:
    """A block with these fields, and 0 in the others."""
    words = [0] * WORDS
    for name, numbers in fields.items():
        first = _FIRST[name]
        words[first : first + len(numbers)] = numbers
    return array("q", words)


def rows_of(x: Tensor | None) -> View:
    """Where the rows of a tensor lie; 0 for none."""
    if x is None:
        return View(0, 0, 0, 0)
    strides = x.stride()
    return View(x.data_ptr(), strides[0], strides[1], strides[2])


#: ``plan_at(block, AT.plan)`` and the like: a record's words, from the address of a block and their place
plan_at, runs_at, sizes_at = map(record_at, (Plan, Runs, Sizes))
table_at, view_at, scales_at = map(record_at, (Table, View, Scales))
#: the same for distances, of which a third argument makes addresses
listed_at, state_at, room_at = map(addresses_at, (Listed, State, Room))
