"""From arguments to an exit status: 0 if all is well, 2 if something is refused, in a sentence."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
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
        flags = {flag: _blank(action) for action in actions for flag in action.option_strings}
        return f"geoattn {chosen.command}: {words}{in_flags(words, flags)}\n"

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


def in_flags(words: str, flags: Mapping[str, str]) -> str:
    """The arguments of Python that a refusal names, as flags of the command, where it has them.

    ``flags`` are those of the command, each with what stands for its value.
    """
    found: dict[str, str] = {}
    for name, value in re.findall(r"\b(\w+)=(True|[\"'][\w ]+[\"']|\[[^\]]*\]|\{[^}]*\}|…)", words):
        for flag in sorted(flags):
            if flag.removeprefix("--").split(".")[-1].replace("-", "_") == name:
                plain = flags[flag] if value == "…" else _plain(value)
                found.setdefault(flag, "" if value == "True" else f" {plain}")
    told = "; ".join(flag + value for flag, value in found.items())
    return f" (on this command line: {told})" if told else ""


def _plain(value: str) -> str:
    """A value as it is written on a command line."""
    pairs = re.findall(r"['\"]?([\w…]+)['\"]?\s*:\s*['\"]?([\w…]+)['\"]?", value)
    return " ".join(f"{a}={b}" for a, b in pairs) if pairs else re.sub(r"[\[\]'\",]", "", value)


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."
