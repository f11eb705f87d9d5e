"""The Triton kernels, compiled for five architectures without a GPU: registers, spills, instructions.

    python benchmarks/triton_variants.py            # compiles all of them (some minutes), writes the table
    python benchmarks/triton_variants.py --check    # compiles all of them, fails where the table differs
    python benchmarks/triton_variants.py --model    # what the table lets expect of an H200, by arithmetic

The table is ``benchmarks/results/triton_variants.csv``, a row per variant and architecture. Its head names
the version of Triton, and the kernels by a digest; the tests compile a part of it anew. ``partial`` and
``full`` are the instructions of a warp in the loop over steps that need a mask, and over those that need
none; ``products`` names the instruction that multiplies, and how many of it there are in the full loop.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import gpu_model
import torch
from variant_tables import Row, Table, disassembled, read_listing

import geoattn as ga
from geoattn.backends.base import Pairs
from geoattn.backends.triton import variants
from geoattn.backends.triton.backend import Triton, kernel
from geoattn.backends.triton.variants import Variant
from geoattn.plans import choice
from geoattn.plans.choice import block_plan

KERNELS = Path(variants.__file__).parent
TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "sm_120": ("cuda", 120, 32),
    "gfx942": ("hip", "gfx942", 64),
}
ELEMENTS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
#: names of instructions that multiply matrices, in order of preference
PRODUCTS = ("UTCHMMA", "HGMMA", "HMMA", "v_mfma")
#: those that 16-bit elements should take
UNITS = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "sm_120": "HMMA", "gfx942": "v_mfma"}
COLUMNS = (
    "architecture", "kernel", "element", "score_dim", "value_dim", "shared_by", "gathered", "related", "rows",
    "columns",
    "warps", "stages", "slices", "shared_bytes", "registers", "spills", "partial", "full", "products",
)  # fmt: skip
TABLE = Table(
    path=Path(__file__).parent / "results" / "triton_variants.csv",
    columns=COLUMNS,
    key=COLUMNS[: COLUMNS.index("rows")],
)


#: element type, head dim, query heads that share a key head, whether keys are gathered, a bias for every pair
CASES = (
    (torch.bfloat16, 64, 1, True, False),
    (torch.bfloat16, 128, 1, True, False),
    (torch.bfloat16, 32, 1, True, False),
    (torch.bfloat16, 256, 1, True, False),
    (torch.float16, 64, 1, False, False),
    (torch.bfloat16, 64, 4, True, False),
    (torch.bfloat16, 64, 1, True, True),
    (torch.float32, 64, 1, True, False),
)
Work = tuple[str, torch.dtype, int, int, bool, bool]


def works() -> list[Work]:
    """All that the table holds: cases on each architecture."""
    return [(target, *case) for target in TARGETS for case in CASES]


class Device:
    """As much of a GPU as Triton asks for before it compiles."""

    def __init__(self, target: str) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget(*TARGETS[self.target])

    def get_current_device(self) -> int:
        return list(TARGETS).index(self.target)

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiling(Triton):
    """The backend itself, whose launches compile for some architecture, and note what comes of it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.made: list[tuple[Variant, Any]] = []

    def architecture(self, device: torch.device) -> str:
        return self.target

    def launch(
        self, variant: Variant, programs: int, arguments: tuple[Any, ...], device: torch.device
    ) -> None:
        from triton.runtime import driver

        driver.set_active(Device(self.target))
        compile = kernel(variant.kernel).warmup
        made = compile(*arguments, grid=(programs,), **variant.constants, **variant.options)
        self.made.append((variant, made))


def launched(work: Work) -> list[tuple[Variant, Any]]:
    """What the forward and backward pass of a small problem launch: variants, compiled."""
    target, dtype, dim, shared, gathered, related = work
    grid = ga.grids.cartesian((300,))
    hood = ga.window(grid, 9) if gathered else ga.everything(grid)
    q = torch.zeros(2, 300, 2 * shared, dim, dtype=dtype)
    k = v = torch.zeros(2, 300, 2, dim, dtype=dtype)
    bias = torch.zeros(1, 300)
    pairs = None
    if related:
        relation = ga.relations.offsets(hood)
        pairs = Pairs(relation, torch.zeros(1, 2 * shared, relation.count))
    backend = Compiling(target)
    out, lse = backend.forward(q, k, v, bias, hood, 0.3, pairs)
    backend.backward(out, None, q, k, v, bias, out, lse, hood, 0.3, True, False, pairs, related)
    return backend.made


