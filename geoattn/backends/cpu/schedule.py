"""What the kernels need to know of a plan, worked out once: flat arrays and an order of work."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn.backends.cpu.blocks import AT, Plan, Runs, block_of, plan_at
from geoattn.backends.cpu.compiled import task
from geoattn.backends.cpu.memory import int_at, put_flag, word_at
from geoattn.plans.base import LanePlan

Array = NDArray[np.int32]


@dataclasses.dataclass(frozen=True, eq=False)
class Chunks:
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

    @functools.cached_property
    def words(self) -> Runs:
        """The runs, for a block."""
        return Runs(
            tiles=address_of(self.tiles),
            own_indptr=address_of(self.own_indptr),
            own=address_of(self.own),
            indptr=address_of(self.indptr),
            keys=address_of(self.keys),
            begins=address_of(self.begins),
            n_runs=len(self.tiles) - 1,
            n_shared=len(self.keys),
        )


@dataclasses.dataclass(eq=False)
class Schedule:
    """One plan, ready for the kernels."""

    #: the plan for a block, and where its tiles lie in the order of work, and how many
    words: Plan
    order: tuple[int, int]
    n_keys: int
    longest: int
    #: key × lane places that the tiles hold, a measure of the work
    work: int
    #: what the addresses point to
    _held: tuple[NDArray[Any], ...]
    _lengths: NDArray[np.int64]
    _chunks: dict[int, Chunks] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, plan: LanePlan, n_keys: int) -> Schedule:
        shifted = bool(plan.tile_shift.any())
        lengths = np.diff(plan.indptr)[plan.tile_class]
        shift = plan.tile_shift % plan.ring if shifted else plan.tile_shift
        before = plan.query_order, plan.key_order, plan.tile_class, shift
        arrays = (*before, plan.indptr, plan.key_tiles, plan.lanes, _work_order(lengths))
        held = tuple(map(np.ascontiguousarray, arrays))
        *addresses, indptr, key_tiles, lanes, order = map(address_of, held)
        ring = int(plan.ring) if shifted else max(1, len(plan.key_order))
        return cls(
            words=Plan._make([*addresses, ring, indptr, key_tiles, lanes, len(plan.indptr) - 1]),
            order=(order, len(lengths)),
            n_keys=n_keys,
            longest=int(lengths.max(initial=0)),
            work=int(lengths.sum()) * plan.query_tile,
            _held=held,
            _lengths=lengths,
        )

    def chunks(self, count: int) -> Chunks:
        """The tiles in ``count`` runs."""
        if count not in self._chunks:
            done = np.cumsum(self._lengths)
            shares = np.arange(1, count) * (done[-1] if len(done) else 0) / count
            tiles = np.concatenate([[0], np.searchsorted(done, shares), [len(done)]]).astype(np.int64)
            self._chunks[count] = self._dealt(tiles)
        return self._chunks[count]

    def _dealt(self, tiles: NDArray[np.int64]) -> Chunks:
        """Runs of tiles with their keys. Of a whole grid's keys some bytes each are held meanwhile."""
        last = len(tiles) - 2
        first = np.full(self.n_keys, last, np.int32)
        seen, several = np.zeros(self.n_keys, np.bool_), np.zeros(self.n_keys, np.bool_)
        for run, touched in enumerate(self._touched(tiles)):
            several |= seen & touched
            first[touched & ~seen] = run
            seen |= touched
        own = [np.flatnonzero((first == run) & ~several).astype(np.int32) for run in range(last + 1)]
        keys = [np.flatnonzero(several & touched).astype(np.int32) for touched in self._touched(tiles)]
        begins = np.concatenate([first[shared] == run for run, shared in enumerate(keys)])
        return Chunks(tiles, _indptr(own), np.concatenate(own), _indptr(keys), np.concatenate(keys), begins)

    def _touched(self, tiles: NDArray[np.int64]) -> Iterator[NDArray[np.bool_]]:
        """Whether each run of tiles touches each key, run by run."""
        for run in range(len(tiles) - 1):
            touched = np.zeros(self.n_keys, np.bool_)
            of_run = Runs(address_of(tiles[run : run + 2]), 0, 0, 0, 0, 0, 1, 0)
            block = block_of(plan=self.words, runs=of_run, touched=(address_of(touched),))
            touch.of()(block.buffer_info()[0])
            yield touched


def _indptr(parts: list[Array]) -> NDArray[np.int64]:
    """Where each part begins behind the others, and where the last ends."""
    return np.cumsum([0, *map(len, parts)], dtype=np.int64)


@task
def touch(block):  # type: ignore[no-untyped-def]
    """Mark the keys that one run of tiles touches."""
    plan, tiles, touched = plan_at(block, AT.plan), word_at(block, AT.runs), word_at(block, AT.touched)
    for tile in range(word_at(tiles, 0), word_at(tiles, 1)):
        label, shift = int_at(plan.tile_class, tile), int_at(plan.tile_shift, tile)
        for entry in range(word_at(plan.indptr, label), word_at(plan.indptr, label + 1)):
            position = int_at(plan.key_tiles, entry)
            start = position // plan.ring * plan.ring
            moved = start + (position - start + shift) % plan.ring
            put_flag(touched, int_at(plan.key_order, moved), 1)


def _work_order(lengths: NDArray[np.int64]) -> Array:
    """Tiles with long lists first, so that the last ones even out the threads.

    Lengths within a factor of two count as equal: those tiles keep the order of the plan, in which
    neighbors share most of their keys.
    """
    magnitude = np.frexp(lengths.astype(np.float64))[1]
    return np.argsort(-magnitude, kind="stable").astype(np.int32)


def address_of(array: NDArray[Any]) -> int:
    """Where a contiguous array lies."""
    address: int = array.__array_interface__["data"][0]
    return address


_schedules: weakref.WeakKeyDictionary[LanePlan, Schedule] = weakref.WeakKeyDictionary()


def schedule(plan: LanePlan, n_keys: int) -> Schedule:
    """The schedule of a plan, made at its first use and kept as long as the plan lives."""
    found = _schedules.get(plan)
    if found is None:
        found = _schedules[plan] = Schedule.of(plan, n_keys)
    return found
