"""A linear operator from the fields of one grid to those of another."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from geoattn.grids import RegionError, SphericalGrid
from geoattn.grids.checks import real
from geoattn.nn.resampling import WeightedSum
from geoattn.xarray.regridding import scrip
from geoattn.xarray.regridding.apply import apply
from geoattn.xarray.regridding.weights import COVERED, NORMALISATIONS, Weights, weights_of

#: points further from the nearest of a region than so many sides of its cell lie outside of the region
REACH = 1.5
METHODS = ("auto", "average", "conservative", "interpolation", "nearest", "majority")
#: methods that give values of the source only, as labels need
OF_LABELS = ("nearest", "majority")
MISSING = ("refuse", "renormalise", "propagate")
#: share of a target point's weights, or of its cell's area, that must be there
LEAST = 0.5


class Regridder:
    """A linear operator from the fields of one spherical grid to those of another.

    Parameters
    ----------
    source, target
        The grids.
    method
        - ``"interpolation"``: second order, exact for constants
          (:func:`geoattn.grids.interpolation.interpolation`).
        - ``"conservative"``: each target cell takes the mean of the source over its area, of first order.
          Σ a out over the target is Σ a field over the source, a the ``cell_areas``, wherever each covers
          the other. Needs cells: all grids have them but points with given areas.
        - ``"average"``: each target point takes the area mean of the source points nearest to it; one
          that is as near to several is shared among them. Target points that are nearest to none
          interpolate.
        - ``"nearest"``: the value of the nearest source point; of several as near, the first.
        - ``"majority"``: of the values of the source cells that overlap the target's cell, the one with
          the largest area; of several as large, the smallest. On grids without cells, of the source points
          that the average would take.
        - ``"auto"``: the average where there are four source points or more for each target point, else
          the interpolation.
    normalisation
        What conservative sums over target cells that are covered in part, at the edge of a region or of
        what is missing, are divided by; the names are SCRIP's. ``"fracarea"``: the area that is covered by
        values that are there, so that ``out`` is their mean; Σ share · a · out is kept, with the shares that
        are covered. ``"destarea"``: the area of the whole cell; Σ a out is kept.

    Raises
    ------
    TypeError
        If a grid is not one of the sphere.
    ValueError
        If there is no such method or normalisation, a grid has no cells and the method needs them, or the
        source is a region and points of the target lie outside (conservative: all of them; cells that are
        covered to less than half are missing).

    Examples
    --------
    >>> fine, coarse = ga.grids.gaussian(16, 32), ga.grids.healpix(2)
    >>> ga.xarray.Regridder(fine, coarse)
    average from Gaussian grid 16×32 to HEALPix grid nside 2, 48 pixels in nested order; the glo...
    """

    def __init__(
        self,
        source: SphericalGrid,
        target: SphericalGrid,
        method: str = "auto",
        normalisation: str = "fracarea",
    ) -> None:
        for name, grid in (("source", source), ("target", target)):
            if not isinstance(grid, SphericalGrid):
                raise TypeError(f"{name} must be a grid of the sphere, got {grid!r}")
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}")
        if normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation must be one of {NORMALISATIONS}, got {normalisation!r}")
        if not source.is_global and method != "conservative":
            _check_within(source, target)
        if method == "auto":
            method = "average" if 4 * target.size <= source.size else "interpolation"
        self._take(source, target, method, weights_of(method, source, target, normalisation))

    def _take(self, source: SphericalGrid, target: SphericalGrid, method: str, weights: Weights) -> None:
        self.source, self.target, self.method = source, target, method
        #: how they are normalised, and what shares of cells they cover
        self.weights = weights
        #: weights ``[target.size, source.size]``; every row sums to 1, or to the share of the cell
        self.matrix: csr_array = weights.matrix

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        source: SphericalGrid | None = None,
        target: SphericalGrid | None = None,
    ) -> Regridder:
        """An operator from a file of weights by SCRIP's or ESMF's conventions, of any program.

        Parameters
        ----------
        path
            The netCDF file: ours, ``cdo gencon``'s, ESMF's or xESMF's.
        source, target
            The grids; without them, those that the file describes by the centres and corners of their cells.

        Raises
        ------
        ValueError
            If the file holds no such weights, its numbers do not fit each other or the grids, or it says
            nothing of the grids and they are not given.
        """
        read = scrip.read(path, source, target)
        operator = cls.__new__(cls)
        operator._take(read.source, read.target, read.method, read.weights)
        return operator

    @classmethod
    def kept(
        cls,
        path: str | os.PathLike[str],
        source: SphericalGrid,
        target: SphericalGrid,
        method: str = "auto",
        normalisation: str = "fracarea",
    ) -> Regridder:
        """The operator that a file of weights keeps; where there is no file, it is made and written there.

        Parameters
        ----------
        path
            The file, of :meth:`save` or of another program (:meth:`open`).
        source, target, method, normalisation
            As for :class:`Regridder`; ``"auto"`` takes what the file has.

        Raises
        ------
        ValueError
            If the file is of other grids, another method or another normalisation, or holds no weights.
        """
        if not Path(path).exists():
            made = cls(source, target, method, normalisation)
            made.save(path)
            return made
        try:
            found = cls.open(path, source, target)
        except scrip.OtherGridError as reason:
            reason.add_note("Weights between these grids are made and kept in a new file, weights=…")
            raise
        asked, kept = (method, normalisation), (found.method, found.weights.normalisation)
        if method == "auto":
            asked = (found.method, normalisation)
        if found.method != "conservative":  # others have none
            asked = (asked[0], found.weights.normalisation)
        if asked != kept:
            raise ValueError(
                f"the weights in {path} are {' by '.join(kept)}, and asked is {' by '.join(asked)}: take "
                f"them as they are, method={kept[0]!r}, normalisation={kept[1]!r}, or a new file, weights=…"
            )
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as a SCRIP file, which CDO, NCO and ESMF read, and :meth:`open` too.

        Raises
        ------
        ValueError
            If the method is ``"majority"``, which no matrix carries out.
        """
        if self.method == "majority":
            raise ValueError(
                "a majority is no sum over weights, which SCRIP files hold; save those of "
                "ga.xarray.Regridder(source, target, 'nearest') or 'conservative'"
            )
        scrip.write(path, scrip.Read(self.source, self.target, self.method, self.weights))

    def __call__(self, field: Any, missing: str = "refuse", least: float = LEAST) -> Any:
        """A field ``[..., *source.shape]`` on the target, ``[..., *target.shape]``.

        Parameters
        ----------
        field
            A numpy array, or a torch tensor: differentiable, on any device.
        missing
            What becomes of values that are not finite: ``"refuse"`` them, ``"propagate"`` them to every
            target point that reads one, or ``"renormalise"`` the weights of those that are there.
        least
            The share of a target point's weights, or of its cell's area, that must be there: below it the
            target is missing (NaN). 0 keeps whatever is covered at all, as CDO does.

        Raises
        ------
        ValueError
            If the shape is not the source's, values are missing and refused, or integers would be averaged.
        """
        if missing not in MISSING:
            raise ValueError(f"missing must be one of {MISSING}, got {missing!r}")
        if not 0.0 <= real("least", least) <= 1.0:
            raise ValueError(f"least must be a share, from 0 to 1, got {least!r}")
        if hasattr(field, "dims"):
            raise TypeError(
                f"field must be a numpy array or a torch tensor, got {type(field).__name__}, whose "
                "coordinates "
                "would not be looked at: ga.xarray.regrid(field, target) looks, or pass field.values"
            )
        if not hasattr(field, "shape"):
            got = type(field).__name__
            raise TypeError(f"field must be a numpy array or a torch tensor, got {got}: np.asarray(field)")
        rank = len(self.source.shape)
        if tuple(field.shape[field.ndim - rank :]) != self.source.shape:
            raise ValueError(
                f"field of shape {tuple(field.shape)} does not end with the shape {self.source.shape} of the "
                f"source, {self.source!r}"
            )
        xp = torch if isinstance(field, torch.Tensor) else np
        lead = tuple(field.shape[: field.ndim - rank])
        flat = field.reshape(-1, self.source.size)
        if self.method not in OF_LABELS and not _is_real(flat):
            raise ValueError(
                f"the field holds {flat.dtype}, labels or counts whose average is none of them: "
                "method='nearest' or method='majority'; or make real numbers of it, "
                f"field.{'astype(float)' if xp is np else 'double()'}"
            )
        there = xp.isfinite(flat)
        if missing == "refuse" and not bool(there.all()):
            raise ValueError(
                f"{int((~there).sum())} of {there.size if xp is np else there.numel()} values are missing or "
                "infinite: missing='renormalise' leaves them out of the means, missing='propagate' lets them "
                "through"
            )
        if self.method == "nearest":
            out = flat[:, self.matrix.indices]
        elif self.method == "majority":
            out = self._majority(flat)
        else:
            out = self._mean(flat, there, missing, float(least), xp)
        return out.reshape(*lead, *self.target.shape)

    def _mean(self, flat: Any, there: Any, missing: str, least: float, xp: Any) -> Any:
        """Sums by the weights; NaN where less than ``least`` of a target is there."""
        covered = self.weights.covered
        if missing == "propagate" or bool(there.all()):
            out = self._apply(self.matrix, flat)
            gone = covered < max(least - 1e-6, 1e-12)
            if not gone.any():
                return out
            hidden = gone if xp is np else torch.as_tensor(gone, device=flat.device)
            return xp.where(hidden, xp.full_like(out, xp.nan), out)
        known = xp.where(there, flat, xp.zeros_like(flat))
        share = self._apply(self._positive, there.astype(flat.dtype) if xp is np else there.to(flat))
        part = covered.astype(np.float64) if xp is np else torch.as_tensor(covered).to(flat)
        enough = (share * part if (covered < 1.0 - COVERED).any() else share) >= max(least - 1e-6, 1e-12)
        partial = self._apply(self._positive, known)
        if self.weights.normalisation == "destarea":
            partial = partial * part
        else:
            partial = partial / xp.where(enough, share, xp.ones_like(share))
        # the convex part of the weights, where values are missing: signs would magnify what is left
        partial = xp.where(share > 1 - 1e-6, self._apply(self.matrix, known), partial)
        partial = xp.where(enough, partial, xp.full_like(partial, xp.nan))
        return partial.astype(_computed(flat)) if xp is np else partial

    def _majority(self, flat: Any) -> Any:
        """The value with the largest share of each target point's weights, for ``flat [n, source.size]``."""
        given = flat.cpu().numpy() if isinstance(flat, torch.Tensor) else flat
        out = np.empty((len(given), self.target.size), given.dtype)
        for row, values in zip(out, given, strict=True):
            labels, codes = np.unique(values, return_inverse=True)
            best = np.full(self.target.size, -1.0)
            for code, label in enumerate(labels):
                share = self.matrix @ (codes == code).astype(np.float64)
                wins = share > best + 1e-9  # labels ascend: of equal shares the smallest stays
                row[wins], best[wins] = label, share[wins]
        return torch.from_numpy(out).to(flat.device) if isinstance(flat, torch.Tensor) else out

    def _measure(self, grid: SphericalGrid) -> NDArray[np.float64]:
        """What the method keeps sums of: areas of cells that are covered, or quadrature weights."""
        if self.method != "conservative":
            return np.asarray(grid.weights).ravel()
        used = self.weights.used if grid is self.source else self.weights.covered
        if grid is self.target and self.weights.normalisation == "destarea":
            used = np.ones_like(used)
        return np.asarray(grid.cell_areas).ravel() * used

    @cached_property
    def conservation_error(self) -> float:
        """The largest change of the global mean of a field with values between 0 and 1.

        Of conservative weights, of the mean over the cells that each grid covers of the other, by area.
        Smooth fields change far less; :meth:`conservation` measures it for one.
        """
        given = self._measure(self.source)
        gained = self.matrix.T @ self._measure(self.target) - given
        return float(np.abs(gained).sum() / (2.0 * given.sum()))

    def conservation(self, field: Any) -> Any:
        """Global mean of ``field [..., *source.shape]`` after regridding, less the one before."""
        if self.method != "conservative":
            return self.target.mean(self(field)) - self.source.mean(field)
        ours, theirs = self._measure(self.source), self._measure(self.target)
        out = self(field, least=0.0)
        flat, moved = field.reshape(-1, len(ours)), out.reshape(-1, len(theirs))
        reached = self.weights.covered > 0
        if isinstance(field, torch.Tensor):
            moved = torch.where(torch.as_tensor(reached, device=field.device), moved, torch.zeros_like(moved))
            sums = moved @ moved.new_tensor(theirs) - flat @ flat.new_tensor(ours)
        else:
            sums = np.where(reached, moved, 0.0) @ theirs - flat @ ours
        return (sums / ours.sum()).reshape(field.shape[: field.ndim - len(self.source.shape)])

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and of what says how much they cover."""
        held = (self.matrix.data, self.matrix.indices, self.matrix.indptr)
        return sum(a.nbytes for a in (*held, self.weights.covered, self.weights.used))

    @cached_property
    def _positive(self) -> csr_array:
        positive = self.matrix.maximum(0.0).tocsr()
        sums = positive.sum(axis=1)
        return csr_array(positive.multiply(1.0 / np.where(sums > 0, sums, 1.0)[:, None]))

    @cached_property
    def _modules(self) -> dict[int, WeightedSum]:
        return {}

    def _apply(self, matrix: csr_array, flat: Any) -> Any:
        if not isinstance(flat, torch.Tensor):
            return apply(matrix, flat.astype(_computed(flat), copy=False))
        module = self._modules.setdefault(id(matrix), WeightedSum(matrix))
        return module.to(flat.device, flat.dtype)(flat.T[None])[0].T

    def __repr__(self) -> str:
        if self.method in OF_LABELS:
            return f"{self.method} from {self.source!r} to {self.target!r}"
        error = f"{self.conservation_error:.2g} of the range of its values"
        if self.method == "conservative":
            kept = f"the global mean by cell areas changes by at most {error}"
        else:
            kept = (
                f"the global mean of the worst possible field changes by at most {error}, of smooth fields "
            )
            kept += "far less"
        areas = np.asarray(self.target.cell_areas).ravel()
        covered = (areas * self.weights.covered).sum() / areas.sum()
        if self.method == "conservative" and covered < 1.0 - COVERED:
            kept = f"covers {covered:.2%} of the target's area; {kept.replace('global ', '')}"
        by = f", {self.weights.normalisation}" if self.method == "conservative" else ""
        return f"{self.method}{by} from {self.source!r} to {self.target!r}; {kept}"


def _computed(flat: NDArray[Any]) -> np.dtype[Any]:
    """The type of means: float32 for what is shorter, float64 for what is longer."""
    return np.dtype(np.float32) if flat.dtype.itemsize <= 4 else np.dtype(np.float64)


def _check_within(source: SphericalGrid, target: SphericalGrid) -> None:
    """Refuse targets that a region does not reach: what is said of them would be made up."""
    counted = source.counted
    distance, nearest = cKDTree(source.xyz.reshape(-1, 3)[counted]).query(target.xyz.reshape(-1, 3))
    outside = int((distance > REACH * np.sqrt(source.weights.reshape(-1)[counted[nearest]])).sum())
    if outside:
        raise RegionError(
            f"{outside} of the {target.size} points of the {target!r} lie outside of the {source!r}: take a "
            "target within it, such as a slice of the grid, "
            "ga.grids.regional(target.lat_axis[rows], target.lon_axis[columns]), or "
            "method='conservative', which leaves them missing"
        )


def _is_real(field: Any) -> bool:
    """Whether a numpy array or torch tensor holds floating-point numbers."""
    if isinstance(field, torch.Tensor):
        return field.is_floating_point()
    return bool(np.issubdtype(field.dtype, np.floating))
