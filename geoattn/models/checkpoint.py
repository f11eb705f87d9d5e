"""Models in files: the configuration and the weights together, so that a file is a whole model."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from geoattn import _files
from geoattn.models.config import ModelConfig, config_of

#: of the layout of the file; another one is refused
VERSION = 2
_MARK = "geoattn model"
#: bytes before the header of a safetensors file: its length
_LENGTH = 8
#: place of the digest in the header, filled in when all else is written
_EMPTY = "0" * 64


def save(path: str | os.PathLike[str], model: nn.Module, **extra: Any) -> None:
    """Write a model to one file, whole or not at all.

    The file is one of safetensors: the weights are its tensors, the configuration its metadata, and a
    SHA-256 digest goes over every byte of both.

    Parameters
    ----------
    path
        File to write or replace; its folder is made.
    model
        A model of this package, or of your own whose ``config`` is a :class:`ModelConfig`.
    **extra
        Whatever belongs to it, such as statistics of its data: numbers, strings, booleans, None,
        tensors, and lists and dictionaries of them. Tuples come back as lists.

    Raises
    ------
    TypeError
        If the model has no configuration, or an extra is of another type.

    Examples
    --------
    >>> import tempfile
    >>> grid = ga.grids.gaussian(8, 16)
    >>> model = ga.models.TransformerConfig(grid, ga.geodesic(grid, radius=40), 1, 1, depth=1).build()
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     ga.models.save(file.name, model)
    """
    config = config_of(model)
    tensors = {f"state.{name}": _plain(value) for name, value in model.state_dict().items()}
    described = {name: _describe(name, value, tensors) for name, value in extra.items()}
    metadata = {
        "mark": _MARK,
        "version": str(VERSION),
        "config": json.dumps(config.to_dict()),
        "extra": json.dumps(described),
        "digest": _EMPTY,
    }
    content = safetensors.torch.save(tensors, metadata)
    content = _sealed(content)
    _files.write_bytes(content, path, durable=True)


def load(path: str | os.PathLike[str], config: ModelConfig | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Read a model, on the CPU and in evaluation mode, and the extras saved with it.

    Nothing in the file is executed, and nothing is read of one that differs in a single bit from what was
    written.

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
        If the file is damaged, truncated or not of this kind, of another version, or if its model differs
        from ``config``: the entries that differ are named.

    Examples
    --------
    >>> import tempfile
    >>> grid = ga.grids.gaussian(8, 16)
    >>> model = ga.models.TransformerConfig(grid, ga.geodesic(grid, radius=40), 1, 1, depth=1).build()
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     ga.models.save(file.name, model, year=2001)
    ...     model, extra = ga.models.load(file.name)
    >>> extra
    {'year': 2001}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no model at {str(path)!r}")
    content = path.read_bytes()
    metadata = _metadata(path, content)
    if metadata.get("mark") != _MARK:
        raise ValueError(f"{str(path)!r} was not written by geoattn.models.save")
    if metadata.get("version") != str(VERSION):
        raise ValueError(
            f"{str(path)!r} has layout version {metadata.get('version')}, and this geoattn reads {VERSION}"
        )
    if _digest(content, str(metadata.get("digest"))) != metadata.get("digest"):
        raise ValueError(f"{str(path)!r} is damaged: its content and its checksum differ")
    tensors = safetensors.torch.load(content)
    found = ModelConfig.from_dict(json.loads(metadata["config"]))
    if config is not None and config != found:
        raise ValueError(f"{str(path)!r} holds another model: {differences(found, config)}")
    model = found.build()
    prefix = "state."
    state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    model.load_state_dict(state)
    extra = {name: _restored(value, tensors) for name, value in json.loads(metadata["extra"]).items()}
    return model.eval(), extra


def _metadata(path: Path, content: bytes) -> dict[str, Any]:
    """The metadata of a safetensors file, which may still be damaged elsewhere."""
    if zipfile.is_zipfile(path):
        raise ValueError(
            f"{str(path)!r} is a file of torch.save, as geoattn.models.save wrote them before version "
            f"{VERSION} of its layout, without a checksum: train again, or read it with the geoattn that "
            "wrote it, and write model.state_dict() into a model built from the same configuration"
        )
    length = int.from_bytes(content[:_LENGTH], "little")
    try:
        header = json.loads(content[_LENGTH : _LENGTH + length])
        metadata = header["__metadata__"]
        if not isinstance(metadata, dict):
            raise TypeError("its metadata are no dictionary")
        safetensors.torch.load(content)  # lengths and places fit the file
    except (
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        OverflowError,
        safetensors.SafetensorError,
    ) as reason:
        raise ValueError(
            f"{str(path)!r} is no model, or a damaged or truncated one ({len(content)} bytes): {reason}"
        ) from reason
    return metadata


def _digest_entry(digest: str) -> bytes:
    return f'"digest":"{digest}"'.encode()


def _sealed(content: bytes) -> bytes:
    """Fill in the digest of all that is written; only the header is searched, and has one such place."""
    digest = hashlib.sha256(content).hexdigest()
    return content.replace(_digest_entry(_EMPTY), _digest_entry(digest), 1)


def _digest(content: bytes, written: str) -> str:
    """The digest of a file's content, with its own place empty."""
    entry = _digest_entry(written)
    if content.count(entry, 0, _LENGTH + int.from_bytes(content[:_LENGTH], "little")) != 1:
        return ""
    return hashlib.sha256(content.replace(entry, _digest_entry(_EMPTY), 1)).hexdigest()


def differences(found: ModelConfig, wanted: ModelConfig) -> str:
    """The entries in which two configurations differ, as a sentence."""
    if found.kind != wanted.kind:
        return f"a {found.kind}, not a {wanted.kind}"
    names = [name for name in found.to_dict() if name != "kind"]
    there, here = ({name: vars(config)[name] for name in names} for config in (found, wanted))
    return _files.differences(there, here)


def _plain(tensor: Tensor) -> Tensor:
    """Own memory, on the CPU: safetensors takes no views and no tensors that share."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


#: the only key of a dictionary in the metadata that stands for something else
_TENSOR, _DICT = "geoattn.tensor", "geoattn.dict"


def _describe(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value in JSON types; tensors go into ``tensors``, and leave their names."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"keys of {name} must be strings, got {key!r}")
        return {_DICT: {key: _describe(f"{name}[{key!r}]", entry, tensors) for key, entry in value.items()}}
    if isinstance(value, list | tuple):
        return [_describe(f"{name}[{index}]", entry, tensors) for index, entry in enumerate(value)]
    if type(value) is Tensor:
        key = f"extra.{len(tensors)}"
        tensors[key] = _plain(value)
        return {_TENSOR: key}
    if value is not None and type(value) not in (bool, int, float, str):
        raise TypeError(
            f"{name} is of type {type(value).__name__}; a checkpoint holds numbers, strings, tensors, and "
            "lists and dictionaries of them"
        )
    return value


def _restored(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restored(entry, tensors) for entry in value]
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _restored(entry, tensors) for key, entry in value[_DICT].items()}
    return value
