"""Grids in words: a name of the catalogue, or a constructor with its numbers, as on a command line."""

from __future__ import annotations

import ast
from collections.abc import Callable

from geoattn.grids.base import Grid
from geoattn.grids.catalogue import named
from geoattn.grids.cube import cubed_sphere
from geoattn.grids.healpix import healpix
from geoattn.grids.icosahedral import icosahedral
from geoattn.grids.latlon import equiangular, gaussian, lobatto
from geoattn.grids.reduced import reduced_gaussian

CONSTRUCTORS: dict[str, Callable[..., Grid]] = {
    constructor.__name__: constructor
    for constructor in (cubed_sphere, equiangular, gaussian, healpix, icosahedral, lobatto, reduced_gaussian)
}


def from_words(words: str) -> Grid:
    """A grid by its name in the catalogue, or as in ``"healpix(16)"``, ``"gaussian(32, 64)"``.

    >>> from_words("equiangular(19, 36)").shape
    (19, 36)

    Raises
    ------
    ValueError
        If there is no such name, or no such grid.
    """
    try:
        call = ast.parse(words.strip(), mode="eval").body
    except SyntaxError:
        call = None
    if not isinstance(call, ast.Call):
        return named(words)
    name = ast.unparse(call.func).removeprefix("ga.grids.")
    if name not in CONSTRUCTORS:
        raise ValueError(f"there is no grid {name!r}; there are {', '.join(CONSTRUCTORS)}")
    try:
        numbers = [ast.literal_eval(argument) for argument in call.args]
        options = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in call.keywords}
        return CONSTRUCTORS[name](*numbers, **options)
    except TypeError as reason:
        raise ValueError(f"{words!r} is no grid: {reason}") from None
