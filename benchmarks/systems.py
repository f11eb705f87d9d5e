"""Attention systems of the field, each shown with our kernels: what plans predict beside what is measured.

    python benchmarks/systems.py                       # twenty minutes; what is kept is not measured again
    python benchmarks/systems.py --only fna gna        # some of: fna, dina, gna, hilbert, patterns
    python benchmarks/systems.py --again               # measure all anew
    python benchmarks/systems.py --missing             # keep also what was measured on a busy machine
    python benchmarks/systems.py --small --output FILE # toy sizes, in seconds; changes no page

Each part says in its own file what it shows: ``systems_fna.py``, ``systems_dina.py``, ``systems_gna.py``,
``systems_hilbert.py``, ``systems_patterns.py``. All that is timed in a row takes turns, outputs are compared
first, and the best of the rounds counts. Rows are written at once to ``benchmarks/results/systems.json``;
one that was measured while other processes were at work says so (``loaded``) and is measured again by the
next run. At the end the tables of ``docs/systems.md`` are written from the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pages
import systems_dina
import systems_fna
import systems_gna
import systems_hilbert
import systems_page
import systems_patterns
import torch
from systems_measure import FOLDER, Options, Results

PARTS = ("fna", "dina", "gna", "hilbert", "patterns")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--again", action="store_true", help="measure what is kept, too")
    parser.add_argument("--missing", action="store_true", help="measure what is not there alone")
    parser.add_argument("--small", action="store_true", help="toy sizes")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2), help="of the models of dina")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=FOLDER / "systems.json")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/systems"), help="of trainings (%(default)s)"
    )
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    options = Options(1 if chosen.small else chosen.rounds, chosen.small)
    results = Results(chosen.output, "python benchmarks/systems.py", chosen.again, chosen.missing)
    if "fna" in chosen.only:
        systems_fna.measure(results, options)
    if "gna" in chosen.only:
        systems_gna.measure(results, options)
    if "hilbert" in chosen.only:
        systems_hilbert.measure(results, options)
    if "patterns" in chosen.only:
        systems_patterns.measure(results, options)
    if "dina" in chosen.only:
        systems_dina.measure(results, options, chosen.folder, chosen.seeds)
    tables = systems_page.tables(results.content)
    for name, table in tables.items():
        print(f"\n{name}\n{table}")
    if not chosen.small:
        rows = {name: part["rows"] for name, part in results.content["parts"].items()}
        for part in (systems_fna, systems_dina, systems_patterns):
            name = part.__name__.removeprefix("systems_")
            if name in rows:
                part.draw(rows[name])
        pages.write("systems.md", tables)


if __name__ == "__main__":
    main()
