"""Grids with one axis of latitudes and one of equally spaced longitudes."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geoattn.grids import quadrature
from geoattn.grids.base import SphericalGrid, read_only
from geoattn.grids.checks import integer, numbers, positive, real
from geoattn.grids.sphere import Floats, wrap_longitude


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LatLonGrid(SphericalGrid):
    """``shape == (nlat, nlon)``: rows of equal latitude, equally spaced columns around the globe.

    Examples
    --------
    >>> isinstance(ga.grids.equiangular(5, 8), ga.grids.LatLonGrid)
    True
    """

    nlon: int
    lon_start: float

    def _check(self) -> None:
        positive(nlon=self.nlon)
        if not np.isfinite(self.lon_start):
            raise ValueError(f"lon_start must be a longitude in degrees, got {self.lon_start}")

    @property
    @abstractmethod
    def lat_axis(self) -> Floats:
        """Latitude of each row, degrees north, ``[nlat]``."""

    @property
    @abstractmethod
    def lat_weights(self) -> Floats:
        """Steradians of each row, ``[nlat]``; they sum to 4π."""

    @cached_property
    def lon_axis(self) -> Floats:
        """Longitude of each column, degrees east in [0, 360), ``[nlon]``, eastward."""
        steps = np.arange(self.nlon) * 360.0 / self.nlon
        return read_only(wrap_longitude(self.lon_start + steps))

    @property
    def axes_periodic(self) -> tuple[bool, ...]:
        return (False, True)

    @property
    def turns(self) -> tuple[int, int]:
        return self.nlon, self.nlon

    @cached_property
    def lat(self) -> Floats:
        return np.broadcast_to(self.lat_axis[:, None], self.shape)

    @cached_property
    def lon(self) -> Floats:
        return np.broadcast_to(self.lon_axis[None, :], self.shape)

    @cached_property
    def weights(self) -> Floats:
        return np.broadcast_to(self.lat_weights[:, None] / self.nlon, self.shape)

    @cached_property
    def cell_areas(self) -> Floats:
        rows = quadrature.midpoint_cells(self.lat_axis) * (2.0 * np.pi / self.nlon)
        return np.broadcast_to(read_only(rows)[:, None], self.shape)

    def _origin(self) -> str:
        return f", from {self.lon_start:g}°E" if self.lon_start else ""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RuledGrid(LatLonGrid):
    """A lat-lon grid whose rows are the nodes of a quadrature rule."""

    nlat: int
    south_first: bool

    def _check(self) -> None:
        positive(nlat=self.nlat)
        super()._check()

    def _shape(self) -> tuple[int, ...]:
        return (self.nlat, self.nlon)

    @abstractmethod
    def _rule(self) -> quadrature.Rule:
        """Latitudes, north to south, and weights that sum to 2."""

    @cached_property
    def _rows(self) -> quadrature.Rule:
        lat, weights = self._rule()
        if self.south_first:
            lat, weights = lat[::-1].copy(), weights[::-1].copy()
        return read_only(lat), read_only(weights * (2.0 * np.pi))

    @property
    def lat_axis(self) -> Floats:
        return self._rows[0]

    @property
    def lat_weights(self) -> Floats:
        return self._rows[1]

    def _layout(self) -> str:
        return f"{self.nlat}×{self.nlon}{self._origin()}{', south first' if self.south_first else ''}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Equiangular(RuledGrid, kind="equiangular"):
    """Equal steps of latitude, with both poles (Clenshaw–Curtis) or half a step off them (Fejér-1).

    Examples
    --------
    >>> ga.grids.equiangular(5, 8).lat[:, 0]
    array([ 90.,  45.,   0., -45., -90.])
    """

    poles: bool

    def _rule(self) -> quadrature.Rule:
        return quadrature.clenshaw_curtis(self.nlat) if self.poles else quadrature.fejer(self.nlat)

    def __repr__(self) -> str:
        return f"equiangular grid {self._layout()}, {'with poles' if self.poles else 'cell-centred'}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Gaussian(RuledGrid, kind="gaussian"):
    """Gauss–Legendre latitudes.

    Examples
    --------
    >>> ga.grids.gaussian(4, 8).lat[:, 0].round(2)
    array([ 59.44,  19.88, -19.88, -59.44])
    """

    def _rule(self) -> quadrature.Rule:
        return quadrature.gauss_legendre(self.nlat)

    def __repr__(self) -> str:
        return f"Gaussian grid {self._layout()}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Lobatto(RuledGrid, kind="lobatto"):
    """Gauss–Lobatto latitudes, both poles among them.

    Examples
    --------
    >>> ga.grids.lobatto(4, 8).lat[:, 0].round(2)
    array([ 90.  ,  26.57, -26.57, -90.  ])
    """

    def _rule(self) -> quadrature.Rule:
        return quadrature.gauss_lobatto(self.nlat)

    def __repr__(self) -> str:
        return f"Lobatto grid {self._layout()}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LatLon(LatLonGrid, kind="latlon"):
    """Any monotonic latitudes. ``areas`` is empty where a row weighs the zone between the midpoints
    to its neighbors.

    Examples
    --------
    >>> ga.grids.latlon([60, 20, -20, -60], np.arange(0, 360, 45.0))
    lat-lon grid 4×8, rows 60° to -60°
    """

    latitudes: Floats
    areas: Floats

    def _check(self) -> None:
        super()._check()
        lat = self.latitudes
        if lat.ndim != 1 or not len(lat):
            raise ValueError(f"lat must be one axis of latitudes, got an array of shape {lat.shape}")
        bad = np.flatnonzero(~(np.abs(lat) <= 90.0))  # also true for NaN
        if len(bad):
            raise ValueError(f"lat[{bad[0]}] = {lat[bad[0]]} is no latitude in [-90, 90] degrees")
        steps = np.diff(lat)
        wrong = np.flatnonzero(steps * (steps[:1].sum() or 1.0) <= 0)
        if len(wrong):
            i = wrong[0]
            raise ValueError(
                f"lat must run strictly north to south or south to north, "
                f"but lat[{i}] = {lat[i]} is followed by {lat[i + 1]}; sort the axis first"
            )
        areas = self.areas
        if areas.shape not in ((0,), lat.shape):
            raise ValueError(f"areas must have one entry per row, {lat.shape}, got shape {areas.shape}")
        for i in np.flatnonzero(~((areas > 0) & np.isfinite(areas)))[:1]:
            raise ValueError(f"areas[{i}] = {areas[i]} is not a positive area")

    def _shape(self) -> tuple[int, ...]:
        return (len(self.latitudes), self.nlon)

    @property
    def lat_axis(self) -> Floats:
        return self.latitudes

    @cached_property
    def lat_weights(self) -> Floats:
        if len(self.areas):
            return read_only(self.areas * (4.0 * np.pi / self.areas.sum()))
        return read_only(quadrature.midpoint_cells(self.latitudes) * (2.0 * np.pi))

    @property
    def cell_areas(self) -> Floats:
        return self.weights

    def __repr__(self) -> str:
        lat = self.latitudes
        given = ", given areas" if len(self.areas) else ""
        rows = f"rows {lat[0]:g}° to {lat[-1]:g}°"
        return f"lat-lon grid {len(lat)}×{self.nlon}{self._origin()}, {rows}{given}"


def equiangular(
    nlat: int, nlon: int, poles: bool = True, *, lon_start: float = 0.0, south_first: bool = False
) -> Equiangular:
    """A lat-lon grid with equal steps of latitude, exact to spherical-harmonic degree nlat − 1.

    Parameters
    ----------
    nlat, nlon
        Number of rows and columns.
    poles
        True: both poles are rows, with Clenshaw–Curtis weights (0.25°: 721 × 1440).
        False: the rows are cell centres, half a step off the poles, with the weights of
        Fejér's first rule (1°: 180 × 360).
    lon_start
        Longitude of the first column, degrees east.
    south_first
        Whether the rows run from south to north.

    Examples
    --------
    >>> ga.grids.equiangular(721, 1440)
    equiangular grid 721×1440, with poles
    """
    return Equiangular(**_parameters(nlat, nlon, lon_start, south_first), poles=bool(poles))


def gaussian(nlat: int, nlon: int, *, lon_start: float = 0.0, south_first: bool = False) -> Gaussian:
    """A lat-lon grid on Gauss–Legendre latitudes, exact to spherical-harmonic degree 2·nlat − 1.

    Parameters as for :func:`equiangular`.

    Examples
    --------
    >>> ga.grids.gaussian(32, 64)
    Gaussian grid 32×64
    """
    return Gaussian(**_parameters(nlat, nlon, lon_start, south_first))


def lobatto(nlat: int, nlon: int, *, lon_start: float = 0.0, south_first: bool = False) -> Lobatto:
    """A lat-lon grid on Gauss–Lobatto latitudes with both poles, exact to degree 2·nlat − 3.

    Parameters as for :func:`equiangular`.

    Examples
    --------
    >>> ga.grids.lobatto(32, 64)
    Lobatto grid 32×64
    """
    return Lobatto(**_parameters(nlat, nlon, lon_start, south_first))


def latlon(lat: ArrayLike, lon: ArrayLike, areas: ArrayLike | None = None) -> LatLon:
    """A lat-lon grid on the axes of a file: any latitudes, any longitude origin.

    Each row weighs the zone between the midpoints to its neighboring rows, the first and the last
    up to the poles. Where the rows follow a quadrature rule, :func:`equiangular`,
    :func:`gaussian` and :func:`lobatto` give its exact weights.

    Parameters
    ----------
    lat
        Degrees north, ``[nlat]``, strictly monotonic in either direction.
    lon
        Degrees east, ``[nlon]``, equally spaced eastward around the whole globe, from any origin
        (deviations up to one hundredth of a step are taken for rounding).
    areas
        Area of a cell in each row, ``[nlat]``, in any unit: the weights are scaled to 4π.

    Raises
    ------
    ValueError
        If an axis is not of that form. Regional and irregular grids are
        ``ga.grids.points(lat, lon, areas=…)``.

    Examples
    --------
    >>> ga.grids.latlon([60, 20, -20, -60], np.arange(0, 360, 45.0)).shape
    (4, 8)
    """
    lon = numbers("lon", lon)
    if lon.ndim != 1 or not len(lon):
        raise ValueError(f"lon must be one axis of longitudes, got an array of shape {lon.shape}")
    if not np.isfinite(lon).all():
        i = np.flatnonzero(~np.isfinite(lon))[0]
        raise ValueError(f"lon[{i}] = {lon[i]} is no longitude in degrees")
    step = 360.0 / len(lon)
    deviation = (lon - lon[0] - step * np.arange(len(lon)) + 180.0) % 360.0 - 180.0
    if np.abs(deviation).max() > 0.01 * step:
        if len(lon) > 1 and np.isclose(lon[-1] - lon[0], 360.0):
            hint = "the last column repeats the first: drop it, lon[:-1]"
        elif (
            np.abs((lon[::-1] - lon[-1] - step * np.arange(len(lon)) + 180.0) % 360.0 - 180.0).max()
            < 0.01 * step
        ):
            hint = "they run westward: turn them, lon[::-1], and the fields with them"
        else:
            hint = "for a region or irregular columns use ga.grids.points(lat, lon, areas=…)"
        raise ValueError(
            f"{len(lon)} longitudes from {lon[0]:g}° to {lon[-1]:g}° are not equal steps of {step:g}° "
            f"eastward around the whole globe; {hint}"
        )
    return LatLon(
        nlon=len(lon),
        lon_start=_wrapped(lon[0]),
        latitudes=numbers("lat", lat),
        areas=numbers("areas", [] if areas is None else areas),
    )


def _parameters(nlat: int, nlon: int, lon_start: float, south_first: bool) -> dict[str, Any]:
    return {
        "nlat": integer("nlat", nlat),
        "nlon": integer("nlon", nlon),
        "lon_start": _wrapped(lon_start),
        "south_first": bool(south_first),
    }


def _wrapped(lon_start: float) -> float:
    return float(wrap_longitude(np.asarray(real("lon_start", lon_start))))
