"""What the library refuses and warns of, as its sources say it; and a refusal whose remedy is carried out."""

from __future__ import annotations

import ast
import builtins
import functools
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray

import geoattn

SOURCES = Path(geoattn.__file__).parent
TESTS = Path(__file__).parent

#: a call, an item, or an argument with its value, as a message writes them
CODE = re.compile(
    r"[\w}]\((?!s\))|\w\['|\}\[\{\w+\}\][. ]|\b\w+=(?!=)|\bpip install|--(?!version)[a-z]|GEOATTN_\w+"
)
#: an argument that is named without its value, where the remedy is told
ARGUMENT = re.compile(r"[;:.] .*\b[a-z]+_[a-z_]+\b(?!\.json)|\bas context\b")
#: what a message quotes of the call that it refuses
QUOTED = re.compile(r"\b(\w+)=\{(?:self\.|data\.)?\1[\w().]*\}|^\w+=[\w']+")
#: parts of messages that are given by the caller, and are remedies by their names
TOLD = {"remedy", "hint", "drop", "decoded", "numbers", "POINTS_CALL"}


class Refusal(NamedTuple):
    file: str
    line: int
    text: str  # with {names} for what is filled in

    @property
    def names_a_call(self) -> bool:
        text = QUOTED.sub("", self.text)
        told = TOLD & set(re.findall(r"\{(\w+)\}", text))
        return bool(told or CODE.search(text) or ARGUMENT.search(re.sub(r"\{[\w.]*\}", "", text)))


def refusals() -> list[Refusal]:
    """Every error raised, warning given and reason returned in the sources whose words are written there."""
    return [found for path in sorted(SOURCES.rglob("*.py")) for found in _of(path)]


#: what functions return that say why something cannot be, or nothing
REASONS = ("str | None", "Iterator[str]")
WARNINGS = ("warn", "_warn_once")
NOTES = ".add_note"


def _of(path: Path) -> list[Refusal]:
    tree = ast.parse(path.read_text())
    file = path.relative_to(SOURCES).as_posix()
    helpers = _helpers() | {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    found = {}
    for function in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]:
        for node in ast.walk(function):
            told = _told(node, function)
            if told is None:
                continue
            if isinstance(told, ast.Call):
                maker = helpers.get(ast.unparse(told.func)) if isinstance(node, ast.Raise) else None
                told = maker or told.args[0]
            # functions come after what they are in: the innermost has the last word
            found[node.lineno, node.col_offset] = Refusal(file, node.lineno, _text(told, function, helpers))
    return [found[place] for place in sorted(found)]


@functools.cache
def _helpers() -> dict[str, ast.FunctionDef]:
    """The functions of all modules that return words."""
    nodes = (node for path in SOURCES.rglob("*.py") for node in ast.parse(path.read_text()).body)
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef) and node.returns is not None)
    return {node.name: node for node in functions if ast.unparse(node.returns) == "str"}


def _told(node: ast.AST, function: ast.AST) -> ast.AST | None:
    """The error that is raised, the call that warns, or the reason that is returned."""
    if isinstance(node, ast.Raise):
        return node.exc if isinstance(node.exc, ast.Call) and node.exc.args else None
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        return node if (called in WARNINGS or called.endswith(NOTES)) and node.args else None
    reasons = isinstance(function, ast.FunctionDef) and function.returns is not None
    if isinstance(node, ast.Return | ast.Yield) and reasons and ast.unparse(function.returns) in REASONS:
        written = isinstance(node.value, ast.JoinedStr | ast.BinOp | ast.IfExp | ast.Constant)
        return node.value if written and getattr(node.value, "value", "") is not None else None
    return None


