"""What commands on a user's own stores share: their options, and how they are opened."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from typing import Any

#: options of a grid's recognition, as Python has them
RECOGNITION = ("lat", "lon", "tolerance", "use_areas")


def add_stores(parser: argparse.ArgumentParser, words: str = "that follow one another in time") -> None:
    """The stores, as the first words of the command."""
    parser.add_argument(
        "stores",
        nargs="+",
        metavar="STORE",
        help=f"zarr store, zip file of one, netCDF file or file.nc/group; or several {words}",
    )


def add_recognition(parser: argparse.ArgumentParser) -> None:
    """How a grid is recognised where conventions leave it open."""
    parser.add_argument("--lat", metavar="NAME", help="the coordinate of latitudes, if nothing tells")
    parser.add_argument("--lon", metavar="NAME", help="the coordinate of longitudes, if nothing tells")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="SHARE",
        help="largest accepted deviation of points, in units of the grid's spacing (0.001)",
    )
    parser.add_argument(
        "--use-areas",
        action=argparse.BooleanOptionalAction,
        help="whether cell areas and bounds in the store give the weights (they do)",
    )


def recognition(options: argparse.Namespace) -> dict[str, Any]:
    """The options of :func:`add_recognition` that were given."""
    return {name: value for name in RECOGNITION if (value := getattr(options, name)) is not None}


def add_variables(parser: argparse.ArgumentParser) -> None:
    """Which variables, and where values may be missing."""
    parser.add_argument(
        "--variables",
        nargs="+",
        metavar="NAME[=LEVEL,…]",
        help="variables, each with the levels to take of it (all on the grid, at all levels)",
    )
    parser.add_argument(
        "--masked",
        nargs="+",
        metavar="NAME[=static]",
        help="variables with missing values, static or changing, beside those where the first, the last or "
        "eight steps between show some (none)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Where results go beside the table."""
    parser.add_argument("--json", metavar="FILE", help="file for the results in JSON")


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Where the work is done."""
    parser.add_argument("--workers", type=int, help="processes of this machine that share the work (none)")
    parser.add_argument("--cluster", metavar="ADDRESS", help="dask.distributed scheduler, tcp://host:8786")


@contextlib.contextmanager
def cluster(options: argparse.Namespace) -> Iterator[Any]:
    """The client that is asked for, or None."""
    if not options.workers and not options.cluster:
        yield None
        return
    from distributed import Client, LocalCluster

    before = dict(os.environ)
    local: dict[str, Any] = {"n_workers": options.workers, "threads_per_worker": 1, "dashboard_address": None}
    with contextlib.ExitStack() as stack:
        place = options.cluster or stack.enter_context(LocalCluster(**local))  # type: ignore[no-untyped-call]
        # a local cluster gives its processes one thread each, and would leave that to all later children
        os.environ.clear()
        os.environ.update(before)
        yield stack.enter_context(Client(place))  # type: ignore[no-untyped-call]


def period(words: list[str] | None) -> slice | None:
    """The first and the last time, of two words."""
    return slice(*words) if words else None


def save_json(options: argparse.Namespace, result: Any) -> None:
    """Write the results where they are asked for."""
    if options.json:
        from geoattn._files import write_json

        write_json(result, options.json)
        print(f"The results are in {options.json}")
