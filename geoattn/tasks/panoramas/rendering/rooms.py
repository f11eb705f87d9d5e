"""Furnished rooms at random: a shell, what hangs on its walls, what stands on its floor, and lights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.sphere import Floats, Ints
from geoattn.tasks.panoramas.rendering import furniture
from geoattn.tasks.panoramas.rendering.camera import Camera
from geoattn.tasks.panoramas.rendering.codes import MOTTLED, PLANKS, TILES
from geoattn.tasks.panoramas.rendering.furniture import METAL, PAINTS, WOODS, Draw, Finish, Part, Thing

#: each split draws from streams of its own, so that no room is in two
SPLITS = {"train": 0, "val": 1, "test": 2}

#: free metres that the camera needs around it, and things between them
CLEARANCE, GAP = 0.5, 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class Room:
    """A box-shaped room and convex parts in it, as the arrays that rays are cast through.

    Lengths are metres. x and y run along the walls from a corner of the floor, z is up.
    """

    #: width, length, height
    size: tuple[float, float, float]
    #: BOX, CYLINDER or ELLIPSOID, ``[parts]``
    shapes: Ints
    #: centre and half sizes, ``[parts, 3]``
    centres: Floats
    halves: Floats
    #: cosine and sine of the turn about the vertical, ``[parts, 2]``
    turns: Floats
    #: class of each part, ``[parts]``
    labels: NDArray[np.uint8]
    #: two colours, pattern, period, own light, ``[parts, 9]``
    finishes: Floats
    #: parts of thing i are first_part[i] … first_part[i + 1] − 1
    first_part: Ints
    #: finishes of floor, ceiling, and the walls at x = 0, x = width, y = 0, y = length, ``[6, 9]``
    shell_finishes: Floats
    #: position and RGB intensity of point lights, ``[lights, 6]``
    lights: Floats
    #: RGB of the light that comes from everywhere, ``[3]``
    ambient: Floats
    exposure: float
    camera: Camera
    #: decides textures and sensor noise
    seed: int


class _Plan:
    """A room in the making: things placed, and the rectangles that they take up."""

    def __init__(self, draw: Draw, size: tuple[float, float, float]) -> None:
        self.draw, self.size = draw, size
        self.placed: list[tuple[Thing, float, float, float, float]] = []
        self.taken: list[tuple[float, float, float, float]] = []
        self.walls: list[list[tuple[float, float]]] = [[], [], [], []]

    def put(self, thing: Thing, x: float, y: float, cosine: float = 1.0, sine: float = 0.0) -> None:
        self.placed.append((thing, x, y, cosine, sine))

    def stand(self, thing: Thing, x: float, y: float, angle: float) -> bool:
        """Put a thing on the floor if its place is free, at ``angle`` in radians."""
        cosine, sine = float(np.cos(angle)), float(np.sin(angle))
        a, b = thing.footprint
        rx, ry = a * abs(cosine) + b * abs(sine), a * abs(sine) + b * abs(cosine)
        width, length, _ = self.size
        inside = rx <= x <= width - rx and ry <= y <= length - ry
        if not inside or self.clearance(x, y, rx, ry) < GAP:
            return False
        self.taken.append((x, y, rx, ry))
        self.put(thing, x, y, cosine, sine)
        return True

    def clearance(self, x: float, y: float, rx: float = 0.0, ry: float = 0.0) -> float:
        """Metres between a rectangle and the nearest one that is taken."""
        gaps = (max(abs(x - u) - rx - a, abs(y - v) - ry - b) for u, v, a, b in self.taken)
        return min(gaps, default=np.inf)

    def lean(self, thing: Thing, on_floor: bool, tries: int = 6) -> None:
        """Set a thing with its back to a wall, where nothing else is; give up after some tries.

        What stands on the floor must not stand before a window, a door or a board; those must not
        overlap each other.
        """
        width, length, _ = self.size
        for _ in range(tries):
            wall = self.draw.count(0, 3)
            along = width if wall % 2 == 0 else length
            a, depth = thing.footprint
            if along < 2 * a + 0.2:
                continue
            middle = self.draw(a + 0.1, along - a - 0.1)
            low, high = middle - a - GAP, middle + a + GAP
            if any(low < stop and high > start for start, stop in self.walls[wall]):
                continue
            back = depth + 0.01 if on_floor else 0.0
            # walls in turn: y = 0, x = width, y = length, x = 0; things face away from them
            x = (middle, width - back, middle, back)[wall]
            y = (back, middle, length - back, middle)[wall]
            cosine, sine = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[wall]
            rx, ry = (a, depth) if wall % 2 == 0 else (depth, a)
            if self.clearance(x, y, rx, ry) < GAP:
                continue
            if on_floor:
                self.taken.append((x, y, rx, ry))
            self.walls[wall].append((low, high))
            self.put(thing, x, y, cosine, sine)
            return

    def scatter(self, make: Callable[[Draw], Thing], count: int, tries: int = 5) -> None:
        """Stand things on free floor, at any angle."""
        width, length, _ = self.size
        for _ in range(count):
            thing = make(self.draw)
            for _ in range(tries):
                angle = self.draw(0.0, 2.0 * np.pi)
                if self.stand(thing, self.draw(0.0, width), self.draw(0.0, length), angle):
                    break


def random_room(
    split: str = "train",
    index: int = 0,
    seed: int = 0,
    *,
    tilt: float = 0.0,
) -> Room:
    """Room number ``index`` of a split.

    Parameters
    ----------
    split
        ``"train"``, ``"val"`` or ``"test"``.
    index, seed
        With the split, decide everything: a room depends on no other.
    tilt
        Pitch and roll of the camera are uniform between −tilt and tilt degrees.

    Raises
    ------
    ValueError
        If the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}, got {split!r}")
    sequence = np.random.SeedSequence(seed, spawn_key=(SPLITS[split], index))
    draw = Draw(sequence)
    size = (draw(3.2, 7.0), draw(3.2, 7.0), draw(2.4, 3.4))
    plan = _Plan(draw, size)
    width, length, height = size

    shell = _shell(draw)

    if draw.chance(0.25):  # an L-shaped room: one corner is walled off
        a, b = 0.5 * draw(0.15, 0.35) * width, 0.5 * draw(0.15, 0.35) * length
        block = furniture.box("wall", shell[2], (-a, -b, 0.0), (a, b, height))
        x, y = (a if draw.chance(0.5) else width - a), (b if draw.chance(0.5) else length - b)
        plan.stand(Thing([block], (a, b)), x, y, 0.0)
    for _ in range(draw.count(1, 2)):
        plan.lean(furniture.door(draw), False)
    for _ in range(draw.count(0, 3)):
        plan.lean(furniture.window(draw, height), False)
    for _ in range(draw.count(0, 3)):
        plan.lean(furniture.board(draw), False)
    for _ in range(draw.count(0, 3)):
        plan.lean(furniture.bookcase(draw), True)
    for _ in range(draw.count(0, 3)):
        plan.lean(furniture.sofa(draw), True)
    plan.scatter(lambda d: furniture.column(d, height), draw.count(0, 2))
    for _ in range(draw.count(1, 4)):
        _table_with_chairs(plan)
    plan.scatter(furniture.chair, draw.count(0, 4))
    plan.scatter(furniture.floor_clutter, draw.count(1, 5))
    for _ in range(draw.count(0, 2)):
        _beam(plan)
    lights = _lights(plan)
    camera = _camera(plan, tilt)
    level = draw(0.15, 0.45)
    ambient = np.array(draw.colour((level, level, level), 0.12))
    exposure = draw(0.8, 1.6)
    return _assemble(plan, shell, lights, ambient, exposure, camera, int(sequence.generate_state(1)[0]))


