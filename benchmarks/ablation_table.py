"""The tables of the ablation: ``results/ablation.json``, its picture, and those of ``docs/ablation.md``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pages
from ablation_cells import DATA, LENGTH, TASKS, VALIDATION, steps_of, trivial
from ablation_results import REFERENCE, TWO, chosen_rate, length, of, read, rows_of, spread
from about import about

from geoattn._files import write_json, write_text
from geoattn.plot import figures
from geoattn.tasks.geometry import SETTINGS

PAGE = pages.DOCS / "ablation.md"
#: where the settings of geometry stand in short
SUMMARY = pages.DOCS / "results.md"
SCORES = {
    "shallow-water": "error ÷ persistence, less is better",
    "segmentation": "mean IoU by area, more is better",
    "depth": "mean relative error by area, less is better",
}
#: what is tested, in the words of the tables
TESTS = {"test": "", "upright": "upright", "any": "any attitude"}
#: of these, those that are drawn
UPRIGHT = {"shallow-water": "test", "segmentation": "upright", "depth": "upright"}
#: lengths of runs by which it is judged whether validation is flat, in those of the tables
FACTORS = (0.25, 0.5, 1.0, 2.0)
#: comparisons whose rows are trained alike: their rows, if not all, and the fields of their cells
GROUPS: dict[str, dict[str, Any]] = {
    "trained upright": {},
    "trained on any attitude": {"rows": SETTINGS, "attitude": "any"},
    "twice the steps": {"rows": SETTINGS, "longer": 2.0},
    "few data, trained upright": {"data": "few"},
    "few data, trained on any attitude": {"rows": SETTINGS, "attitude": "any", "data": "few"},
    "few data, twice the steps": {"rows": SETTINGS, "longer": 2.0, "data": "few"},
    "half the area": {"rows": SETTINGS, "size": "small"},
    "twice the resolution": {"rows": TWO, "scale": "fine"},
}


def write_table(results: Path, work: Path) -> None:
    """Read every cell, compare, and write the file, the picture and the page."""
    found, costs = read(results), json.loads((results / "cost.json").read_text())
    compared = {
        task: {group: rows_of(task, found, results, **kind) for group, kind in GROUPS.items()}
        for task in TASKS
    }
    kept = results.with_suffix(".json")
    before = json.loads(kept.read_text()) if kept.exists() else {}
    content = {
        **about("python benchmarks/ablation.py --table"),
        "reference": REFERENCE,
        "length": LENGTH,
        "cost": costs["seconds_per_step"],
        "keys": costs["keys"],
        "machines": sorted({f["machine"] for f in found.values()}),
        "cells": len(found),
        "tables": compared,
        "flatness": {data: {task: flatness(task, found, results, data) for task in TASKS} for data in DATA},
        "practice": {task: practice(task, found) for task in TASKS if task != "shallow-water"},
        "trivial": before.get("trivial")
        or {data: {task: trivial(task, data, work) for task in TASKS} for data in DATA},
    }
    write_json(content, kept)
    draw(content, kept.with_suffix(".png"))
    if PAGE.exists():
        write_text(filled(PAGE.read_text(), content), PAGE)
    if SUMMARY.exists():
        write_text(pages.filled(SUMMARY.read_text(), tables(content)), SUMMARY)
    print(rendered(content))


def flatness(task: str, found: dict[str, Any], results: Path, data: str = "all") -> dict[str, Any]:
    """Whether validation is flat: what it says after a quarter, half, once and twice the steps.

    Returns
    -------
    dict
        ``rows``: row → ``ends``, by the steps of seed 0; ``change`` when the steps are doubled, mean over the
        seeds that have run so long, and their ``seeds``; ``spread`` over all seeds of the task's length, and
        how much the ``last`` eighth of those runs changes, as a share.
        ``change`` and ``spread``: of all rows, the mean, and the root of the mean of squares.
    """
    rows = {row: _flatness(task, row, found, results, data) for row in SETTINGS}
    changes = [row["change"] for row in rows.values() if row["change"] is not None]
    spreads = [row["spread"] for row in rows.values() if row["spread"] is not None]
    return {
        "rows": rows,
        "change": float(np.mean(changes)) if changes else None,
        "spread": float(np.sqrt(np.mean(np.square(spreads)))) if spreads else None,
    }


def _flatness(task: str, row: str, found: dict[str, Any], results: Path, data: str) -> dict[str, Any]:
    name, _ = VALIDATION[task]
    rate, steps = chosen_rate(task, row, found, results, data), length(task, row, results, data)
    curves: dict[float, dict[int, list[float]]] = {}
    for factor in FACTORS:
        alike = {"task": task, "row": row, "rate": rate, "steps": steps_of(factor * steps), "data": data}
        cells = of(found, **alike, size="large", attitude="upright", scale="coarse")
        curves[factor] = {c["cell"]["seed"]: [v for _, v in c["validation"][name]] for c in cells}
    once, twice = curves[1.0], curves[2.0]
    seeds = sorted(once.keys() & twice.keys())
    last = [curve[-1] / curve[-2] - 1.0 for curve in once.values() if len(curve) > 1]
    return {
        "ends": {str(steps_of(f * steps)): curve[0][-1] for f, curve in curves.items() if 0 in curve},
        "seeds": seeds,
        "change": float(np.mean([twice[s][-1] - once[s][-1] for s in seeds])) if seeds else None,
        "spread": spread(np.array([curve[-1] for curve in once.values()])),
        "last": float(np.mean(last)) if last else None,
    }


def practice(task: str, found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Scores of the model for use, by the steps that it was trained for."""
    cells = of(found, task=task, scale="practice")
    ordered = sorted(cells, key=lambda result: result["cell"]["steps"])
    return {str(c["cell"]["steps"]): c["scores"] | {"parameters": c["parameters"]} for c in ordered}


