"""Which process holds which token: one cut of each grid for all neighborhoods on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from geoattn._value import Value
from geoattn.grids.base import Grid
from geoattn.grids.checks import integer
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.everything import Everything
from geoattn.neighborhoods.heads import Heads

Owners = NDArray[np.int16]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cut(Value, kind="cut"):
    """Which of ``n`` processes holds each token of some grids; made by :func:`cut`.

    One of your own is made of its fields: ``Cut(n, (grid,), (owners,))``.

    Examples
    --------
    >>> ga.parallel.cut(ga.geodesic(ga.grids.gaussian(8, 16), radius=40), 4)
    cut of Gaussian grid 8×16 among 4 processes
    """

    n: int
    grids: tuple[Grid, ...]
    #: int16 ``[grid.size]`` of each grid, from 0 to n − 1
    owners: tuple[Owners, ...]

    def _check_kinds(self) -> None:
        if len(self.grids) != len(self.owners):
            raise ValueError(f"{len(self.grids)} grids need as many owners, got {len(self.owners)}")
        for grid, owner in zip(self.grids, self.owners, strict=True):
            if owner.dtype != np.int16 or owner.shape != (grid.size,):
                raise ValueError(
                    f"owners of {grid!r} must be int16 [{grid.size}], got {owner.dtype} {owner.shape}"
                )
            if not 0 <= owner.min() <= owner.max() < self.n:
                raise ValueError(f"owners must lie in [0, {self.n}), got {owner.min()} … {owner.max()}")

    def owner(self, grid: Grid) -> Owners:
        """Which process holds each token of a grid, ``[grid.size]``.

        Raises
        ------
        KeyError
            If the grid is not cut here.
        """
        for known, owner in zip(self.grids, self.owners, strict=True):
            if known == grid:
                return owner
        raise KeyError(
            f"the cut is one of {', '.join(map(repr, self.grids))}, and not of {grid!r}; cut all "
            f"neighborhoods of a model at once, geoattn.parallel.cut(hoods, {self.n})"
        )

    def tokens(self, grid: Grid, rank: int) -> NDArray[np.int32]:
        """The tokens of a grid that one process holds, ascending."""
        return np.flatnonzero(self.owner(grid) == rank).astype(np.int32)

    def __repr__(self) -> str:
        return f"cut of {', '.join(map(repr, self.grids))} among {self.n} processes"


def cut(hoods: Neighborhood | Iterable[Neighborhood], n: int) -> Cut:
    """Cut the grids of some neighborhoods among ``n`` processes, each grid once.

    Pieces are compact and carry equal loads: the load of a token is the number of keys that it sees in all of
    the neighborhoods, and one for itself. Of grids that are tied by neighborhoods the one with the most load
    is cut by recursive bisection, its tokens loaded with those of the others that lie on them; the others
    follow it, each token to the process that holds most of what it is tied to, so that data moves between
    grids as halos only. Equal arguments give equal cuts, in every process.

    Parameters
    ----------
    hoods
        All neighborhoods of a model, or one.
    n
        Number of processes.

    Raises
    ------
    TypeError
        If an argument is no neighborhood.
    ValueError
        If there is none, or n is no number of processes.

    Examples
    --------
    >>> ga.parallel.cut(ga.geodesic(ga.grids.gaussian(8, 16), radius=40), 4).n
    4
    """
    n = integer("n", n)
    if not 1 <= n < 2**15:
        raise ValueError(f"n must be a number of processes from 1 to 32767, got {n}")
    parts = list(_parts(hoods))
    loads = _loads(parts)
    owners: dict[Grid, Owners] = {}
    while len(owners) < len(loads):
        root = max((grid for grid in loads if grid not in owners), key=lambda grid: loads[grid].sum())
        tree = _followers(root, parts)
        for follower, leader, links in reversed(tree):
            _lay(loads[follower], links, loads[leader])
        owners[root] = _bisected(root, loads[root], n, parts)
        for follower, leader, links in tree:
            owners[follower] = _followed(links, owners[leader], n)
    return Cut(n, tuple(owners), tuple(owners.values()))


def _parts(hoods: Neighborhood | Iterable[Neighborhood]) -> Iterator[Neighborhood]:
    """The neighborhoods that have edges of their own, each as often as it is attended over."""
    given = [hoods] if isinstance(hoods, Neighborhood) else list(hoods)
    if not given:
        raise ValueError("a cut is made for neighborhoods, got none")
    for hood in given:
        if not isinstance(hood, Neighborhood):
            raise TypeError(
                f"a cut is made for neighborhoods, got {hood!r}; for a grid say window(grid, size), "
                "geodesic(grid, radius=…), …"
            )
        yield from hood.parts if isinstance(hood, Heads) else (hood,)


def _loads(parts: list[Neighborhood]) -> dict[Grid, NDArray[np.float64]]:
    """The load of each token of each grid."""
    loads: dict[Grid, NDArray[np.float64]] = {}
    for hood in parts:
        for grid in (hood.query_grid, hood.key_grid):
            loads.setdefault(grid, np.ones(grid.size))
        loads[hood.query_grid] += hood.counts.reshape(-1)
    return loads


def _followers(root: Grid, parts: list[Neighborhood]) -> list[tuple[Grid, Grid, Neighborhood]]:
    """Grids that hang on a grid, nearest first, each with the one that it follows and its edges to that."""
    tree: list[tuple[Grid, Grid, Neighborhood]] = []
    reached = [root]
    for leader in reached:  # grows on the way
        for hood in parts:
            if isinstance(hood, Everything):
                continue  # which ties each token to all alike
            if hood.key_grid == leader and hood.query_grid not in reached:
                tree.append((hood.query_grid, leader, hood))
                reached.append(hood.query_grid)
            elif hood.query_grid == leader and hood.key_grid not in reached:
                tree.append((hood.key_grid, leader, hood.transpose()))
                reached.append(hood.key_grid)
    return tree


def _lay(load: NDArray[np.float64], links: Neighborhood, on: NDArray[np.float64]) -> None:
    """Add the load of each token to what it is tied to, in equal shares."""
    for queries, rows in links.blocks():
        counts = np.diff(rows.indptr)
        share = np.repeat(load[queries] / np.maximum(counts, 1), counts)
        on += np.bincount(rows.indices, share, minlength=len(on))


def _bisected(grid: Grid, load: NDArray[np.float64], n: int, parts: list[Neighborhood]) -> Owners:
    from geoattn.parallel.bisection import bisect, sample  # imports numba

    own = {hood for hood in parts if hood.query_grid == hood.key_grid == grid}
    seen = sample(grid, sorted((h for h in own if not isinstance(h, Everything)), key=lambda h: h.digest))
    return bisect(grid.positions.reshape(grid.size, -1), load, n, seen)


def _followed(links: Neighborhood, owners: Owners, n: int) -> Owners:
    from geoattn.parallel.kernels import majority

    found = np.empty(links.query_grid.size, np.int16)
    for queries, rows in links.blocks():
        most = np.empty(len(queries), np.int16)
        majority(rows.indptr, owners[rows.indices], n, most)
        # what is tied to nothing goes where its number lies
        found[queries] = np.where(most >= 0, most, queries * n // len(found))
    return found
