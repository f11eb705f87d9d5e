"""All points within a distance, for points anywhere in space: a tree of boxes over their numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoattn.neighborhoods.rows import Rows

LEAF = 16
BRANCHES = 4


class BoxTree:
    """Points in three dimensions, found by distance.

    A node is a run of consecutive points, in the order of their bisection, with the box around them: LEAF
    points at the bottom, four nodes in the next above. The nodes lie in depth-first order, and each knows the
    first node after its own descendants: a query walks one array forward, skips what is out of reach, and
    takes whole runs where the box is inside.
    """

    def __init__(self, points: NDArray[np.float64]) -> None:
        from geoattn.grids.bisection import bisection  # imports numba

        self.order = bisection(points, LEAF)
        points = points[self.order]
        self.points = np.ascontiguousarray(points.T)  # one array per coordinate
        runs = [LEAF]
        while runs[-1] < len(points):
            runs.append(runs[-1] * BRANCHES)
        starts = [np.arange(0, len(points), run) for run in runs]
        boxes = [(np.minimum.reduceat(points, s), np.maximum.reduceat(points, s)) for s in starts]
        start = np.concatenate(starts)
        stop = np.concatenate([np.minimum(s + r, len(points)) for s, r in zip(starts, runs, strict=True)])
        height = np.repeat(np.arange(len(runs)), [len(s) for s in starts])
        depth_first = np.lexsort((-height, start))
        self.start, self.stop = start[depth_first], stop[depth_first]
        self.skip = np.searchsorted(self.start, self.stop, "left")
        self.low = np.concatenate([low for low, _ in boxes])[depth_first]
        self.high = np.concatenate([high for _, high in boxes])[depth_first]

    def within(self, queries: NDArray[np.float64], limits: NDArray[np.float64]) -> Rows:
        """Numbers of the points with squared distance ≤ ``limits[i]`` from ``queries[i]``, ascending."""
        from geoattn.neighborhoods._disc_kernels import within

        tree = (self.skip, self.start, self.stop, self.low, self.high)
        return Rows(*within(queries, limits, *tree, self.points, self.order))
