"""What ``benchmarks/gpu.py`` makes of its records: rates, tables, targets, a picture. Needs no device."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import gpu_peers as peers

from geoattn._files import write_text
from geoattn.plot import figures

Record = dict[str, Any]
DIRECTIONS = ("forward", "backward")

#: useful TFLOP/s of a forward pass that are aimed at on a Hopper GPU: (pattern, head dim) → least. Those of
#: planes are NATTEN's, as published for its Hopper kernels (Generalized Neighborhood Attention, 2025).
FORWARD_AIMS = {
    ("sphere 361×720, 7°", 64): 200,
    ("sphere 361×720, 7°", 128): 270,
    ("256×256 plane, 80×80", 128): 318,
    ("32768 plane, 2048", 128): 362,
    ("30×48×80 plane, 18×24×24", 128): 186,
}
#: of the forward pass's rate
BACKWARD_SHARE = 0.55
HARMONICS_RATIO = 100
FLASH_RATIO = 0.97
FIRST_CALLS = {"cold": 2.0, "cached": 0.05}


def ours(record: Record) -> str | None:
    """The faster of our backends in a case, forward and backward together."""
    seconds = record["seconds"]
    ran = [name for name in peers.OURS if name in seconds]
    return min(ran, key=lambda name: sum(seconds[name][d] for d in DIRECTIONS), default=None)


def rates(record: Record, name: str, ceiling: float) -> dict[str, dict[str, float]]:
    """Useful and raw arithmetic of one of our backends per second, and the raw as a share of the ceiling.

    Raw is what the plan of 64×64 tiles computes in groups of 16×8; other plans compute other amounts.
    """
    found = {}
    for direction in DIRECTIONS:
        seconds, work = record["seconds"][name][direction], record["work"]
        raw = work["raw"][direction] / seconds
        found[direction] = {
            "useful": work["useful"][direction] / seconds,
            "raw": raw,
            "share": raw / ceiling,
        }
    return found


def table(report: dict[str, Any]) -> str:
    """All cases in words: times, rates, ratios, and the prediction beside what was measured."""
    lines = []
    ceiling = report["limits"]["flops per second"]
    for record in report["cases"]:
        lines += ["", f"{record['case']}   ({record['work']['pairs'] / 1e6:.1f} M pairs)"]
        best = ours(record)
        own = record["seconds"].get(best)
        for name, seconds in record["seconds"].items():
            row = f"  {name:<26}"
            for direction in DIRECTIONS:
                ratio = f"{seconds[direction] / own[direction]:.2f}x" if own else ""
                star = "" if seconds["timed by"][direction] == "graph" else "*"
                row += f"{direction} {seconds[direction] * 1e3:>9.3f} ms{star:<1} {ratio:>8}   "
            lines.append(row.rstrip())
        for name in peers.OURS:
            if name in record["seconds"]:
                found = rates(record, name, ceiling)
                words = (
                    f"{direction} {rate['useful'] / 1e12:.0f} useful and {rate['raw'] / 1e12:.0f} raw "
                    f"TFLOP/s, {rate['share']:.0%} of the matrix product"
                    for direction, rate in found.items()
                )
                lines.append(f"  {name}: {'; '.join(words)}")
        gain = record["work"]["predicted gain over dense"]
        dense = [record["seconds"][n]["forward"] for n in peers.DENSE if n in record["seconds"]]
        measured = f"{min(dense) / own['forward']:.1f}x" if dense and own else "not measured"
        lines.append(
            f"  gain over dense: predicted {gain['tiles']:.1f}x by tiles, {gain['groups']:.1f}x by groups; "
            f"measured {measured}"
        )
        lines += [f"  without {name}: {reason}" for name, reason in record["absent"].items()]
    return "\n".join(lines)


def targets(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Each aim for a Hopper GPU, and whether this run reached it."""
    records, ceiling = report["cases"], report["limits"]["flops per second"]
    measured = [(record, name) for record in records if (name := ours(record))]
    rows: list[tuple[str, str]] = []

    def judge(aim: str, values: list[float], least: float) -> None:
        state = "not measured"
        if values:
            state = f"{'reached' if min(values) >= least else 'missed'}: {min(values):.3g}"
        rows.append((aim, state))

    for (pattern, dim), least in FORWARD_AIMS.items():
        found = [
            rates(record, name, ceiling)["forward"]["useful"] / 1e12
            for record, name in measured
            if (record["pattern"], record["dim"]) == (pattern, dim)
        ]
        judge(f"forward ≥ {least} useful TFLOP/s, {pattern}, head dim {dim}", found, least)
    shares = []
    for record, name in measured:
        rate = rates(record, name, ceiling)
        shares.append(rate["backward"]["useful"] / rate["forward"]["useful"])
    judge(f"backward ≥ {BACKWARD_SHARE} of forward, every case", shares, BACKWARD_SHARE)
    for direction in DIRECTIONS:
        found = _ratios(measured, "torch-harmonics", direction, "sphere")
        judge(f"{direction} ≥ {HARMONICS_RATIO}× torch-harmonics, every sphere", found, HARMONICS_RATIO)
    for other in ("NATTEN", "FlexAttention, our order"):
        for direction in DIRECTIONS:
            judge(f"{direction} ≥ 1× {other}, every case", _ratios(measured, other, direction), 1)
    found = _ratios(measured, "dense flash", "forward", "everything")
    judge(f"everything at least {FLASH_RATIO} of dense flash", found, FLASH_RATIO)
    calls = report.get("first calls", {})
    for state, most in FIRST_CALLS.items():
        first = [seconds[state][0] for seconds in calls.values() if seconds.get(state)]
        found_state = "not measured"
        if first:
            found_state = f"{'reached' if max(first) <= most else 'missed'}: {max(first):.3g} s"
        rows.append((f"first forward call, {state}, at most {most:g} s", found_state))
    return rows


