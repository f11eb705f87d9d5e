"""How ``benchmarks/gpu.py`` times: replays of CUDA graphs, over operands that take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from gpu_peers import Call
from torch import Tensor

import geoattn as ga

#: seconds spent on timing one implementation in one direction
BUDGET = 0.5
#: bytes that operands take turns over: well beyond the second cache of any device
ROTATED = 400_000_000


class Seconds(NamedTuple):
    """A time, and how it was taken: "graph", or "events" and why no graph could be."""

    value: float
    how: str


def rotated(hood: ga.neighborhoods.Neighborhood, heads: int, dim: int) -> list[list[Tensor]]:
    """Sets of q, k, v and the output's gradient, together larger than any cache."""
    shapes = [(1, *grid.shape, heads, dim) for grid in (hood.query_grid, hood.key_grid, hood.key_grid)]
    shapes.append(shapes[0])
    return [
        [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in shapes]
        for _ in range(copies(2 * sum(torch.Size(shape).numel() for shape in shapes)))
    ]


def copies(set_bytes: int) -> int:
    """How many sets of so many bytes to take turns over."""
    return max(2, -(-ROTATED // set_bytes))


def repeats(once: float, budget: float = BUDGET) -> int:
    """How many runs of so many seconds fit a budget, within 5 and 200."""
    return int(min(200, max(5, budget / max(once, 1e-6))))


def median_seconds(run: Callable[[], Any], stream: Any = None, budget: float = BUDGET) -> float:
    """Median over CUDA events of as many runs as fit the budget."""
    stream = stream or torch.cuda.current_stream()
    with torch.cuda.stream(stream):
        run()
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        count = repeats(time.perf_counter() - start, budget)
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for begin, end in events:
            begin.record()
            run()
            end.record()
        torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events) / 1e3


def replayed(run: Callable[[], Any], stream: Any) -> Seconds:
    """Time of a run as the replay of a graph, without what it costs the host; else as it is called.

    The run has happened on ``stream`` before, so that nothing is compiled or allocated for the first time
    while the graph is captured.
    """
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
        return Seconds(median_seconds(graph.replay, stream), "graph")
    except Exception as reason:  # not everything can be captured
        torch.cuda.synchronize()
        why = f"{type(reason).__name__}: {reason}".splitlines()[0][:120]
        return Seconds(median_seconds(run, stream), f"events, since a graph was not possible: {why}")


def times(call: Call, sets: list[list[Tensor]]) -> dict[str, Any]:
    """Seconds forward, and backward by itself, of one call; and how each was timed."""
    stream = torch.cuda.Stream()

    def forward() -> None:
        with torch.no_grad():
            for q, k, v, _ in sets:
                call(q, k, v)

    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        forward()
        forward()
        taken = {"forward": replayed(forward, stream)}
        leaves = [[x.detach().requires_grad_() for x in operands[:3]] for operands in sets]
        # backward passes run on the stream of their forward pass, which the graph is captured on
        outs = [call(*each) for each in leaves]

        def backward() -> None:
            for out, each, (*_, grad) in zip(outs, leaves, sets, strict=True):
                torch.autograd.grad(out, each, grad, retain_graph=True)

        backward()
        backward()
        taken["backward"] = replayed(backward, stream)
    torch.cuda.current_stream().wait_stream(stream)
    return {
        **{direction: each.value / len(sets) for direction, each in taken.items()},
        "timed by": {direction: each.how for direction, each in taken.items()},
    }
