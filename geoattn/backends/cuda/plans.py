"""Plans in the memory of a device, in the layout that the kernels read."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoattn._lru import BoundedCache
from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans import clears, tile_plan
from geoattn.plans.base import TilePlan


@dataclasses.dataclass(frozen=True, eq=False)
class DevicePlan:
    """A plan of 64×64 tiles; see :class:`geoattn.plans.TilePlan` and ``cuda/walk.cuh``."""

    ARRAYS: ClassVar = (
        "row_order", "column_order", "schedule", "tile_class", "tile_shift", "starts", "entries", "masks",
    )  # fmt: skip

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
    ring: int
    #: whether any tile is not full
    masked: bool

    @classmethod
    def of(cls, plan: TilePlan, device: torch.device) -> DevicePlan:
        def upload(x: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(x)).to(device)

        return cls(
            row_order=upload(plan.query_order),
            column_order=upload(plan.key_order),
            schedule=upload(plan.schedule),
            tile_class=upload(plan.tile_class),
            tile_shift=upload(plan.tile_shift % plan.ring),
            starts=upload(plan.indptr),
            entries=upload(_entries(plan)),
            masks=upload(plan.masks.view(np.int64)),
            ring=plan.ring,
            masked=bool((plan.mask_ids >= 0).any()),
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in self.ARRAYS)

    @property
    def n_tiles(self) -> int:
        return len(self.schedule)

    @property
    def nbytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in self.tensors)


def _entries(plan: TilePlan) -> NDArray[np.int32]:
    """All that a kernel must know of an entry, in 16 bytes."""
    entries = np.empty((len(plan.key_tiles), 4), dtype=np.int32)
    entries[:, 0] = plan.key_tiles
    entries[:, 1] = plan.key_tiles // plan.ring * plan.ring + plan.ring
    entries[:, 2] = plan.mask_ids
    groups = np.append(plan.groups, np.uint32(0xFFFFFFFF))  # the last is that of full tiles
    entries[:, 3] = groups[plan.mask_ids].view(np.int32)
    return entries


_plans: BoundedCache[tuple[str, torch.device], DevicePlan] = BoundedCache(max_bytes=2**31)
clears(_plans.clear)


def device_plan(hood: Neighborhood, device: torch.device) -> DevicePlan:
    """The plan of a neighborhood on a device; those of recent calls are kept."""
    key = (hood.identity, device)
    kept = _plans.get(key)
    if kept is None:
        kept = DevicePlan.of(tile_plan(hood), device)
        _plans.put(key, kept, kept.nbytes)
    return kept
