"""What the processes of ``test_parallel_processes.py`` run together, each in every process.

python tests/parallel_jobs.py --processes 8 --problems 60   # the random matrix, on as many as you like
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import geoattn as ga
from geoattn import backends, testing
from geoattn.backends.base import accumulation_dtype
from geoattn.parallel import Cut, Partition, exchange
from geoattn.testing import Case

#: largest error beside the largest true magnitude, where that is above 1
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}
#: what the random matrix is held to
DTYPES = (torch.float64, torch.float32)
DIFFERENTIABLE = ("scale", "key_weights", "key_bias", "relation_bias")

_groups: dict[int, dist.ProcessGroup] = {}


def group_of(n: int) -> dist.ProcessGroup | None:
    """The first n processes; None in one that is not among them."""
    if n not in _groups:
        _groups[n] = dist.group.WORLD if n == dist.get_world_size() else dist.new_group(list(range(n)))
    return _groups[n] if dist.get_rank() < n else None


# ---------------------------------------------------------------- one attention, whole and divided


@dataclasses.dataclass
class Leaves:
    """The tensors of a case with a gradient, and the options that hold some of them."""

    q: Tensor
    k: Tensor
    v: Tensor
    options: dict[str, Any]

    @classmethod
    def of(cls, case: Case) -> Leaves:
        options = dict(case.options)
        for name in DIFFERENTIABLE:
            if isinstance(options.get(name), Tensor):
                options[name] = options[name].detach().clone().requires_grad_()
        return cls(*(x.detach().clone().requires_grad_() for x in (case.q, case.k, case.v)), options)

    @property
    def all(self) -> list[Tensor]:
        named = (self.options.get(name) for name in DIFFERENTIABLE)
        return [self.q, self.k, self.v, *(x for x in named if isinstance(x, Tensor))]

    def local(self, part: Partition) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """The parts of this process."""
        options, keys = dict(self.options), self.k.ndim - 3
        for name in ("key_weights", "key_bias", "key_mask"):
            x = options.get(name)
            if isinstance(x, Tensor):
                options[name] = part.shard_keys(x) if x.ndim == keys + 1 else part.shard_keys(x[None])[0]
        table = options.get("relation_bias")
        if table is not None and table.ndim > 3:
            options["relation_bias"] = part.shard_queries(table)
        return part.shard_queries(self.q), part.shard_keys(self.k), part.shard_keys(self.v), options


def results(
    case: Case, leaves: Leaves, attend: Callable[[bool], Any], local: Callable[[Tensor], Tensor]
) -> Any:
    """Output, lse and all gradients."""
    out, lse = attend(True)
    outs, upstream = [out], [local(case.grad_out)]
    if case.grad_lse is not None:
        outs, upstream = [out, lse], [*upstream, local(case.grad_lse)]
    return [out.detach(), lse.detach()], torch.autograd.grad(outs, leaves.all, upstream)


def whole(case: Case) -> list[Tensor]:
    leaves = Leaves.of(case)
    q, k, v = leaves.q, leaves.k, leaves.v
    found, gradients = results(
        case,
        leaves,
        lambda lse: ga.attention(q, k, v, case.hood, **leaves.options, return_lse=lse),
        lambda x: x,
    )
    return [*found, *gradients]


def divided(case: Case, part: Partition) -> list[Tensor]:
    """The same, by all processes together."""
    leaves = Leaves.of(case)
    q, k, v, options = leaves.local(part)
    found, gradients = results(
        case,
        leaves,
        lambda lse: ga.parallel.attention(q, k, v, part, **options, return_lse=lse),
        part.shard_queries,
    )
    for gradient in gradients:
        dist.all_reduce(gradient, group=part.group)
    return [*map(part.gather_queries, found), *gradients]


def compare(case: Case, part: Partition) -> list[str]:
    """What differs, as the first process sees it; the others go on with it."""
    found, wrong = divided(case, part), []
    if dist.get_rank() == 0:
        options = [name for name in DIFFERENTIABLE if isinstance(case.options.get(name), Tensor)]
        names = ["out", "lse", *(f"gradient of {name}" for name in ("q", "k", "v", *options))]
        right = dict(zip(names, whole(case), strict=True))
        for (name, b), a in zip(right.items(), found, strict=True):
            try:
                size = spread(name, case, right) / max(1.0, float(b.abs().amax()) if b.numel() else 0.0)
                tolerance = TOLERANCE[case.q.dtype] * max(1.0, size)
                testing.close(f"{name} of {part.n} processes", a, b.double(), tolerance, case)
            except AssertionError as error:
                wrong.append(str(error))
    return wrong


def spread(name: str, case: Case, gradients: dict[str, Tensor]) -> float:
    """The root of the sum of squares of what a gradient adds up: its size, had the terms no common sign.

    Biases that all edges of a query share leave its softmax as it is: their gradient is 0, the sum of terms
    that are none, and only these tell how far from 0 rounded ones may add up.
    """
    if name == "gradient of scale":
        terms = (case.q * gradients["gradient of q"]).sum(dim=-1) / case.options["scale"]
        return float(terms.norm())
    if name == "gradient of relation_bias" and case.options["relation_bias"].ndim < 4:
        relation, table = case.options["relation"], case.options["relation_bias"]
        numbers = torch.as_tensor(relation.rows(np.arange(case.hood.query_grid.size)).numbers).long()
        own = table.expand(len(case.q), *table.shape[-2:])[..., numbers]
        by_edge = {"relation": ga.relations.edges(case.hood), "relation_bias": own}
        terms = whole(dataclasses.replace(case, options=case.options | by_edge))[-1]
        squares = torch.zeros(*table.shape[-2:], dtype=terms.dtype)
        return float(squares.index_add_(-1, numbers, terms.square().sum(dim=0)).max().sqrt())
    return 0.0


# ---------------------------------------------------------------- jobs


def random_cut(rng: np.random.Generator, hood: Any, n: int) -> Cut | None:
    """None, owners without any order, or pieces of uneven sizes, of which some are empty."""
    kind = rng.integers(3)
    if kind == 0:
        return None
    grids = tuple({hood.query_grid: None, hood.key_grid: None})
    owners = []
    for grid in grids:
        if kind == 1:
            owner = rng.integers(n, size=grid.size)
        else:
            owner = np.searchsorted(np.sort(rng.integers(grid.size, size=n - 1)), np.arange(grid.size))
            owner = np.where(owner == rng.integers(n), (owner + 1) % n, owner)
        owners.append(owner.astype(np.int16))
    return Cut(n, grids, tuple(owners))


def matrix(n: int, seed: int, count: int, relations: float) -> None:
    """Random problems on n processes, and what they need of others as estimated."""
    group = group_of(n)
    if group is None:
        return
    rng, wrong = np.random.default_rng(seed), []
    for case in testing.cases(seed, count, DTYPES, relations=relations):
        wrong += compare(case, ga.parallel.partition(case.hood, group, random_cut(rng, case.hood, n)))
    assert not wrong, "\n".join(wrong)


def one(n: int, hood: Any, options: dict[str, Any], cut: Cut | None = None) -> str | None:
    """One problem of given sizes in float64; says which exchange it took."""
    group = group_of(n)
    if group is None:
        return None
    part = ga.parallel.partition(hood, group, cut)
    case = problem(hood, **options)
    wrong = compare(case, part)
    assert not wrong, "\n".join(wrong)
    return ", ".join(sorted({kept for p in (part, *part.parts) for kept in p._exchanges.values()}))


def problem(
    hood: Any,
    heads: int = 2,
    kv_heads: int | None = None,
    batch: int = 2,
    dim: int = 8,
    dim_v: int = 4,
    key_bias: bool = False,
    scale: bool = False,
    relation: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Case:
    torch.manual_seed(1)
    queries, keys = hood.query_grid.shape, hood.key_grid.shape
    kv_heads, accumulated = kv_heads or heads, accumulation_dtype(dtype)
    options: dict[str, Any] = {}
    if key_bias:
        options["key_bias"] = torch.randn(batch, *keys, dtype=accumulated)
    if scale:
        options["scale"] = torch.rand(heads, dtype=accumulated)
    if relation:
        options["relation"] = ga.relations.edges(hood)
        options["relation_bias"] = torch.randn(heads, options["relation"].count, dtype=accumulated)
    return Case(
        hood,
        torch.randn(batch, *queries, heads, dim, dtype=dtype),
        torch.randn(batch, *keys, kv_heads, dim, dtype=dtype),
        torch.randn(batch, *keys, kv_heads, dim_v, dtype=dtype),
        options,
        torch.randn(batch, *queries, heads, dim_v, dtype=dtype),
        torch.randn(batch, *queries, heads, dtype=accumulated),
    )


def counted(n: int, hood: Any, sizes: dict[str, Any]) -> tuple[int, int, int] | None:
    """Bytes that come from others to this process, forward and backward, and those of the estimate."""
    group = group_of(n)
    if group is None:
        return None
    part, case = ga.parallel.partition(hood, group), problem(hood, **sizes)
    leaves = Leaves.of(case)
    q, k, v, options = leaves.local(part)
    came: list[int] = []
    actual = exchange.all_to_all

    def counting(x: Tensor, received: list[int], sent: list[int], name: str) -> Tensor:
        found = actual(x, received, sent, name)
        rows = sum(received) - received[dist.get_rank()]
        came.append(rows * found[:1].numel() * x.element_size())
        return found

    exchange.all_to_all = counting
    try:
        out = ga.parallel.attention(q, k, v, part, **options)
        forward = sum(came)
        out.sum().backward()
    finally:
        exchange.all_to_all = actual
    (batch, _, heads, dim), (kv_heads, dim_v) = q.shape, v.shape[2:]
    terms = batch if "key_bias" in options else 0
    told = part.estimate(batch, heads, kv_heads, dim, dim_v, q.dtype, terms)
    return forward, sum(came) - forward, int(told.received[part.rank])


def kept(n: int, hood: Any) -> tuple[int, int] | None:
    """Bytes of a call's operands, results and what it keeps of others beside; and of the first two alone."""
    group = group_of(n)
    if group is None:
        return None
    part, case = ga.parallel.partition(hood, group), problem(hood, dim=32, dim_v=32)
    leaves = Leaves.of(case)
    q, k, v, _ = (x.detach().requires_grad_() if isinstance(x, Tensor) else x for x in leaves.local(part))
    held: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if x.is_floating_point():
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out, lse = ga.parallel.attention(q, k, v, part, return_lse=True)
    for x in (ends := (q, k, v, out, lse)):
        pack(x)
    return sum(held.values()), sum(x.nbytes for x in ends)


