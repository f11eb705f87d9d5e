"""What a user sees first: names, types, and ``ds.geoattn`` in any order of imports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import geoattn as ga

ROOT = Path(ga.__file__).parent.parent
MODULES = {
    "backends",
    "commands",
    "compat",
    "grids",
    "models",
    "neighborhoods",
    "nn",
    "parallel",
    "plans",
    "plot",
    "tasks",
    "testing",
    "training",
    "xarray",
}


def test_dir_lists_every_part_and_nothing_else():
    listed = {name for name in dir(ga) if not name.startswith("_")}
    assert listed >= MODULES | set(ga.__all__)
    assert "explain" in listed
    for name in listed:
        assert getattr(ga, name).__name__.split(".")[0] == "geoattn" or callable(getattr(ga, name)), name
    assert not listed & {"import_module", "annotations", "Any", "TYPE_CHECKING"}
    assert {"__version__", "__doc__", "__file__"} <= set(dir(ga))


def test_the_folders_of_the_package_are_all_listed():
    missing = {path.parent.name for path in (ROOT / "geoattn").glob("*/__init__.py")} - set(dir(ga))
    assert not missing, "name them in geoattn/__init__.py: in _LATE_MODULES, and for type checkers"


def test_what_is_not_there_is_refused():
    with pytest.raises(AttributeError, match="module 'geoattn' has no attribute 'no_such_name'"):
        ga.no_such_name  # noqa: B018


def test_the_tasks_say_what_is_there():
    rooms = set(re.findall(r"``geoattn\.tasks\.(\w+)``", ga.tasks.__doc__))
    folder = ROOT / "geoattn" / "tasks"
    there = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert {"shallow_water", "panoramas"} <= rooms <= there | {path.stem for path in folder.glob("*.py")}


USER = """
import torch
import geoattn as ga
from geoattn.backends import Backend

def first(backend: Backend) -> str:
    return backend.name

hood: ga.neighborhoods.Neighborhood = ga.geodesic(ga.grids.gaussian(4, 8), radius=40.0)
x = torch.zeros(1, 4, 8, 1, 4)
print(ga.backends())
reveal_type(ga.backends())  # geoattn.backends.Status
reveal_type(ga.backends.last())  # str | None
reveal_type(ga.backends.get("cpu"))  # geoattn.backends.base.Backend
reveal_type(ga.backends.AUTOMATIC["cpu"])  # tuple[str, ...]
reveal_type(ga.models)  # types.ModuleType
reveal_type(ga.compat.torch_harmonics.convert)  # def (
reveal_type(ga.compat.natten.install)  # def (
reveal_type(ga.models.load)  # def (
reveal_type(ga.xarray.Schema.of)  # def (
reveal_type(ga.plans.plan)  # def (
reveal_type(ga.tasks)  # types.ModuleType
reveal_type(ga.training.fit)  # def (
reveal_type(ga.testing.check_backend("cpu"))  # geoattn.testing.problems.Summary
reveal_type(ga.nn.Attention(8, 2, hood))  # geoattn.nn.attention.Attention
reveal_type(ga.explain(x, x, x, hood).chosen)  # str
reveal_type(ga.attention(x, x, x, hood))  # torch._tensor.Tensor
reveal_type(ga.attention(x, x, x, hood, return_lse=True))  # tuple[torch._tensor.Tensor, torch._tensor.Tensor]
reveal_type(ga.__version__)  # str
"""

MISTAKES = """
ga.backends.lats()  # "Backends" has no attribute "lats"
ga.geodsic(ga.grids.gaussian(4, 8), radius=1.0)  # Module has no attribute "geodsic"
ga.backends.register("mine", 3)  # incompatible type "int"
"""


@pytest.mark.skipif(find_spec("mypy") is None, reason="needs mypy")
def test_a_strict_type_checker_knows_every_public_name(tmp_path):
    """Every name of ``dir(ga)`` has a type that is not Any, the module that is called too."""
    named = "".join(f"reveal_type(ga.{name})\n" for name in dir(ga) if not name.startswith("_"))
    program = USER + named + MISTAKES
    user = tmp_path / "user.py"
    user.write_text(program)
    # strict, by the settings of `make lint`: what that has read of torch need not be read again
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(user)],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    said = {}
    lines = re.findall(r"^.*user\.py:(\d+): (note|error): (.*)$", run.stdout, re.MULTILINE)
    for number, kind, words in lines:
        said.setdefault(int(number), []).append(f"{kind}: {words}")
    for number, line in enumerate(program.splitlines(), 1):
        expected = line.partition("  # ")[2]
        found = "\n".join(said.get(number, []))
        if line.startswith("reveal_type"):
            assert f'note: Revealed type is "{expected}' in found, (line, found)
            assert '"Any"' not in found, (line, found)
            assert "error" not in found, (line, found)
        elif line in MISTAKES.splitlines() and line:
            assert expected in found, (line, found)
            assert "error" in found, (line, found)
        else:
            assert not found, (line, found)


DATA = """
data = {"t": (("lat", "lon"), ga.grids.gaussian(8, 16).lat)}
coords = {"lat": ga.grids.gaussian(8, 16).lat[:, 0], "lon": ga.grids.gaussian(8, 16).lon[0]}
ds = xarray.Dataset(data, coords=coords)
assert "torch" not in sys.modules and "geoattn.xarray" not in sys.modules
assert ds.geoattn.grid == ds["t"].geoattn.grid == ga.grids.gaussian(8, 16)
assert abs(float(ds.geoattn.mean()["t"])) < 1e-12
for loader in (xarray.__loader__, xarray.__spec__.loader):
    assert "geoattn" not in type(loader).__module__
