"""Launches that are kept: calls of one form differ in nothing but where their tensors lie."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from geoattn.backends.cuda.arguments import Block, Words
from geoattn.backends.cuda.variants import Variant

if TYPE_CHECKING:
    from geoattn.backends.cuda.plans import DevicePlan

#: launches that a plan keeps; a call of yet another form lets all go
MOST_KEPT = 64


class Launch(NamedTuple):
    """A kernel, its number of blocks, and its arguments but for the addresses."""

    variant: Variant
    blocks: int
    words: Words[int]
    places: tuple[int, ...]
    device: torch.device
    #: arrays of the plan, which the arguments point into
    arrays: tuple[Tensor, ...]

    @classmethod
    def of(
        cls, plan: DevicePlan, variant: Variant, blocks: int, block: type[Block], *numbers: float
    ) -> Launch:
        """A launch of these arguments; what they have for the addresses of a block does not matter."""
        return cls(variant, blocks, block.of(*numbers), block.places, plan.schedule.device, plan.tensors)

    def at(self, addresses: Sequence[int]) -> Words[int]:
        """The arguments with these addresses, in the order of the block's ``ADDRESSES``."""
        words = self.words[:]
        for place, address in zip(self.places, addresses, strict=True):
            words[place] = address
        return words


class Launches(dict[Hashable, tuple[Launch, ...]]):
    """The launches of a plan by the form of the call."""

    def keep(self, form: Hashable, launches: tuple[Launch, ...]) -> tuple[Launch, ...]:
        """Keep those of a form, and return them."""
        if len(self) >= MOST_KEPT:
            self.clear()
        self[form] = launches
        return launches


def address(x: float | Tensor | None) -> int:
    """Where a tensor lies; 0 for none."""
    return x.data_ptr() if isinstance(x, Tensor) else 0


def form_of(scale: float | Tensor, table: Tensor | None) -> tuple[Hashable, ...]:
    """What a launch's arguments hold of these beside their addresses."""
    of_scale = tuple(scale.shape) if isinstance(scale, Tensor) else scale
    return of_scale, None if table is None else (table.shape, table.stride())
