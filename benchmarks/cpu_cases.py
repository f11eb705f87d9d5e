"""The cases of ``benchmarks/cpu.py``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import geoattn as ga
from geoattn.neighborhoods import Neighborhood


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem: a neighborhood and the shape of the operands.

    ``window`` is the window of planar cases, ``sphere`` the (query shape, key shape, torch-harmonics
    grid name, radius in degrees) of lat-lon discs: what peers need to know.
    """

    name: str
    hood: Callable[[], Neighborhood]
    heads: int = 4
    dim: int = 32
    window: tuple[int, ...] | None = None
    sphere: tuple[tuple[int, int], tuple[int, int], str, float] | None = None


def plane(shape: tuple[int, ...], size: tuple[int, ...]) -> Case:
    name = f"{'×'.join(map(str, shape))} plane, {'×'.join(map(str, size))}"
    return Case(name, lambda: ga.window(ga.grids.cartesian(shape), size), window=size)


GRIDS: dict[str, Callable[..., Any]] = {
    "equiangular": ga.grids.equiangular,
    "legendre-gauss": ga.grids.gaussian,
}


def sphere(
    kind: str, queries: tuple[int, int], keys: tuple[int, int], radius: float, heads: int = 4, dim: int = 32
) -> Case:
    def hood() -> Neighborhood:
        return ga.geodesic(GRIDS[kind](*queries), GRIDS[kind](*keys), radius=radius)

    name = f"{queries[0]}×{queries[1]} {kind}"
    if queries != keys:
        name += f" from {keys[0]}×{keys[1]}"
    name += f", {radius:.3g}°, {heads} heads of {dim}"
    return Case(name, hood, heads, dim, sphere=(queries, keys, kind, radius))


def healpix(nside: int) -> Case:
    return Case(f"HEALPix {nside}, 7°", lambda: ga.geodesic(ga.grids.healpix(nside), radius=7.0))


#: radius of the disc whose area is that of 7×7 cells of a 64×128 grid, in degrees
AREA_7X7 = math.degrees(math.acos(1.0 - 2.0 * 49 / (64 * 128)))

CASES = [
    plane((64, 64), (7, 7)),
    plane((64, 64), (13, 13)),
    plane((256, 256), (7, 7)),
    plane((256, 256), (13, 13)),
    plane((32768,), (2048,)),
    plane((16, 32, 48), (5, 7, 7)),
    sphere("legendre-gauss", (64, 128), (64, 128), AREA_7X7, heads=1, dim=128),
    sphere("legendre-gauss", (64, 128), (64, 128), AREA_7X7),
    sphere("equiangular", (91, 180), (91, 180), 7.0),
    sphere("equiangular", (181, 360), (181, 360), 7.0),
    healpix(32),
    healpix(64),
    sphere("equiangular", (46, 90), (91, 180), 7.0),
    sphere("equiangular", (91, 180), (46, 90), 7.0),
    Case("64×128 Gauss, everything", lambda: ga.everything(ga.grids.gaussian(64, 128))),
]

QUICK = {CASES[0].name, CASES[5].name, CASES[7].name, CASES[8].name}
