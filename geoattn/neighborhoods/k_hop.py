"""Each query sees what a few steps along the edges of a mesh reach."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np

from geoattn.grids.base import Grid, require_grid
from geoattn.grids.checks import integer
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Index, Rows


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class KHop(Neighborhood, kind="k_hop"):
    """What up to ``hops`` steps reach; made by :func:`k_hop`, which defines it."""

    hops: int
    #: steps from query to key, or None for the edges of the grid
    links: Neighborhood | None = None

    @cached_property
    def _steps(self) -> Any:
        """One step or none, a sparse matrix of booleans ``[size, size]``."""
        from scipy.sparse import csr_array

        size = self.query_grid.size
        if self.links is not None:
            indptr, keys = self.links.to_csr()
            starts, ends = np.repeat(np.arange(size), np.diff(indptr)), keys.astype(np.int64)
        else:
            edges = self.query_grid.edges
            assert edges is not None
            starts, ends = np.concatenate((edges, edges[:, ::-1])).T
        here = np.arange(size)
        pairs = np.concatenate((starts, here)), np.concatenate((ends, here))
        return csr_array((np.ones(len(pairs[0]), bool), pairs), (size, size))

    def rows(self, queries: Index) -> Rows:
        from scipy.sparse import csr_array

        n = len(queries)
        reached = csr_array((np.ones(n, bool), queries, np.arange(n + 1)), (n, self.query_grid.size))
        for _ in range(self.hops):
            reached = reached @ self._steps
        reached.sort_indices()
        return Rows(reached.indptr.astype(np.int64), reached.indices.astype(np.int32))

    def transpose(self) -> Neighborhood:
        if self.links is None:
            return self
        links = self.links.transpose()
        return self if links == self.links else dataclasses.replace(self, links=links)

    def __repr__(self) -> str:
        along = f" along {self.links!r}" if self.links is not None else f" on {self.query_grid!r}"
        return f"{self.hops} {'hop' if self.hops == 1 else 'hops'}{along}"


def k_hop(mesh: Grid | Neighborhood, hops: int) -> KHop:
    """Each query sees the tokens that up to ``hops`` steps along edges reach, itself among them.

    On the icosahedral mesh these are the neighborhoods of GenCast's sparse transformer (2312.15796).

    Parameters
    ----------
    mesh
        A grid that has edges: :func:`geoattn.grids.icosahedral` the sides of its triangles,
        :func:`geoattn.grids.cubed_sphere` cells that share a side, :func:`geoattn.grids.points` around the
        globe the pairs whose Voronoi cells touch, :func:`geoattn.grids.mesh` and files of models their own
        neighbors, and arrays of cells those side by side. Or a neighborhood of a grid on itself, such as
        :func:`geoattn.from_edges` makes of any mesh, whose edges from query to key are the steps.
    hops
        Steps, at least 1.

    Raises
    ------
    TypeError
        If the mesh has no edges.
    ValueError
        If there is less than one step, or the neighborhood leads to another grid.

    Examples
    --------
    >>> int(ga.k_hop(ga.grids.icosahedral(3), 2).counts.max())
    19
    """
    hops = integer("hops", hops)
    if hops < 1:
        raise ValueError(f"hops must be at least 1, got {hops}")
    if isinstance(mesh, Neighborhood):
        if mesh.query_grid != mesh.key_grid:
            raise ValueError(
                f"steps lead from a grid to itself, and {mesh!r} leads from one to another; give "
                "from_edges(grid, grid, indptr, indices)"
            )
        return KHop(mesh.query_grid, mesh.key_grid, hops, mesh)
    require_grid("mesh", mesh)
    if mesh.edges is None:
        raise TypeError(
            f"{mesh!r} has no edges; use grids.icosahedral(level), or give the edges of your own mesh, "
            "k_hop(from_edges(grid, grid, indptr, indices), hops)"
        )
    return KHop(mesh, mesh, hops)
