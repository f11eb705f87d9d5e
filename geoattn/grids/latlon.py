"""Grids with one axis of latitudes and one of equally spaced longitudes."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from functools import cached_property

import numpy as np

from geoattn.grids import quadrature
from geoattn.grids.base import Floats, SphericalGrid, read_only


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LatLonGrid(SphericalGrid):
    """``shape == (nlat, nlon)``: rows of equal latitude, equally spaced columns around the globe."""

    @property
    @abstractmethod
    def lat_axis(self) -> Floats:
        """Latitude of each row, degrees north, ``[nlat]``."""

    @property
    @abstractmethod
    def lon_axis(self) -> Floats:
        """Longitude of each column, degrees east, ``[nlon]``."""

    @property
    @abstractmethod
    def lat_weights(self) -> Floats:
        """Steradians of each row, ``[nlat]``; they sum to 4π."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return (len(self.lat_axis), len(self.lon_axis))

    @cached_property
    def lat(self) -> Floats:
        return np.broadcast_to(self.lat_axis[:, None], self.shape)

    @cached_property
    def lon(self) -> Floats:
        return np.broadcast_to(self.lon_axis[None, :], self.shape)

    @cached_property
    def weights(self) -> Floats:
        return np.broadcast_to(self.lat_weights[:, None] / len(self.lon_axis), self.shape)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Gaussian(LatLonGrid, kind="gaussian"):
    """Gauss–Legendre latitudes, north to south."""

    nlat: int
    nlon: int

    @cached_property
    def _rule(self) -> tuple[Floats, Floats]:
        return quadrature.gauss_legendre(self.nlat)

    @cached_property
    def lat_axis(self) -> Floats:
        return read_only(np.degrees(np.arcsin(self._rule[0])))

    @cached_property
    def lon_axis(self) -> Floats:
        return read_only(np.arange(self.nlon) * (360.0 / self.nlon))

    @cached_property
    def lat_weights(self) -> Floats:
        return read_only(self._rule[1] * (2.0 * np.pi))

    def __repr__(self) -> str:
        return f"Gaussian grid {self.nlat}×{self.nlon}"


def gaussian(nlat: int, nlon: int) -> Gaussian:
    """A lat-lon grid on Gauss–Legendre latitudes, exact to spherical-harmonic degree 2·nlat − 1."""
    return Gaussian(int(nlat), int(nlon))
