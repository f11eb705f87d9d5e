"""Every public name has an example in its docstring, and all examples are run as they stand."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys

import pytest

import geoattn as ga

#: the parts of the reference, see ``docs/site.py``
PARTS = (
    *(
        "grids",
        "neighborhoods",
        "relations",
        "plans",
        "nn",
        "models",
        "parallel",
        "xarray",
        "training",
        "plot",
    ),
    *("backends", "testing"),
)
#: names of other libraries, beside ours
COMPAT = ("compat.natten", "compat.torch_harmonics")
#: runs the examples of the objects that are named, each with names of its own
RUN = """
import doctest, importlib, sys, warnings
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt, numpy as np, torch
import geoattn as ga
warnings.simplefilter("ignore")
options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=options)
for path in sys.argv[1:]:
    module, _, name = path.rpartition(".")
    torch.manual_seed(0)
    for test in finder.find(getattr(importlib.import_module(module), name), path, False, globs={}):
        test.globs = {"ga": ga, "np": np, "torch": torch, "__name__": "__main__"}
        runner.run(test)
    plt.close("all")
print(runner.summarize(verbose=False))
"""


def public():
    """Full name → object, each object once."""
    for module in ("xarray", "lightning", "matplotlib"):
        pytest.importorskip(module, reason="parts with public names stand on it")
    found, seen = {}, set()
    for name in ("geoattn", *(f"geoattn.{part}" for part in PARTS + COMPAT)):
        module = importlib.import_module(name)
        for listed in module.__all__:
            value = getattr(module, listed)
            if callable(value) and not inspect.ismodule(value) and id(value) not in seen:
                seen.add(id(value))
                found[f"{name}.{listed}"] = value
    return found


def test_every_public_name_has_an_example():
    found = public()
    assert len(found) > 180
    assert not [name for name, value in found.items() if ">>> " not in (value.__doc__ or "")]


def test_all_examples_do_what_they_say(tmp_path):
    # in a process of its own: some make parts known, or forget plans
    program = [sys.executable, "-c", RUN, *public()]
    settings = os.environ | {"TQDM_DISABLE": "1"}
    run = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path, env=settings)
    assert run.returncode == 0, run.stderr[-2000:]
    last = run.stdout.strip().splitlines()[-1]
    assert last.startswith("TestResults(failed=0, attempted="), run.stdout[-4000:]


def test_the_parts_are_those_of_the_reference():
    modules = {name for name in dir(ga) if inspect.ismodule(getattr(ga, name))}
    assert modules - set(PARTS) == {"compat", "tasks", "commands"}
