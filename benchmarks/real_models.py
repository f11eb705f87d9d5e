"""Models of timm, transformers and the literature beside the same models on geoattn: times on a CPU.

    python benchmarks/real_models.py [--quick] [--only WORD] [--seconds 30]

The models are those of ``tests/real_models``, at their own sizes, in evaluation with gradients, in float32.
Outputs and gradients of the input are compared first; then both run in turn, in one process, and times are
the best of all rounds, at least two and as many as fit into the seconds of a case. Beside the time that
passes there is the processor time of all threads, which other load on the machine disturbs less. A ratio
above 1 means that ours takes longer. Attention of timm is as it comes, fused only where timm fuses it by
itself, but for the row that says so. The original of DiNAT is ``geoattn.compat.natten``, since NATTEN has no
gradients on a CPU. Of Pangu, Aurora and HEAL-SWIN it is one layer of attention, rolled and cut into windows;
Pangu's is of a part of the sphere. EGformer's layer is cut into rows and columns; GenCast's and Radial
Attention's are torch's ``scaled_dot_product_attention`` over all pairs with their mask. Prints a table and,
unless quick, writes ``benchmarks/results/real_models.json``; with ``--only``, those rows alone are replaced
there, and new ones join them.
"""

# ruff: noqa: E402 – the models are in the folder of their tests
from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoattn._files import write_text

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "real_models.json"
sys.path.insert(0, str(HERE.parent / "tests" / "real_models"))

import test_aurora
import test_botnet
import test_dinat
import test_egformer
import test_gcvit
import test_gencast
import test_halonet
import test_heal_swin
import test_maxvit
import test_pangu
import test_radial
import test_swin
import test_swinv2
from about import about
from originals import Projections, of_timm
from transformers import DinatConfig

Call = Callable[[Tensor], Tensor]
#: the original, ours, and the shape of the input
Case = tuple[Call, Call, tuple[int, ...]]

timm = of_timm("models")


def whole(name: str, convert: Callable[[nn.Module], nn.Module], batch: int, fused: bool = False) -> Case:
    """A model of timm, with its attention and with ours."""
    model = timm.create_model(name).eval()
    ours = convert(copy.deepcopy(model))
    if fused:
        for part in model.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = True
    return model, ours, (batch, *model.default_cfg["input_size"])


def replacing(kind: type[nn.Module], ours: Callable[..., Tensor]) -> Callable[[nn.Module], nn.Module]:
    """A conversion that replaces ``forward`` of layers of one kind."""

    def convert(model: nn.Module) -> nn.Module:
        for layer in model.modules():
            if isinstance(layer, kind):
                layer.forward = partial(ours, layer)
        return model

    return convert


def dinat(batch: int) -> Case:
    """DiNAT-Mini."""
    config = DinatConfig(depths=[3, 4, 6, 5], num_heads=[2, 4, 8, 16])
    model = test_dinat.dinat.DinatForImageClassification(config).eval()
    kind = test_dinat.dinat.NeighborhoodAttention
    ours = replacing(kind, test_dinat.ours)(copy.deepcopy(model))
    return lambda x: model(x).logits, lambda x: ours(x).logits, (batch, 3, 224, 224)


