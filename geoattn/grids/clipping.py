"""Areas that polygons between arcs of circles share, compiled. Imported on use: numba is slow to load.

A polygon is rows ``[k, 7]`` of where an arc begins and of its circle, (x, y, z, n, c). The arc runs
anticlockwise about the axis n of the circle {x : n·x = c}, and what it bounds lies where n·x ≥ c: great
circles have c = 0, parallels n = ±z. Polygons are cut by one such half-space after another (Sutherland &
Hodgman 1974, doi:10.1145/360767.360802); an arc may cross a circle twice.
"""

from __future__ import annotations

from math import atan, atan2, sqrt

import numpy as np
from numba import njit

#: pieces in the smallest box that is searched, and boxes in a larger one
LEAF = 8
#: shares of a piece below this are round-off
_LEAST = 1e-13


@njit(cache=True, nogil=True, error_model="numpy")
def bulge(c, squared, t):  # type: ignore[no-untyped-def]
    """Steradians between a great circle and an arc at c, positive where the arc lies outside.

    2 (atan(cT) − c atan T) with T = tan(Θ/2) for the turn Θ of the arc: the sector Θ(1 − c) of the cap about
    the axis, less the triangle of the axis and the ends. For short arcs its series; ``squared`` is 1 − c².
    """
    if abs(t) > 0.1:
        return 2.0 * (atan(c * t) - c * atan(t))
    total, power, sums = 0.0, t * t * t, 1.0
    for j in range(1, 9):
        total += power / (2 * j + 1) * sums
        power *= -t * t
        sums = sums * c * c + 1.0
    return 2.0 * c * squared * total


@njit(cache=True, nogil=True, error_model="numpy")
def bends(areas, lengths):  # type: ignore[no-untyped-def]
    """c of arcs over chords of these lengths that have these steradians between them and the great circle."""
    out = np.zeros(len(areas))
    for i in range(len(areas)):
        area, length = areas[i], lengths[i]
        ratio = 12.0 * area / length**3  # c / ρ, to first order
        for _ in range(50):
            if ratio == 0.0:
                break
            squared = 1.0 / (1.0 + ratio * ratio)
            t = 0.5 * length / sqrt(max(squared - 0.25 * length * length, 1e-30))
            change = area / bulge(ratio * sqrt(squared), squared, t)
            ratio *= change
            if abs(change - 1.0) < 1e-15:
                break
        out[i] = ratio / sqrt(1.0 + ratio * ratio)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _half_turn(arcs, i, qx, qy, qz):  # type: ignore[no-untyped-def]
    """tan(Θ/2) of the arc i that ends at q, and the squared radius of its circle."""
    px, py, pz, nx, ny, nz, c = (
        arcs[i, 0], arcs[i, 1], arcs[i, 2], arcs[i, 3], arcs[i, 4], arcs[i, 5], arcs[i, 6],
    )  # fmt: skip
    ax, ay, az = px - c * nx, py - c * ny, pz - c * nz
    dx, dy, dz = qx - px, qy - py, qz - pz
    squared = ax * ax + ay * ay + az * az
    beside = 2.0 * squared + ax * dx + ay * dy + az * dz
    across = nx * (ay * dz - az * dy) + ny * (az * dx - ax * dz) + nz * (ax * dy - ay * dx)
    return (across / beside if beside > 0.0 else 0.0), squared


