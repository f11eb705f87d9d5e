"""Generalized Neighborhood Attention (Hassani et al., 2504.16922): what a stride gains.

Queries of a stride share one window, so that more of the tiles that a kernel visits are full. Shapes are
those of the paper and of NATTEN's profiler: a line of 32,768, images of 256×256 latents (FLUX, 4K) and video
of 30×48×80 (HunyuanVideo). They are predicted at full size; measured are a quarter of the line, and halves
of the others along each axis.
"""

from __future__ import annotations

from functools import partial

from systems_fna import times
from systems_measure import Options, Results, Row, dense, gains, in_turn, operands, ours, predicted

import geoattn as ga

#: name → shape, window, strides
Shape = tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, ...], ...]]
PUBLISHED: dict[str, Shape] = {
    "line": ((32768,), (2048,), ((1,), (256,), (2048,))),
    "image (FLUX, 4K)": ((256, 256), (80, 80), ((1, 1), (8, 8), (16, 16), (80, 80))),
    "video (HunyuanVideo)": ((30, 48, 80), (18, 24, 24), ((1, 1, 1), (4, 4, 4), (16, 8, 8))),
}
MEASURED: dict[str, Shape] = {
    "line, a quarter": ((8192,), (512,), ((1,), (64,), (512,))),
    "image, halved": ((128, 128), (40, 40), ((1, 1), (4, 4), (8, 8), (40, 40))),
    "video, halved": ((15, 24, 40), (9, 12, 12), ((1, 1, 1), (2, 2, 2), (8, 4, 4))),
}
SMALL: dict[str, Shape] = {"image": ((16, 16), (8, 8), ((1, 1), (4, 4)))}
#: one head: a gain does not depend on how many there are
HEADS_HERE = 1


def measure(results: Results, options: Options) -> None:
    small = options.small
    for shapes, timed in ((SMALL if small else PUBLISHED, False), (SMALL if small else MEASURED, True)):
        for name, (shape, window, strides) in shapes.items():
            for stride in strides:
                label = f"{name}: {times(shape)}, {times(window)}, stride {times(stride)}"
                one = partial(measured, shape, window, stride, options, timed)
                results.row("gna", f"{label}, {'measured' if timed else 'predicted'}", one, timed=timed)


def measured(
    shape: tuple[int, ...], window: tuple[int, ...], stride: tuple[int, ...], options: Options, timed: bool
) -> Row:
    hood = ga.window(ga.grids.cartesian(shape), window, stride=stride)
    row: Row = {"shape": shape, "window": window, "stride": stride, "predicted": predicted(hood)}
    if timed:
        calls = {"ours": ours(hood), "dense": dense(hood)}
        found = in_turn(calls, operands(hood, HEADS_HERE), options.rounds, expected={"dense": calls["dense"]})
        row |= {"seconds": found, "gain": gains(found, "dense", "ours")}
    return row
