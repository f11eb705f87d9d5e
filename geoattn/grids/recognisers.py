"""Grids of other packages: how they are recognised in a data set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol

from geoattn._registry import BrokenPart, Registry
from geoattn._warning import warn
from geoattn.grids.base import SphericalGrid


@dataclasses.dataclass(frozen=True, repr=False)
class Recognition:
    """What :func:`recognise` found.

    Examples
    --------
    >>> ds = ga.xarray.coordinates(ga.grids.gaussian(8, 16))
    >>> ga.grids.recognise(ds).basis
    "coordinates 'latitude' and 'longitude'"
    """

    grid: SphericalGrid
    #: variables that decided it
    basis: str
    #: the file's dimensions that ``grid.shape`` follows: fields must be transposed to end with these
    #: (more than one of them for a grid with one axis: flatten them in this order)
    dims: tuple[str, ...]
    #: where the quadrature weights come from
    weights: str = "the grid's own"
    #: largest distance between the file's coordinates and the grid's, degrees
    deviation: float = 0.0
    #: the distance up to which coordinates count as equal, degrees
    tolerance: float = 0.0
    #: the catalogue's name for this very grid, or None
    name: str | None = None

    def __repr__(self) -> str:
        named = f", {self.name!r} in the catalogue" if self.name else ""
        return (
            f"{self.grid}{named}\n"
            f"  from {self.basis}; fields end with dims {self.dims}\n"
            f"  coordinates within {max(self.deviation, 1e-10):.2g}° (tolerance {self.tolerance:.2g}°); "
            f"weights: {self.weights}"
        )


class Recogniser(Protocol):
    """A function that knows one grid in a data set when it sees it.

    Examples
    --------
    >>> def never(ds, *, tolerance, use_areas):
    ...     return None
    >>> ga.grids.register_recogniser("never", never)
    """

    def __call__(self, ds: Any, *, tolerance: float, use_areas: bool) -> Recognition | None:
        """What the xarray Dataset or DataArray lives on, or None where it is not the function's own grid.

        ``tolerance`` and ``use_areas`` are those of :func:`geoattn.grids.recognise`. A ValueError says
        that the grid is its own, but not whole or not sound; it reaches the user.
        """


def _checked(name: str, part: Any) -> Recogniser:
    if not callable(part):
        raise TypeError(f"{part!r} is no function; a recogniser is called as f(ds, tolerance=…, use_areas=…)")
    recogniser: Recogniser = part
    return recogniser


#: name → recogniser
RECOGNISERS: Registry[Recogniser] = Registry("recogniser", {}, ("geoattn.recognisers",), _checked)


def register_recogniser(name: str, recogniser: Recogniser | str) -> None:
    """Offer a way to recognise a grid to :func:`recognise`, :func:`from_xarray` and ``ds.geoattn``.

    A package offers it without being imported, by an entry point::

        [project.entry-points."geoattn.recognisers"]
        spiral = "my_package.spiral:recognise_spiral"

    Recognisers are asked before our own grids are tried. The first thing that one does is therefore to
    return None for whatever is not surely its own.

    Parameters
    ----------
    name
        The grid's kind, or another name that says what it knows.
    recogniser
        After :class:`Recogniser`: ``f(ds, *, tolerance, use_areas)`` returns a :class:`Recognition` or
        None. Or ``"module:function"``, imported when first needed.

    Raises
    ------
    TypeError, ValueError
        If it cannot be called, or the name is taken; the message names both.

    Examples
    --------
    >>> def never(ds, *, tolerance, use_areas):
    ...     return None
    >>> ga.grids.register_recogniser("never", never)
    """
    RECOGNISERS.register(name, recogniser)


def ask(ds: Any, sizes: Mapping[str, int], *, tolerance: float, use_areas: bool) -> Recognition | None:
    """What the recognisers of other packages say, or None.

    Raises
    ------
    ValueError
        If two of them know the data set.
    """
    found: dict[str, Recognition] = {}
    for name in RECOGNISERS:
        try:
            recogniser = RECOGNISERS[name]
        except BrokenPart:  # said when it was found
            continue
        claim = RECOGNISERS.claim(name)
        try:
            report = recogniser(ds, tolerance=tolerance, use_areas=use_areas)
            if report is not None:
                _check(report, sizes)
                found[name] = report
        except ValueError as error:
            error.add_note(
                f"said by recogniser {name!r} ({claim}); ga.grids.recognise(ds, lat='…', lon='…') goes by "
                "the coordinates alone"
            )
            raise
        except Exception as error:  # a mistake in other people's code, and no reason to refuse the file
            warn(
                f"recogniser {name!r} ({claim}) failed and is passed over: {type(error).__name__}: {error}",
                RuntimeWarning,
            )
    if len(found) > 1:
        both = " and ".join(f"{name!r} ({RECOGNISERS.claim(name)})" for name in found)
        raise ValueError(
            f"the data set is claimed by the recognisers {both}; call the function of the one you mean, or "
            "go by the coordinates alone: ga.grids.recognise(ds, lat='…', lon='…')"
        )
    return next(iter(found.values()), None)


def _check(report: Any, sizes: Mapping[str, int]) -> None:
    if not isinstance(report, Recognition) or not isinstance(report.grid, SphericalGrid):
        raise TypeError(f"it returned {report!r}, which is no geoattn.grids.Recognition of a spherical grid")
    lengths = [sizes.get(dim, 0) for dim in report.dims]
    if math.prod(lengths) != report.grid.size:
        raise TypeError(
            f"its dims {report.dims} have the lengths {lengths}, which do not make the {report.grid.size} "
            f"points of {report.grid!r}"
        )