def described(work: Work, variant: Variant) -> Row:
    """What is known before it is compiled."""
    target, dtype, *_, related = work
    given, name = variant.constants, variant.kernel
    if name == "key_gradients":
        sides = (side for side in ("score", "value") if given[f"{side.upper()}_SIDE"])
        name += f" ({' and '.join(sides)})"
    rows = 64 * given["TILES"] * given.get("PACK", 1) if "TILES" in given else ""
    known = {
        "architecture": target,
        "kernel": name,
        "element": ELEMENTS[dtype],
        "score_dim": given.get("SCORE_DIM", ""),
        "value_dim": given["VALUE_DIM"],
        "shared_by": given.get("SHARED", ""),
        "gathered": given.get("GATHERED", ""),
        "related": related,
        "rows": rows,
        "columns": given["N"],
        "warps": variant.warps,
        "stages": variant.stages,
        "slices": variant.slices,
    }
    return {name: str(value) for name, value in known.items()}


def compiled(work: Work) -> list[Row]:
    """The rows of a case on an architecture, compiled anew."""
    rows = []
    for variant, made in launched(work):
        read = of_cubin(made.asm["cubin"]) if "cubin" in made.asm else of_listing(made.asm["amdgcn"])
        row = described(work, variant) | {"shared_bytes": str(made.metadata.shared)} | read
        rows.append({column: row[column] for column in COLUMNS})
    return rows


def of_cubin(cubin: bytes) -> Row:
    """Registers, accesses of local memory and loops of a kernel of NVIDIA."""
    instructions, places = disassembled(cubin)
    branch = re.compile(r"BRA.*`\((\.L\w+)\)")
    spills = sum(i.startswith(("STL", "LDL")) for i in instructions)
    # in the section .nv.info: format 4, attribute 0x2f (REGCOUNT), size 8, the kernel's symbol, the number
    registers = re.search(rb"\x04\x2f\x08\0.{4}(.{4})", cubin, re.DOTALL)
    assert registers is not None
    row = {"registers": str(int.from_bytes(registers[1], "little")), "spills": str(spills)}
    return row | loops(instructions, places, branch)


def of_listing(listing: str) -> Row:
    """The same of a kernel of AMD."""
    instructions, places = read_listing(listing, r"(\.LBB\w+):", r"\t([a-z]\w+.*)")
    branch = re.compile(r"s_c?branch\w* (\.LBB\w+)")
    registers, spills = (re.search(rf"\.vgpr_{name}:\s+(\d+)", listing) for name in ("count", "spill_count"))
    assert registers is not None
    assert spills is not None
    return {"registers": registers[1], "spills": spills[1]} | loops(instructions, places, branch)


def loops(instructions: list[str], places: dict[str, int], branch: re.Pattern[str]) -> Row:
    """Instructions of the innermost loops that multiply: with a mask, and without."""
    bodies = []
    for end, instruction in enumerate(instructions):
        target = branch.match(instruction)
        start = places.get(target[1], end) if target else end
        if start < end:
            bodies.append((start, end + 1))
    inner = [a for a in bodies if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in bodies)]
    multiplying = []
    for start, end in inner:
        body = instructions[start:end]
        name = next((name for name in PRODUCTS if any(i.startswith(name) for i in body)), None)
        if name is not None:
            multiplying.append((body, name))
    if not multiplying:
        return {"partial": "", "full": "", "products": ""}
    (partial, _), (full, name) = multiplying[0], multiplying[-1]
    count = sum(i.startswith(name) for i in full)
    return {"partial": str(len(partial)), "full": str(len(full)), "products": f"{count} {name}"}


