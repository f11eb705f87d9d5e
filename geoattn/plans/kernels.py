"""Compiled loops of the plan builder."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_ONE = np.uint64(1)
_FULL = np.uint64(0xFFFFFFFFFFFFFFFF)


@numba.njit(cache=True, nogil=True)
def count_entries(
    indptr: Any, indices: Any, rows: Any, positions: Any, key_tile: int, seen: Any, stamp: int
) -> Any:
    """Number of key tiles that each query tile visits.

    ``rows [n_tiles, query_tile]`` names the row of each query, −1 for padding. ``seen [n_key_tiles]``
    is scratch whose values are below ``stamp``; afterwards they are below ``stamp + n_tiles``.
    """
    n_tiles, query_tile = rows.shape
    counts = np.zeros(n_tiles, np.int64)
    for t in range(n_tiles):
        for lane in range(query_tile):
            row = rows[t, lane]
            if row < 0:
                continue
            for e in range(indptr[row], indptr[row + 1]):
                tile = positions[indices[e]] // key_tile
                if seen[tile] != stamp + t:
                    seen[tile] = stamp + t
                    counts[t] += 1
    return counts


@numba.njit(cache=True, nogil=True)
def distinct(values: Any, ends: Any, seen: Any, stamp: int) -> Any:
    """The different ones of ``values[ends[i]:ends[i + 1]]``, as they come, and where those of each i end.

    ``seen`` is scratch, one for each value that may come, whose numbers are below ``stamp``; afterwards they
    are below ``stamp + len(ends) − 1``.
    """
    found = np.empty(ends[-1] - ends[0], np.int64)
    stops = np.empty(len(ends) - 1, np.int64)
    n = 0
    for i in range(len(ends) - 1):
        for e in range(ends[i], ends[i + 1]):
            if seen[values[e]] != stamp + i:
                seen[values[e]] = stamp + i
                found[n] = values[e]
                n += 1
        stops[i] = n
    return found[:n], stops


@numba.njit(cache=True, nogil=True)
def fill_lanes(indptr: Any, indices: Any, rows: Any, positions: Any, starts: Any, scratch: Any) -> Any:
    """Key positions of each query tile, ascending, with one bit per query that sees the key.

    ``starts [n_tiles + 1]`` are the offsets of the tiles' entries; ``scratch [n_keys]`` holds zeros,
    before and after.
    """
    n_tiles, query_tile = rows.shape
    keys = np.empty(starts[n_tiles], np.int32)
    lanes = np.empty(starts[n_tiles], np.uint32)
    for t in range(n_tiles):
        n = starts[t]
        for lane in range(query_tile):
            row = rows[t, lane]
            if row < 0:
                continue
            bit = np.uint32(1) << np.uint32(lane)
            for e in range(indptr[row], indptr[row + 1]):
                position = positions[indices[e]]
                if scratch[position] == 0:
                    keys[n] = position
                    n += 1
                scratch[position] |= bit
        keys[starts[t] : n].sort()
        for e in range(starts[t], n):
            lanes[e] = scratch[keys[e]]
            scratch[keys[e]] = 0
    return keys, lanes


@numba.njit(cache=True, nogil=True)
def fill_numbers(
    indptr: Any,
    indices: Any,
    numbers: Any,
    rows: Any,
    positions: Any,
    starts: Any,
    keys: Any,
    entry: Any,
    key_tile: int,
    unseen: int,
) -> Any:
    """The number of each pair of the entries that are made, ``[n_entries, query_tile, key_tile]``.

    ``unseen`` stands where a query does not see the key; ``entry [n_key_tiles]`` is scratch.
    """
    n_tiles, query_tile = rows.shape
    filled = np.full((len(keys), query_tile, key_tile), unseen, np.int32)
    for t in range(n_tiles):
        for e in range(starts[t], starts[t + 1]):
            entry[keys[e]] = e
        for lane in range(query_tile):
            row = rows[t, lane]
            if row < 0:
                continue
            for e in range(indptr[row], indptr[row + 1]):
                position = positions[indices[e]]
                filled[entry[position // key_tile], lane, position % key_tile] = numbers[e]
    return filled


@numba.njit(cache=True, nogil=True)
def count_groups(lanes: Any, groups: Any) -> Any:
    """For each arrangement of the queries into groups: how many (key, group) pairs see each other.

    ``groups [n_arrangements, n_groups]`` holds the lanes of each group as bits of a word.
    """
    counts = np.zeros(len(groups), np.int64)
    for word in lanes:
        for a in range(groups.shape[0]):
            for g in range(groups.shape[1]):
                counts[a] += (word & groups[a, g]) != 0
    return counts


@numba.njit(cache=True, nogil=True)
def permute_lanes(lanes: Any, source: Any) -> None:
    """Let bit l of each word be what bit ``source[l]`` was, in place."""
    one = np.uint32(1)
    for e in range(len(lanes)):
        word, permuted = lanes[e], np.uint32(0)
        for lane in range(32):
            permuted |= ((word >> np.uint32(source[lane])) & one) << np.uint32(lane)
        lanes[e] = permuted


@numba.njit(cache=True, nogil=True)
def fill_masks(indptr: Any, indices: Any, rows: Any, positions: Any, starts: Any, scratch: Any) -> Any:
    """Key tiles of each query tile, ascending, with one 64-bit word per query.

    ``scratch [n_key_tiles]`` holds −1, before and after.
    """
    n_tiles, query_tile = rows.shape
    keys = np.empty(starts[n_tiles], np.int32)
    masks = np.zeros((starts[n_tiles], query_tile), np.uint64)
    for t in range(n_tiles):
        n = starts[t]
        for lane in range(query_tile):
            row = rows[t, lane]
            if row < 0:
                continue
            for e in range(indptr[row], indptr[row + 1]):
                tile = positions[indices[e]] >> 6
                if scratch[tile] < 0:
                    scratch[tile] = 0
                    keys[n] = tile
                    n += 1
        keys[starts[t] : n].sort()
        for e in range(starts[t], n):
            scratch[keys[e]] = e
        for lane in range(query_tile):
            row = rows[t, lane]
            if row < 0:
                continue
            for e in range(indptr[row], indptr[row + 1]):
                position = positions[indices[e]]
                masks[scratch[position >> 6], lane] |= _ONE << np.uint64(position & 63)
        for e in range(starts[t], n):
            scratch[keys[e]] = -1
    return keys, masks


@numba.njit(cache=True, nogil=True)
def intern(masks: Any, known: Any, n_known: int, table: Any, ids: Any) -> int:
    """Number the masks by content: equal masks get one number, full ones −1.

    ``known`` has room for all new masks behind its first ``n_known``; ``table`` is an open-addressing
    hash table of numbers, −1 where free, with a power of two of slots, at least twice those needed.
    Fills ``ids`` and returns the number of masks now known.
    """
    n_masks, width = masks.shape
    last = table.size - 1
    for m in range(n_masks):
        full = True
        code = np.uint64(0x9E3779B97F4A7C15)
        for i in range(width):
            full &= masks[m, i] == _FULL
            code = (code ^ masks[m, i]) * np.uint64(0xBF58476D1CE4E5B9)
            code ^= code >> np.uint64(29)
        if full:
            ids[m] = -1
            continue
        slot = np.int64(code >> np.uint64(1)) & last
        while True:
            number = table[slot]
            if number < 0:
                number = n_known
                table[slot] = number
                known[number] = masks[m]
                n_known += 1
                break
            equal = True
            for i in range(width):
                if known[number, i] != masks[m, i]:
                    equal = False
                    break
            if equal:
                break
            slot = (slot + 1) & last
        ids[m] = number
    return n_known


@numba.njit(cache=True, nogil=True)
def group_bits(masks: Any) -> Any:
    """Which 16×8 groups of each mask hold a visible pair: bit ``8 * (i // 16) + j // 8``."""
    n_masks, width = masks.shape
    groups = np.zeros(n_masks, np.uint32)
    for m in range(n_masks):
        for i in range(width):
            word = masks[m, i]
            for byte in range(8):
                if (word >> np.uint64(8 * byte)) & np.uint64(0xFF) != 0:
                    groups[m] |= np.uint32(1) << np.uint32(8 * (i // 16) + byte)
    return groups


@numba.njit(cache=True, nogil=True)
def full_beside_padding(mask_ids: Any, masks: Any, groups: Any, rows: Any, columns: Any) -> Any:
    """Numbers of masks, with −1 for those that hide but padding and have no empty group.

    ``rows`` and ``columns [n_entries]`` say by bits which positions of an entry's tiles hold tokens; 0 where
    that is not the same for all that share the entry.
    """
    found = mask_ids.copy()
    for e in range(len(mask_ids)):
        mask = mask_ids[e]
        if mask < 0 or groups[mask] != np.uint32(0xFFFFFFFF):
            continue
        full = True
        for i in range(masks.shape[1]):
            held = (rows[e] >> np.uint64(i)) & _ONE
            full &= masks[mask, i] == columns[e] * held
        if full:
            found[e] = -1
    return found


@numba.njit(cache=True, nogil=True)
def count_bits(words: Any) -> Any:
    """Number of bits set in each row of ``words [n, width]``, uint64, by adding ever wider fields."""
    counts = np.zeros(len(words), np.int64)
    for m in range(len(words)):
        for i in range(words.shape[1]):
            x = words[m, i]
            x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
            x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
            x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
            counts[m] += np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))
    return counts
