"""torch-harmonics' own models before and after ``convert``: differences and times, on a CPU.

    python benchmarks/harmonics_models.py [--quick]

Every model is at its own defaults but for what its row names. Differences are of outputs, relative to the
largest output, and of all gradients (of parameters and input), relative to the largest of them. Models are in
evaluation, at batch 1; times are the best of three calls after a first one. Sizes that a model's constructor
refuses are listed with its reason: SphericalTransformer divides longitudes by its scale factor of 3, and the
(128, 256) of its own defaults is among them. Prints a table and, unless quick, writes
``benchmarks/results/harmonics_models.json``.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from about import about
from torch import Tensor, nn
from torch_harmonics.examples.models import SphericalSegformer, SphericalTransformer

from geoattn._files import write_text
from geoattn.compat.torch_harmonics import convert

RESULTS = Path(__file__).parent / "results" / "harmonics_models.json"
#: model → sizes with every setting, and sizes with its own defaults only
SIZES = {
    SphericalTransformer: ([(48, 96), (64, 129)], [(128, 256), (91, 180)]),
    SphericalSegformer: ([(33, 64), (48, 96)], [(64, 128), (128, 256)]),
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"attention_mode": "global"},
    {"grid": "legendre-gauss"},
    {"grid": "equiangular-trapezoidal", "grid_internal": "lobatto"},
]


def call(model: nn.Module, fields: Tensor) -> tuple[Tensor, list[Tensor], float, float]:
    """Output, gradients, and seconds forward and backward."""
    x = fields.clone().requires_grad_()
    model.zero_grad()
    start = time.perf_counter()
    out = model(x)
    middle = time.perf_counter()
    out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).cos())
    end = time.perf_counter()
    gradients = [p.grad for p in (*model.parameters(), x) if p.grad is not None]
    return out.detach(), [g.clone() for g in gradients], middle - start, end - middle


def measured(model: nn.Module, fields: Tensor) -> tuple[Tensor, list[Tensor], float, float]:
    call(model, fields)
    runs = [call(model, fields) for _ in range(3)]
    return runs[0][0], runs[0][1], min(r[2] for r in runs), min(r[3] for r in runs)


def row(kind: type[nn.Module], size: tuple[int, int], settings: dict[str, Any]) -> dict[str, Any]:
    named = {"model": kind.__name__, "size": list(size), "settings": settings}
    torch.manual_seed(0)
    try:
        model = kind(img_size=size, **settings).eval()
    except (ValueError, IndexError) as reason:
        return named | {"does not build": str(reason)}
    fields = torch.randn(1, 3, *size)
    out, gradients, *theirs = measured(model, fields)
    done = convert(model)
    found, found_gradients, *ours = measured(model, fields)
    largest = max(g.abs().max() for g in gradients)
    apart = max((a - b).abs().max() for a, b in zip(found_gradients, gradients, strict=True))
    return named | {
        "converted": len(done.converted),
        "left": done.left,
        "outputs differ": float((found - out).abs().max() / out.abs().max()),
        "gradients differ": float(apart / largest),
        "theirs, s": theirs,
        "ours, s": ours,
    }


def line(r: dict[str, Any]) -> str:
    named = f"{r['model']:20} {'×'.join(map(str, r['size'])):8} "
    settings = ", ".join(f"{key}={value}" for key, value in r["settings"].items()) or "defaults"
    if "does not build" in r:
        return f"{named}{settings}: does not build: {r['does not build']}"
    times = "; ".join(
        f"{who} {r[f'{who}, s'][0]:.2f} + {r[f'{who}, s'][1]:.2f} s" for who in ("theirs", "ours")
    )
    differ = f"outputs {r['outputs differ']:.0e}, gradients {r['gradients differ']:.0e}"
    return f"{named}{settings}: {r['converted']} layers, {len(r['left'])} left; {differ}; {times}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one size of each, at defaults")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="The 'morlet' basis type is deprecated")
    rows = []
    for kind, (sizes, larger) in SIZES.items():
        cases = [(size, settings) for size in sizes for settings in SETTINGS]
        for case in cases[:1] if options.quick else cases + [(size, {}) for size in larger]:
            rows.append(row(kind, *case))
            print(line(rows[-1]), flush=True)
    report = about("python benchmarks/harmonics_models.py", "torch-harmonics") | {"rows": rows}
    if not options.quick:
        write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", RESULTS)


if __name__ == "__main__":
    main()
