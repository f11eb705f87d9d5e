"""Key lists of a query tile, cut down to what each group of lanes sees."""

from __future__ import annotations

import numpy as np

from geoattn.backends.cpu import micro
from geoattn.backends.cpu.compiled import kernel

LANES, KEY_BLOCK = micro.LANES, micro.KEY_BLOCK
#: queries of a tile, and groups of lanes that make it up
TILE = 32
GROUPS = TILE // LANES
#: keys of a list that are worked on together, so that their scores stay in the first-level cache
BLOCK = 16 * KEY_BLOCK
LOG2_E = 1.4426950408889634


@kernel
def aligned(size, like):  # type: ignore[no-untyped-def]
    """Uninitialised elements of the type of ``like`` that start on a cache line."""
    raw = np.empty(size + 16, type(like))
    skip = (-raw.ctypes.data % 64) // raw.itemsize
    return raw[skip : skip + size]


@kernel
def list_keys(like, plan, tile, bias, keys, masks, biases, counts):  # type: ignore[no-untyped-def]
    """Write, for each group of lanes, the keys that any of its lanes sees.

    A query tile lists all keys of its 32 queries; a group of 8 or 16 lanes sees about two thirds
    of them, and passing over the rest costs little beside the arithmetic it saves. Keys whose bias
    is −∞ are left out too: what they hold (NaN over land, say) never meets the arithmetic.

    Parameters
    ----------
    plan
        See :class:`geoattn.backends.cpu.schedule.Lists`.
    bias
        Address of the additive vector, 0 for none.
    keys, masks, biases
        Results ``[GROUPS, capacity]``: token, visible lanes of the group, bias in units of log 2.
        Each list is padded to a multiple of ``KEY_BLOCK`` with keys that no lane sees.
    counts
        Results ``[GROUPS]``: entries without the padding.
    """
    counts[:] = 0
    number = plan.tile_class[tile]
    shift = plan.tile_shift[tile]
    group_bits = np.uint32((1 << LANES) - 1)
    ring_end = plan.ring
    offset = like * 0
    for entry in range(plan.indptr[number], plan.indptr[number + 1]):
        position = plan.key_tiles[entry]
        while position >= ring_end:
            ring_end += plan.ring
        position += shift
        if position >= ring_end:
            position -= plan.ring
        key = plan.key_order[position]
        if bias != 0:
            offset = micro.load(like, bias, key)
            if offset == -np.inf:
                continue
            offset *= type(like)(LOG2_E)
        seen = plan.lanes[entry]
        for group in range(GROUPS):
            bits = (seen >> np.uint32(group * LANES)) & group_bits
            at = counts[group]
            keys[group, at] = key
            masks[group, at] = bits
            biases[group, at] = offset
            counts[group] = at + (bits != 0)
    for group in range(GROUPS):
        count = counts[group]
        for at in range(count, padded(count)):
            keys[group, at] = keys[group, 0]
            masks[group, at] = 0
            biases[group, at] = 0


@kernel
def padded(count):  # type: ignore[no-untyped-def]
    """A number of keys rounded up to whole blocks."""
    return (count + KEY_BLOCK - 1) // KEY_BLOCK * KEY_BLOCK


@kernel
def fill(like, address, count, value):  # type: ignore[no-untyped-def]
    """Set ``count`` elements at an address."""
    for at in range(count):
        micro.store(like, address, at, value)


@kernel
def load_lanes(like, order, start, base, stride, depth, factor, by_lanes):  # type: ignore[no-untyped-def]
    """by_lanes[d, l] = factor * x[order[start + l], d], 0 for padding, for the lanes of one group."""
    for lane in range(LANES):
        token = order[start + lane]
        for d in range(depth):
            value = like * 0 if token < 0 else micro.load(like, base, token * stride + d) * factor
            micro.store(like, by_lanes, d * LANES + lane, value)
