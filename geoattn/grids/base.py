"""What every grid is: points of a domain with quadrature weights."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn._value import Value
from geoattn.grids.sphere import Floats, Ints, cube_lattice, unit_vectors


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Grid(Value):
    """A sampled domain. Fields on it have the trailing axes ``grid.shape``.

    Every per-point attribute has the shape of the grid. Tokens are numbered in row-major
    ("natural") order of that shape; neighborhoods and plans speak of tokens by that number.

    Examples
    --------
    >>> grid = ga.grids.gaussian(16, 32)
    >>> float(round(grid.integrate(np.ones(grid.shape)) / (4 * np.pi), 12))
    1.0
    >>> ga.grids.Grid.from_dict(grid.to_dict()) == grid
    True
    """

    #: axes of a field on this grid; a plain attribute, so that torch.compile can read it
    shape: tuple[int, ...] = dataclasses.field(init=False)
    #: number of points
    size: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()
        shape = self._shape()
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "size", math.prod(shape))

    def _check(self) -> None:
        """Refuse parameters that describe no grid."""
        return None

    @abstractmethod
    def _shape(self) -> tuple[int, ...]:
        """The shape, from the parameters alone."""

    @property
    def axes_periodic(self) -> tuple[bool, ...] | None:
        """Which axes of ``shape`` close on themselves, or None where axes are no ordered positions.

        Windows in index space exist on the grids that have this, and on no others.
        """
        return None

    @property
    @abstractmethod
    def weights(self) -> Floats:
        """Quadrature weights, ``[*shape]``, read-only: cell areas, or steradians on a sphere."""

    @property
    def cell_areas(self) -> Floats:
        """Areas of the cells around the points, ``[*shape]``; the weights, where no rule gives others.

        Of rows of latitude these are the zones that end halfway to the next, which models report as
        ``areacella`` and WeatherBench 2 weighs by.
        """
        return self.weights

    @property
    def bare(self) -> NDArray[np.bool_] | None:
        """Points ``[*shape]`` without a cell, such as copies of others, of weight 0; None if all have one."""
        return None

    @cached_property
    def counted(self) -> Ints:
        """The tokens that have a cell, ascending."""
        return read_only(np.arange(self.size) if self.bare is None else np.flatnonzero(~self.bare))

    @property
    @abstractmethod
    def positions(self) -> Floats:
        """Points in a Euclidean space where near points are near, ``[*shape, dimensions]``."""

    @property
    def edges(self) -> Ints | None:
        """Pairs of tokens that a mesh joins, ``[m, 2]``, each pair once; None where the grid has no mesh."""
        return None

    def lattice(self) -> Ints:
        """Integer coordinates for curves, ``[size, 1 + dimensions]``: a patch number, then places in it.

        Grids that are one array have one patch and their indices for places.
        """
        places = np.indices(self.shape, dtype=np.int64).reshape(len(self.shape), self.size)
        return np.concatenate((np.zeros((1, self.size), np.int64), places)).T

    def integrate(self, field: Any) -> Any:
        """Integral over the domain of ``field [..., *shape]``; the leading axes remain.

        Takes a numpy array or a torch tensor, and returns the same kind, on the same device.
        Integers and booleans are summed in float64, other types in their own precision.
        """
        if not (isinstance(field, np.ndarray) or hasattr(field, "new_tensor")):
            raise TypeError(
                f"field must be a numpy array or a torch tensor, got {type(field).__name__}; take "
                "np.asarray(field), or ds.geoattn.mean() of an xarray object"
            )
        shape, rank = tuple(field.shape), len(self.shape)
        if shape[len(shape) - rank :] != self.shape:
            raise ValueError(
                f"field of shape {shape} does not end with the grid's shape {self.shape} of {self!r}"
            )
        weights: Any = self.weights
        if hasattr(field, "new_tensor"):
            if not (field.is_floating_point() or field.is_complex()):
                field = field.double()
            weights = field.new_tensor(weights)
        return (field * weights).reshape(*shape[: len(shape) - rank], self.size).sum(-1)

    @cached_property
    def shares(self) -> Floats:
        """Share of the domain that each point stands for, ``[*shape]``: the weights, made to sum to 1."""
        return read_only(self.weights / self.weights.sum())

    def mean(self, field: Any) -> Any:
        """Mean over the domain of ``field [..., *shape]``, as :meth:`integrate` over its measure."""
        return self.integrate(field) / float(self.weights.sum())


def require_grid(name: str, grid: object) -> None:
    """Refuse what is no grid, by the name the caller knows it by."""
    if not isinstance(grid, Grid):
        raise TypeError(
            f"{name} must be a grid, got {grid!r}; make one with geoattn.grids.gaussian(nlat, nlon), "
            "geoattn.grids.cartesian(shape), geoattn.grids.from_xarray(ds), …"
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SphericalGrid(Grid):
    """Points on the unit sphere, in degrees: latitude in [-90, 90], longitude in [0, 360).

    Examples
    --------
    >>> grid = ga.grids.healpix(2)
    >>> isinstance(grid, ga.grids.SphericalGrid), grid.xyz.shape
    (True, (48, 3))
    """

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
        return read_only(unit_vectors(self.lat, self.lon))

    @property
    def positions(self) -> Floats:
        return self.xyz

    @cached_property
    def is_global(self) -> bool:
        """Whether the points stand for the whole sphere, and not for a region of it."""
        return bool(abs(self.weights.sum() / (4.0 * np.pi) - 1.0) < 0.01)

    @property
    def turns(self) -> tuple[int, int]:
        """``(ring, n)``: turns of 360°/n about the axis map the grid onto itself, in its numbering.

        Each ring of that many consecutive tokens closes on itself, and one turn eastward moves every
        token ``ring // n`` places forward in its ring. ``n == 1`` where there is no such symmetry.
        """
        return self.size, 1


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PointSet(SphericalGrid):
    """A spherical grid that is one list of points, without an array that curves could follow.

    Curves run on the six faces of the cube around the sphere, each cut into 2^20 × 2^20 places.

    Examples
    --------
    >>> isinstance(ga.grids.icosahedral(1), ga.grids.PointSet)
    True
    """

    def lattice(self) -> Ints:
        return cube_lattice(self.xyz, bits=20)


def read_only(values: NDArray[Any]) -> NDArray[Any]:
    """The same array, protected against writing: grids hand out what they keep."""
    values.flags.writeable = False
    return values
