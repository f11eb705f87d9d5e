"""The tables of ``docs/systems.md``, made from the results of ``benchmarks/systems.py``."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from pages import table

WAYS = ("forward", "backward")


def tables(content: dict[str, Any]) -> dict[str, str]:
    """Name → table, with a line about where it was measured; what is not there is said to be not run."""
    found = {}
    for name, (part, make) in MAKERS.items():
        kept = content["parts"].get(part, {"rows": {}})
        rows = kept["rows"] and make(kept["rows"])
        found[name] = "\n".join([*rows, "", measured(kept)]) if rows else "Not run."
    return found


def measured(part: dict[str, Any]) -> str:
    """Where and when, and whether anything else was at work."""
    where, rows = part["where"], part["rows"].values()
    dates = sorted({row["date"] for row in rows})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    loaded = sum(row["loaded"] for row in rows)
    busy = f", **loaded: other processes were at work during {loaded} of {len(rows)} rows**" if loaded else ""
    versions = where["versions"]
    threads = f"{where['threads']} thread{'s' * (where['threads'] > 1)}"
    devices = " and ".join(sorted({row["device"] for row in rows}))  # lasting rows are of any machine
    machine = f"{devices}, {threads}, {where['dtype']}, torch {versions['torch']}"
    return f"{machine}, {when}{busy}."


def number(value: float) -> str:
    """Two or three digits that count."""
    if value >= 99.5:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def both(values: dict[str, float], factor: float = 1.0) -> str:
    """Forward / backward."""
    return " / ".join(number(factor * values[way]) if way in values else "–" for way in WAYS)


def ratios(seconds: dict[str, Any], name: str, to: str) -> str:
    return both({way: seconds[name][way] / seconds[to][way] for way in WAYS if way in seconds[name]})


# -- one for each table ------------------------------------------------------------------------------------


def fna(rows: dict[str, Any]) -> list[str]:
    head = (
        "tokens, window",
        "keys",
        "fused, ms",
        "unfused",
        "dense SDPA",
        "gain: bound, predicted",
        "measured",
    )
    return table(
        head,
        (
            (
                name,
                number(row["predicted"]["keys"]),
                both(row["seconds"]["fused"], 1e3),
                ratios(row["seconds"], "unfused", "fused"),
                ratios(row["seconds"], "dense SDPA", "fused"),
                f"{number(row['predicted']['pairs'])}, {number(row['predicted']['lanes'])}",
                ratios(row["seconds"], "dense, our kernels", "fused"),
            )
            for name, row in rows.items()
        ),
    )


def memory(rows: dict[str, Any]) -> list[str]:
    names = ("fused", "unfused", "dense SDPA")

    def cells(row: dict[str, Any]) -> list[str]:
        return [number(m) if (m := row["megabytes"][name]) is not None else "–" for name in names]

    head = ("tokens, window", "q alone, MB", *(f"{name}, MB" for name in names))
    return table(
        head, ((name, number(row["megabytes_of_operands"]), *cells(row)) for name, row in rows.items())
    )


def trained(rows: dict[str, Any]) -> list[str]:
    cells = [row for row in rows.values() if "scores" in row]
    scores = ("area_mean_iou", "mean_iou", "area_accuracy")
    by_model = {
        name: [c for c in cells if c["model"] == name] for name in dict.fromkeys(c["model"] for c in cells)
    }

    def told(values: list[float]) -> str:
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.3f}{spread}"

    lines = [
        (
            name,
            f"{len(found)}",
            f"{found[0]['parameters']:,}",
            *(told([c["scores"][s] for c in found]) for s in scores),
        )
        for name, found in by_model.items()
    ]
    seeds = [{c["seed"]: c["scores"] for c in found} for found in by_model.values()]
    common = sorted(set.intersection(*map(set, seeds))) if seeds else []
    if len(seeds) == 2 and common:
        pairs = {s: [seeds[1][seed][s] - seeds[0][seed][s] for seed in common] for s in scores}
        difference = [f"{min(pairs[s]):+.3f} … {max(pairs[s]):+.3f}" for s in scores]
        lines.append(("difference, seed by seed", f"{len(common)}", "", *difference))
    return (
        table(("model", "seeds", "parameters", *(s.replace("_", " ") for s in scores)), lines)
        if lines
        else []
    )


def heard(rows: dict[str, Any]) -> list[str]:
    shares = rows.get("receptive field", {}).get("share_of_tokens", {})
    if not shares:
        return []
    depth = len(next(iter(shares.values())))
    head = (
        "share of the tokens that a query has heard of after",
        *(f"{b} block{'s' * (b > 1)}" for b in range(1, depth)),
    )
    return table(head, ((name, *(f"{s:.0%}" for s in share[1:])) for name, share in shares.items()))


def step(rows: dict[str, Any]) -> list[str]:
    row = rows.get("a step")
    if row is None:
        return []
    told = row["predicted"]
    lines = [(f"{name}, 8 panoramas, ms", both(seconds, 1e3)) for name, seconds in row["seconds"].items()]
    for kind in ("local", "dilated"):
        gains = (number(told[kind][name]) for name in ("pairs", "lanes"))
        lines.append((f"{kind} window, gain over dense: bound, predicted", ", ".join(gains)))
    return table(("", "forward / backward"), lines)


def gna_predicted(rows: dict[str, Any]) -> list[str]:
    found = {name.removesuffix(", predicted"): row for name, row in rows.items() if "gain" not in row}
    head = ("shape, window, stride", "keys", "bound", "tiles 64×64", "groups 16×8", "this CPU")
    kinds = ("keys", "pairs", "tiles", "groups", "lanes")
    return table(head, ((name, *(number(row["predicted"][k]) for k in kinds)) for name, row in found.items()))


def gna_measured(rows: dict[str, Any]) -> list[str]:
    found = {name.removesuffix(", measured"): row for name, row in rows.items() if "gain" in row}
    head = ("shape, window, stride", "ours, ms", "gain: bound", "predicted", "measured")
    return table(
        head,
        (
            (
                name,
                both(row["seconds"]["ours"], 1e3),
                number(row["predicted"]["pairs"]),
                number(row["predicted"]["lanes"]),
                both(row["gain"]),
            )
            for name, row in found.items()
        ),
    )


def hilbert_blocks(rows: dict[str, Any]) -> list[str]:
    orders = ("row by row", "along the curve", "of our plan")
    head = ("pattern", "keys", "all blocks", *orders, "our plan's gain by tiles")
    return table(
        head,
        (
            (
                name,
                number(row["predicted"]["keys"]),
                f"{row['blocks']['all']:,}",
                *(f"{row['blocks'][order]:,}" for order in orders),
                number(row["predicted"]["tiles"]),
            )
            for name, row in rows.items()
        ),
    )


def hilbert_times(rows: dict[str, Any]) -> list[str]:
    orders = ("row by row", "along the curve")

    def flex(row: dict[str, Any], order: str) -> str:
        seconds = row["seconds"].get(f"FlexAttention, {order}")
        return number(1e3 * seconds["forward"]) if seconds else "–"

    head = (
        "pattern",
        *(f"FlexAttention {order}, ms" for order in orders),
        "ours, ms",
        "ours: predicted gain",
        "measured",
    )
    return table(
        head,
        (
            (
                name,
                *(flex(row, order) for order in orders),
                both(row["seconds"]["ours"], 1e3),
                number(row["predicted"]["lanes"]),
                both(row["gain"]),
            )
            for name, row in rows.items()
        ),
    )


def patterns(rows: dict[str, Any]) -> list[str]:
    kinds = ("keys", "pairs", "tiles", "groups", "lanes")
    head = ("pattern", "keys", "bound", "tiles 64×64", "groups 16×8", "this CPU", "measured", "ms")
    return table(
        head,
        (
            (
                name,
                *(number(row["predicted"][k]) for k in kinds),
                both(row["gain"]),
                both(row["seconds"]["ours"], 1e3),
            )
            for name, row in rows.items()
        ),
    )


#: name of the table → part of the results, what makes it
MAKERS: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "fused": ("fna", fna),
    "memory": ("fna", memory),
    "trained": ("dina", trained),
    "heard": ("dina", heard),
    "step": ("dina", step),
    "strides predicted": ("gna", gna_predicted),
    "strides measured": ("gna", gna_measured),
    "blocks": ("hilbert", hilbert_blocks),
    "curves": ("hilbert", hilbert_times),
    "patterns": ("patterns", patterns),
}
