"""Tables of compiled kernels, as text with a head, and what nvdisasm shows of machine code."""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import NamedTuple

from geoattn._files import write_text

Row = dict[str, str]


class Table(NamedTuple):
    """A file of results: a head of notes, and a row for each kernel."""

    path: Path
    columns: tuple[str, ...]
    #: columns that tell rows apart
    key: tuple[str, ...]
    #: columns that are compared only where both rows know them
    optional: Collection[str] = ()

    def write(self, known: dict[str, str], rows: list[Row]) -> None:
        file = io.StringIO()
        file.writelines(f"# {name}: {value}\n" for name, value in known.items())
        table = csv.DictWriter(file, self.columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_text(file.getvalue(), self.path)

    def read(self) -> tuple[dict[str, str], list[Row]]:
        """Head and rows."""
        lines = self.path.read_text().splitlines()
        notes = itertools.takewhile(lambda line: line.startswith("#"), lines)
        known = dict(line.removeprefix("# ").split(": ", 1) for line in notes)
        return known, list(csv.DictReader(lines[len(known) :]))

    def differences(self, rows: list[Row], table: list[Row]) -> list[str]:
        """Where rows and the table's rows of the same kernels differ."""
        kept = {tuple(row[c] for c in self.key): row for row in table}
        found = []
        for row in rows:
            key = tuple(row[c] for c in self.key)
            old = kept.get(key)
            if old is None:
                found.append(f"{' '.join(key)}: not in the table")
                continue
            unlike = [
                c
                for c in self.columns
                if row[c] != old[c] and (c not in self.optional or (row[c] and old[c]))
            ]
            if unlike:
                changes = ", ".join(f"{c} {old[c]} in the table, {row[c]} now" for c in unlike)
                found.append(f"{' '.join(key)}: {changes}")
        return found

    def compare(self, rows: list[Row], faulty: Callable[[Row], object]) -> bool:
        """Print where rows differ from the table; whether they do, or any is faulty."""
        found = self.differences(rows, self.read()[1])
        print("\n".join(found) or f"{len(rows)} rows as in {self.path}")
        return bool(found) or any(map(faulty, rows))


@cache
def disassembler() -> str | None:
    """nvdisasm on the path, or of the package nvidia-cuda-nvdisasm, or None."""
    found = shutil.which("nvdisasm")
    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations or () if package else ():
        found = found or next(map(str, Path(folder).glob("*/bin/nvdisasm")), None)
    return found


def disassembled(cubin: bytes) -> tuple[list[str], dict[str, int]]:
    """Instructions of a kernel of NVIDIA, without their conditions, and where its labels stand among them.

    Raises
    ------
    RuntimeError
        If there is no nvdisasm.
    """
    command = disassembler()
    if command is None:
        raise RuntimeError("nvdisasm is missing; pip install nvidia-cuda-nvdisasm")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        listing = subprocess.run(
            [command, "-c", file.name], capture_output=True, text=True, check=True
        ).stdout
    return read_listing(listing, r"\s*(\.L\w+):", r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?(.*?);")


def read_listing(listing: str, label: str, instruction: str) -> tuple[list[str], dict[str, int]]:
    """Instructions of a listing, and where its labels stand among them, by patterns of their lines."""
    instructions: list[str] = []
    places: dict[str, int] = {}
    for line in listing.splitlines():
        if found := re.match(label, line):
            places[found[1]] = len(instructions)
        elif found := re.match(instruction, line):
            instructions.append(found[1])
    return instructions, places
