"""What every position scheme is, and how it is found by name."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod

from torch import nn

from geoattn._fields import check_fields
from geoattn._value import KINDS, Value
from geoattn.grids import Grid
from geoattn.neighborhoods import Neighborhood
from geoattn.relations import Relation


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Position(Value):
    """A scheme of relative position: a small value that a configuration can hold.

    A scheme of your own names its kind, ``class Mine(Position, kind="mine")``, and ``position="mine"``
    finds it with its defaults. A package declares it under ``geoattn.positions``::

        [project.entry-points."geoattn.positions"]
        mine = "my_package.position:Mine"

    Examples
    --------
    >>> isinstance(ga.nn.Harmonic(degree=6), ga.nn.Position)
    True
    """

    def _check_kinds(self) -> None:
        check_fields(self)

    def build(self, hood: Neighborhood, num_heads: int, head_dim: int) -> nn.Module:
        """The module of an attention over a neighborhood: :meth:`module`, or a :class:`PairBias`."""
        return self.module(hood.query_grid, hood.key_grid, num_heads, head_dim)

    @abstractmethod
    def module(self, query_grid: Grid, key_grid: Grid, num_heads: int, head_dim: int) -> nn.Module:
        """A module with ``forward(q, k, scale) -> (q, k)``, ready for the operator.

        Raises
        ------
        ValueError
            If the scheme does not fit the grids or the head dimension.
        """

    def __repr__(self) -> str:
        content = ", ".join(f"{name}={value!r}" for name, value in self._content().items())
        return f"{type(self).__name__}({content})"


def schemes() -> list[str]:
    """Names of the schemes: ours, those defined in this process and those that packages declare."""
    here = [kind for kind, cls in KINDS.loaded().items() if issubclass(cls, Position)]
    return sorted({*here, *KINDS.declared("geoattn.positions")})


def resolve(position: str | Position | None) -> Position | None:
    """The scheme that a user named, with its defaults."""
    if position is None or isinstance(position, Position):
        return position
    if isinstance(position, type) and issubclass(position, Position):
        raise TypeError(f"position is a class; make a value of it: {position.__name__}(…)")
    if isinstance(position, Relation):
        raise TypeError(
            f"position is a relation, {position!r}, which numbers edges; a module makes its own, with a bias "
            "to be learned: 'offsets', 'angles' or 'continuous', or a value such as ga.nn.Angles(bins=8)"
        )
    if position not in schemes():
        raise ValueError(
            f"position {position!r} is unknown; use None, one of {schemes()}, "
            "or a value such as ga.nn.Harmonic(degree=6)"
        )
    scheme = KINDS[position]
    if not issubclass(scheme, Position):
        raise TypeError(f"{KINDS.claim(position)} is declared as a position scheme, and extends none")
    try:
        return scheme()
    except TypeError as error:
        raise TypeError(
            f"position {position!r} has parameters without defaults ({error}); give a value, "
            f"{scheme.__qualname__}(…), in place of its name"
        ) from error
