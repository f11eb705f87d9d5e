"""Weights that carry fields from one grid to another, method by method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from geoattn.grids import RegionError, SphericalGrid
from geoattn.grids.interpolation import interpolation
from geoattn.grids.outlines import NoCells
from geoattn.grids.overlaps import outline_areas, shared_areas
from geoattn.grids.sphere import Floats

#: rows that are covered to this share are covered, and what is left is round-off
COVERED = 1e-9
NORMALISATIONS = ("fracarea", "destarea")


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """A sparse matrix from fields of ``source.size`` to fields of ``target.size`` points.

    Rows of ``matrix`` sum to 1; with ``normalisation="destarea"`` to the share of the target cell that the
    source covers, which ``covered [target.size]`` is in any case (SCRIP's ``dst_grid_frac``), as
    ``used [source.size]`` is of source cells (``src_grid_frac``).
    """

    matrix: csr_array
    covered: Floats
    used: Floats
    normalisation: str = "fracarea"


def weights_of(
    method: str, source: SphericalGrid, target: SphericalGrid, normalisation: str = "fracarea"
) -> Weights:
    """The weights of a method of :class:`geoattn.xarray.Regridder`."""
    if method == "conservative":
        return conservative(source, target, normalisation)
    return Weights(_MATRICES[method](source, target), np.ones(target.size), np.ones(source.size))


def conservative(source: SphericalGrid, target: SphericalGrid, normalisation: str) -> Weights:
    """First-order conservative weights (Jones 1999, doi:10.1175/1520-0493(1999)127<2204:FASOCR>2.0.CO;2).

    Areas are those of ``cell_areas``: what a source cell shares with the target's is scaled to its own
    area, so that Σ a_target out = Σ a_source field. Where the target's ``cell_areas`` are given and not those
    within its outlines, rows are means all the same; the measure that is kept is ``covered · cell_areas``.
    """
    shared = shared_areas(source, target)
    if not shared.nnz:
        raise RegionError(
            f"no cell of the {target!r} overlaps the {source!r}: take a target within it, such as "
            "ga.grids.regional(target.lat_axis[rows], target.lon_axis[columns])"
        )
    ours, theirs = np.asarray(source.cell_areas).ravel(), np.asarray(target.cell_areas).ravel()
    within = shared.sum(axis=0)
    outline = outline_areas(source)
    # of cells that are covered wholly the sum itself, which differs from the outline by round-off
    reach = np.where(np.abs(within - outline) <= 1e-6 * outline, within, outline)
    scale = ours / np.where(reach > 0, reach, 1.0)
    matrix = csr_array(shared.multiply(scale[None, :])).tocsr()
    matrix = csr_array(matrix.multiply(1.0 / np.where(theirs > 0, theirs, 1.0)[:, None])).tocsr()
    covered = matrix.sum(axis=1)
    if normalisation == "fracarea":
        partly = (np.abs(covered - 1.0) > COVERED) & (covered > 0)
        matrix = csr_array(
            matrix.multiply(np.where(partly, 1.0 / np.where(partly, covered, 1.0), 1.0)[:, None])
        )
    repeats = getattr(target, "repeats", None)
    if repeats is not None:  # points that are there once more have no cells, and the same values
        again, places = np.asarray(repeats).ravel(), target.xyz.reshape(-1, 3)
        stands = np.arange(target.size)
        stands[again] = np.flatnonzero(~again)[cKDTree(places[~again]).query(places[again])[1]]
        matrix, covered = csr_array(matrix[stands]), covered[stands]
    matrix.sort_indices()
    return Weights(matrix, covered, within * scale / np.where(ours > 0, ours, 1.0), normalisation)


def _nearest(source: SphericalGrid, target: SphericalGrid) -> csr_array:
    """Weight 1 for the nearest source point; of several as near, the first."""
    counted = source.counted
    tree = cKDTree(source.xyz.reshape(-1, 3)[counted])
    distance, near = tree.query(target.xyz.reshape(-1, 3), k=np.arange(1, min(8, len(counted)) + 1))
    tied = distance <= distance[:, :1] * (1.0 + 1e-9) + 1e-12
    chosen = np.where(tied, counted[near], source.size).min(axis=1)
    ends = np.arange(target.size + 1)
    return csr_array((np.ones(target.size), chosen, ends), shape=(target.size, source.size))


def _interpolating(source: SphericalGrid, target: SphericalGrid) -> csr_array:
    return interpolation(target, source).matrix(source.size)


def _averaging(source: SphericalGrid, target: SphericalGrid, otherwise: Any = _interpolating) -> csr_array:
    """Rows of area means over the source points nearest to each target point, or of ``otherwise``."""
    # target points at one place, such as a pole in each column, take the same mean
    places, place_of = np.unique(target.xyz.reshape(-1, 3).round(12) + 0.0, axis=0, return_inverse=True)
    count = min(8, len(places))
    distance, near = cKDTree(places).query(source.xyz.reshape(-1, 3), k=np.arange(1, count + 1))
    tied = distance <= distance[:, :1] * (1.0 + 1e-9) + 1e-12
    points, choices = np.nonzero(tied)
    shares = (source.weights.ravel() / tied.sum(axis=1))[points]
    sums = csr_array((shares, (near[points, choices], points)), shape=(len(places), source.size))
    areas = sums.sum(axis=1)
    means = csr_array(sums.multiply(1.0 / np.where(areas > 0, areas, 1.0)[:, None]))[place_of]
    return _filled(means, source, target, otherwise)


def _filled(means: csr_array, source: SphericalGrid, target: SphericalGrid, otherwise: Any) -> csr_array:
    """Rows of ``otherwise`` where there are none."""
    empty = np.diff(csr_array(means).indptr) == 0
    if not empty.any():
        return means
    matrix = csr_array(means + otherwise(source, target).multiply(empty[:, None]))
    matrix.eliminate_zeros()
    return matrix


def _majority(source: SphericalGrid, target: SphericalGrid) -> csr_array:
    """Shares of each target cell by overlap; of grids without cells by the nearest target point."""
    try:
        shared = shared_areas(source, target)
    except NoCells:
        return _averaging(source, target, _nearest)
    total = shared.sum(axis=1)
    shares = csr_array(shared.multiply(1.0 / np.where(total > 0, total, 1.0)[:, None]))
    return _filled(shares.tocsr(), source, target, _nearest)


_MATRICES: dict[str, Callable[[SphericalGrid, SphericalGrid], csr_array]] = {
    "interpolation": _interpolating,
    "average": _averaging,
    "nearest": _nearest,
    "majority": _majority,
}
"""How a matrix is made of a source and a target, by method."""
