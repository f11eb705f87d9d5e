"""``geoattn train TASK`` and ``geoattn evaluate TASK``: settings from a file and flags, by jsonargparse."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from geoattn._files import write_text

#: task → the module with its ``Settings``, ``train(settings, output)`` and ``evaluate(settings, output)``
TASKS = {
    "shallow-water": "geoattn.tasks.shallow_water.experiment",
    "segmentation": "geoattn.tasks.segmentation.experiment",
    "depth": "geoattn.tasks.depth.experiment",
}


def run(action: str, arguments: list[str]) -> int:
    """Run ``train`` or ``evaluate``; returns the exit status."""
    import jsonargparse

    if not arguments or arguments[0] not in TASKS:
        wanted = (
            "" if not arguments or arguments[0] in ("-h", "--help") else f"unknown task {arguments[0]!r}; "
        )
        raise SystemExit(f"{wanted}usage: geoattn {action} {{{','.join(TASKS)}}} --output FOLDER [--help]")
    task, rest = arguments[0], arguments[1:]
    experiment: Any = importlib.import_module(TASKS[task])
    parser = jsonargparse.ArgumentParser(prog=f"geoattn {action} {task}", description=experiment.__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs") / task, help="folder of the run")
    if action == "train":
        parser.add_argument("--config", action="config", help="YAML or JSON file with any of the settings")
        parser.add_class_arguments(experiment.Settings, as_group=False)
        chosen = parser.parse_args(rest)
        output = chosen.output
        kept = chosen.clone()
        for name in ("output", "config"):
            kept.pop(name, None)
        settings = experiment.Settings(**_values(parser, chosen))
        _refused(experiment.train, settings, output)
        write_text(parser.dump(kept, skip_validation=True), output / "settings.yaml")
        print(f"The model is in {output}/; score it: geoattn evaluate {task} --output {output}")
        return 0
    output = parser.parse_args(rest).output
    path = output / "settings.yaml"
    if not path.exists():
        raise SystemExit(f"there is no finished run in {output}: geoattn train {task} --output {output}")
    reader = jsonargparse.ArgumentParser()
    reader.add_class_arguments(experiment.Settings, as_group=False)
    settings = experiment.Settings(**_values(reader, reader.parse_path(str(path))))
    result = _refused(experiment.evaluate, settings, output)
    print(json.dumps(_last(result), indent=1))
    print(f"All scores are in {output}/evaluation.json, with pictures beside them.")
    return 0


def _refused(action: Any, settings: Any, output: Path) -> Any:
    """What an action gives; what it refuses is said without a traceback."""
    try:
        return action(settings, output)
    except ValueError as reason:
        raise SystemExit(str(reason)) from reason


def _values(parser: Any, chosen: Any) -> dict[str, Any]:
    """The arguments of Settings, as dataclasses."""
    made = parser.instantiate(chosen)
    return {name: value for name, value in vars(made).items() if name not in ("output", "config")}


def _last(result: Any) -> Any:
    """A result to be read at a glance: of each curve only its last value."""
    if isinstance(result, dict):
        return {key: _last(value) for key, value in result.items()}
    return result[-1] if isinstance(result, list) else result
