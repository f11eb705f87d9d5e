"""Models in files: the configuration and the weights together, so that a file is a whole model."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geoattn import _files
from geoattn.models.config import ModelConfig

#: of the layout of the file; another one is refused
VERSION = 1
_MARK = "geoattn model"


def save(path: str | os.PathLike[str], model: nn.Module, **extra: Any) -> None:
    """Write a model to one file, whole or not at all.

    Parameters
    ----------
    path
        File to write or replace; its folder is made.
    model
        A model of this package: its ``config`` is a :class:`ModelConfig`.
    **extra
        Whatever belongs to it, such as statistics of its data: numbers, strings, booleans, None,
        tensors, and lists and dictionaries of them.

    Raises
    ------
    TypeError
        If the model has no configuration, or an extra is of another type.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise TypeError(
            f"{type(model).__name__} has no configuration to save; models.save takes a model built from a "
            "ModelConfig, such as TransformerConfig(…).build()"
        )
    for name, value in extra.items():
        _check_plain(name, value)
    content = {
        "mark": _MARK,
        "version": VERSION,
        "config": config.to_dict(),
        "state": {name: value.detach().cpu() for name, value in model.state_dict().items()},
        "extra": extra,
    }
    with _files.whole(path, durable=True) as partial:
        torch.save(content, partial)


def load(path: str | os.PathLike[str], config: ModelConfig | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Read a model, on the CPU and in evaluation mode, and the extras saved with it.

    Nothing in the file is executed.

    Parameters
    ----------
    path
        A file that :func:`save` wrote.
    config
        What the model must be. Weights know no grid: without this, any model in the file is taken.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated or not of this kind, of another version, or if its model differs from
        ``config``: the entries that differ are named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no model at {str(path)!r}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as reason:
        raise ValueError(
            f"{str(path)!r} is no model, or a truncated one ({path.stat().st_size} bytes): {reason}"
        ) from reason
    if not isinstance(content, dict) or content.get("mark") != _MARK:
        raise ValueError(f"{str(path)!r} was not written by geoattn.models.save")
    if content["version"] != VERSION:
        raise ValueError(
            f"{str(path)!r} has layout version {content['version']}, and this geoattn reads {VERSION}"
        )
    found = ModelConfig.from_dict(content["config"])
    if config is not None and config != found:
        raise ValueError(f"{str(path)!r} holds another model: {differences(found, config)}")
    model = found.build()
    model.load_state_dict(content["state"])
    return model.eval(), content["extra"]


def differences(found: ModelConfig, wanted: ModelConfig) -> str:
    """The entries in which two configurations differ, as a sentence."""
    if found.kind != wanted.kind:
        return f"a {found.kind}, not a {wanted.kind}"
    names = [name for name in found.to_dict() if name != "kind"]
    there, here = ({name: vars(config)[name] for name in names} for config in (found, wanted))
    return _files.differences(there, here)


def _check_plain(name: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise TypeError(f"keys of {name} must be strings, got {key!r}")
            _check_plain(f"{name}[{key!r}]", entry)
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            _check_plain(f"{name}[{index}]", entry)
    elif value is not None and type(value) not in (bool, int, float, str, Tensor):
        raise TypeError(
            f"{name} is of type {type(value).__name__}; a checkpoint holds numbers, strings, tensors, and "
            "lists and dictionaries of them"
        )
