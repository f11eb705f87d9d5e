"""What moves when a neighborhood is divided among processes, and whether computing hides it.

    python benchmarks/parallel.py              # estimates, some minutes on one core
    python benchmarks/parallel.py --overlap    # two processes, a message that takes half of the time
    python benchmarks/parallel.py --tokens 256 512 1024    # forward and backward of up to 12.6 million tokens

Estimates are counted edge by edge, without any process: halo keys beside all keys of others, the balance of
the edges, and bytes in a forward pass for eight heads of 64 in float32. ``--tokens`` attends from each
point of HEALPix grids of those sides to its 25 nearest, one head of 16 in float32, by one process and by
four, and compares sums over outputs and gradients. Writes ``benchmarks/results/parallel.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from about import about

import geoattn as ga
from geoattn._files import cache_folder, write_text
from geoattn.neighborhoods import Neighborhood
from geoattn.parallel import exchange

RESULTS = Path(__file__).parent / "results" / "parallel.json"
PROCESSES = (4, 16, 64, 512)
CASES: dict[str, Callable[[], Neighborhood]] = {
    "181×360, 7°": lambda: ga.geodesic(ga.grids.equiangular(181, 360), radius=7.0),
    "721×1440, 3°": lambda: ga.geodesic(ga.grids.equiangular(721, 1440), radius=3.0),
    "HEALPix 256, 7°": lambda: ga.geodesic(ga.grids.healpix(256), radius=7.0),
    "icosahedral 7, 2 hops": lambda: ga.k_hop(ga.grids.icosahedral(7), 2),
    "16×64×64, 5×7×7": lambda: ga.window(ga.grids.cartesian((16, 64, 64)), (5, 7, 7)),
}


def estimates(cases: list[str]) -> list[dict[str, Any]]:
    table = []
    print(
        f"{'':24}{'ranks':>6}{'own':>9}{'halo mean':>11}{'max':>8}{'of others':>11}{'interior':>10}", end=""
    )
    print(f"{'balance':>9}{'MB received':>13}{'gathering':>11}{'seconds':>9}")
    for case in cases:
        hood = CASES[case]()
        for n in PROCESSES:
            start = time.perf_counter()
            told = ga.parallel.partition(hood, n).estimate(heads=8, dim=64)
            seconds = time.perf_counter() - start
            gathering = (told.keys.sum() - told.keys) * 8 * 2 * 64 * 4
            row = {
                "case": case,
                "processes": n,
                "own": float(told.keys.mean()),
                "halo": float(told.halo.mean()),
                "halo_max": int(told.halo.max()),
                "halo_share": told.share,
                "interior": float(told.interior.sum() / told.queries.sum()),
                "balance": told.balance,
                "exchange": told.exchange,
                "megabytes": float(told.bytes_by["halo"].mean() / 1e6),
                "megabytes_gathering": float(gathering.mean() / 1e6),
                "seconds": seconds,
            }
            table.append(row)
            print(
                f"{case:24}{n:6}{row['own']:9,.0f}{row['halo']:11,.0f}{row['halo_max']:8,}"
                f"{row['halo_share']:11.1%}{row['interior']:10.0%}{row['balance']:9.3f}"
                f"{row['megabytes']:13.1f}{row['megabytes_gathering']:11.1f}{seconds:9.1f}",
                flush=True,
            )
    return table


# ---------------------------------------------------------------- hiding the message


def overlap(rounds: int) -> dict[str, Any]:
    """Seconds of a forward and a backward pass, with and without a message that takes half of it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answer.json"
        mp.spawn(_overlapped, (2, str(Path(folder) / "store"), str(file), rounds), 2)
        return dict(json.loads(file.read_text()))


