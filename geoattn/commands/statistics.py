"""``geoattn statistics``: mean, spread and range of every channel of stores of any size."""

from __future__ import annotations

import argparse
from typing import Any

from geoattn.commands import stores, tables


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Take the mean, the standard deviation and the range of every channel, and of its changes, weighted "
        "by area. Called again after it was stopped, with the same options, it goes on where it was."
    )
    stores.add_stores(parser)
    parser.add_argument("--output", help="small zarr store to save the statistics in (they are only shown)")
    stores.add_variables(parser)
    parser.add_argument(
        "--times", nargs=2, metavar=("FIRST", "LAST"), help="first and last time to use, both included (all)"
    )
    parser.add_argument("--lag", type=int, default=1, help="steps over which changes are taken (%(default)s)")
    parser.add_argument(
        "--gaps",
        choices=("error", "split"),
        default="error",
        help="refuse gaps in time, or take no change across them (%(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it is there")
    stores.add_cluster(parser)
    stores.add_recognition(parser)
    stores.add_json(parser)


def run(options: argparse.Namespace) -> int:
    from geoattn.xarray import statistics
    from geoattn.xarray.stores.joined import open_stores
    from geoattn.xarray.stores.looking import choose
    from geoattn.xarray.stores.progress import bar

    ds = open_stores(options.stores)
    schema = choose(ds, options.variables, options.masked, **stores.recognition(options))
    print(schema.grid)
    for variable in schema.variables:
        if variable.mask != "none":
            print(f"{variable.name}: a {variable.mask} mask hides what is missing")
    with stores.cluster(options) as client, bar("block") as tell:
        found = statistics(
            options.stores,
            schema,
            times=stores.period(options.times),
            lag=options.lag,
            gaps=options.gaps,
            output=options.output,
            overwrite=options.overwrite,
            client=client,
            progress=tell,
        )
    print(f"{found.steps:,} steps, {found.first} to {found.last}; changes over {found.lag} steps\n")
    print(table(found))
    if options.output:
        print(f"\nThe statistics are in {options.output}: ga.xarray.Statistics.open({options.output!r})")
    stores.save_json(options, records(found))
    return 0


def records(found: Any) -> list[dict[str, Any]]:
    """Each channel as JSON types; None where nothing was counted."""
    ds = found.to_dataset()
    names = ["variable", "level", "units", *ds.data_vars]
    rows = zip(*(ds[name].values.tolist() for name in names), strict=True)
    return [
        {name: None if value != value else value for name, value in zip(names, row, strict=True)}
        for row in rows
    ]


def table(found: Any) -> str:
    """Channels in rows."""
    header = ("channel", "units", "mean", "std", "min", "max", "std of change", "values")
    rows = [
        (
            f"{r['variable']} {r['level']}".strip(),
            r["units"],
            *(r[f"state_{name}"] for name in ("mean", "std", "minimum", "maximum")),
            r["tendency_std"],
            r["state_count"],
        )
        for r in records(found)
    ]
    return tables.table(header, rows)
