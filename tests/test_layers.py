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
    [
        "_registry",
        "_extras",
        "_warning",
        "_fields",
        "_value",
        "_shipped",
        "_files",
        "_lru",
        "_threads",
        "_after",
        "_accessor",
        "_version",
    ],
    ["grids"],
    ["neighborhoods"],
    ["relations"],
    ["plans"],
    ["plot"],
    ["backends"],
    ["programs"],
    ["ops"],
    ["derivatives"],
    ["operands"],
    ["calls"],
    ["functional"],
    ["nn", "testing", "parallel"],
    ["models", "compat"],
    ["xarray"],
    ["training"],
    ["tasks"],
    ["demo"],
    ["commands"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
WITHOUT_TORCH = {*LAYERS[0], "grids", "neighborhoods", "relations", "plans", "plot"}


def part_of(module: str) -> str:
    """The folder or file of the package that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


class Imports(ast.NodeVisitor):
    """What a file imports, inside functions too; not what only type checkers import: it never runs."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self.found.add(whole if whole in FILES else str(node.module))


def imported_by(name: str) -> set[str]:
    visitor = Imports()
    visitor.visit(ast.parse(FILES[name].read_text()))
    return visitor.found


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_run_downward(name):
    own = part_of(name)
    if not own:
        return  # geoattn/__init__.py names the public face, late
    assert own in LEVEL, f"{own} has no place in the layers: give it one here"
    for module in imported_by(name):
        if module.startswith("geoattn."):
            part = part_of(module)
            assert LEVEL[part] <= LEVEL[own], f"{name} imports {module}, which lies above it"
        if module.split(".")[0] == "torch":
            assert own not in WITHOUT_TORCH, f"{own} must not import torch"


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of files that reach each other."""
    reach = {name: set(targets) for name, targets in arrows.items()}
    for middle in arrows:  # by way of one more file at a time
        for name in arrows:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    return sorted({tuple(sorted(m for m in reach[n] if n in reach[m])) for n in arrows if n in reach[n]})


def test_no_files_import_each_other_in_a_circle():
    arrows = {name: {m for m in imported_by(name) if m in FILES and m != "geoattn"} for name in FILES}
    assert circles(arrows) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [("b", "c")]


def test_importing_geoattn_loads_nothing_heavy():
    heavy = ["torch", "numba", "xarray", "matplotlib", "lightning", "torch_harmonics", "zarr"]
    program = f"import sys, geoattn; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_public_name_resolves():
    for name in geoattn.__all__:
        assert getattr(geoattn, name) is not None


@pytest.mark.parametrize("name", sorted(FILES))
def test_nobody_inside_imports_the_face(name):
    """``import geoattn`` names everything, so that whoever imports it stands above everything."""
    assert "geoattn" not in imported_by(name)