def layer(
    module: Any,
    dim: int,
    shape: tuple[int, ...],
    head_dim: int = 32,
    seen: Tensor | None = None,
    **settings: Any,
) -> Case:
    """A layer of one of the models that are known by their descriptions; masked where some pairs are seen."""
    projections = Projections(dim, dim // head_dim)
    for name, entries in settings.pop("tables", {}).items():
        setattr(projections, name, nn.Parameter(torch.randn(*entries, dim // head_dim)))
    original = partial(module.published, **settings) if seen is None else partial(masked, seen=seen)
    return partial(original, projections), partial(module.ours, projections, **settings), (1, *shape, dim)


def masked(projections: Projections, x: Tensor, seen: Tensor) -> Tensor:
    """Attention of ``[B, *grid, C]`` over all pairs, of which some are seen, by torch."""
    q, k, v = (part.flatten(1, -3).transpose(1, 2) for part in projections.parts(x))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return projections.proj(out.transpose(1, 2).flatten(-2).view(x.shape))


def pangu() -> Case:
    size = (2, 6, 12)
    tables = {"earth_bias": (2**2 * 6**2 * 23, 8 // 2 * 48 // 6)}
    return layer(test_pangu, 384, (8, 48, 96), size=size, shift=(1, 3, 6), tables=tables)


def heal_swin() -> Case:
    test_heal_swin.NSIDE = 64
    return layer(test_heal_swin, 96, (12 * 64**2,), shift=8, tables={"bias": (49,)})


def gencast() -> Case:
    """The reach of 16 hops on a mesh of 10,242 nodes, on one of 2,562; heads of 128 channels."""
    mesh = {"level": 4, "hops": 8}
    return layer(test_gencast, 512, (10 * 4**4 + 2,), 128, test_gencast.seen(**mesh), **mesh)


def radial() -> Case:
    shape = 32, 128
    return layer(test_radial, 512, shape, 128, test_radial.seen(*shape))


HALO = replacing(test_halonet.halonet.HaloAttn, test_halonet.ours)
BOTTLENECK = replacing(test_botnet.botnet.BottleneckAttn, test_botnet.ours)
SWIN, SWIN2 = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"
CASES: dict[str, Callable[[], Case]] = {
    "Swin-T 224²": partial(whole, SWIN, test_swin.convert, 1),
    "Swin-T 224², batch 4": partial(whole, SWIN, test_swin.convert, 4),
    "Swin-T 224², timm fused": partial(whole, SWIN, test_swin.convert, 1, fused=True),
    "SwinV2-T 256²": partial(whole, SWIN2, test_swinv2.convert, 1),
    "SwinV2-T 256², batch 4": partial(whole, SWIN2, test_swinv2.convert, 4),
    "MaxViT-T 224²": partial(whole, "maxvit_tiny_tf_224", test_maxvit.convert, 1),
    "GCViT-XXT 224²": partial(whole, "gcvit_xxtiny", test_gcvit.convert, 1),
    "HaloNet-26t 256²": partial(whole, "halonet26t", HALO, 1),
    "BoTNet-26t 256²": partial(whole, "botnet26t_256", BOTTLENECK, 1),
    "DiNAT-Mini 224²": partial(dinat, 1),
    "Pangu, inner layer on 8×48×96, shifted": pangu,
    "Aurora, innermost layer 4×45×90": partial(
        layer, test_aurora, 512, (4, 45, 90), size=(2, 6, 12), shift=(0, 0, 0)
    ),
    "Aurora, innermost layer 4×45×90, shifted": partial(
        layer, test_aurora, 512, (4, 45, 90), size=(2, 6, 12), shift=(1, 3, 6)
    ),
    "HEAL-SWIN, layer of nside 64, shifted": heal_swin,
    "GenCast, layer on 2,562 nodes, 8 hops": gencast,
    "EGformer's stripes, layer 64×128": partial(layer, test_egformer, 128, (64, 128)),
    "Radial Attention, layer of 32 frames of 128": radial,
}


class Run(NamedTuple):
    """What a call gave, and milliseconds forward and backward: those that passed, and those of processors."""

    out: Tensor
    grad: Tensor
    passed: tuple[float, float]
    processor: tuple[float, float]


def run(call: Call, x: Tensor) -> Run:
    x = x.clone().requires_grad_()
    clocks = [(time.perf_counter(), time.process_time())]
    out = call(x)
    clocks.append((time.perf_counter(), time.process_time()))
    out.backward(torch.linspace(0, 40, out.numel()).cos().view(out.shape))
    clocks.append((time.perf_counter(), time.process_time()))
    assert x.grad is not None
    passed, processor = np.diff(1e3 * np.array(clocks), axis=0).T.tolist()
    return Run(out.detach(), x.grad, passed, processor)


def measured(name: str, seconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    original, ours, shape = CASES[name]()
    x = torch.randn(shape)
    expected, found = run(original, x), run(ours, x)
    differ = [
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(found[:2], expected[:2], strict=True)
    ]
    if max(differ) > 1e-3:
        raise AssertionError(f"{name}: outputs and gradients differ by {differ}")
    runs: dict[str, list[Run]] = {"original": [], "ours": []}
    start = time.perf_counter()
    while len(runs["ours"]) < 2 or time.perf_counter() - start < seconds:
        for who, call in (("original", original), ("ours", ours)):
            runs[who].append(run(call, x))
    row: dict[str, Any] = {"model": name, "output and gradient differ": differ}
    for clock in ("passed", "processor"):
        for who, several in runs.items():
            row[f"{who}, ms {clock}"] = [
                min(column) for column in zip(*(getattr(r, clock) for r in several), strict=True)
            ]
        row[f"ratio {clock}"] = sum(row[f"ours, ms {clock}"]) / sum(row[f"original, ms {clock}"])
    return row | {"rounds": len(runs["ours"]), "load": os.getloadavg()[0]}


def line(r: dict[str, Any]) -> str:
    text = f"{r['model']:40}"
    for clock in ("passed", "processor"):
        (of, ob), (f, b) = r[f"original, ms {clock}"], r[f"ours, ms {clock}"]
        text += f" {of:6.0f} + {ob:6.0f}  {f:6.0f} + {b:6.0f}  {r[f'ratio {clock}']:5.2f} "
    return text + f" {r['rounds']:3}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds, and nothing is written")
    parser.add_argument("--only", default="", help="cases whose name holds this word")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each case, after a first comparison")
    options = parser.parse_args()
    torch.set_num_threads(2)
    print(f"{'forward + backward, ms':40} {'passed: original, ours, ratio':38} of processors{'':25}rounds")
    rows = []
    for name in CASES:
        if options.only.lower() in name.lower():
            rows.append(measured(name, 0.0 if options.quick else options.seconds))
            print(line(rows[-1]), flush=True)
    report = about(
        f"python benchmarks/real_models.py --seconds {options.seconds:g}", "timm", "transformers"
    ) | {"capability": torch.backends.cpu.get_cpu_capability(), "rows": rows}
    if options.only and RESULTS.exists():
        known = {row["model"]: row for row in (*json.loads(RESULTS.read_text())["rows"], *rows)}
        report["rows"] = [known[name] for name in CASES if name in known]
    if not options.quick:
        write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", RESULTS)


if __name__ == "__main__":
    main()
