"""Plans are built once: kept in memory, and on disk where building took a while."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from geoattn._files import cache_folder, read_checked, write_checked
from geoattn._lru import BoundedCache
from geoattn._warning import warn
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.reach import doubts
from geoattn.plans import kernels
from geoattn.plans.base import LanePlan, NumberedLanePlan, NumberedTilePlan, Plan, TilePlan
from geoattn.plans.builder import build, shape_of
from geoattn.plans.expand import numbers_of, pairs_of
from geoattn.plans.sources import source_digest
from geoattn.relations.base import NumberedRows, Relation

AnyPlan = TypeVar("AnyPlan", bound=Plan)

#: plans that took longer to build, in seconds, are written to disk: reading beats building by far
WORTH_KEEPING = 0.25
#: bytes of plans held in memory; the least recently used are dropped first
MEMORY = 1 << 30
#: bytes of plans on disk; those that were not used for the longest time are deleted first
DISK = 4 << 30

#: what reading a file that was damaged, cut short or exchanged can raise
_UNREADABLE = (
    OSError, ValueError, TypeError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error
)  # fmt: skip

#: of lanes?, numbered? → the kind of a plan
_KINDS: dict[tuple[bool, bool], type[LanePlan] | type[TilePlan]] = {
    (True, False): LanePlan,
    (True, True): NumberedLanePlan,
    (False, False): TilePlan,
    (False, True): NumberedTilePlan,
}

_held: BoundedCache[tuple[str, type[Plan]], Plan] = BoundedCache(MEMORY, keep_newest=True)
_derived: list[Callable[[], object]] = []
#: neighborhoods that were asked whether their discs reach anything
_doubted: set[str] = set()
#: how often all was forgotten: what was begun before must not be kept after
_clearings = 0


def plan(of: Neighborhood | Relation, query_tile: int = 64, key_tile: int = 64) -> LanePlan | TilePlan:
    """The plan of a neighborhood, or of a relation on it: from memory, else from disk, else built.

    Parameters and errors are those of :func:`geoattn.plans.build`. Equal neighborhoods share one
    plan. Files lie in the folder ``plans`` of geoattn's cache (see the environment variable
    ``GEOATTN_CACHE``), 4 GiB at most, named by the content of the neighborhood and by the code that decides
    its edges and the layout. What is read is checked, some tiles against the neighborhood itself; what
    is damaged is built anew.

    Examples
    --------
    >>> ga.plans.plan(ga.window(ga.grids.cartesian(256), 9)).query_tile
    64
    """
    return _plan(of, shape_of(of, query_tile, key_tile))


def lane_plan(hood: Neighborhood) -> LanePlan:
    """The plan for the vector lanes of a CPU: see :func:`plan`.

    Examples
    --------
    >>> type(ga.plans.lane_plan(ga.window(ga.grids.cartesian(64), 9))).__name__
    'LanePlan'
    """
    return _plan(hood, LanePlan)


def numbered_plan(relation: Relation) -> NumberedLanePlan:
    """The plan of a relation for the vector lanes of a CPU: see :func:`plan`.

    Examples
    --------
    >>> type(ga.plans.numbered_plan(ga.relations.offsets(ga.window(ga.grids.cartesian(64), 9)))).__name__
    'NumberedLanePlan'
    """
    return _plan(relation, NumberedLanePlan)


def tile_plan(hood: Neighborhood) -> TilePlan:
    """The plan for tensor cores: see :func:`plan`.

    Examples
    --------
    >>> type(ga.plans.tile_plan(ga.window(ga.grids.cartesian(256), 9))).__name__
    'TilePlan'
    """
    return _plan(hood, TilePlan)


def numbered_tile_plan(relation: Relation) -> NumberedTilePlan:
    """The plan of a relation for tensor cores: see :func:`plan`.

    Examples
    --------
    >>> ga.plans.numbered_tile_plan(ga.relations.offsets(ga.window(ga.grids.cartesian(64), 9))).count
    17
    """
    return _plan(relation, NumberedTilePlan)


def clear() -> None:
    """Forget all plans, in memory and on disk, and what was made of them.

    A plan that another thread is building meanwhile is that caller's alone, and is not kept. CUDA graphs that
    were captured before read memory that is given back here: capture them anew.

    Examples
    --------
    >>> ga.plans.clear()
    """
    global _clearings
    _clearings += 1
    _held.clear()
    for forget in _derived:
        forget()
    for path in _files():
        path.unlink(missing_ok=True)


def clears(forget: Callable[[], object]) -> None:
    """Have :func:`clear` call ``forget`` too: of those who keep what they made of plans.

    Examples
    --------
    >>> ga.plans.clears(lambda: None)
    """
    _derived.append(forget)


def _plan(of: Neighborhood | Relation, kind: type[AnyPlan]) -> AnyPlan:
    found = _held.get_or_make(
        (of.identity, kind), lambda: _from_disk_or_built(of, kind), lambda made: made.nbytes
    )
    assert isinstance(found, kind)  # the key names it
    return found


def _say_doubts(hood: Neighborhood) -> None:
    """Warn, once for each neighborhood, of discs that reach almost nothing."""
    if hood.identity in _doubted:
        return
    found = list(doubts(hood))
    # a backward pass plans the transposed neighborhood, whose rows are keys: theirs may be empty
    backward = bool(found) and hood.transpose().identity in _doubted
    _doubted.add(hood.identity)
    for doubt in () if backward else found:
        warn(doubt)


def _from_disk_or_built(of: Neighborhood | Relation, kind: type[AnyPlan]) -> AnyPlan:
    _say_doubts(of if isinstance(of, Neighborhood) else of.hood)
    sources = source_digest(of)
    name = f"{of.digest}-{kind.query_tile}x{kind.key_tile}-{sources}.plan"
    path = cache_folder("plans") / name
    if sources is not None and isinstance(kept := read(path, of), kind):
        return kept
    start, clearings = time.perf_counter(), _clearings
    built = build(of, kind.query_tile, kind.key_tile)
    assert isinstance(built, kind)  # as its shape says
    if sources is not None and time.perf_counter() - start > WORTH_KEEPING:
        try:
            write(path, built)
            _make_room(path)
            if clearings != _clearings:  # perhaps after all files were deleted
                path.unlink(missing_ok=True)
        except OSError as error:
            warn(
                f"the plan of {of!r} is not kept on disk: {error}; "
                "GEOATTN_CACHE can name a folder that is writable and has room"
            )
    return built


def write(path: Path, plan: Plan) -> None:
    """Write a plan so that readers see all of it or nothing, whatever else writes meanwhile."""
    content = io.BytesIO()
    np.savez(content, **{field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)})
    write_checked(content.getbuffer(), path, own=False)


def read(path: Path, of: Neighborhood | Relation | None = None) -> LanePlan | TilePlan | None:
    """The plan in a file; None if there is none, or it is damaged.

    With ``of``, also None if it is no plan of that: sizes and some tiles are compared.
    """
    content = read_checked(path, own=False)  # numbers only, and all of them looked at below
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in file.files}
        arrays |= {name: arrays[name].item() for name in ("ring", "count") if name in arrays}
        of_lanes, numbered = "lanes" in arrays, "numbers" in arrays
        found = _KINDS[of_lanes, numbered](**arrays)
        hood = of.hood if isinstance(of, Relation) else of
        if hood is None:
            sizes = [int((order >= 0).sum()) for order in (found.query_order, found.key_order)]
        else:
            sizes = [hood.query_grid.size, hood.key_grid.size]
        if not (isinstance(found.ring, int) and found.is_sound(*sizes)):
            return None
        if isinstance(found, TilePlan) and not np.array_equal(found.groups, kernels.group_bits(found.masks)):
            return None
        if of is not None and not _agrees(found, of):
            return None
    except _UNREADABLE:
        return None
    with contextlib.suppress(OSError):  # a cache that others fill may be read-only
        path.touch()  # its use counts when room is made
    return found


def _agrees(plan: Plan, of: Neighborhood | Relation) -> bool:
    """Whether some tiles of the plan hold the very pairs that the neighborhood has."""
    numbered = plan if isinstance(plan, NumberedLanePlan | NumberedTilePlan) else None
    if isinstance(of, Relation) and (numbered is None or numbered.count != of.count):
        return False
    n_tiles = len(plan.tile_class)
    for tile in sorted({0, n_tiles // 2, n_tiles - 1}) if n_tiles else ():
        order = plan.query_order[tile * plan.query_tile : (tile + 1) * plan.query_tile].astype(np.int64)
        tokens = np.sort(order[order >= 0])
        rows = of.rows(tokens)
        queries, keys = pairs_of(plan, tile)
        by_query = np.lexsort((keys, queries))
        expected = np.repeat(tokens, np.diff(rows.indptr))
        if not (np.array_equal(queries[by_query], expected) and np.array_equal(keys[by_query], rows.indices)):
            return False
        if isinstance(rows, NumberedRows) and numbered is not None:
            numbers = numbers_of(numbered, tile)[by_query]
            if not np.array_equal(numbers, rows.numbers):
                return False
    return True


def _files() -> list[Path]:
    folder = cache_folder("plans")
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.suffix in (".plan", ".npz")]  # .npz: of version 0.1


def _make_room(newest: Path) -> None:
    """Delete the files that were not used for the longest time, until the rest fits."""
    states = []
    for path in _files():
        try:
            state = path.stat()
        except OSError:  # another process deleted it
            continue
        states.append((path == newest, state.st_mtime, state.st_size, path))
    total = sum(size for _, _, size, _ in states)
    for is_newest, _, size, path in sorted(states):
        if total <= DISK or is_newest:
            break
        path.unlink(missing_ok=True)
        total -= size
