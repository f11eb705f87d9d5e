"""Backends: the ways to run the operator, and the one place that chooses among them.

Calling this module, ``geoattn.backends()``, tells which backends can run here. To add one, write a
class after :class:`Backend` and hold it to :func:`geoattn.testing.check_backend`. A program makes it
known with :func:`register`; a package declares it as an entry point::

    [project.entry-points."geoattn.backends"]
    mine = "my_package.attention:MyBackend"

It runs below autograd, so that its ``backward`` is written out, and where it is named,
``backend="mine"``. To be tried by ``backend=None`` as well, it says on which devices and ahead of which
backend, by the arguments of :func:`register` or by attributes of the class: ``devices = ("cuda",)`` and
``before = "flex"``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from geoattn._registry import BrokenPart, Registry
from geoattn._warning import warn
from geoattn.backends import defaults
from geoattn.backends.base import Backend, Forward, Gradients, knows_relations
from geoattn.neighborhoods.base import Neighborhood
from geoattn.relations.base import Relation

__all__ = [
    "AUTOMATIC",
    "KNOWN",
    "Backend",
    "Forward",
    "Gradients",
    "Status",
    "automatic",
    "choose",
    "get",
    "last",
    "refusal",
    "register",
    "status",
]

_METHODS = ("unavailable", "refuses", "forward", "backward")


def _checked(name: str, part: Any) -> Backend:
    lacking = [method for method in _METHODS if not callable(getattr(part, method, None))]
    if lacking:
        raise TypeError(f"{part!r} is no backend: it lacks {', '.join(lacking)} of geoattn.backends.Backend")
    _check_place(getattr(part, "devices", None), getattr(part, "before", None))
    backend: Backend = part() if isinstance(part, type) else part
    return backend


#: our own
_OWN = {
    "sdpa": "geoattn.backends.sdpa:FusedDense",
    "cpu": "geoattn.backends.cpu.backend:Cpu",
    "cuda": "geoattn.backends.cuda.backend:Cuda",
    "triton": "geoattn.backends.triton.backend:Triton",
    "flex": "geoattn.backends.flex:Flex",
    "reference": "geoattn.backends.reference:Reference",
}
#: name → backend; its module is imported when it is first asked for
KNOWN: Registry[Backend] = Registry("backend", _OWN, groups=("geoattn.backends",), check=_checked)


class _Place(NamedTuple):
    """On which devices ``backend=None`` tries a backend, and ahead of which other."""

    devices: Sequence[str] | None
    before: str | None


def _check_place(devices: Any, before: Any) -> None:
    if isinstance(devices, str) or not all(isinstance(device, str) for device in devices or ()):
        raise TypeError(f"devices must be a tuple of device types such as ('cuda',), got {devices!r}")
    if before is not None and before not in KNOWN:
        raise ValueError(f"before={before!r} is no backend; known backends: {', '.join(KNOWN)}")


_places: dict[str, _Place] = {}  # as they were registered; None: what the backend's attributes say
_orders: dict[str, tuple[str, ...]] = {}  # device type → names
_derived: list[Callable[[], object]] = []


def register(
    name: str,
    backend: type[Backend] | Backend | str,
    *,
    devices: Sequence[str] | None = None,
    before: str | None = None,
) -> None:
    """Make a backend of your own known in this process, under a name for ``backend=``.

    A class of the same module and qualified name (a cell of a notebook, run again) replaces the former.

    Parameters
    ----------
    name
        What users write: ``ga.attention(…, backend=name)``.
    backend
        A class after :class:`Backend` that needs no arguments, an instance, or ``"module:Class"``, which
        is imported when the backend is first asked for.
    devices
        Device types, such as ``("cuda",)``, on whose tensors ``backend=None`` tries it. Unless given, those
        of its attribute ``devices``, else none: it runs where it is named.
    before
        The backend in front of which it is tried. Unless given, that of its attribute ``before``, else
        "reference": after all others that have kernels; so too on devices where that one is not tried.

    Raises
    ------
    TypeError
        If it lacks methods of a backend, or ``devices`` is no tuple of strings.
    ValueError
        If the name is taken (the message names both), or ``before`` is no backend.

    Examples
    --------
    >>> from geoattn.backends.reference import Reference
    >>> class Mine(Reference):
    ...     name = "mine"
    >>> ga.backends.register("mine", Mine)
    >>> "mine" in ga.backends()
    True
    """
    _check_place(devices, before)
    KNOWN.register(name, backend)
    _places[name] = _Place(devices, before)
    _orders.clear()
    for forget in _derived:
        forget()


def registers(forget: Callable[[], object]) -> None:
    """Have :func:`register` call ``forget``: of those who keep what follows from which backends there are."""
    _derived.append(forget)


class _Automatic(Mapping[str, tuple[str, ...]]):
    def __getitem__(self, device: str) -> tuple[str, ...]:
        order = _order(device)
        if order == ("reference",) and defaults.default(device) is None:
            raise KeyError(device)
        return order

    def __iter__(self) -> Iterator[str]:
        others = (device for name in KNOWN.foreign() for device in _place_of(name)[0])
        return iter(dict.fromkeys((*defaults.devices(), *others)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


#: device type → the names that ``backend=None`` tries, in order (ours: :mod:`geoattn.backends.defaults`);
#: other devices: the reference
AUTOMATIC: Mapping[str, tuple[str, ...]] = _Automatic()


def _order(device: str) -> tuple[str, ...]:
    order = _orders.get(device)
    if order is None:
        own = defaults.default(device)
        names = ["reference"] if own is None else list(own.order)
        for name in KNOWN.foreign():
            devices, before = _place_of(name)
            if device in devices:
                names.insert(names.index(before if before in names else "reference"), name)
        order = _orders[device] = tuple(names)
    return order


def _place_of(name: str) -> tuple[tuple[str, ...], str]:
    devices, before = _places.get(name, _Place(None, None))
    try:
        if devices is None:
            devices = getattr(KNOWN[name], "devices", ())
        if devices and before is None:
            before = getattr(KNOWN[name], "before", None)
    except BrokenPart:  # said when it was found
        devices = ()
    return tuple(devices), before or "reference"


_last: str | None = None
_said: set[frozenset[tuple[str, str]]] = set()


class Status(dict[str, str]):
    """Backend name → "available", or the reason why it cannot run here.

    Examples
    --------
    >>> ga.backends.status()["reference"]
    'available'
    """

    def __repr__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{name:<{width}}  {state}" for name, state in self.items())


def status() -> Status:
    """Which backends can run on this machine at all.

    Examples
    --------
    >>> "reference" in ga.backends.status()
    True
    """
    return Status({name: _unavailable(name) or "available" for name in KNOWN})


def _unavailable(name: str) -> str | None:
    try:
        return get(name).unavailable()
    except BrokenPart as error:
        return str(error)
    except Exception as error:
        if name not in KNOWN.foreign():
            raise
        return f"its own check fails: {type(error).__name__}: {error}"


def last() -> str | None:
    """Name of the backend that ran most recently in this process, None before the first call.

    Examples
    --------
    >>> grid = ga.grids.gaussian(4, 8)
    >>> q = torch.randn(1, 4, 8, 1, 16)
    >>> _ = ga.attention(q, q, q, ga.geodesic(grid, radius=60), backend="reference")
    >>> ga.backends.last()
    'reference'
    """
    return _last


def get(name: str) -> Backend:
    """The backend of that name.

    Raises
    ------
    ValueError
        If no backend has this name.
    ImportError
        If the package that declares it does not deliver.

    Examples
    --------
    >>> ga.backends.get("reference").name
    'reference'
    """
    try:
        return KNOWN[name]
    except KeyError:
        raise ValueError(f"backend {name!r} is unknown; known backends: {', '.join(KNOWN)}") from None


def refusal(
    name: str, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood, relation: Relation | None = None
) -> str | None:
    """Why the named backend cannot run these arguments on this machine, or None.

    Examples
    --------
    >>> hood = ga.geodesic(ga.grids.gaussian(4, 8), radius=60)
    >>> q = torch.zeros(1, 32, 2, 16)  # flat tokens
    >>> ga.backends.refusal("sdpa", q, q, q, hood)
    'it computes every pair, and the neighborhood is not geoattn.everything(…)'
    """
    if name in _OWN and (reason := get(name).refuses(q, k, v, hood)) is not None:
        return reason  # of the call alone: no device is looked at for tensors that lie elsewhere
    reason = _unavailable(name)
    if reason is not None:
        return reason
    backend = get(name)
    if name not in _OWN and (reason := backend.refuses(q, k, v, hood)) is not None:
        return reason
    return None if relation is None or knows_relations(backend) else "it adds no bias for pairs"


def skips_hidden(backend: Backend) -> bool:
    """Whether a backend never reads what keys with an additive −∞ hold; others get zeros there."""
    return getattr(backend, "skips_hidden", False)


def choose(
    name: str | None, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood, relation: Relation | None = None
) -> Backend:
    """The named backend, or the first that runs these arguments.

    Raises
    ------
    ValueError
        If the name is unknown.
    RuntimeError
        If the named backend cannot run these arguments; another is never put in its place.

    Examples
    --------
    >>> hood = ga.geodesic(ga.grids.gaussian(4, 8), radius=60)
    >>> q = torch.zeros(1, 32, 2, 16)  # flat tokens
    >>> ga.backends.choose("reference", q, q, q, hood).name
    'reference'
    """
    if name is None:
        name = _first_that_runs(q, k, v, hood, relation)
    elif (reason := refusal(name, q, k, v, hood, relation)) is not None:
        raise RuntimeError(
            f"backend {name!r} cannot run this call: {reason}; backend=None chooses one that can, and "
            "geoattn.explain(q, k, v, hood) tells which"
        )
    ran(name)
    return get(name)


def ran(name: str) -> None:
    """Note which backend runs, for :func:`last`."""
    global _last
    _last = name


def _first_that_runs(q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood, relation: Relation | None) -> str:
    refused: dict[str, str] = {}
    for name in automatic(q):
        reason = refusal(name, q, k, v, hood, relation)
        if reason is None:
            break
        refused[name] = reason
    if refused and name == "reference":
        _say_fallback(refused, q, hood)
    return name


def _say_fallback(refused: dict[str, str], q: Tensor, hood: Neighborhood) -> None:
    """Warn, once for each set of reasons, that a device with kernels is left to the dense reference."""
    reasons = frozenset(refused.items())
    if reasons in _said:
        return
    _said.add(reasons)
    told = "".join(f"\n  {name}: {reason}" for name, reason in refused.items())
    warn(
        f"attention over {hood!r} on {q.device.type} runs on the reference, which is right but slow and "
        f"needs much memory, because no other backend takes this call:{told}\n"
        "geoattn.explain(q, k, v, hood) tells what runs, and backend='reference' asks for it"
    )


def automatic(q: Tensor) -> tuple[str, ...]:
    """Names that ``backend=None`` tries for this query tensor, in order; the reference takes all.

    Examples
    --------
    >>> ga.backends.automatic(torch.zeros(1))[-1]
    'reference'
    """
    return _order(q.device.type)


if TYPE_CHECKING:

    class _Module: ...  # ModuleType itself would make every misspelt name an Any

else:
    _Module = ModuleType


class Backends(_Module):
    """What ``geoattn.backends`` is: this package, and a question, ``geoattn.backends()``.

    Type checkers know no module that can be called; to them it is an object of this class.
    """

    KNOWN: Registry[Backend]
    AUTOMATIC: Mapping[str, tuple[str, ...]]

    def __call__(self) -> Status:
        """Which backends can run on this machine at all."""
        return status()

    if TYPE_CHECKING:
        register = staticmethod(register)
        status = staticmethod(status)
        last = staticmethod(last)
        ran = staticmethod(ran)
        registers = staticmethod(registers)
        get = staticmethod(get)
        refusal = staticmethod(refusal)
        skips_hidden = staticmethod(skips_hidden)
        choose = staticmethod(choose)
        automatic = staticmethod(automatic)


sys.modules[__name__].__class__ = Backends  # type: ignore[assignment]
