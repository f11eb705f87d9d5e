"""The cases of ``benchmarks/gpu.py``, in the order in which they are run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import geoattn as ga
from geoattn.neighborhoods import Neighborhood

#: channels of all heads together
CHANNELS = 256


@dataclasses.dataclass(frozen=True)
class Case:
    """One neighborhood at one head dim.

    ``sphere`` is (nlat, nlon, radius in degrees) of equiangular discs, what torch-harmonics needs; ``window``
    the sizes of one on a plane, what NATTEN does.
    """

    pattern: str
    hood: Callable[[], Neighborhood]
    dim: int
    sphere: tuple[int, int, float] | None = None
    window: tuple[int, ...] | None = None

    @property
    def heads(self) -> int:
        return CHANNELS // self.dim

    @property
    def name(self) -> str:
        return f"{self.pattern}, {self.heads} heads of {self.dim}"


def _sphere(nlat: int, nlon: int, radius: float) -> Case:
    return Case(
        f"sphere {nlat}×{nlon}, {radius:g}°",
        lambda: ga.geodesic(ga.grids.equiangular(nlat, nlon), radius=radius),
        64,
        sphere=(nlat, nlon, radius),
    )


def _healpix(nside: int, radius: float) -> Case:
    return Case(
        f"HEALPix {nside}, {radius:g}°", lambda: ga.geodesic(ga.grids.healpix(nside), radius=radius), 64
    )


def _plane(shape: tuple[int, ...], size: tuple[int, ...]) -> Case:
    name = f"{'×'.join(map(str, shape))} plane, {'×'.join(map(str, size))}"
    return Case(name, lambda: ga.window(ga.grids.cartesian(shape), size), 64, window=size)


#: what matters most first
PATTERNS = [
    _sphere(361, 720, 7.0),
    _plane((256, 256), (13, 13)),
    Case("sphere 181×360, everything", lambda: ga.everything(ga.grids.equiangular(181, 360)), 64),
    _plane((256, 256), (80, 80)),
    _plane((32768,), (2048,)),
    _plane((30, 48, 80), (18, 24, 24)),
    _healpix(64, 7.0),
    _sphere(721, 1440, 3.0),
    _plane((256, 256), (33, 33)),
    _healpix(256, 3.0),
    _sphere(361, 720, 3.0),
    _healpix(64, 3.0),
    _healpix(256, 7.0),
    _sphere(721, 1440, 7.0),
]

CASES = [dataclasses.replace(case, dim=dim) for case in PATTERNS for dim in (64, 128)]

#: patterns of ``--quick``, at head dim 64
QUICK = {PATTERNS[i].pattern for i in (1, 2, 6, 8)}
