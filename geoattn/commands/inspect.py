"""``geoattn inspect STORE``: what is in a store, and what would be refused."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from geoattn.commands import stores, tables


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say which grid a store lies on and why, what its variables, levels, times, units and missing values "
        "are, and what would be refused, with the remedy. Values are those of the first step, the last, and "
        "eight between."
    )
    stores.add_stores(parser)
    stores.add_recognition(parser)
    parser.add_argument("--full", action="store_true", help="look at every step, not at ten of them")
    stores.add_json(parser)


def run(options: argparse.Namespace) -> int:
    from geoattn.xarray.stores.joined import open_stores

    ds = open_stores(options.stores)
    report = _report(ds, options)
    print("\n\n".join(_sections(report)))
    stores.save_json(options, report)
    return 0


def _report(ds: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is found, as JSON types."""
    from geoattn.grids import recognise
    from geoattn.xarray.stores.looking import look
    from geoattn.xarray.stores.progress import bar

    refused: list[dict[str, str]] = []
    found = None
    try:
        found = recognise(ds, **stores.recognition(options))
    except ValueError as reason:
        refused.append({"by": "every command", "reason": _words(reason)})
    kinds = {str(name): _samples(ds, str(name), found) for name in ds.data_vars}
    numbers = {n: d for n, d in kinds.items() if d is not None}
    with bar("step") as tell:
        seen, whole = 0, 1

        def count(new: int) -> None:
            nonlocal seen
            seen += new
            tell(seen, whole)

        whole = _steps(ds, numbers, options.full)
        looks = look(ds, numbers, options.full, count)
    described = [_variable(ds, name, looks.get(name), found) for name in kinds]
    times = [dict(_time(ds, str(dim))) for dim in ds.dims if _is_dated(ds, str(dim))]
    refused += [r for entry in times for r in entry.pop("refused")]
    refused += _refusals(ds, found, looks, options)
    refused = [dict(pairs) for pairs in dict.fromkeys(tuple(one.items()) for one in refused)]
    for one in refused:
        one["reason"] += _in_flags(one["reason"])
    return {
        "stores": list(options.stores),
        "bytes": int(ds.nbytes),
        "grid": repr(found.grid) if found else None,
        "grid_reason": repr(found).partition("\n")[2] if found else None,
        "grid_name": found.name if found else None,
        "times": times,
        "variables": described,
        "looked_at": {name: [one.steps, one.of] for name, one in looks.items()},
        "refused": refused,
    }


def _sections(report: dict[str, Any]) -> list[str]:
    count, size = len(report["variables"]), report["bytes"]
    shown = f"{size / 1e9:.3g} GB" if size > 1e9 else f"{size / 1e6:.3g} MB"
    named = f", {report['grid_name']!r} in the catalogue" if report["grid_name"] else ""
    grid = f"{report['grid']}{named}\n{report['grid_reason']}"
    rows = [
        (
            *(v[key] for key in ("name", "units", "dims", "type", "levels")),
            "" if v["missing"] is None else f"{v['missing']:.3g} ({v['mask']})" if v["missing"] else "none",
            v["minimum"],
            v["maximum"],
        )
        for v in report["variables"]
    ]
    header = ("variable", "units", "dimensions", "type", "levels", "missing", "min", "max")
    steps, of = max(report["looked_at"].values(), key=lambda pair: pair[1], default=(0, 0))
    looked = f"all {of:,} steps." if steps == of else f"the first, the last and {steps - 2} steps between of "
    looked += "" if steps == of else f"{of:,}; --full looks at all."
    refused = [f"- by {r['by']}: {r['reason']}" for r in report["refused"]]
    return [
        f"{', '.join(report['stores'])}: {count} variables, {shown} when read",
        f"grid: {grid}" if report["grid"] else "grid: none is recognised; the reason is below",
        *(entry["words"] for entry in report["times"]),
        f"{tables.table(header, rows)}\nMissing values and ranges are those of {looked}",
        "\n".join(["What would be refused, and what to do:", *refused])
        if refused
        else "Nothing would be refused.",
    ]


def _samples(ds: Any, name: str, found: Any) -> tuple[str, ...] | None:
    """The dimensions along which samples of a variable follow one another; None if it is no field."""
    from geoattn.xarray.schema.dimensions import sort_dimensions

    array = ds[name]
    if array.dtype.kind not in "biuf" or (found and not set(found.dims) <= set(array.dims)):
        return None
    if found is None:
        return tuple(str(dim) for dim in array.dims[:1] if _is_dated(ds, str(dim)))
    try:
        return tuple(sort_dimensions(ds, name, found.dims, (), ())[0])
    except ValueError:  # refused below; looked at along what is dated
        return tuple(str(dim) for dim in array.dims if _is_dated(ds, str(dim)))


def _steps(ds: Any, samples: dict[str, tuple[str, ...]], full: bool) -> int:
    import math

    from geoattn.xarray.stores.looking import looked_at

    sizes = [math.prod(int(ds.sizes[dim]) for dim in dims) for dims in samples.values()]
    return sum(size if full else len(looked_at(size)) for size in sizes)


def _is_dated(ds: Any, dim: str) -> bool:
    from geoattn.xarray.schema.times import are_dates

    return dim in ds.coords and are_dates(ds[dim].values)


