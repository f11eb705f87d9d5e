"""Where a run tells its losses while it goes on, by name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

from geoattn._extras import require


class _Logger(NamedTuple):
    name: str  # in lightning.pytorch.loggers
    package: str | None  # that it stands on
    options: dict[str, Any]


LOGGERS = {
    "csv": _Logger("CSVLogger", None, {"name": ""}),
    # one folder for a run and all its continuations, whose lines TensorBoard joins by their steps
    "tensorboard": _Logger(
        "TensorBoardLogger", "tensorboard", {"name": "", "version": "", "default_hp_metric": False}
    ),
    "wandb": _Logger("WandbLogger", "wandb", {"offline": True}),
}


def names_of(loggers: str) -> list[str]:
    """The names in ``"csv,tensorboard"``; ``"none"`` has none."""
    return [] if loggers == "none" else [name.strip() for name in loggers.split(",")]


def check_names(loggers: str) -> None:
    """Refuse names of no logger."""
    for name in names_of(loggers):
        if name not in LOGGERS:
            raise ValueError(
                f"logger {name!r} is unknown: logger='none', or of {', '.join(LOGGERS)} one or several with "
                "commas between"
            )


def loggers(names: str, folder: Path) -> list[Any]:
    """Lightning's loggers, each in a folder of its name; what they stand on is imported here.

    Raises
    ------
    ModuleNotFoundError
        If the package of one is not installed; the message names the extra.
    """
    made = []
    for name in names_of(names):
        kind = LOGGERS[name]
        if kind.package:
            require(f"logger {name!r}", kind.package)
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        make = getattr(importlib.import_module("lightning.pytorch.loggers"), kind.name)
        made.append(make(save_dir=str(place), **kind.options))
    return made