# words ------------------------------------------------------------------------------------------------


def filled(page: str, content: dict[str, Any]) -> str:
    """The page with its tables, between the two marks, made anew."""
    made = f"<!-- tables: benchmarks/ablation.py --table -->\n\n{rendered(content)}\n<!-- end of tables -->"
    return re.sub(r"<!-- tables: .*?<!-- end of tables -->", lambda _: made, page, flags=re.DOTALL)


def tables(content: dict[str, Any]) -> dict[str, str]:
    """The tables of the page of results, by name."""
    return {
        "ablation": summary(content, "trained upright"),
        "ablation of few": summary(content, "few data, trained upright"),
    }


def summary(content: dict[str, Any], group: str) -> str:
    """Settings of geometry in a group, by what is tested.

    Differences are from the sphere, with the wider of both intervals; in bold where neither holds zero.
    """
    columns = [
        ("shallow-water", "test"),
        *((task, test) for task in TASKS[1:] for test in ("upright", "any")),
    ]
    head = ["", *(f"{task}, {TESTS[test]}".rstrip(", ") for task, test in columns)]
    rows = [
        [row, *(_difference(content["tables"][task][group][row], test) for task, test in columns)]
        for row in SETTINGS
    ]
    return "\n".join(pages.table(head, rows))


def _difference(row: dict[str, Any] | None, test: str) -> str:
    if row is None:
        return "not run"
    found = row[test]
    mean = f"{found['mean']:.3f}"
    intervals = [i for i in (found.get("over_seeds"), found.get("over_samples")) if i is not None]
    if len(intervals) < 2:
        return mean
    low, high = max(intervals, key=lambda interval: interval[1] - interval[0])
    told = f"{found['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
    clear = all(interval[0] * interval[1] > 0 for interval in intervals)
    return f"{mean}, **{told}**" if clear else f"{mean}, {told}"


