"""Results as tables of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns side by side, numbers to the right, words to the left."""
    cells = [[text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [
        bool(rows) and all(isinstance(row[i], int | float) or row[i] in ("", None) for row in rows)
        for i in range(len(header))
    ]

    def line(row: Sequence[str]) -> str:
        places = zip(row, widths, right, strict=True)
        return "  ".join(
            f"{cell:>{width}}" if r else f"{cell:<{width}}" for cell, width, r in places
        ).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, cells)])


def text(cell: Any) -> str:
    """A cell: numbers to five digits."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.5g}" if isinstance(cell, float) else str(cell)


def of_scores(result: Mapping[str, Any]) -> str:
    """Nested results as one table: a line for each number; of a list its first and its last."""
    rows: list[tuple[str, Any, Any]] = []

    def walk(path: tuple[str, ...], value: Any) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                walk((*path, str(name)), inner)
        elif isinstance(value, list | tuple):
            flat = [v for v in value if not isinstance(v, list | tuple)]
            if flat:
                rows.append((" ".join(path), flat[0], flat[-1]))
        else:
            rows.append((" ".join(path), "", value))

    walk((), result)
    return table(("score", "first", "last"), rows)
