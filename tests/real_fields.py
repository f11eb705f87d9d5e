"""Real fields for tests: those that ``notebooks/real_data.py`` keeps; a test that needs one skips without."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parent.parent / "notebooks" / "real_data.py"
_spec = importlib.util.spec_from_file_location("real_data", _SCRIPT)
assert _spec is not None
assert _spec.loader is not None
real_data = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(real_data)


def real_field(name: str) -> Path:
    """The file, fetched first where ``GEOATTN_REAL_DATA`` is set; else the test skips and says why."""
    kept = real_data.kept(name)
    if kept is not None:
        return kept
    if os.environ.get("GEOATTN_REAL_DATA"):
        try:
            return real_data.fetch(name)
        except real_data.NotThere as reason:
            pytest.skip(f"{name}: {reason}")
    pytest.skip(f"{name} is not kept here; python notebooks/real_data.py fetches it, some 60 MB in all")
