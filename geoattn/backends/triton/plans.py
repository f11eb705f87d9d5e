"""Plans in the memory of a device, in the layout that the kernels read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from geoattn.backends.resident import Resident, uploaded
from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans.blocks import SIDE, BlockPlan
from geoattn.plans.choice import block_plan
from geoattn.plans.gathered import tokens_of
from geoattn.relations.base import Relation

#: blocks whose gradients one program of the table's kernel adds up, at most
BLOCKS_AT_ONCE = 32


class DevicePlan(NamedTuple):
    """A :class:`geoattn.plans.blocks.BlockPlan` on a device."""

    row_order: Tensor
    column_order: Tensor
    schedule: Tensor
    block_class: Tensor
    #: of a block's column tiles; where keys are gathered, how far its rows of ``tokens`` lie behind the steps
    #: of its class
    block_shift: Tensor
    bounds: Tensor
    steps: Tensor
    #: int32 [masks, 64, 2]
    masks: Tensor
    #: int32 [steps of all blocks, 64], or empty: the keys that each step gathers, −1 for none
    tokens: Tensor
    #: of a relation, else empty: int32 [steps, 2], int32 [n, 64, 64]
    number_ids: Tensor
    numbers: Tensor
    blocks: int
    ring: int
    gathered: bool

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self if isinstance(x, Tensor))


def upload(plan: BlockPlan, device: torch.device) -> DevicePlan:
    """A plan on a device."""
    shift = plan.block_shift
    tokens = np.empty((0, SIDE), np.int32)
    if plan.gathered:
        tokens = tokens_of(plan)
        ends = np.cumsum(plan.lengths)
        shift = (ends - plan.lengths - plan.bounds[plan.block_class, 0]).astype(np.int32)
    there = partial(uploaded, device=device)
    return DevicePlan(
        row_order=there(plan.row_order),
        column_order=there(plan.column_order),
        schedule=there(plan.schedule),
        block_class=there(plan.block_class),
        block_shift=there(shift),
        bounds=there(plan.bounds),
        steps=there(plan.steps),
        masks=there(plan.masks.astype("<u8").view(np.int32)),
        tokens=there(tokens),
        number_ids=there(plan.number_ids),
        numbers=there(plan.numbers),
        blocks=len(plan.block_class),
        ring=plan.ring,
        gathered=plan.gathered,
    )


_plans: Resident[DevicePlan] = Resident(max_bytes=2**31, size=lambda plan: plan.nbytes)


def device_plan(of: Neighborhood | Relation, tiles: int, device: torch.device) -> DevicePlan:
    """The plan of a neighborhood or of a relation in blocks of some tiles on a device, where it stays."""

    def planned() -> Callable[[], DevicePlan]:
        plan = block_plan(of, tiles)
        return lambda: upload(plan, device)

    return _plans.of(of, device, planned, tiles)


class Items(NamedTuple):
    """What the programs of the table's kernel add up, over blocks of one tile."""

    #: int32 [items, 4]: a step, the first and the end of some ``blocks`` that have it, its tile of numbers
    items: Tensor
    #: int32 [blocks], those of one class side by side
    blocks: Tensor

    @property
    def nbytes(self) -> int:
        return self.items.nbytes + self.blocks.nbytes


_items: Resident[Items] = Resident(max_bytes=2**28, size=lambda items: items.nbytes)


def device_items(relation: Relation, device: torch.device) -> Items:
    """The items of a relation on a device. The blocks of a class are shared out evenly, by the plan alone."""

    def planned() -> Callable[[], Items]:
        plan = block_plan(relation, 1)
        counts = np.bincount(plan.block_class, minlength=len(plan.bounds))
        starts = np.concatenate([[0], np.cumsum(counts)])
        label = np.repeat(np.arange(len(counts)), plan.bounds[:, 2] - plan.bounds[:, 0])  # of each step
        parts = -(-counts // BLOCKS_AT_ONCE)[label]
        step = np.repeat(np.arange(len(label)), parts)
        part = np.arange(len(step)) - np.repeat(np.cumsum(parts) - parts, parts)
        of_class, n_parts = label[step], parts[step]
        ends = [starts[of_class] + counts[of_class] * p // n_parts for p in (part, part + 1)]
        items = np.stack([step, *ends, plan.number_ids[step, 0]], axis=1).astype(np.int32)
        blocks = np.argsort(plan.block_class, kind="stable").astype(np.int32)
        return lambda: Items(uploaded(items, device), uploaded(blocks, device))

    return _items.of(relation, device, planned)
