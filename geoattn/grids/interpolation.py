"""Fixed weights that carry a field from one grid to another."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce, singledispatch
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from geoattn.grids.base import Grid, SphericalGrid
from geoattn.grids.cartesian import Cartesian
from geoattn.grids.latlon import LatLonGrid
from geoattn.grids.product import ProductGrid
from geoattn.grids.sphere import Floats, Ints


class Stencil(NamedTuple):
    """Keys that each query reads and their weights, ``[Nq, n]`` each; every row of weights sums to 1."""

    keys: Ints
    weights: Floats

    def matrix(self, num_keys: int) -> csr_array:
        """As a sparse matrix ``[Nq, num_keys]``."""
        rows = np.repeat(np.arange(len(self.keys)), self.keys.shape[1])
        matrix = csr_array(
            (self.weights.ravel(), (rows, self.keys.ravel())), shape=(len(self.keys), num_keys)
        )
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return matrix


def interpolation(query_grid: Grid, key_grid: Grid) -> Stencil:
    """Second-order interpolation of a scalar from ``key_grid`` to the points of ``query_grid``.

    Constants are kept to round-off, and the error falls with the square of the spacing.

    - From lat-lon grids: linear along both axes. Beyond the last row towards a pole, the line
      runs on over the pole to the same row on the other side.
    - From planes: linear along each axis; constant beyond the last cell centre of an open axis.
    - From products of grids: the products of their factors' weights.
    - From all others: see :func:`local_linear`.
    """
    return _interpolation_from(key_grid, query_grid)


@singledispatch
def _interpolation_from(key_grid: Grid, query_grid: Grid) -> Stencil:
    """The kind of the key grid chooses; generic functions dispatch on their first argument."""
    return local_linear(query_grid, key_grid)


def local_linear(query_grid: Grid, key_grid: Grid, most: int = 48) -> Stencil:
    """Weights on the nearest keys that are exact for linear functions on the tangent plane.

    Of all weights w that sum to 1 and keep linear functions, those of smallest Σ (w_j d_j)², d_j
    the distance (local linear regression with weights 1/d²). A query on a key reads that key.
    Six keys serve where they surround the query. Where they fix no plane, or only by large
    weights of both signs (a dense row seen from beside it), the number is doubled, up to ``most``;
    where even those do not suffice, weights are proportional to 1/d².
    """
    dimensions = _dimensions(query_grid, key_grid)
    points = query_grid.positions.reshape(-1, dimensions)
    counted = key_grid.counted  # copies of a point surround nothing
    sources = key_grid.positions.reshape(-1, dimensions)[counted]
    tree = cKDTree(sources)
    keys: Ints = np.zeros((len(points), 0), dtype=np.int64)
    weights: Floats = np.zeros((len(points), 0))
    open_rows, count = np.arange(len(points)), 3
    while len(open_rows) and count < min(most, len(counted)):
        count = min(2 * count, most, len(counted))
        distance, near = tree.query(points[open_rows], k=np.arange(1, count + 1))
        offset = sources[near] - points[open_rows, None]
        if isinstance(query_grid, SphericalGrid):  # onto the tangent plane
            normal = points[open_rows, None]
            offset = offset - (offset * normal).sum(-1, keepdims=True) * normal
        found, sound = _linear_weights(distance, offset)
        wider = ((0, 0), (0, count - keys.shape[1]))
        keys, weights = np.pad(keys, wider), np.pad(weights, wider)
        keys[open_rows], weights[open_rows] = near, found
        open_rows = open_rows[~sound]
    return Stencil(counted[keys], weights / weights.sum(-1, keepdims=True))


def _linear_weights(distance: Floats, offset: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Weights of keys at ``offset [n, k, dimensions]``, and whether they are linear and moderate."""
    spacing = np.maximum(distance.mean(-1, keepdims=True), np.finfo(float).tiny)
    near = np.maximum(distance / spacing, 1e-6)
    # Rows of the constraints: the sum of the weights, then the moment along each dimension. With
    # z = w d the minimum of |z|² is the pseudo-inverse.
    moments = np.moveaxis(offset / spacing[..., None], 2, 1)
    constraints = np.concatenate((np.ones_like(near)[:, None], moments), axis=1)
    weights = np.linalg.pinv(constraints / near[:, None], rcond=1e-8)[..., 0] / near
    moment = np.abs((moments * weights[:, None]).sum(-1)).max(-1)
    linear = (np.abs(weights.sum(-1) - 1.0) < 1e-6) & (moment < 1e-6)
    sound = linear & (np.abs(weights).sum(-1) < 1.5)
    hit = distance[:, 0] < 1e-9 * spacing[:, 0]
    weights[~sound] = near[~sound] ** -2.0
    weights[hit] = np.arange(near.shape[1]) == 0
    return weights, sound | hit


def average(query_grid: Grid, key_grid: Grid) -> Stencil:
    """Area means: each query takes the mean, by quadrature weight, of the keys nearest to it.

    For a coarser query grid. Where the query grid's weights are the sums over those keys, the
    integral of the field is kept. A query that is nearest to no key, because the query grid is
    finer there, interpolates. On products of grids: factor by factor.
    """
    return _average_from(key_grid, query_grid)


