"""Where the CPU kernels spend their time: samples of the instructions that run, loop by loop.

    python benchmarks/cpu_profile.py [--case CASE] [--direction forward|backward] [--seconds 4]

Needs Linux with ``perf`` and ``objdump``. A child attends in one thread again and again while ``perf``
samples it; then the compiled code is read from its memory and disassembled, and samples are added up over
the innermost loops. Of each loop the table gives its share of all samples and what it is made of:
multiply-adds, broadcasts, loads and stores of vectors, gathers, and instructions that are no vector's.
``docs/cpu.md`` says which loop does what. Prints tables, and with all cases writes
``benchmarks/results/cpu_profile.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from about import about

import geoattn as ga
from geoattn._files import write_bytes, write_text
from geoattn.backends.cpu.emitted import MACHINE

RESULTS = Path(__file__).parent / "results"
HEADS, DIM = 4, 32

CASES: dict[str, Callable[[], ga.neighborhoods.Neighborhood]] = {
    "sphere": lambda: ga.geodesic(ga.grids.equiangular(91, 180), radius=7.0),
    "cross": lambda: ga.geodesic(ga.grids.equiangular(46, 90), ga.grids.equiangular(91, 180), radius=7.0),
    "healpix": lambda: ga.geodesic(ga.grids.healpix(32), radius=7.0),
    "plane": lambda: ga.window(ga.grids.cartesian((64, 64)), 7),
}


def call(case: str, direction: str) -> Callable[[], Any]:
    """One pass over a case, forward or backward."""
    hood = CASES[case]()
    q, k, v = (
        torch.randn(1, *grid.shape, HEADS, DIM, requires_grad=True)
        for grid in (hood.query_grid, hood.key_grid, hood.key_grid)
    )
    if direction == "forward":
        q, k, v = q.detach(), k.detach(), v.detach()
        return lambda: ga.attention(q, k, v, hood, backend="cpu")
    out = ga.attention(q, k, v, hood, backend="cpu")
    grad = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)


def sampled(case: str, direction: str, seconds: float, folder: Path) -> None:
    """The child: attend under ``perf``, then write its compiled code to files named by their addresses."""
    torch.set_num_threads(1)
    run = call(case, direction)
    run()
    command = [
        "perf",
        "record",
        "-o",
        folder / "samples",
        "-e",
        "cpu-clock",
        "-F",
        "4000",
        "-p",
        str(os.getpid()),
    ]
    perf = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        run()
    perf.terminate()
    perf.wait()
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb") as memory:
        for line in maps:
            addresses, flags, *more = line.split()
            if "x" in flags and len(more) == 3:  # of no file
                first, last = (int(address, 16) for address in addresses.split("-"))
                memory.seek(first)
                write_bytes(memory.read(last - first), folder / f"{first:x}.code")


def loops(folder: Path) -> dict[str, Any]:
    """Shares of samples: of the innermost loops of compiled code, of the rest of it, of all else."""
    command = ["perf", "script", "-i", folder / "samples", "-F", "ip"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    samples = Counter(int(word, 16) for word in found.split())
    total = sum(samples.values())
    rows, compiled = [], 0
    for code in sorted(folder.glob("*.code")):
        first = int(code.stem, 16)
        own = range(first, first + code.stat().st_size)
        inside = sum(n for at, n in samples.items() if at in own)
        compiled += inside
        if inside > 0.002 * total:
            rows += _innermost(code, first, samples, total)
    named = sum(row["share"] for row in rows)
    return {"loops": rows, "other compiled code": compiled / total - named, "all else": 1 - compiled / total}


def _innermost(code: Path, first: int, samples: Counter[int], total: int) -> list[dict[str, Any]]:
    options = ["-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "--no-show-raw-insn"]
    command = ["objdump", *options, f"--adjust-vma={first:#x}", code]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [
        (int(at, 16), text.strip())
        for at, text in re.findall(r"^\s*([0-9a-f]+):\t(.*)$", listing, flags=re.MULTILINE)
    ]
    places = {at: place for place, (at, _) in enumerate(lines)}
    spans = []
    for place, (_, text) in enumerate(lines):
        jump = re.match(r"j\w+\s+0x([0-9a-f]+)$", text)
        target = places.get(int(jump[1], 16)) if jump else None
        if target is not None and target < place:
            spans.append((target, place))
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    rows = []
    for start, end in inner:
        body = lines[start : end + 1]
        share = sum(samples[at] for at, _ in body) / total
        if share >= 0.004:
            rows.append({"share": share, "instructions": len(body)} | _mix([text for _, text in body]))
    return rows


def _mix(body: list[str]) -> dict[str, int]:
    """What the instructions of a loop are."""
    moves = [text for text in body if re.match(r"vmov[au]p[sd]", text)]
    return {
        "multiply-adds": sum("vfm" in text or "vfnm" in text for text in body),
        "broadcasts": sum("broadcast" in text or "{1to" in text for text in body),
        "loads": sum(bool(re.match(r"\S+\s+[xyz]mm\d+,.*\[", text)) for text in moves),
        "stores": sum(bool(re.match(r"\S+\s+(?:\w+ PTR )?\[", text)) for text in moves),
        "gathers": sum("gather" in text for text in body),
        "no vectors": sum(not text.startswith("v") for text in body),
    }


def profile(case: str, direction: str, seconds: float) -> dict[str, Any]:
    """A child's samples, loop by loop."""
    with tempfile.TemporaryDirectory() as folder:
        child = [sys.executable, __file__, "--case", case, "--direction", direction]
        subprocess.run([*child, "--seconds", str(seconds), "--into", folder], check=True)
        return {"case": case, "direction": direction} | loops(Path(folder))


def show(found: dict[str, Any]) -> None:
    print(f"\n{found['case']}, {found['direction']}")
    print("   share  instructions  multiply-adds  broadcasts  loads  stores  gathers  no vectors")
    for row in found["loops"]:
        share, length, *mix = row.values()
        widths = (14, 11, 6, 7, 8, 11)
        print(f"  {share:6.1%}  {length:12}" + "".join(f" {n:{w}}" for n, w in zip(mix, widths, strict=True)))
    for name in ("other compiled code", "all else"):
        print(f"  {found[name]:6.1%}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=CASES, help="one of the cases; all unless given")
    parser.add_argument("--direction", choices=("forward", "backward"), help="both unless given")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds to sample for")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.into:
        sampled(options.case, options.direction, options.seconds, options.into)
        return
    directions = [options.direction] if options.direction else ["forward", "backward"]
    found = []
    for case in [options.case] if options.case else CASES:
        for direction in directions:
            found.append(profile(case, direction, options.seconds))
            show(found[-1])
    if options.case is None and options.direction is None:
        report = about("python benchmarks/cpu_profile.py") | {
            "vector": repr(MACHINE),
            "threads": 1,
            "heads": HEADS,
            "channels": DIM,
            "profiles": found,
        }
        write_text(json.dumps(report, indent=1) + "\n", RESULTS / "cpu_profile.json")


if __name__ == "__main__":
    main()
