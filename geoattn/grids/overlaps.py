"""Areas that the cells of two grids share."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
from scipy import sparse
from scipy.sparse import csr_array

from geoattn._threads import run_all
from geoattn.grids import healpix_outlines as healpix_outlines  # makes its cells known
from geoattn.grids.base import SphericalGrid
from geoattn.grids.bisection import bisection
from geoattn.grids.outlines import Axes, Outlines, cells_of, interleave, pieces
from geoattn.grids.sphere import Floats, Ints, lat_lon

#: pieces that a thread takes at once
_RUN = 8192


def shared_areas(source: SphericalGrid, target: SphericalGrid) -> csr_array:
    """Steradians that each cell of ``target`` shares with each of ``source``, ``[target.size, source.size]``.

    Exact to round-off: where both lie between parallels and meridians, by axes; elsewhere by cutting
    polygons, one by the other. Cells of HEALPix see :mod:`geoattn.grids.healpix_outlines`.

    Raises
    ------
    NoCells
        If a grid has none.
    """
    ours, theirs = cells_of(source), cells_of(target)
    if isinstance(ours, Axes) and isinstance(theirs, Axes):
        rows = _zones(theirs.lat_edges, ours.lat_edges)
        columns = _sectors(theirs.lon_edges, ours.lon_edges)
        return csr_array(sparse.kron(rows, columns, format="csr"))
    if isinstance(ours, Axes) and isinstance(theirs, Outlines):
        ours = pieces(ours, _near(ours, theirs))
    elif isinstance(theirs, Axes) and isinstance(ours, Outlines):
        theirs = pieces(theirs, _near(theirs, ours))
    return _matrix(pieces(ours), pieces(theirs), (target.size, source.size))


def outline_areas(grid: SphericalGrid) -> Floats:
    """Steradians within the outlines of cells, ``[size]``: their ``cell_areas``, unless these are given."""
    found = cells_of(grid)
    if isinstance(found, Axes):
        heights = _heights(found.lat_edges[:-1], found.lat_edges[1:])
        return np.outer(heights, np.abs(np.diff(np.radians(found.lon_edges)))).ravel()
    return np.bincount(found.cells, found.signs * _sizes(found), grid.size).astype(np.float64)


def _heights(a: Floats, b: Floats) -> Floats:
    """|sin a − sin b| of latitudes in degrees, as a product, which keeps its digits near the poles."""
    a, b = np.radians(a), np.radians(b)
    return np.asarray(2.0 * np.abs(np.sin(0.5 * (a - b)) * np.cos(0.5 * (a + b))))


def _zones(edges: Floats, others: Floats) -> csr_array:
    """Heights in z that each zone between ``edges`` shares with each between ``others``."""
    row, column, start, stop = _steps(edges, others)
    return csr_array((_heights(start, stop), (row, column)), shape=(len(edges) - 1, len(others) - 1))


def _sectors(edges: Floats, others: Floats) -> csr_array:
    """Radians of longitude that each sector shares with each of the others, once around."""
    shape = len(edges) - 1, len(others) - 1
    total = csr_array(shape)
    turns = np.floor((min(edges[0], edges[-1]) - max(others[0], others[-1])) / 360.0)
    for turn in range(int(turns), int(turns) + 5):
        row, column, start, stop = _steps(edges, others + 360.0 * turn)
        total = total + csr_array((np.radians(stop - start), (row, column)), shape=shape)
    return total


def _steps(edges: Floats, others: Floats) -> tuple[Ints, Ints, Floats, Floats]:
    """The intervals that two axes cut each other into: whose they are, and their ends."""
    ends = np.unique(np.concatenate((edges, others)))
    start, stop = ends[:-1], ends[1:]
    middle = 0.5 * (start + stop)
    places, kept = [], stop - start > 1e-12
    for axis in (edges, others):
        rising = axis[-1] > axis[0]
        ascending = axis if rising else axis[::-1]
        place = np.searchsorted(ascending, middle) - 1
        kept &= (place >= 0) & (place < len(axis) - 1)
        places.append(place if rising else len(axis) - 2 - place)
    row, column = (place[kept] for place in places)
    return row, column, start[kept], stop[kept]


def _sizes(outlines: Outlines) -> Floats:
    from geoattn.grids.clipping import areas

    return np.asarray(areas(outlines.first, outlines.arcs))


def _near(axes: Axes, others: Outlines) -> Ints:
    """Cells between axes that may share anything with others, ascending: those that their balls reach."""
    _, balls = _bounds(others)
    centre, reach = balls[:, :3], balls[:, 3]
    away = np.linalg.norm(centre, axis=1)
    # a point of the sphere within the ball lies so far from the direction to its centre, as a cosine
    cosine = (1.0 + away**2 - reach**2) / np.maximum(2.0 * away, 1e-300)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0)) + 1e-9
    lat, lon = lat_lon(centre / np.maximum(away, 1e-300)[:, None])
    south, north = lat - np.degrees(angle), lat + np.degrees(angle)
    ratio = np.sin(np.minimum(angle, 0.5 * np.pi)) / np.maximum(np.cos(np.radians(lat)), 1e-300)
    around = (north >= 90.0) | (south <= -90.0)
    half = np.where(around, 180.0, np.degrees(np.arcsin(np.minimum(ratio, 1.0))))
    shape = len(axes.lat_edges) - 1, len(axes.lon_edges) - 1
    marks = np.zeros((shape[0] + 1, shape[1] + 1), np.int64)  # what begins less what ends, along both
    rows = _places(axes.lat_edges, south, north)
    west = (lon - half - min(axes.lon_edges[0], axes.lon_edges[-1])) % 360.0
    west += min(axes.lon_edges[0], axes.lon_edges[-1])
    for turn in (0.0, -360.0):
        columns = _places(axes.lon_edges, west + turn, west + 2.0 * half + turn)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                np.add.at(marks, (row, column), 1 - 2 * (i ^ j))
    return np.flatnonzero(marks.cumsum(0).cumsum(1)[:-1, :-1])


def _places(edges: Floats, low: Floats, high: Floats) -> tuple[Ints, Ints]:
    """The first interval between ``edges`` that each ``low … high`` reaches, and that behind its last."""
    n = len(edges) - 1
    ascending = edges if edges[-1] > edges[0] else edges[::-1]
    first = (np.searchsorted(ascending, low - 1e-9, "right") - 1).clip(0, n)
    stop = np.searchsorted(ascending, high + 1e-9, "left").clip(0, n)
    stop = np.maximum(first, stop)
    return (first, stop) if edges[-1] > edges[0] else (n - stop, n - first)


def _matrix(ours: Outlines, theirs: Outlines, shape: tuple[int, int]) -> csr_array:
    """Areas that cells share, from those of their pieces."""
    mine, other, area = _overlaps(ours, theirs)
    area = area * ours.signs[mine] * theirs.signs[other]
    matrix = csr_array((area, (theirs.cells[other], ours.cells[mine])), shape=shape)
    matrix.sum_duplicates()
    if (ours.signs < 0).any() or (theirs.signs < 0).any():  # what was added and taken away again
        columns, rows = (
            np.bincount(p.cells, _sizes(p), n) for p, n in ((ours, shape[1]), (theirs, shape[0]))
        )
        smaller = np.minimum(np.repeat(rows, np.diff(matrix.indptr)), columns[matrix.indices])
        matrix.data[np.abs(matrix.data) < 1e-13 * smaller] = 0.0
        matrix.eliminate_zeros()
    return matrix


def _overlaps(ours: Outlines, theirs: Outlines) -> tuple[Ints, Ints, Floats]:
    """Pairs of pieces that overlap, and by how many steradians."""
    from geoattn.grids.clipping import LEAF, shared

    if not len(ours.cells) or not len(theirs.cells):
        none = np.empty(0, np.int64)
        return none, none, np.empty(0)
    (boxes, balls), sizes = _bounds(ours), _sizes(ours)
    around, _ = _bounds(theirs)
    order = bisection(0.5 * (around[:, :3] + around[:, 3:]), LEAF).astype(np.int64)
    tree, starts = _tree(around[order], LEAF)
    cut_first, cuts = theirs.half_spaces()
    first, arcs = ours.first, ours.arcs
    n = len(ours.cells)
    found: list[tuple[Ints, Ints, Floats]] = [None] * -(-n // _RUN)  # type: ignore[list-item]

    def work(number: int) -> None:
        low, high = number * _RUN, min((number + 1) * _RUN, n)
        found[number] = shared(
            low, high, first, arcs, boxes, balls, sizes, cut_first, cuts, order, tree, starts
        )

    run_all([partial(work, number) for number in range(len(found))], os.cpu_count() or 1)
    mine, other, area = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return mine, other, area


def intersections(ours: Outlines, theirs: Outlines) -> Outlines:
    """What pieces of the one set have in common with pieces of the other, of the cells of the first."""
    from geoattn.grids.clipping import common

    mine, other, _ = _overlaps(ours, theirs)
    (_, balls), (cut_first, cuts) = _bounds(ours), theirs.half_spaces()
    first, arcs = common(mine, other, ours.first, ours.arcs, balls, cut_first, cuts)
    guards = interleave(_runs(*ours.half_spaces(), mine), _runs(cut_first, cuts, other))
    signs = ours.signs[mine] * theirs.signs[other]
    return Outlines(first, arcs[:, :3], arcs[:, 3:], ours.cells[mine], signs, *guards)


def _runs(first: Ints, values: Floats, which: Ints) -> tuple[Ints, Floats]:
    """Runs ``values[first[p]:first[p + 1]]`` of some p, which may come several times."""
    counts = np.diff(first)[which]
    starts = np.append(0, np.cumsum(counts))
    return starts, values[np.repeat(first[which] - starts[:-1], counts) + np.arange(starts[-1])]


def _bounds(outlines: Outlines) -> tuple[Floats, Floats]:
    """Boxes ``[p, 6]`` and balls ``[p, 4]`` (centre, radius) that pieces lie within."""
    first, points = outlines.first, outlines.points
    after = np.arange(1, len(points) + 1)
    after[first[1:] - 1] = first[:-1]
    chord = np.linalg.norm(points[after] - points, axis=1)
    low, high = (extreme.reduceat(points, first[:-1]) for extreme in (np.minimum, np.maximum))
    # arcs rise over their chords by less than L² / 4ρ, and what is within r of a point of the sphere over its
    # plane by less than r²
    radius = np.sqrt(np.maximum(1.0 - outlines.circles[:, 3] ** 2, 1e-30))
    rise = np.maximum.reduceat(chord**2 / (4.0 * radius), first[:-1])
    across = np.linalg.norm(high - low, axis=1)
    pad = np.minimum(rise + across**2, 1.0) + 1e-12
    boxes = np.concatenate((low - pad[:, None], high + pad[:, None]), axis=1)
    centre = 0.5 * (low + high)
    away = np.linalg.norm(points - np.repeat(centre, np.diff(first), axis=0), axis=1)
    reach = np.maximum.reduceat(away, first[:-1]) + pad
    return boxes, np.concatenate((centre, reach[:, None]), axis=1)


def _tree(boxes: Floats, leaf: int) -> tuple[Floats, Ints]:
    """Boxes around each ``leaf`` boxes together, level after level, and where levels start."""
    levels = [boxes]
    while len(levels[-1]) > leaf:
        starts = np.arange(0, len(levels[-1]), leaf)
        low = np.minimum.reduceat(levels[-1][:, :3], starts)
        high = np.maximum.reduceat(levels[-1][:, 3:], starts)
        levels.append(np.concatenate((low, high), axis=1))
    sizes = [len(level) for level in levels]
    return np.concatenate(levels), np.append(0, np.cumsum(sizes))
