"""Whole tiles or single keys: which steps a plan in blocks has, and what either costs.

The model counts what a multiprocessor of an H200 does for each step of 128 rows and 64 columns: the
instructions of its warps, four of which are issued in a clock, and the bytes that come from the second
cache. The larger of the two bounds the step. Instructions are those of the forward pass at D = 64 in
bfloat16 on sm_90, of which ``benchmarks/results/triton_variants.csv`` has a row.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.everything import Everything
from geoattn.plans.blocks import SIDE, BlockPlan, all_in_blocks, in_blocks
from geoattn.plans.cache import numbered_tile_plan, tile_plan
from geoattn.plans.gathered import gathered, gathered_bounds
from geoattn.relations.base import Relation

#: instructions of a warp for a step; whether its columns are a tile or gathered changes two in a hundred
MASKED, UNMASKED = 609, 452
#: warps of a block, and instructions that a multiprocessor issues in a clock
WARPS, ISSUED = 8, 4
#: bytes in a clock for one multiprocessor of 132 at 1.755 GHz that share 6 TB/s
FROM_CACHE = 26.0
#: bytes of a key with its value at D = 64 in half precision, of a row's mask, and of a key's number
PAIR, MASK, TOKEN = 256, 8, 4
#: bytes of the lists of all blocks that single keys may take
MOST_BYTES = 2**29


@dataclasses.dataclass(frozen=True)
class Steps:
    """Steps that the blocks of a plan visit in all, and the clocks of one multiprocessor that they take."""

    masked: int
    unmasked: int
    clocks: float

    @property
    def count(self) -> int:
        return self.masked + self.unmasked


@dataclasses.dataclass(frozen=True)
class Choice:
    """Steps of whole tiles beside steps of single keys."""

    tiles: Steps
    gathered: Steps

    @property
    def gathers(self) -> bool:
        fits = self.gathered.count * SIDE * TOKEN <= MOST_BYTES
        return fits and self.gathered.clocks < self.tiles.clocks

    def __str__(self) -> str:
        gain = self.tiles.clocks / max(1.0, self.gathered.clocks)
        whole, single = (f"{x.count:,} ({x.unmasked:,} without a mask)" for x in (self.tiles, self.gathered))
        if self.gathers:
            return f"gathers keys: {single} steps for {whole} of whole tiles, {gain:.2f}× fewer clocks"
        return f"whole tiles: {whole} steps for {single} of single keys, {1 / gain:.2f}× fewer clocks"


def choice(plan: BlockPlan) -> Choice:
    """What a plan of whole tiles costs as it is, and with its keys gathered."""
    return Choice(
        steps(plan.bounds, plan.block_class),
        steps(gathered_bounds(plan), plan.block_class),
    )


def steps(bounds: NDArray[np.int32], block_class: NDArray[np.int32]) -> Steps:
    """Count the steps of all blocks."""
    masked, unmasked = np.diff(bounds.astype(np.int64), axis=1)[block_class].sum(0).tolist()
    bytes = SIDE * (PAIR + TOKEN)
    of_masked, of_unmasked = (
        max(instructions * WARPS / ISSUED, brought / FROM_CACHE)
        for instructions, brought in ((MASKED, bytes + 2 * SIDE * MASK), (UNMASKED, bytes))
    )
    return Steps(masked, unmasked, masked * of_masked + unmasked * of_unmasked)


def block_plan(of: Neighborhood | Relation, tiles: int = 2) -> BlockPlan:
    """A neighborhood in blocks of one or two tiles, with its keys gathered where that costs less.

    A relation's numbers come in whole tiles.
    """
    if isinstance(of, Relation):
        return in_blocks(numbered_tile_plan(of), tiles)
    if isinstance(of, Everything):  # there is nothing to plan, and its tiles would be many
        return all_in_blocks(of.query_grid.size, of.key_grid.size, tiles)
    whole = in_blocks(tile_plan(of), tiles)
    return gathered(whole) if choice(whole).gathers else whole
