"""Moments of fields, weighted by area, compiled. Imported on use: numba is slow to load."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@njit(cache=True, nogil=True)
def accumulate(
    moments: Floats,
    pivot: Floats,
    count: NDArray[np.int64],
    values: NDArray[Any],
    earlier: NDArray[Any],
    mask: NDArray[np.bool_],
    weights: Floats,
) -> None:
    """Add fields ``values [n, C, N]``, less ``earlier`` unless it is empty, where ``mask`` is True.

    ``moments [6, C]`` are the sum of weights, the mean less ``pivot [C]``, the weighted sum of squared
    deviations from the mean, the minimum, the maximum, and the largest deviation of a field from its own
    mean, root-mean-square. The pivot is the first value of a channel, so
    that a large mean costs no digits. A field's own mean is taken first, and its deviations from that;
    fields are merged by the update of Chan, Golub and LeVeque (1983), The American Statistician 37,
    242–247, equation 2.1: no sum of large squares ever cancels.
    """
    difference = earlier.size > 0
    masked = mask.size > 0
    for n in range(values.shape[0]):
        for c in range(values.shape[1]):
            own = 0
            weight = total = squares = 0.0
            low, high = np.inf, -np.inf
            for i in range(values.shape[2]):
                if masked and not mask[n, c, i]:
                    continue
                x = np.float64(values[n, c, i])
                if difference:
                    x -= np.float64(earlier[n, c, i])
                if own == 0 and count[c] == 0:
                    pivot[c] = x
                own += 1
                weight += weights[i]
                total += weights[i] * (x - pivot[c])
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
                squares += weights[i] * ((x - pivot[c]) - mean) ** 2
            before = moments[0, c]
            away = mean - moments[1, c]
            moments[0, c] += weight
            moments[1, c] += away * (weight / moments[0, c])
            moments[2, c] += squares + away * away * (before * weight / moments[0, c])
            moments[3, c] = min(moments[3, c], low)
            moments[4, c] = max(moments[4, c], high)
            moments[5, c] = max(moments[5, c], np.sqrt(squares / weight))
            count[c] += own