def _overlapped(rank: int, n: int, store: str, file: str, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=n)
    hood = ga.geodesic(ga.grids.healpix(64), radius=7.0)
    part = ga.parallel.partition(hood, dist.group.WORLD)
    told = part.estimate()
    torch.manual_seed(rank)
    q, k, v = (torch.randn(1, part.held(hood.query_grid), 2, 32, requires_grad=True) for _ in range(3))

    def passes() -> tuple[float, float]:
        dist.barrier()
        start = time.perf_counter()
        out = ga.parallel.attention(q, k, v, part)
        middle = time.perf_counter()
        out.backward(torch.ones_like(out))
        return middle - start, time.perf_counter() - middle

    for _ in range(2):
        passes()
    slow = _SlowNetwork()
    found: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    plain = [statistics.median(side) for side in zip(*(passes() for _ in range(rounds)), strict=True)]
    for _ in range(rounds):  # turn and turn about, in one process
        slow.delay = 0.0
        found["without"].append(passes())
        slow.delay = 0.5 * plain[0]
        forward, _ = passes()
        slow.delay = 0.5 * plain[1]
        _, backward = passes()
        found["with"].append((forward, backward))
    without, delayed = (
        [statistics.median(side) for side in zip(*found[name], strict=True)] for name in ("without", "with")
    )
    if rank == 0:
        inside = float(told.interior.sum() / told.queries.sum())
        answer = {
            "case": repr(hood),
            "interior": inside,
            "delay": [0.5 * seconds for seconds in plain],
            "seconds": without,
            "seconds_delayed": delayed,
            "longer": [b / a - 1 for a, b in zip(without, delayed, strict=True)],
        }
        write_text(json.dumps(answer), Path(file))
    dist.barrier()
    dist.destroy_process_group()


class _SlowNetwork:
    """What departs arrives no earlier than ``delay`` seconds later; waiting sleeps."""

    def __init__(self) -> None:
        self.delay, self._due = 0.0, 0.0
        send, wait = exchange.all_to_all, exchange.wait

        def all_to_all(*arguments: Any) -> torch.Tensor:
            self._due = time.perf_counter() + self.delay
            return send(*arguments)

        def waiting(x: torch.Tensor) -> torch.Tensor:
            time.sleep(max(0.0, self._due - time.perf_counter()))
            return wait(x)

        exchange.all_to_all, exchange.wait = all_to_all, waiting  # type: ignore[assignment]


# ---------------------------------------------------------------- many tokens


def many(nside: int, processes: int) -> dict[str, Any]:
    """One attention over a HEALPix grid, forward and backward: seconds, memory and sums of the results."""
    with tempfile.TemporaryDirectory() as folder:
        file, cache = Path(folder) / "answer.json", Path(folder) / "cache"
        cache.mkdir()
        kernels = cache_folder("cpu").resolve()
        kernels.mkdir(parents=True, exist_ok=True)
        (cache / "cpu").symlink_to(kernels)  # kernels are kept, and plans are made anew
        # glibc would keep freed arrays of less than 32 MB for later, and these would count
        changed = {"GEOATTN_CACHE": str(cache), "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
        with mock.patch.dict(os.environ, changed):
            arguments = processes, folder, str(file), nside
            task = mp.get_context("spawn").Process(target=_together, args=arguments)
            task.start()
            task.join()
        if not file.exists():
            raise RuntimeError(f"{processes} processes did not get through nside {nside}: see above")
        return dict(json.loads(file.read_text()))


def _together(n: int, folder: str, file: str, nside: int) -> None:
    """Start the processes, which share the program, and watch the memory of all."""
    torch.set_num_threads(1)
    _load()
    before = _memory([os.getpid()])
    hood = ga.nearest(ga.grids.healpix(nside), k=25)
    arguments = (n, str(Path(folder) / "store"), file, hood)
    fork = mp.get_context("fork")
    workers = [fork.Process(target=_attended, args=(rank, *arguments)) for rank in range(n)]
    for worker in workers:
        worker.start()
    most = 0.0
    while any(worker.is_alive() for worker in workers):
        most = max(most, _memory([os.getpid(), *(worker.pid for worker in workers)]))
        time.sleep(0.3)
    answer = json.loads(Path(file).read_text())
    answer |= {"gigabytes": (most - before) / 1e9, "bytes_per_token": (most - before) / answer["tokens"]}
    write_text(json.dumps(answer), Path(file))


def _load() -> None:
    """Do all of it on a few tokens: programs are loaded before memory is counted, and once for all."""
    hood = ga.nearest(ga.grids.healpix(4), k=25)
    ga.parallel.partition(hood, 2)
    operands = [_waves(np.arange(hood.query_grid.size), pitch) for pitch in (0.7, 1.1, 1.3)]
    torch.autograd.grad(ga.attention(*operands, hood).square().sum(), operands)


def _attended(rank: int, n: int, store: str, file: str, hood: Neighborhood) -> None:
    patience = datetime.timedelta(hours=2)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=n, timeout=patience)
    start = time.perf_counter()
    part, tokens = None, np.arange(hood.query_grid.size)
    if n > 1:
        part = ga.parallel.partition(hood, dist.group.WORLD)
        tokens = part.cut.tokens(hood.query_grid, rank)
    seconds = [time.perf_counter() - start]
    q, k, v = (_waves(tokens, pitch) for pitch in (0.7, 1.1, 1.3))
    for _ in range(2):  # the first makes plans
        dist.barrier()
        start = time.perf_counter()
        out = ga.attention(q, k, v, hood) if part is None else ga.parallel.attention(q, k, v, part)
        middle = time.perf_counter()
        found = torch.autograd.grad(out.square().sum(), (q, k, v))
        dist.barrier()
        seconds += [middle - start, time.perf_counter() - middle]
        sums = torch.stack([_squares(x) for x in (out.detach(), *found)])
        del out, found
    dist.all_reduce(sums)
    told: list[Any] = [None] * n
    dist.all_gather_object(told, seconds)
    if rank == 0:
        answer = {
            "nside": hood.query_grid.nside,  # type: ignore[attr-defined]
            "tokens": hood.query_grid.size,
            "processes": n,
            "seconds_partition": max(times[0] for times in told),
            "seconds_first": max(sum(times[1:3]) for times in told),
            "seconds_forward": max(times[3] for times in told),
            "seconds_backward": max(times[4] for times in told),
            "sums": sums.tolist(),
        }
        write_text(json.dumps(answer), Path(file))
    dist.barrier()
    dist.destroy_process_group()


