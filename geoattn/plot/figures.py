"""Figures without a screen, and the one way to write them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn._files import whole


def require() -> None:
    """Refuse to draw without matplotlib.

    Raises
    ------
    ModuleNotFoundError
        Naming the extra that brings it.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError('pictures need matplotlib: pip install "geoattn[plot]"', name="matplotlib")


def new(width: float, height: float) -> Any:
    """A figure of that many inches, which no window shows."""
    require()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, path: str | os.PathLike[str] | None, dpi: int = 110) -> Any:
    """Write a figure whole or not at all, in the format of the path's suffix; None writes none.

    Returns
    -------
    The figure.
    """
    if path is not None:
        suffix = os.path.splitext(path)[1].removeprefix(".") or "png"
        with whole(path) as partial:
            figure.savefig(partial, dpi=dpi, format=suffix)
    return figure


def numbers(values: Any) -> NDArray[Any]:
    """An array of numbers, of tensors of any device too."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)
