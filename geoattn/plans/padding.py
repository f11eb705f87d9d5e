"""Which tiles are full but for padding: kernels that hide padded keys by their bias need no mask there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn.plans import kernels
from geoattn.plans.base import TilePlan


def full_beside_padding(plan: TilePlan) -> NDArray[np.int32]:
    """``plan.mask_ids`` with −1 for tiles in which all pairs of tokens are visible, whatever is padded.

    A tile of a lat-lon grid holds 7×9 tokens and a padded position: no mask of such a plan is full. For
    kernels that hide padded keys in another way, and write nothing for padded queries. Tiles with an empty
    group of 16×8 stay partial, because its work is saved then.

    Examples
    --------
    >>> plan = ga.plans.tile_plan(ga.everything(ga.grids.gaussian(6, 12)))
    >>> ga.plans.full_beside_padding(plan).shape == plan.mask_ids.shape
    True
    """
    counts = np.diff(plan.indptr)
    rows = _shared(_held(plan.query_order), plan.tile_class, len(counts))
    columns = _held(plan.key_order)
    if plan.tile_shift.any():  # an entry stands for any tile of its ring
        ring = np.arange(len(columns)) // plan.ring
        columns = _shared(columns, ring, len(columns) // plan.ring)[ring]
    found: NDArray[np.int32] = kernels.full_beside_padding(
        plan.mask_ids, plan.masks, plan.groups, np.repeat(rows, counts), columns[plan.key_tiles]
    )
    return found


def _held(order: NDArray[np.int32]) -> NDArray[np.uint64]:
    """For each tile of 64 positions a word whose bit is set where there is a token."""
    bits = np.uint64(1) << np.arange(64, dtype=np.uint64)
    words: NDArray[np.uint64] = ((order.reshape(-1, 64) >= 0) * bits).sum(1, dtype=np.uint64)
    return words


def _shared(words: NDArray[np.uint64], label: NDArray[Any], n_labels: int) -> NDArray[np.uint64]:
    """The word that all of a label have, or 0."""
    least = np.full(n_labels, np.iinfo(np.uint64).max, dtype=np.uint64)
    most = np.zeros(n_labels, dtype=np.uint64)
    np.minimum.at(least, label, words)
    np.maximum.at(most, label, words)
    return np.where(least == most, most, np.uint64(0))
