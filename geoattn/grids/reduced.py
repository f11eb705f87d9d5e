"""Reduced Gaussian grids: Gauss–Legendre rows with fewer points towards the poles."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache, cached_property

import numpy as np

from geoattn._shipped import shipped
from geoattn.grids import quadrature
from geoattn.grids.base import PointSet, read_only
from geoattn.grids.latlon import Gaussian, gaussian
from geoattn.grids.sphere import Floats, Ints


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReducedGaussian(PointSet, kind="reduced_gaussian"):
    """The rows of a Gaussian grid, north to south, each with equally spaced points from 0°E.

    Examples
    --------
    >>> ga.grids.reduced_gaussian("O8").size
    544
    """

    name: str

    def _check(self) -> None:
        points_in_north(self.name)

    def _shape(self) -> tuple[int, ...]:
        return (2 * sum(points_in_north(self.name)),)

    @cached_property
    def points_per_row(self) -> Ints:
        """Number of points of each row, north to south, ``[nlat]``."""
        north = np.array(points_in_north(self.name), dtype=np.int64)
        return read_only(np.concatenate((north, north[::-1])))

    @cached_property
    def _rows(self) -> quadrature.Rule:
        return quadrature.gauss_legendre(len(self.points_per_row))

    @cached_property
    def lat(self) -> Floats:
        return read_only(np.repeat(self._rows[0], self.points_per_row))

    @cached_property
    def lon(self) -> Floats:
        return read_only(np.concatenate([np.arange(n) * 360.0 / n for n in self.points_per_row]))

    @cached_property
    def weights(self) -> Floats:
        per_point = self._rows[1] * (2.0 * np.pi) / self.points_per_row
        return read_only(np.repeat(per_point, self.points_per_row))

    @cached_property
    def cell_areas(self) -> Floats:
        rows = quadrature.midpoint_cells(self._rows[0]) * (2.0 * np.pi) / self.points_per_row
        return read_only(np.repeat(rows, self.points_per_row))

    def __repr__(self) -> str:
        return f"reduced Gaussian grid {self.name}, {len(self.points_per_row)} rows, {self.size} points"


def reduced_gaussian(name: str) -> ReducedGaussian | Gaussian:
    """A Gaussian grid by its ECMWF name: a letter and the number of rows from pole to equator.

    Parameters
    ----------
    name
        ``"O96"``: octahedral, 20 points on the row at the pole and 4 more on each next row.
        ``"N80"``: classic, from the tables that ship with the package.
        ``"F80"``: the full grid, the same as ``gaussian(160, 320)``.

    Raises
    ------
    ValueError
        If the name is none of these, or no table of that N grid ships.

    Examples
    --------
    >>> ga.grids.reduced_gaussian("O96")
    reduced Gaussian grid O96, 192 rows, 40320 points
    """
    letter, number = _parse(name)
    if letter == "F":
        return gaussian(2 * number, 4 * number)
    return ReducedGaussian(f"{letter}{number}")


@cache
def points_in_north(name: str) -> tuple[int, ...]:
    """Points of each row from the north pole to the equator, of an O or N grid."""
    letter, number = _parse(name)
    if letter == "O":
        return tuple(20 + 4 * row for row in range(number))
    tables = shipped("grids") / "tables"
    table = tables / f"N{number}.json"
    if letter != "N" or not table.is_file():
        known = sorted(int(p.stem[1:]) for p in tables.glob("N*.json"))
        raise ValueError(
            f"no table of a reduced Gaussian grid {name!r} ships; there are N grids for {known}, "
            f"and any octahedral grid, such as 'O{number}'"
        )
    return tuple(json.loads(table.read_text(encoding="utf-8"))["points_per_row"])


def _parse(name: str) -> tuple[str, int]:
    match = re.fullmatch(r"([ONF])([1-9]\d*)", name, flags=re.IGNORECASE) if isinstance(name, str) else None
    if match is None:
        raise ValueError(
            f"a reduced Gaussian grid is named by O, N or F and the rows of a hemisphere, "
            f"such as 'O96' or 'N80'; got {name!r}"
        )
    return match[1].upper(), int(match[2])
