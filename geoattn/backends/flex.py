"""torch's FlexAttention on the tiles of a plan: for CUDA devices that our own kernels do not serve.

Tokens are laid out in plan order, the plan's lists become a ``BlockMask``, and the masks of its tiles
are read bit by bit. The backward pass is torch's own. It runs the forward pass once more, because an
op hands over its outputs only, and sums the gradient of the key vector with atomic additions, the one
result of this backend that may differ in its last bits from run to run. The table of a relation gets its
gradient from dense chunks instead, as in the reference, always to the same bits: a pass of its own, and slow.

Finite biases beyond ±1e38 count as ±1e38. What is not a number may spread to other queries of the same block
of 128, and going backward to the keys that these see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from geoattn._lru import BoundedCache
from geoattn.backends.base import (
    Forward,
    Gradients,
    Pairs,
    accumulation_dtype,
    backward_of_multiplied,
    forward_of_multiplied,
)
from geoattn.backends.chunks import table_gradient
from geoattn.backends.torch_private import dynamo_limits, flex_lse, with_autograd
from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans import NumberedTilePlan, TilePlan, clears, numbered_tile_plan, tile_plan
from geoattn.plans.expand import visited
from geoattn.relations.base import Relation

#: side of a plan's tiles: a row of a mask is one 64-bit word
TILE = 64
#: side of FlexAttention's blocks: its kernels take steps of up to 128 and refuse smaller blocks
BLOCK = 128
#: every pair of tiles, visited or not, has a number in a table
MAX_TILE_PAIRS = 2**26
HEAD_DIMS = range(16, 257)
MAX_PROGRAMS = 2**12
#: two of them, of a key and of a pair, stay finite when FlexAttention makes exponents of 2 of their sum
MAX_BIAS = 1e38


class Layout(NamedTuple):
    """A plan on a device, in the form that FlexAttention reads. Positions are padded to blocks."""

    #: position → token, with token 0 in padded positions, which nothing sees and which see nothing
    query_order: Tensor
    key_order: Tensor
    #: token → position
    query_place: Tensor
    key_place: Tensor
    block_mask: BlockMask
    #: of a relation, else None
    numbers: Numbers | None


class Numbers(NamedTuple):
    """The number of each pair in a relation: equal tiles of numbers are stored once."""

    #: int32, a row of ``tiles`` for each pair of tiles, 0 for those that do not see each other
    of_tiles: Tensor
    #: int32 [n, 64, 64]
    tiles: Tensor

    def of(self, query: Tensor, key: Tensor) -> Tensor:
        tile = self.of_tiles[query // TILE, key // TILE]
        return self.tiles[tile, query % TILE, key % TILE]


_layouts: BoundedCache[tuple[str, torch.device], Layout] = BoundedCache(max_bytes=2**30)
clears(_layouts.clear)


class Flex:
    """FlexAttention with a block mask from the plan; a score modification adds all biases."""

    name = "flex"
    knows_relations = True

    @cached_property
    def attention(self) -> Any:
        # one graph or an error: torch's way out of a failed compilation is to hold all scores at once
        return torch.compile(flex_attention, fullgraph=True, dynamic=False)

    def unavailable(self) -> str | None:
        if not torch.cuda.is_available():
            return "it runs on CUDA devices, and torch finds none"
        if find_spec("triton") is None:
            return "torch compiles FlexAttention with triton, which is not installed"
        return None

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> str | None:
        if q.device.type == "cpu":
            return "on cpu FlexAttention has no backward pass, and compiled no log-sum-exp"
        if q.device.type != "cuda":
            return f"it runs on cuda devices, not on {q.device.type}"
        if q.dtype == torch.float64:
            return "FlexAttention's kernels do not take float64"
        dims = q.shape[-1], v.shape[-1]
        if not all(dim in HEAD_DIMS for dim in dims):
            return f"it takes head dimensions from {HEAD_DIMS[0]} to {HEAD_DIMS[-1]}, got {dims}"
        pairs = -(-hood.query_grid.size // TILE) * -(-hood.key_grid.size // TILE)
        if pairs > MAX_TILE_PAIRS:
            return f"its block mask would number {pairs} pairs of tiles, more than {MAX_TILE_PAIRS}"
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
        if isinstance(scale, Tensor):
            return forward_of_multiplied(self, q, k, v, key_bias, hood, scale, pairs)
        layout = layout_of(hood if pairs is None else pairs.relation, q.device)
        table = arrange_table(layout, pairs)
        with _outside_of_ops(), torch.no_grad():
            out, lse = self._attend(*arrange(layout, q, k, v, key_bias), table, layout, scale)
        return Forward(out, lse.to(accumulation_dtype(q.dtype)))

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
        operands = q, k, v, key_bias
        if isinstance(scale, Tensor):
            needs = needs_key_bias, pairs, needs_table
            return backward_of_multiplied(self, grad_out, grad_lse, *operands, out, lse, hood, scale, *needs)
        layout = layout_of(hood if pairs is None else pairs.relation, q.device)
        table = arrange_table(layout, pairs)
        arranged = arrange(layout, q, k, v, key_bias)
        leaves = [x for x in arranged[: 4 if needs_key_bias else 3] if x is not None]
        with _outside_of_ops(), torch.enable_grad():
            for leaf in leaves:
                leaf.requires_grad_()
            outputs = self._attend(*arranged, table, layout, scale)
            upstream = [grad_out]
            if grad_lse is not None:
                upstream.append(grad_lse.masked_fill(lse == float("-inf"), 0.0))
            dq, dk, dv, *rest = torch.autograd.grad(outputs[: len(upstream)], leaves, upstream)
        dq = dq.index_select(1, layout.query_place)
        dk, dv = (x.index_select(1, layout.key_place) for x in (dk, dv))
        db = None
        if rest and key_bias is not None:
            db = rest[0].index_select(-1, layout.key_place).reshape(key_bias.shape)
        dtable = None
        if needs_table and pairs is not None:
            dtable = table_gradient(grad_out, grad_lse, *operands, hood, scale, pairs)
        return Gradients(dq, dk, dv, db, None, dtable)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        additive: Tensor | None,
        table: Tensor | None,
        layout: Layout,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        """out ``[B, Nq, H, Dv]`` and lse ``[B, Nq, H]`` of tokens, from operands at positions."""
        out, aux = self.attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            score_mod=add_biases(additive, table, layout.numbers),
            block_mask=layout.block_mask,
            scale=scale,
            enable_gqa=q.shape[2] != k.shape[2],
            **flex_lse(),
        )
        lse = getattr(aux, "lse", aux)
        out, lse = (x.transpose(1, 2).index_select(1, layout.query_place) for x in (out, lse))
        return out, lse


def arrange(
    layout: Layout, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Operands ``[B, positions, H, D]`` and the key vector ``[B, positions]`` or ``[positions]``.

    All are fresh tensors: compiled, FlexAttention loses the gradient of a captured one that is a view.
    """
    q = q.detach().index_select(1, layout.query_order)
    k, v = (x.detach().index_select(1, layout.key_order) for x in (k, v))
    if key_bias is not None:
        key_bias = _bounded(key_bias.detach()).squeeze(0).index_select(-1, layout.key_order)
    return q, k, v, key_bias


