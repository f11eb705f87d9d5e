"""A model over several processes, beside the same on one: results, gradients, and what moves.

    torchrun --nproc-per-node 4 examples/parallel.py
    torchrun --nproc-per-node 8 examples/parallel.py --rows 182 --radius 7 --steps 50
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 examples/parallel.py

Each process holds compact pieces of a lat-lon grid and of its patches. In every attention it sends the keys
that others need, computes the queries that need none of others meanwhile, and the rest when their keys have
come. First output and gradients are compared with those of one process; then the model learns to smooth
noise. On GPUs every process takes the one of its ``LOCAL_RANK``.
"""

from __future__ import annotations

import argparse
import copy
import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import geoattn as ga
from geoattn.models import EncoderDecoderConfig


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=48, help="latitudes of the grid, a multiple of 4")
    parser.add_argument("--radius", type=float, default=15.0, help="degrees around each patch")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    mesh = init_device_mesh(device, (int(os.environ["WORLD_SIZE"]),), mesh_dim_names=("domain",))
    rank = mesh.get_rank()

    grid = ga.grids.gaussian(options.rows, 2 * options.rows)
    fine = ga.nn.patches(grid, 2).grid
    coarse = ga.nn.patches(fine, 2).grid
    hoods = (ga.geodesic(fine, radius=options.radius), ga.geodesic(coarse, radius=2 * options.radius))
    config = EncoderDecoderConfig(grid, hoods, 1, 1, (16, 32), (1, 1), (2, 4), (2, 2), decoder_dim=16)
    if rank == 0:
        print(ga.parallel.partition(hoods[0], mesh.size()).estimate(heads=2, dim=8))

    torch.manual_seed(0)  # the same weights on every process
    whole = config.build(device=device)
    torch.nn.init.normal_(whole.head.projection.weight, std=0.1)  # it starts at zero
    model = ga.parallel.parallelize(copy.deepcopy(whole), mesh["domain"])
    shards = model.shards
    averaging = DistributedDataParallel(model)
    area = torch.tensor(grid.weights / grid.weights.sum(), dtype=torch.float32, device=device)
    smooth = ga.nn.Resample(grid, coarse).to(device), ga.nn.Resample(coarse, grid, "average").to(device)

    def sample(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise and what is smooth in it, whole; a real program reads ``shards.tokens()`` of its files."""
        torch.manual_seed(seed)
        noise = torch.randn(2, *grid.shape, 1, device=device)
        return noise.movedim(-1, 1), smooth[0](smooth[1](noise)).movedim(-1, 1)

    def loss(noise: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Of the whole, from the points of this process."""
        error = averaging(shards.shard(noise)) - shards.shard(target)
        return shards.sum((error.square() * shards.shard(area[None])).sum()) / len(noise)

    noise, target = sample(0)
    expected = ((whole(noise) - target).square() * area).sum() / len(noise)
    expected.backward()
    found = loss(noise, target)
    found.backward()
    pairs = [(found.detach(), expected.detach())]
    pairs += [(p.grad, q.grad) for p, q in zip(model.parameters(), whole.parameters(), strict=True)]
    error = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-6)) for a, b in pairs)
    if rank == 0:
        print(f"loss and gradients differ from one process by {error:.1e} at most")

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(options.steps):
        found = loss(*sample(step))
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        if rank == 0 and step in (0, options.steps - 1):
            print(f"step {step + 1}: loss {found.item():.4f}")
    dist.destroy_process_group()
    return error


if __name__ == "__main__":
    main()
