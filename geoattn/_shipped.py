"""Where the data and sources that ship beside the package lie."""

from __future__ import annotations

from pathlib import Path


def shipped(folder: str) -> Path:
    """The top-level folder ``grids`` or ``cuda``, in an installed package or in a checkout.

    A wheel carries both inside the package (see ``package-dir`` in pyproject.toml); in a checkout
    they lie beside it.

    Raises
    ------
    FileNotFoundError
        If neither place has the folder.
    """
    package = Path(__file__).resolve().parent
    places = (package / "shipped" / folder, package.parent / folder)
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"folder {folder!r} of geoattn is missing: looked in {[str(p) for p in places]}")
