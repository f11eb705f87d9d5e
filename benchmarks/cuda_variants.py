"""Every CUDA kernel, compiled for four architectures without a GPU: registers, spills, instructions.

    python benchmarks/cuda_variants.py            # compiles all of them (some minutes), writes the table
    python benchmarks/cuda_variants.py --check    # compiles all of them, fails where the table differs
    python benchmarks/cuda_variants.py --also     # compiles all by another compiler, notes that none spills
    python benchmarks/cuda_variants.py --model    # what the table lets expect of an H200, by arithmetic

The table is ``benchmarks/results/cuda_variants.csv``: a row per variant and architecture, so that a
change of the kernels shows as changed lines. Its head names the compiler, others by which no variant spills
either, and the sources (without their comments) by a digest; the tests compile a part of it anew. ``budget``
is the number of registers that lets ``blocks`` blocks share a multiprocessor. The last columns describe the
loop over the steps of a tile list, as nvdisasm shows it: all of its instructions (those of a nested loop
once), and among them products of tensor cores and loads of matrices. Kernels for partial tiles have the path
of full tiles too, which would be counted with the other: their columns are empty.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import gpu_model

from geoattn._files import write_text
from geoattn.backends.cuda import variants
from geoattn.backends.cuda.compiler import compiler, sources
from geoattn.backends.cuda.variants import Variant
from geoattn.neighborhoods.everything import Everything
from geoattn.plans import plan
from geoattn.plans.cost import statistics

RESULTS = Path(__file__).parent / "results" / "cuda_variants.csv"
ARCHITECTURES = (80, 90, 100, 120)
LOOP = ("loop_instructions", "loop_products", "loop_matrices")
COLUMNS = (
    "architecture", "kernel", "element", "score_dim", "value_dim", "masked", "warps", "columns", "slices",
    "blocks", "shared_bytes", "registers", "budget", "spilled_bytes", *LOOP,
)  # fmt: skip

#: the line of the table's head that names other compilers
ALSO = "nothing spills either by"

Row = dict[str, str]


def described(variant: Variant, architecture: int) -> Row:
    """What is known of a variant before it is compiled."""
    known = dict(variant.definitions)
    name = variant.kernel
    if name == "gradients":
        sides = [side for side in ("score", "value") if known[f"{side.upper()}_SIDE"] == "true"]
        rows = {"true": "key", "false": "query"}[known["ROWS_ARE_KEYS"]]
        name = f"{rows} gradients ({' and '.join(sides)})"
    if known.get("NUMBER_BITS", "0") != "0":
        name += f", numbers of {known['NUMBER_BITS']} bits"
    row = {
        "architecture": f"sm_{architecture}",
        "kernel": name,
        "element": known["ELEMENT"],
        "score_dim": known.get("SCORE_DIM", ""),
        "value_dim": known.get("VALUE_DIM", ""),
        "masked": known.get("MASKED", ""),
        "warps": str(variant.threads // 32),
        "columns": known.get("STEP", ""),
        "slices": known.get("SLICES", ""),
        "blocks": str(variant.blocks),
        "shared_bytes": str(variant.shared_bytes),
        "budget": str(variant.most_registers),
    }
    return row


def compiled(work: tuple[Variant, int]) -> Row:
    """The row of a variant, compiled anew."""
    variant, architecture = work
    made = compiler().compile(variant, architecture)
    row = described(variant, architecture) | dict.fromkeys(LOOP, "")
    row |= {"registers": str(made.registers), "spilled_bytes": str(made.spilled_bytes)}
    if disassembler() is not None and row["masked"] != "true":
        row |= dict(zip(LOOP, map(str, loop(made.cubin)), strict=True))
    return {column: row[column] for column in COLUMNS}


def compile_all(works: Iterable[tuple[Variant, int]], processes: int | None = None) -> Iterator[Row]:
    """Rows of many variants, in their order."""
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(compiled, works)


def over_budget(row: Row) -> bool:
    """Whether registers are spilled, or too many of them used."""
    return int(row["registers"]) > int(row["budget"]) or row["spilled_bytes"] != "0"


def everything() -> list[tuple[Variant, int]]:
    """All variants of all architectures."""
    return [(variant, a) for a in ARCHITECTURES for variant in variants.every(a)]


@cache
def disassembler() -> str | None:
    """nvdisasm on the path, or of the package nvidia-cuda-nvdisasm, or None."""
    found = shutil.which("nvdisasm")
    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations or () if package else ():
        found = found or next(map(str, Path(folder).glob("*/bin/nvdisasm")), None)
    return found


def loop(cubin: bytes) -> tuple[int, int, int]:
    """Instructions, products and loads of matrices of the longest loop of a kernel; see the head."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        listing = subprocess.run(
            [disassembler() or "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True
        ).stdout
    instructions: list[str] = []
    places: dict[str, int] = {}
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L\w+):", line):
            places[label[1]] = len(instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?(.*?);", line):
            instructions.append(instruction[1])
    longest: list[str] = []
    for end, instruction in enumerate(instructions):
        target = re.match(r"BRA.*`\((\.L\w+)\)", instruction)
        body = instructions[places.get(target[1], end) : end + 1] if target else []
        longest = max(longest, body, key=len)
    return len(longest), *(sum(i.startswith(name) for i in longest) for name in ("HMMA", "LDSM"))


def head() -> dict[str, str]:
    """What registers depend on beside a row's own columns: the compiler and the sources."""
    bare = (re.sub(r"//.*|\s+", " ", text) for text in sources().values())
    texts = (f"{name}\0{' '.join(text.split())}" for name, text in zip(sources(), bare, strict=True))
    return {
        "compiler": compiler().version,
        "sources": hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16],
    }