def _variable(ds: Any, name: str, seen: Any, found: Any) -> dict[str, Any]:
    array = ds[name]
    places = found.dims if found else _places(ds)
    beside = [
        dim for dim in array.dims if not _is_dated(ds, str(dim)) and dim not in places and dim in ds.coords
    ]
    levels = "; ".join(f"{dim} {_listed(ds[dim])}" for dim in beside)
    finite = seen is not None and seen.minimum == seen.minimum
    return {
        "name": name,
        "units": str(array.attrs.get("units", "")),
        "dims": ", ".join(f"{dim} {size}" for dim, size in array.sizes.items()),
        "type": str(array.dtype),
        "levels": levels,
        "missing": seen.missing / max(seen.values, 1) if seen else None,
        "mask": seen.mask if seen else None,
        "minimum": seen.minimum if finite else None,
        "maximum": seen.maximum if finite else None,
    }


def _places(ds: Any) -> set[str]:
    """The dimensions of latitudes and longitudes that make no grid."""
    from geoattn.grids.coordinates import NAMES, Source

    source = Source(ds)
    names = [name for axis in NAMES for name in source.candidates(axis)]
    return {str(dim) for name in names for dim in source.variables[name].dims}


def _listed(coordinate: Any) -> str:
    from geoattn.xarray.scores.lead_times import in_hours

    real = coordinate.dtype.kind == "f"
    shown = [in_hours(coordinate, v) or (f"{v:g}" if real else str(v)) for v in coordinate.values]
    return " ".join(shown if len(shown) <= 8 else [*shown[:4], "…", shown[-1]])


def _time(ds: Any, dim: str) -> Iterator[tuple[str, Any]]:
    """The times along a dimension: in words, and what is refused of them."""
    import numpy as np

    from geoattn.xarray.schema.times import check_times, length_of_step, segments, settled, stamp
    from geoattn.xarray.words import counted

    times = settled(ds[dim].values)
    refused, gaps, usual = [], [], None
    try:
        check_times(times, dim)
        stretches = segments(times, dim, "split")
        gaps = [f"{stamp(times[stop - 1])} to {stamp(times[stop])}" for _, stop in stretches[:-1]]
        longest = max(stretches, key=lambda stretch: stretch[1] - stretch[0])
        usual = length_of_step(times[slice(*longest)])
        segments(times, dim, "error")
    except ValueError as reason:
        refused.append({"by": "statistics and training", "reason": str(reason)})
    every = f" every {usual / np.timedelta64(1, 'h'):g} h" if usual is not None else ""
    words = (
        f"{dim}: {len(times):,} steps{every}, {stamp(times[0])} to {stamp(times[-1])}" if len(times) else ""
    )
    if gaps:
        words += f"\n  {counted(len(gaps), 'gap')}: {'; '.join(gaps[:3])}{'; …' if len(gaps) > 3 else ''}"
    elif not refused:
        words += ", no gaps"
    yield "dim", dim
    yield "steps", len(times)
    yield "words", words
    yield "gaps", gaps
    yield "refused", refused


def _refusals(
    ds: Any, found: Any, looks: dict[str, Any], options: argparse.Namespace
) -> list[dict[str, str]]:
    """What a schema, statistics and training would say."""
    from geoattn.xarray.schema.schema import Schema, on_grid
    from geoattn.xarray.stores.reader import Reader
    from geoattn.xarray.stores.store import Given

    if found is None:
        return []
    said, fit = [], []
    for name in on_grid(ds, found.dims):
        one = looks.get(name)
        if one is not None and one.infinite:
            what = f"{one.infinite} values of {name!r} are infinite: only NaN stands for a missing value, "
            fill = f"ds[{name!r}] = ds[{name!r}].where(np.isfinite(ds[{name!r}]))"
            said.append({"by": "statistics and training", "reason": what + fill})
        if one is not None and one.mask != "none":
            where = "at the same places in all steps" if one.mask == "static" else "at changing places"
            said.append(
                {
                    "by": "a schema without masks",
                    "reason": f"{name!r} has missing values {where} that were looked at: "
                    f"Schema.of(ds, masked={{{name!r}: {one.mask!r}}}); commands find that by themselves, "
                    f"or are told by --masked {name}={one.mask}",
                }
            )
        masked = {name: one.mask} if one is not None and one.mask != "none" else {}
        try:
            Schema.of(ds, [name], masked=masked, **stores.recognition(options))
            fit.append(name)
        except ValueError as reason:
            said.append({"by": "a schema", "reason": _words(reason)})
    try:
        if fit:
            Reader(Given(ds), Schema.of(ds, fit, **stores.recognition(options)))
        else:
            said.append({"by": "a schema", "reason": f"no variable is a field on {found.dims}"})
    except ValueError as reason:
        said.append({"by": "statistics and training", "reason": _words(reason)})
    return said


def _in_flags(reason: str) -> str:
    """What a reason names of Python, as the commands that would be refused have it."""
    from geoattn.commands import statistics
    from geoattn.commands.running import flagged, flags_of

    if "--" in reason:  # it has them
        return ""
    parser = argparse.ArgumentParser(add_help=False)
    statistics.arguments(parser)
    told = flagged(reason, flags_of(parser._actions))
    trained = [_of_training(word) for word in told if word.startswith("--")]
    also = f"; of geoattn train: {'; '.join(trained)}" if trained else ""
    return f" (on the command line: {'; '.join(told)}{also})" if told else ""


def _of_training(flag: str) -> str:
    """A flag of a command on stores, as ``geoattn train forecast`` has it."""
    if flag.startswith("--no-"):
        return f"--data.{flag.removeprefix('--no-').replace('-', '_')} false"
    return f"--data.{flag.removeprefix('--')}"


def _words(reason: BaseException) -> str:
    return " ".join([str(reason), *getattr(reason, "__notes__", [])])
