"""Packages that geoattn uses where they are installed, and the extras that bring them."""

from __future__ import annotations

from importlib.util import find_spec

#: package → the extra of geoattn that brings it
EXTRAS = {
    **dict.fromkeys(("xarray", "zarr", "numcodecs", "netCDF4", "tqdm"), "xarray"),
    **dict.fromkeys(("dask", "distributed"), "dask"),
    **dict.fromkeys(("lightning", "jsonargparse"), "train"),
    "matplotlib": "plot",
    "pyproj": "projections",
    **dict.fromkeys(("torchmetrics", "PIL"), "vision"),
    **{name: name for name in ("tensorboard", "wandb", "timm")},
}


def install(package: str) -> str:
    """The command that brings a package."""
    return f'pip install "geoattn[{EXTRAS[package]}]"'


def require(what: str, *packages: str) -> None:
    """Refuse what stands on a package that is not installed, by the extra that brings it.

    Raises
    ------
    ModuleNotFoundError
        With the package's name in ``name``.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"{what} needs {package}: {install(package)}", name=package)
