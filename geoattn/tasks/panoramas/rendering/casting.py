"""Ray casting through a furnished room, compiled. Imported on use: numba is slow to load.

All rays of a pass leave one point, an eye or a lamp. What the pass knows of that point is worked out
once: the place of the point as each part sees it, and the cone that each object fills.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, uint64

from geoattn.tasks.panoramas.rendering.codes import (
    BOOKS,
    BOX,
    CYLINDER,
    ELLIPSOID,
    MOTTLED,
    PLANKS,
    SKY,
    TILES,
)


@njit(cache=True, nogil=True, error_model="numpy")
def _hash(a: int, b: int, c: int) -> Any:
    """64 well-mixed bits of three integers (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = uint64(a) * uint64(0x9E3779B97F4A7C15) + uint64(b) * uint64(0xC2B2AE3D27D4EB4F)
    x += uint64(c) * uint64(0x165667B19E3779F9)
    x = (x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
    return x ^ (x >> uint64(31))


@njit(cache=True, nogil=True, error_model="numpy")
def _uniform(a: int, b: int, c: int) -> Any:
    """A number in [0, 1) that depends on nothing but three integers."""
    return np.float64(_hash(a, b, c) >> uint64(40)) / 16777216.0


@njit(cache=True, nogil=True, error_model="numpy")
def _normal(a: int, b: int, c: int) -> Any:
    """Nearly normal, of mean 0 and variance 1: four uniform numbers added up."""
    bits = _hash(a, b, c)
    total = 0.0
    for i in range(4):
        total += np.float64((bits >> uint64(16 * i)) & uint64(0xFFFF))
    return (total / 65536.0 - 2.0) * 1.7320508075688772


@njit(cache=True, nogil=True, error_model="numpy")
def _smooth(u: float, v: float, key: int) -> Any:
    """Value noise: random numbers on the integers, smoothly interpolated between."""
    i, j = int(np.floor(u)), int(np.floor(v))
    a, b = u - i, v - j
    a, b = a * a * (3.0 - 2.0 * a), b * b * (3.0 - 2.0 * b)
    low = _uniform(i, j, key) * (1.0 - a) + _uniform(i + 1, j, key) * a
    high = _uniform(i, j + 1, key) * (1.0 - a) + _uniform(i + 1, j + 1, key) * a
    return low * (1.0 - b) + high * b


@njit(cache=True, nogil=True, error_model="numpy")
def _blend(finish: Any, u: float, v: float, key: int) -> Any:
    """How much of the second colour a finish shows at texture coordinates in metres, in [0, 1]."""
    pattern, period = int(finish[6]), finish[7]
    x, y = u / period, v / period
    if pattern == TILES:
        i, j = np.floor(x), np.floor(y)
        if x - i < 0.04 or y - j < 0.04:
            return 1.0
        return 0.4 * _uniform(int(i), int(j), key)
    if pattern == PLANKS:
        i = np.floor(x)
        grain = _smooth(8.0 * x, 0.5 * y, key)
        return 0.5 * _uniform(int(i), 7, key) + 0.5 * grain if x - i > 0.03 else 1.0
    if pattern == MOTTLED:
        return 0.6 * _smooth(x, y, key) + 0.4 * _smooth(3.1 * x, 3.1 * y, key + 1)
    if pattern == BOOKS:
        i = np.floor(x)
        return _uniform(int(i), 3, key) if y - np.floor(y) < 0.7 + 0.3 * _uniform(int(i), 5, key) else 1.0
    if pattern == SKY:
        return min(1.0, max(0.0, 0.5 + y + 0.5 * (_smooth(4.0 * x, 4.0 * y, key) - 0.5)))
    return 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _between_planes(half: float, origin: float, direction: float) -> Any:
    """Where a ray enters and leaves −half … half of an axis; infinite for a ray along the planes."""
    inverse = 1.0 / direction
    toward = half if inverse > 0.0 else -half  # of the inverse, since zero has two signs
    return (-toward - origin) * inverse, (toward - origin) * inverse


@njit(cache=True, nogil=True, error_model="numpy")
def _part_hit(kind: int, half: Any, ox: float, oy: float, oz: float, x: float, y: float, z: float) -> Any:
    """Distance at which a ray enters a part, in the part's own axes, and through which face.

    Faces 0, 1, 2 are a box's along its axes, 2 also a cylinder's ends; 3 is a curved one. −1: a miss,
    or the ray starts inside.
    """
    if kind == BOX:
        near_x, far_x = _between_planes(half[0], ox, x)
        near_y, far_y = _between_planes(half[1], oy, y)
        near_z, far_z = _between_planes(half[2], oz, z)
        enter = max(near_x, near_y, near_z)
        leave = min(far_x, far_y, far_z)
        if not (enter <= leave and enter > 0.0):
            return -1.0, 0
        return enter, (0 if enter == near_x else (1 if enter == near_y else 2))
    if kind == CYLINDER:
        r = half[0]
        enter_ends, leave_ends = _between_planes(half[2], oz, z)
        a = x * x + y * y
        b = ox * x + oy * y
        inside = b * b - a * (ox * ox + oy * oy - r * r)
        if inside < 0.0 or a == 0.0:
            return -1.0, 0
        root = np.sqrt(inside)
        enter_side, leave_side = (-b - root) / a, (-b + root) / a
        enter = max(enter_ends, enter_side)
        if not (enter <= min(leave_ends, leave_side) and enter > 0.0):
            return -1.0, 0
        return enter, (3 if enter == enter_side else 2)
    x, y, z = x / half[0], y / half[1], z / half[2]
    ox, oy, oz = ox / half[0], oy / half[1], oz / half[2]
    a = x * x + y * y + z * z
    b = ox * x + oy * y + oz * z
    inside = b * b - a * (ox * ox + oy * oy + oz * oz - 1.0)
    if inside < 0.0:
        return -1.0, 0
    enter = (-b - np.sqrt(inside)) / a
    return (enter, 3) if enter > 0.0 else (-1.0, 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _first_hit(x: float, y: float, z: float, limit: float, any_hit: bool, shape: Any, sight: Any) -> Any:
    """Distance, part and face of the nearest part closer than ``limit``, or of any; part −1 if none."""
    kinds, halves, turns, first_part = shape
    origins, cones, order = sight
    best, part, face = limit, -1, 0
    for place in range(len(order)):
        if cones[place, 4] > best:
            break  # things come by their nearest point
        if x * cones[place, 0] + y * cones[place, 1] + z * cones[place, 2] < cones[place, 3]:
            continue
        thing = order[place]
        for p in range(first_part[thing], first_part[thing + 1]):
            c, s = turns[p, 0], turns[p, 1]
            own_x, own_y = c * x + s * y, c * y - s * x
            o = origins[p]
            distance, found = _part_hit(kinds[p], halves[p], o[0], o[1], o[2], own_x, own_y, z)
            if 0.0 < distance < best:
                best, part, face = distance, p, found
                if any_hit:
                    return best, part, face
    return best, part, face


@njit(cache=True, nogil=True, error_model="numpy")
def _shell_hit(x: float, y: float, z: float, eye: Any, size: Any) -> Any:
    """Distance to the shell of the room from inside, and which of its six faces is met."""
    tx = ((size[0] if x > 0.0 else 0.0) - eye[0]) / x if x != 0.0 else np.inf
    ty = ((size[1] if y > 0.0 else 0.0) - eye[1]) / y if y != 0.0 else np.inf
    tz = ((size[2] if z > 0.0 else 0.0) - eye[2]) / z if z != 0.0 else np.inf
    if tz <= tx and tz <= ty:
        return tz, (1 if z > 0.0 else 0)
    if tx <= ty:
        return tx, (3 if x > 0.0 else 2)
    return ty, (5 if y > 0.0 else 4)


@njit(cache=True, nogil=True, error_model="numpy")
def cast(  # type: ignore[no-untyped-def]
    rays, points, sights, size, shape, surface, light, exposure, noise, seed, rgb, depth, label
):
    """What ``rays [n, 3]`` from ``points[0]`` see: fills ``rgb [n, 3]``, ``depth [n]``, ``label [n]``.

    ``points [1 + lights, 3]`` are the eye and the lights, ``sights`` what :func:`sights` says of them;
    ``size`` is the room's; ``shape`` is (kinds, halves, turns, first_part), ``surface`` (labels,
    finishes, labels and finishes of the shell's six faces), ``light`` (RGB of the lights, ambient RGB).
    """
    _, halves, turns, _ = shape
    labels, finishes, shell_labels, shell_finishes = surface
    power, ambient = light
    all_origins, all_cones, all_orders = sights
    origins = all_origins[0]
    eye_sight = (origins, all_cones[0], all_orders[0])
    eye = points[0]
    colour = np.zeros(3)
    for n in range(len(rays)):
        x, y, z = rays[n, 0], rays[n, 1], rays[n, 2]
        shell_distance, wall = _shell_hit(x, y, z, eye, size)
        distance, part, face = _first_hit(x, y, z, shell_distance, False, shape, eye_sight)
        px, py, pz = eye[0] + distance * x, eye[1] + distance * y, eye[2] + distance * z

        # The surface: its class, its finish, its normal (a, b, c), and texture coordinates (u, v).
        a, b, c = 0.0, 0.0, 0.0
        if part < 0:
            label[n], finish, key = shell_labels[wall], shell_finishes[wall], wall
            if wall < 2:
                c, u, v = 1.0 - 2.0 * wall, px, py
            elif wall < 4:
                a, u, v = 5.0 - 2.0 * wall, py, pz
            else:
                b, u, v = 9.0 - 2.0 * wall, px, pz
        else:
            label[n], finish, key = labels[part], finishes[part], 6 + part
            cosine, sine = turns[part, 0], turns[part, 1]
            rx, ry = cosine * x + sine * y, cosine * y - sine * x
            lx, ly = origins[part, 0] + distance * rx, origins[part, 1] + distance * ry
            lz = origins[part, 2] + distance * z
            if face == 0:
                a, u, v = -np.sign(rx), ly, lz
            elif face == 1:
                b, u, v = -np.sign(ry), lx, lz
            elif face == 2:
                c, u, v = -np.sign(z), lx, ly
            else:
                u, v = lx + ly, lz
                a, b = lx / halves[part, 0] ** 2, ly / halves[part, 1] ** 2
                c = lz / halves[part, 2] ** 2 if shape[0][part] == ELLIPSOID else 0.0
                length = np.sqrt(a * a + b * b + c * c)
                a, b, c = a / length, b / length, c / length
            a, b = cosine * a - sine * b, sine * a + cosine * b
        depth[n] = distance

        for channel in range(3):
            colour[channel] = ambient[channel] * (0.75 + 0.25 * c)
        for i in range(len(power)):
            dx, dy, dz = px - points[i + 1, 0], py - points[i + 1, 1], pz - points[i + 1, 2]
            square = dx * dx + dy * dy + dz * dz
            away = np.sqrt(square)
            dx, dy, dz = dx / away, dy / away, dz / away
            facing = -(dx * a + dy * b + dz * c)
            if facing > 0.0:
                sight = (all_origins[i + 1], all_cones[i + 1], all_orders[i + 1])
                if _first_hit(dx, dy, dz, away - 1e-6, True, shape, sight)[1] < 0:
                    for channel in range(3):
                        colour[channel] += power[i, channel] * facing / (0.3 + square)
        share = _blend(finish, u, v, 131 * key + seed)
        for channel in range(3):
            own = finish[channel] * (1.0 - share) + finish[3 + channel] * share
            bright = exposure * own * (colour[channel] + finish[8])
            value = np.sqrt(bright / (1.0 + bright))  # a soft shoulder, then a display's gamma of 2
            value += noise * _normal(n, channel, seed)
            rgb[n, channel] = np.uint8(255.0 * min(1.0, max(0.0, value)) + 0.5)
