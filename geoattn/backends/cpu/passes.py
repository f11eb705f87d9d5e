"""A pass over a problem: its kernel, its block, and how the work is dealt to threads."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoattn.backends.cpu import threads
from geoattn.backends.cpu.backward import add_runs, backward
from geoattn.backends.cpu.blocks import AT, Scales, Sizes, Table, View, block_of, rows_of
from geoattn.backends.cpu.emitted import KEY_BLOCK, MACHINE
from geoattn.backends.cpu.forward import forward
from geoattn.backends.cpu.room import CACHE_LINE, Layout, backward_layout, forward_layout
from geoattn.backends.cpu.schedule import Chunks, Schedule, address_of

#: multiply-adds below which waking other threads costs more than it saves
_WORTH_A_THREAD = 2_000_000


#: key heads of a tile, at most, that are worked on in turn with the same lists
_HEADS_AT_ONCE = 4

#: items of work for each thread, at least, before heads are worked on together
_ITEMS_PER_THREAD = 2

#: numbers of k and v that are worked on together
_CACHED_NUMBERS = 16384


class Related(NamedTuple):
    """A bias for every pair as the kernels take it; all None without one."""

    numbers: NDArray[np.int32] | None
    #: True where ``biases`` holds a row for each entry of the plan, so that none is looked up again
    rows: bool | None
    #: in units of log 2, ``[B or 1, H, count + 1]``, ``[B, Nq, H, count + 1]``, or rows
    #: ``[B or 1, H, entries * 32]``; 0 for the pairs that do not see each other
    biases: Tensor | None

    @property
    def kind(self) -> tuple[np.int64 | None, np.int64 | None]:
        """What kernels are told of it by their kind."""
        return None if self.numbers is None else np.int64(1), None if self.rows is None else np.int64(1)


class Pass(NamedTuple):
    """A kernel, with all that it needs in a block."""

    kernel: Callable[[int], None]
    words: array[int]
    n_threads: int
    #: bytes that each thread works in
    memory: int

    def run(self, words: array[int]) -> None:
        """Let threads work on a block like this pass's until nothing is left."""
        held = np.empty(self.n_threads * self.memory + CACHE_LINE, np.uint8)
        words[AT.memory] = -(-address_of(held) // CACHE_LINE) * CACHE_LINE
        address, _ = words.buffer_info()
        if self.n_threads == 1:
            self.kernel(address)
        else:
            threads.run(functools.partial(self.kernel, address), self.n_threads)


def forward_pass(
    work: Schedule,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scales: NDArray[np.floating],
    related: Related,
) -> Pass:
    """The forward pass; tensors are flat over tokens, in the dtype that is computed in."""
    sizes, element = _sizes(q, k, v), q.dtype.itemsize
    n_threads = n_threads_for(work.work * sizes.batch * sizes.heads * (sizes.depth + sizes.value_depth))
    block = _block(work, sizes.depth + sizes.value_width)
    together = _together(sizes.key_heads, sizes.batch * work.order[1], n_threads)
    packed = block * sizes.value_width if sizes.value_width > sizes.value_depth else 0
    heads = together * (sizes.heads // sizes.key_heads)
    layout = forward_layout(element, sizes.depth, sizes.value_width, heads, block + KEY_BLOCK, packed)
    words = block_of(
        **_of_plan(work, k.shape[1], sizes, scales, related.numbers),
        **_laid_out(layout, block, together),
        **_rows(q=q, k=k, v=v, out=out, lse=lse),
        bias=_bias_words(bias),
        pair_bias=_table_words(related.biases),
    )
    return Pass(forward.of(like_of(q.dtype), *related.kind), words, n_threads, layout.size)


class Shares(NamedTuple):
    """How the backward pass is dealt out."""

    n_threads: int
    runs: Chunks
    #: channels of dk, of dv and of the bias, in whole vectors: see :class:`geoattn.backends.cpu.blocks.Table`
    widths: tuple[int, int, int]


def shares(work: Schedule, q: Tensor, k: Tensor, v: Tensor, needs_key_bias: bool) -> Shares:
    """How the backward pass of these operands is dealt out."""
    (batch, _, heads, depth), key_heads, value_depth = q.shape, k.shape[2], v.shape[3]
    multiply_adds = 5 * work.work * batch * heads * max(depth, value_depth)
    n_threads = n_threads_for(multiply_adds)
    key_width, value_width, bias_width = (
        _whole_vectors(n, q.dtype) for n in (depth, value_depth, int(needs_key_bias))
    )
    runs = work.chunks(_runs(batch * key_heads, multiply_adds, n_threads))
    return Shares(n_threads, runs, (key_width, value_width, bias_width))


def backward_pass(
    work: Schedule,
    shares: Shares,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    scales: NDArray[np.floating],
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
    table: Tensor,
    related: Related,
    own_bias: Tensor | None = None,
    own_scale: Tensor | None = None,
    own_tables: Tensor | None = None,
) -> Pass:
    """The backward pass: what it writes follows the operands.

    ``table`` is ``[B, Hkv, keys of all runs, sum of widths]``; ``own_tables`` says that the relation's table
    has a gradient.
    """
    sizes, (n_threads, runs, widths) = _sizes(q, k, v), shares
    added = Related(None, None, None) if own_tables is None else related
    block = _block(work, sum(widths))
    together = _together(sizes.key_heads, sizes.batch * runs.words.n_runs, n_threads)
    of_table = Table(table.data_ptr(), *widths, sum(widths), widths[0] if widths[0] > sizes.depth else 0)
    layout = backward_layout(
        element=q.dtype.itemsize,
        depth=sizes.depth,
        value_depth=sizes.value_depth,
        key_width=of_table.key_width,
        value_width=of_table.value_width,
        heads=together * (sizes.heads // sizes.key_heads),
        capacity=block + KEY_BLOCK,
        packed=block * of_table.packed_width,
        packed_gradients=block * of_table.row,
        n_keys=work.n_keys,
        classes=work.words.classes,
        pair_entries=0 if added.rows is None or added.numbers is None else len(added.numbers),
    )
    words = block_of(
        **_of_plan(work, k.shape[1], sizes, scales, related.numbers),
        **_laid_out(layout, block, together),
        runs=runs.words,
        **_rows(q=q, k=k, v=v, out=out, lse=lse, grad_out=grad_out, grad_lse=grad_lse),
        bias=_bias_words(bias),
        pair_bias=_table_words(related.biases),
        added=(_numbers(added.numbers),),
        **_rows(grad_q=grad_q, grad_k=grad_k, grad_v=grad_v, grad_scale=own_scale),
        grad_bias=(0 if own_bias is None else own_bias.data_ptr(),),
        table=of_table,
        grad_pair_bias=_table_words(None if own_tables is None else own_tables[0]),
        grad_pair_bias_run=(0 if own_tables is None or len(own_tables) == 1 else own_tables.stride(0),),
    )
    return Pass(backward.of(like_of(q.dtype), *related.kind, *added.kind), words, n_threads, layout.size)


def adding_pass(behind: Pass, dtype: torch.dtype) -> Pass:
    """What adds up the gradients of keys that several runs touch, in the block of a backward pass."""
    return Pass(add_runs.of(like_of(dtype)), behind.words, behind.n_threads, 0)


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


def n_threads_for(multiply_adds: int) -> int:
    return int(min(torch.get_num_threads(), 1 + multiply_adds // _WORTH_A_THREAD))


def like_of(dtype: torch.dtype) -> np.floating:
    return np.float64(0) if dtype == torch.float64 else np.float32(0)


def _table_words(table: Tensor | None) -> View:
    """Where a table's rows for each batch entry, query and head lie; strides of 0 for what is shared."""
    if table is None:
        return View(0, 0, 0, 0)
    batch = 0 if table.shape[0] == 1 else table.stride(0)
    return View(table.data_ptr(), batch, 0 if table.ndim == 3 else table.stride(1), table.stride(-2))


def _bias_words(bias: Tensor | None) -> tuple[int, int]:
    """(address or 0, batch stride)."""
    if bias is None:
        return 0, 0
    return bias.data_ptr(), 0 if bias.shape[0] == 1 else bias.stride(0)


def _numbers(numbers: NDArray[np.int32] | None) -> int:
    return 0 if numbers is None else address_of(numbers)


def _laid_out(layout: Layout, block: int, together: int) -> dict[str, tuple[int, ...]]:
    """Fields of a block that tell where a thread works, with so many keys and key heads at once."""
    return {
        "memory": (0, layout.size),
        "listed": layout.listed,
        "state": layout.state,
        "room": layout.room,
        "state_size": (layout.state_size,),
        "pair_gradients_size": (layout.pair_gradients_size,),
        "capacity": (block + KEY_BLOCK,),
        "block": (block,),
        "together": (together,),
    }


def _sizes(q: Tensor, k: Tensor, v: Tensor) -> Sizes:
    width = _whole_vectors(v.shape[3], q.dtype)
    return Sizes(q.shape[0], q.shape[2], k.shape[2], q.shape[3], v.shape[3], width)


def _rows(**tensors: Tensor | None) -> dict[str, View]:
    return {name: rows_of(x) for name, x in tensors.items()}


def _of_plan(
    work: Schedule,
    n_keys: int,
    sizes: Sizes,
    scales: NDArray[np.floating],
    numbers: NDArray[np.int32] | None,
) -> dict[str, tuple[int, ...]]:
    """Fields of a block that both passes fill alike."""
    return {
        "plan": work.words,
        "order": work.order,
        "n_keys": (n_keys,),
        "sizes": sizes,
        "scales": Scales(address_of(scales), 0 if len(scales) == 1 else sizes.heads),
        "numbers": (_numbers(numbers),),
    }