@njit(cache=True, nogil=True, error_model="numpy")
def _area(arcs, start, stop):  # type: ignore[no-untyped-def]
    """Steradians of a polygon; its triangles as in :func:`geoattn.grids.polygons.signed_areas`."""
    total = 0.0
    ax, ay, az = arcs[start, 0], arcs[start, 1], arcs[start, 2]
    for i in range(start + 1, stop - 1):
        bx, by, bz = arcs[i, 0], arcs[i, 1], arcs[i, 2]
        cx, cy, cz = arcs[i + 1, 0], arcs[i + 1, 1], arcs[i + 1, 2]
        ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
        volume = ax * (uy * vz - uz * vy) + ay * (uz * vx - ux * vz) + az * (ux * vy - uy * vx)
        dots = ax * bx + ay * by + az * bz + bx * cx + by * cy + bz * cz + cx * ax + cy * ay + cz * az
        total += 2.0 * atan2(volume, 1.0 + dots)
    for i in range(start, stop):
        if arcs[i, 6] != 0.0:
            after = i + 1 if i + 1 < stop else start
            t, squared = _half_turn(arcs, i, arcs[after, 0], arcs[after, 1], arcs[after, 2])
            total += bulge(arcs[i, 6], squared, t)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def areas(first, arcs):  # type: ignore[no-untyped-def]
    """Steradians of each polygon, ``[p]``: that of arcs ``first[p] … first[p + 1]``."""
    out = np.empty(len(first) - 1)
    for i in range(len(out)):
        out[i] = _area(arcs, first[i], first[i + 1])
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _cut(arcs, begin, stop, cuts, k, out):  # type: ignore[no-untyped-def]
    """The part of arcs ``begin … stop`` that is in the half-space k; its length, and whether it is whole."""
    mx, my, mz, d = cuts[k, 0], cuts[k, 1], cuts[k, 2], cuts[k, 3]
    lx, ly, lz = 0.0, 0.0, 0.0  # where the last arc that is kept ends
    count, whole = 0, True
    for i in range(begin, stop):
        after = i + 1 if i + 1 < stop else begin
        px, py, pz, qx, qy, qz = (
            arcs[i, 0], arcs[i, 1], arcs[i, 2], arcs[after, 0], arcs[after, 1], arcs[after, 2],
        )  # fmt: skip
        if px == qx and py == qy and pz == qz:
            continue
        nx, ny, nz, c = arcs[i, 3], arcs[i, 4], arcs[i, 5], arcs[i, 6]
        low, high = mx * px + my * py + mz * pz - d, mx * qx + my * qy + mz * qz - d
        rise = 0.0
        if c != 0.0 or d != 0.0:  # an arc rises over its chord by L² / 8ρ, and a little more
            chord = (qx - px) ** 2 + (qy - py) ** 2 + (qz - pz) ** 2
            rise = chord / (4.0 * sqrt(max(1.0 - c * c, 1e-300)))
        if low < -rise and high < -rise:
            whole = False
            continue
        # along the arc m·x − d = (s + 2 γ t + κ t²) / (1 + t²), t = tan(θ/2)
        ax, ay, az = px - c * nx, py - c * ny, pz - c * nz
        bx, by, bz = ny * az - nz * ay, nz * ax - nx * az, nx * ay - ny * ax
        gamma, kappa, end = 0.0, 0.0, 1.0
        first = second = end
        kept = low >= rise and high >= rise
        if not kept:
            gamma = mx * bx + my * by + mz * bz
            kappa = c * (mx * nx + my * ny + mz * nz) - d - (mx * ax + my * ay + mz * az)
            end, _ = _half_turn(arcs, i, qx, qy, qz)
            first = second = end
            square = gamma * gamma - kappa * low
            if square > 0.0:
                middle = -gamma - sqrt(square) if gamma > 0.0 else -gamma + sqrt(square)
                t = low / middle
                if min(0.0, end) < t < max(0.0, end):
                    first = t
                t = middle / kappa
                if min(0.0, end) < t < max(0.0, end):
                    second = t
            if abs(second) < abs(first):
                first, second = second, first
        start = 0.0
        for part in range(3):
            until = first if part == 0 else (second if part == 1 else end)
            if until == start:
                continue
            inside = kept
            if not kept:  # of one sign between crossings; seen at two places, as circles may touch at one
                t = start + 0.3 * (until - start)
                height = (low + t * (2.0 * gamma + t * kappa)) / (1.0 + t * t)
                t = start + 0.7 * (until - start)
                inside = height + (low + t * (2.0 * gamma + t * kappa)) / (1.0 + t * t) >= -2e-15
            ex, ey, ez = qx, qy, qz
            if until != end:
                x, y = (1.0 - until * until) / (1.0 + until * until), 2.0 * until / (1.0 + until * until)
                ex, ey, ez = c * nx + x * ax + y * bx, c * ny + x * ay + y * by, c * nz + x * az + y * bz
            if inside:
                if count > 0 and (lx != px or ly != py or lz != pz):  # along the cut to where it enters again
                    out[count, 0], out[count, 1], out[count, 2] = lx, ly, lz
                    out[count, 3], out[count, 4], out[count, 5], out[count, 6] = mx, my, mz, d
                    count += 1
                out[count, 0], out[count, 1], out[count, 2] = px, py, pz
                out[count, 3], out[count, 4], out[count, 5], out[count, 6] = nx, ny, nz, c
                count += 1
                lx, ly, lz = ex, ey, ez
            else:
                whole = False
            px, py, pz = ex, ey, ez
            start = until
    if count > 0 and (lx != out[0, 0] or ly != out[0, 1] or lz != out[0, 2]):
        out[count, 0], out[count, 1], out[count, 2] = lx, ly, lz
        out[count, 3], out[count, 4], out[count, 5], out[count, 6] = mx, my, mz, d
        count += 1
    return count, whole


@njit(cache=True, nogil=True, error_model="numpy")
def _crosses(ball, cuts, begin, stop, crossing):  # type: ignore[no-untyped-def]
    """Which half-spaces end within a ball; False where it lies outside of one."""
    for k in range(begin, stop):
        height = cuts[k, 0] * ball[0] + cuts[k, 1] * ball[1] + cuts[k, 2] * ball[2] - cuts[k, 3]
        if height < -ball[3]:
            return False
        crossing[k - begin] = height < ball[3]
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _within(first, arcs, i, cuts, begin, stop, crossing, one, other):  # type: ignore[no-untyped-def]
    """What is left of piece i within half-spaces: its length, whether it is all, and the rooms it is in."""
    n, whole = 1, True
    for straight in (True, False):  # great circles first: they confine what small circles cut
        for k in range(begin, stop):
            if n == 0 or not crossing[k - begin] or (cuts[k, 3] == 0.0) != straight:
                continue
            if whole:
                length, kept = _cut(arcs, first[i], first[i + 1], cuts, k, one)
                if kept:
                    continue
            else:
                length, _ = _cut(one, 0, n, cuts, k, other)
                one, other = other, one
            n, whole = length, False
    return n, whole, one, other


