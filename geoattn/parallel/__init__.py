"""One attention over many processes, on :mod:`torch.distributed`.

A grid is cut into compact pieces, one for each process, and a neighborhood says exactly which keys of
the others a piece needs: that halo travels, and nothing else. ::

    part = ga.parallel.partition(hood, mesh["domain"])   # or a process group
    out = ga.parallel.attention(q, k, v, part)           # local tensors [B, n_local, H, D]
    part.estimate(heads=8, dim=64)                       # tokens and bytes of each process
    model = ga.parallel.parallelize(model, mesh["domain"])

``ga.parallel.partition(hood, 64)`` estimates for 64 processes in a program of one.
"""

from geoattn.parallel.attention import attention
from geoattn.parallel.cut import Cut, cut
from geoattn.parallel.estimate import Estimate
from geoattn.parallel.parallelize import parallelize
from geoattn.parallel.partition import Partition, partition
from geoattn.parallel.shards import Shards

__all__ = ["Cut", "Estimate", "Partition", "Shards", "attention", "cut", "parallelize", "partition"]
