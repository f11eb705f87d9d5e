"""Frozen values that are compared, hashed, pickled and stored by their content."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import inspect
import re
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self
from weakref import WeakValueDictionary

import numpy as np

from geoattn._registry import Registry


class UnknownKind(ValueError):
    """No class that is known here has the kind of a value."""


#: names that parameters cannot have
_TAKEN = {
    "identity": "its digest within a process",
    "digest": "the digest of its content",
    "to_dict": "its dictionary",
    "from_dict": "what reads one",
    "classes_within": "the classes in it",
}
#: module and qualified name → the newest edition
_editions: dict[tuple[str, str], int] = {}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Value:
    """Base of grids and neighborhoods: a frozen dataclass whose identity is its content.

    A concrete class names itself with ``class Gaussian(Grid, kind="gaussian")`` and lists its
    parameters as dataclass fields: numbers, strings, booleans, tuples, numpy arrays or other
    values. Everything else here follows from the fields: ``digest``, equality, hash, pickling,
    :meth:`to_dict` and :meth:`from_dict`. Results that cost something are
    ``functools.cached_property``; they are no part of the content and are not pickled.

    A kind is one class, in every process: :data:`KINDS` finds the module of one that is not imported
    yet, and refuses a second class of the same kind. A package outside declares its classes as entry
    points in the groups ``geoattn.grids``, ``geoattn.neighborhoods``, ``geoattn.relations``,
    ``geoattn.positions`` and ``geoattn.models``, each under its kind, so that :meth:`from_dict` finds them
    as well.
    """

    kind: ClassVar[str]
    #: how often a class of this module and name was defined before this one, as by a notebook's cell
    _edition: ClassVar[int] = 0
    #: when the class was defined, in seconds since the epoch
    _defined: ClassVar[float] = 0.0

    #: the digest; behind it the editions of classes that were defined anew. What a process keeps of values is
    #: kept under it: two editions of a class agree in content, and may differ in what they do
    identity: str = dataclasses.field(init=False)
    #: hexadecimal SHA-256 of the kind and the fields; equal content, equal digest
    digest: str = dataclasses.field(init=False)

    def __init_subclass__(cls, kind: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in vars(cls).get("__annotations__", {}):
            if name in _TAKEN:
                raise TypeError(
                    f"{cls.__qualname__} has a parameter {name!r}, which is what every value calls "
                    f"{_TAKEN[name]}; choose another name"
                )
        place = cls.__module__, cls.__qualname__
        cls._edition = _editions[place] = _editions.get(place, -1) + 1
        cls._defined = time.time()
        if kind is not None:
            cls.kind = kind
            KINDS.register(kind, cls)
        elif hasattr(cls, "kind"):
            raise TypeError(
                f"{cls.__qualname__} would share the kind {cls.kind!r} of the class it extends, and be taken "
                f"for it; give it one of its own: class {cls.__qualname__}(…, kind='…')"
            )

    def _check_kinds(self) -> None:
        """Refuse fields of the wrong kind, and bring equal ones to one type: the digest follows from them."""

    def __post_init__(self) -> None:
        if not hasattr(self, "kind"):
            own = type(self).__qualname__
            raise TypeError(
                f"{own} has no kind, under which files name it; give it one: class {own}(…, kind='…')"
            )
        for name, value in self._content().items():
            if isinstance(value, np.ndarray):
                value = np.array(value, order="C")  # a copy of our own that nobody can write to
                value.flags.writeable = False
                object.__setattr__(self, name, value)
            elif isinstance(value, list):
                object.__setattr__(self, name, _as_tuple(value))
        self._check_kinds()
        digest = hashlib.sha256(self.kind.encode())
        for name, value in self._content().items():
            digest.update(f"\0{name}\0".encode())
            _feed(digest, value)
        object.__setattr__(self, "digest", digest.hexdigest())
        anew = [(c.__module__, c.__qualname__, c._edition) for c in self.classes_within() if c._edition]
        suffix = "".join(f"~{module}.{name}:{edition}" for module, name, edition in sorted(anew))
        object.__setattr__(self, "identity", self.digest + suffix)

    def classes_within(self) -> set[type[Value]]:
        """The classes of this value and of all values in it."""
        found: set[type[Value]] = {type(self)}
        for value in self._content().values():
            _gather_classes(value, found)
        return found

    def _content(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Value):
            return NotImplemented
        return self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._content())

    def to_dict(self) -> dict[str, Any]:
        """The content as a dictionary of JSON types; :meth:`from_dict` is its exact inverse.

        Arrays of more than 4096 numbers are compressed to text.
        """
        return {"kind": self.kind} | {n: _encode(v) for n, v in self._content().items()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Make the value that :meth:`to_dict` described.

        Raises
        ------
        ValueError
            If the kind is unknown (:class:`UnknownKind`), or is not a kind of the class this is called on.
        """
        kind = content.get("kind")
        try:
            target = KINDS[str(kind)]
        except KeyError:
            target = Value
        if not hasattr(target, "kind") or not issubclass(target, cls):
            known = sorted(k for k, c in KINDS.loaded().items() if issubclass(c, cls))
            raise UnknownKind(
                f"kind {kind!r} is no {_words(cls)}; known kinds: {known}. One of your own, or of another "
                "package, is known once the module that defines it is imported, or if its package declares "
                "it as an entry point"
            )
        return target(**{n: _decode(v) for n, v in content.items() if n != "kind"})


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Named(Value):
    """Values that compiled programs name by their identity: neighborhoods and relations."""

    _alive: ClassVar[WeakValueDictionary[str, Named]] = WeakValueDictionary()

    def __init_subclass__(cls, kind: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(kind, **kwargs)
        transpose = vars(cls).get("transpose")
        if inspect.isfunction(transpose) and not getattr(transpose, "__isabstractmethod__", False):
            cls.transpose = _kept(transpose)  # type: ignore[attr-defined]

    def __post_init__(self) -> None:
        super().__post_init__()
        first = Named._alive.setdefault(self.identity, self)
        if first is not self:  # equal values hold the first, so that it lives as long as any
            object.__setattr__(self, "_first", first)

    @classmethod
    def alive(cls, identity: str) -> Self:
        """The living value with this identity.

        Raises
        ------
        LookupError
            If no value of this class and content exists any more.
        """
        found = Named._alive.get(identity)
        if not isinstance(found, cls):
            raise LookupError(
                f"no {cls.__name__.lower()} with digest {identity[:12]}… is alive; keep a reference to it "
                "for as long as programs compiled for it run"
            )
        return found


def _kept(transpose: Callable[[Any], Named]) -> Callable[[Any], Named]:
    """The method, which works a value's transpose out once: every backward pass asks for it.

    A value holds its transpose, and that knows the value without holding it, unless it is made of it; so both
    go when the value does.
    """

    @functools.wraps(transpose)
    def kept(self: Named) -> Named:
        found: Named | None = vars(self).get("_transpose")
        if found is None and (origin := vars(self).get("_transpose_of")) is not None:
            found = origin()
        if found is None:
            found = transpose(self)
            if found is not self:
                vars(self)["_transpose"] = found
                vars(found).setdefault("_transpose_of", weakref.ref(self))
        return found

    return kept


def _check_kind(name: str, part: Any) -> type[Value]:
    if not (isinstance(part, type) and issubclass(part, Value)):
        raise TypeError(f"{part!r} is no class of values: a grid, a neighborhood, a position scheme, …")
    if getattr(part, "kind", None) != name:
        raise ValueError(f"{part.__qualname__} is of kind {getattr(part, 'kind', None)!r}, not {name!r}")
    return part


#: kind → class. Ours are listed, so that each is found in a process that has not imported it
KINDS: Registry[type[Value]] = Registry(
    "kind",
    {
        "cartesian": "geoattn.grids.cartesian:Cartesian",
        "coarse_latlon": "geoattn.grids.coarsening:CoarseLatLon",
        "cells": "geoattn.grids.cells:Cells",
        "curvilinear": "geoattn.grids.curvilinear:Curvilinear",
        "cubed_sphere": "geoattn.grids.cube:CubedSphere",
        "equiangular": "geoattn.grids.latlon:Equiangular",
        "gaussian": "geoattn.grids.latlon:Gaussian",
        "grid_union": "geoattn.grids.union:GridUnion",
        "healpix": "geoattn.grids.healpix:HEALPix",
        "icosahedral": "geoattn.grids.icosahedral:Icosahedral",
        "latlon": "geoattn.grids.latlon:LatLon",
        "lobatto": "geoattn.grids.latlon:Lobatto",
        "points": "geoattn.grids.points:Points",
        "regional_latlon": "geoattn.grids.regional_latlon:RegionalLatLon",
        "product_grid": "geoattn.grids.product:ProductGrid",
        "reduced_gaussian": "geoattn.grids.reduced:ReducedGaussian",
        "selection": "geoattn.grids.selection:Selection",
        "curve_window": "geoattn.neighborhoods.curve:CurveWindow",
        "edges": "geoattn.neighborhoods.edges:Edges",
        "everything": "geoattn.neighborhoods.everything:Everything",
        "geodesic": "geoattn.neighborhoods.geodesic:Geodesic",
        "heads": "geoattn.neighborhoods.heads:Heads",
        "k_hop": "geoattn.neighborhoods.k_hop:KHop",
        "known": "geoattn.neighborhoods.known:Known",
        "nearest": "geoattn.neighborhoods.nearest:Nearest",
        "product": "geoattn.neighborhoods.product:Product",
        "restricted": "geoattn.neighborhoods.base:Restricted",
        "selected": "geoattn.neighborhoods.selected:Selected",
        "transposed": "geoattn.neighborhoods.transposed:Transposed",
        "union": "geoattn.neighborhoods.union:Union",
        "window": "geoattn.neighborhoods.window:Window",
        "window_between": "geoattn.neighborhoods.window:WindowBetween",
        "relation_angles": "geoattn.relations.angles:Angles",
        "relation_edges": "geoattn.relations.labels:Edges",
        "relation_labels": "geoattn.relations.labels:Labels",
        "relation_offsets": "geoattn.relations.offsets:Offsets",
        "relation_on": "geoattn.relations.base:On",
        "relation_product": "geoattn.relations.product:Product",
        "relation_selected": "geoattn.relations.selected:Selected",
        "relation_transposed": "geoattn.relations.base:Transposed",
        "angles": "geoattn.nn.position.pairs:Angles",
        "continuous": "geoattn.nn.position.pairs:Continuous",
        "offsets": "geoattn.nn.position.pairs:Offsets",
        "directional": "geoattn.nn.position.channels:Directional",
        "fourier": "geoattn.nn.position.channels:Fourier",
        "harmonic": "geoattn.nn.position.channels:Harmonic",
        "rotary": "geoattn.nn.position.channels:Rotary",
        "cut": "geoattn.parallel.cut:Cut",
        "encoder_decoder": "geoattn.models.encoder_decoder:EncoderDecoderConfig",
        "transformer": "geoattn.models.transformer:TransformerConfig",
        "moments": "geoattn.xarray.stores.statistics:Moments",
        "schema": "geoattn.xarray.schema.schema:Schema",
        "statistics": "geoattn.xarray.stores.statistics:Statistics",
        "variable": "geoattn.xarray.schema.variable:Variable",
    },
    groups=(
        "geoattn.grids",
        "geoattn.neighborhoods",
        "geoattn.relations",
        "geoattn.positions",
        "geoattn.models",
    ),
    check=_check_kind,
)


def forget(value: Value) -> None:
    """Drop what a value, and the values that it is made of, worked out from their content.

    Whoever asks for it again has it worked out again.
    """
    for kept, name in _worked_out(value, set()):
        kept.pop(name, None)


@contextmanager
def traceless(value: Value) -> Iterator[None]:
    """Whatever a value works out within is dropped at the end; what it had before stays."""
    before = {(id(kept), name) for kept, name in _worked_out(value, set())}
    yield
    for kept, name in _worked_out(value, set()):
        if (id(kept), name) not in before:
            kept.pop(name, None)


def _worked_out(value: Any, seen: set[int]) -> Iterator[tuple[dict[str, Any], str]]:
    """The dictionaries of a value and of those that it holds, and the names in them that are results."""
    if isinstance(value, tuple):
        for item in value:
            yield from _worked_out(item, seen)
    elif isinstance(value, Value) and id(value) not in seen:
        seen.add(id(value))
        kept = vars(value)
        for name, held in list(kept.items()):
            if isinstance(getattr(type(value), name, None), functools.cached_property):
                yield kept, name
            else:  # a field, the transpose, an equal value that came first
                yield from _worked_out(held, seen)


def _gather_classes(value: Any, found: set[type[Value]]) -> None:
    if isinstance(value, Value):
        found |= value.classes_within()
    elif isinstance(value, tuple):
        for part in value:
            _gather_classes(part, found)


def _words(cls: type[Value]) -> str:
    """``ModelConfig`` → model config."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__).lower()


def _rebuild(cls: type[Value], content: dict[str, Any]) -> Value:
    return cls(**content)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    elif isinstance(value, Value):
        digest.update(value.digest.encode())
    elif isinstance(value, tuple):
        digest.update(f"({len(value)}".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(f"{type(value).__name__}:{value!r}".encode())


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.size <= 4096:
            return {"array": value.tolist(), "dtype": value.dtype.str}
        text = base64.b64encode(zlib.compress(np.ascontiguousarray(value).tobytes())).decode()
        return {"array": text, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, Value):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_encode(v) for v in value]
    return value


def decoded_array(content: dict[str, Any]) -> np.ndarray:
    """An array that :meth:`Value.to_dict` compressed to text."""
    stored = zlib.decompress(base64.b64decode(content["array"]))
    return np.frombuffer(stored, np.dtype(content["dtype"])).reshape(content["shape"])


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if "shape" in value:
            return decoded_array(value)
        if "array" in value:
            return np.array(value["array"], dtype=np.dtype(value["dtype"]))
        return Value.from_dict(value)
    if isinstance(value, list):
        return tuple(_decode(v) for v in value)
    return value
