"""A few processes that stay for all tests of a module: each test sends them a function to run together."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import tempfile
import time
import traceback
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

#: what most tests need; a package that is not there is left out
IMPORTED = ["numba", "scipy.spatial", "xarray", "zarr", "lightning", "geoattn.parallel", "geoattn.training"]
#: seconds after which a process that waits in vain gives up
PATIENCE = 180


class Crew:
    """``crew(function, …)`` runs a function of a module in every process, and lists what each returns."""

    def __init__(self, n: int, backend: str = "gloo"):
        self.n = n
        context = mp.get_context("spawn" if backend == "nccl" else "forkserver")
        if backend != "nccl":  # one process imports, and all are forked from it
            context.set_forkserver_preload(IMPORTED)
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / "store"
        self._ends = [context.Pipe() for _ in range(n)]
        self._processes = [
            context.Process(target=_work, args=(rank, n, str(file), theirs, backend), daemon=True)
            for rank, (_, theirs) in enumerate(self._ends)
        ]
        for process, (_, theirs) in zip(self._processes, self._ends, strict=True):
            process.start()
            theirs.close()  # so that the end of a process is the end of its pipe

    def __call__(self, function: Any, *arguments: Any, patience: float = 2 * PATIENCE) -> list[Any]:
        """What each process returns; an error of any of them is raised here with its trace."""
        for ours, _ in self._ends:
            ours.send((function.__module__, function.__name__, arguments))
        said = []
        for rank, (ours, _) in enumerate(self._ends):
            ended = self._processes[rank].sentinel
            ready = wait([ours, ended], patience)
            assert ours in ready, f"process {rank} {'ended' if ended in ready else 'does not answer'}"
            said.append(ours.recv())
        wrong = [f"process {rank}:\n{answer}" for rank, (good, answer) in enumerate(said) if not good]
        assert not wrong, "\n".join(wrong)
        return [answer for _, answer in said]

    def survivors(self, function: Any, *arguments: Any, patience: float) -> dict[int, tuple[str, float]]:
        """What the processes say that outlive a function which kills one of them, and after how long."""
        start, said = time.monotonic(), {}
        for ours, _ in self._ends:
            ours.send((function.__module__, function.__name__, arguments))
        waiting = {self._ends[rank][0]: rank for rank in range(self.n)}
        while waiting and (ready := wait(list(waiting), start + patience - time.monotonic())):
            for end in ready:
                rank = waiting.pop(end)  # type: ignore[call-overload]
                with contextlib.suppress(EOFError, ConnectionError):
                    said[rank] = end.recv()[1], time.monotonic() - start  # type: ignore[union-attr]
        assert not waiting, f"processes {sorted(waiting.values())} do not answer within {patience} s"
        return said

    def close(self) -> None:
        for ours, _ in self._ends:
            with contextlib.suppress(ConnectionError):
                ours.send(None)
        for process in self._processes:
            process.join(2)
            process.kill()
        self._folder.cleanup()


def _work(rank: int, n: int, file: str, end: Any, backend: str) -> None:
    faulthandler.enable()
    torch.set_num_threads(1)
    patience = timedelta(seconds=PATIENCE)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{file}", rank=rank, world_size=n, timeout=patience)
    while (job := end.recv()) is not None:
        module, name, arguments = job
        try:
            end.send((True, getattr(importlib.import_module(module), name)(*arguments)))
        except BaseException:
            end.send((False, traceback.format_exc()))
    dist.destroy_process_group()
