"""Spherical harmonic transforms for the shallow-water solver: ours beside those of packages.

    python benchmarks/transforms.py

One round trip, coefficients → field → coefficients, in float64 in one thread, of one scalar and of 32 at
once, on Gaussian grids free of aliasing (T42 on 64×128). pyshtools has one longitude less there; it and
ducc0 take the 32 one after the other. Packages that are not installed are named. Differences are of the
coefficients from those that went in, relative to the largest. Licences and pins decide what the solver may
stand on: torch-harmonics (BSD) pins torch to one minor release, pyshtools (BSD) and ducc0 (GPL) know neither
tensors nor gradients nor devices. Prints a table and writes ``benchmarks/results/transforms.json``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from about import about
from cpu import clock

import geoattn as ga
from geoattn._files import write_text
from geoattn.tasks.shallow_water.harmonics import Harmonics

RESULTS = Path(__file__).parent / "results" / "transforms.json"
#: truncation, latitudes and longitudes
SIZES = ((21, 32, 64), (42, 64, 128), (85, 128, 256), (170, 256, 512))
BATCH = 32
#: a round trip, from complex coefficients ``[batch, degree, order]`` to the same
Trip = Callable[[np.ndarray], np.ndarray]


def ours(truncation: int, nlat: int, nlon: int) -> Trip:
    transform = Harmonics(ga.grids.gaussian(nlat, nlon), truncation)
    return lambda c: transform.analyse(transform.synthesise(torch.from_numpy(c))).numpy()


def torch_harmonics(truncation: int, nlat: int, nlon: int) -> Trip:
    import torch_harmonics as th

    sizes: dict[str, Any] = {"lmax": truncation + 1, "mmax": truncation + 1, "grid": "legendre-gauss"}
    forward, inverse = (
        th.RealSHT(nlat, nlon, **sizes).double(),
        th.InverseRealSHT(nlat, nlon, **sizes).double(),
    )
    return lambda c: forward(inverse(torch.from_numpy(c))).numpy()


def pyshtools(truncation: int, nlat: int, nlon: int) -> Trip:
    from pyshtools import expand

    places, weights = expand.SHGLQ(nlat - 1)
    padded = np.zeros((2, nlat, nlat))

    def one(coefficients: np.ndarray) -> np.ndarray:
        size = truncation + 1
        padded[0, :size, :size], padded[1, :size, :size] = coefficients.real, -coefficients.imag
        padded[:, :, 1:] *= math.sqrt(2)  # real harmonics, each of norm one
        field = expand.MakeGridGLQ(padded, zero=places, norm=4)
        found = expand.SHExpandGLQ(field, weights, places, norm=4, lmax_calc=truncation)
        found[:, :, 1:] /= math.sqrt(2)
        result: np.ndarray = found[0] - 1j * found[1]
        return result

    return lambda c: np.stack([one(x) for x in c])


def ducc0(truncation: int, nlat: int, nlon: int) -> Trip:
    from ducc0.sht import experimental as sht

    degree, order = np.meshgrid(np.arange(truncation + 1), np.arange(truncation + 1), indexing="xy")
    kept = degree >= order  # order by order
    options: dict[str, Any] = {"spin": 0, "lmax": truncation, "nthreads": 1, "geometry": "GL"}

    def one(coefficients: np.ndarray) -> np.ndarray:
        packed = np.ascontiguousarray(coefficients.T[kept])[None]
        field = sht.synthesis_2d(alm=packed, ntheta=nlat, nphi=nlon, **options)
        result = np.zeros_like(coefficients)
        result.T[kept] = sht.analysis_2d(map=field, **options)[0]
        return result

    return lambda c: np.stack([one(x) for x in c])


WAYS = {"geoattn": ours, "torch-harmonics": torch_harmonics, "pyshtools": pyshtools, "ducc0": ducc0}


def coefficients(truncation: int) -> np.ndarray:
    """Random ones of real fields ``[batch, degree, order]``."""
    generator = np.random.default_rng(0)
    size = (BATCH, truncation + 1, truncation + 1)
    values = generator.standard_normal(size) + 1j * generator.standard_normal(size)
    values[:, :, 0] = values[:, :, 0].real
    return np.tril(values)


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for sizes in SIZES:
        given, trips = coefficients(sizes[0]), {}
        for name, make in WAYS.items():
            try:
                trips[name] = make(*sizes)
            except ImportError as error:
                print(f"without {name}: {error}")
        best = {name: [math.inf, math.inf] for name in trips}
        errors = {
            n: float(np.abs(trip(given) - given).max() / np.abs(given).max()) for n, trip in trips.items()
        }
        for _ in range(max(8, 200_000 // sizes[0] ** 2)):
            for name, trip in trips.items():
                for place, batch in enumerate((given[:1], given)):
                    best[name][place] = min(best[name][place], clock(partial(trip, batch)))
        print(f"T{sizes[0]} on {sizes[1]}×{sizes[2]}")
        for name, times in best.items():
            one, many = (1e3 * t for t in times)
            print(f"  {name:<16} one {one:8.3f} ms   {BATCH}: {many:9.3f} ms   differ {errors[name]:.0e}")
            row = {"truncation": sizes[0], "name": name, "one, ms": one, f"{BATCH}, ms": many}
            rows.append(row | {"differ": errors[name]})
    report = about("python benchmarks/transforms.py", *list(WAYS)[1:]) | {"dtype": "float64", "rows": rows}
    write_text(json.dumps(report, indent=1) + "\n", RESULTS)


if __name__ == "__main__":
    main()
