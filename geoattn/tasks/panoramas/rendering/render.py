"""Panoramas of rooms on any grid of the sphere: colours, depth along the ray, classes."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoattn._threads import run_all
from geoattn.grids import SphericalGrid
from geoattn.grids.sphere import Floats, Ints
from geoattn.tasks.panoramas.classes import CLASSES
from geoattn.tasks.panoramas.rendering.camera import Camera
from geoattn.tasks.panoramas.rendering.rooms import Room, random_room

SHELL_LABELS = np.array([CLASSES.index(n) for n in ("floor", "ceiling", *["wall"] * 4)], dtype=np.uint8)


class Panorama(NamedTuple):
    """What a camera sees through each point of a grid, without or with leading axes."""

    #: colours, uint8 ``[*grid.shape, 3]``
    rgb: NDArray[np.uint8]
    #: distance along the ray in metres, float32 ``[*grid.shape]``
    depth: NDArray[np.float32]
    #: index into :data:`CLASSES`, uint8 ``[*grid.shape]``
    label: NDArray[np.uint8]


def render(
    room: Room,
    grid: SphericalGrid,
    camera: Camera | None = None,
    *,
    noise: float = 0.02,
    supersampling: int = 1,
) -> Panorama:
    """Cast rays through the points of a grid.

    Parameters
    ----------
    room
        From :func:`random_room`, or made by hand.
    grid
        ``ga.grids.equiangular(nlat, nlon, poles=False)`` is the grid of an equirectangular image of
        nlat rows; any other grid of the sphere will do. Rows run from above to below, columns to the
        right; longitude 0 looks forward.
    camera
        Instead of the room's own.
    noise
        Standard deviation of the sensor's noise, of a full scale of 1.
    supersampling
        Colours are means over so many rays squared, spread over the cell of each point; coarse images
        flicker less.

    Returns
    -------
    Panorama
        Depth and class are exact for the ray through the point. Point lights cast hard shadows; light
        is not passed on from surface to surface.

    Raises
    ------
    ValueError
        If the camera is outside the room.
    """
    from geoattn.tasks.panoramas.rendering.casting import cast

    camera = room.camera if camera is None else camera
    if not all(0.0 < c < s for c, s in zip(camera.position, room.size, strict=True)):
        raise ValueError(f"the camera at {camera.position} is outside the room of size {room.size}")
    if supersampling < 1:
        raise ValueError(f"supersampling must be at least 1, got {supersampling}")
    points = np.concatenate((np.array(camera.position)[None], room.lights[:, :3]))
    sights = _sights(room, points)

    def see(aside: tuple[float, float]) -> Panorama:
        seen = Panorama(
            np.empty((grid.size, 3), dtype=np.uint8),
            np.empty(grid.size, dtype=np.float32),
            np.empty(grid.size, dtype=np.uint8),
        )
        cast(
            camera.rays(grid, aside),
            points,
            sights,
            np.array(room.size),
            (room.shapes, room.halves, room.turns, room.first_part),
            (room.labels, room.finishes, SHELL_LABELS, room.shell_finishes),
            (np.ascontiguousarray(room.lights[:, 3:]), room.ambient),
            room.exposure,
            noise,
            room.seed,
            *seen,
        )
        return seen

    rgb, depth, label = see((0.0, 0.0))
    if supersampling > 1:  # the noise is that of the pixel, the same for all its rays
        places = (np.arange(supersampling) + 0.5) / supersampling - 0.5
        total = sum(see((float(u), float(v))).rgb.astype(np.int64) for u in places for v in places)
        rgb = np.round(total / supersampling**2).astype(np.uint8)
    return Panorama(rgb.reshape(*grid.shape, 3), depth.reshape(grid.shape), label.reshape(grid.shape))


def _sights(room: Room, points: Floats) -> tuple[Floats, Floats, Ints]:
    """What rays that leave each of some points need to know.

    Returns
    -------
    origins, ``[points, parts, 3]``
        The point in the frame of each part.
    cones, ``[points, things, 5]``
        Direction of each thing's bounding sphere, cosine of its angular radius, and distance to it.
        By distance, nearest first.
    order, ``[points, things]``
        Which thing each cone is of.
    """
    offset = points[:, None] - room.centres
    cosine, sine = room.turns.T
    origins = np.stack(
        (
            cosine * offset[..., 0] + sine * offset[..., 1],
            cosine * offset[..., 1] - sine * offset[..., 0],
            offset[..., 2],
        ),
        axis=-1,
    )
    starts = room.first_part[:-1]
    radius = np.linalg.norm(room.halves, axis=-1)[:, None]
    low = np.minimum.reduceat(room.centres - radius, starts)
    high = np.maximum.reduceat(room.centres + radius, starts)
    middle = 0.5 * (low + high)
    of_part = np.repeat(np.arange(len(starts)), np.diff(room.first_part))
    reach = np.linalg.norm(room.centres - middle[of_part], axis=-1) + radius[:, 0]
    reach = np.maximum.reduceat(reach, starts)

    toward = middle - points[:, None]
    distance = np.linalg.norm(toward, axis=-1)
    outside = distance > 1.001 * reach
    apart = np.where(outside, distance, np.inf)
    cones = np.empty((len(points), len(starts), 5))
    cones[..., :3] = toward / np.maximum(distance, 1e-12)[..., None]
    cones[..., 3] = np.where(outside, np.sqrt(np.maximum(1.0 - (reach / apart) ** 2, 0.0)) - 1e-9, -2.0)
    cones[..., 4] = np.where(outside, distance - reach, 0.0)
    order = np.argsort(cones[..., 4], axis=-1, kind="stable")
    return origins, np.take_along_axis(cones, order[..., None], axis=1), order


def render_rooms(
    grid: SphericalGrid,
    count: int,
    split: str = "train",
    seed: int = 0,
    *,
    first: int = 0,
    tilt: float = 0.0,
    pitch: float | None = None,
    roll: float | None = None,
    noise: float = 0.02,
    supersampling: int = 1,
    threads: int | None = None,
) -> Panorama:
    """Panoramas of rooms number ``first`` … ``first + count − 1`` of a split, stacked.

    The result does not depend on the number of threads, and a panorama on no other.

    Parameters
    ----------
    grid, split, seed, tilt, noise, supersampling
        As for :func:`random_room` and :func:`render`.
    pitch, roll
        Hold every camera so, in degrees, instead of at random within ``tilt``; places stay the same.
    threads
        By default the number of processors.

    Returns
    -------
    Panorama
        ``rgb [count, *grid.shape, 3]``, ``depth`` and ``label [count, *grid.shape]``.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")

    seen: list[Panorama | None] = [None] * count

    def see(number: int) -> None:
        room = random_room(split, first + number, seed, tilt=tilt)
        at = room.camera
        held = dataclasses.replace(
            at, pitch=at.pitch if pitch is None else pitch, roll=at.roll if roll is None else roll
        )
        seen[number] = render(room, grid, held, noise=noise, supersampling=supersampling)

    run_all([partial(see, number) for number in range(count)], threads or os.cpu_count() or 1)
    return Panorama(*(np.stack(parts) for parts in zip(*filter(None, seen), strict=True)))
