"""Plans in the memory of a device, in the layout that the kernels read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoattn.backends.cuda.arguments import Plan as PlanBlock
from geoattn.backends.cuda.launches import Launches
from geoattn.backends.cuda.operands import KeyBias, key_bias_of
from geoattn.backends.resident import Resident, uploaded
from geoattn.grids.base import Grid
from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans import NumberedTilePlan, TilePlan, full_beside_padding, numbered_tile_plan, tile_plan
from geoattn.relations.base import Relation

#: tiles whose gradients one block of the table's kernel adds up, at most
TILES_AT_ONCE = 32


@dataclasses.dataclass(frozen=True, eq=False)
class DevicePlan:
    """A plan of 64×64 tiles; see :class:`geoattn.plans.TilePlan` and ``cuda/walk.cuh``."""

    row_order: Tensor
    column_order: Tensor
    schedule: Tensor
    tile_class: Tensor
    tile_shift: Tensor
    #: int64 [classes + 1]
    starts: Tensor
    #: int32 [entries, 4]: column tile, end of its ring, mask or −1, groups
    entries: Tensor
    #: int64 [masks, 64]
    masks: Tensor
    #: float32 [2]: −∞ and 0, what a padded column brings in place of a bias or of statistics
    hidden: Tensor
    ring: int
    #: whether any tile is not full
    masked: bool
    #: of a relation, else None: int32 [entries], a tile of ``numbers``
    number_ids: Tensor | None = None
    #: int16 [n, 64 / 16, 64 / 8, 32, 4], or int32 beyond 16 bits: the four numbers of each lane of a warp
    numbers: Tensor | None = None
    #: int32 [items, 4]: an entry, the first and the end of some ``class_tiles`` that have it, and its tile of
    #: numbers
    items: Tensor | None = None
    #: int32 [tiles]: query tiles, those of one class side by side
    class_tiles: Tensor | None = None

    @classmethod
    def of(cls, plan: TilePlan, device: torch.device) -> DevicePlan:
        upload = partial(uploaded, device=device)
        numbered = {}
        if not isinstance(plan, NumberedTilePlan):
            mask_ids = full_beside_padding(plan)
        else:
            mask_ids = plan.mask_ids  # padding has number 0, whose entry of a table may be NaN: masks hide it
            small = plan.count <= 2**16
            # [n, row / 16, half, line, column / 8, pair, 2] → [n, row / 16, column / 8, line, pair, half, 2]
            numbers = plan.numbers.reshape(-1, 4, 2, 8, 8, 4, 2).transpose(0, 1, 4, 3, 5, 2, 6)
            narrow = numbers.astype(np.uint16).view(np.int16) if small else numbers
            class_tiles, items = _items(plan)
            numbered = {
                "number_ids": upload(plan.number_ids),
                "numbers": upload(narrow.reshape(-1, 4, 8, 32, 4)),
                "items": upload(items),
                "class_tiles": upload(class_tiles),
            }
        return cls(
            row_order=upload(plan.query_order),
            column_order=upload(plan.key_order),
            schedule=upload(plan.schedule),
            tile_class=upload(plan.tile_class),
            tile_shift=upload(plan.tile_shift % plan.ring),
            starts=upload(plan.indptr),
            entries=upload(_entries(plan, mask_ids)),
            masks=upload(plan.masks.view(np.int64)),
            hidden=upload(np.array([-np.inf, 0.0], dtype=np.float32)),
            ring=plan.ring,
            masked=bool((mask_ids >= 0).any()),
            **numbered,
        )

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        numbered = (self.number_ids, self.numbers, self.items, self.class_tiles)
        return *(getattr(self, name) for name in PlanBlock.ARRAYS), *(x for x in numbered if x is not None)

    @cached_property
    def block(self) -> tuple[int, ...]:
        """The numbers of the plan in a block of arguments."""
        return *(getattr(self, name).data_ptr() for name in PlanBlock.ARRAYS), self.ring

    @cached_property
    def launches(self) -> Launches:
        """What calls with this plan launched before."""
        return Launches()

    def key_bias(self, bias: Tensor | None, grid: Grid) -> KeyBias:
        """What is added per key; log-weights alone are asked for once."""
        kept = self._weights
        if kept and kept[0].of is bias and bias is not None:
            return kept[0]
        found = key_bias_of(bias, grid, self.schedule.device)
        if found.of is not None:
            kept[:] = [found]
        return found

    @cached_property
    def _weights(self) -> list[KeyBias]:
        return []

    @cached_property
    def numbered(self) -> tuple[int, int] | None:
        """Where its numbers are, for :func:`geoattn.backends.cuda.arguments.related`."""
        if self.number_ids is None or self.numbers is None:
            return None
        return self.number_ids.data_ptr(), self.numbers.data_ptr()

    @cached_property
    def number_bits(self) -> int:
        """Of a number in a relation; 0 without one."""
        return 0 if self.numbers is None else 8 * self.numbers.element_size()

    @cached_property
    def n_tiles(self) -> int:
        return len(self.schedule)

    @property
    def nbytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in self.tensors)


def _entries(plan: TilePlan, mask_ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """All that a kernel must know of an entry, in 16 bytes."""
    entries = np.empty((len(plan.key_tiles), 4), dtype=np.int32)
    entries[:, 0] = plan.key_tiles
    entries[:, 1] = plan.key_tiles // plan.ring * plan.ring + plan.ring
    entries[:, 2] = mask_ids
    groups = np.append(plan.groups, np.uint32(0xFFFFFFFF))  # the last is that of full tiles
    entries[:, 3] = groups[mask_ids].view(np.int32)
    return entries


def _items(plan: NumberedTilePlan) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Query tiles in the order of their classes, and what the blocks of the table's kernel add up.

    The tiles of a class are shared out evenly, so that the parts depend on the plan alone.
    """
    counts = np.bincount(plan.tile_class, minlength=len(plan.indptr) - 1)
    starts = np.concatenate([[0], np.cumsum(counts)])
    label = np.repeat(np.arange(len(counts)), np.diff(plan.indptr))  # of each entry
    parts = -(-counts // TILES_AT_ONCE)[label]
    entry = np.repeat(np.arange(len(label)), parts)
    part = np.arange(len(entry)) - np.repeat(np.cumsum(parts) - parts, parts)
    of_class, n_parts = label[entry], parts[entry]
    bounds = [starts[of_class] + counts[of_class] * p // n_parts for p in (part, part + 1)]
    items = np.stack([entry, *bounds, plan.number_ids[entry]], axis=1).astype(np.int32)
    return np.argsort(plan.tile_class, kind="stable").astype(np.int32), items


_plans: Resident[DevicePlan] = Resident(max_bytes=2**31, size=lambda plan: plan.nbytes)


def device_plan(of: Neighborhood | Relation, device: torch.device) -> DevicePlan:
    """The plan of a neighborhood, or of a relation on it, on a device, where it stays."""

    def planned() -> Callable[[], DevicePlan]:
        plan = numbered_tile_plan(of) if isinstance(of, Relation) else tile_plan(of)
        return lambda: DevicePlan.of(plan, device)

    return _plans.of(of, device, planned)
