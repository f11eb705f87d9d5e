"""The processes of a run: those that torchrun started, along the samples of a batch and along the domain."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from geoattn.parallel.agreement import agreed
from geoattn.training.config import FitConfig

Result = TypeVar("Result")

#: after which a process that waits for another in vain gives up
PATIENCE = datetime.timedelta(minutes=10)


def start(config: FitConfig) -> DeviceMesh | None:
    """The mesh ``("data", "domain")`` of the processes that torchrun started; None in a program of one.

    Neighbors along the domain have consecutive ranks, which torchrun places on one node.

    Raises
    ------
    ValueError
        If ``config.domain`` needs more processes than there are, or does not divide their number.
    """
    domain = config.domain
    started = dist.is_available() and (dist.is_initialized() or dist.is_torchelastic_launched())
    if not started:
        if domain > 1:
            raise ValueError(
                f"domain={domain} divides each field among as many processes, and there is one: start "
                f"them, torchrun --nproc-per-node {domain} -m geoattn train …"
            )
        return None
    on_gpu = config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if not dist.is_initialized():
        if on_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    world = dist.get_world_size()
    if world % domain:
        raise ValueError(
            f"domain={domain} does not divide the {world} processes that torchrun started: take a "
            "divisor, or other processes"
        )
    sizes = (world // domain, domain)
    return init_device_mesh("cuda" if on_gpu else "cpu", sizes, mesh_dim_names=("data", "domain"))


def first(action: Callable[[], Result]) -> Result:
    """Do it in the first process, then in the others, which find what it left; an error is one of all."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return action()
    result, failure = None, None
    if dist.get_rank() == 0:
        try:
            result = action()
        except Exception as error:
            failure = error
    assert dist.group.WORLD is not None
    agreed(dist.group.WORLD, "what the first of them does", "", None, failure)
    return result if dist.get_rank() == 0 else action()  # type: ignore[return-value]


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def trainer_options(config: FitConfig) -> dict[str, Any]:
    """What ``lightning.Trainer`` has to know of the processes."""
    if start(config) is None:
        return {"devices": config.devices, "num_nodes": config.nodes, "strategy": config.strategy}
    world = dist.get_world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if world == 1:
        return {"devices": 1, "strategy": config.strategy}
    nodes = world // local
    if config.nodes not in (1, nodes):
        raise ValueError(f"nodes={config.nodes}, and torchrun started processes on {nodes}: leave nodes=1")
    strategy: Any = config.strategy
    if strategy in ("auto", "ddp"):
        strategy = DDPStrategy(cluster_environment=Started())
    elif config.domain > 1:
        raise ValueError(
            f"domain={config.domain} divides fields among processes, and strategy {strategy!r} does not: "
            "leave strategy='auto'"
        )
    return {"devices": local, "num_nodes": nodes, "strategy": strategy}


class Started(ClusterEnvironment):
    """Processes that are there, in a group that they have: Lightning starts none."""

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        return int(os.environ.get("MASTER_PORT", 0))

    @staticmethod
    def detect() -> bool:
        return dist.is_available() and dist.is_initialized()

    def world_size(self) -> int:
        return dist.get_world_size()

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return dist.get_rank()

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return int(os.environ.get("LOCAL_RANK", dist.get_rank()))

    def node_rank(self) -> int:
        return int(os.environ.get("GROUP_RANK", 0))
