"""Files of weights by the conventions of SCRIP (Jones 1998) and ESMF: written by the first, read by both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray
from numpy.typing import NDArray
from scipy.sparse import csr_array

from geoattn._files import whole
from geoattn.grids import SphericalGrid, recognise, regional
from geoattn.grids.corners import corner_places
from geoattn.grids.latlon import LatLonGrid
from geoattn.grids.outlines import NoCells
from geoattn.grids.points import Points
from geoattn.grids.regional_latlon import RegionalLatLon
from geoattn.xarray.regridding.weights import Weights

Floats = NDArray[np.float64]

#: SCRIP's name → ESMF's; of the source grid's and of the target's
_ESMF = {"src_address": "col", "dst_address": "row", "remap_matrix": "S"}
_ESMF_GRID = {"center_lat": "yc", "center_lon": "xc", "corner_lat": "yv", "corner_lon": "xv", "frac": "frac"}
_METHODS = {
    "conservative": "Conservative remapping",
    "average": "Area-weighted averages of nearest points",
    "interpolation": "Bilinear remapping",
    "nearest": "Nearest neighbor remapping",
}


class OtherGridError(ValueError):
    """A file's weights are between other grids than those that are given."""


class Read(NamedTuple):
    """What a file of weights holds."""

    source: SphericalGrid
    target: SphericalGrid
    method: str
    weights: Weights


def write(path: str | os.PathLike[str], content: Read) -> None:
    """Write weights as SCRIP has them: addresses from one, grids row by row, angles in degrees."""
    matrix = content.weights.matrix.tocoo()
    found = xarray.Dataset(
        {
            "src_address": ("num_links", (matrix.coords[1] + 1).astype(np.int32)),
            "dst_address": ("num_links", (matrix.coords[0] + 1).astype(np.int32)),
            "remap_matrix": (("num_links", "num_wgts"), matrix.data[:, None]),
        },
        attrs={
            "title": f"{content.method} from {content.source!r} to {content.target!r}",
            "normalization": content.weights.normalisation,
            "map_method": _METHODS[content.method],
            "conventions": "SCRIP",
            "source_grid": repr(content.source),
            "dest_grid": repr(content.target),
            "geoattn_method": content.method,
        },
    )
    for side, grid, frac in (
        ("src", content.source, content.weights.used),
        ("dst", content.target, content.weights.covered),
    ):
        found = found.assign(_grid(f"{side}_grid", grid, frac))
    encoding = {name: {"_FillValue": None} for name in found.variables}
    with whole(path) as partial:
        found.to_netcdf(partial, format="NETCDF3_64BIT", engine="scipy", encoding=encoding)


def _grid(name: str, grid: SphericalGrid, frac: Floats) -> dict[str, xarray.DataArray]:
    n = grid.size
    sizes = np.array(
        grid.shape[::-1] if len(grid.shape) == 2 else (n,), np.int32
    )  # the fastest first, as in Fortran
    degrees, area = {"units": "degrees"}, {"units": "square radians"}
    found: dict[str, tuple[Any, Any, dict[str, str]]] = {
        "dims": (f"{name}_rank", sizes, {}),
        "center_lat": (f"{name}_size", np.ravel(grid.lat), degrees),
        "center_lon": (f"{name}_size", np.ravel(grid.lon), degrees),
        "imask": (f"{name}_size", np.ones(n, np.int32), {"units": "unitless"}),
        "area": (f"{name}_size", np.ravel(grid.cell_areas), area),
        "frac": (f"{name}_size", frac, {"units": "unitless"}),
    }
    try:
        lat, lon = corner_places(grid)
    except NoCells:
        pass  # pointwise methods need none
    else:
        found["corner_lat"] = ((f"{name}_size", f"{name}_corners"), lat, degrees)
        found["corner_lon"] = ((f"{name}_size", f"{name}_corners"), lon, degrees)
    return {f"{name}_{key}": xarray.DataArray(x, dims=d, attrs=a) for key, (d, x, a) in found.items()}


