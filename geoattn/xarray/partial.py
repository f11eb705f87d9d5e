"""Statistics, scores and regridding in pieces, for any system that maps and combines.

Each function makes a :class:`Job` of what the function of the same name in :mod:`geoattn.xarray` does.
``job.map(piece)`` of each of ``job.pieces`` gives parts that are small, ``job.combine`` makes one of two,
and ``job.finish`` the result of all. :func:`run` does so here, or on a ``dask.distributed`` client;
jobs, pieces and parts pickle, so that any other system can::

    job.finish(functools.reduce(job.combine, map(job.map, job.pieces)))
"""

from __future__ import annotations

from typing import Any

from geoattn.xarray.regridding.stores import RegridJob
from geoattn.xarray.scores.jobs import ScoreJob
from geoattn.xarray.scores.metrics import JOBS
from geoattn.xarray.stores.gathering import StatisticsJob
from geoattn.xarray.stores.jobs import Job, run

__all__ = ["Job", "regrid", "run", "score", "statistics"]


def statistics(stores: Any, schema: Any, **options: Any) -> StatisticsJob:
    """The job of :func:`geoattn.xarray.statistics`; it finishes with the statistics.

    Parameters
    ----------
    stores, schema, **options
        As there: ``times``, ``lag``, ``gaps`` and ``block_bytes``.
    """
    return StatisticsJob(stores, schema, **options)


def score(name: str, forecast: Any, truth: Any, *others: Any, **options: Any) -> ScoreJob:
    """The job of a score; it finishes with a dictionary from its name to what the score is.

    Parameters
    ----------
    name
        Of the function in :mod:`geoattn.xarray.metrics`.
    forecast, truth, *others, **options
        As there.

    Raises
    ------
    ValueError
        If there is no such score.
    """
    if name not in JOBS:
        raise ValueError(f"name must be one of {list(JOBS)}, got {name!r}")
    return JOBS[name](forecast, truth, *others, **options)


def regrid(ds: Any, target: Any, output: Any, **options: Any) -> RegridJob:
    """The job of :func:`geoattn.xarray.regrid` into a zarr store; it finishes with the path.

    Pieces are written where they are mapped, to an unfinished store beside ``output`` on a disk that all
    workers see. It is allocated now, and takes its name when the job finishes.

    Parameters
    ----------
    ds, target, **options
        As there, and ``block_bytes``: about how much is read, or written, at once.
    output
        The zarr store to write.

    Raises
    ------
    FileExistsError
        If there is something at ``output``, or an unfinished store beside it.
    """
    return RegridJob(ds, target, output, **options)
