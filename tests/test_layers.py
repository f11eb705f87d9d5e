"""The structure of the package: imports run downward, and importing it stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import geoattn

PACKAGE = Path(geoattn.__file__).parent

# From the ground up; a module may import from its own layer and from those before it.
LAYERS = [
    ["_registry", "_value", "_shipped", "_files", "_lru", "_accessor"],
    ["grids"],
    ["neighborhoods"],
    ["plans", "pictures"],
    ["backends"],
    ["programs"],
    ["ops"],
    ["derivatives"],
    ["functional"],
    ["nn", "testing"],
    ["models"],
    ["xarray", "training"],
    ["tasks"],
    ["__main__", "demo"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
WITHOUT_TORCH = {*LAYERS[0], "grids", "neighborhoods", "plans", "pictures"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward(path):
    own = part_of(path)
    assert own in LEVEL, f"{own} has no place in the layers: give it one here"
    for module in imported_modules(path):
        if module.startswith("geoattn."):
            part = module.split(".")[1]
            assert LEVEL.get(part, -1) <= LEVEL[own], f"{own} imports {module}, which lies above it"
        if module.split(".")[0] == "torch":
            assert own not in WITHOUT_TORCH, f"{own} must not import torch"


def test_importing_geoattn_loads_nothing_heavy():
    heavy = ["torch", "numba", "xarray", "matplotlib", "lightning", "torch_harmonics", "zarr"]
    program = f"import sys, geoattn; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_public_name_resolves():
    for name in geoattn.__all__:
        assert getattr(geoattn, name) is not None
