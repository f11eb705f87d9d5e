"""NATTEN's own list of problems through ``geoattn.compat.natten``, forward and backward, in three dtypes.

    python benchmarks/natten_problems.py [--only N]

The problems are those of NATTEN 0.21's tests against its reference kernel (``test_1d_``, ``test_2d_`` and
``test_3d_against_reference`` of ``tests/test_fna.py``) with all combinations of causal axes. Output, lse and
the gradients of query, key and value are held against attention in float64 over masks made here from the
definition of windows alone, on the same rounded inputs. Where there are more than 8192 tokens of all heads
and batches, 256 random tokens bear the loss and are compared. Prints each problem's largest difference,
relative to the largest value, and writes ``benchmarks/results/natten_problems.json``; ends with an error if
one exceeds its bound.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from about import about
from torch import Tensor

from geoattn._files import write_text
from geoattn.compat.natten import na1d, na2d, na3d

RESULTS = Path(__file__).parent / "results" / "natten_problems.json"
#: batch, heads, key heads, channels, shape, kernel, stride, dilation
PROBLEMS: list[tuple[Any, ...]] = [
    (4, 3, 3, 128, (256,), (255,), (82,), (1,)),
    (4, 3, 1, 128, (256,), (255,), (82,), (1,)),
    (2, 4, 4, 128, (128,), (63,), (31,), (1,)),
    (2, 4, 2, 128, (128,), (63,), (31,), (1,)),
    (2, 4, 1, 128, (128,), (63,), (31,), (1,)),
    (1, 1, 1, 128, (2048,), (2048,), (1,), (1,)),
    *((1, 1, 1, 128, (32768,), (2048,), (stride,), (1,)) for stride in (2048, 256, 128, 1)),
    (1, 1, 1, 32, (128,), (3,), (1,), (1,)),
    (1, 1, 1, 32, (128,), (3,), (2,), (5,)),
    (1, 2, 2, 64, (128,), (15,), (1,), (1,)),
    (1, 1, 1, 32, (128,), (3,), (2,), (10,)),
    (1, 1, 1, 64, (128,), (8,), (7,), (5,)),
    (1, 1, 1, 128, (128,), (61,), (33,), (1,)),
    (1, 1, 1, 32, (125,), (3,), (1,), (1,)),
    (1, 2, 2, 64, (125,), (15,), (1,), (1,)),
    (1, 1, 1, 128, (256,), (3,), (2,), (10,)),
    *((1, 4, kv, 32, (5, 25), (5, 16), (1, 16), (1, 1)) for kv in (4, 2, 1)),
    (1, 1, 1, 32, (84, 19), (7, 3), (1, 1), (5, 1)),
    (1, 1, 1, 128, (19, 29), (8, 8), (1, 1), (2, 3)),
    (1, 1, 1, 128, (48, 17), (24, 16), (1, 1), (2, 1)),
    (1, 1, 1, 128, (67, 80), (12, 7), (8, 4), (5, 11)),
    (1, 1, 1, 128, (8, 8), (8, 8), (1, 1), (1, 1)),
    (1, 1, 1, 128, (33, 33), (24, 16), (1, 1), (1, 1)),
    (1, 1, 1, 32, (16, 16), (16, 16), (1, 1), (1, 1)),
    (1, 1, 1, 128, (44, 80), (44, 80), (1, 1), (1, 1)),
    (1, 1, 1, 32, (40, 20), (3, 7), (1, 1), (1, 1)),
    (1, 1, 1, 32, (16, 16), (3, 3), (1, 1), (1, 1)),
    (1, 1, 1, 128, (44, 80), (9, 10), (1, 1), (1, 1)),
    (1, 1, 1, 64, (28, 40), (17, 31), (1, 1), (1, 1)),
    (1, 1, 1, 64, (36, 40), (36, 40), (12, 13), (1, 1)),
    (1, 1, 1, 128, (44, 80), (44, 80), (4, 8), (1, 1)),
    (4, 8, 8, 64, (32, 10, 10), (7, 3, 3), (5, 1, 1), (1, 2, 3)),
    (1, 4, 4, 32, (8, 8, 16), (3, 3, 3), (2, 1, 2), (2, 2, 4)),
    (1, 4, 1, 32, (8, 8, 16), (3, 3, 3), (2, 1, 2), (2, 2, 4)),
    (1, 1, 1, 64, (18, 37, 12), (14, 16, 12), (12, 8, 1), (1, 2, 1)),
    (1, 1, 1, 32, (13, 11, 9), (3, 4, 3), (2, 3, 3), (3, 2, 2)),
    (1, 1, 1, 32, (16, 16, 16), (16, 16, 16), (1, 1, 1), (1, 1, 1)),
    (1, 1, 1, 32, (8, 4, 8), (7, 3, 7), (1, 1, 1), (1, 1, 1)),
    (1, 1, 1, 32, (16, 16, 16), (16, 16, 16), (2, 4, 5), (1, 1, 1)),
]
#: largest difference, relative to the largest value: some units of rounding of each dtype
BOUNDS = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def axis_mask(length: int, kernel: int, stride: int, dilation: int, causal: bool) -> np.ndarray:
    """Which keys each position of an axis sees, ``[length, length]``, by the definition."""
    mask = np.zeros((length, length), bool)
    for i in range(length):
        chain, place = i % dilation, i // dilation
        count = -(-(length - chain) // dilation)
        first = place // stride * stride
        if causal:
            low, high = max(min(first + stride - 1, count - 1) - kernel + 1, 0), place
        else:
            low = min(max(min(first + stride // 2, count - 1) - kernel // 2, 0), count - kernel)
            high = low + kernel - 1
        mask[i, low * dilation + chain : high * dilation + chain + 1 : dilation] = True
    return mask


def oracle(
    q: Tensor, k: Tensor, v: Tensor, masks: list[np.ndarray], queries: Tensor, grad: Tensor
) -> list[Tensor]:
    """Output and lse of some queries, and the gradients of q, k, v, in float64; heads one by one."""
    shape = tuple(len(m) for m in masks)
    q, k, v = (x.double().flatten(1, -3) for x in (q, k, v))
    group = q.shape[2] // k.shape[2]
    outs, lses = [], []
    grads = [torch.zeros_like(x) for x in (q, k, v)]
    at = np.unravel_index(queries.numpy(), shape)
    for b, h in itertools.product(range(q.shape[0]), range(q.shape[2])):
        qs = q[b, queries, h].requires_grad_()
        ks, vs = (x[b, :, h // group].detach().requires_grad_() for x in (k, v))
        pieces = []
        for part in torch.arange(len(queries)).split(512):
            seen = np.ones((len(part), *shape), bool)
            for axis, mask in enumerate(masks):
                rows = mask[at[axis][part.numpy()]]
                seen &= rows.reshape(len(part), *(n if a == axis else 1 for a, n in enumerate(shape)))
            scores = qs[part] @ ks.T * q.shape[-1] ** -0.5
            scores = scores.masked_fill(~torch.from_numpy(seen.reshape(len(part), -1)), -torch.inf)
            out = scores.softmax(-1) @ vs
            out.backward(grad.double().flatten(1, -3)[b, queries[part], h])
            pieces.append((out.detach(), scores.detach().logsumexp(-1)))
        outs.append(torch.cat([p[0] for p in pieces]))
        lses.append(torch.cat([p[1] for p in pieces]))
        grads[0][b, queries, h] += qs.grad
        grads[1][b, :, h // group] += ks.grad
        grads[2][b, :, h // group] += vs.grad
    heads = (q.shape[0], q.shape[2])
    out = torch.stack(outs).unflatten(0, heads).transpose(1, 2)
    return [out, torch.stack(lses).unflatten(0, heads).transpose(1, 2), *grads]


def run(problem: tuple[Any, ...], causal: tuple[bool, ...], dim_v: int) -> dict[str, dict[str, float]]:
    batch, heads, kv_heads, dim, shape, kernel, stride, dilation = problem
    size = int(np.prod(shape))
    torch.manual_seed(0)
    full = [torch.randn(batch, *shape, h, d) for h, d in ((heads, dim), (kv_heads, dim), (kv_heads, dim_v))]
    queries = torch.arange(size) if batch * heads * size <= 8192 else torch.randperm(size)[:256].sort().values
    grad = torch.zeros(batch, size, heads, dim_v)
    grad[:, queries] = torch.randn(batch, len(queries), heads, dim_v)
    grad = grad.view(batch, *shape, heads, dim_v)
    masks = [axis_mask(*each) for each in zip(shape, kernel, stride, dilation, causal, strict=True)]
    found = {}
    for dtype in BOUNDS:
        q, k, v = (x.to(dtype, copy=True).requires_grad_() for x in full)
        out, lse = (na1d, na2d, na3d)[len(shape) - 1](
            q, k, v, kernel, stride, dilation, causal, return_lse=True
        )
        out.backward(grad.to(dtype))
        mine = [
            out.detach().flatten(1, -3)[:, queries],
            lse.detach().flatten(1, -2)[:, queries],
            *(x.grad.flatten(1, -3) for x in (q, k, v)),
        ]
        expected = oracle(*(x.detach() for x in (q, k, v)), masks, queries, grad.to(dtype))
        names = ("out", "lse", "q", "k", "v")
        found[str(dtype).removeprefix("torch.")] = {
            name: float((a.double() - b).abs().max() / b.abs().max())
            for name, a, b in zip(names, mine, expected, strict=True)
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, help="one problem by its number, from 0; writes nothing")
    options = parser.parse_args()
    rows, failed = [], 0
    for number, problem in enumerate(PROBLEMS):
        if options.only not in (None, number):
            continue
        worst = {str(dtype).removeprefix("torch."): 0.0 for dtype in BOUNDS}
        for causal in itertools.product((False, True), repeat=len(problem[4])):
            dim_v = problem[3] if not any(causal) else 40  # other widths of values too
            found = run(problem, causal, dim_v)
            rows.append({"problem": problem, "causal": causal, "dim_v": dim_v, "differences": found})
            for dtype, bound in BOUNDS.items():
                name = str(dtype).removeprefix("torch.")
                largest = max(found[name].values())
                worst[name] = max(worst[name], largest)
                failed += not largest <= bound
        print(number, *problem, " ".join(f"{name} {x:.0e}" for name, x in worst.items()), flush=True)
    print(f"{len(rows)} problems in {len(BOUNDS)} dtypes, {failed} beyond the bounds")
    if options.only is None:
        report = about("python benchmarks/natten_problems.py") | {
            "bounds": {str(dtype).removeprefix("torch."): bound for dtype, bound in BOUNDS.items()},
            "beyond": failed,
            "rows": rows,
        }
        write_text(json.dumps(report) + "\n", RESULTS)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
