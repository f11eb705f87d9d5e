"""``geoattn doctor``: what is here, what it would use, and whether it computes right."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from geoattn._extras import EXTRAS, install
from geoattn.commands import cache, tables

#: what geoattn stands on, and what it uses where it is installed
PACKAGES = (
    *("torch", "numpy", "scipy", "numba", "safetensors"),
    *(
        "xarray",
        "zarr",
        "netCDF4",
        "dask",
        "distributed",
        "lightning",
        "jsonargparse",
        "matplotlib",
        "pyproj",
    ),
    *("torchmetrics", "tensorboard", "wandb", "timm", "torch-harmonics", "natten", "triton", "cuda-bindings"),
)
#: dtypes of the self-test
DTYPES = ("float32", "float64", "bfloat16")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say which versions, threads, devices, backends and caches there are, which backend a call takes and "
        "why, and hold every backend that runs here to the dense float64 oracle, forward and backward."
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="time for the self-test; 0 leaves it out (%(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    sections = {"Versions": _versions, "Machine": _machine, "Backends": _backends, "Caches": cache.listing}
    for title, tell in sections.items():
        print(f"{title}\n\n{tell()}\n", flush=True)
    if options.seconds <= 0:
        return 0
    print("Self-test: random problems, out, lse and all gradients, against the dense float64 oracle\n")
    print("The first run on a machine compiles the kernels, which takes longer.\n", flush=True)
    rows = list(tested(options.seconds))
    print(tables.table(("backend", "device", "problems", "seconds", "result"), rows))
    wrong = [f"{name} on {device}" for name, device, _, _, result in rows if result.startswith("WRONG")]
    print(
        f"\n{', '.join(wrong)}: what it computes here is wrong; please report it."
        if wrong
        else "\nAll is well."
    )
    return 1 if wrong else 0


def _versions() -> str:
    from geoattn._version import installed

    rows: list[tuple[str, str, str]] = [
        ("geoattn", installed(), ""),
        ("python", platform.python_version(), ""),
    ]
    for name in PACKAGES:
        module = name.replace("-", "_")
        try:
            rows.append((name, version(name), ""))
        except PackageNotFoundError:
            rows.append((name, "not installed", install(module) if module in EXTRAS else ""))
    return tables.table(("package", "version", ""), rows)


def _machine() -> str:
    import torch

    settings = [
        f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "GEOATTN_CACHE") if name in os.environ
    ]
    rows: list[tuple[str, Any]] = [
        ("processor", f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"),
        ("processors of this process", _processors()),
        ("threads of torch, which ours are too", torch.get_num_threads()),
        *((f"CUDA device {i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())),
        ("environment", " ".join(settings) or "none of ours is set"),
    ]
    return tables.table(("", ""), rows).partition("\n")[2].partition("\n")[2]


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices() -> list[str]:
    import torch

    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _backends() -> str:
    """Each backend with its state, and its part in a call for a disc on the sphere, by ``ga.explain``."""
    import torch

    import geoattn.backends as backends
    from geoattn.functional import explain
    from geoattn.grids import gaussian
    from geoattn.neighborhoods import geodesic

    grid = gaussian(16, 32)
    hood = geodesic(grid, radius=20.0)
    told = []
    for device in _devices():
        q = torch.zeros(1, *grid.shape, 2, 32, device=device)
        told.append(explain(q, q, q, hood))
    rows = [(name, state, *(calls[name] for calls in told)) for name, state in backends.status().items()]
    header = ("backend", "on this machine", *(f"a disc on {device}, float32" for device in _devices()))
    orders = (f"{device}: {', '.join(backends.AUTOMATIC[device])}" for device in _devices())
    return f"{tables.table(header, rows)}\n\nbackend=None tries, in this order: {'; '.join(orders)}"


def tested(seconds: float) -> Iterator[tuple[str, str, int, float, str]]:
    """Each backend that runs here: its device, how many problems it ran, in what time, and how it did."""
    import torch

    import geoattn.backends as backends
    from geoattn.testing import cases, check, refusal

    dtypes = tuple(getattr(torch, name) for name in DTYPES)
    able = [(n, d) for d in _devices() for n in backends.AUTOMATIC[d] if backends.status()[n] == "available"]
    for name, device in able:
        began, ran, result = time.perf_counter(), 0, ""
        for case in cases(0, 1000, dtypes):
            if time.perf_counter() - began > seconds / len(able):
                break
            if refusal(case, name, device) is not None:
                continue
            try:
                check(case, name, device)
            except AssertionError as reason:
                result = f"WRONG: {reason}"
                break
            ran += 1
        yield name, device, ran, time.perf_counter() - began, result or ("agrees" if ran else "refused all")