def head() -> dict[str, str]:
    """What a row depends on beside its own columns: the compiler and the kernels."""
    import triton

    digest = hashlib.sha256()
    for name in ("forward", "gradients", "walk"):
        text = (KERNELS / f"{name}.py").read_text()
        digest.update(re.sub(r'"""[\s\S]*?"""|#.*', "", text).encode())
    return {"triton": triton.__version__, "kernels": digest.hexdigest()[:16]}


def faults(row: Row) -> list[str]:
    """What is wrong with a row: spills, too much shared memory, products on no matrix unit."""
    found = []
    if row["spills"] != "0":
        found.append(f"{row['spills']} accesses of spilled registers")
    if int(row["shared_bytes"]) > variants.shared_memory(row["architecture"]):
        found.append(f"{row['shared_bytes']} bytes of shared memory")
    expected = UNITS[row["architecture"]]
    if row["kernel"] != "note" and row["element"] != "fp32" and expected not in row["products"]:
        found.append(f"products are {row['products'] or 'none'}, not {expected}")
    return found


#: products of a pair in each kernel: two forward; of the seven that run backward, five count
PAIR_PRODUCTS = {
    "attend": 2,
    "query_gradient": 3,
    "key_gradients (score and value)": 4,
    "key_gradients (score)": 3,
    "key_gradients (value)": 2,
}


def clocks(row: Row, masked: int, unmasked: int) -> dict[str, float]:
    """Clocks of a multiprocessor for these steps, by what bounds them."""
    channels, columns = int(row["score_dim"]) + int(row["value_dim"]), int(row["columns"])
    parts = 64 / columns
    instructions = parts * (masked * int(row["partial"]) + unmasked * int(row["full"]))
    pairs = (masked + unmasked) * int(row["rows"]) * 64
    return {
        "issue": instructions * int(row["warps"]) / gpu_model.ISSUED,
        "cache": (masked + unmasked) * 64 * channels * 2 / gpu_model.CACHED,
        "products": pairs * channels * PAIR_PRODUCTS[row["kernel"]] / gpu_model.PRODUCTS,
        "exponents": pairs / gpu_model.EXPONENTS,
    }


def model(rows: list[Row]) -> None:
    """Print bounds on speed that follow from instructions and bytes alone."""
    names = ("issue", "cache", "products", "exponents")
    print(gpu_model.heading("bfloat16, steps of 128 rows", names))
    plain = {"architecture": "sm_90", "element": "bf16", "shared_by": "1", "related": "False"}
    kept = [row for row in rows if plain.items() <= row.items()]
    for title, hood in gpu_model.neighborhoods().items():
        plans = {False: block_plan(hood), True: block_plan(hood.transpose())}
        steps = {side: choice.steps(plan.bounds, plan.block_class) for side, plan in plans.items()}
        useful = int(hood.counts.sum())
        share = useful / (steps[False].count * 128 * 64)
        for name, per_pair in (("forward", 4), ("backward", 10)):
            for dim in (64, 128):
                total = dict.fromkeys(names, 0.0)
                for row in kept:
                    of_pass = row["kernel"] in PAIR_PRODUCTS and (row["kernel"] == "attend") == (
                        per_pair == 4
                    )
                    if not of_pass or row["score_dim"] != str(dim):
                        continue
                    counted = steps[row["kernel"].startswith("key")]
                    for bound, n in clocks(row, counted.masked, counted.unmasked).items():
                        total[bound] += n
                print(gpu_model.line(title, name, dim, share, useful * per_pair * dim, total), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the table instead of writing it")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="compilers at a time")
    parser.add_argument("--model", action="store_true", help="print what the table lets expect")
    arguments = parser.parse_args()
    if arguments.model:
        model(TABLE.read()[1])
        return 0
    known, rows = head(), []
    with ProcessPoolExecutor(arguments.processes) as pool:
        for row in itertools.chain.from_iterable(pool.map(compiled, works())):
            rows.append(row)
            if faults(row):
                print(" ".join(row[column] for column in COLUMNS), "; ".join(faults(row)), flush=True)
    if arguments.check:
        return TABLE.compare(rows, faults)
    TABLE.write(known, rows)
    print(f"{len(rows)} rows written to {TABLE.path}")
    return any(map(faults, rows))


if __name__ == "__main__":
    sys.exit(main())
