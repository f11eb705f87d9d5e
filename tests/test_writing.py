"""Files are written whole or not at all: nothing writes to a file's final name by itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: what writes a file under the name that it is given
WRITERS = {
    "write_text",
    "write_bytes",
    "savefig",
    "imsave",
    "savez",
    "savez_compressed",
    "tofile",
    "to_netcdf",
}
OF_MODULES = {("torch", "save"), ("np", "save"), ("json", "dump"), ("shutil", "copyfile"), ("shutil", "copy")}
#: function → why it may
ALLOWED = {
    "geoattn/_files.py:write_text": "calls write_bytes",
    "geoattn/_files.py:write_json": "calls write_text",
    "geoattn/backends/cuda/compiler.py:compile": "a temporary folder that is gone at the end",
    "geoattn/plans/cache.py:write": "into memory, for write_checked",
    "benchmarks/systems_measure.py:peak_megabytes": "a word to the system, which keeps no file",
    "benchmarks/versions.py:write": "renames, where geoattn may not be installed",
}


def writes(tree: ast.Module) -> Iterator[tuple[str, int, str]]:
    """Function, line and name of every call that writes to a file, outside ``with whole(…)``."""

    def visit(
        node: ast.AST, function: str, sheltered: bool, ours: frozenset[str]
    ) -> Iterator[tuple[str, int, str]]:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.With):
            calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
            sheltered |= any(ast.unparse(call.func).split(".")[-1] == "whole" for call in calls)
        if isinstance(node, ast.Call) and not sheltered:
            called = ast.unparse(node.func)
            if _writes(node, called) and called not in ours:
                yield function, node.lineno, called
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function, sheltered, ours)

    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "geoattn._files"
        for alias in node.names
    }
    return visit(tree, "<module>", False, frozenset(imported | {f"_files.{name}" for name in WRITERS}))


def _writes(node: ast.Call, called: str) -> bool:
    owner, _, name = called.rpartition(".")
    if name in WRITERS or (owner, name) in OF_MODULES:
        return True
    if name in ("open", "fdopen"):
        modes = [
            *node.args[bool(owner == "" or owner == "os") :][:1],
            *(k.value for k in node.keywords if k.arg == "mode"),
        ]
        return any(isinstance(m, ast.Constant) and set("wax+") & set(str(m.value)) for m in modes)
    return False


@pytest.mark.parametrize(
    "source",
    [
        "with open(p, 'w') as f: f.write('x')",
        "p.open('wb')",
        "p.write_text('x')",
        "figure.savefig(p)",
        "torch.save(x, p)",
        "np.savez(p, a=1)",
        "open(p, mode='a')",
    ],
)
def test_the_scan_sees_what_writes(source: str) -> None:
    assert [name for *_, name in writes(ast.parse(source))]
    assert not list(writes(ast.parse(f"with whole(target) as p:\n    {source}")))


@pytest.mark.parametrize("source", ["open(p)", "open(p, 'rb')", "p.open()", "x.save(p)"])
def test_the_scan_lets_reading_be(source: str) -> None:
    assert not list(writes(ast.parse(source)))


def test_files_are_written_whole_or_not_at_all() -> None:
    found = {}
    for folder in ("geoattn", "benchmarks", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for function, line, called in writes(ast.parse(path.read_text())):
                found.setdefault(f"{name}:{function}", f"{called} in line {line}")
    assert {place: what for place, what in found.items() if place not in ALLOWED} == {}, (
        "write by geoattn._files: write_text, write_bytes, write_json, `with whole(path) as partial`"
    )
    idle = set(ALLOWED) - set(found)
    assert not idle, f"these write no more and need no permission: {sorted(idle)}"
