"""A sparse matrix times many fields, compiled; each field is one row, as files have them."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_array

from geoattn._threads import run_all

#: products below which threads cost more than they save
_FEW = 500_000


def apply(matrix: csr_array, fields: NDArray[np.floating]) -> NDArray[np.floating]:
    """``fields [n, columns] @ matrix.T`` in the type of the fields, float32 or float64; sums in float64."""
    fields = np.ascontiguousarray(fields)
    out = np.empty((len(fields), matrix.shape[0]), fields.dtype)
    starts, columns = matrix.indptr, matrix.indices
    n = len(out)
    threads = min(os.cpu_count() or 1, 1 + n * matrix.nnz // _FEW)
    step = max(1, -(-n // (4 * threads)))
    run_all(
        [
            partial(_rows, starts, columns, matrix.data, fields, out, low, min(low + step, n))
            for low in range(0, n, step)
        ],
        threads,
    )
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _rows(starts, columns, values, fields, out, low, high):  # type: ignore[no-untyped-def]
    """Four fields at a time, so that each weight and its column are read once for four."""
    last = low + (high - low) // 4 * 4
    for f in range(low, last, 4):
        a, b, c, d = fields[f], fields[f + 1], fields[f + 2], fields[f + 3]
        for row in range(len(starts) - 1):
            sum_a = sum_b = sum_c = sum_d = 0.0
            for p in range(starts[row], starts[row + 1]):
                column, value = columns[p], values[p]
                sum_a += value * a[column]
                sum_b += value * b[column]
                sum_c += value * c[column]
                sum_d += value * d[column]
            out[f, row], out[f + 1, row], out[f + 2, row], out[f + 3, row] = sum_a, sum_b, sum_c, sum_d
    for f in range(last, high):
        for row in range(len(starts) - 1):
            total = 0.0
            for p in range(starts[row], starts[row + 1]):
                total += values[p] * fields[f, columns[p]]
            out[f, row] = total
