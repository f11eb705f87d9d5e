"""Pixels of HEALPix as polygons between arcs of circles.

Their sides are no circles: in the belt z is linear in longitude, in the caps 1 − |z| falls with the square of
it. A side is taken for arcs between its own points, each bent so that it has the area under the side to
round-off: so have the pixels. What is left is an odd ripple, below :data:`RIPPLE` of the arc's length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.healpix import FACE_EIGHTH, FACE_ROW, HEALPix
from geoattn.grids.outlines import Outlines, cells_of, great_circles
from geoattn.grids.sphere import Floats, Ints

#: sides are parted until an arc strays from them by no more than this share of its length
RIPPLE = 1e-5


class _Sides(NamedTuple):
    """Sides of pixels in coordinates of their face, ``[n]`` each: from (x, y) by (dx, dy), one of them 0."""

    face: NDArray[Any]
    x: Floats
    y: Floats
    dx: Floats
    dy: Floats

    def part(self, which: Ints, start: Floats, stop: Floats) -> _Sides:
        face, x, y, dx, dy = (values[which] for values in self)
        return _Sides(face, x + start * dx, y + start * dy, (stop - start) * dx, (stop - start) * dy)


def _sides(grid: HEALPix) -> _Sides:
    """South → east → north → west of each pixel, anticlockwise."""
    face, x, y = (np.repeat(places, 4) for places in grid.faces())
    step = 1.0 / grid.nside
    across, up = np.tile([0, 1, 1, 0], grid.size), np.tile([0, 0, 1, 1], grid.size)
    right, north = np.tile([1, 0, -1, 0], grid.size), np.tile([0, 1, 0, -1], grid.size)
    return _Sides(face, (x + across) * step, (y + up) * step, right * step, north * step)


def pixel_corners(grid: HEALPix) -> Floats:
    """Unit vectors to the corners of each pixel, ``[size, 4, 3]``: south, east, north, west."""
    sides = _sides(grid)
    return _point(sides, np.zeros(len(sides.face)))[0].reshape(-1, 4, 3)


@cells_of.register
def _(grid: HEALPix) -> Outlines:
    sides = _sides(grid)
    n = len(sides.face)
    _, _, circles = _arcs(sides)
    ripple = np.zeros(n)
    for share in (0.25, 0.75):
        away = _point(sides, np.full(n, share))[0]
        off = np.abs((circles[:, :3] * away).sum(1) - circles[:, 3])
        ripple = np.maximum(ripple, off / np.sqrt(np.maximum(1.0 - circles[:, 3] ** 2, 1e-30)))
    length = np.linalg.norm(_point(sides, np.ones(n))[0] - _point(sides, np.zeros(n))[0], axis=1)
    parts = np.ceil((ripple / (RIPPLE * length)) ** (1.0 / 3.0) - 1e-6).clip(1).astype(np.int64)

    which = np.repeat(np.arange(n), parts)
    place = np.arange(len(which)) - np.repeat(np.cumsum(parts) - parts, parts)
    start, stop = place / parts[which], (place + 1) / parts[which]
    begin, end, circles = _arcs(sides.part(which, start, stop))
    guards = _guards(begin, end, circles)
    pixel = which // 4
    simple = np.repeat((parts.reshape(-1, 4) == 1).all(1), 4)[which]

    one = np.flatnonzero(simple)  # four arcs to a pixel
    whole = pixel[one].reshape(-1, 4)[:, 0]
    fan = np.flatnonzero(~simple)  # a piece for each arc: from the centre along it and back
    centre = np.asarray(grid.xyz)[pixel[fan]]
    spokes = great_circles(centre, begin[fan]), great_circles(end[fan], centre)
    none = np.zeros((len(fan), 1))
    rays = [np.concatenate((spoke, none), axis=1) for spoke in spokes]
    points = np.stack((centre, begin[fan], end[fan]), axis=1).reshape(-1, 3)
    around = np.stack((rays[0], circles[fan], rays[1]), axis=1).reshape(-1, 4)
    sizes = np.concatenate((np.full(len(whole), 4), np.full(len(fan), 3)))
    shields = np.concatenate((np.full(len(whole), 4), np.ones(len(fan), np.int64)))
    return Outlines(
        np.append(0, np.cumsum(sizes)),
        np.concatenate((begin[one], points)),
        np.concatenate((circles[one], around)),
        np.concatenate((whole, pixel[fan])),
        np.ones(len(sizes)),
        np.append(0, np.cumsum(shields)),
        np.concatenate((guards[one], guards[fan])),
    )


def _point(sides: _Sides, share: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Unit vectors ``[n, 3]`` part of the way along; longitude, 1 − |z|, and rows from the pole or 1."""
    x, y = sides.x + share * sides.dx, sides.y + share * sides.dy
    row = FACE_ROW[sides.face] - x - y
    row = np.where(np.abs(row - np.round(row)) < 1e-13, np.round(row), row)
    near = np.minimum(np.minimum(row, 4.0 - row), 1.0)
    place = FACE_EIGHTH[sides.face] + (x - y) / np.where(near > 0, near, 1.0)
    lon = np.where(near > 0, 0.25 * np.pi * place, np.nan)  # any, at the pole
    fall = np.where(near < 1, near * near / 3.0, 1.0 - np.abs(2.0 - row) * (2.0 / 3.0))
    z = np.where(row < 2.0, 1.0 - fall, fall - 1.0)
    across = np.sqrt(fall * (2.0 - fall))
    turn = np.where(near > 0, lon, 0.0)
    return np.stack((across * np.cos(turn), across * np.sin(turn), z), axis=-1), lon, fall, near