def rendered(content: dict[str, Any]) -> str:
    """All tables, in Markdown."""
    parts = []
    for task, groups in content["tables"].items():
        parts += [
            f"### {task}: {SCORES[task]}\n",
            _sizes(task, content),
            *(_flat(task, data, content) for data in DATA),
        ]
        for group, rows in groups.items():
            if group.endswith("trained on any attitude") and task == "shallow-water":
                continue
            # what does not look was scored on data of the one resolution
            blind = {} if group == "twice the resolution" else content["trivial"][_data(group)][task]
            parts += [f"{task}, {group}:\n", _table(task, rows, content["cost"][task], blind)]
            if any(row and row["others"] for row in rows.values()):
                parts += [f"{task}, {group}, by channel and further away:\n", _others(rows)]
        if task in content["practice"]:
            parts += [f"{task}, a model for use at 128×256:\n", _practice(content["practice"][task])]
    return "\n".join(parts)


def _sizes(task: str, content: dict[str, Any]) -> str:
    keys = content["keys"][task]
    lines = ["| row | neighborhoods and their mean numbers of keys |", "|---|---|"]
    lines += [f"| {row} | {'; '.join(stages)} |" for row, stages in keys.items()]
    return "\n".join(lines) + "\n"


def _data(group: str) -> str:
    amount: str = GROUPS[group].get("data", "all")
    return amount


def _flat(task: str, data: str, content: dict[str, Any]) -> str:
    found, once = content["flatness"][data][task], LENGTH[data][task]
    steps = [steps_of(factor * once) for factor in FACTORS]
    head = ["row", *map(str, steps), f"{once} → {2 * once}", "seeds", "spread", "last eighth"]
    rows = []
    for name, row in found["rows"].items():
        ends = [f"{row['ends'][str(s)]:.4g}" if str(s) in row["ends"] else "not run" for s in steps]
        change = "not run" if row["change"] is None else f"{row['change']:+.4f}"
        spread = "" if row["spread"] is None else f"{row['spread']:.4f}"
        last = "" if row["last"] is None else f"{row['last']:+.1%}"
        rows.append([name, *ends, change, f"{len(row['seeds'])}", spread, last])
    words = f"{task}, {data} data: validation after so many steps, seed 0, and what twice the steps change\n"
    return "\n".join([words, *pages.table(head, rows), "", _verdict(found)]) + "\n"


def _verdict(found: dict[str, Any]) -> str:
    change, spread = found["change"], found["spread"]
    if change is None or spread is None:
        return "Whether this is flat has not been asked."
    flat = "flat" if abs(change) <= spread else "not flat"
    return f"In the mean of rows twice the steps change it by {change:+.4f}, seeds by {spread:.4f}: {flat}."


def _practice(scores: dict[str, dict[str, float]]) -> str:
    if not scores:
        return "Not run.\n"
    lines = ["| steps | parameters | upright | any attitude |", "|---|---|---|---|"]
    for steps, found in scores.items():
        lines.append(f"| {steps} | {found['parameters']:,} | {found['upright']:.4f} | {found['any']:.4f} |")
    return "\n".join(lines) + "\n"


