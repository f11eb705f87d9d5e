"""Windows in index space: neighborhood attention, Swin, HaloNet and grid attention in one pattern."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property, reduce
from itertools import chain
from math import gcd, lcm
from typing import Any, Literal, TypeVar

import numpy as np

from geoattn.grids.base import Grid, require_grid
from geoattn.grids.cartesian import Cartesian
from geoattn.grids.latlon import LatLonGrid
from geoattn.grids.product import ProductGrid
from geoattn.grids.sphere import Floats
from geoattn.neighborhoods.axis import Axis, window_axis
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Index, Rotation, Rows

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Window(Neighborhood, kind="window"):
    """The product of one window per axis of the grid; made by :func:`window`, which defines it."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    causal: tuple[bool, ...]
    offsets: tuple[int, ...]
    boundary: str
    periodic: tuple[bool, ...]
    #: whether queries and keys have changed places
    transposed: bool = False

    @property
    def _origins(self) -> tuple[int, ...]:
        """Where the first query lies on the keys' axes."""
        return (0,) * len(self.sizes)

    @cached_property
    def _planes(self) -> tuple[Grid, Grid]:
        """The grids of queries and of keys, before they change places."""
        return (self.key_grid, self.query_grid) if self.transposed else (self.query_grid, self.key_grid)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The pattern along each axis of the grids; the neighborhood is their product."""
        parameters = zip(
            self._planes[0].shape,
            self._planes[1].shape,
            _pitches(*self._planes),
            self._origins,
            self.sizes,
            self.strides,
            self.dilations,
            self.causal,
            self.offsets,
            (self.boundary,) * len(self.sizes),
            self.periodic,
            strict=True,
        )
        axes = tuple(window_axis(*p) for p in parameters)
        return tuple(axis.transpose() for axis in axes) if self.transposed else axes

    def rows(self, queries: Index) -> Rows:
        from geoattn.neighborhoods._kernels import outer

        positions = np.unravel_index(queries, self.query_grid.shape)
        along_axes = [axis.rows(at) for axis, at in zip(self.axes, positions, strict=True)]
        rows = along_axes[0]
        for axis, more in zip(self.axes[1:], along_axes[1:], strict=True):
            rows = Rows(*outer(*rows, *more, axis.length))
        return rows

    @cached_property
    def counts(self) -> Index:
        counts: Index = reduce(np.multiply.outer, [axis.count for axis in self.axes])
        counts.flags.writeable = False
        return counts

    @property
    def rotation(self) -> Rotation | None:
        if not self.periodic[-1]:
            return None
        query_ring, key_ring = (grid.shape[-1] for grid in self._planes)
        stride, pitch = self.strides[-1], _pitches(*self._planes)[-1]
        key_step = lcm(pitch, 1 if stride == 1 else gcd(stride * self.dilations[-1], key_ring))
        if key_step >= key_ring:
            return None
        query, key = (query_ring, key_step // pitch), (key_ring, key_step)
        return Rotation(*key, *query) if self.transposed else Rotation(*query, *key)

    def transpose(self) -> Neighborhood:
        if self.query_grid == self.key_grid and all(axis == axis.transpose() for axis in self.axes):
            return self  # one value, so that plans of both directions are shared
        return dataclasses.replace(
            self, query_grid=self.key_grid, key_grid=self.query_grid, transposed=not self.transposed
        )

    def _where(self) -> str:
        return f"on {self.query_grid!r}"

    def __repr__(self) -> str:
        extras = [
            f"{name} {_short(values)}"
            for name, values, usual in (
                ("stride", self.strides, 1),
                ("dilation", self.dilations, 1),
                ("offset", self.offsets, 0),
                ("causal", self.causal, False),
            )
            if any(v != usual for v in values)
        ]
        if self.boundary != "shift":
            extras.append(f"boundary {self.boundary!r}")
        name = "transposed window" if self.transposed else "window"
        return ", ".join([f"{name} {'×'.join(map(str, self.sizes))}", *extras]) + f" {self._where()}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class WindowBetween(Window, kind="window_between"):
    """A window from the queries of one grid to the keys of another; made by :func:`window`."""

    #: where the first query lies on the keys' axes
    origins: tuple[int, ...] = ()

    @property
    def _origins(self) -> tuple[int, ...]:
        return self.origins

    def _where(self) -> str:
        queries, keys = self._planes
        return f"from {queries!r} at {self.origins} to {keys!r}"


def window(
    grid: Grid,
    size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    causal: bool | Sequence[bool] = False,
    offset: int | Sequence[int] = 0,
    boundary: Literal["shift", "clip"] = "shift",
    key_grid: Grid | None = None,
    origin: int | Sequence[int] | None = None,
    *,
    periodic: bool | Sequence[bool] | None = None,
) -> Window:
    """Each query sees a box of keys around it, in index space.

    Along an axis of L positions, position i belongs to the chain g = i mod d of dilation d, holds
    place p = i div d in it, and the chain has n = ⌈(L − g)/d⌉ places. Places come in groups of
    ``stride`` s that share one window of ``size`` k around a leader c; with offset o, the group of p
    begins at j = ⌊(p − o)/s⌋·s + o. The keys are the positions t·d + g with lo ≤ t ≤ hi:

    ==================  ==============================  =====================  ==========
    \\                   leader c                        lo                     hi
    ==================  ==============================  =====================  ==========
    shift               min(j + s div 2, n − 1)         c − k div 2, moved     lo + k − 1
                                                        into [0, n − k]
    clip                j + s div 2                     c − k div 2            lo + k − 1
    shift, causal       min(j + s − 1, n − 1)           c − k + 1              p
    clip, causal        j + s − 1                       c − k + 1              p
    ==================  ==============================  =====================  ==========

    and keys outside [0, n) do not exist. On several axes a key is seen where each axis sees it.

    A periodic axis wraps in place of shifting or clipping: key (t·d + g) mod L for the unmoved
    lo ≤ t ≤ hi, each key at most once. Causal there means: none ahead, up to k − 1 places behind,
    across the seam. Chains are the orbits of the dilation around the ring (the residues where d
    divides L), and a stride must divide the places of an orbit, so that groups close on the ring.

    With boundary "shift" these are the neighborhoods of NATTEN (Hassani et al., 2204.07143,
    2209.15001, 2504.16922). Other patterns are values of the same parameters:

    - Swin: ``stride=k``; shifted by o: ``stride=k, offset=o, boundary="clip"``;
    - MaxViT's grid attention: ``size=k, dilation=L // k``;
    - blocks b that see a halo h of real points: ``size=b + 2 * h, stride=b, boundary="clip"``.

    Queries and keys may lie on two grids: query i lies at position ``origin + i·r`` of the keys' axis, where
    r is the spacing of the queries in that of the keys, a whole number. Positions and places above are then
    counted from the origin, i·r in place of i, and in place of 0 and n stand the first place of the chain on
    the keys' axis, which may be negative, and the one after its last. So

    - HaloNet, whose halo of zeros counts in the softmax: keys and values padded by h on every side,
      ``size=b + 2 * h, stride=b, boundary="clip", key_grid=padded, origin=h``;
    - Swin and Aurora on planes that windows do not divide: ``stride=k, boundary="clip", key_grid=padded``;
    - queries on every r-th point: ``window(cartesian(n // r, spacing=r), k, key_grid=cartesian(n))``;
    - the last n tokens of a past of m: ``causal=True, key_grid=cartesian(m), origin=m - n``.

    Parameters
    ----------
    grid
        Any grid whose axes are ordered positions: Cartesian, lat-lon, and products of them.
        Longitude is periodic, latitude is open.
    size, stride, dilation, causal, offset
        One value, or one per axis. ``1 <= stride <= size``; offsets count in places, modulo stride.
    key_grid
        The keys' grid, of as many axes; the queries' by default.
    origin
        Position of the first query on the keys' axes, one value or one per axis; 0 by default.
    boundary
        "shift" moves a window inward at an open end so that it keeps all its keys (non-causal) and
        needs ``size * dilation <= L``; "clip" drops the keys outside.
    periodic
        Which axes wrap, in place of the grid's own ``axes_periodic``.

    Raises
    ------
    TypeError
        If the grid's points are not laid out along axes.
    ValueError
        If a parameter does not fit the grid.

    Examples
    --------
    >>> video = ga.grids.cartesian((8, 24, 32), periodic=(False, False, True))
    >>> ga.window(video, (4, 7, 7), dilation=(1, 1, 2))
    window 4×7×7, dilation (1, 1, 2) on cartesian grid 8×24×32 periodic, spacing (1.0, 1.0, 1.0)
    """
    wraps = _ordered(grid, "grid")
    keys = grid
    if key_grid is not None:
        keys, wraps = key_grid, _ordered(key_grid, "key_grid")
        if len(grid.shape) != len(keys.shape):
            raise ValueError(f"grid and key_grid must have as many axes, got {grid!r} and {keys!r}")
    elif origin is not None:
        raise ValueError(f"origin {origin!r} is where queries lie on another grid: pass key_grid=…")
    pitches = _pitches(grid, keys)
    rank = len(grid.shape)
    sizes = _per_axis("size", size, rank, int)
    strides = _per_axis("stride", stride, rank, int)
    dilations = _per_axis("dilation", dilation, rank, int)
    causals = _per_axis("causal", causal, rank, bool)
    offsets = _per_axis("offset", offset, rank, int)
    origins = _per_axis("origin", 0 if origin is None else origin, rank, int)
    wraps = wraps if periodic is None else _per_axis("periodic", periodic, rank, bool)
    if boundary not in ("shift", "clip"):
        raise ValueError(f'boundary must be "shift" or "clip", got {boundary!r}')
    for axis, (n, k, d, s, wrap) in enumerate(zip(keys.shape, sizes, dilations, strides, wraps, strict=True)):
        where = f"on axis {axis} of {keys!r}"
        if k < 1 or d < 1:
            raise ValueError(f"size and dilation must be at least 1, got size {k}, dilation {d} {where}")
        if not 1 <= s <= k:
            raise ValueError(f"stride must lie in 1 … size = {k}, got {s} {where}")
        if not wrap and boundary == "shift" and k * d > n:
            raise ValueError(
                f"size {k} × dilation {d} = {k * d} exceeds the {n} positions {where}; "
                'reduce them, or take boundary="clip"'
            )
        if wrap and n // gcd(n, d) % s:
            raise ValueError(
                f"stride {s} does not divide the {n // gcd(n, d)} places of the ring {where} "
                f"(dilation {d}); choose a divisor, or periodic=False there"
            )
        if wrap and grid.shape[axis] * pitches[axis] != n:
            raise ValueError(
                f"{grid.shape[axis]} queries, {pitches[axis]} apart, do not close on the ring of {n} keys "
                f"{where}; pass periodic=False"
            )
    offsets = tuple(o % s for o, s in zip(offsets, strides, strict=True))
    if key_grid is None:
        return Window(grid, grid, sizes, strides, dilations, causals, offsets, boundary, wraps)
    return WindowBetween(
        grid, keys, sizes, strides, dilations, causals, offsets, boundary, wraps, origins=origins
    )


def _ordered(grid: Grid, name: str) -> tuple[bool, ...]:
    """Which axes of a grid close on themselves; refuses a grid that has no axes."""
    require_grid(name, grid)
    if grid.axes_periodic is None:
        others = "geodesic(grid, radius=…), nearest(grid, k=…)"
        if isinstance(grid, ProductGrid):
            others = "product(window(…), geodesic(…), …)"
        raise TypeError(
            f"window needs a grid whose axes are ordered positions, and {grid!r} is none; "
            f"use {others} or curve_window(grid, size)"
        )
    return grid.axes_periodic


def _pitches(queries: Grid, keys: Grid) -> tuple[int, ...]:
    """Along each axis, how many keys lie from one query to the next.

    Raises
    ------
    ValueError
        If it is no whole number.
    """
    rank = len(keys.shape)
    if queries == keys:
        return (1,) * rank
    ratios = [1.0] * rank
    if isinstance(queries, ProductGrid) and isinstance(keys, ProductGrid):
        if [len(f.shape) for f in queries.factors] == [len(f.shape) for f in keys.factors]:
            return tuple(chain(*map(_pitches, queries.factors, keys.factors)))
    elif isinstance(queries, Cartesian) and isinstance(keys, Cartesian):
        ratios = [q / k for q, k in zip(queries.spacing, keys.spacing, strict=True)]
    elif isinstance(queries, LatLonGrid) and isinstance(keys, LatLonGrid):
        query_rows, key_rows = (_row_step(grid.lat_axis) for grid in (queries, keys))
        ratios = [query_rows / key_rows, keys.shape[1] / queries.shape[1]]
    pitches = tuple(max(1, round(ratio)) for ratio in ratios)
    if any(abs(ratio - pitch) > 0.01 * pitch for ratio, pitch in zip(ratios, pitches, strict=True)):
        raise ValueError(
            f"queries must lie whole numbers of keys apart, and {queries!r} lie {ratios} apart on {keys!r}; "
            "between grids of other spacings use nearest(grid, key_grid, k=…)"
        )
    return pitches


def _row_step(latitudes: Floats) -> float:
    """The usual distance between rows, in degrees."""
    return float(np.median(np.abs(np.diff(latitudes)))) if len(latitudes) > 1 else 180.0


def _per_axis(name: str, value: Any, rank: int, kind: type[T]) -> tuple[T, ...]:
    """One value per axis, of exactly the wanted kind."""
    several = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
    values = tuple(value) if several else (value,) * rank
    if len(values) != rank:
        raise ValueError(f"{name} {values} must have one entry for each of the {rank} axes of the grid")
    allowed = (bool, np.bool_) if kind is bool else (int, np.integer)
    if not all(isinstance(v, allowed) and (kind is bool or not isinstance(v, bool)) for v in values):
        raise TypeError(f"{name} must be {kind.__name__} or one per axis, got {value!r}")
    return tuple(kind(v) for v in values)  # type: ignore[call-arg]


def _short(values: tuple[Any, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 else str(values)