def _ratios(measured: list[tuple[Record, str]], other: str, direction: str, pattern: str = "") -> list[float]:
    """Another's time over ours, in all cases of a pattern that both ran."""
    return [
        record["seconds"][other][direction] / record["seconds"][name][direction]
        for record, name in measured
        if other in record["seconds"] and pattern in record["pattern"]
    ]


def write(report: dict[str, Any], folder: Path, name: str) -> None:
    """Judge the targets, and write the report and its picture."""
    report["targets"] = targets(report)
    save(report, folder / f"{name}.json")
    draw(report, folder / f"{name}.png")


def save(report: dict[str, Any], path: Path) -> None:
    """Write the report whole or not at all."""
    write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", path)


def draw(report: dict[str, Any], path: Path) -> None:
    """Times of the others relative to ours, for each case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = [(record, name) for record in report["cases"] if (name := ours(record))]
    known = (*peers.OURS, *peers.SAME, *peers.DENSE)
    names = [n for n in known if any(n in record["seconds"] for record, _ in records)]
    figure, axes = plt.subplots(1, 2, figsize=(14, 1.5 + 0.45 * len(records)), sharey=True)
    for axis, direction in zip(axes, DIRECTIONS, strict=True):
        for (at, (record, best)), (place, name) in itertools.product(enumerate(records), enumerate(names)):
            if name in record["seconds"]:
                ratio = record["seconds"][name][direction] / record["seconds"][best][direction]
                axis.barh(at + 0.8 * place / len(names), ratio, 0.8 / len(names), color=f"C{place}")
        axis.set(xscale="log", title=f"{direction}: time relative to the faster of our backends")
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_yticks([at + 0.4 for at in range(len(records))], [r["case"] for r, _ in records])
    axes[0].invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=f"C{place}") for place in range(len(names))]
    axes[1].legend(handles, names, fontsize=8)
    figure.suptitle(f"{report['device']}, bfloat16, {report['date']}")
    figure.tight_layout()
    figures.save(figure, path, dpi=120)
    plt.close(figure)
