"""Labels that are the same: numbers within the rounding of files, everything else exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: relative deviation up to which numbers are one level: files round them to float32
ROUNDING = float(np.finfo(np.float32).eps)


def places(wanted: Any, there: Any) -> NDArray[np.intp]:
    """Where each of the ``wanted`` labels lies among those that are ``there``; −1 where nowhere.

    Numbers are matched to the nearest within float32's rounding, so that 0.995 is found in a file of either
    precision; whole numbers, names and dates are matched exactly. Of repeated labels the first is found.

    Parameters
    ----------
    wanted, there
        One-dimensional.
    """
    ours, theirs = np.asarray(wanted), np.asarray(there)
    kinds = {ours.dtype.kind, theirs.dtype.kind}
    if "f" in kinds and kinds <= set("iuf") and theirs.size:
        ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
        order = np.argsort(theirs, kind="stable")
        after = np.searchsorted(theirs[order], ours).clip(0, len(order) - 1)
        lower, upper = order[(after - 1).clip(0)], order[after]
        nearest = np.where(np.abs(theirs[lower] - ours) <= np.abs(theirs[upper] - ours), lower, upper)
        within = np.abs(theirs[nearest] - ours) <= ROUNDING * np.abs(ours)
        return np.where(within, nearest, -1)
    if kinds in ({"M"}, {"m"}):
        common = np.promote_types(ours.dtype, theirs.dtype)
        ours, theirs = (labels.astype(common).astype(np.int64) for labels in (ours, theirs))
    first = {label: place for place, label in reversed(list(enumerate(theirs.tolist())))}
    return np.array([first.get(label, -1) for label in ours.tolist()], np.intp)


def selecting(what: str, other: str, dim: str, mine: NDArray[Any], theirs: NDArray[Any]) -> str:
    """The call that selects, of the labels ``mine`` of ``what``, those of the ``other``."""
    call = what + (f".drop_duplicates({dim!r})" if len(set(mine.tolist())) < len(mine) else "")
    if np.isin(theirs, mine).all():
        return f"{call}.sel({dim}={other}[{dim!r}])"
    # what is equal up to rounding only is found as the nearest, for which xarray wants an order
    call += f".sortby({dim!r})" if bool((mine[1:] < mine[:-1]).any()) else ""
    return f"{call}.sel({dim}={other}[{dim!r}], method='nearest')"


def check_once(labels: NDArray[Any], dim: str, call: str) -> None:
    """Refuse labels along ``dim`` of what is called ``call`` that are there twice: which one was meant?"""
    again = np.flatnonzero(places(labels, labels) != np.arange(len(labels)))
    repeated = [i for i in again if not (labels.dtype.kind == "f" and np.isnan(labels[i]))]
    if repeated:
        raise ValueError(
            f"{dim!r} repeats {labels[repeated[0]]}; drop one of them: {call}.drop_duplicates({dim!r})"
        )
