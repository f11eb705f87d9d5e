"""Arguments of NATTEN's calls: one value or one per axis, and the neighborhood that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from geoattn.grids import cartesian
from geoattn.neighborhoods import everything, window
from geoattn.neighborhoods.base import Neighborhood

Size = int | Sequence[int]
Flag = bool | Sequence[bool]


def sizes(name: str, value: Size | None, rank: int, usual: int | None = None) -> tuple[int, ...]:
    """A size of each axis; None is ``usual`` where there is one."""
    value = usual if value is None else value
    each = (value,) * rank if isinstance(value, int) else value
    if (
        not isinstance(each, Sequence)
        or len(each) != rank
        or not all(isinstance(x, int) and not isinstance(x, bool) and x > 0 for x in each)
    ):
        raise ValueError(f"{name} must be a positive integer, or {rank} of them, got {value!r}")
    return tuple(each)


def flags(name: str, value: Flag | None, rank: int) -> tuple[bool, ...]:
    """A flag of each axis; None is False."""
    value = False if value is None else value
    each = (value,) * rank if isinstance(value, bool) else value
    good = isinstance(each, Sequence) and len(each) == rank and all(isinstance(x, bool) for x in each)
    if not good:
        raise ValueError(f"{name} must be a bool, or {rank} of them, got {value!r}")
    return tuple(each)


@lru_cache(256)
def windows(
    shape: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    is_causal: tuple[bool, ...],
) -> Neighborhood:
    """The neighborhood of a call; made once, so that its plans are found by identity."""
    return window(cartesian(shape), kernel_size, stride, dilation, is_causal)


@lru_cache(256)
def all_pairs(queries: int, keys: int) -> Neighborhood:
    return everything(cartesian((queries,)), cartesian((keys,)))
