"""One attention over several processes, beside the same by one: results, gradients and what moves.

    torchrun --nproc-per-node 4 examples/parallel.py
    torchrun --nproc-per-node 8 examples/parallel.py --rows 181 --radius 7 --heads 8
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 examples/parallel.py

Each process holds a compact piece of a lat-lon grid. It sends the keys that others need, computes the
queries that need none of others meanwhile, and the rest when their keys have come. On GPUs every process
takes the one of its ``LOCAL_RANK``.
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

import geoattn as ga


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=46, help="latitudes of the grid")
    parser.add_argument("--radius", type=float, default=12.0, help="degrees around each point")
    parser.add_argument("--heads", type=int, default=4)
    options = parser.parse_args(arguments)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    mesh = init_device_mesh(device, (int(os.environ["WORLD_SIZE"]),), mesh_dim_names=("domain",))

    grid = ga.grids.equiangular(options.rows, 2 * options.rows - 2)
    hood = ga.geodesic(grid, radius=options.radius)
    part = ga.parallel.partition(hood, mesh["domain"])
    if part.rank == 0:
        print(part.estimate(heads=options.heads, dim=16))

    torch.manual_seed(0)  # the same whole on every process, only to compare; a program loads its own part
    whole = [torch.randn(1, *grid.shape, options.heads, 16, device=device) for _ in range(3)]
    q, k, v = (x.requires_grad_() for x in (part.shard_queries(whole[0]), *map(part.shard_keys, whole[1:])))
    out = ga.parallel.attention(q, k, v, part)
    (out**2).sum().backward()  # the loss is the sum over all processes

    whole = [x.requires_grad_() for x in whole]
    expected = ga.attention(*whole, hood)
    (expected**2).sum().backward()
    pairs = [(part.gather_queries(out.detach()), expected.detach())]
    pairs += [(part.gather_keys(x.grad), y.grad) for x, y in zip((q, k, v), whole, strict=True)]
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    if part.rank == 0:
        print(f"output and gradients differ from one process by {error:.1e} at most")
    dist.destroy_process_group()
    return error


if __name__ == "__main__":
    main()