#: neighborhoods by the side or level of their grid, each small and large
SEARCHED: dict[str, tuple[Callable[[int], Any], int, int]] = {
    "nearest": (lambda side: ga.nearest(ga.grids.healpix(side), k=8), 4, 64),
    "discs": (lambda side: ga.geodesic(ga.grids.healpix(side), radius=150.0 / side), 4, 64),
    "rows of discs": (
        lambda rows: ga.geodesic(ga.grids.gaussian(rows, 2 * rows), radius=600.0 / rows),
        8,
        160,
    ),
    "hops": (lambda level: ga.k_hop(ga.grids.icosahedral(level), 2), 2, 6),
    "curve": (lambda side: ga.curve_window(ga.grids.healpix(side), 9), 4, 64),
    "union": (lambda side: ga.union(*(SEARCHED[name][0](side) for name in ("nearest", "curve"))), 4, 64),
    "masked": (lambda side: masked(SEARCHED["nearest"][0](side)), 4, 64),
    "window": (lambda side: ga.window(ga.grids.cartesian((side, side)), 3), 16, 240),
    "levels": (
        lambda rows: ga.product(
            ga.window(ga.grids.cartesian(3), 3), ga.nearest(ga.grids.gaussian(rows, 2 * rows), k=8)
        ),
        8,
        96,
    ),
}