def read(
    path: str | os.PathLike[str], source: SphericalGrid | None = None, target: SphericalGrid | None = None
) -> Read:
    """Weights and grids of a SCRIP or ESMF file; grids that are given stand for the file's."""
    with xarray.open_dataset(path, decode_times=False, mask_and_scale=False) as opened:
        ds = opened.load()
    names = {name: name if name in ds else theirs for name, theirs in _ESMF.items()}
    absent = [name for name, found in names.items() if found not in ds]
    if absent:
        raise ValueError(
            f"{path} holds no {' and no '.join(absent)}, nor ESMF's col, row and S: it is no file of "
            "weights. Make one, ga.xarray.Regridder(source, target, 'conservative').save(path)"
        )
    place = Path(os.fspath(path)).name
    grids, fracs = [], []
    for side, letter, given in (("src", "a", source), ("dst", "b", target)):
        grid = _described(ds, f"{side}_grid", letter, place, given)
        frac = _variable(ds, f"{side}_grid", letter, "frac")
        if frac is not None and frac.shape != (grid.size,):
            raise ValueError(f"{place}: {side}_grid_frac has {frac.shape} entries for {grid.size} cells")
        grids.append(grid)
        fracs.append(None if frac is None else np.asarray(frac.values, np.float64))
    matrix = _matrix(ds, names, place, grids[1], grids[0])
    sums = matrix.sum(axis=1)
    normalisation = str(ds.attrs.get("normalization", "fracarea")).lower()
    if normalisation not in ("fracarea", "destarea"):
        raise ValueError(
            f"{place}: weights of normalization {normalisation!r} are areas, no shares of them; write them "
            "with 'fracarea' or 'destarea', as by cdo gencon or "
            "ga.xarray.Regridder(source, target, 'conservative')"
        )
    method = ds.attrs.get("geoattn_method") or _method(ds)
    covered = fracs[1]
    if covered is None:
        covered = (sums > 0).astype(np.float64) if normalisation == "fracarea" else sums
    if method != "conservative":
        covered = np.where(np.diff(matrix.indptr) > 0, 1.0, 0.0)
    used = np.ones(grids[0].size) if fracs[0] is None else fracs[0]
    return Read(grids[0], grids[1], method, Weights(matrix, covered, used, normalisation))


def _method(ds: xarray.Dataset) -> str:
    """What another program's ``map_method`` is called here."""
    told = str(ds.attrs.get("map_method", "conservative")).lower()
    return "conservative" if "conserv" in told else ("nearest" if "nearest" in told else "interpolation")


def _matrix(
    ds: xarray.Dataset, names: dict[str, str], place: str, target: SphericalGrid, source: SphericalGrid
) -> csr_array:
    values = np.asarray(ds[names["remap_matrix"]].values, np.float64)
    if values.ndim == 2:
        if values.shape[1] > 1 and np.any(values[:, 1:]):
            raise ValueError(
                f"{place}: weights of second order, {values.shape[1]} for each link, multiply gradients "
                "too; take those of first order, such as cdo gencon's"
            )
        values = values[:, 0]
    rows, columns = (np.asarray(ds[names[n]].values).astype(np.int64) for n in ("dst_address", "src_address"))
    if not rows.shape == columns.shape == values.shape:
        raise ValueError(
            f"{place}: {rows.size} target addresses, {columns.size} source addresses and {values.size} "
            "weights do not belong together"
        )
    for name, addresses, grid in (("dst", rows, target), ("src", columns, source)):
        outside = (addresses < 1) | (addresses > grid.size)
        if outside.any():
            raise ValueError(
                f"{place}: {outside.sum()} {name} addresses, the first {addresses[outside][0]}, are not "
                f"among the {grid.size} cells of the {grid!r}, counted from 1"
            )
    if not np.isfinite(values).all():
        raise ValueError(f"{place}: {(~np.isfinite(values)).sum()} weights are not finite")
    matrix = csr_array((values, (rows - 1, columns - 1)), shape=(target.size, source.size))
    matrix.sum_duplicates()
    return matrix