def _table(
    task: str, rows: dict[str, Any], costs: dict[str, float], blind: dict[str, dict[str, float]]
) -> str:
    tests = ["test"] if task == "shallow-water" else ["upright", "any"]
    heads = [
        words
        for test in tests
        for words in (f"score {TESTS[test]}".strip(), "− sphere", "95 % over seeds", "95 % over samples")
    ]
    lines = [
        "| row | seeds | rate | steps | parameters | ms a step | " + " | ".join(heads) + " |",
        "|---" * (6 + len(heads)) + "|",
    ]
    for name, row in rows.items():
        if row is None:
            lines.append(f"| {name} | not run |" + " |" * (4 + len(heads)))
            continue
        cost = 1e3 * costs[name.removesuffix(", own recipe")]
        cells = [
            f"{len(row['seeds'])}",
            f"{row['rate']:g}",
            f"{row['steps']}",
            f"{row['parameters']:,}",
            f"{cost:.0f}",
        ]
        cells += [words for test in tests for words in _scores(row[test])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name, scores in blind.items():
        blank = [words for test in tests for words in (f"{scores[test]:.4f}", "", "", "")]
        lines.append(f"| {name} |" + " |" * 5 + " " + " | ".join(blank) + " |")
    return "\n".join(lines) + "\n"


#: further scores of shallow water that are counts of runs; the others are compared with the sphere's
COUNTS = ("below persistence at every lead time", "stable for 200 steps")


def _others(rows: dict[str, Any]) -> str:
    run = {name: row for name, row in rows.items() if row}
    names = list(next(iter(run.values()))["others"])
    counted = {name: f"runs {name}" if name in COUNTS else name for name in names}
    lines = [[row, *(_other(found["others"][name], name) for name in names)] for row, found in run.items()]
    return "\n".join(pages.table(["row", *counted.values()], lines)) + "\n"


def _other(found: dict[str, Any], name: str) -> str:
    if name in COUNTS:
        return f"{found['mean']:.0%}"
    told = f"{found['mean']:.3f}"
    if found.get("over_seeds") is None:
        return told
    low, high = found["over_seeds"]
    return f"{told}, {found['difference']:+.3f} ({low:+.3f} to {high:+.3f})"


def _scores(test: dict[str, Any]) -> list[str]:
    spread = "" if test["spread"] is None else f" ± {test['spread']:.4f}"
    words = [f"{test['mean']:.4f}{spread}"]
    if "difference" not in test:
        return [*words, "", "", ""]
    intervals = [test["over_seeds"], test["over_samples"]]
    shown = ["one seed" if i is None else f"{i[0]:+.4f} to {i[1]:+.4f}" for i in intervals]
    return [*words, f"{test['difference']:+.4f}", *shown]


# the picture -------------------------------------------------------------------------------------------


def draw(content: dict[str, Any], path: Path) -> None:
    """Differences from the sphere with both intervals, upright-trained, of all data and of few."""
    groups = [name for name in GROUPS if name.endswith("trained upright")]
    shown = {
        (group, task): {
            name: row[UPRIGHT[task]]
            for name, row in content["tables"][task][group].items()
            if row and "difference" in row[UPRIGHT[task]]
        }
        for group in groups
        for task in TASKS
    }
    most = [max(len(shown[group, task]) for task in TASKS) + 2 for group in groups]
    figure = figures.new(12.0, 1.6 + 0.24 * sum(most))
    panels = figure.subplots(len(groups), len(TASKS), squeeze=False, height_ratios=most)
    for axes, group in zip(panels, groups, strict=True):
        for ax, task in zip(axes, TASKS, strict=True):
            _differences(ax, shown[group, task])
            where = "" if task == "shallow-water" else ", upright"
            words = [f"{task}{where}, {_data(group)} data", *SCORES[task].split(", ")]
            ax.set_title("\n".join(words), fontsize="medium")
    for ax in panels[-1]:
        ax.set_xlabel("score − that of the sphere")
    handles = [panels[0][0].plot([], [], color=c, linewidth=2)[0] for c in ("C0", "C1")]
    words = ["95 % over seeds", "95 % over samples"]
    figure.legend(handles, words, loc="outside lower center", ncols=2, fontsize="small")
    figures.save(figure, path, dpi=120)


def _differences(ax: Any, rows: dict[str, dict[str, Any]]) -> None:
    for place, found in enumerate(rows.values()):
        for shift, interval, color in (
            (0.12, found["over_seeds"], "C0"),
            (-0.12, found["over_samples"], "C1"),
        ):
            if interval is not None:
                ax.plot(interval, [place + shift] * 2, color=color, linewidth=2)
        ax.plot(found["difference"], place, "ko", markersize=5)
    ax.axvline(0.0, color="0.4", linestyle="--", linewidth=1)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