def _text(node: ast.AST, function: ast.AST, helpers: dict[str, Any], depth: int = 2) -> str:
    """The words of an expression; a name that its function assigns words to stands for all of them."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "{}"
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, function, helpers, depth) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, function, helpers, depth)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, function, helpers, depth) + _text(node.right, function, helpers, depth)
    if isinstance(node, ast.BoolOp):
        return " | ".join(_text(part, function, helpers, depth) for part in node.values)
    if isinstance(node, ast.IfExp):
        return " | ".join(_text(part, function, helpers, depth) for part in (node.body, node.orelse))
    if isinstance(node, ast.FunctionDef):
        returned = [part.value for part in ast.walk(node) if isinstance(part, ast.Return)]
        return " | ".join(
            _text(value.args[0], node, helpers) for value in returned if isinstance(value, ast.Call)
        )
    if isinstance(node, ast.Name) and depth:
        words = [
            _text(part.value, function, helpers, depth - 1)
            for part in ast.walk(function)
            if isinstance(part, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == node.id for target in part.targets)
            and isinstance(part.value, ast.JoinedStr | ast.Constant | ast.IfExp | ast.BinOp)
        ]
        if words:
            return " | ".join(words)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in helpers and depth:
        returned = [part.value for part in ast.walk(helpers[node.func.id]) if isinstance(part, ast.Return)]
        words = [_text(value, helpers[node.func.id], helpers, depth - 1) for value in returned if value]
        if any(re.sub(r"\{[\w.]*\}", "", word).strip() for word in words):
            return " | ".join(words)
    name = ast.unparse(node)
    return "{" + name + "}" if re.fullmatch(r"[\w.]+", name) else "{}"


@functools.cache
def carried_out() -> dict[tuple[str, str], str]:
    """(file, fragment) of every ``refused_by(file, fragment)`` in the tests, with the test that it is in."""
    found = {}
    for path in sorted(TESTS.glob("test_*.py")):
        for function in ast.parse(path.read_text()).body:
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "refused_by":
                    file, fragment = (ast.literal_eval(argument) for argument in node.args)
                    assert isinstance(function, ast.FunctionDef)
                    found[file, fragment] = f"{path.name}::{function.name}"
    return found


class Refused:
    """A block that is refused, or warned of, by a message that holds ``fragment``; then its remedies.

    Where the source fills something in, the fragment has its ``{name}``, or ``{}``, as in :class:`Refusal`.
    """

    def __init__(self, file: str, fragment: str):
        self.file, self.fragment = file, fragment
        self._pattern = re.compile(".*?".join(map(re.escape, re.split(r"\{[\w.]*\}", fragment))), re.DOTALL)
        self.message = ""
        self._done: list[tuple[int, int]] = []

    def __enter__(self) -> Refused:
        self._catching = warnings.catch_warnings(record=True)
        self._warned = self._catching.__enter__()
        warnings.simplefilter("always")
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self._catching.__exit__(None, None, None)
        said = [str(warning.message) for warning in self._warned] if error is None else [_words(error)]
        told = [message for message in said if self._pattern.search(message)]
        assert told or error is None, f"refused by other words: {said}"
        assert told, f"neither refused nor warned of: {self.fragment}"
        self.message = told[0]
        return True

    def run(self, start: str, *blanks: str, **names: Any) -> Any:
        """Evaluate the code that the message writes from ``start`` on, ``blanks`` in place of its ``…``.

        Assignments change ``names``, and give what they assign.
        """
        begin = self.message.index(start)
        public = {name: getattr(geoattn, name) for name in geoattn.__all__}
        scope = {"ga": geoattn, "geoattn": geoattn, "np": np, "torch": torch, **public}
        scope |= {"xarray": xarray, **names}
        for end in range(len(self.message), begin + len(start.rstrip()) - 1, -1):
            code = self.message[begin:end]
            filled = _filled(code, blanks)
            parsed = _parsed(filled, scope)
            if parsed is not None and code.rstrip(" ,;.:\n") == code:
                break
        else:
            raise AssertionError(f"no code begins with {start!r} in: {self.message}")
        self._done.append((begin, end))
        if isinstance(parsed, ast.Expression):
            return eval(compile(parsed, "<remedy>", "eval"), scope)
        exec(compile(parsed, "<remedy>", "exec"), scope)
        target = parsed.body[0].targets[-1]
        while not isinstance(target, ast.Name):
            target = target.value
        return scope[target.id]

    def says(self, *words: str) -> None:
        """The message names this, and the test carries it out in its own words."""
        for part in words:
            begin = self.message.find(part)
            assert begin >= 0, f"{part!r} is not said in: {self.message}"
            self._done.append((begin, begin + len(part)))

    def left(self) -> list[str]:
        """The code in the message, from its fragment on, that no one has carried out."""
        place = self._pattern.search(self.message)
        found = CODE.finditer(self.message, place.start()) if place else ()
        return [
            self.message[max(0, match.start() - 30) : match.end() + 20]
            for match in found
            if not any(a <= match.start() and match.end() <= b for a, b in self._done)
        ]


def _words(error: BaseException) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def _filled(code: str, blanks: tuple[str, ...]) -> str:
    parts = code.split("…")
    return parts[0] + "".join(blank + part for blank, part in zip(blanks, parts[1:], strict=False))


def _assigns(tree: ast.Module) -> bool:
    return len(tree.body) == 1 and isinstance(tree.body[0], ast.Assign)


def _parsed(code: str, scope: dict[str, Any]) -> Any:
    """The code, if it is whole and all names in it are known."""
    if "…" in code or re.search(r"[.;] ", code):  # a blank is left, or another sentence begins
        return None
    for mode in ("eval", "exec"):
        try:
            tree = ast.parse(code, mode=mode)
        except SyntaxError:
            continue
        value = tree.body if mode == "eval" else tree.body[0].value if _assigns(tree) else None
        if value is None or isinstance(value, ast.Tuple):  # of several remedies, joined by commas
            return None
        read = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        return tree if read - bound <= {*scope, *dir(builtins)} else None
    return None