def written(known: dict[str, str], rows: list[Row]) -> str:
    """The table as text."""
    file = io.StringIO()
    file.writelines(f"# {name}: {value}\n" for name, value in known.items())
    table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return file.getvalue()


def read(path: Path = RESULTS) -> tuple[dict[str, str], list[Row]]:
    """Head and rows of the table."""
    lines = path.read_text().splitlines()
    notes = itertools.takewhile(lambda line: line.startswith("#"), lines)
    known = dict(line.removeprefix("# ").split(": ", 1) for line in notes)
    return known, list(csv.DictReader(lines[len(known) :]))


def differences(rows: list[Row], table: list[Row]) -> list[str]:
    """Where rows and the table's rows of the same variants differ; loops only where both know them."""

    def key(row: Row) -> tuple[str, ...]:
        return tuple(
            row[c] for c in ("architecture", "kernel", "element", "score_dim", "value_dim", "masked")
        )

    kept = {key(row): row for row in table}
    found = []
    for row in rows:
        old = kept.get(key(row))
        if old is None:
            found.append(f"{' '.join(key(row))}: not in the table")
            continue
        unlike = [c for c in COLUMNS if row[c] != old[c] and (c not in LOOP or (row[c] and old[c]))]
        if unlike:
            changes = ", ".join(f"{c} {old[c]} in the table, {row[c]} now" for c in unlike)
            found.append(f"{' '.join(key(row))}: {changes}")
    return found


def clocks(row: Row, groups: int, tiles: int) -> dict[str, float]:
    """Clocks of a multiprocessor for a kernel's loop over so many 16×8 groups of so many 64×64 tiles.

    A group costs its part of a full step's instructions and of the shared memory that they read: matrices,
    and the row of biases or statistics, 8 bytes for each lane. A tile costs what is written to shared memory
    for it and what is read of the second cache: rows of two tensors, a number and a token for each column.
    """
    columns, channels = int(row["columns"]), int(row["score_dim"]) + int(row["value_dim"])
    steps = groups * 8 / columns  # of a warp, with its 16 rows
    read = int(row["loop_matrices"]) * 512 + columns // 8 * 256
    copied = tiles * 64 * (2 * channels + 8)
    tokens = tiles * 64 * 32  # each read by the lanes that copy a row, four rows at a time
    return {
        "issue": steps * int(row["loop_instructions"]) / gpu_model.ISSUED,
        "shared": (steps * read + copied + tokens) / gpu_model.SHARED,
        "cache": copied / gpu_model.CACHED,
        "products": steps * int(row["loop_products"]) * 4096 / (gpu_model.PRODUCTS * gpu_model.BY_MMA),
    }


def model(rows: list[Row]) -> None:
    """Print bounds on speed that follow from instructions and bytes alone."""
    passes: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        like = (row["architecture"], row["element"], row["masked"], row["score_dim"] == row["value_dim"])
        if like == ("sm_90", "BFloat16", "false", True) and "numbers" not in row["kernel"]:
            name = "forward" if row["kernel"] == "forward" else "backward"
            passes.setdefault((name, int(row["score_dim"])), []).append(row)
    names = ("issue", "shared", "cache", "products")
    print(gpu_model.heading("bfloat16, tiles of 64×64 of which empty groups of 16×8 are skipped", names))
    for title, hood in gpu_model.neighborhoods().items():
        if isinstance(hood, Everything):
            continue  # torch's fused attention takes it
        plans = {False: statistics(plan(hood, 64, 64)), True: statistics(plan(hood.transpose(), 64, 64))}
        for name, per_pair in (("forward", 4), ("backward", 10)):
            for dim in (64, 128):
                total = dict.fromkeys(names, 0.0)
                for row in passes[name, dim]:
                    work = plans[row["kernel"].startswith("key")]
                    for bound, n in clocks(row, work.visited_groups, work.visited_tiles).items():
                        total[bound] += n
                flops = plans[False].useful_pairs * per_pair * dim
                share = plans[False].group_occupancy
                print(gpu_model.line(title, name, dim, share, flops, total), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the table instead of writing it")
    parser.add_argument("--also", action="store_true", help="note another compiler by which nothing spills")
    parser.add_argument("--model", action="store_true", help="print what the table lets expect")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="compilers at a time")
    arguments = parser.parse_args()
    if arguments.model:
        model(read()[1])
        return 0
    known, rows = head(), []
    for row in compile_all(everything(), arguments.processes):
        rows.append(row)
        if over_budget(row):
            print("over budget:", " ".join(row[column] for column in COLUMNS), flush=True)
    over = any(map(over_budget, rows))
    if arguments.check:
        found = differences(rows, read()[1])
        print("\n".join(found) or f"{len(rows)} rows as in {RESULTS}")
        return bool(found or over)
    if arguments.also:
        kept, table = read()
        if kept["sources"] != known["sources"]:
            print("the table is of other sources; write it anew first", file=sys.stderr)
            return 2
        if not over:
            kept[ALSO] = ", ".join(sorted({*kept.get(ALSO, "").split(", "), known["compiler"]} - {""}))
            write_text(written(kept, table), RESULTS)
            print(f"{len(rows)} variants, none of which spills by {known['compiler']}")
        return over
    write_text(written(known, rows), RESULTS)
    print(f"{len(rows)} rows written to {RESULTS}")
    return over


if __name__ == "__main__":
    sys.exit(main())