@njit(cache=True, nogil=True, error_model="numpy")
def common(mine, theirs, first, arcs, balls, cut_first, cuts):  # type: ignore[no-untyped-def]
    """The arcs of what pieces ``mine`` and ``theirs [n]``, pairs of :func:`shared`, have in common."""
    widest, most = 0, 0
    for p in range(len(mine)):
        widest = max(widest, first[mine[p] + 1] - first[mine[p]])
        most = max(most, cut_first[theirs[p] + 1] - cut_first[theirs[p]])
    crossing = np.empty(most, np.bool_)
    rooms = np.empty((2, 4 * (widest + 2) * (most + 1), 7))
    starts, found = np.zeros(len(mine) + 1, np.int64), np.empty((64 + 8 * len(mine), 7))
    for p in range(len(mine)):
        i, begin, stop = mine[p], cut_first[theirs[p]], cut_first[theirs[p] + 1]
        n, whole, one = 0, False, rooms[0]
        if _crosses(balls[i], cuts, begin, stop, crossing):
            n, whole, one, _ = _within(first, arcs, i, cuts, begin, stop, crossing, rooms[0], rooms[1])
        if whole:
            n, one = first[i + 1] - first[i], arcs[first[i] : first[i + 1]]
        if starts[p] + n > len(found):
            found = np.concatenate((found, np.empty((len(found) + n, 7))))
        found[starts[p] : starts[p] + n] = one[:n]
        starts[p + 1] = starts[p] + n
    return starts, found[: starts[-1]]


@njit(cache=True, nogil=True, error_model="numpy")
def shared(low, high, first, arcs, boxes, balls, sizes, cut_first, cuts, order, tree, level_start):  # type: ignore[no-untyped-def]
    """Pairs of pieces that overlap, and by how much, of the pieces ``low … high`` of one set.

    Each lies within its box ``[6]`` and its ball ``[4]``, centre and radius. The other set's half-spaces are
    ``cuts``; its pieces are searched by the boxes of ``tree``: those of ``order``, then of each ``LEAF`` of
    these together, and so on, level after level from ``level_start``.
    """
    capacity = 4 * (high - low) + 64
    ours, theirs, found = np.empty(capacity, np.int64), np.empty(capacity, np.int64), np.empty(capacity)
    count, widest, most = 0, 0, 0
    for i in range(low, high):
        widest = max(widest, first[i + 1] - first[i])
    for j in range(len(cut_first) - 1):
        most = max(most, cut_first[j + 1] - cut_first[j])
    crossing = np.empty(most, np.bool_)
    polygons = np.empty((2, 4 * (widest + 2) * (most + 1), 7))
    one, other = polygons[0], polygons[1]
    top = len(level_start) - 2
    stack = np.empty((LEAF * (top + 2), 2), np.int64)
    for i in range(low, high):
        x0, y0, z0, x1, y1, z1 = boxes[i]
        waiting = level_start[top + 1] - level_start[top]
        for place in range(waiting):
            stack[place, 0], stack[place, 1] = top, place
        while waiting > 0:
            waiting -= 1
            level, place = stack[waiting, 0], stack[waiting, 1]
            b = level_start[level] + place
            if x0 > tree[b, 3] or y0 > tree[b, 4] or z0 > tree[b, 5]:
                continue
            if x1 < tree[b, 0] or y1 < tree[b, 1] or z1 < tree[b, 2]:
                continue
            if level > 0:
                below = level_start[level] - level_start[level - 1]
                for child in range(LEAF * place, min(LEAF * (place + 1), below)):
                    stack[waiting, 0], stack[waiting, 1] = level - 1, child
                    waiting += 1
                continue
            j = order[place]
            begin, stop = cut_first[j], cut_first[j + 1]
            if not _crosses(balls[i], cuts, begin, stop, crossing):
                continue
            n, whole, one, other = _within(first, arcs, i, cuts, begin, stop, crossing, one, other)
            if n == 0:
                continue
            area = sizes[i] if whole else _area(one, 0, n)
            if area <= _LEAST * sizes[i]:
                continue
            if count == len(ours):
                ours = np.concatenate((ours, np.empty(count, np.int64)))
                theirs = np.concatenate((theirs, np.empty(count, np.int64)))
                found = np.concatenate((found, np.empty(count)))
            ours[count], theirs[count], found[count] = i, j, area
            count += 1
    return ours[:count], theirs[:count], found[:count]
