"""The core tests on the oldest and the newest versions that are supported: ``make matrix``.

Each cell of the matrix is an environment of its own in ``.venv-matrix/``, made by pip. Installing torch
anew for every cell takes some gigabytes of disk and, the first time, of downloads. Results go to
``benchmarks/results/versions.json``, cell by cell; cells that are not run keep what was found before.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "versions.json"
FOLDER = ROOT / ".venv-matrix"

#: what each cell holds fixed; everything else is the newest that pip finds
CELLS: dict[str, dict[str, str]] = {
    "oldest": {
        "python": "3.11",
        "torch": "==2.8.0",
        "numpy": "==1.26.*",
        "scipy": "==1.11.*",
        "numba": "==0.61.*",
        "xarray": "==2025.6.*",
        "zarr": "==2.18.*",
    },
    "zarr-3.0": {
        "python": "3.11",
        "torch": "==2.11.0",
        "numpy": "==1.26.*",
        "scipy": "==1.11.*",
        "numba": "==0.61.*",
        "xarray": "==2025.6.*",
        "zarr": "==3.0.*",
    },
    "usual": {"python": "3.11", "torch": "==2.13.0"},
    "python-3.12": {"python": "3.12", "torch": "==2.13.0"},
    "newest": {"python": "3.13", "torch": ""},
}
REPORTED = ("torch", "numpy", "scipy", "numba", "xarray", "zarr", "lightning")
EXTRAS = ("netCDF4", "tqdm", "dask", "cftime", "matplotlib", "lightning", "jsonargparse", "safetensors")
TOOLS = ("pytest", "hypothesis", "healpix", "setuptools", "setuptools-scm")

#: operator, modules, plans and the bridge to xarray: what stands directly on other packages
TESTS = (
    "test_attention",
    "test_reference",
    "test_cpu_backend",
    "test_sdpa",
    "test_flex",
    "test_compile",
    "test_programs",
    "test_private_names",
    "test_nn",
    "test_position",
    "test_relations",
    "test_pairs",
    "test_resampling",
    "test_models",
    "test_checkpoints",
    "test_training",
    "test_plans",
    "test_plan_cache",
    "test_from_xarray",
    "test_schema",
    "test_windows",
    "test_statistics",
    "test_forecaster",
    "test_forecast",
    "test_forecast_resumed",
    "test_metrics",
    "test_regrid",
)


def interpreter(version: str) -> str | None:
    """A Python of that version that runs, or None."""
    name = f"python{version}"
    for found in (shutil.which(name), *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))):
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    return None


def write(text: str, path: Path) -> None:
    """Whole or not at all. The Python that runs this need not have what geoattn stands on."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def commit() -> str:
    """What is tested: the commit, and whether files other than results differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    named = git("describe", "--always", "--abbrev=12")
    return f"{named}-dirty" if changed else named or "not a git checkout"


def install(cell: str) -> Path:
    """The cell's environment; its Python."""
    wanted = CELLS[cell]
    folder = FOLDER / cell
    python, ready = folder / "bin" / "python", folder / "ready.json"
    if ready.exists() and json.loads(ready.read_text()) == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    base = interpreter(wanted["python"])
    if base is None:
        raise RuntimeError(f"no Python {wanted['python']} at hand")
    subprocess.run([base, "-m", "venv", str(folder)], check=True)
    pins = [
        f"{name}{wanted.get(name, '')}" for name in ("torch", "numpy", "scipy", "numba", "xarray", "zarr")
    ]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *pins, *EXTRAS, *TOOLS], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", str(ROOT)], check=True)
    write(json.dumps(wanted), ready)
    return python


def run(cell: str, tests: list[str]) -> dict[str, object]:
    """Run the tests in a cell's environment; what happened, as JSON types."""
    today = datetime.date.today().isoformat()
    try:
        python = install(cell)
    except (RuntimeError, subprocess.CalledProcessError) as reason:
        return {"date": today, "not run": str(reason)}
    program = (
        "import json, platform; from importlib.metadata import version; "
        "print(json.dumps({'python': platform.python_version()} | "
        f"{{name: version(name) for name in {REPORTED!r}}}))"
    )
    versions = json.loads(subprocess.run([python, "-c", program], capture_output=True, check=True).stdout)
    report = FOLDER / cell / "report.xml"
    report.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", "-q", f"--junitxml={report}", *(f"tests/{t}.py" for t in tests)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if not report.exists():
        return {"date": today, "versions": versions, "not run": done.stdout[-2000:] + done.stderr[-2000:]}
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))

    def names(outcome: str) -> list[str]:
        wanted = [case for case in cases if case.find(outcome) is not None]
        return [re.sub(r"^tests\.", "", f"{case.get('classname')}::{case.get('name')}") for case in wanted]

    failed, skipped = names("failure") + names("error"), names("skipped")
    passed = len(cases) - len(failed) - len(skipped)
    counts = {"passed": passed, "failed": len(failed), "skipped": len(skipped)}
    return {"date": today, "commit": commit(), "versions": versions, **counts, "failures": failed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="default: all of them")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), metavar="NAME", help="files in tests/")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cells": {}}
    results["command"] = "python benchmarks/versions.py"
    results["machine"] = f"{platform.system()} {platform.machine()}"
    for cell in options.cells:
        print(f"{cell} …", flush=True)
        found = run(cell, options.tests) | {"tests": options.tests}
        results["cells"][cell] = found
        write(json.dumps(results, indent=1) + "\n", RESULTS)
        shown = {name: found[name] for name in ("passed", "failed", "skipped", "not run") if name in found}
        print(f"  {shown}", flush=True)
    bad = [
        cell
        for cell in options.cells
        if results["cells"][cell].get("failed") or "not run" in results["cells"][cell]
    ]
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main())