@singledispatch
def _average_from(key_grid: Grid, query_grid: Grid) -> Stencil:
    dimensions = _dimensions(query_grid, key_grid)
    tree = cKDTree(query_grid.positions.reshape(-1, dimensions))
    nearest = tree.query(key_grid.positions.reshape(-1, dimensions))[1]
    counts = np.bincount(nearest, minlength=query_grid.size)
    between = interpolation(query_grid, key_grid)
    width = max(int(counts.max()), between.keys.shape[1])
    keys = np.zeros((query_grid.size, width), dtype=np.int64)
    weights = np.zeros(keys.shape)

    order = np.argsort(nearest, kind="stable")
    row = nearest[order]
    column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    keys[row, column] = order
    weights[row, column] = key_grid.weights.reshape(-1)[order]
    empty = counts == 0
    keys[empty, : between.keys.shape[1]] = between.keys[empty]
    weights[empty, : between.keys.shape[1]] = between.weights[empty]
    return Stencil(keys, weights / weights.sum(-1, keepdims=True))


@_interpolation_from.register
def _(key_grid: LatLonGrid, query_grid: Grid) -> Stencil:
    if not isinstance(query_grid, SphericalGrid):
        raise _apart(query_grid, key_grid)
    nlat, nlon = key_grid.shape
    lat, lon = query_grid.lat.reshape(-1), query_grid.lon.reshape(-1)
    southward = -1 if nlat > 1 and key_grid.lat_axis[0] > key_grid.lat_axis[-1] else 1
    axis = southward * key_grid.lat_axis  # ascending
    # One more row beyond each end: the end row itself, seen over the pole.
    extended = np.concatenate(([-180.0 - axis[0]], axis, [180.0 - axis[-1]]))
    rows = np.concatenate(([0], np.arange(nlat), [nlat - 1]))
    over_pole = np.zeros(nlat + 2)
    over_pole[[0, -1]] = 180.0
    below, part = _between(extended, southward * lat)
    keys, weights = [], []
    for level, row_weight in ((below, 1.0 - part), (below + 1, part)):
        column = (lon + over_pole[level] - key_grid.lon_start) / (360.0 / nlon)
        west = np.floor(column)
        for place, weight in ((west, 1.0 - (column - west)), (west + 1, column - west)):
            keys.append(rows[level] * nlon + place.astype(np.int64) % nlon)
            weights.append(row_weight * weight)
    return Stencil(np.stack(keys, axis=-1), np.stack(weights, axis=-1))


@_interpolation_from.register
def _(key_grid: Cartesian, query_grid: Grid) -> Stencil:
    if not isinstance(query_grid, Cartesian) or len(query_grid.shape) != len(key_grid.shape):
        raise _apart(query_grid, key_grid)
    axes = []
    for axis, (length, spacing) in enumerate(zip(key_grid.shape, key_grid.spacing, strict=True)):
        cells = (np.arange(query_grid.shape[axis]) + 0.5) * query_grid.spacing[axis] / spacing - 0.5
        if not key_grid.periodic[axis]:
            cells = np.clip(cells, 0.0, length - 1.0)
        first = np.floor(cells)
        part = cells - first
        pair = np.stack((first, first + 1), axis=-1).astype(np.int64)
        pair = pair % length if key_grid.periodic[axis] else np.minimum(pair, length - 1)
        axes.append((Stencil(pair, np.stack((1.0 - part, part), axis=-1)), length))
    return reduce(_product, axes)[0]


@_interpolation_from.register
def _(key_grid: ProductGrid, query_grid: Grid) -> Stencil:
    return _factor_by_factor(interpolation, query_grid, key_grid)


@_average_from.register
def _(key_grid: ProductGrid, query_grid: Grid) -> Stencil:
    return _factor_by_factor(average, query_grid, key_grid)


def _factor_by_factor(
    method: Callable[[Grid, Grid], Stencil], query_grid: Grid, key_grid: ProductGrid
) -> Stencil:
    if not isinstance(query_grid, ProductGrid) or len(query_grid.factors) != len(key_grid.factors):
        raise _apart(query_grid, key_grid)
    pairs = zip(query_grid.factors, key_grid.factors, strict=True)
    return reduce(_product, [(method(query, key), key.size) for query, key in pairs])[0]


def _product(first: tuple[Stencil, int], second: tuple[Stencil, int]) -> tuple[Stencil, int]:
    """The stencil on pairs of points, the second varying faster, and the number of keys."""
    (a, n), (b, m) = first, second
    queries = len(a.keys) * len(b.keys)
    keys = a.keys[:, None, :, None] * m + b.keys[None, :, None, :]
    weights = a.weights[:, None, :, None] * b.weights[None, :, None, :]
    return Stencil(keys.reshape(queries, -1), weights.reshape(queries, -1)), n * m


def _between(axis: Floats, values: Floats) -> tuple[Ints, Floats]:
    """The place on an ascending axis below each value, and the part of the way to the next."""
    below = np.clip(np.searchsorted(axis, values, side="right") - 1, 0, len(axis) - 2)
    gap = axis[below + 1] - axis[below]
    return below, np.where(gap > 0, (values - axis[below]) / np.where(gap > 0, gap, 1.0), 0.0)


def _dimensions(query_grid: Grid, key_grid: Grid) -> int:
    """Dimensions of the space in which the points of both grids lie."""
    key, query = key_grid.positions.shape[-1], query_grid.positions.shape[-1]
    if key != query or isinstance(key_grid, SphericalGrid) != isinstance(query_grid, SphericalGrid):
        raise _apart(query_grid, key_grid)
    return int(key)


def _apart(query_grid: Grid, key_grid: Grid) -> ValueError:
    return ValueError(f"{query_grid!r} and {key_grid!r} do not lie in the same space")
