"""Arguments of other packages that only choose how a result is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geoattn._warning import warn

_said: set[tuple[str, str]] = set()


def note(peer: str, given: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    """Warn, once for each name in a process, about knobs that are set and choose nothing here."""
    fresh = [name for name in given if given[name] != usual[name] and (peer, name) not in _said]
    if not fresh:
        return
    _said.update((peer, name) for name in fresh)
    listed = ", ".join(f"{name}={given[name]!r}" for name in fresh)
    warn(
        f"{listed}: chooses among the kernels of {peer} and changes no result; geoattn ignores it, and "
        "geoattn.explain(q, k, v, hood) tells what runs"
    )
