"""Open doors: names under which parts are found, ours and those of other packages.

A part of another package becomes known in one of two ways, and neither touches our files. A package
declares an entry point, and the part is imported when it is first asked for::

    [project.entry-points."geoattn.backends"]
    mine = "my_package.attention:MyBackend"

or a program registers it. A name belongs to whoever has it first: ours to us, and what two packages
claim to neither of them.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, NamedTuple, TypeVar

from geoattn._warning import warn

T = TypeVar("T")

OURS = "geoattn"


class BrokenPart(ImportError):
    """A part that a package promises and that cannot be used; the message names package and reason."""


class Claim(NamedTuple):
    """Who stands behind a name."""

    #: the package that declares it, or "geoattn", or the module of what was registered
    owner: str
    #: module and qualified name; two claims to one name are the same claim if these are
    place: tuple[str, str]
    #: group of the entry point, or None
    group: str | None = None
    #: the part itself, where it was given rather than named
    given: Any = None

    def __str__(self) -> str:
        module, name = self.place
        owner = f" of {self.owner}" if self.owner not in (OURS, module) else ""
        return f"{module}:{name}{owner}"


class Registry(Mapping[str, T], Generic[T]):
    """Name → part. Iterating names imports nothing; a part is imported when it is taken out.

    Parameters
    ----------
    what
        The kind of part, for messages.
    own
        Our parts: name → ``"module:name"``.
    groups
        Groups of entry points in which other packages declare theirs.
    check
        ``check(name, part)`` returns the part, ready for use, or raises TypeError or ValueError with
        what is wrong with it.
    """

    def __init__(
        self,
        what: str,
        own: Mapping[str, str],
        groups: tuple[str, ...],
        check: Callable[[str, Any], T],
    ) -> None:
        self._what = what
        self._groups = groups
        self._check = check
        self._claims = {name: Claim(OURS, _place(where)) for name, where in own.items()}
        self._declared: dict[str, Claim] | None = None  # by entry points, read when first needed
        self._parts: dict[str, T] = {}
        self._broken: dict[str, str] = {}

    def __iter__(self) -> Iterator[str]:
        yield from self._claims
        yield from (name for name in self._entry_points() if name not in self._claims)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._claims or name in self._entry_points()

    def __getitem__(self, name: str) -> T:
        """The part of that name.

        Raises
        ------
        KeyError
            If nothing has this name.
        BrokenPart
            If the package that promises it does not deliver; the first time with a warning.
        """
        found = self._parts.get(name)
        if found is not None:
            return found
        if name in self._broken:
            raise BrokenPart(self._broken[name])
        claim = self.claim(name)
        if claim is None:
            raise KeyError(name)
        if claim.owner == OURS:
            part: Any = _load(*claim.place)
            # a class may have made itself known while its module was imported
            return self._parts.setdefault(name, self._check(name, part))
        try:
            part = _load(*claim.place) if claim.given is None else claim.given
            return self._parts.setdefault(name, self._check(name, part))
        except Exception as error:  # other people's modules may raise anything, and ours go on
            reason = f"{self._what} {name!r} ({claim}) cannot be used: {type(error).__name__}: {error}"
            self._broken[name] = reason
            _warn(reason)
            raise BrokenPart(reason) from error

    def __repr__(self) -> str:
        return "\n".join(f"{name}  {self.claim(name)}" for name in self)

    def claim(self, name: str) -> Claim | None:
        """Who has this name; nothing is imported."""
        return self._claims.get(name) or self._entry_points().get(name)

    def loaded(self) -> dict[str, T]:
        """The parts that are in memory."""
        return dict(self._parts)

    def declared(self, group: str) -> list[str]:
        """The names that packages declare in one group of entry points."""
        return [name for name, claim in self._entry_points().items() if claim.group == group]

    def foreign(self) -> list[str]:
        """The names that are not ours."""
        return [name for name in self if (claim := self.claim(name)) and claim.owner != OURS]

    def register(self, name: str, part: Any) -> None:
        """Give a name to a part, or to ``"module:name"``, which is imported when it is asked for.

        The same module and qualified name (a cell of a notebook, run again) takes the place of what
        was there.

        Raises
        ------
        TypeError, ValueError
            If another part has the name, or if the part is none of this kind.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a {self._what} must be a string, got {name!r}")
        place = _place(part)
        claim = Claim(place[0], place, given=None if isinstance(part, str) else part)
        earlier = self._claims.get(name)
        if earlier is None and self._declared is not None:
            earlier = self._declared.get(name)
        if earlier is not None and earlier.place != place:
            raise ValueError(
                f"{self._what} {name!r} is {earlier} and cannot become {claim} as well; choose another name"
            )
        checked = None if claim.given is None else self._check(name, claim.given)
        self._parts.pop(name, None)
        self._broken.pop(name, None)
        if checked is not None:
            self._parts[name] = checked
        if earlier is None or (name in self._claims and earlier.owner != OURS):
            self._claims[name] = claim

    def _entry_points(self) -> dict[str, Claim]:
        if self._declared is None:
            found: dict[str, Claim] = {}
            disputed = set()
            every = entry_points()
            for point in (p for group in self._groups for p in every.select(group=group)):
                try:
                    claim = Claim(_package(point), _place(point.value.partition("[")[0].strip()), point.group)
                except ValueError as error:
                    _warn(f"{self._what} {point.name!r} of {_package(point)} is left out: {error}")
                    continue
                earlier = self._claims.get(point.name) or found.get(point.name)
                if earlier is None:
                    found[point.name] = claim
                elif earlier.place != claim.place:
                    mine = point.name in self._claims
                    outcome = f"{earlier} keeps it" if mine else "neither gets it"
                    _warn(f"{self._what} {point.name!r} is claimed by {earlier} and by {claim}: {outcome}")
                    if not mine:
                        disputed.add(point.name)
            # one assignment at the end: threads that come at the same time read the same twice
            self._declared = {name: claim for name, claim in found.items() if name not in disputed}
        return self._declared


def _place(part: Any) -> tuple[str, str]:
    """Module and qualified name of a class, of a function, of what an instance is made from, or as named."""
    if isinstance(part, str):
        if not re.fullmatch(r"[\w.]+:[\w.]+", part):
            raise ValueError(f"{part!r} names no part; write it as 'package.module:Name'")
        module, _, name = part.partition(":")
        return module, name
    if not hasattr(part, "__qualname__"):
        part = type(part)
    module = part.__module__
    if module == "__main__":  # under ``python -m`` it has a name as well, under which it may be imported
        module = getattr(getattr(sys.modules[module], "__spec__", None), "name", module)
    return module, part.__qualname__


def _load(module: str, name: str) -> Any:
    part: Any = importlib.import_module(module)
    for step in name.split("."):
        part = getattr(part, step)
    return part


def _package(point: EntryPoint) -> str:
    try:
        return f"package {point.dist.metadata['Name']} {point.dist.version}"  # type: ignore[union-attr]
    except (AttributeError, KeyError, OSError):
        return "an unnamed package"


def _warn(message: str) -> None:
    warn(message, RuntimeWarning)