def _table_with_chairs(plan: _Plan, tries: int = 6) -> None:
    draw, (width, length, _) = plan.draw, plan.size
    thing = furniture.table(draw)
    for _ in range(tries):
        x, y, angle = draw(0.0, width), draw(0.0, length), draw(0.0, 2.0 * np.pi)
        if draw.chance(0.6):
            angle = 0.5 * np.pi * draw.count(0, 3)
        if plan.stand(thing, x, y, angle):
            break
    else:
        return
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    for _ in range(draw.count(1, 6)):
        side = 1.0 if draw.chance(0.5) else -1.0
        u, v = 0.6 * draw(-1.0, 1.0) * thing.footprint[0], side * (thing.footprint[1] + draw(0.35, 0.6))
        facing = angle + (0.0 if side < 0 else np.pi) + draw(-0.4, 0.4)
        plan.stand(furniture.chair(draw), x + cosine * u - sine * v, y + sine * u + cosine * v, facing)


def _beam(plan: _Plan) -> None:
    """A bar under the ceiling, from wall to wall."""
    draw, (width, length, height) = plan.draw, plan.size
    half, drop = draw(0.08, 0.18), draw(0.15, 0.35)
    finish = furniture.wood(draw) if draw.chance(0.5) else furniture.plain(draw.of(PAINTS))
    across = draw.chance(0.5)
    span = 0.5 * (width if across else length)
    bar = furniture.box("beam", finish, (-span, -half, height - drop), (span, half, height))
    if across:
        plan.put(Thing([bar], (0, 0)), span, draw(0.1, 0.9) * length)
    else:
        plan.put(Thing([bar], (0, 0)), draw(0.1, 0.9) * width, span, 0.0, 1.0)


