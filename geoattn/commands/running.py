"""From arguments to an exit status: 0 if all is well, 2 if something is refused, in a sentence."""

from __future__ import annotations

import argparse
import ast
import contextlib
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

from geoattn._extras import EXTRAS, install
from geoattn._warning import warn
from geoattn.commands.table import COMMANDS

#: what commands refuse by
REFUSALS = (ValueError, OSError, FloatingPointError, ModuleNotFoundError)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    asked = next((argument for argument in given if not argument.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="geoattn",
        description="Attention for geometric domains: planes and spheres.",
        epilog="geoattn COMMAND --help lists the options of a command.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    module: Any = None
    own = parser
    for name, command in COMMANDS.items():
        options: dict[str, Any] = {"add_help": False, "prefix_chars": "\0"} if command.takes_rest else {}
        added = commands.add_parser(name, help=command.help, description=_sentence(command.help), **options)
        if name == asked:
            own, module = added, import_module(f"geoattn.commands.{command.module}")
            module.arguments(added)
    chosen = parser.parse_args(given)

    def told(words: str) -> str:
        actions = module.actions(chosen) if COMMANDS[chosen.command].takes_rest else own._actions
        return f"geoattn {chosen.command}: {words}{in_flags(words, flags_of(actions))}\n"

    try:
        with _warnings_as(told):
            return int(module.run(chosen))
    except BrokenPipeError:  # whoever read the output has enough of it
        sys.stdout = None  # type: ignore[assignment]
        return 0
    except REFUSALS as reason:
        sys.stderr.write(told(said(reason)))
        return 2


@contextlib.contextmanager
def _warnings_as(told: Callable[[str], str]) -> Iterator[None]:
    """Show the library's own warnings in one line, without the place; those of others as they are."""
    before = warnings.formatwarning

    def line(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__") in ("warnings", "_py_warnings"):
            frame = frame.f_back  # to whoever warned
        if frame.f_globals.get("__name__") != warn.__module__:
            return before(message, category, filename, lineno, line)
        return told(" ".join(str(message).split()))

    warnings.formatwarning = line
    try:
        yield
    finally:
        warnings.formatwarning = before


def said(reason: BaseException) -> str:
    """An error in words; a missing package with the extra that brings it."""
    name = getattr(reason, "name", None) if isinstance(reason, ModuleNotFoundError) else None
    package = str(name).split(".")[0]
    words = "\n".join([str(reason), *getattr(reason, "__notes__", [])])
    if package in EXTRAS and "pip install" not in words:
        words = f"{name} is not installed: {install(package)}"
    return words


def _blank(action: argparse.Action) -> str:
    """What stands for the value of an option."""
    return "|".join(map(str, action.choices)) if action.choices else str(action.metavar or "…")


def flags_of(actions: Iterable[argparse.Action]) -> dict[str, str]:
    """The flags of a command, each with what stands for its value."""
    return {flag: _blank(action) for action in actions for flag in action.option_strings}


#: values that a message gives to arguments of Python
_VALUE = r"True|False|[\"'][\w …]+[\"']|\[[^\]]*\]|\{[^}]*\}|…"
#: calls of the library that are commands too; a call may have brackets in its brackets
_CALL = re.compile(r"\bga\.(grids\.catalogue|xarray\.regrid)(\((?:[^()]|\([^()]*\))*\))")
#: what selects from a data set: its arguments are dimensions
_SELECTION = re.compile(r"\.i?sel\([^()]*\)")


def in_flags(words: str, flags: Mapping[str, str]) -> str:
    """What :func:`flagged` finds, to follow the words."""
    told = "; ".join(flagged(words, flags))
    return f" (on this command line: {told})" if told else ""


def flagged(words: str, flags: Mapping[str, str]) -> list[str]:
    """What a refusal names of Python, as it is said on the command line, where that has it.

    Arguments with their values become flags of the command, calls other commands. Numbers count where the
    remedy is told, after a colon or semicolon: before it, a message quotes what it was given.

    Parameters
    ----------
    flags
        Those of the command, as :func:`flags_of` finds them.
    """
    said = list(dict.fromkeys(_as_command(name, call) for name, call in _CALL.findall(words)))
    plain = _CALL.sub("", words)
    remedy = _SELECTION.sub("", plain.partition(": ")[2] or plain.partition("; ")[2])
    named = re.findall(rf"\b(\w+)=({_VALUE})", plain)
    named += re.findall(r"\b(\w+)=(\d+(?:\.\d+)?)\b", remedy)
    found: dict[str, str] = {}
    for name, value in named:
        for flag in sorted(flags):
            if flag.removeprefix("--").split(".")[-1].replace("-", "_") == name:
                negated = f"--no-{flag.removeprefix('--')}"
                if negated in flags and value in ("True", "False"):
                    found.setdefault(flag if value == "True" else negated, "")
                    continue
                shown = flags[flag] if "…" in value and value[0] not in "[{" else _plain(value)
                found.setdefault(flag, "" if value == "True" else f" {shown}")
    return [*said, *(flag + value for flag, value in found.items())]


def _as_command(name: str, call: str) -> str:
    """A call of the library as a command."""
    if name == "grids.catalogue":
        return "geoattn grids"
    try:
        tree: Any = ast.parse(f"f{call}", mode="eval").body
    except SyntaxError:  # with … in it
        return "geoattn regrid STORE --like STORE --output NEW"
    source, target = [*tree.args, ast.Name("store"), ast.Name("store")][:2]
    if isinstance(target, ast.Call):
        where = f'--grid "{ast.unparse(target).removeprefix("ga.grids.")}"'
    else:
        where = f"--like {_store(target)}"
    options = "".join(f" --{word.arg} {ast.literal_eval(word.value)}" for word in tree.keywords)
    return f"geoattn regrid {_store(source)} {where}{options} --output NEW"


def _store(expression: ast.expr) -> str:
    """What stands for the store of a data set."""
    name = re.split(r"\W", ast.unparse(expression))[0].upper()
    return {"DS": "STORE", "SCHEMA": "TRAINED_ON"}.get(name, name)


def _plain(value: str) -> str:
    """A value as it is written on a command line."""
    pairs = re.findall(r"['\"]?([\w…]+)['\"]?\s*:\s*['\"]?([\w…]+)['\"]?", value)
    return " ".join(f"{a}={b}" for a, b in pairs) if pairs else re.sub(r"[\[\]'\",]", "", value)


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."
