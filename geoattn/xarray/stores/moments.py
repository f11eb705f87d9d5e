"""Moments of fields, weighted by area, compiled. Imported on use: numba is slow to load."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@njit(cache=True, nogil=True)
def of_fields(
    values: NDArray[Any], earlier: NDArray[Any], mask: NDArray[np.bool_], weights: Floats
) -> Floats:
    """Moments ``[n, 8, C]`` of each field ``values [n, C, N]``, less ``earlier`` unless it is empty.

    The eight are the sum of weights, the mean less the pivot, the weighted sum of squared deviations from the
    mean, the minimum, the maximum, the deviation root-mean-square, the pivot, and the count of values, all
    where ``mask`` is True. The pivot is the first value, so that a large mean costs no digits; the mean is
    taken first, and deviations from that, so that no sum of large squares ever cancels.
    """
    rows = np.zeros((values.shape[0], 8, values.shape[1]))
    rows[:, 3], rows[:, 4] = np.inf, -np.inf
    difference = earlier.size > 0
    masked = mask.size > 0
    for n in range(values.shape[0]):
        for c in range(values.shape[1]):
            own = 0
            weight = total = squares = pivot = 0.0
            low, high = np.inf, -np.inf
            for i in range(values.shape[2]):
                if masked and not mask[n, c, i]:
                    continue
                x = np.float64(values[n, c, i])
                if difference:
                    x -= np.float64(earlier[n, c, i])
                if own == 0:
                    pivot = x
                own += 1
                weight += weights[i]
                total += weights[i] * (x - pivot)
                low = min(low, x)
                high = max(high, x)
            if own == 0:
                continue
            mean = total / weight
            for i in range(values.shape[2]):
                if masked and not mask[n, c, i]:
                    continue
                x = np.float64(values[n, c, i])
                if difference:
                    x -= np.float64(earlier[n, c, i])
                squares += weights[i] * ((x - pivot) - mean) ** 2
            spread = np.sqrt(squares / weight)
            row = rows[n, :, c]
            row[0], row[1], row[2], row[3] = weight, mean, squares, low
            row[4], row[5], row[6], row[7] = high, spread, pivot, own
    return rows


@njit(cache=True, nogil=True)
def fold(total: Floats, rows: Floats) -> None:
    """Add moments ``rows [n, 8, C]`` to ``total [8, C]``, one after the other.

    By the update of Chan, Golub and LeVeque (1983), The American Statistician 37, 242–247, equation 2.1.
    """
    for n in range(rows.shape[0]):
        for c in range(rows.shape[2]):
            row, sums = rows[n, :, c], total[:, c]
            if row[7] == 0:
                continue
            if sums[7] == 0:
                sums[:] = row
                continue
            before = sums[0]
            sums[0] += row[0]
            away = (row[1] - sums[1]) + (row[6] - sums[6])
            sums[1] += away * (row[0] / sums[0])
            sums[2] += row[2] + away * away * (before * row[0] / sums[0])
            sums[3] = min(sums[3], row[3])
            sums[4] = max(sums[4], row[4])
            sums[5] = max(sums[5], row[5])
            sums[7] += row[7]
