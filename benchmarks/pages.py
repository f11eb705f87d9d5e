"""Tables of the documentation that benchmarks write from their results, between two marks of a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from geoattn._files import write_text

DOCS = Path(__file__).parent.parent / "docs"
#: what stands between a table's two marks is replaced
MARKED = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def filled(page: str, tables: Mapping[str, str]) -> str:
    """The page with the tables that are given; others stay as they are."""

    def replaced(mark: re.Match[str]) -> str:
        return f"{mark[1]}{tables[mark[2]]}\n{mark[3]}" if mark[2] in tables else mark[0]

    return MARKED.sub(replaced, page)


def write(name: str, tables: Mapping[str, str]) -> None:
    """Put tables into a page of ``docs/``."""
    page = DOCS / name
    write_text(filled(page.read_text(), tables), page)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
