"""Programs, and the neighborhoods and relations that they name.

A program calls the op with a neighborhood's digest. Compiled, it lives in the process that made it,
which keeps the neighborhood for it. Exported, it goes to other processes, and carries the content
too: the bytes of what :meth:`to_dict` gives, as a constant tensor, read once where it is first run.
"""

from __future__ import annotations

import json
import sys
import zlib
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from geoattn._after import after_import
from geoattn._value import Named
from geoattn.backends.torch_private import FakeTensor
from geoattn.neighborhoods.base import Neighborhood
from geoattn.relations.base import Relation

#: neighborhoods and relations that programs name: a program lives as long as the process
_kept: dict[str, Named] = {}

Found = TypeVar("Found", bound=Named)


def find(digest: str, content: Tensor | None) -> Neighborhood:
    """The neighborhood that a call names: a living one, or the one that the program carries.

    Raises
    ------
    LookupError
        If it is neither alive nor carried.
    """
    return _find(Neighborhood, digest, content)  # type: ignore[type-abstract]


def find_relation(digest: str, content: Tensor | None) -> Relation:
    """The relation that a call names, likewise: it carries its neighborhood."""
    return _find(Relation, digest, content)  # type: ignore[type-abstract]


def _find(kind: type[Found], digest: str, content: Tensor | None) -> Found:
    try:
        return kind.alive(digest)
    except LookupError:
        if content is None and digest not in _kept:
            raise
    if digest not in _kept:
        assert content is not None
        value = decoded(content)
        if isinstance(value, Relation) and kind is Neighborhood:
            value = value.hood
        _kept[digest] = value
    found = _kept[digest]
    assert isinstance(found, kind)  # the digest names it
    return found


def keep(digest: str, relation: str | None, content: Tensor | None) -> None:
    """Keep what a program names while it is traced, for as long as the process lives."""
    if content is None or not isinstance(content, FakeTensor):
        _kept[digest] = find(digest, content)
        if relation is not None:
            _kept[relation] = find_relation(relation, content)


def encoded(value: Named) -> Tensor:
    """The content as bytes, for a program to carry: of a neighborhood, or of a relation on it.

    Raises
    ------
    ValueError
        If a part of it is of a class that another process cannot import.
    """
    for part in value.classes_within():
        if part.__module__ == "__main__" or _imported(part) is not part:
            raise ValueError(
                f"an exported program cannot carry {value!r}: {part.__qualname__} is defined in "
                f"{part.__module__!r}, which no other process can import; put the class into a module, or "
                "export with the same edges, geoattn.from_edges(query_grid, key_grid, *hood.to_csr())"
            )
    name = "relation" if isinstance(value, Relation) else "neighborhood"
    modules = sorted({part.__module__ for part in value.classes_within()})
    text = json.dumps({name: value.to_dict(), "modules": modules}).encode()
    return torch.from_numpy(np.frombuffer(zlib.compress(text), np.uint8).copy())


def carried(identity: str) -> Tensor:
    """The content of a living value, as a constant of the program that is being exported."""
    return encoded(Named.alive(identity))


# marked in place, once the compiler is there: importing it takes longer than all of this package
after_import("torch._dynamo", lambda dynamo: dynamo.assume_constant_result(carried))


def decoded(content: Tensor) -> Named:
    """What :func:`encoded` made bytes of.

    Raises
    ------
    ValueError
        If it holds a kind that this process does not know; the message names its module.
    """
    stored = json.loads(zlib.decompress(content.cpu().numpy().tobytes()))
    try:
        if "relation" in stored:
            return Relation.from_dict(stored["relation"])
        return Neighborhood.from_dict(stored["neighborhood"])
    except ValueError as error:
        foreign = [m for m in stored["modules"] if not m.startswith("geoattn.")]
        if not foreign:
            raise
        raise ValueError(f"{error}; the program was made where {', '.join(foreign)} was imported") from error


def _imported(part: type) -> object:
    """What another process would find in the place of a class."""
    found: object = sys.modules.get(part.__module__)
    for name in part.__qualname__.split("."):
        found = getattr(found, name, None)
    return found