def _arcs(sides: _Sides) -> tuple[Floats, Floats, Floats]:
    """Where arcs begin and end, ``[n, 3]``, and circles ``[n, 4]``, bent to the areas under the sides."""
    from geoattn.grids.clipping import bends

    n = len(sides.face)
    begin, lon_a, fall_a, near_a = _point(sides, np.zeros(n))
    end, lon_b, fall_b, near_b = _point(sides, np.ones(n))
    x, y = sides.x + 0.5 * sides.dx, sides.y + 0.5 * sides.dy
    south = FACE_ROW[sides.face] - x - y > 2.0
    cap = np.minimum(near_a, near_b) < 1.0
    turn = np.where(np.isfinite(lon_a + lon_b), lon_b - lon_a, 0.0)
    # ∫ (1 − |z|) dλ along the side; in a cap with rows r from the pole 1 − |z| = r²/3 and dλ ∝ dr / r²
    along_y = sides.dx == 0
    north_x, north_y = np.where(south, x, 1.0 - x), np.where(south, y, 1.0 - y)
    slope = np.where(along_y, north_x, -north_y) * np.where(south, -1.0, 1.0)
    inside = np.where(cap, (np.pi / 6.0) * slope * (near_b - near_a), 0.5 * (fall_a + fall_b) * turn)
    halves = np.sqrt(fall_a * fall_b / ((2.0 - fall_a) * (2.0 - fall_b)))
    chord = 2.0 * np.arctan2(halves * np.sin(turn), 1.0 + halves * np.cos(turn))
    # for a pole in the south the area to the left of an eastward path is that without the cap
    area = np.where(south, chord - inside, inside - chord)
    length = np.linalg.norm(end - begin, axis=1)
    height = np.sqrt(1.0 - 0.25 * length**2)
    meridian = np.isnan(lon_a + lon_b) | (turn == 0.0)
    c = bends(np.where(meridian, 0.0, area), length)
    up = (begin + end) / (2.0 * height[:, None])
    lean = c / height
    axis = np.sqrt(1.0 - lean**2)[:, None] * great_circles(begin, end) + lean[:, None] * up
    return begin, end, np.concatenate((axis, c[:, None]), axis=1)


def _guards(begin: Floats, end: Floats, circles: Floats) -> Floats:
    """Great circles around pieces: through the ends of hollow arcs, along the middle of others."""
    through = great_circles(begin, end)
    axis, c = circles[:, :3], circles[:, 3:]
    middle = begin + end
    middle -= (middle * axis).sum(1, keepdims=True) * axis
    middle *= np.sqrt(1.0 - c**2) / np.linalg.norm(middle, axis=1, keepdims=True)
    middle += c * axis
    along = axis - c * middle
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    return np.concatenate((np.where(c > 0.0, along, through), np.zeros((len(c), 1))), axis=1)
