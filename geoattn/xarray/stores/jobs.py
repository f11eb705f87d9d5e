"""Work that falls into pieces: map each, combine what they give, finish. Here, on threads, or on a cluster.

What a piece gives is small and adds up, and pieces need not know of each other: any system that maps and
combines can run a job, ``job.finish(functools.reduce(job.combine, map(job.map, job.pieces)))``.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from geoattn import _extras

Part = TypeVar("Part")
Result = TypeVar("Result")

#: on local threads, so many pieces for each are handed to dask at once: what is read of them may be held
AT_ONCE = 4


class Job(ABC, Generic[Part, Result]):
    """Work in pieces. It pickles, as pieces and parts do, and holds no data: pieces are read where mapped."""

    @property
    @abstractmethod
    def pieces(self) -> Sequence[Any]:
        """What to map, in an order in which parts are best combined."""

    @abstractmethod
    def map(self, piece: Any) -> Part:
        """What one piece gives, whoever asks, wherever."""

    @abstractmethod
    def combine(self, one: Part, other: Part) -> Part:
        """Two parts as one; in any order the result is the same up to rounding."""

    @abstractmethod
    def finish(self, part: Part) -> Result:
        """The result, of all parts as one."""

    def parts(self) -> Iterator[tuple[int, Part]]:
        """All parts, in this process, with the numbers of pieces that each is of."""
        for piece in self.pieces:
            yield 1, self.map(piece)


class Pieces(Sequence[Any]):
    """So many pieces, each made when it is asked for and kept by nobody: what is read of it goes with it."""

    def __init__(self, count: int, make: Callable[[int], Any]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: Any) -> Any:
        chosen = range(self._count)[place]
        return [self._make(i) for i in chosen] if isinstance(chosen, range) else self._make(chosen)


def run(
    job: Job[Part, Result], client: Any = None, progress: Callable[[int], object] | None = None
) -> Result:
    """Map all pieces of a job, combine the parts in the order of the pieces, and finish.

    The order is the same wherever pieces are mapped, and so is the result, to the bit.

    Parameters
    ----------
    client
        A ``dask.distributed.Client``: its workers map the pieces. Without it pieces of dask arrays are mapped
        by dask, on the current client if there is one and else on threads, and others one after the other.
    progress
        Called with the number of pieces that are done, time after time.
    """
    client = client or (_current_client() if _of_dask(job) else None)
    if client is not None:
        found = _on_cluster(job, client)
    elif _of_dask(job):
        found = _on_threads(job)
    else:
        found = job.parts()
    whole: Part | None = None
    for count, part in found:
        whole = part if whole is None else job.combine(whole, part)
        if progress is not None:
            progress(count)
    if whole is None:
        raise ValueError("the job has no pieces: there is nothing to map")
    return job.finish(whole)


def _on_cluster(job: Job[Part, Result], client: Any) -> Iterator[tuple[int, Part]]:
    futures = client.compute(_tasks(job, job.pieces))
    try:
        for place, future in enumerate(futures):
            part = future.result()
            futures[place] = None  # a worker need not keep it
            yield 1, part
    finally:
        client.cancel([future for future in futures if future is not None])


def _on_threads(job: Job[Part, Result]) -> Iterator[tuple[int, Part]]:
    _extras.require("a job on threads", "dask")
    from dask.base import compute

    count = AT_ONCE * (os.cpu_count() or 1)
    for start in range(0, len(job.pieces), count):
        tasks = _tasks(job, job.pieces[start : start + count])
        for part in compute(*tasks):  # type: ignore[no-untyped-call]
            yield 1, part


def _tasks(job: Job[Part, Result], pieces: Sequence[Any]) -> list[Any]:
    """Each piece to be mapped, what it holds of dask computed before."""
    _extras.require("a job in pieces", "dask")
    from dask.delayed import delayed

    shared = delayed(job, pure=False, traverse=False)  # one copy for each worker
    call = delayed(_map, pure=False)
    return [call(shared, piece) for piece in pieces]


def _map(job: Job[Part, Result], piece: Any) -> Part:
    return job.map(piece)


def _of_dask(job: Job[Part, Result]) -> bool:
    """Whether the first piece holds anything lazy of dask."""
    if "dask" not in sys.modules or not len(job.pieces):
        return False
    from dask.base import is_dask_collection

    piece = job.pieces[0]
    held = piece if isinstance(piece, tuple) else (piece,)
    return any(is_dask_collection(part) for part in held)


def _current_client() -> Any:
    """The client of ``dask.distributed`` that is in use, or None."""
    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    try:
        return default_client()  # type: ignore[no-untyped-call]
    except ValueError:
        return None
