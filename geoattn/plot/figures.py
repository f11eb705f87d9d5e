"""Figures without a screen, and the one way to write them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn import _extras
from geoattn._files import whole


def require() -> None:
    """Refuse to draw without matplotlib.

    Raises
    ------
    ModuleNotFoundError
        Naming the extra that brings it.
    """
    _extras.require("a picture", "matplotlib")


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

    Examples
    --------
    >>> import tempfile
    >>> import matplotlib.pyplot as plt
    >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
    ...     _ = ga.plot.save(plt.figure(), file.name)
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
