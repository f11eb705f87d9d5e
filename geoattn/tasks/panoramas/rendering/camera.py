"""Where a panorama is taken from, and how the camera is held."""

from __future__ import annotations

import dataclasses

import numpy as np

from geoattn.grids import SphericalGrid
from geoattn.grids.sphere import Floats


@dataclasses.dataclass(frozen=True)
class Camera:
    """A point in a room and an attitude.

    Parameters
    ----------
    position
        (x, y, z) in metres, in the room's frame: z is up and 0 on the floor.
    yaw
        Degrees to the left, from looking along x.
    pitch
        Degrees upward.
    roll
        Degrees clockwise, as the one who looks forward sees the camera turn.
    """

    position: tuple[float, float, float]
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    @property
    def rotation(self) -> Floats:
        """``[3, 3]``, from the camera's frame (forward, left, up) to the room's; roll first, yaw last."""
        (cy, cp, cr), (sy, sp, sr) = _cosines_and_sines(self.yaw, self.pitch, self.roll)
        yaw = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
        pitch = np.array([[cp, 0.0, -sp], [0.0, 1.0, 0.0], [sp, 0.0, cp]])
        roll = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
        rotation: Floats = yaw @ pitch @ roll
        return rotation

    def rays(self, grid: SphericalGrid, aside: tuple[float, float] = (0.0, 0.0)) -> Floats:
        """Unit vectors ``[grid.size, 3]`` in the room's frame, one through each point of the grid.

        Longitude 0 looks forward. Longitudes grow to the right, as columns of a photograph do, which
        is the sphere seen from inside. ``aside`` moves each ray eastward and northward, in widths of a
        square cell of the point's area.
        """
        points = grid.xyz
        if aside != (0.0, 0.0):
            lat, lon = np.radians(grid.lat), np.radians(grid.lon)
            east = np.stack((-np.sin(lon), np.cos(lon), np.zeros_like(lon)), axis=-1)
            north = np.stack((-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)), axis=-1)
            points = points + np.sqrt(grid.weights)[..., None] * (aside[0] * east + aside[1] * north)
            points = points / np.linalg.norm(points, axis=-1, keepdims=True)
        seen_from_inside = points.reshape(-1, 3) * np.array([1.0, -1.0, 1.0])
        rays: Floats = seen_from_inside @ self.rotation.T
        return rays


def _cosines_and_sines(*degrees: float) -> tuple[list[float], list[float]]:
    """Exact at multiples of 90°, where turned images are rearranged ones."""
    exact = {0.0: (1.0, 0.0), 90.0: (0.0, 1.0), 180.0: (-1.0, 0.0), 270.0: (0.0, -1.0)}
    pairs = [exact.get(d % 360.0, (np.cos(np.radians(d)), np.sin(np.radians(d)))) for d in degrees]
    return [float(c) for c, _ in pairs], [float(s) for _, s in pairs]
