"""Planar grids: equal cells on one, two or three axes, each open or periodic."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from geoattn.grids.base import Grid, read_only
from geoattn.grids.checks import integer, real
from geoattn.grids.sphere import Floats


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cartesian(Grid, kind="cartesian"):
    """Equal cells of size ``spacing`` on ``len(lengths)`` axes.

    Examples
    --------
    >>> float(ga.grids.cartesian((4, 6), spacing=0.5).cell_areas.sum())
    6.0
    """

    lengths: tuple[int, ...]
    spacing: tuple[float, ...]
    periodic: tuple[bool, ...]

    def _check(self) -> None:
        if not 1 <= len(self.lengths) <= 3 or min(self.lengths) < 1:
            raise ValueError(f"shape must hold 1 to 3 positive lengths, got {self.lengths}")
        if not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise ValueError(f"spacing must be positive and finite, got {self.spacing}")

    def _shape(self) -> tuple[int, ...]:
        return self.lengths

    @property
    def axes_periodic(self) -> tuple[bool, ...]:
        return self.periodic

    @cached_property
    def weights(self) -> Floats:
        return read_only(np.full(self.lengths, float(np.prod(self.spacing))))

    @cached_property
    def coordinates(self) -> Floats:
        """Cell centres from the corner of the domain, in units of the spacing, ``[*shape, ndim]``."""
        axes = [(np.arange(n) + 0.5) * s for n, s in zip(self.lengths, self.spacing, strict=True)]
        return read_only(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1))

    @property
    def positions(self) -> Floats:
        return self.coordinates

    def __repr__(self) -> str:
        axes = "×".join(
            f"{n}{' periodic' if p else ''}" for n, p in zip(self.lengths, self.periodic, strict=True)
        )
        return f"cartesian grid {axes}, spacing {self.spacing}"


def cartesian(
    shape: int | Sequence[int],
    spacing: float | Sequence[float] = 1.0,
    periodic: bool | Sequence[bool] = False,
) -> Cartesian:
    """A planar grid of equal cells with 1, 2 or 3 axes.

    Parameters
    ----------
    shape
        Number of cells along each axis.
    spacing
        Cell size along each axis; the weights are the cell areas.
    periodic
        Whether each axis closes on itself.

    Examples
    --------
    >>> ga.grids.cartesian((64, 128), spacing=0.25, periodic=(False, True))
    cartesian grid 64×128 periodic, spacing (0.25, 0.25)
    """
    lengths = tuple(integer("shape", n) for n in (shape if np.iterable(shape) else (shape,)))

    def per_axis(value: Any, name: str) -> tuple[Any, ...]:
        values = tuple(value) if np.iterable(value) else (value,) * len(lengths)
        if len(values) != len(lengths):
            raise ValueError(f"{name} {values} must have one entry per axis of shape {lengths}")
        return values

    return Cartesian(
        lengths,
        tuple(real("spacing", s) for s in per_axis(spacing, "spacing")),
        tuple(bool(p) for p in per_axis(periodic, "periodic")),
    )
