"""What the tests of real models share: the packages that they come from, and when two models are one."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import geoattn as ga

Sizes = tuple[int, int]

#: what timm imports of torchvision, for its data pipelines
_PIPELINES = (
    "",
    ".datasets",
    ".models",
    ".models.feature_extraction",
    ".ops",
    ".ops.misc",
    ".transforms",
    ".transforms.functional",
    ".utils",
)


@contextlib.contextmanager
def _torchvision() -> Iterator[None]:
    """Names stand in for torchvision, whose wheels are for one build of torch each; no model here uses it."""
    if find_spec("torchvision"):
        yield
        return
    names = {f"torchvision{name}": MagicMock() for name in _PIPELINES}
    names["torchvision.ops.misc"].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (nn.Module,), {})
    sys.modules.update(names)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def of_timm(module: str) -> ModuleType:
    """A module of timm, such as "models.swin_transformer"; skips the file where timm is missing."""
    if not find_spec("timm"):
        pytest.skip(
            "timm is not installed (pip install --no-deps timm), whose models are run",
            allow_module_level=True,
        )
    with _torchvision():
        importlib.import_module("timm")
        return importlib.import_module(f"timm.{module}")


def randomised(module: nn.Module, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """The module in evaluation with random weights, none of which vanishes as many initial ones do."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.3))
    return module.to(dtype).eval()


def results(call: Callable[..., Tensor], module: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """The output of ``call(*inputs)``, and its gradients for inputs and parameters, by name."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    wanted = {f"input {i}": x for i, x in enumerate(leaves)}
    wanted |= {name: p for name, p in module.named_parameters() if p.requires_grad}
    out = call(*leaves)
    weights = torch.linspace(0, 40, out.numel(), dtype=out.dtype).cos().view(out.shape)
    gradients = torch.autograd.grad((out * weights).sum(), list(wanted.values()))
    return {"output": out.detach(), **dict(zip(wanted, gradients, strict=True))}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Each differs by less than 1e-5 of its largest entry, in float64 by 1e-10."""
    for name, true in expected.items():
        largest = float(true.abs().max())
        assert largest > 0, f"{name} is zero, so that nothing is compared"
        apart = float((found[name] - true).abs().max()) / largest
        assert apart < (1e-10 if true.dtype == torch.float64 else 1e-5), f"{name} differs by {apart:.1e}"


def agree(
    ours: Callable[..., Tensor], original: Callable[..., Tensor], module: nn.Module, *inputs: Tensor
) -> None:
    """Two calls that use the parameters of one module have the same outputs and gradients."""
    same(results(ours, module, inputs), results(original, module, inputs))


class Projections(nn.Module):
    """What attention layers have besides attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k and v, ``[B, *grid, H, D]``."""
        return self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)


def dense(layer: Projections, x: Tensor, seen: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Attention over all pairs of ``[…, N, C]``, of which some are seen, ``[…, N, N]``."""
    q, k, v = (part.movedim(-2, -3) for part in layer.parts(x))  # […, H, N, D]
    scores = q @ k.mT * q.shape[-1] ** -0.5 + bias
    weights = scores.masked_fill(~seen.unsqueeze(-3), float("-inf")).softmax(-1)
    return layer.proj((weights @ v).movedim(-3, -2).flatten(-2))


def boxes(x: Tensor, size: Sequence[int]) -> Tensor:
    """``[B, Z, H, W, C]`` cut into boxes, ``[B, nz, nh, nw, box, C]``."""
    cut = x.reshape(len(x), *(m for n, k in zip(x.shape[1:4], size, strict=True) for m in (n // k, k)), -1)
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6)


def unboxed(x: Tensor, size: Sequence[int]) -> Tensor:
    """Undoes ``boxes``."""
    cut = x.unflatten(4, tuple(size)).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return cut.flatten(5, 6).flatten(3, 4).flatten(1, 2)


@cache
def windows(shape: Sizes, size: Sizes, shift: Sizes = (0, 0)) -> ga.relations.Relation:
    """The relative positions in windows that do not overlap, on a plane."""
    hood = ga.window(ga.grids.cartesian(shape), size, stride=size, offset=shift, boundary="clip")
    return ga.relations.offsets(hood)


def padded(x: Tensor, size: Sizes, shift: Sizes) -> Tensor:
    """A plane ``[B, H, W, C]`` that windows divide: zeros follow on what timm's shift brings to the end."""
    down, right = (-n % k for n, k in zip(x.shape[1:3], size, strict=True))
    if not (down or right):
        return x
    behind = F.pad(x.roll(tuple(-s for s in shift), (1, 2)), (0, 0, 0, right, 0, down))
    return behind.roll(shift, (1, 2))


def cropped(x: Tensor, shape: Sizes, shift: Sizes) -> Tensor:
    """Undoes ``padded``."""
    if x.shape[1:3] == shape:
        return x
    return x.roll(tuple(-s for s in shift), (1, 2))[:, : shape[0], : shape[1]].roll(shift, (1, 2))
