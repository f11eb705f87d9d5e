"""Everything is declared in pyproject.toml, except this: the data folders at the top of the
repository travel inside the package, as ``geoattn/shipped/grids`` and ``geoattn/shipped/cuda``."""

from setuptools import find_packages, setup

SHIPPED = {"geoattn.shipped.grids": "grids", "geoattn.shipped.cuda": "cuda"}

setup(
    packages=[*find_packages(include=["geoattn", "geoattn.*"]), *SHIPPED],
    package_dir=SHIPPED,
    package_data={
        "geoattn": ["py.typed"],
        "geoattn.shipped.grids": ["*.json", "*.md", "*/*.json"],
        "geoattn.shipped.cuda": ["*.cu", "*.cuh", "*.h", "*.md"],
    },
)
