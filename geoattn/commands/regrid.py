"""``geoattn regrid``: a store on another grid."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

from geoattn.commands import stores


def arguments(parser: argparse.ArgumentParser) -> None:
    from geoattn.xarray import Regridder

    known: Any = import_module(Regridder.__module__)  # what the library has, by its own table
    parser.description = "Write stores on another grid, some times at once: memory stays flat."
    stores.add_stores(parser)
    parser.add_argument("--output", required=True, help="zarr store to write; it must not exist")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--grid", help="a name of the catalogue (geoattn grids), or as healpix(64), gaussian(32, 64)"
    )
    target.add_argument("--like", metavar="STORE", help="a store whose grid and coordinates are taken")
    parser.add_argument(
        "--method",
        choices=known.METHODS,
        default="auto",
        help="how values are found; auto averages to much coarser grids, else interpolates (%(default)s)",
    )
    parser.add_argument(
        "--missing",
        choices=known.MISSING,
        default="refuse",
        help="what becomes of missing values: refused, left out of means, or let through (%(default)s)",
    )
    parser.add_argument(
        "--normalisation",
        choices=known.NORMALISATIONS,
        default="fracarea",
        help="conservative: means over what is there of a cell, or over the whole of it (%(default)s)",
    )
    parser.add_argument(
        "--least",
        type=float,
        default=known.LEAST,
        metavar="SHARE",
        help="share of a target that must be there, else it is missing; 0 keeps all (%(default)s)",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="SCRIP file that keeps the weights: read if it is there, of CDO and ESMF too, else written",
    )
    parser.add_argument("--variables", nargs="+", metavar="NAME", help="variables to regrid (all)")
    stores.add_cluster(parser)
    stores.add_recognition(parser)


def run(options: argparse.Namespace) -> int:
    from geoattn.grids.spelling import from_words
    from geoattn.xarray.regrid import OPTIONS
    from geoattn.xarray.regridding.stores import regrid_store
    from geoattn.xarray.schema.schema import describes_grid
    from geoattn.xarray.stores.joined import open_stores
    from geoattn.xarray.stores.progress import bar

    ds = open_stores(options.stores)
    if options.variables:
        if unknown := [name for name in options.variables if name not in ds.data_vars]:
            raise ValueError(f"there are no variables {unknown}; there are {list(ds.data_vars)}")
        keep = {*options.variables, *(name for name in ds.data_vars if describes_grid(ds, name))}
        ds = ds[[name for name in ds.data_vars if name in keep]]
    target = open_stores(options.like) if options.like else from_words(options.grid)
    with stores.cluster(options) as client, bar("block") as tell:
        path = regrid_store(
            ds,
            target,
            options.output,
            **{name: getattr(options, name) for name in OPTIONS if hasattr(options, name)},
            client=client,
            progress=tell,
            **stores.recognition(options),
        )
    print(open_stores(path).attrs["regridding"])
    print(f"The store is {path}")
    return 0
