"""Settings of an experiment from a file and flags, by jsonargparse, each with its sentence of help."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any, get_type_hints

from geoattn._files import write_text
from geoattn.commands import tables

#: task → the module with its ``Settings``, ``train(settings, output)`` and ``evaluate(settings, output)``
TASKS = {
    "forecast": "geoattn.tasks.forecast.experiment",
    "shallow-water": "geoattn.tasks.shallow_water.experiment",
    "segmentation": "geoattn.tasks.segmentation.experiment",
    "depth": "geoattn.tasks.depth.experiment",
}
#: task → what it is about, for the list of tasks
ABOUT = {
    "forecast": "a forecaster for your own store, of any grid and convention",
    "shallow-water": "a forecaster of shallow water, on data from the solver",
    "segmentation": "semantic segmentation of panoramas",
    "depth": "depth estimation from panoramas",
}
#: action → what it does
ACTIONS = {
    "train": "Train a model for a task: settings from a file and flags, a model and its metrics in a folder.",
    "evaluate": "Score a trained model, and draw its scores, in the folder of its run.",
}


def train(rest: list[str]) -> int:
    """Train by what follows ``geoattn train``; returns the exit status."""
    if _asks_for_help("train", rest):
        return 0
    task, experiment = _experiment("train", rest)
    parser = parser_of("train", task, experiment)
    chosen = parser.parse_args(rest[1:])
    output = chosen.output
    kept = chosen.clone()
    for name in ("output", "config"):
        kept.pop(name, None)
    settings = experiment.Settings(**_values(parser, chosen))
    experiment.train(settings, output)
    from geoattn.training.processes import is_first

    if not is_first():  # of several, under torchrun
        return 0
    write_text(parser.dump(kept, skip_validation=True), output / "settings.yaml")
    print(f"The model is in {output}/; score it: geoattn evaluate {task} --output {output}")
    return 0


def evaluate(rest: list[str]) -> int:
    """Score by what follows ``geoattn evaluate``; returns the exit status."""
    import jsonargparse

    if _asks_for_help("evaluate", rest):
        return 0
    task, experiment = _experiment("evaluate", rest)
    output = parser_of("evaluate", task, experiment).parse_args(rest[1:]).output
    path = output / "settings.yaml"
    if not path.exists():
        raise ValueError(f"there is no finished run in {output}: geoattn train {task} --output {output}")
    reader = jsonargparse.ArgumentParser()
    reader.add_class_arguments(experiment.Settings, as_group=False)
    settings = experiment.Settings(**_values(reader, reader.parse_path(str(path))))
    result = experiment.evaluate(settings, output)
    print(tables.of_scores(result))
    print(f"All scores are in {output}/evaluation.json, with pictures beside them.")
    return 0


def parser_of(action: str, task: str, experiment: Any) -> Any:
    """The parser of a task's options."""
    import jsonargparse

    parser = jsonargparse.ArgumentParser(prog=f"geoattn {action} {task}", description=experiment.__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs") / task, help="folder of the run")
    if action == "train":
        parser.add_argument("--config", action="config", help="YAML or JSON file with any of the settings")
        parser.add_class_arguments(experiment.Settings, as_group=False)
        _describe(parser, experiment.Settings)
    return parser


def actions(action: str, rest: list[str]) -> list[Any]:
    """The options of the task that is asked for; none if there is no such task."""
    if not rest or rest[0] not in TASKS:
        return []
    found: list[Any] = parser_of(action, *_experiment(action, rest))._actions
    return found


def _asks_for_help(action: str, rest: list[str]) -> bool:
    """Whether help is asked for before a task is named: it is printed then."""
    if not rest or rest[0] not in ("-h", "--help"):
        return False
    width = max(map(len, TASKS))
    tasks = "\n".join(f"  {task:<{width}}  {ABOUT[task]}" for task in TASKS)
    print(
        f"usage: geoattn {action} TASK --output FOLDER …\n\n{ACTIONS[action]}\n\ntasks:\n{tasks}\n\n"
        f"geoattn {action} TASK --help lists the options of a task."
    )
    return True


def _experiment(action: str, rest: list[str]) -> tuple[str, Any]:
    if not rest or rest[0] not in TASKS:
        wanted = "" if not rest else f"unknown task {rest[0]!r}; "
        raise ValueError(f"{wanted}usage: geoattn {action} {{{','.join(TASKS)}}} --output FOLDER [--help]")
    return rest[0], importlib.import_module(TASKS[rest[0]])


def _values(parser: Any, chosen: Any) -> dict[str, Any]:
    """The arguments of Settings, as dataclasses."""
    made = parser.instantiate(chosen)
    return {name: value for name, value in vars(made).items() if name not in ("output", "config")}


def _describe(parser: Any, settings: Any) -> None:
    """Give every option the words that the docstring of its dataclass has for it."""
    words = described(settings)
    groups: dict[str, str] = {}
    for action in parser._actions:
        if action.dest in words:
            action.help = f"{words[action.dest]} (%(default)s)"
        elif any(name.startswith(f"{action.dest}.") for name in words):
            groups[action.dest] = action.help = f"file with any of the settings of {action.dest}"
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.dest in groups:
                group.title = f"settings of {action.dest}"


def described(settings: Any, prefix: str = "") -> dict[str, str]:
    """Dotted name of every field of a dataclass, and of those within, → the words about it."""
    types, found = get_type_hints(settings), dict[str, str]()
    words = parameters(settings)
    for field in dataclasses.fields(settings):
        if dataclasses.is_dataclass(types[field.name]):
            found |= described(types[field.name], f"{prefix}{field.name}.")
        elif field.name in words:
            found[prefix + field.name] = words[field.name]
    return found


def parameters(documented: Any) -> dict[str, str]:
    """Name → the words of each entry of ``Parameters`` in a docstring in numpy's style."""
    text = inspect.cleandoc(documented.__doc__ or "")
    _, _, section = text.partition("Parameters\n----------\n")
    found = dict[str, str]()
    for names, body in re.findall(r"^(\S.*)\n((?:[ ]+.*\n?|\n)+)", section + "\n", flags=re.MULTILINE):
        said = re.sub(r":\w+:`~?([^`]*)`", r"\1", " ".join(body.split())).replace("``", "")
        found |= {name.strip(): said.rstrip(".") for name in names.split(",")}
    return found
