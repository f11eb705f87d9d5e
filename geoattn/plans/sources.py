"""Which code decides a plan: a digest of it is part of the plan's name on disk."""

from __future__ import annotations

import hashlib
import sys
import weakref
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from geoattn._value import Value
from geoattn.grids.base import Grid
from geoattn.neighborhoods.base import Neighborhood
from geoattn.relations.base import Relation

#: folders of the package whose code turns a content into edges and tiles
FOLDERS = ("grids", "neighborhoods", "relations", "plans")
#: methods that dataclasses write, from no file
_WRITTEN = {"__init__", "__eq__", "__hash__", "__repr__", "__setattr__", "__delattr__", "__replace__"}


def source_digest(of: Neighborhood | Relation) -> str | None:
    """A digest of the code that decides the plans of a neighborhood, or of a relation on it.

    It covers our folders :data:`FOLDERS`, and of each foreign class in the value, or above it, the file of
    its module and the version of its package.

    Returns
    -------
    The digest, or None if some of the code cannot be read as it runs: a class of a notebook's cell, or a
    file that was edited since it was loaded.
    """
    own = _own_digest()
    foreign = {
        c for kind in of.classes_within() for c in kind.__mro__ if issubclass(c, Value) and not _is_ours(c)
    }
    parts = [own, *(_class_digest(c) for c in sorted(foreign, key=lambda c: (c.__module__, c.__qualname__)))]
    if any(part is None for part in parts):
        return None
    return hashlib.sha256("".join(map(str, parts)).encode()).hexdigest()[:32]


def _is_ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "geoattn"


@cache
def _own_digest() -> str | None:
    package = Path(__file__).parent.parent
    files = [package / "_value.py", *(f for name in FOLDERS for f in (package / name).rglob("*.py"))]
    return _files_digest(tuple(sorted(files)), Grid._defined)  # the first class that was loaded


def _class_digest(kind: type[Value]) -> str | None:
    if kind not in _digests:
        _digests[kind] = _digest_of(kind)
    return _digests[kind]


_digests: weakref.WeakKeyDictionary[type[Value], str | None] = weakref.WeakKeyDictionary()


def _digest_of(kind: type[Value]) -> str | None:
    module = sys.modules.get(kind.__module__)
    names = {getattr(module, "__file__", None)}
    for name, part in vars(kind).items():
        for inner in ("__func__", "fget", "func"):  # of class methods, properties, cached properties
            part = getattr(part, inner, part)
        code = getattr(part, "__code__", None)
        if code is not None and not (name in _WRITTEN and code.co_filename == "<string>"):
            names.add(code.co_filename)
    paths = tuple(sorted(Path(str(name)) for name in names))
    found = None if None in names else _files_digest(paths, kind._defined)
    return found and f"{kind.__module__}.{kind.__qualname__} {_version(kind)} {found}"


def _files_digest(files: tuple[Path, ...], loaded: float) -> str | None:
    """A digest of files as they were when they were loaded; None where that is not known."""
    digest = hashlib.sha256()
    for file in files:
        try:
            if file.stat().st_mtime > loaded:
                return None
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
        except OSError:
            return None
    return digest.hexdigest()


def _version(kind: type) -> str:
    try:
        return version(kind.__module__.split(".")[0])
    except PackageNotFoundError:
        return ""