def arrange_table(layout: Layout, pairs: Pairs | None) -> Tensor | None:
    """A relation's table ``[B or 1, H, count]``, or for each position ``[B, positions, H, count]``.

    None too where there are no numbers, and so no pairs.
    """
    if pairs is None or pairs.relation.count == 0:
        return None
    table = _bounded(pairs.table.detach())
    return table.contiguous() if table.ndim == 3 else table.index_select(1, layout.query_order)


def add_biases(
    additive: Tensor | None, table: Tensor | None = None, numbers: Numbers | None = None
) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The score of a pair: only biases hide, a product that is −∞ is not a number."""

    def product(score: Tensor) -> Tensor:
        return torch.where(score == float("-inf"), float("nan"), score)

    def of_key(batch: Tensor, key: Tensor) -> Tensor | float:
        if additive is None:
            return 0.0
        return additive[key] if additive.ndim == 1 else additive[batch, key]

    if table is None or numbers is None:
        return lambda score, batch, head, query, key: product(score) + of_key(batch, key)
    # torch 2.8 takes no index but tensors here
    shared = table[0] if len(table) == 1 else None

    def of_pair(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        number = numbers.of(query, key)
        if shared is not None:
            return shared[head, number] if shared.ndim == 2 else shared[query, head, number]
        return table[batch, head, number] if table.ndim == 3 else table[batch, query, head, number]

    return lambda score, batch, head, query, key: (
        product(score) + of_key(batch, key) + of_pair(batch, head, query, key)
    )


def _bounded(bias: Tensor) -> Tensor:
    """Finite numbers no larger than :data:`MAX_BIAS`."""
    return torch.where(bias.isfinite(), bias.clamp(-MAX_BIAS, MAX_BIAS), bias)


@contextmanager
def _outside_of_ops() -> Iterator[None]:
    """Autograd and compilation as they are outside of an op.

    Inside, the dispatcher leaves autograd out. The switches of autocast lie beside those of autograd
    and must stay as they are: clearing all of them makes every product one of half precision.
    Compiled programs are one for each set of shapes, of which torch would allow eight.
    """
    limits = dict.fromkeys(("recompile_limit", "accumulated_recompile_limit"), MAX_PROGRAMS)
    with with_autograd(), dynamo_limits(**limits):
        yield


def layout_of(of: Neighborhood | Relation, device: torch.device) -> Layout:
    """The layout of a neighborhood, or of a relation on it, on a device; those of recent calls are kept."""
    kept = _layouts.get((of.identity, device))
    if kept is not None:
        return kept
    tiles = numbered_tile_plan(of) if isinstance(of, Relation) else tile_plan(of)
    query_order, key_order = (_padded(order) for order in (tiles.query_order, tiles.key_order))
    shape = len(query_order) // TILE, len(key_order) // TILE
    # after the rows of the plan follow two more: that of a pair that is not visited, and that of one where
    # all see all. So the mask alone says what the lists say: torch's path without compilation reads no lists
    hidden, full = len(tiles.masks), len(tiles.masks) + 1
    ids = np.where(tiles.mask_ids < 0, full, tiles.mask_ids)
    number_of_pair = _of_tiles(tiles, ids, shape, rest=hidden)
    words = np.concatenate(
        (tiles.masks, np.repeat(np.array([0, ~np.uint64(0)], np.uint64), TILE).reshape(2, TILE))
    )

    def on_device(values: NDArray[Any]) -> Tensor:
        return torch.as_tensor(values).to(device)

    numbers, masks = on_device(number_of_pair), on_device(words.view(np.int64))

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        word = masks[numbers[query // TILE, key // TILE], query % TILE]
        return (word >> (key % TILE)) & 1 == 1

    side = BLOCK // TILE
    blocks = number_of_pair.reshape(len(query_order) // BLOCK, side, len(key_order) // BLOCK, side)
    all_full, some = (blocks == full).all((1, 3)), (blocks != hidden).any((1, 3))
    block_mask = BlockMask.from_kv_blocks(
        *_lists(on_device(some & ~all_full)),
        *_lists(on_device(all_full)),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(len(query_order), len(key_order)),
    )
    made = Layout(
        on_device(np.maximum(query_order, 0).astype(np.int64)),
        on_device(np.maximum(key_order, 0).astype(np.int64)),
        on_device(_places(query_order)),
        on_device(_places(key_order)),
        block_mask,
        None,
    )
    size = 10 * number_of_pair.size + words.nbytes
    if isinstance(tiles, NumberedTilePlan):
        of_tiles = _of_tiles(tiles, tiles.number_ids, shape, rest=0)
        made = made._replace(numbers=Numbers(on_device(of_tiles), on_device(tiles.numbers)))
        size += of_tiles.nbytes + tiles.numbers.nbytes
    _layouts.put((of.identity, device), made, size)
    return made


def _padded(order: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.pad(order, (0, -len(order) % BLOCK), constant_values=-1)


def _places(order: NDArray[np.int32]) -> NDArray[np.int64]:
    """token → position, from position → token or −1."""
    valid = np.flatnonzero(order >= 0)
    places = np.empty(len(valid), dtype=np.int64)
    places[order[valid]] = valid
    return places


def _of_tiles(
    tiles: TilePlan, of_entries: NDArray[np.int32], shape: tuple[int, int], rest: int
) -> NDArray[np.int32]:
    """What a plan holds of each entry, for each pair of tiles; ``rest`` for those that are not visited."""
    spread = np.full(shape, rest, dtype=np.int32)
    for tile in range(len(tiles.tile_class)):
        entries, key_tiles = visited(tiles, tile)
        spread[tile, key_tiles] = of_entries[entries]
    return spread


def _lists(marked: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks are marked in each row of ``[n_queries, n_keys]``, and their indices, first in line."""
    order = marked.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return marked.sum(1).to(torch.int32)[None, None], order.to(torch.int32)[None, None]
