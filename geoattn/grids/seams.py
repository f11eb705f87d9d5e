"""How the borders of an array of points join: columns that close, rows that fold, repeated points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.repeats import same_points
from geoattn.grids.sphere import Floats, Ints

#: places nearer to each other than this, on the unit sphere, are one: files round to float32
SAME = 1e-6


def kept_copies(xyz: Floats) -> Ints:
    """The token that stands for each point of ``xyz [rows, columns, 3]``: itself, or what it repeats.

    Of equal points the one with neighbors on all sides stands for all, the first of several.
    """
    rows, columns = xyz.shape[:2]
    size = rows * columns
    first = np.arange(size)
    for pairs in same_points(xyz.reshape(size, 3), min(SAME, 0.01 * np.sqrt(4.0 * np.pi / size))):
        np.minimum.at(first, pairs[:, 1], pairs[:, 0])
    first = first[first]  # three and four copies
    row, column = np.divmod(np.arange(size), columns)
    rim = (row == 0) | (row == rows - 1) | (column == 0) | (column == columns - 1)
    order = np.lexsort((np.arange(size), rim, first))
    groups = np.flatnonzero(np.diff(first[order], prepend=-1))
    chosen = np.empty(size, np.int64)
    chosen[first[order[groups]]] = order[groups]
    return np.asarray(chosen[first])


def surrounded(xyz: Floats) -> Ints:
    """Tokens ``[rows + 2, columns + 2]`` of an array of points and of what lies around it, −1 where it ends.

    Columns close where the last ones are the first again, or where the first follows upon the last. Rows
    fold, as those of tripolar ocean grids (Murray 1996, doi:10.1006/jcph.1996.0136), where beyond an
    outermost row lies itself in reverse, or, where that row is its own reverse, the row before it.
    """
    rows, columns = xyz.shape[:2]
    tokens = np.full((rows + 2, columns + 2), -1, np.int64)
    inner = np.arange(rows * columns).reshape(rows, columns)
    tokens[1:-1, 1:-1] = inner
    period = _period(xyz)
    if not period:
        return tokens
    tokens[1:-1, 0], tokens[1:-1, -1] = inner[:, period - 1], inner[:, columns - period]
    for end, last, before in ((-1, rows - 1, rows - 2), (0, 0, 1)):
        found = _fold(xyz[last, :period], xyz[before, :period]) if rows > 2 else None
        if found is not None:
            on_itself, turn = found
            beyond = inner[before if on_itself else last]
            tokens[end] = beyond[(turn - np.arange(-1, columns + 1)) % period]
    return tokens


def _period(xyz: Floats) -> int:
    """Columns once around, 0 where they do not close."""
    columns: int = xyz.shape[1]
    for again in range(1, min(4, columns // 2)):
        if np.abs(xyz[:, :again] - xyz[:, -again:]).max() <= SAME:
            return columns - again
    if columns < 5:
        return 0
    across, before, after = xyz[:, 0] - xyz[:, -1], xyz[:, -1] - xyz[:, -2], xyz[:, 1] - xyz[:, 0]
    longest = np.maximum(_length(before), _length(after))
    onward = ((across * before).sum(-1) > 0) & ((across * after).sum(-1) > 0)
    follows = onward & (_length(across) <= 1.6 * longest)
    return columns if follows.mean() > 0.9 else 0


def _fold(last: Floats, before: Floats) -> tuple[bool, int] | None:
    """Whether a row lies on its own reverse, and the turn with which it continues in that; or None."""
    n = len(last)
    chosen = np.unique(np.linspace(0, n - 1, min(n, 200)).astype(np.int64))
    outward = last[chosen] - before[chosen]
    distance = _length(last[chosen, None] - last[None])
    mirrored = (np.arange(n)[:, None] - chosen) % n  # by turn
    means = distance[np.arange(len(chosen)), mirrored].mean(1)
    turn = int(means.argmin())
    if means[turn] <= SAME:
        return True, turn
    onward = last[(turn - chosen) % n] - last[chosen]
    length = _length(onward) * _length(outward)
    straight = (onward * outward).sum(-1) > 0.8 * length
    return (False, turn) if straight.mean() > 0.75 and means[turn] < 2.0 * _length(outward).mean() else None


def neighbors(tokens: Ints, kept: Ints) -> Ints:
    """Pairs ``[m, 2]`` side by side among :func:`surrounded` ``tokens``; copies like what they repeat."""
    inner = tokens[1:-1, 1:-1].ravel()
    beside = [tokens[2:, 1:-1], tokens[1:-1, 2:], tokens[:-2, 1:-1], tokens[1:-1, :-2]]
    pairs = np.concatenate([np.stack((inner, other.ravel()), axis=-1) for other in beside])
    pairs = kept[pairs[pairs.min(1) >= 0]]
    copies = np.flatnonzero(kept != np.arange(len(kept)))
    if len(copies):
        of = np.argsort(kept[copies], kind="stable")
        copies, originals = copies[of], kept[copies[of]]
        low, high = np.searchsorted(originals, pairs[:, 0]), np.searchsorted(originals, pairs[:, 0], "right")
        count = high - low
        place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        more = np.stack((copies[np.repeat(low, count) + place], np.repeat(pairs[:, 1], count)), axis=-1)
        pairs = np.concatenate((pairs, more))
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(pairs, axis=0)


def _length(vectors: Floats) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(vectors, axis=-1))
