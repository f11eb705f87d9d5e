"""What the processes of ``test_parallel_models.py`` run together, each in every process."""

from __future__ import annotations

import copy
import dataclasses
import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from parallel_jobs import group_of, mesh
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import geoattn as ga
from geoattn import backends
from geoattn.models import EncoderDecoderConfig, TransformerConfig
from geoattn.parallel import Cut
from geoattn.parallel.parallelize import neighborhoods_of

#: largest error beside the largest true magnitude of a tensor
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}

SPHERE, PLANE = ga.grids.gaussian(8, 16), ga.grids.cartesian((8, 12), periodic=(False, True))
COARSE, MESH = ga.nn.patches(SPHERE, 2).grid, ga.grids.healpix(4)
DISC = ga.geodesic(SPHERE, radius=35.0)


def disc(grid: Any, radius: float) -> Any:
    return ga.geodesic(grid, radius=radius)


CONFIGS: dict[str, Callable[[], Any]] = {
    "small": lambda: TransformerConfig(
        SPHERE, (disc(COARSE, 50.0),), 3, 2, dim=8, depth=1, num_heads=2, patch=2, position="harmonic"
    ),
    "transformer": lambda: TransformerConfig(
        SPHERE, (DISC,), 3, 2, dim=16, depth=2, position="harmonic", qk_norm=True, layer_scale=0.5
    ),
    "patches": lambda: TransformerConfig(
        SPHERE, (disc(COARSE, 50.0),), 3, 2, dim=16, depth=1, patch=2, num_kv_heads=2, position="angles"
    ),
    "another grid": lambda: TransformerConfig(
        SPHERE, (disc(MESH, 40.0),), 3, 3, dim=16, depth=1, num_heads=2, position="directional"
    ),
    "plane": lambda: TransformerConfig(
        PLANE,
        (ga.window(PLANE, (3, 5)), ga.heads(ga.window(PLANE, 3), ga.window(PLANE, 5))),
        3,
        2,
        dim=16,
        depth=2,
        position="offsets",
        residual=False,
    ),
    "turned": lambda: TransformerConfig(
        PLANE, (ga.window(PLANE, 5),), 3, 2, dim=16, depth=1, num_heads=2, position="rotary", key_weights=None
    ),
    "stages": lambda: EncoderDecoderConfig(
        SPHERE,
        (disc(COARSE, 40.0), disc(ga.nn.patches(COARSE, 2).grid, 90.0)),
        3,
        2,
        dims=(8, 16),
        depths=(1, 1),
        num_heads=(1, 2),
        patches=(2, 2),
        decoder_dim=8,
        position="continuous",
    ),
    "meshes": lambda: EncoderDecoderConfig(
        SPHERE,
        (disc(MESH, 30.0), disc(ga.grids.icosahedral(1), 60.0)),
        3,
        2,
        dims=(8, 16),
        depths=(1, 1),
        num_heads=(1, 2),
        patches=None,
        decoder_dim=8,
    ),
}


def on_the_reference(on: bool) -> None:
    """The specification attends: what is tested here is what travels, and no kernel need be compiled."""
    kept = vars(backends)
    kept.setdefault("kept_automatic", backends.automatic)
    kept["automatic"] = (lambda q: ("reference",)) if on else kept["kept_automatic"]