def _waves(tokens: np.ndarray, pitch: float) -> torch.Tensor:  # type: ignore[type-arg]
    """Numbers that follow from the token, ``[1, n, 1, 16]``: the same on any number of processes."""
    made = torch.empty(1, len(tokens), 1, 16)
    for start in range(0, len(tokens), 1 << 18):  # in double precision, piece by piece
        phase = torch.as_tensor(tokens[start : start + (1 << 18)])[:, None] * pitch + torch.arange(16)
        made[0, start : start + (1 << 18), 0] = torch.sin(phase.double())
    return made.requires_grad_()


def _squares(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([part.double().square().sum() for part in x.split(1 << 18, 1)]).sum()


def _memory(processes: Iterable[int | None]) -> float:
    """Bytes that processes hold, what several share counted once."""
    found = 0.0
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            found += next(float(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return found


def table(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'tokens':>12}{'processes':>11}{'GB':>7}{'bytes per token':>17}{'partition':>11}{'first':>8}",
        end="",
    )
    print(f"{'forward':>9}{'backward':>10}  sums of squares of out, dq, dk, dv")
    for row in rows:
        sums = " ".join(f"{x:.9g}" for x in row["sums"])
        print(
            f"{row['tokens']:12,}{row['processes']:11}{row['gigabytes']:7.2f}{row['bytes_per_token']:17,.0f}"
            f"{row['seconds_partition']:10.1f}s{row['seconds_first']:7.1f}s{row['seconds_forward']:8.2f}s"
            f"{row['seconds_backward']:9.2f}s  {sums}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--overlap", action="store_true", help="measure how much of a message is hidden")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="cases of the table")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, nargs="+", metavar="NSIDE", help="sides of HEALPix grids")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 4], help="with --tokens (%(default)s)"
    )
    options = parser.parse_args()
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    result |= about("python benchmarks/parallel.py")
    if options.tokens:
        asked = [(nside, n) for nside in options.tokens for n in options.processes]
        kept = [r for r in result.get("tokens", []) if (r["nside"], r["processes"]) not in asked]
        for nside, n in asked:
            kept.append(many(nside, n))
            table(kept[-1:])
            result["tokens"] = sorted(kept, key=lambda r: (r["tokens"], r["processes"]))
            write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", RESULTS)
        table(result["tokens"])
    elif options.overlap:
        result["overlap"] = found = overlap(options.rounds)
        for name, side in (("forward", 0), ("backward", 1)):
            print(
                f"{name}: {found['seconds'][side]:.3f} s, with a message of {found['delay'][side]:.3f} s "
                f"{found['seconds_delayed'][side]:.3f} s, {found['longer'][side]:+.1%}"
            )
        print(f"{found['interior']:.0%} of the queries have all keys at home: {found['case']}")
    else:
        kept = [row for row in result.get("estimates", []) if row["case"] not in options.cases]
        result["estimates"] = kept + estimates(options.cases)
    RESULTS.parent.mkdir(exist_ok=True)
    write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", RESULTS)
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
