"""Relative positions on the sphere: how far a key lies from its query, and in which direction."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geoattn.grids.base import SphericalGrid
from geoattn.grids.checks import integer
from geoattn.grids.sphere import Floats
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.geodesic import SLACK, Geodesic
from geoattn.neighborhoods.rows import Index, Rotation
from geoattn.relations.base import Relation, require_neighborhood, require_room

#: radians below which two points are one, and have no bearing
_TOUCHING = 1e-9


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Angles(Relation, kind="relation_angles"):
    """Bins of great-circle angle, and of bearing; made by :func:`angles`, which defines them."""

    #: edges of the bins, degrees, from 0 on
    bins: tuple[float, ...]
    sectors: int

    @cached_property
    def _view(self) -> _View:
        return _View(self.hood)

    @property
    def count(self) -> int:
        return 1 + (len(self.bins) - 1) * self.sectors

    def numbers(self, queries: Index, keys: Index) -> NDArray[np.int32]:
        angle, bearing = self._view.polar(*self._first_of_turn(queries, keys))
        upper = np.array(self.bins[1:-1]) * (1 + SLACK)  # an angle at an edge is in the lower bin
        ring = np.searchsorted(upper, angle, side="left")
        # a bearing at an edge is in the sector before
        sector = np.floor(bearing * (self.sectors / 360.0) + 0.5 - SLACK) % self.sectors
        number = 1 + ring * self.sectors + sector
        return np.where(angle <= np.degrees(_TOUCHING), 0, number).astype(np.int32)

    @cached_property
    def coordinates(self) -> Floats:  # type: ignore[override]
        """The angle in the middle of each bin; with sectors, to north and to east."""
        edges = np.array(self.bins)
        middle = np.repeat((edges[:-1] + edges[1:]) / 2, self.sectors)
        bearing = np.tile(np.radians(np.arange(self.sectors) * 360.0 / self.sectors), len(edges) - 1)
        columns = [middle] if self.sectors == 1 else [middle * np.cos(bearing), middle * np.sin(bearing)]
        return np.concatenate((np.zeros((1, len(columns))), np.stack(columns, axis=1)))

    @cached_property
    def rotation(self) -> Rotation | None:  # type: ignore[override]
        return _turn_of_both(self.hood)

    def _first_of_turn(self, queries: Index, keys: Index) -> tuple[Index, Index]:
        """The pairs turned back as far as they go, so that all pairs of a turn are measured as one."""
        turn = self.rotation
        if turn is None:
            return queries, keys
        return turn.turned(queries, keys, -(queries % turn.query_ring // turn.query_step))

    def __repr__(self) -> str:
        sectors = f" and {self.sectors} sectors" if self.sectors > 1 else ""
        return f"{len(self.bins) - 1} bins{sectors} of angles in {self.hood!r}"


def _turn_of_both(hood: Neighborhood) -> Rotation | None:
    """The neighborhood's rotation, where it turns the sphere: both grids, by one angle."""
    turn = hood.rotation
    if turn is None or turn.query_step * turn.key_ring != turn.key_step * turn.query_ring:
        return None
    for grid, ring, step in (
        (hood.query_grid, turn.query_ring, turn.query_step),
        (hood.key_grid, turn.key_ring, turn.key_step),
    ):
        assert isinstance(grid, SphericalGrid)
        around, n = grid.turns
        if around != ring or step % (ring // n):
            return None
    return turn


class _View:
    """Keys as queries see them."""

    def __init__(self, hood: Neighborhood) -> None:
        queries, keys = hood.query_grid, hood.key_grid
        assert isinstance(queries, SphericalGrid)
        assert isinstance(keys, SphericalGrid)
        lat, lon = np.radians(queries.lat.reshape(-1)), np.radians(queries.lon.reshape(-1))
        self.trigonometry = np.stack((np.cos(lat), np.sin(lat), np.cos(lon), np.sin(lon)))
        self.xyz = keys.xyz.reshape(-1, 3)

    def polar(self, queries: Index, keys: NDArray[np.integer]) -> tuple[Floats, Floats]:
        """Angle and bearing of each key, degrees; no bearing is north."""
        cos_lat, sin_lat, cos_lon, sin_lon = self.trigonometry[:, queries]
        x, y, z = self.xyz[keys].T
        along, east = x * cos_lon + y * sin_lon, y * cos_lon - x * sin_lon
        north, up = z * cos_lat - along * sin_lat, z * sin_lat + along * cos_lat
        level = np.hypot(east, north)
        bearing = np.where(level > _TOUCHING, np.arctan2(east, north), 0.0)
        return np.degrees(np.arctan2(level, up)), np.degrees(bearing)


def angles(hood: Neighborhood, bins: int | ArrayLike, sectors: int = 1) -> Angles:
    """How far the key lies from the query on the sphere, and in which direction, in bins.

    Number 0 is the edge of no length. All other edges are numbered by the bin of their great-circle angle,
    and within it by the sector of the bearing under which the query sees the key: clockwise from north,
    the first sector centred on north. At a pole, north is where the stored meridian of the query leads;
    towards the opposite point of the sphere, every bearing is north.

    An angle at an edge of two bins belongs to the lower, with the disc's relative slack of 1e-9, and a
    bearing at an edge to the sector before it; pairs that a turn of the grids maps onto each other are
    measured once. So rounding does not split equal edges.

    Parameters
    ----------
    hood
        Any neighborhood between spherical grids.
    bins
        How many bins of equal width, from 0 to the radius of a disc, or to the largest angle of any edge; or
        their edges in degrees, ascending from 0 to at least that.
    sectors
        How many sectors of equal width the full turn is cut into; 1 counts angles alone.

    Returns
    -------
    A relation with ``count == 1 + bins · sectors``. Its ``coordinates`` are ``[count, 1]``, the angle in the
    middle of the bin in degrees; with sectors ``[count, 2]``, that angle to north and to east, so that the
    edge of no length is at the origin.

    Raises
    ------
    TypeError
        If ``hood`` is no neighborhood between spherical grids, or a number is of the wrong kind.
    ValueError
        If there is no bin or no sector, or the edges do not ascend from 0 to the largest angle.

    Examples
    --------
    >>> ga.relations.angles(ga.geodesic(ga.grids.gaussian(8, 16), radius=40), 8).count
    9
    """
    require_neighborhood(hood)
    for grid in (hood.query_grid, hood.key_grid):
        if not isinstance(grid, SphericalGrid):
            raise TypeError(
                f"angles are of edges on a sphere, and {grid!r} is none; take offsets(hood) of a window, "
                "product(offsets(window), angles(disc, bins=…)) on a product, or edges(hood)"
            )
    sectors = integer("sectors", sectors)
    if sectors < 1:
        raise ValueError(f"sectors must be at least 1, got {sectors}")
    return require_room(Angles(hood, tuple(map(float, _edges(hood, bins))), sectors))


def _edges(hood: Neighborhood, bins: int | ArrayLike) -> Floats:
    """The edges of the bins, degrees."""
    if isinstance(bins, int | np.integer):
        n = integer("bins", bins)
        if n < 1:
            raise ValueError(f"bins must be at least 1, got {n}")
        return np.linspace(0.0, _reach(hood), n + 1)
    edges: Floats = np.asarray(bins)
    if edges.ndim != 1 or edges.dtype.kind not in "iuf":
        raise TypeError(f"bins must be a number of bins, or their edges in degrees, got {bins!r}")
    if len(edges) < 2 or edges[0] != 0 or not (np.diff(edges) > 0).all() or not np.isfinite(edges[-1]):
        raise ValueError(f"edges of bins must ascend from 0, got {bins!r}")
    if edges[-1] < 180 and edges[-1] * (1 + SLACK) < (reach := _reach(hood)):
        raise ValueError(
            f"the last edge of a bin, {edges[-1]}°, lies within the largest angle of an edge: append it, "
            f"bins=[*bins, {reach!r}]"
        )
    return edges


def _reach(hood: Neighborhood) -> float:
    """The largest angle of an edge, in degrees, or the radius of a disc; never 0.

    Rounded far within the slack, so that machines that round otherwise agree on it.
    """
    if isinstance(hood, Geodesic):
        return hood.radius
    turn, view, largest = _turn_of_both(hood), _View(hood), 0.0
    for queries, (indptr, indices) in hood.blocks(1 << 20, turn and turn.leaders(hood.query_grid.size)):
        angle, _ = view.polar(np.repeat(queries, np.diff(indptr)), indices)
        largest = max(largest, float(angle.max(initial=0.0)))
        if largest >= 180.0 * (1 - SLACK):
            return 180.0
    return float(f"{largest:.12g}") if largest > np.degrees(_TOUCHING) else 180.0
