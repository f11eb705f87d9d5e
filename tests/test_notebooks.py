"""Every notebook runs from top to bottom, at a toy size, by nbmake in a kernel of its own."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from real_fields import real_field

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDED = {
    "matplotlib": "notebooks draw",
    "lightning": "notebooks train",
    "nbmake": "it executes notebooks",
    "ipykernel": "notebooks need a kernel",
}


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_small(path):
    assert path.stat().st_size < 600_000
    cells = json.loads(path.read_text())["cells"]
    assert not [c for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_training_leaves_no_bars_among_the_outputs(path):
    cells = ("".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code")
    training = [cell for cell in cells if re.search(r"\b(fit|train_forecaster)\(", cell)]
    assert all(cell.startswith("%%capture") for cell in training)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path):
    for name in re.findall(r"real_data\.fetch\(\\\"(\w+)\\\"\)", path.read_text()):
        real_field(name)
    for module, reason in NEEDED.items():
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing: {reason}")
    environment = os.environ | {
        "GEOATTN_QUICK": "1",
        "MPLBACKEND": "agg",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=600", "-p", "no:cacheprovider"]
    run = subprocess.run([*command, str(path)], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
