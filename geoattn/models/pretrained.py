"""Models in folders as model hubs lay them out: weights in safetensors, the configuration in JSON."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from geoattn import _files
from geoattn._value import UnknownKind, decoded_array
from geoattn.models.config import ModelConfig

WEIGHTS, CONFIG = "model.safetensors", "config.json"
#: the only key of what stands for an array that lies with the weights
_TENSOR = "tensor"
#: before the names of these arrays
_PREFIX = "config."


def save(path: str | os.PathLike[str], model: nn.Module, config: ModelConfig) -> None:
    """Write both files; see :meth:`geoattn.models.Model.save_pretrained`."""
    arrays: dict[str, Tensor] = {}
    described = _lifted(config.to_dict(), _PREFIX.rstrip("."), arrays, {})
    kind = described.pop("kind")
    content = {
        "library_name": "geoattn",
        "architectures": [type(model).__name__],
        "model_type": kind,
        **described,
    }
    text = json.dumps(content, indent=2) + "\n"
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    metadata = {"format": "pt", "config_sha256": _digest(text)}
    folder = Path(path)
    _files.write_bytes(safetensors.torch.save(state | arrays, metadata), folder / WEIGHTS, durable=True)
    _files.write_text(text, folder / CONFIG, durable=True)


def load(
    path: str | os.PathLike[str], device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """Read both files; see :meth:`geoattn.models.Model.from_pretrained`."""
    folder = Path(path)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"there is no {name} in {str(path)!r}, and nothing is fetched: name a folder that "
                "model.save_pretrained(path) wrote, or that you downloaded"
            )
    text = (folder / CONFIG).read_text()
    try:
        with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        content = json.loads(text)
        kind = content.pop("model_type")
        if metadata["config_sha256"] != _digest(text):
            raise ValueError(f"{CONFIG} is not the one that was saved with {WEIGHTS}")
        for name in ("library_name", "architectures"):
            content.pop(name, None)
        arrays = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_PREFIX)}
        config = ModelConfig.from_dict({"kind": kind, **_lowered(content, arrays)})
    except UnknownKind as reason:
        raise ValueError(f"the model in {str(path)!r} cannot be built here: {reason}") from None
    except (ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as reason:
        raise ValueError(
            f"{str(path)!r} is no model of geoattn, or a damaged one ({type(reason).__name__}: {reason}); "
            "such folders are what model.save_pretrained(path) writes"
        ) from reason
    stored = {value.dtype for value in tensors.values() if value.is_floating_point()}
    model = config.build(device, stored.pop() if dtype is None and len(stored) == 1 else dtype)
    model.load_state_dict(tensors)
    return model.eval()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _lifted(value: Any, place: str, arrays: dict[str, Tensor], places: dict[str, str]) -> Any:
    """The same JSON, its long arrays taken out, each once however often it is there."""
    if isinstance(value, dict) and "shape" in value and "array" in value:
        first = places.setdefault(json.dumps(value), place)
        if first == place:
            arrays[place] = torch.from_numpy(decoded_array(value).copy())
        return {_TENSOR: first}
    if isinstance(value, dict):
        return {name: _lifted(part, f"{place}.{name}", arrays, places) for name, part in value.items()}
    if isinstance(value, list):
        return [_lifted(part, f"{place}.{number}", arrays, places) for number, part in enumerate(value)]
    return value


def _lowered(value: Any, arrays: dict[str, Tensor]) -> Any:
    """The inverse; arrays are written out as :meth:`ModelConfig.to_dict` writes short ones."""
    if isinstance(value, dict) and set(value) == {_TENSOR}:
        array = arrays[value[_TENSOR]].numpy()
        return {"array": array, "dtype": array.dtype.str}
    if isinstance(value, dict):
        return {name: _lowered(part, arrays) for name, part in value.items()}
    if isinstance(value, list):
        return [_lowered(part, arrays) for part in value]
    return value
