"""What a depth estimate learns from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from geoattn.tasks.panoramas.areas import area_mean
from geoattn.tasks.panoramas.classes import NO_DEPTH

#: a network's output of 0 means this many metres
TYPICAL_DEPTH = 2.0


def to_depth(output: Tensor) -> Tensor:
    """Metres from a network's output, which is the logarithm of depth in units of 2 m."""
    return TYPICAL_DEPTH * output.clamp(-5.0, 5.0).exp()


def depth_loss(
    output: Tensor,
    depth: Tensor,
    area: Tensor,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Absolute error of the logarithm of depth, averaged over the area of the pixels that have one.

    Parameters
    ----------
    output
        ``[B, *grid.shape]``, as :func:`to_depth` takes it.
    depth
        Metres, ``[B, *grid.shape]``; :data:`NO_DEPTH` where there is none.
    area
        ``[*grid.shape]``, from :func:`geoattn.tasks.panoramas.area_of`.
    total
        Adds up the sums of many processes: see :func:`geoattn.tasks.panoramas.area_mean`.
    """
    valid = depth > NO_DEPTH
    target = (torch.where(valid, depth, TYPICAL_DEPTH) / TYPICAL_DEPTH).log()
    return area_mean((output - target).abs(), valid, area, total)
