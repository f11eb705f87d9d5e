"""torch-harmonics' own attention tests with the layers of ``geoattn.compat.torch_harmonics``.

    python benchmarks/harmonics_tests.py FOLDER

FOLDER holds ``test_attention.py`` and ``testutils.py`` of torch-harmonics' repository (folder ``tests``, of
the release that is installed); they need ``parameterized``. They are run twice in processes of their own: as
they are, and with our layers under their names. A test that fails with ours is named, and must be one of
:data:`THEIR_KERNELS`. Prints both counts and writes ``benchmarks/results/harmonics_tests.json``; ends with an
error if another test fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from about import about

from geoattn._files import write_text

RESULTS = Path(__file__).parent / "results" / "harmonics_tests.json"
#: tests that hand buffers of their layer to torch-harmonics' own operator: no test of a layer in its place
THEIR_KERNELS = re.compile(r"test_optimized_pt2_compatibility_\d+$")

PLUGIN = """
import torch_harmonics
from geoattn.compat.torch_harmonics import AttentionS2, NeighborhoodAttentionS2
from about import about

torch_harmonics.AttentionS2, torch_harmonics.NeighborhoodAttentionS2 = AttentionS2, NeighborhoodAttentionS2
"""


def run(folder: Path, *, ours: bool) -> dict[str, str]:
    """Name of each test → "passed", "failed" or "skipped"."""
    with tempfile.TemporaryDirectory() as made:
        write_text(PLUGIN, Path(made) / "our_layers.py")
        report = Path(made) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        paths = [made, str(folder), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        plugin = ["-p", "our_layers"] if ours else []
        subprocess.run(
            [*command, *plugin, "test_attention.py"],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        cases = ElementTree.parse(report).iter("testcase")
        return {f"{case.get('classname')}.{case.get('name')}": _state(case) for case in cases}


def _state(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder with their tests")
    folder = parser.parse_args().folder.resolve()
    theirs, ours = run(folder, ours=False), run(folder, ours=True)
    failed = sorted(name for name, state in ours.items() if state == "failed")
    unexplained = [name for name in failed if not THEIR_KERNELS.search(name)]
    counts = {
        who: {state: sum(s == state for s in states.values()) for state in ("passed", "failed", "skipped")}
        for who, states in (("their layers", theirs), ("our layers", ours))
    }
    for who, count in counts.items():
        print(who, ", ".join(f"{n} {state}" for state, n in count.items()))
    for name in failed:
        print(f"  fails with our layers: {name}, with theirs: {theirs.get(name)}")
    report = about("python benchmarks/harmonics_tests.py FOLDER", "torch-harmonics") | {
        "counts": counts,
        "failed with our layers": {name: f"with theirs: {theirs.get(name)}" for name in failed},
    }
    write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", RESULTS)
    if unexplained or set(ours) != set(theirs) or not ours:
        sys.exit(f"{len(unexplained)} tests fail with our layers alone, of {len(ours)}")


if __name__ == "__main__":
    main()
