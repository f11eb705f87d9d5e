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

    ``sphere`` is (nlat, nlon, radius in degrees) of equiangular discs: what torch-harmonics needs.
    """

    pattern: str
    hood: Callable[[], Neighborhood]
    dim: int
    sphere: tuple[int, int, float] | None = None

    @property
    def heads(self) -> int:
        return CHANNELS // self.dim

    @property
    def name(self) -> str:
        return f"{self.pattern}, {self.heads} heads of {self.dim}"


def _sphere(nlat: int, nlon: int, radius: float) -> tuple[str, Callable[[], Neighborhood], tuple]:
    def hood() -> Neighborhood:
        return ga.geodesic(ga.grids.equiangular(nlat, nlon), radius=radius)

    return f"sphere {nlat}×{nlon}, {radius:g}°", hood, (nlat, nlon, radius)


def _healpix(nside: int, radius: float) -> tuple[str, Callable[[], Neighborhood], None]:
    return (
        f"HEALPix {nside}, {radius:g}°",
        lambda: ga.geodesic(ga.grids.healpix(nside), radius=radius),
        None,
    )


def _plane(shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[str, Callable[[], Neighborhood], None]:
    name = f"{'×'.join(map(str, shape))} plane, {'×'.join(map(str, size))}"
    return name, lambda: ga.window(ga.grids.cartesian(shape), size), None


PATTERNS = [
    _sphere(361, 720, 7.0),
    _plane((256, 256), (13, 13)),
    ("sphere 91×180, everything", lambda: ga.everything(ga.grids.equiangular(91, 180)), None),
    _sphere(181, 360, 7.0),
    _sphere(721, 1440, 3.0),
    _healpix(64, 7.0),
    _plane((256, 256), (33, 33)),
    _plane((32768,), (2048,)),
    _plane((30, 48, 80), (18, 24, 24)),
    _sphere(361, 720, 3.0),
    _sphere(181, 360, 3.0),
    _healpix(256, 3.0),
    _healpix(64, 3.0),
    _healpix(256, 7.0),
    _sphere(721, 1440, 7.0),
]

CASES = [Case(name, hood, dim, sphere) for dim in (64, 128, 32) for name, hood, sphere in PATTERNS]

#: patterns of ``--quick``, at head dim 64
QUICK = {PATTERNS[i][0] for i in (1, 2, 3, 5)}
