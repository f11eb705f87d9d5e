"""Statistics of stores and data sets of any size, in one pass: here, on threads, or on a cluster."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn._threads import one_ahead
from geoattn._warning import warn
from geoattn.grids.checks import integer
from geoattn.xarray.schema.schema import Schema
from geoattn.xarray.schema.times import crossing, segments, stamp
from geoattn.xarray.stores import sums
from geoattn.xarray.stores.files import refuse_existing
from geoattn.xarray.stores.jobs import Job, Pieces, run
from geoattn.xarray.stores.reader import Masked, Reader
from geoattn.xarray.stores.statistics import Moments, Statistics
from geoattn.xarray.stores.store import Given
from geoattn.xarray.stores.sums import Progress, Sums
from geoattn.xarray.words import counted

#: sums of the states and of their changes, of some of the variables
Parts = dict[str, sums.Pair]


class StatisticsJob(Job[Parts, Statistics]):
    """Statistics in pieces: blocks of time of each variable, with the ``lag`` steps before them.

    Parameters
    ----------
    as for :func:`statistics`
    """

    def __init__(
        self,
        stores: Any,
        schema: Schema,
        *,
        times: slice | None = None,
        lag: int = 1,
        gaps: str = "error",
        block_bytes: int = 32 * 2**20,
    ) -> None:
        if integer("lag", lag) < 1:
            raise ValueError(f"lag must be at least one step, got {lag}")
        given = isinstance(stores, xarray.Dataset)
        self.reader = reader = Reader(Given(stores) if given else stores, schema, times)
        self.lag, self.schema = lag, schema
        self.fingerprint = reader.fingerprint()  # of the state before: a change while reading shows later
        self.local = all(store.local for store in reader.stores)
        stretches = segments(reader.times, reader.dim, gaps)
        self.segment = np.zeros(len(reader), np.int64)
        for start, _ in stretches[1:]:
            self.segment[start:] += 1
        if dropped := crossing(len(reader), stretches, lag + 1):
            remain = max(0, len(reader) - lag - dropped)
            warn(
                f"gaps='split' leaves out {counted(dropped, 'change')} that would cross one of "
                f"{counted(len(stretches) - 1, 'gap')}; {remain} remain"
            )
        span = [stamp(reader.times[0]), stamp(reader.times[-1]), len(reader)]
        begins = [start for start, _ in stretches]
        #: what the sums depend on
        self.decides = [version("geoattn"), self.fingerprint, schema.digest, span, begins, lag, block_bytes]
        self.weights = np.ascontiguousarray(schema.grid.weights, dtype=np.float64).ravel()
        self.progress = Progress(None, [])
        self.blocks = {
            v.name: [slice(0, 1)] if v.static else list(reader.select([v.name]).blocks(block_bytes))
            for v in schema.variables
        }
        self.listed = [(name, block) for name, blocks in self.blocks.items() for block in blocks]
        self.given = given

    @property
    def pieces(self) -> Sequence[Any]:
        return Pieces(len(self.listed), self._piece)

    def _piece(self, place: int) -> Any:
        name, block = self.listed[place]
        lazy = [self.reader.piece([name], self._begin(name, block), block.stop)] if self.given else []
        return (name, block.start, block.stop, *lazy)

    def _begin(self, name: str, block: slice) -> int:
        """The first step that is read for a block."""
        static = self.schema.variables[self.schema.names.index(name)].static
        return int(block.start) if static else max(0, block.start - self.lag)

    def map(self, piece: Any) -> Parts:
        name, start, stop, *given = piece
        begin, reader = self._begin(name, slice(start, stop)), self.reader
        steps = slice(begin, stop)
        if given:
            reader, steps = reader.of_piece(given[0], begin, stop), slice(0, stop - begin)
        values, mask = reader.select([name]).read(steps)
        return {name: self._sums(values, mask, start, stop)}

    def combine(self, one: Parts, other: Parts) -> Parts:
        both = {name: sums.merged(one[name], other[name]) for name in one if name in other}
        return one | other | both

    def finish(self, part: Parts) -> Statistics:
        states, tendencies = (
            Moments(*(np.concatenate(arrays) for arrays in zip(*map(_arrays, moments), strict=True)))
            for moments in zip(
                *([each.result() for each in part[name]] for name in self.schema.names), strict=True
            )
        )
        return Statistics(
            schema=self.schema,
            states=states,
            tendencies=tendencies,
            lag=self.lag,
            first=stamp(self.reader.times[0]),
            last=stamp(self.reader.times[-1]),
            steps=len(self.reader),
            fingerprint=self.fingerprint,
        )

    def parts(self) -> Iterator[tuple[int, Parts]]:
        """Each step is read once, a block ahead of its sums, which go on where a killed run left them."""
        if self.given:
            yield from super().parts()
            return
        for variable in self.schema.variables:
            name, blocks = variable.name, self.blocks[variable.name]
            reader = self.reader.select([name])
            whole: sums.Pair = Sums.none(variable.size), Sums.none(variable.size)
            done = 0
            if not variable.static and (kept := self.progress.take(name)) is not None:
                done, whole = kept
                yield done, {name: whole}
            held: Masked | None = None  # the last steps of the block before
            if 0 < done < len(blocks):
                held = reader.read(slice(max(0, blocks[done].start - self.lag), blocks[done].start))
            with one_ahead(map(reader.read, blocks[done:])) as contents:
                for number, (values, mask) in enumerate(contents, done):
                    if held is not None:
                        values = np.concatenate((held[0], values))
                        mask = None if mask is None or held[1] is None else np.concatenate((held[1], mask))
                    part = self._sums(values, mask, blocks[number].start, blocks[number].stop)
                    held = values[-self.lag :], None if mask is None else mask[-self.lag :]
                    if not variable.static:
                        whole = sums.merged(whole, part)
                        self.progress.keep(name, number + 1, whole)
                    yield 1, {name: part}

    def _sums(self, values: NDArray[Any], mask: NDArray[np.bool_] | None, start: int, stop: int) -> sums.Pair:
        """Of the steps from ``start`` to before ``stop``, which ``values`` end with, after some before."""
        nothing = np.empty((0, 0, self.weights.size), values.dtype)
        new, lag = len(values) - (stop - start), self.lag
        states = Sums.of(values[new:], nothing, None if mask is None else mask[new:], self.weights)
        if len(values) <= lag:
            return states, Sums.none(values.shape[1])
        first = stop - len(values)
        inside = self.segment[first + lag : stop] == self.segment[first : stop - lag]
        both = None if mask is None else (mask[lag:] & mask[:-lag])[inside]
        return states, Sums.of(values[lag:][inside], values[:-lag][inside], both, self.weights)


def statistics(
    stores: Any,
    schema: Schema,
    *,
    times: slice | None = None,
    lag: int = 1,
    gaps: str = "error",
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    block_bytes: int = 32 * 2**20,
    client: Any = None,
    progress: Callable[[int, int], object] | None = None,
) -> Statistics:
    """Mean, standard deviation and range of each channel, for states and tendencies.

    Reads every value once, a few blocks at a time. Points are weighted by the grid's areas, missing
    values count for nothing, and the standard deviation is the population's. Sums are of deviations in
    float64, so that neither a large mean nor a long series costs digits.

    Parameters
    ----------
    stores
        Path, URL or zarr store; or several of them that follow one another in time. Or a Dataset: with
        dask arrays blocks are computed by dask, on threads or on the current ``dask.distributed`` client.
    schema
        The channels.
    times
        First and last time to use, ``slice("1979", "2015")``, such as the years of training.
    lag
        Steps over which tendencies are taken. Static variables have none.
    gaps
        ``"error"`` refuses gaps in time; ``"split"`` takes no tendency across them, and says how
        many it leaves out.
    output
        Where to save the result; see :meth:`Statistics.save`. The sums of the blocks read so far are
        kept beside it, in a folder of this name and ``.sums``: called again after it was stopped or
        killed, with the same arguments on unchanged stores, it goes on there, to the same bits. Not so
        for data sets and remote stores, which do not tell whether their values changed, nor on a cluster.
    overwrite
        Whether ``output`` may be replaced.
    block_bytes
        About how much is read at once; two blocks are held.
    client
        A ``dask.distributed.Client`` whose workers read the stores, a block each; the result is the same to
        the bit. :func:`geoattn.xarray.partial.statistics` gives the pieces to any other system.
    progress
        Called with the number of blocks that are done and that of all, time after time.

    Raises
    ------
    FileExistsError
        If ``output`` exists, before anything is read.
    ValueError
        If the stores do not fit the schema, times have gaps, or values are missing without a mask.

    Examples
    --------
    >>> grid = ga.grids.gaussian(4, 8)
    >>> times = np.arange("2001-01-01", "2001-01-11", dtype="datetime64[D]").astype("datetime64[ns]")
    >>> coords = ga.xarray.coordinates(grid).assign_coords(time=times)
    >>> ds = coords.assign(t=(("time", "latitude", "longitude"), np.random.default_rng(0).random((10, 4, 8))))
    >>> ga.xarray.statistics(ds, ga.xarray.Schema.of(ds)).states.mean.shape
    (1,)
    """
    if output is not None:
        refuse_existing(output, overwrite)
    job = StatisticsJob(stores, schema, times=times, lag=lag, gaps=gaps, block_bytes=block_bytes)
    job.progress = kept = Progress(output if job.local and client is None else None, job.decides)
    done = 0

    def count(new: int) -> None:
        nonlocal done
        done += new
        if progress is not None:
            progress(done, len(job.pieces))

    result = run(job, client, count)
    if output is not None:
        result.save(output, overwrite=overwrite)
        kept.forget()
    return result


def _arrays(moments: Moments) -> list[NDArray[Any]]:
    return [getattr(moments, field.name) for field in dataclasses.fields(moments) if field.init]
