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

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]
from numba.extending import overload
from torch import Tensor

from geoattn.backends.cpu import micro
from geoattn.backends.cpu.compiled import kernel
from geoattn.backends.cpu.schedule import Chunks, Lists

#: words of each field. Arrays are address and length; tensors an address and strides, see :class:`View`
_FIELDS = {
    #: how many items are taken, and how many ranges of keys were added up: shared by all threads
    "items": 1,
    "ranges": 1,
    #: 1 once a query met scores too large for these kernels
    "extreme": 1,
    "lists": 15,
    #: tiles in the order of work
    "order": 2,
    "runs": 12,
    #: keys and key heads that are worked on together at most, and keys in all
    "block": 1,
    "together": 1,
    "n_keys": 1,
    "sizes": 6,
    "q": 4,
    "k": 4,
    "v": 4,
    #: address or 0, batch stride
    "bias": 2,
    "out": 4,
    "lse": 4,
    "grad_out": 4,
    "grad_lse": 4,
    #: address of ``[B or 1, heads]`` factors of q·k, and their rows
    "scales": 2,
    #: of each pair in a relation, and of those whose table has a gradient: ``[entries, TILE]``
    "numbers": 2,
    "added": 2,
    #: in units of log 2, what is added to the score of a pair with each number, or a row of biases for each
    #: entry of the plan
    "pair_bias": 4,
    "grad_q": 4,
    "grad_k": 4,
    "grad_v": 4,
    #: one number for each batch entry, key head and key: 0 at first, unused without channels
    "grad_bias": 1,
    #: like lse, or none: what each query adds to the gradient of its head's scale
    "grad_scale": 4,
    "table": 4,
    #: one table for each run, where runs have numbers in common, and from that of one run to the next
    "grad_pair_bias": 4,
    "grad_pair_bias_run": 1,
}

_Places: Any = namedtuple("_Places", _FIELDS)  # type: ignore[misc]
#: the first word of each field
AT: Any = _Places(*(end - n for end, n in zip(accumulate(_FIELDS.values()), _FIELDS.values(), strict=True)))
WORDS = sum(_FIELDS.values())


def block_of(**fields: tuple[int, ...]) -> array[int]:
    """A block with these fields, and 0 in the others."""
    words = array("q", bytes(8 * WORDS))
    for name, numbers in fields.items():
        first = getattr(AT, name)
        words[first : first + len(numbers)] = array("q", numbers)
    return words


def rows_of(x: Tensor | None) -> tuple[int, int, int, int]:
    """The numbers of a tensor's :class:`View`; 0 for none."""
    if x is None:
        return 0, 0, 0, 0
    strides = x.stride()
    return x.data_ptr(), strides[0], strides[1], strides[2]


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
    """Rows of gradients, one per shared key of each run, for each batch entry and key head.

    Widths are the channels of dk, of dv and of the bias, each rounded up to whole vectors, or 0.
    """

    address: int
    key_width: int
    value_width: int
    bias_width: int


@kernel
def array_at(like, address, shape):  # type: ignore[no-untyped-def]
    return carray(micro.pointer(like, address), shape)


@kernel
def words_at(address):  # type: ignore[no-untyped-def]
    """The words of a block."""
    return array_at(np.int64(0), address, (WORDS,))


@kernel
def view_at(words, at):  # type: ignore[no-untyped-def]
    return View(words[at], words[at + 1], words[at + 2], words[at + 3])


@kernel
def sizes_at(words):  # type: ignore[no-untyped-def]
    at = AT.sizes
    return Sizes(words[at], words[at + 1], words[at + 2], words[at + 3], words[at + 4], words[at + 5])


@kernel
def table_at(words):  # type: ignore[no-untyped-def]
    at = AT.table
    return Table(words[at], words[at + 1], words[at + 2], words[at + 3])


@kernel
def integers_at(words, at):  # type: ignore[no-untyped-def]
    """An array of int32."""
    return array_at(np.int32(0), words[at], (words[at + 1],))


@kernel
def places_at(words, at):  # type: ignore[no-untyped-def]
    """An array of int64."""
    return array_at(np.int64(0), words[at], (words[at + 1],))


@kernel
def lists_at(words):  # type: ignore[no-untyped-def]
    """A plan, as :attr:`geoattn.backends.cpu.schedule.Schedule.words` gives it."""
    at = AT.lists
    return Lists(
        integers_at(words, at),
        integers_at(words, at + 2),
        integers_at(words, at + 4),
        integers_at(words, at + 6),
        words[at + 8],
        places_at(words, at + 9),
        integers_at(words, at + 11),
        array_at(np.uint32(0), words[at + 13], (words[at + 14],)),
    )


@kernel
def runs_at(words):  # type: ignore[no-untyped-def]
    at = AT.runs
    return Chunks(
        places_at(words, at),
        places_at(words, at + 2),
        integers_at(words, at + 4),
        places_at(words, at + 6),
        integers_at(words, at + 8),
        array_at(np.bool_(0), words[at + 10], (words[at + 11],)),
    )


@kernel
def scales_at(like, words, heads):  # type: ignore[no-untyped-def]
    return array_at(like, words[AT.scales], (words[AT.scales + 1], heads))


@kernel
def _numbers_at(words, at):  # type: ignore[no-untyped-def]
    return array_at(np.int32(0), words[at], (words[at + 1], micro.TILE))


def numbers_at(related: Any, words: Any, at: Any) -> Any:
    """Numbers of pairs, see :class:`geoattn.plans.NumberedLanePlan`; None where ``related`` is None."""
    return None if related is None else _numbers_at(words, at)


@overload(numbers_at)  # type: ignore[untyped-decorator]
def _numbers_by_type(related, words, at):  # type: ignore[no-untyped-def]
    # by the type: a branch in the kernel would make one optional type of both
    if isinstance(related, types.NoneType):
        return lambda related, words, at: None
    return lambda related, words, at: _numbers_at(words, at)