def built(config: Any, dtype: torch.dtype) -> nn.Module:
    """A model without zeros, the same on every process."""
    torch.manual_seed(0)
    model = config.build(dtype=dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def error(found: Tensor, true: Tensor, size: float = 1e-3) -> float:
    assert found.shape == true.shape
    return float((found.to(true.dtype) - true).abs().max() / true.abs().max().clamp_min(size))


def averaged(model: nn.Module, group: Any) -> list[Tensor]:
    """The gradients of the parameters, as DistributedDataParallel would leave them."""
    gradients = [p.grad.clone() for p in model.parameters()]
    for gradient in gradients:
        dist.all_reduce(gradient, group=group)
        gradient /= group.size()
    return gradients


def fields(model: nn.Module, dtype: torch.dtype, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Inputs, and what outputs are multiplied with."""
    generator, c = torch.Generator().manual_seed(1), model.config
    return tuple(
        torch.randn(batch, channels, *c.grid.shape, dtype=dtype, generator=generator)
        for channels in (c.in_channels, c.out_channels)
    )


def scattered(model: nn.Module, n: int, seed: int) -> Cut:
    """Owners without any order; the last process holds nothing."""
    rng = np.random.default_rng(seed)
    hoods = neighborhoods_of(model)
    grids = tuple(dict.fromkeys(g for hood in hoods for g in (hood.query_grid, hood.key_grid)))
    return Cut(n, grids, tuple(rng.integers(max(n - 1, 1), size=g.size).astype(np.int16) for g in grids))


def alike(
    n: int, kind: str, dtype: torch.dtype, scatter: bool, masked: bool, wrapped: str = ""
) -> dict[str, float] | None:
    """Errors of outputs and of all gradients of a model on n processes, in units of what they may be.

    In single precision the truth is what one process finds in double precision, and an error may be twice
    that of one process in single precision, where that is more than the tolerance. The parameters of a scheme
    of positions are one thing: their gradients are sums over all edges of terms that cancel, most of all in
    the inner weights of a network, and an error is measured by the largest gradient of the scheme.
    """
    group = group_of(n)
    if group is None:
        return None
    model = built(CONFIGS[kind](), dtype)
    x, weight = fields(model, dtype)
    options, local = {}, {}
    if masked:
        options["key_mask"] = torch.rand(2, *model.config.grid.shape) > 0.3
    state = copy.deepcopy(model.state_dict())
    own = of_one(model, x, weight, options)
    truth = own
    if dtype != torch.float64:
        truth = of_one(copy.deepcopy(model).double(), x.double(), weight.double(), options)
    model.zero_grad()

    ga.parallel.parallelize(model, group, scattered(model, n, 3) if scatter else None)
    shards = model.shards
    assert model.state_dict().keys() == state.keys()
    if masked:
        local["key_mask"] = shards.shard(options["key_mask"])
    call = model
    if wrapped == "checkpoint":
        for block in model.processor:
            block.forward = _recomputed(block.forward)
    elif wrapped == "compile":
        model(shards.shard(x), **local).sum().backward()  # what is agreed on is agreed before
        model.zero_grad()
        call = torch.compile(model, backend="aot_eager", fullgraph=True)
    elif wrapped == "fsdp":
        from torch.distributed.fsdp import fully_shard

        one = DeviceMesh.from_group(group, "cpu")
        for block in model.processor:
            fully_shard(block, mesh=one)
        fully_shard(model, mesh=one)
    part = shards.shard(x).requires_grad_()
    out = call(part, **local)
    loss = shards.sum((out * shards.shard(weight)).sum())
    loss.backward()
    if wrapped == "fsdp":
        found = [p.grad.full_tensor() for p in model.parameters()]
    else:
        found = averaged(model, group)
    every = {"out": shards.gather(out.detach()), "loss": loss.detach()}
    every["x"] = shards.gather(part.grad) / n  # of the sum of n equal losses
    every |= dict(zip((name for name, _ in model.named_parameters()), found, strict=True))
    assert every.keys() == truth.keys()
    sizes = {name: max([1e-3, *(float(x.abs().max()) for x in of_scheme(name, truth))]) for name in truth}
    return {
        name: error(a, truth[name], sizes[name])
        / max(TOLERANCE[dtype], 2 * error(own[name], truth[name], sizes[name]))
        for name, a in every.items()
    }


def of_scheme(name: str, gradients: dict[str, Tensor]) -> list[Tensor]:
    """The gradients of the scheme of positions that a parameter belongs to; of another, none."""
    scheme, found, _ = name.partition(".position.")
    return [x for other, x in gradients.items() if found and other.startswith(scheme + found)]


def of_one(model: nn.Module, x: Tensor, weight: Tensor, options: dict[str, Any]) -> dict[str, Tensor]:
    """The output, the loss and all gradients of one process."""
    x = x.clone().requires_grad_()
    out = model(x, **options)
    loss = (out * weight).sum()
    loss.backward()
    found = {"out": out.detach(), "loss": loss.detach(), "x": x.grad}
    return found | {name: p.grad.clone() for name, p in model.named_parameters()}


def _recomputed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *arguments: checkpoint(forward, *arguments, use_reentrant=False)


def on_a_mesh() -> dict[str, float]:
    """Two samples on two pairs of processes, averaged over all by DistributedDataParallel."""
    both, dtype = mesh(), torch.float64
    model = built(CONFIGS["stages"](), dtype)
    x, weight = fields(model, dtype)
    ((model(x) * weight).sum() / 2).backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    shards = ga.parallel.parallelize(model, both["domain"]).shards
    mine = slice(both["data"].get_local_rank(), both["data"].get_local_rank() + 1)
    averaging = DistributedDataParallel(model)
    out = averaging(shards.shard(x[mine]))
    shards.sum((out * shards.shard(weight[mine])).sum()).backward()
    names = [name for name, _ in model.named_parameters()]
    return {name: error(p.grad, b) for name, p, b in zip(names, model.parameters(), wanted, strict=True)}


#: models by the side of their grid
GROWING: dict[str, Callable[[int], Any]] = {
    "one grid": lambda side: TransformerConfig(
        ga.grids.healpix(side), (ga.nearest(ga.grids.healpix(side), k=8),), 3, 2, dim=8, depth=1, num_heads=2
    ),
    "patches": lambda side: TransformerConfig(
        ga.grids.healpix(side),
        (ga.nearest(ga.nn.patches(ga.grids.healpix(side), 4).grid, k=8),),
        3,
        2,
        dim=8,
        depth=1,
        num_heads=2,
        patch=4,
        position="harmonic",
    ),
    "another grid": lambda side: TransformerConfig(
        ga.grids.healpix(side),
        (ga.k_hop(ga.grids.icosahedral({8: 3, 32: 5}[side]), 1),),
        3,
        2,
        dim=8,
        depth=1,
        num_heads=2,
    ),
}


def left(n: int, kind: str) -> float | None:
    """Bytes that the last process, of few points, keeps for each further point of the grids of a model."""
    group, found, sizes = group_of(n), [], []
    if group is None:
        return None
    for side in (8, 8, 32):  # first all is loaded
        gc.collect()
        tracemalloc.start()
        try:
            model = GROWING[kind](side).build()
            hoods = neighborhoods_of(model)
            grids = tuple(dict.fromkeys(g for hood in hoods for g in (hood.query_grid, hood.key_grid)))
            owners = [np.where(np.arange(g.size) < 9, n - 1, 0).astype(np.int16) for g in grids]
            ga.parallel.parallelize(model, group, Cut(n, grids, tuple(owners)))
            sizes.append(sum(grid.size for grid in grids))
            del hoods, grids, owners
            gc.collect()
            found.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        del model
    return (found[2] - found[1]) / (sizes[2] - sizes[1])


class Mixer(nn.Module):
    """A model of one's own, of attention with all its options; one token is not like the others."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.rand(SPHERE.shape, dtype=torch.float64) + 0.5
        self.first = ga.nn.Attention(8, 2, DISC, key_weights=weights, scale="learned")
        self.between = ga.nn.Resample(MESH, SPHERE, "attention", dim=8, num_heads=2)
        self.mean = ga.nn.Resample(COARSE, SPHERE, "average")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.first(x)
        return self.between(x), self.mean(x)


def of_ones_own() -> tuple[str, float]:
    """What is said of a module that is not known, and the error once it is."""
    group = dist.group.WORLD
    torch.manual_seed(0)
    model = Mixer().double()
    x = torch.randn(2, *SPHERE.shape, 8, dtype=torch.float64)
    true = model(x)
    try:
        ga.parallel.parallelize(model, group)
        told = ""
    except TypeError as refusal:
        told = str(refusal)
    model.tokenwise = True
    weights = model.state_dict()["first.key_weights"].clone()
    shards = ga.parallel.parallelize(model, group).shards
    found = model(shards.shard(x, SPHERE, axis=1))
    assert torch.equal(model.state_dict()["first.key_weights"], weights)
    whole = [shards.gather(y, grid, axis=1) for y, grid in zip(found, (MESH, COARSE), strict=True)]
    return told, max(error(a, b) for a, b in zip(whole, true, strict=True))


def dropped() -> list[float]:
    """Which samples a process leaves out, each with a seed of its own."""
    shards = ga.parallel.parallelize(ga.nn.Block(8, 2, DISC), dist.group.WORLD).shards
    drop = ga.nn.DropPath(0.5)
    drop.divide(shards)
    torch.manual_seed(shards.rank)
    found: list[float] = drop(torch.ones(32, 1)).flatten().tolist()
    return found


def refused(name: str) -> str:
    """What each process is told; ``odd`` differs on the last one."""
    group, odd = dist.group.WORLD, dist.get_rank() == dist.get_world_size() - 1
    config = CONFIGS["transformer"]()
    model = config.build()
    wide = dataclasses.replace(config, dim=32).build()
    whole = torch.zeros(1, 3, *SPHERE.shape)

    def twice() -> None:
        ga.parallel.parallelize(ga.parallel.parallelize(model, group), group)

    jobs: dict[str, Callable[[], object]] = {
        "number": lambda: ga.parallel.parallelize(model, 4),
        "model": lambda: ga.parallel.parallelize(config, group),
        "nothing": lambda: ga.parallel.parallelize(nn.Linear(3, 3), group),
        "norm": lambda: ga.parallel.parallelize(nn.Sequential(model, nn.LayerNorm(SPHERE.shape)), group),
        "convolution": lambda: ga.parallel.parallelize(nn.Sequential(model, nn.Conv2d(2, 2, 3)), group),
        "twice": twice,
        "disagree": lambda: ga.parallel.parallelize(wide if odd else model, group),
        "cut": lambda: ga.parallel.parallelize(model, group, ga.parallel.cut(DISC, 3)),
        "whole": lambda: ga.parallel.parallelize(model, group)(whole),
        "grid": lambda: ga.parallel.parallelize(nn.Sequential(model), group).shards.shard(whole),
    }
    try:
        jobs[name]()
    except Exception as found:
        return f"{type(found).__name__}: {found}"
    return "nothing"
