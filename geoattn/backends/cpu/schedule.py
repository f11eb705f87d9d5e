"""What the kernels need to know of a plan, worked out once: flat arrays and an order of work."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoattn.backends.cpu.compiled import entry_point, kernel
from geoattn.plans.base import LanePlan

Array = NDArray[np.int32]


class Lists(NamedTuple):
    """A gather plan as compiled code takes it; see :class:`geoattn.plans.Plan` for the fields."""

    query_order: Array
    key_order: Array
    tile_class: Array
    tile_shift: Array
    ring: int
    indptr: NDArray[np.int64]
    key_tiles: Array
    lanes: NDArray[np.uint32]

    @property
    def words(self) -> tuple[int, ...]:
        """Address and length of each array, and the ring, for a block."""
        of_field = (placed(x) if isinstance(x, np.ndarray) else (x,) for x in self)
        return tuple(number for numbers in of_field for number in numbers)


class Chunks(NamedTuple):
    """Query tiles in runs of equal work, and the keys that each touches.

    Run c holds the tiles ``tiles[c]`` to ``tiles[c + 1]``. The backward pass adds to the gradients of
    the keys ``own[own_indptr[c]:own_indptr[c + 1]]`` directly: no other run touches them. (Keys that
    none touches are given to the last run.) ``keys[indptr[c]:indptr[c + 1]]`` are those that others
    touch too: each run gives them gradients of its own, so that runs do not race, and these are
    added up in order afterwards; ``begins`` tells the first run of each key. All ascend.
    """

    tiles: NDArray[np.int64]
    own_indptr: NDArray[np.int64]
    own: Array
    indptr: NDArray[np.int64]
    keys: Array
    begins: NDArray[np.bool_]

    @property
    def words(self) -> tuple[int, ...]:
        """Address and length of each array, for a block."""
        return tuple(number for array in self for number in placed(array))


@dataclasses.dataclass(eq=False)
class Schedule:
    """One plan, ready for the kernels."""

    lists: Lists
    n_keys: int
    #: tiles in the order of work
    order: Array
    longest: int
    #: key × lane places that the tiles hold, a measure of the work
    work: int
    _lengths: NDArray[np.int64]
    _chunks: dict[int, Chunks]

    @classmethod
    def of(cls, plan: LanePlan, n_keys: int) -> Schedule:
        shifted = bool(plan.tile_shift.any())
        lists = Lists(
            query_order=frozen(plan.query_order),
            key_order=frozen(plan.key_order),
            tile_class=frozen(plan.tile_class),
            tile_shift=frozen(plan.tile_shift % plan.ring if shifted else plan.tile_shift),
            ring=int(plan.ring) if shifted else max(1, len(plan.key_order)),
            indptr=frozen(plan.indptr),
            key_tiles=frozen(plan.key_tiles),
            lanes=frozen(plan.lanes),
        )
        lengths = np.diff(plan.indptr)[plan.tile_class]
        return cls(
            lists=lists,
            n_keys=n_keys,
            order=frozen(_work_order(lengths)),
            longest=int(lengths.max(initial=0)),
            work=int(lengths.sum()) * plan.query_tile,
            _lengths=lengths,
            _chunks={},
        )

    def chunks(self, count: int) -> Chunks:
        """The tiles in ``count`` runs."""
        if count not in self._chunks:
            done = np.cumsum(self._lengths)
            shares = np.arange(1, count) * (done[-1] if len(done) else 0) / count
            tiles = np.concatenate([[0], np.searchsorted(done, shares), [len(done)]]).astype(np.int64)
            self._chunks[count] = Chunks(
                frozen(tiles), *map(frozen, _touched(self.lists, tiles, self.n_keys))
            )
        return self._chunks[count]


def _work_order(lengths: NDArray[np.int64]) -> Array:
    """Tiles with long lists first, so that the last ones even out the threads.

    Lengths within a factor of two count as equal: those tiles keep the order of the plan, in which
    neighbors share most of their keys.
    """
    magnitude = np.frexp(lengths.astype(np.float64))[1]
    return np.argsort(-magnitude, kind="stable").astype(np.int32)


def placed(array: NDArray[Any]) -> tuple[int, int]:
    """Where an array lies, and its length."""
    return array.__array_interface__["data"][0], len(array)


def frozen(array: NDArray[Any]) -> Any:
    """A read-only view: numba tells those apart from writable arrays, and one kind is enough."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@entry_point
def _touched(lists, tiles, n_keys):  # type: ignore[no-untyped-def]
    """All fields of :class:`Chunks` behind ``tiles``."""
    n_runs = len(tiles) - 1
    first, last = filled(n_keys, n_runs - 1), filled(n_keys, -1)
    indptr, own_indptr = np.zeros(n_runs + 1, np.int64), np.zeros(n_runs + 1, np.int64)
    keys, own = np.empty(0, np.int32), np.empty(0, np.int32)
    begins = np.empty(0, np.bool_)
    for pass_ in range(3):  # which runs touch a key; how many keys a run has; which
        if pass_ == 2:
            for run in range(n_runs):
                indptr[run + 1] += indptr[run]
                own_indptr[run + 1] += own_indptr[run]
            keys, own = np.empty(indptr[n_runs], np.int32), np.empty(own_indptr[n_runs], np.int32)
            begins = np.empty(indptr[n_runs], np.bool_)
        seen = filled(n_keys, -1)
        for run in range(n_runs):
            for tile in range(tiles[run], tiles[run + 1]):
                number = lists.tile_class[tile]
                for entry in range(lists.indptr[number], lists.indptr[number + 1]):
                    position = lists.key_tiles[entry]
                    start = position // lists.ring * lists.ring
                    moved = start + (position - start + lists.tile_shift[tile]) % lists.ring
                    seen[lists.key_order[moved]] = run
            at, own_at = indptr[run], own_indptr[run]
            for key in range(n_keys):
                touched = seen[key] == run
                if pass_ == 0 and touched:
                    first[key] = run if last[key] < 0 else first[key]
                    last[key] = run
                elif pass_ == 1:
                    indptr[run + 1] += touched and first[key] != last[key]
                    own_indptr[run + 1] += first[key] == run and last[key] <= run
                elif pass_ == 2 and touched and first[key] != last[key]:
                    keys[at], begins[at] = key, first[key] == run
                    at += 1
                elif pass_ == 2 and first[key] == run and last[key] <= run:
                    own[own_at] = key
                    own_at += 1
    return own_indptr, own, indptr, keys, begins


@kernel
def filled(n, number):  # type: ignore[no-untyped-def]
    """So many of one number, int32: numpy's own function costs a while to compile."""
    numbers = np.empty(n, np.int32)
    for place in range(n):
        numbers[place] = number
    return numbers


_schedules: weakref.WeakKeyDictionary[LanePlan, Schedule] = weakref.WeakKeyDictionary()


def schedule(plan: LanePlan, n_keys: int) -> Schedule:
    """The schedule of a plan, made at its first use and kept as long as the plan lives."""
    found = _schedules.get(plan)
    if found is None:
        found = _schedules[plan] = Schedule.of(plan, n_keys)
    return found
