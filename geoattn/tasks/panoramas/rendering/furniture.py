"""Things that stand in rooms: each is a few boxes, cylinders and ellipsoids, in metres.

A thing is built around its own origin, on the floor, facing the y axis. All its numbers come from
:class:`Draw`, which uses nothing of numpy's generators but uniform numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from geoattn.tasks.panoramas.classes import CLASSES
from geoattn.tasks.panoramas.rendering.codes import (
    BOOKS,
    BOX,
    CYLINDER,
    ELLIPSOID,
    MOTTLED,
    PLAIN,
    PLANKS,
    SKY,
    TILES,
)

LABEL = {name: index for index, name in enumerate(CLASSES)}

#: two colours, a pattern that mixes them, its period in metres, and light of its own
Finish = tuple[float, float, float, float, float, float, int, float, float]
Colour = tuple[float, float, float]


class Part(NamedTuple):
    """A convex piece of a thing."""

    shape: int
    label: int
    finish: Finish
    centre: tuple[float, float, float]
    half: tuple[float, float, float]


class Thing(NamedTuple):
    """Parts around an origin, and the half sizes of the rectangle they stand on."""

    parts: list[Part]
    footprint: tuple[float, float]


class Draw:
    """Random numbers for a room: the same from the same seed with every release of numpy."""

    def __init__(self, seed: np.random.SeedSequence) -> None:
        self.generator = np.random.Generator(np.random.PCG64(seed))

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * self.generator.random()

    def count(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        return low + int(self() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self() < probability

    def colour(self, near: Colour, spread: float) -> Colour:
        """A colour near another: brightness and each channel vary."""
        level = 1.0 + spread * (2.0 * self() - 1.0)
        r, g, b = (min(1.0, max(0.02, level * c + spread * (self() - 0.5))) for c in near)
        return r, g, b

    def of(self, colours: Sequence[Colour], spread: float = 0.25) -> Colour:
        return self.colour(colours[self.count(0, len(colours) - 1)], spread)


WOODS: tuple[Colour, ...] = ((0.45, 0.28, 0.15), (0.62, 0.45, 0.28), (0.3, 0.18, 0.1), (0.75, 0.62, 0.45))
FABRICS: tuple[Colour, ...] = (
    (0.15, 0.2, 0.4),
    (0.45, 0.12, 0.12),
    (0.2, 0.35, 0.22),
    (0.3, 0.3, 0.32),
    (0.55, 0.45, 0.3),
)
PAINTS: tuple[Colour, ...] = ((0.8, 0.78, 0.72), (0.7, 0.75, 0.78), (0.75, 0.68, 0.55), (0.62, 0.7, 0.6))
METAL: tuple[Colour, ...] = ((0.35, 0.35, 0.38), (0.08, 0.08, 0.09), (0.6, 0.6, 0.62))
VIVID: tuple[Colour, ...] = (
    (0.8, 0.2, 0.1),
    (0.1, 0.3, 0.8),
    (0.9, 0.7, 0.1),
    (0.1, 0.6, 0.3),
    (0.6, 0.6, 0.6),
)


def plain(colour: Colour, glow: float = 0.0) -> Finish:
    return (*colour, *colour, PLAIN, 1.0, glow)


def patterned(first: Colour, second: Colour, pattern: int, period: float, glow: float = 0.0) -> Finish:
    return (*first, *second, pattern, period, glow)


def wood(draw: Draw) -> Finish:
    light = draw.of(WOODS)
    return patterned(light, (0.55 * light[0], 0.5 * light[1], 0.45 * light[2]), PLANKS, draw(0.08, 0.2))


def fabric(draw: Draw) -> Finish:
    colour = draw.of(FABRICS)
    return patterned(colour, draw.colour(colour, 0.3), MOTTLED, draw(0.03, 0.1))


def box(label: str, finish: Finish, low: Sequence[float], high: Sequence[float]) -> Part:
    """A box between two corners."""
    centre = (0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1]), 0.5 * (low[2] + high[2]))
    half = (0.5 * (high[0] - low[0]), 0.5 * (high[1] - low[1]), 0.5 * (high[2] - low[2]))
    return Part(BOX, LABEL[label], finish, centre, half)


def cylinder(
    label: str, finish: Finish, x: float, y: float, radius: float, bottom: float, top: float
) -> Part:
    half = (radius, radius, 0.5 * (top - bottom))
    return Part(CYLINDER, LABEL[label], finish, (x, y, 0.5 * (bottom + top)), half)


def ellipsoid(label: str, finish: Finish, centre: tuple[float, float, float], half: Colour) -> Part:
    return Part(ELLIPSOID, LABEL[label], finish, centre, half)


def table(draw: Draw) -> Thing:
    """A top on four legs, two panels, or one column; monitors, books and cups on it."""
    width, length, height = draw(0.9, 2.2), draw(0.6, 1.1), draw(0.68, 0.78)
    x, y = 0.5 * width, 0.5 * length
    if draw.chance(0.25):  # round
        x = y = draw(0.45, 0.7)
        top, leg = wood(draw), plain(draw.of(METAL))
        parts = [cylinder("table", top, 0, 0, x, height - 0.04, height)]
        parts += [cylinder("table", leg, 0, 0, 0.05, 0.03, height - 0.04)]
        parts += [cylinder("table", leg, 0, 0, 0.6 * x, 0.0, 0.03)]
    else:
        top = wood(draw) if draw.chance(0.7) else plain(draw.of(PAINTS))
        parts = [box("table", top, (-x, -y, height - 0.04), (x, y, height))]
        if draw.chance(0.3):
            for side in (-x, x - 0.04):
                parts.append(box("table", top, (side, -y, 0), (side + 0.04, y, height - 0.04)))
        else:
            leg = plain(draw.of(METAL)) if draw.chance(0.5) else top
            for px in (-x + 0.03, x - 0.09):
                for py in (-y + 0.03, y - 0.09):
                    parts.append(box("table", leg, (px, py, 0), (px + 0.06, py + 0.06, height - 0.04)))
    for _ in range(draw.count(0, 3)):
        parts += _on_a_table(draw, 0.6 * draw(-x, x), 0.5 * draw(-y, y), height)
    return Thing(parts, (x, y))


def _on_a_table(draw: Draw, x: float, y: float, height: float) -> list[Part]:
    """A monitor, a pile of books, a cup, or a desk lamp."""
    which = draw.count(0, 3)
    if which == 0:
        wide, bottom = draw(0.2, 0.32), height + 0.1
        dark = draw.chance(0.5)
        screen = plain((0.03, 0.03, 0.04)) if dark else plain(draw.of(VIVID), draw(0.0, 0.6))
        foot = plain((0.05, 0.05, 0.05))
        low, high = (x - wide, y - 0.02, bottom), (x + wide, y + 0.02, bottom + draw(0.28, 0.4))
        return [
            box("clutter", foot, (x - 0.1, y - 0.08, height), (x + 0.1, y + 0.08, bottom)),
            box("clutter", screen, low, high),
        ]
    if which == 1:
        a, b, c = draw(0.1, 0.18), draw(0.08, 0.14), draw(0.04, 0.2)
        pages = patterned(draw.of(VIVID), draw.of(VIVID), TILES, draw(0.03, 0.06))
        return [box("clutter", pages, (x - a, y - b, height), (x + a, y + b, height + c))]
    if which == 2:
        radius, tall = draw(0.04, 0.08), draw(0.1, 0.25)
        return [cylinder("clutter", plain(draw.of(VIVID)), x, y, radius, height, height + tall)]
    shade, shine = draw(0.1, 0.16), plain((1.0, 0.9, 0.7), draw(0.5, 1.5))
    return [
        cylinder("clutter", plain(draw.of(METAL)), x, y, 0.02, height, height + 0.32),
        ellipsoid("clutter", shine, (x, y, height + 0.38), (shade, shade, 0.09)),
    ]


def chair(draw: Draw) -> Thing:
    """A seat and a back on four legs, or on one column with a star of feet."""
    width, seat, top = draw(0.2, 0.26), draw(0.42, 0.5), draw(0.78, 1.05)
    cover = fabric(draw) if draw.chance(0.6) else wood(draw)
    frame = plain(draw.of(METAL)) if draw.chance(0.6) else cover
    parts = [box("chair", cover, (-width, -width, seat - 0.06), (width, width, seat))]
    parts.append(box("chair", cover, (-width, -width, seat + 0.08), (width, -width + 0.05, top)))
    if draw.chance(0.5):
        parts.append(cylinder("chair", frame, 0, 0, 0.03, 0.08, seat - 0.06))
        parts.append(box("chair", frame, (-width, -0.03, 0.02), (width, 0.03, 0.08)))
        parts.append(box("chair", frame, (-0.03, -width, 0.02), (0.03, width, 0.08)))
        parts.append(box("chair", frame, (-0.03, -width, seat), (0.03, -width + 0.03, seat + 0.08)))
    else:
        for px in (-width, width - 0.04):
            parts.append(box("chair", frame, (px, width - 0.04, 0), (px + 0.04, width, seat - 0.06)))
            parts.append(box("chair", frame, (px, -width, 0), (px + 0.04, -width + 0.04, seat + 0.08)))
    return Thing(parts, (width, width))


def bookcase(draw: Draw) -> Thing:
    """Two sides, a back, shelves, and rows of books on some of them."""
    x, y, height = 0.5 * draw(0.7, 1.6), 0.5 * draw(0.26, 0.4), draw(1.1, 2.2)
    case = wood(draw) if draw.chance(0.7) else plain(draw.of(METAL))
    books = patterned(draw.of(VIVID), draw.of(WOODS), BOOKS, draw(0.03, 0.06))
    parts = [box("bookcase", case, (-x, -y, 0), (x, -y + 0.02, height))]
    for side in (-x, x - 0.03):
        parts.append(box("bookcase", case, (side, -y, 0), (side + 0.03, y, height)))
    shelves = max(3, round(height / 0.38))
    for i in range(shelves + 1):
        z = (height - 0.03) * i / shelves
        parts.append(box("bookcase", case, (-x, -y, z), (x, y, z + 0.03)))
        if i < shelves and draw.chance(0.7):
            filled, tall = draw(-0.2, 1.0) * x, draw(0.6, 0.85) * height / shelves
            low, high = (-x + 0.03, -y + 0.02, z + 0.03), (filled, y - draw(0.03, 0.1), z + 0.03 + tall)
            parts.append(box("bookcase", books, low, high))
    return Thing(parts, (x, y))


def sofa(draw: Draw) -> Thing:
    """A base with a back, two arms and cushions."""
    x, y = 0.5 * draw(1.2, 2.3), 0.5 * draw(0.75, 0.95)
    seat, arm, back = draw(0.38, 0.46), draw(0.55, 0.65), draw(0.7, 0.9)
    cover = fabric(draw)
    parts = [box("sofa", cover, (-x, -y, 0.05), (x, y, seat - 0.12))]
    parts.append(box("sofa", cover, (-x, -y, seat - 0.12), (x, -y + 0.22, back)))
    for side in (-x, x - 0.16):
        parts.append(box("sofa", cover, (side, -y, seat - 0.12), (side + 0.16, y, arm)))
    cushions = draw.count(2, 3)
    width = (2 * x - 0.32) / cushions
    for i in range(cushions):
        left = -x + 0.16 + i * width
        low, high = (left + 0.01, -y + 0.22, seat - 0.12), (left + width - 0.01, y, seat)
        parts.append(box("sofa", cover, low, high))
    return Thing(parts, (x, y))


def column(draw: Draw, height: float) -> Thing:
    """Round or square, from floor to ceiling."""
    radius = draw(0.14, 0.28)
    paint = draw.of(PAINTS)
    finish = patterned(paint, draw.colour(paint, 0.3), MOTTLED, draw(0.1, 0.4))
    if draw.chance(0.5):
        return Thing([cylinder("column", finish, 0, 0, radius, 0, height)], (radius, radius))
    return Thing([box("column", finish, (-radius, -radius, 0), (radius, radius, height))], (radius, radius))


def floor_clutter(draw: Draw) -> Thing:
    """A bin, a crate, a plant, a ball, or a standing lamp."""
    which = draw.count(0, 4)
    if which == 0:
        r = draw(0.12, 0.22)
        return Thing([cylinder("clutter", plain(draw.of(METAL)), 0, 0, r, 0, draw(0.3, 0.6))], (r, r))
    if which == 1:
        a, b, c = draw(0.15, 0.35), draw(0.15, 0.3), draw(0.2, 0.6)
        card = patterned(draw.of(WOODS), draw.of(VIVID), TILES, draw(0.1, 0.3))
        return Thing([box("clutter", card, (-a, -b, 0), (a, b, c))], (a, b))
    if which == 2:
        r, stem = draw(0.12, 0.2), draw(0.5, 1.1)
        leaves = patterned((0.1, 0.35, 0.1), (0.3, 0.55, 0.15), MOTTLED, 0.06)
        parts = [cylinder("clutter", plain(draw.of(WOODS)), 0, 0, r, 0, 0.3)]
        parts.append(cylinder("clutter", plain((0.25, 0.18, 0.1)), 0, 0, 0.03, 0.3, stem))
        parts.append(ellipsoid("clutter", leaves, (0, 0, stem + 0.2), (1.6 * r, 1.6 * r, draw(0.25, 0.45))))
        return Thing(parts, (1.6 * r, 1.6 * r))
    if which == 3:
        r = draw(0.12, 0.35)
        return Thing([ellipsoid("clutter", plain(draw.of(VIVID)), (0, 0, r), (r, r, r))], (r, r))
    shade, tall = draw(0.15, 0.24), draw(1.3, 1.7)
    parts = [cylinder("clutter", plain(draw.of(METAL)), 0, 0, 0.16, 0, 0.03)]
    parts.append(cylinder("clutter", plain(draw.of(METAL)), 0, 0, 0.02, 0.03, tall))
    parts.append(cylinder("clutter", plain((1.0, 0.9, 0.7), draw(0.5, 1.5)), 0, 0, shade, tall, tall + 0.3))
    return Thing(parts, (shade, shade))


def door(draw: Draw) -> Thing:
    """A leaf in a frame with a handle; it stands on the floor with its back to the wall."""
    x, height = 0.5 * draw(0.8, 1.1), draw(1.95, 2.15)
    leaf = wood(draw) if draw.chance(0.6) else plain(draw.of(PAINTS + METAL))
    frame = plain(draw.of(PAINTS + WOODS))
    parts = [box("door", leaf, (-x, 0, 0), (x, 0.03, height))]
    for side in (-x - 0.07, x):
        parts.append(box("door", frame, (side, 0, 0), (side + 0.07, 0.06, height + 0.07)))
    parts.append(box("door", frame, (-x, 0, height), (x, 0.06, height + 0.07)))
    parts.append(ellipsoid("door", plain(draw.of(METAL)), (0.8 * x, 0.06, 1.0), (0.06, 0.03, 0.02)))
    return Thing(parts, (x + 0.07, 0.06))


def window(draw: Draw, height: float) -> Thing:
    """Bright panes in a frame."""
    x, sill, top = 0.5 * draw(0.8, 2.0), draw(0.7, 1.0), height - draw(0.25, 0.6)
    sky = patterned(draw.of(((0.5, 0.6, 0.4), (0.6, 0.5, 0.4))), (0.7, 0.85, 1.0), SKY, 1.5, draw(0.8, 2.0))
    frame = plain(draw.of(PAINTS + METAL))
    parts = [box("window", sky, (-x, 0, sill), (x, 0.02, top))]
    bars = [(-x, 0.04), (x - 0.04, 0.04), (-0.02, 0.04)]
    for left, wide in bars:
        parts.append(box("window", frame, (left, 0.02, sill), (left + wide, 0.06, top)))
    for z in (sill, top - 0.04):
        parts.append(box("window", frame, (-x, 0.02, z), (x, 0.06, z + 0.04)))
    return Thing(parts, (x, 0.06))


def board(draw: Draw) -> Thing:
    """White, green or black, with writing, in a frame."""
    x, bottom, tall = 0.5 * draw(1.0, 2.4), draw(0.8, 1.0), draw(0.8, 1.2)
    ground, ink = (
        ((0.9, 0.9, 0.9), (0.3, 0.3, 0.6)),
        ((0.08, 0.25, 0.15), (0.6, 0.65, 0.6)),
        ((0.06, 0.06, 0.07), (0.5, 0.5, 0.5)),
    )[draw.count(0, 2)]
    writing = patterned(ground, ink, TILES, draw(0.12, 0.25))
    frame = plain(draw.of(METAL))
    parts = [box("board", writing, (-x, 0, bottom), (x, 0.03, bottom + tall))]
    for z in (bottom - 0.03, bottom + tall):
        parts.append(box("board", frame, (-x, 0, z), (x, 0.06, z + 0.03)))
    return Thing(parts, (x, 0.06))


def ceiling_lamp(draw: Draw, height: float) -> tuple[Thing, float]:
    """A flat panel or a hanging globe, and the height at which its light leaves it."""
    shine = plain((1.0, 0.97, 0.9), draw(2.0, 4.0))
    if draw.chance(0.6):
        x, y = draw(0.2, 0.6), draw(0.1, 0.3)
        return Thing([box("clutter", shine, (-x, -y, height - 0.05), (x, y, height))], (x, y)), height - 0.1
    drop, r = draw(0.2, 0.5), draw(0.1, 0.18)
    globe = ellipsoid("clutter", shine, (0, 0, height - drop), (r, r, r))
    cord = cylinder("clutter", plain((0.1, 0.1, 0.1)), 0, 0, 0.01, height - drop, height)
    return Thing([globe, cord], (r, r)), height - drop - r - 0.03
