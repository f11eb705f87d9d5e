"""Every CUDA kernel, compiled for four architectures without a GPU: registers, spills, instructions.

    python benchmarks/cuda_variants.py            # compiles all of them (some minutes), writes the table
    python benchmarks/cuda_variants.py --check    # compiles all of them, fails where the table differs
    python benchmarks/cuda_variants.py --also     # compiles all by another compiler, notes that none spills
    python benchmarks/cuda_variants.py --also --within 8    # only those with so few registers to spare
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
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import gpu_model
import numpy as np
from numpy.typing import NDArray
from variant_tables import Row, Table, disassembled, disassembler

from geoattn.backends.cuda import variants
from geoattn.backends.cuda.compiler import compiler, sources
from geoattn.backends.cuda.variants import Variant
from geoattn.neighborhoods.everything import Everything
from geoattn.plans import TilePlan, full_beside_padding, tile_plan

ARCHITECTURES = (80, 90, 100, 120)
LOOP = ("loop_instructions", "loop_products", "loop_matrices")
COLUMNS = (
    "architecture", "kernel", "element", "score_dim", "value_dim", "masked", "warps", "columns", "slices",
    "blocks", "shared_bytes", "registers", "budget", "spilled_bytes", *LOOP,
)  # fmt: skip

TABLE = Table(
    path=Path(__file__).parent / "results" / "cuda_variants.csv",
    columns=COLUMNS,
    key=("architecture", "kernel", "element", "score_dim", "value_dim", "masked"),
    optional=LOOP,
)
#: the line of the table's head that names other compilers
ALSO = "nothing spills either by"


def crowded(within: int) -> list[tuple[Variant, int]]:
    """Those that have at most so many registers to spare by the table."""
    rows = zip(everything(), TABLE.read()[1], strict=True)
    return [work for work, row in rows if int(row["budget"]) - int(row["registers"]) <= within]


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


def compiled(work: tuple[Variant, int], listed: bool = True) -> Row:
    """The row of a variant, compiled anew; ``listed`` says whether its loop is looked at."""
    variant, architecture = work
    made = compiler().compile(variant, architecture)
    row = described(variant, architecture) | dict.fromkeys(LOOP, "")
    row |= {"registers": str(made.registers), "spilled_bytes": str(made.spilled_bytes)}
    if listed and disassembler() is not None and row["masked"] != "true":
        row |= dict(zip(LOOP, map(str, loop(made.cubin)), strict=True))
    return {column: row[column] for column in COLUMNS}


def compile_all(
    works: Iterable[tuple[Variant, int]], processes: int | None = None, listed: bool = True
) -> Iterator[Row]:
    """Rows of many variants, in their order."""
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(partial(compiled, listed=listed), works)


def over_budget(row: Row) -> bool:
    """Whether registers are spilled, or too many of them used."""
    return int(row["registers"]) > int(row["budget"]) or row["spilled_bytes"] != "0"


def everything() -> list[tuple[Variant, int]]:
    """All variants of all architectures."""
    return [(variant, a) for a in ARCHITECTURES for variant in variants.every(a)]


def loop(cubin: bytes) -> tuple[int, int, int]:
    """Instructions, products and loads of matrices of the longest loop of a kernel; see the head."""
    instructions, places = disassembled(cubin)
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


class Work(NamedTuple):
    """What a plan makes of a kernel, in all tiles: 16×8 groups with a visible pair, and columns copied.

    ``columns`` are those with a visible pair in their group of 8, or in their pair of such groups: what
    products of scores need, and sums over columns.
    """

    groups: int
    tiles: int
    columns: dict[int, int]

    @classmethod
    def of(cls, plan: TilePlan) -> Work:
        repeats = _repeats(plan)
        seen = np.append(plan.groups, np.uint32(0xFFFFFFFF))[plan.mask_ids]
        bits = seen[:, None] >> np.arange(32, dtype=np.uint32) & 1
        eights = bits.reshape(-1, 4, 8).any(1)
        pairs = eights.reshape(-1, 4, 2).any(2)
        columns = {
            8: int((eights.sum(1) * repeats).sum()) * 8,
            16: int((pairs.sum(1) * repeats).sum()) * 16,
        }
        return cls(int((bits.sum(1) * repeats).sum()), int(repeats.sum()), columns)


def _repeats(plan: TilePlan) -> NDArray[np.int64]:
    """The tile pairs that each entry of a plan stands for."""
    counts = np.bincount(plan.tile_class, minlength=len(plan.indptr) - 1)
    return np.repeat(counts, np.diff(plan.indptr))


def columns_by(row: Row) -> tuple[int, int]:
    """By how many columns at once a kernel copies what scores are made of, and values: see ``SPARSE``."""
    if row["kernel"] == "forward":
        return 8, 16
    sums = re.search(r"\((.*)\)", row["kernel"])
    assert sums is not None
    return 16 if "score" in sums[1] else 8, 16 if "value" in sums[1] else 8


def clocks(row: Row, work: Work) -> dict[str, float]:
    """Clocks of a multiprocessor for a kernel's loop over the groups and tiles of a plan.

    A group costs its part of a full step's instructions and of the shared memory that they read: matrices,
    and the row of biases or statistics, 8 bytes for each lane. A tile costs what is written to shared memory
    for it and what is read of the second cache: rows of two tensors, as far as copied, a number and a token
    for each column.
    """
    columns, dims = int(row["columns"]), (int(row["score_dim"]), int(row["value_dim"]))
    steps = work.groups * 8 / columns  # of a warp, with its 16 rows
    read = int(row["loop_matrices"]) * 512 + columns // 8 * 256
    rows = sum(work.columns[by] * 2 * dim for by, dim in zip(columns_by(row), dims, strict=True))
    copied = rows + work.tiles * 64 * 8
    tokens = work.tiles * 64 * 32  # each read by the lanes that copy a row, four rows at a time
    return {
        "issue": steps * int(row["loop_instructions"]) / gpu_model.ISSUED,
        "shared": (steps * read + copied + tokens) / gpu_model.SHARED,
        "cache": copied / gpu_model.CACHED,
        "products": steps * int(row["loop_products"]) * 4096 / (gpu_model.PRODUCTS * gpu_model.BY_MMA),
    }


def _works() -> dict[str, tuple[int, dict[bool, Work]]]:
    """Of each neighborhood its pairs, and the work of its plan and of that of its transpose; printed."""
    print("Tiles without a mask, by content and beside padding; columns copied, by 8 and by 16")
    works = {}
    for title, hood in gpu_model.neighborhoods().items():
        if isinstance(hood, Everything):
            continue  # torch's fused attention takes it
        plan = tile_plan(hood)
        work = Work.of(plan)
        works[title] = int(hood.counts.sum()), {False: work, True: Work.of(tile_plan(hood.transpose()))}
        counts = _repeats(plan)
        full = [(counts[ids < 0].sum() / work.tiles) for ids in (plan.mask_ids, full_beside_padding(plan))]
        copied = [work.columns[by] / (64 * work.tiles) for by in (8, 16)]
        print(f"{title:24}" + "".join(f"{share:7.0%}" for share in (*full, *copied)), flush=True)
    return works


def model(rows: list[Row]) -> None:
    """Print bounds on speed that follow from instructions and bytes alone."""
    passes: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        like = (row["architecture"], row["element"], row["masked"], row["score_dim"] == row["value_dim"])
        if like == ("sm_90", "BFloat16", "false", True) and "numbers" not in row["kernel"]:
            name = "forward" if row["kernel"] == "forward" else "backward"
            passes.setdefault((name, int(row["score_dim"])), []).append(row)
    names = ("issue", "shared", "cache", "products")
    works = _works()
    said = "bfloat16, tiles of 64×64 of which empty groups of 16×8 are skipped and empty columns not copied"
    print(gpu_model.heading(said, names))
    for title, (useful, work) in works.items():
        for name, per_pair in (("forward", 4), ("backward", 10)):
            for dim in (64, 128):
                total = dict.fromkeys(names, 0.0)
                for row in passes[name, dim]:
                    for bound, n in clocks(row, work[row["kernel"].startswith("key")]).items():
                        total[bound] += n
                share = useful / (work[False].groups * 16 * 8)
                print(gpu_model.line(title, name, dim, share, useful * per_pair * dim, total), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the table instead of writing it")
    parser.add_argument("--also", action="store_true", help="note another compiler by which nothing spills")
    parser.add_argument("--within", type=int, default=255, help="registers to spare, with --also")
    parser.add_argument("--model", action="store_true", help="print what the table lets expect")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="compilers at a time")
    arguments = parser.parse_args()
    if arguments.model:
        model(TABLE.read()[1])
        return 0
    known, rows = head(), []
    works = crowded(arguments.within) if arguments.also else everything()
    for row in compile_all(works, arguments.processes, listed=not arguments.also):
        rows.append(row)
        if over_budget(row):
            print("over budget:", " ".join(row[column] for column in COLUMNS), flush=True)
    if arguments.check:
        return TABLE.compare(rows, over_budget)
    over = any(map(over_budget, rows))
    if arguments.also:
        kept, table = TABLE.read()
        if kept["sources"] != known["sources"]:
            print("the table is of other sources; write it anew first", file=sys.stderr)
            return 2
        if not over:
            noted = known["compiler"]
            if len(rows) < len(table):
                noted += f" (the {len(rows)} with at most {arguments.within} registers to spare)"
            kept[ALSO] = ", ".join(sorted({*kept.get(ALSO, "").split(", "), noted} - {""}))
            TABLE.write(kept, table)
            print(f"{len(rows)} variants, none of which spills by {known['compiler']}")
        return over
    TABLE.write(known, rows)
    print(f"{len(rows)} rows written to {TABLE.path}")
    return over


if __name__ == "__main__":
    sys.exit(main())