def masked(hood: Any) -> Any:
    return hood.without_keys(np.arange(hood.key_grid.size) % 5 == 0)


def left(n: int, name: str) -> float | None:
    """Bytes that a process with few tokens keeps for each of the whole grid, once it has attended.

    A small grid comes first: what is loaded and compiled on the way does not count.
    """
    group = group_of(n)
    if group is None:
        return None
    make, *sizes = SEARCHED[name]
    for size in sizes:
        hood = make(size)
        grid, owner = hood.query_grid, np.zeros(hood.query_grid.size, np.int16)
        owner[grid.size // 2 : grid.size // 2 + 40] = n - 1
        cut = Cut(n, (grid,), (owner,))
        gc.collect()
        tracemalloc.start()
        try:
            part = ga.parallel.partition(hood, group, cut)
            if part.rank == n - 1:
                for some in (part.inner, part.outer):
                    q = torch.ones(1, some.query_grid.size, 1, 4, requires_grad=True)
                    k = torch.ones(1, some.key_grid.size, 1, 4, requires_grad=True)
                    ga.attention(q, k, k, some).sum().backward()
            gc.collect()
            found, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return found / grid.size


def repeated(n: int, hood: Any) -> bool | None:
    """Whether outputs and gradients are the same bits when all is done again."""
    group = group_of(n)
    if group is None:
        return None
    part, case = ga.parallel.partition(hood, group), problem(hood, dtype=torch.float32, key_bias=True)
    first, second = divided(case, part), divided(case, part)
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def second_derivatives(n: int, hood: Any, heads: int) -> float | None:
    """Error of the gradient of a function of all first gradients, beside the largest number."""
    group = group_of(n)
    if group is None:
        return None
    part, case = ga.parallel.partition(hood, group), problem(hood, heads=heads, key_bias=True, scale=True)

    def of(leaves: Leaves, attend: Callable[[], tuple[Tensor, Tensor]]) -> list[Tensor]:
        out, lse = attend()
        first = torch.autograd.grad(out.pow(3).sum() + lse.sin().sum(), leaves.all, create_graph=True)
        return first

    here, there = Leaves.of(case), Leaves.of(case)
    q, k, v, options = here.local(part)
    gradients = of(here, lambda: ga.parallel.attention(q, k, v, part, **options, return_lse=True))
    # each process holds a part of the sum over all of them: the whole gradient, on every process
    total = [Everywhere.apply(x, group) for x in gradients]
    found = torch.autograd.grad(sum(x.pow(2).sum() for x in total) / n, here.all)
    for x in found:
        dist.all_reduce(x, group=group)
    args = there.q, there.k, there.v, hood
    true = of(there, lambda: ga.attention(*args, **there.options, return_lse=True))
    wanted = torch.autograd.grad(sum(x.pow(2).sum() for x in true), there.all)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


class Everywhere(torch.autograd.Function):
    """The sum over all processes, on each of them; its adjoint is itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group, total = group, x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return Everywhere.apply(gradient, ctx.group), None


def gathered(n: int, hood: Any) -> None:
    """Shards and gathers are inverse, and adjoint."""
    group = group_of(n)
    if group is None:
        return
    part = ga.parallel.partition(hood, group)
    torch.manual_seed(0)
    x = torch.randn(2, *hood.key_grid.shape, 3, dtype=torch.float64)
    local = part.shard_keys(x).requires_grad_()
    full = part.gather_keys(local)
    assert torch.equal(full, x)
    (full * x * (part.rank + 1)).sum().backward()
    assert torch.allclose(local.grad, part.shard_keys(x) * n * (n + 1) / 2)


def on_device(device: str) -> None:
    """Both exchanges, some messages empty and some processes without tokens, on a kind of device."""
    group = dist.group.WORLD
    n = group.size()
    sphere, coarse = ga.grids.gaussian(8, 16), ga.grids.healpix(2)
    disc = ga.geodesic(sphere, radius=30.0)
    owners = [np.arange(grid.size) % max(n - 1, 1) for grid in (sphere, coarse)]
    apart = Cut(n, (sphere, coarse), (owners[0].astype(np.int16), (n - 1 - owners[1]).astype(np.int16)))
    problems: list[tuple[Any, dict[str, Any], Cut | None]] = [
        (disc, {"key_bias": True, "scale": True, "relation": True}, None),
        (ga.everything(sphere), {"heads": 2 * n, "key_bias": True}, None),
        (ga.nearest(sphere, coarse, k=4), {"kv_heads": 1}, apart),
    ]
    wrong = []
    for hood, options, cut in problems:
        case = problem(hood, dtype=torch.float32, **options)
        tensors = {name: getattr(case, name).to(device) for name in ("q", "k", "v", "grad_out", "grad_lse")}
        there = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in case.options.items()}
        part = ga.parallel.partition(hood, group, cut)
        wrong += compare(dataclasses.replace(case, **tensors, options=there), part)
    assert not wrong, "\n".join(wrong)


def refused(name: str) -> str:
    """What each process is told; ``odd`` differs on the last one."""
    rank, n, group = dist.get_rank(), dist.get_world_size(), dist.group.WORLD
    odd = rank == n - 1
    grid, other = ga.grids.gaussian(6, 12), ga.grids.gaussian(8, 12)
    hood, skewed = ga.geodesic(grid, radius=40.0), Cut(n, (grid,), (np.zeros(grid.size, np.int16),))
    part = ga.parallel.partition(hood, group)
    attend = functools.partial(ga.parallel.attention, part=part)

    def labels(odd: bool) -> Any:
        return ga.relations.labels(hood, np.arange(int(hood.counts.sum())) % 3 * (2 if odd else 1))

    held = part.held(grid)
    q = torch.randn(1, held, 2, 4)
    jobs: dict[str, Callable[[], object]] = {
        "radius": lambda: ga.parallel.partition(ga.geodesic(grid, radius=41.0 if odd else 40.0), group),
        "grid": lambda: ga.parallel.partition(ga.geodesic(other if odd else grid, radius=40.0), group),
        "cut": lambda: ga.parallel.partition(hood, group, None if odd else skewed),
        "kind": lambda: ga.parallel.partition(grid if odd else hood, group),
        "size": lambda: ga.parallel.partition(hood, group, ga.parallel.cut(hood, n + 1)),
        "foreign cut": lambda: ga.parallel.partition(
            hood, group, ga.parallel.cut(ga.geodesic(other, radius=40.0), n)
        ),
        "dtype": lambda: attend(*[q.double() if odd else q] * 3),
        "heads": lambda: attend(*[q[:, :, :1] if odd else q] * 3),
        "gradient": lambda: attend(*[q.requires_grad_(odd)] * 3),
        "scale": lambda: attend(q, q, q, scale=0.5 if odd else 0.25),
        "weights": lambda: attend(q, q, q, key_weights=None if odd else "quadrature"),
        "lse": lambda: attend(q, q, q, return_lse=odd),
        "relation": lambda: attend(
            q, q, q, relation=labels(odd), relation_bias=torch.zeros(2, labels(odd).count)
        ),
        "backend": lambda: attend(q, q, q, backend=3 if odd else None),
        "local": lambda: attend(*[q[:, 1:] if odd else q] * 3),
        "whole": lambda: attend(*[torch.randn(1, *grid.shape, 2, 4)] * 3),
        "mask": lambda: attend(q, q, q, key_mask=torch.ones(held + odd, dtype=torch.bool)),
        "mesh": lambda: ga.parallel.partition(hood, mesh()),
        "no such dimension": lambda: ga.parallel.partition(hood, mesh()["model"]),
        "dimensions without names": lambda: ga.parallel.partition(hood, init_device_mesh("cpu", (n // 2, 2))),
        "member": lambda: ga.parallel.partition(hood, dist.new_group([0])) if odd else dist.new_group([0]),
        "no group": lambda: ga.parallel.partition(hood, "WORLD"),
        "gather": lambda: part.gather_queries(q[:, 1:]),
        "shard": lambda: part.shard_queries(q),
    }
    try:
        jobs[name]()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refused_later(n: int, hood: Any) -> list[str] | None:
    """What a process is told that refuses its arguments after all made such a call, and then makes it."""
    group = group_of(n)
    if group is None:
        return None
    part, told = ga.parallel.partition(hood, group), []
    q = torch.ones(1, part.held(hood.query_grid), 2, 4)
    true = ga.parallel.attention(q, q, q, part)
    if part.rank == n - 1:
        try:
            ga.parallel.attention(q[:, 1:], q, q, part)
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
    assert torch.equal(ga.parallel.attention(q, q, q, part), true)
    return told


def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("data", "domain"))


def along_a_mesh(hood: Any) -> None:
    """Two groups of two processes, each with a problem of its own."""
    both = mesh()
    part = ga.parallel.partition(hood, both["domain"])
    assert (part.n, part.rank) == (2, dist.get_rank() % 2)
    case = problem(hood)
    for found, true in zip(divided(case, part), whole(case), strict=True):
        testing.close("along a mesh", found, true, 1e-12, case)


def order_of_steps(n: int, hood: Any) -> tuple[list[str], list[str]] | None:
    """What happens one after the other, forward and backward."""
    group = group_of(n)
    if group is None:
        return None
    part, case, steps = ga.parallel.partition(hood, group), problem(hood, dtype=torch.float32), []
    leaves = Leaves.of(case)
    q, k, v, _ = leaves.local(part)
    backend = backends.get("reference")
    patched = [(exchange, "all_to_all"), (exchange, "wait"), (backend, "forward"), (backend, "backward")]
    actual = [getattr(owner, name) for owner, name in patched]

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: (steps.append(name), function(*arguments))[1]

    for (owner, name), function in zip(patched, actual, strict=True):
        setattr(owner, name, noting(name, function))
    try:
        out = ga.parallel.attention(q, k, v, part, backend="reference")
        forward = list(steps)
        out.sum().backward()
    finally:
        for (owner, name), function in zip(patched, actual, strict=True):
            setattr(owner, name, function)
    return forward, steps[len(forward) :]


def compiled(n: int, hood: Any) -> str | None:
    """The same without a break of the graph, by the exchange that it says."""
    group = group_of(n)
    if group is None:
        return None
    part, case = ga.parallel.partition(hood, group), problem(hood, heads=4, key_bias=True, relation=True)

    def attend(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        return ga.parallel.attention(q, k, v, part, **options)

    found = []
    for function in (attend, torch.compile(attend, fullgraph=True, backend="aot_eager")):
        leaves = Leaves.of(case)
        q, k, v, options = leaves.local(part)
        out = function(q, k, v, options)
        out.pow(2).sum().backward()
        found.append([out.detach(), *(x.grad for x in leaves.all)])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    return ", ".join(set(part._exchanges.values()))


def main() -> None:
    import parallel_jobs  # by the name that the processes know
    from crew import Crew

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    crew = Crew(options.processes)
    try:
        crew(parallel_jobs.matrix, options.processes, options.seed, options.problems, 0.3, patience=3600)
        print(f"{options.problems} problems on {options.processes} processes agree with one process")
    finally:
        crew.close()


if __name__ == "__main__":
    main()