waiting = [finder.name for finder in sys.meta_path if "geoattn" in type(finder).__module__]
assert set(waiting) <= {"torch._dynamo"}, waiting  # torch's compiler is still to come
import geoattn.xarray
assert ds["t"].geoattn.grid == xarray.Dataset(data, coords=coords).geoattn.grid
"""

ORDERS = {
    "geoattn first": "import geoattn as ga\nassert 'xarray' not in sys.modules\nimport xarray",
    "xarray first": "import xarray\nimport geoattn as ga",
    "a part of xarray first": "import geoattn as ga\nfrom xarray.core import dataset\nimport xarray",
    "asked whether xarray is there": "import geoattn as ga, importlib.util\n"
    "assert importlib.util.find_spec('xarray').origin.endswith('__init__.py')\n"
    "assert importlib.util.find_spec('xarray').loader.get_source('xarray')\nimport xarray",
    "geoattn twice": "import geoattn\ndel sys.modules['geoattn']\nimport geoattn as ga\nimport xarray",
    "in a thread of its own": "import geoattn as ga, threading, importlib\n"
    "thread = threading.Thread(target=importlib.import_module, args=('xarray',))\n"
    "thread.start()\nthread.join()\nimport xarray",
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_accessor_is_there_in_any_order_of_imports(order):
    program = "import sys, warnings\nwarnings.simplefilter('error')\n" + ORDERS[order] + DATA
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_a_process_without_xarray_is_left_alone():
    """The finder finds nothing where there is nothing, and says so as Python does."""
    program = """
import sys
import geoattn
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "xarray":
            raise ModuleNotFoundError("No module named 'xarray'", name="xarray")
sys.meta_path.insert(1, Blocked())
try:
    import xarray
except ModuleNotFoundError as error:
    print(error)
sys.meta_path = [f for f in sys.meta_path if not isinstance(f, Blocked)]
import xarray
print(xarray.Dataset.geoattn.__doc__.splitlines()[0])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first == "No module named 'xarray'"
    assert second.startswith("What the grid of a Dataset or DataArray gives")


def test_the_first_call_does_not_wait_for_the_compiler() -> None:
    """torch's compiler takes longer to import than all of this package; an eager call has no use for it."""
    program = (
        "import sys, torch, geoattn as ga\n"
        "grid = ga.grids.equiangular(4, 8)\n"
        "q = torch.randn(1, 4, 8, 1, 16)\n"
        "ga.attention(q, q, q, ga.geodesic(grid, grid, radius=60.0), backend='reference')\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
