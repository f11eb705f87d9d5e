"""The catalogue: grids by the names of the data sets that people meet them in."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from geoattn._shipped import shipped
from geoattn.grids.base import Grid
from geoattn.grids.cube import cubed_sphere
from geoattn.grids.healpix import healpix
from geoattn.grids.icosahedral import icosahedral
from geoattn.grids.latlon import equiangular, gaussian, latlon, lobatto
from geoattn.grids.reduced import reduced_gaussian

#: what an entry may name
_CONSTRUCTORS: dict[str, Callable[..., Grid]] = {
    constructor.__name__: constructor
    for constructor in (
        cubed_sphere, equiangular, gaussian, healpix, icosahedral, latlon, lobatto, reduced_gaussian
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file of the catalogue.

    Examples
    --------
    >>> ga.grids.catalogue()["era5-0.25"].constructor
    'equiangular'
    """

    name: str
    #: other names under which :func:`named` finds it
    aliases: tuple[str, ...]
    #: which data sets come on this grid
    description: str
    #: the constructor in ``geoattn.grids`` and its arguments
    constructor: str
    arguments: Mapping[str, Any]
    #: the rule behind the quadrature weights, in words
    weights: str
    #: where the grid is documented
    source: str
    #: numbers that the grid must hit, computed by other means than this library
    golden: Mapping[str, Any]

    def grid(self) -> Grid:
        """The grid itself."""
        return _build(self.name)

    def __str__(self) -> str:
        also = f" (also {', '.join(self.aliases)})" if self.aliases else ""
        return f"{self.constructor} {self.golden['size']:,} points: {self.description}{also}"


class Catalogue(Mapping[str, Entry]):
    """Name → :class:`Entry`, in alphabetical order; prints as a table.

    Examples
    --------
    >>> "era5-0.25" in ga.grids.catalogue()
    True
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = dict(sorted(entries.items()))

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{name:<{width}}  {entry}" for name, entry in self.items())


@cache
def catalogue() -> Catalogue:
    """All named grids: a mapping from name to :class:`Entry` that prints as a table.

    Examples
    --------
    >>> ga.grids.catalogue()["era5-0.25"].aliases
    ('era5', 'arco-era5', 'era5-0p25', 'gfs-0.25', 'wb2-1440x721')
    """
    return Catalogue({path.stem: _read(path.stem) for path in shipped("grids").glob("*.json")})


def named(name: str) -> Grid:
    """A grid of the catalogue by its name or an alias, in any case.

    >>> ga.grids.named("era5-0.25").shape
    (721, 1440)

    Raises
    ------
    ValueError
        If no entry has that name; the message lists the nearest ones.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a grid's name, got {name!r}; ga.grids.catalogue() lists all")
    names = _names()
    found = names.get(name.casefold())
    if found is None:
        longer = sorted(n for n in names if n.startswith(f"{name.casefold()}-"))
        near = [*longer, *difflib.get_close_matches(name.casefold(), names.keys() - longer, n=5, cutoff=0.4)]
        hint = f"near it: {', '.join(near)}" if near else f"it has {len(names)} names, none of them near"
        raise ValueError(f"the catalogue has no grid named {name!r}; {hint}. ga.grids.catalogue() lists all")
    return _build(found)


def name_of(grid: Grid) -> str | None:
    """The catalogue's name for a grid, or None if it is not there."""
    return _digests().get(grid.digest)


def _read(name: str) -> Entry:
    content = json.loads((shipped("grids") / f"{name}.json").read_text())
    grid = content.pop("grid")
    aliases = tuple(content.pop("aliases"))
    return Entry(name=name, aliases=aliases, constructor=grid.pop("constructor"), arguments=grid, **content)


@cache
def _names() -> dict[str, str]:
    """Every name and alias → the entry's name."""
    return {
        alias.casefold(): entry.name
        for entry in catalogue().values()
        for alias in (entry.name, *entry.aliases)
    }


@cache
def _digests() -> dict[str, str]:
    return {entry.grid().digest: entry.name for entry in catalogue().values()}


@cache
def _build(name: str) -> Grid:
    entry = catalogue()[name]
    arguments = {key: _axis(value) for key, value in entry.arguments.items()}
    return _CONSTRUCTORS[entry.constructor](**arguments)


def _axis(value: Any) -> Any:
    """An axis is stored as its first value, step and count; other arguments as they are."""
    if isinstance(value, dict):
        return value["first"] + value["step"] * np.arange(value["count"])
    return value