def _variable(ds: xarray.Dataset, name: str, letter: str, key: str) -> xarray.DataArray | None:
    for found in (f"{name}_{key}", f"{_ESMF_GRID[key]}_{letter}"):
        if found in ds:
            return ds[found]
    return None


def _described(
    ds: xarray.Dataset, name: str, letter: str, place: str, given: SphericalGrid | None
) -> SphericalGrid:
    """The grid whose centres and corners a file has, or the given one where they agree."""
    centres = [_variable(ds, name, letter, key) for key in ("center_lat", "center_lon")]
    side = "source" if letter == "a" else "target"
    if centres[0] is None or centres[1] is None:
        if given is None:
            raise ValueError(
                f"{place} does not describe the {side} grid, as xESMF's files do not: give both, "
                "ga.xarray.Regridder.open(path, source=…, target=…)"
            )
        return given
    lat, lon = (_degrees(centre) for centre in centres if centre is not None)
    if given is not None:
        if given.size != lat.size:
            raise OtherGridError(
                f"{place} is for {lat.size} {side} points, but the {given!r} has {given.size}: leave it out, "
                "ga.xarray.Regridder.open(path), to see which grid the file is for"
            )
        apart = np.abs((lon - np.ravel(given.lon) + 180.0) % 360.0 - 180.0) * np.cos(np.radians(lat))
        apart = np.hypot(apart, lat - np.ravel(given.lat))
        if apart.max() > 1e-2 * np.degrees(np.sqrt(np.ravel(given.weights)[apart.argmax()])):
            raise OtherGridError(
                f"{place}: the {side} point {int(apart.argmax())} lies {apart.max():.3g}° from that "
                f"of the {given!r}: it is another grid, or in another order; leave it out, "
                "ga.xarray.Regridder.open(path)"
            )
        return given
    sizes = ds[f"{name}_dims"].values if f"{name}_dims" in ds else np.array([lat.size])
    return _from_points(ds, name, letter, lat, lon, tuple(int(n) for n in sizes[::-1]))


def _from_points(
    ds: xarray.Dataset, name: str, letter: str, lat: Floats, lon: Floats, shape: tuple[int, ...]
) -> SphericalGrid:
    if len(shape) == 2 and np.prod(shape) == lat.size:
        rows, columns = lat.reshape(shape), lon.reshape(shape)
        if np.ptp(rows, axis=1).max() < 1e-9 and np.ptp(columns, axis=0).max() < 1e-9:
            axes = {"latitude": ("latitude", rows[:, 0]), "longitude": ("longitude", columns[0])}
            grid = recognise(xarray.Dataset(coords=axes)).grid
            if isinstance(grid, LatLonGrid | RegionalLatLon):
                return grid
    points = {"latitude": ("values", lat), "longitude": ("values", lon)}
    corners = [_variable(ds, name, letter, key) for key in ("corner_lat", "corner_lon")]
    if corners[0] is None or corners[1] is None:
        return recognise(xarray.Dataset(coords=points)).grid
    try:
        grid = recognise(xarray.Dataset(coords=points)).grid
    except ValueError:  # a region, or points at one place: the corners tell
        pass
    else:
        if not isinstance(grid, Points):
            return grid
    around = [_degrees(corner) for corner in corners if corner is not None]
    return regional(lat, lon, corners=(np.clip(around[0], -90.0, 90.0), around[1]))


def _degrees(values: xarray.DataArray) -> Floats:
    """Angles in degrees; SCRIP's units are degrees or radians."""
    angles = np.asarray(values.values, np.float64)
    return np.degrees(angles) if str(values.attrs.get("units", "degrees")).startswith("rad") else angles
