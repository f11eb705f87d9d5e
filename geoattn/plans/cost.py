"""What a plan costs: the work it does, against the work that counts and against dense attention."""

from __future__ import annotations

import dataclasses

import numpy as np

from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans import kernels
from geoattn.plans.base import LanePlan, TilePlan
from geoattn.plans.blocks import in_blocks
from geoattn.plans.cache import plan
from geoattn.plans.choice import Choice, choice


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Work of one head and one batch entry under a plan.

    A group is the smallest part of a tile pair that a kernel can skip: 16×8 pairs on tensor cores;
    with gathered keys the whole entry.

    Examples
    --------
    >>> ga.plans.estimate(ga.window(ga.grids.cartesian(4096), 65)).useful_pairs
    266240
    """

    query_tile: int
    key_tile: int
    group: tuple[int, int]
    #: query-key pairs that the neighborhood holds
    useful_pairs: int
    #: tile pairs that dense attention visits
    dense_tiles: int
    visited_tiles: int
    full_tiles: int
    visited_groups: int
    mean_list: float
    max_list: int
    masks: int
    classes: int
    nbytes: int
    #: with gathered keys: of the lanes that work on a key in groups of 8 or 16 queries, the share that see it
    useful_lanes: dict[int, float] = dataclasses.field(default_factory=dict)
    #: of tiles for tensor cores: what the Triton kernels make of them, in blocks of 128 queries
    blocks: Choice | None = None

    @property
    def partial_tiles(self) -> int:
        return self.visited_tiles - self.full_tiles

    @property
    def tile_occupancy(self) -> float:
        """Useful pairs among those of the visited tiles."""
        return self.useful_pairs / max(1, self.visited_tiles * self.query_tile * self.key_tile)

    @property
    def group_occupancy(self) -> float:
        """Useful pairs among those of the visited groups."""
        return self.useful_pairs / max(1, self.visited_groups * self.group[0] * self.group[1])

    @property
    def tile_speedup(self) -> float:
        """Dense tile pairs per visited one: the gain over dense attention at equal cost per tile."""
        return self.dense_tiles / max(1, self.visited_tiles)

    @property
    def group_speedup(self) -> float:
        """Dense groups per visited one: the gain where empty groups cost nothing."""
        per_tile = self.query_tile * self.key_tile // (self.group[0] * self.group[1])
        return self.dense_tiles * per_tile / max(1, self.visited_groups)

    def __str__(self) -> str:
        rows = [
            ("useful pairs", f"{self.useful_pairs:,}"),
            ("tile pairs", f"{self.visited_tiles:,} of {self.dense_tiles:,}, {self.full_tiles:,} full"),
            ("groups of {}×{}".format(*self.group), f"{self.visited_groups:,}"),
            ("useful share", f"{self.tile_occupancy:.1%} of tiles, {self.group_occupancy:.1%} of groups"),
            ("tiles per query tile", f"{self.mean_list:.1f} on average, {self.max_list} at most"),
            ("stored", f"{self.classes:,} lists, {self.masks:,} masks, {self.nbytes / 1e6:.1f} MB"),
            ("gain over dense", f"{self.tile_speedup:.1f}× by tiles, {self.group_speedup:.1f}× by groups"),
        ]
        if self.useful_lanes:
            told = ", ".join(
                f"{share:.1%} of groups of {group}" for group, share in self.useful_lanes.items()
            )
            rows.insert(4, ("useful lanes", told))
        if self.blocks is not None:
            rows.append(("in blocks of 128 rows", str(self.blocks)))
        return "\n".join(
            [f"tiles of {self.query_tile}×{self.key_tile}"] + [f"  {name:22}{text}" for name, text in rows]
        )


def statistics(laid_out: LanePlan | TilePlan) -> Statistics:
    """Count the work of a plan.

    Examples
    --------
    >>> hood = ga.window(ga.grids.cartesian(4096), 65)
    >>> bool(ga.plans.statistics(ga.plans.plan(hood)).useful_pairs == hood.counts.sum())
    True
    """
    lengths = np.diff(laid_out.indptr)
    n_tiles = np.bincount(laid_out.tile_class, minlength=len(lengths))
    repeats = np.repeat(n_tiles, lengths)  # the tile pairs that an entry stands for
    visited = int(repeats.sum())
    useful_lanes = {}
    if isinstance(laid_out, TilePlan):
        ids, group, n_masks = laid_out.mask_ids, (16, 8), len(laid_out.masks)
        # the last number is that of full tiles, whose mask is −1
        pairs = np.append(kernels.count_bits(laid_out.masks), 64 * 64)[ids]
        groups = np.append(kernels.count_bits(laid_out.groups[:, None].astype(np.uint64)), 32)[ids]
    else:
        group, n_masks = (laid_out.query_tile, laid_out.key_tile), 0
        pairs = kernels.count_bits(laid_out.lanes[:, None].astype(np.uint64))
        groups = np.ones_like(pairs)
        for size in (8, 16):
            shifts = np.arange(0, laid_out.query_tile, size, dtype=np.uint32)
            words = laid_out.lanes[:, None] >> shifts & np.uint32((1 << size) - 1)
            busy = int(((words != 0).sum(1) * repeats).sum()) * size
            useful_lanes[size] = int((pairs * repeats).sum()) / max(1, busy)
    n_queries, n_keys = (int((order >= 0).sum()) for order in (laid_out.query_order, laid_out.key_order))
    return Statistics(
        query_tile=laid_out.query_tile,
        key_tile=laid_out.key_tile,
        group=group,
        useful_pairs=int((pairs * repeats).sum()),
        dense_tiles=-(-n_queries // laid_out.query_tile) * -(-n_keys // laid_out.key_tile),
        visited_tiles=visited,
        full_tiles=int(repeats[pairs == laid_out.query_tile * laid_out.key_tile].sum()),
        visited_groups=int((groups * repeats).sum()),
        mean_list=visited / max(1, len(laid_out.tile_class)),
        max_list=int(lengths.max(initial=0)),
        masks=n_masks,
        classes=len(lengths),
        nbytes=laid_out.nbytes,
        useful_lanes=useful_lanes,
        blocks=choice(in_blocks(laid_out)) if isinstance(laid_out, TilePlan) else None,
    )


def estimate(hood: Neighborhood, query_tile: int = 64, key_tile: int = 64) -> Statistics:
    """Predict how much work a neighborhood saves over dense attention, and what its plan weighs.

    Prints readably::

        print(geoattn.plans.estimate(geoattn.geodesic(grid, radius=7)))

    Parameters and errors are those of :func:`geoattn.plans.build`.

    Examples
    --------
    >>> ga.plans.estimate(ga.window(ga.grids.cartesian(4096), 65)).useful_pairs
    266240
    """
    return statistics(plan(hood, query_tile, key_tile))
