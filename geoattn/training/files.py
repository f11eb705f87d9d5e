"""Files of a run's folder, each written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_text(content: str, path: Path) -> None:
    """Write the file whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content)
    os.replace(partial, path)


def write_json(content: Any, path: Path) -> None:
    """Write JSON whole or not at all."""
    write_text(json.dumps(content, indent=2) + "\n", path)


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Bind a folder to settings (JSON types), so that no run continues another's results.

    Raises
    ------
    ValueError
        If ``config.json`` in the folder has other settings; they are named.
    """
    path = folder / "config.json"
    wanted = json.loads(json.dumps(settings))
    if path.exists() and (found := json.loads(path.read_text())) != wanted:
        there, here = _flat(found), _flat(wanted)
        names = [name for name in there | here if there.get(name) != here.get(name)]
        changes = "; ".join(f"{name} is {there.get(name)!r} there, {here.get(name)!r} here" for name in names)
        raise ValueError(f"{folder} holds a run with other settings: {changes}. Give another folder")
    write_json(wanted, path)


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined with dots."""
    if not isinstance(content, dict):
        return {prefix: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat
