"""What instructions and bytes alone let a GPU's kernels reach: bounds, by arithmetic, for one GPU.

The machine is an H200. Its clock and its multiprocessors are NVIDIA's figures; what its second cache
delivers and what ``mma.sync`` reaches of its matrix units are from memory, and ``benchmarks/gpu.py`` measures
them first.
"""

from __future__ import annotations

import geoattn as ga
from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans import choice

MULTIPROCESSORS, CLOCK = 132, 1.755e9
#: of a multiprocessor, in a clock: operations of bfloat16 by wgmma, and the share of them by mma.sync
PRODUCTS, BY_MMA = 4096, 0.63
#: exponents, instructions, bytes of shared memory, bytes of the second cache
EXPONENTS, ISSUED, SHARED, CACHED = 16, choice.ISSUED, 128, choice.FROM_CACHE


def neighborhoods() -> dict[str, Neighborhood]:
    """What the models are asked about."""
    line, plane, box = (ga.grids.cartesian(n) for n in ((32768,), (256, 256), (30, 48, 80)))
    return {
        "sphere 181×360, all": ga.everything(ga.grids.equiangular(181, 360)),
        "sphere 361×720, 7°": ga.geodesic(ga.grids.equiangular(361, 720), radius=7.0),
        "sphere 721×1440, 3°": ga.geodesic(ga.grids.equiangular(721, 1440), radius=3.0),
        "HEALPix 64, 7°": ga.geodesic(ga.grids.healpix(64), radius=7.0),
        "plane 256², 13²": ga.window(plane, 13),
        "plane 256², 33²": ga.window(plane, 33),
        "plane 256², 80²": ga.window(plane, 80),
        "line 32k, 2k": ga.window(line, 2048),
        "box 30×48×80, 18×24×24": ga.window(box, (18, 24, 24)),
    }


def rate(flops: float, clocks: float) -> float:
    """TFLOP/s of work that takes so many clocks of one multiprocessor, on all of them."""
    return flops / (clocks / MULTIPROCESSORS / CLOCK) / 1e12


def heading(said: str, bounds: tuple[str, ...]) -> str:
    """The first lines of a model's table."""
    return (
        f"A model, not a measurement: useful TFLOP/s of an H200 ({MULTIPROCESSORS} multiprocessors at "
        f"{CLOCK / 1e9:g} GHz),\n{said}, by what bounds it.\nThe smallest bounds all; what is measured will "
        f"lie below it.\n{'':24} {'':9}{'D':>4} {'useful':>7}" + "".join(f"{name:>10}" for name in bounds)
    )


def line(title: str, what: str, dim: int, share: float, flops: float, clocks: dict[str, float]) -> str:
    """One row of a model's table: ``share`` of the work is useful, ``flops`` of it in all."""
    rates = "".join(f"{rate(flops, n):10.0f}" for n in clocks.values())
    return f"{title:24} {what:9}{dim:4} {share:7.0%}{rates}"
