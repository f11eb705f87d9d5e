"""Hilbert-guided local attention (Li & Xu, 2511.05832): tokens and windows along a curve, on lists of blocks.

A window of a plane whose tokens are numbered row by row touches a block of 128 consecutive tokens in every
row that it has; along a Hilbert curve its tokens lie together. The published method changes both the order
and the pattern: blocks of the curve for blocks of the plane (``windows``), so many ranks to either side for
a square around each query (``slides``). Blocks are counted in three orders of the tokens: row by row, along
the curve, and that of our plan, which brings tokens together by itself. FlexAttention takes tokens in the
first two, ours row by row.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from systems_measure import Call, Options, Results, Row, dense, gains, in_turn, operands, ours, predicted
from torch import Tensor

import geoattn as ga
from geoattn.neighborhoods import Neighborhood

#: tokens of a block on either side: what FlexAttention takes
BLOCK = 128
#: side of the plane, of the windows and of the slides
SIDE, WINDOW, SLIDE = 128, 16, 15
SMALL = (16, 4, 3)


def patterns(side: int, window: int, slide: int) -> dict[str, Neighborhood]:
    plane = ga.grids.cartesian((side, side))
    return {
        "windows of the plane": ga.window(plane, window, stride=window),
        "windows of the curve": ga.curve_window(plane, window**2, stride=window**2),
        "slides on the plane": ga.window(plane, slide),
        "slides along the curve": ga.curve_window(plane, slide**2),
    }


def measure(results: Results, options: Options) -> None:
    for name, hood in patterns(*(SMALL if options.small else (SIDE, WINDOW, SLIDE))).items():
        results.row("hilbert", name, lambda hood=hood: one(hood, options))


def one(hood: Neighborhood, options: Options) -> Row:
    plan = ga.plans.plan(hood)
    orders = {
        "row by row": np.arange(hood.query_grid.size),
        "along the curve": ga.grids.order(hood.query_grid, "hilbert").astype(np.int64),
        "of our plan": plan.query_order[plan.query_order >= 0].astype(np.int64),
    }
    size = min(BLOCK, hood.query_grid.size // 4)
    lists = {name: blocks(hood, order, size) for name, order in orders.items()}
    calls: dict[str, Call] = {"ours": ours(hood), "dense, ours": dense(hood)}
    absent = {}
    for name in ("row by row", "along the curve"):
        try:
            calls[f"FlexAttention, {name}"] = flex(hood, orders[name], lists[name], size)
        except RuntimeError as reason:
            absent[name] = str(reason).splitlines()[0][:120]
    found = in_turn(
        calls,
        operands(hood),
        options.rounds,
        forward_only=tuple(name for name in calls if name.startswith("Flex")),
        expected={"dense, ours": calls["dense, ours"]},
    )
    visited = {name: int((found_blocks > 0).sum()) for name, found_blocks in lists.items()}
    return {
        "tokens": hood.query_grid.size,
        "block": size,
        "blocks": visited | {"all": lists["row by row"].size},
        "predicted": predicted(hood),
        "seconds": found,
        "gain": gains(found, "dense, ours", "ours"),
        "absent": absent,
    }


def blocks(hood: Neighborhood, order: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Pairs that see each other in each pair of blocks of tokens in an order, ``[blocks, blocks]``."""
    place = np.argsort(order)
    indptr, indices = hood.to_csr()
    count = math.ceil(len(order) / size)
    queries = np.repeat(place // size, np.diff(indptr))
    pairs = np.bincount(queries * count + place[indices] // size, minlength=count**2)
    return pairs.reshape(count, count)


def flex(hood: Neighborhood, order: NDArray[np.int64], pairs: NDArray[np.int64], size: int) -> Call:
    """FlexAttention over the blocks that hold a pair, forward, compiled; see :class:`Ordered`."""
    return Ordered(order, _block_mask(hood, order, pairs, size))


class Ordered:
    """A call on tokens in an order, in which the operands of the last call are kept.

    The method keeps its tokens in one order from layer to layer: bringing them into it is no part of a call.
    """

    def __init__(self, order: NDArray[np.int64], mask: Any) -> None:
        self.order, self.mask = torch.as_tensor(order), mask
        self.place = torch.as_tensor(np.argsort(order))
        self._kept: tuple[tuple[int, ...], list[Tensor]] | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        names = tuple(x.data_ptr() for x in (q, k, v))
        if self._kept is None or self._kept[0] != names:
            ordered = [x.flatten(1, -3)[:, self.order].transpose(1, 2).contiguous() for x in (q, k, v)]
            self._kept = names, ordered
        out = _compiled()(*self._kept[1], block_mask=self.mask)
        return out.transpose(1, 2)[:, self.place].view(q.shape)


@cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _block_mask(hood: Neighborhood, order: NDArray[np.int64], pairs: NDArray[np.int64], size: int) -> Any:
    from torch.nn.attention.flex_attention import BlockMask

    place, n = np.argsort(order), len(order)
    indptr, indices = hood.to_csr()
    seen = torch.zeros(n, n, dtype=torch.bool)
    seen[np.repeat(place, np.diff(indptr)), place[indices]] = True

    def listed(which: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        first = np.argsort(~which, axis=1, kind="stable")  # blocks of the list come first
        as_tensors = [torch.as_tensor(x, dtype=torch.int32)[None, None] for x in (which.sum(1), first)]
        return as_tensors[0], as_tensors[1].contiguous()

    full = pairs == size**2
    return BlockMask.from_kv_blocks(
        *listed((pairs > 0) & ~full),
        *listed(full),
        BLOCK_SIZE=size,
        mask_mod=lambda b, h, i, j: seen[i, j],
        seq_lengths=(n, n),
    )