def _lights(plan: _Plan) -> Floats:
    """Lamps at the ceiling, and the point lights just below them."""
    draw, (width, length, height) = plan.draw, plan.size
    count = draw.count(1, 2)
    power = draw(1.2, 2.2) * np.sqrt(width * length) / count
    lights = np.empty((count, 6))
    for i in range(count):
        lamp, z = furniture.ceiling_lamp(draw, height)
        x, y = draw(0.25, 0.75) * width, draw(0.25, 0.75) * length
        plan.put(lamp, x, y)
        lights[i] = (x, y, z, *(power * c for c in draw.colour((1.0, 0.93, 0.82), 0.15)))
    return lights


def _shell(draw: Draw) -> list[Finish]:
    """Finishes of floor, ceiling and walls; one wall in some rooms has a colour of its own."""
    if draw.chance(0.5):
        ground = draw.of(WOODS)
        floor = furniture.patterned(ground, draw.colour(ground, 0.5), PLANKS, draw(0.1, 0.25))
    elif draw.chance(0.5):
        ground = draw.of(PAINTS + METAL)
        floor = furniture.patterned(ground, draw.colour((0.4, 0.4, 0.4), 0.3), TILES, draw(0.3, 0.7))
    else:
        ground = draw.of(furniture.FABRICS)
        floor = furniture.patterned(ground, draw.colour(ground, 0.4), MOTTLED, draw(0.03, 0.15))
    white = draw.colour((0.85, 0.85, 0.83), 0.1)
    panels = furniture.patterned(white, draw.colour((0.6, 0.6, 0.6), 0.1), TILES, draw(0.5, 1.0))
    ceiling = panels if draw.chance(0.4) else furniture.plain(white)
    paint = draw.of(PAINTS)
    walls = [furniture.patterned(paint, draw.colour(paint, 0.15), MOTTLED, draw(0.2, 1.0))] * 4
    if draw.chance(0.4):
        accent = draw.of(furniture.FABRICS + PAINTS)
        walls[draw.count(0, 3)] = furniture.patterned(
            accent, draw.colour(accent, 0.2), TILES, draw(0.15, 0.5)
        )
    return [floor, ceiling, *walls]


def _camera(plan: _Plan, tilt: float, tries: int = 40) -> Camera:
    """A place to stand: the freest of those tried, or the first that is free enough."""
    draw, (width, length, _) = plan.draw, plan.size
    best, place = -np.inf, (0.5 * width, 0.5 * length)
    for _ in range(tries):
        x, y = draw(CLEARANCE, width - CLEARANCE), draw(CLEARANCE, length - CLEARANCE)
        free = plan.clearance(x, y)
        if free > best:
            best, place = free, (x, y)
        if free > CLEARANCE:
            break
    height, yaw = draw(1.2, 1.8), draw(0.0, 360.0)
    return Camera((*place, height), yaw, draw(-tilt, tilt), draw(-tilt, tilt))


def _assemble(
    plan: _Plan,
    shell: list[Finish],
    lights: Floats,
    ambient: Floats,
    exposure: float,
    camera: Camera,
    seed: int,
) -> Room:
    parts: list[Part] = []
    places: list[tuple[float, float, float, float]] = []
    first = [0]
    for thing, x, y, cosine, sine in plan.placed:
        parts += thing.parts
        places += [(x, y, cosine, sine)] * len(thing.parts)
        first.append(len(parts))
    place = np.array(places)
    local = np.array([p.centre for p in parts])
    c, s = place[:, 2], place[:, 3]
    x = place[:, 0] + c * local[:, 0] - s * local[:, 1]
    y = place[:, 1] + s * local[:, 0] + c * local[:, 1]
    return Room(
        plan.size,
        np.array([p.shape for p in parts], dtype=np.int64),
        np.stack((x, y, local[:, 2]), axis=-1),
        np.array([p.half for p in parts], dtype=np.float64),
        np.ascontiguousarray(place[:, 2:]),
        np.array([p.label for p in parts], dtype=np.uint8),
        np.array([p.finish for p in parts], dtype=np.float64),
        np.array(first, dtype=np.int64),
        np.array(shell, dtype=np.float64),
        lights,
        ambient,
        exposure,
        camera,
        seed,
    )
