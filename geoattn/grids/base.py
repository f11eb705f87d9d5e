"""What every grid is: points of a domain with quadrature weights."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn._value import Value

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Grid(Value):
    """A sampled domain. Fields on it have the trailing axes ``grid.shape``.

    Every per-point attribute has the shape of the grid. Tokens are numbered in row-major
    ("natural") order of that shape; neighborhoods and plans speak of tokens by that number.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Axes of a field on this grid."""

    @property
    @abstractmethod
    def weights(self) -> Floats:
        """Quadrature weights, ``[*shape]``, read-only: cell areas, or steradians on a sphere."""

    @cached_property
    def size(self) -> int:
        """Number of points."""
        return int(np.prod(self.shape))

    def integrate(self, field: Any) -> Any:
        """Integral over the domain of ``field [..., *shape]``; the leading axes remain.

        Takes a numpy array or a torch tensor, and returns the same kind.
        """
        shape, rank = tuple(field.shape), len(self.shape)
        if shape[len(shape) - rank :] != self.shape:
            raise ValueError(
                f"field of shape {shape} does not end with the grid's shape {self.shape} of {self!r}"
            )
        weights = self.weights
        if hasattr(field, "new_tensor"):
            weights = field.new_tensor(weights)
        return (field * weights).reshape(*shape[: len(shape) - rank], self.size).sum(-1)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SphericalGrid(Grid):
    """Points on the unit sphere, in degrees: latitude in [-90, 90], longitude in [0, 360)."""

    @property
    @abstractmethod
    def lat(self) -> Floats:
        """Latitude of each point, degrees north, ``[*shape]``."""

    @property
    @abstractmethod
    def lon(self) -> Floats:
        """Longitude of each point, degrees east, ``[*shape]``."""

    @cached_property
    def xyz(self) -> Floats:
        """Unit vectors, ``[*shape, 3]``: x to (0°N, 0°E), y to (0°N, 90°E), z to the north pole."""
        lat, lon = np.radians(self.lat), np.radians(self.lon)
        cos_lat = np.cos(lat)
        points = np.stack((cos_lat * np.cos(lon), cos_lat * np.sin(lon), np.sin(lat)), axis=-1)
        points.flags.writeable = False
        return points


def read_only(values: NDArray[Any]) -> NDArray[Any]:
    """The same array, protected against writing: grids hand out what they keep."""
    values.flags.writeable = False
    return values
