"""Small stores of one made-up atmosphere and ocean, each as a well-known source writes them.

    python examples/climate_stores.py FOLDER

The temperature of two levels, a sea surface temperature with NaN over land, and the height of the land:
waves that travel eastward, so that there is something to forecast.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

import geoattn as ga

HOURS = np.timedelta64(1, "h")


def fields(lat: np.ndarray, lon: np.ndarray, times: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The variables at points of one shape, in time: ``[times, 2, *shape]`` and ``[times, *shape]``."""
    lat, lon = np.radians(lat), np.radians(lon)
    cos = np.cos(lat)
    x, y, z = cos * np.cos(lon), cos * np.sin(lon), np.sin(lat)
    random = np.random.default_rng(seed)
    phase = np.arange(times).reshape(-1, *(1 for _ in lat.shape)) / 4 + random.uniform(0, 6)
    wave = cos**3 * np.cos(3 * lon - phase) + 0.5 * cos**2 * np.sin(2 * lon - 0.6 * phase + 2 * z)
    height = np.maximum(0, 900 * (np.sin(2 * x + 1) * np.cos(3 * y) + z**2 - 0.6))
    noise = 0.2 * random.standard_normal((times, 2, *lat.shape))
    temperature = np.stack((285 - 30 * z**2 + 6 * wave, 255 - 20 * z**2 + 9 * wave), axis=1) + noise
    sea = np.where(height > 0, np.nan, 300 - 28 * z**2 + 2 * np.roll(wave, 1, axis=0))
    return {name: v.astype(np.float32) for name, v in [("t", temperature), ("sst", sea), ("z", height)]}


def dates(times: int) -> np.ndarray:
    """Every six hours from the start of 2001."""
    return np.datetime64("2001-01-01", "ns") + 6 * HOURS * np.arange(times)


def era5(times: int) -> xr.Dataset:
    """From north to south, 0° to 360°, both poles; packed."""
    lat, lon = np.linspace(90, -90, 19), np.arange(0, 360, 10.0)
    data = fields(*np.meshgrid(lat, lon, indexing="ij"), times)
    ds = xr.Dataset(
        {
            "t": (("time", "level", "latitude", "longitude"), data["t"], {"units": "K"}),
            "sst": (("time", "latitude", "longitude"), data["sst"], {"units": "K"}),
            "z": (("latitude", "longitude"), data["z"], {"units": "m", "long_name": "height of the land"}),
        },
        {
            "time": dates(times),
            "level": ("level", [850, 500], {"units": "millibars", "long_name": "pressure_level"}),
            "latitude": ("latitude", lat.astype(np.float32), {"units": "degrees_north"}),
            "longitude": ("longitude", lon.astype(np.float32), {"units": "degrees_east"}),
        },
        {"Conventions": "CF-1.6"},
    )
    ds.t.encoding = {"dtype": "int16", "scale_factor": 0.004, "add_offset": 260.0, "_FillValue": -32767}
    return ds


def weatherbench2(times: int) -> xr.Dataset:
    """Longitude before latitude, from south to north, cell centres; no attributes."""
    lat, lon = np.linspace(-90, 90, 33)[1::2], np.arange(0, 360, 11.25)
    data = fields(*np.meshgrid(lat, lon, indexing="ij"), times)
    dims = ("longitude", "latitude")
    return xr.Dataset(
        {
            "temperature": (("time", "level", *dims), data["t"].swapaxes(-1, -2)),
            "sea_surface_temperature": (("time", *dims), data["sst"].swapaxes(-1, -2)),
            "geopotential_at_surface": (dims, 9.81 * data["z"].T),
        },
        {"time": dates(times), "level": [850, 500], "latitude": lat, "longitude": lon},
    )


def cmip(times: int) -> xr.Dataset:
    """Cell centres from −180° to 180° with bounds, pressure in Pa, a calendar without leap years."""
    lat, lon = np.arange(-85, 90, 10.0), np.arange(-175, 180, 10.0)
    data = fields(*np.meshgrid(lat, lon, indexing="ij"), times)
    names = {"lat": ("latitude", "degrees_north", lat), "lon": ("longitude", "degrees_east", lon)}
    coords = {
        n: (n, v, {"standard_name": name, "units": units, "bounds": f"{n}_bnds"})
        for n, (name, units, v) in names.items()
    }
    coords["plev"] = ("plev", [85000.0, 50000.0], {"standard_name": "air_pressure", "units": "Pa"})
    coords["time"] = xr.date_range("2001-01-01", periods=times, freq="6h", calendar="noleap", use_cftime=True)
    return xr.Dataset(
        {
            "ta": (("time", "plev", "lat", "lon"), data["t"], {"units": "K", "cell_methods": "time: point"}),
            "tos": (("time", "lat", "lon"), data["sst"] - 273.15, {"units": "degC"}),
            "orog": (("lat", "lon"), data["z"], {"units": "m"}),
            "lat_bnds": (("lat", "bnds"), np.stack((lat - 5, lat + 5), axis=1)),
            "lon_bnds": (("lon", "bnds"), np.stack((lon - 5, lon + 5), axis=1)),
        },
        coords,
        {"Conventions": "CF-1.7 CMIP-6.2", "mip_era": "CMIP6"},
    )


def reduced_gaussian(times: int) -> xr.Dataset:
    """One list of points, as cfgrib opens GRIB on an octahedral grid."""
    grid = ga.grids.reduced_gaussian("O8")
    data = fields(grid.lat, grid.lon, times)
    grib = {"GRIB_gridType": "reduced_gg", "GRIB_N": 8}
    return xr.Dataset(
        {
            "t": (("time", "isobaricInhPa", "values"), data["t"], {"units": "K", **grib}),
            "sst": (("time", "values"), data["sst"], {"units": "K", **grib}),
            "orog": (("values",), data["z"], {"units": "m", **grib}),
        },
        {
            "time": dates(times),
            "valid_time": ("time", dates(times)),
            "step": np.timedelta64(0, "ns"),
            "isobaricInhPa": ("isobaricInhPa", [850.0, 500.0], {"units": "hPa", "positive": "down"}),
            "latitude": ("values", grid.lat, {"units": "degrees_north", "standard_name": "latitude"}),
            "longitude": ("values", grid.lon, {"units": "degrees_east", "standard_name": "longitude"}),
        },
        {"GRIB_edition": 2, "GRIB_centre": "ecmf"},
    )


def healpix(times: int) -> xr.Dataset:
    """HEALPix pixels in nested order, declared by a grid mapping."""
    grid = ga.grids.healpix(8)
    data = fields(grid.lat, grid.lon, times)
    crs = {"grid_mapping": "crs"}
    mapping = {"grid_mapping_name": "healpix", "refinement_level": 3, "indexing_scheme": "nested"}
    return xr.Dataset(
        {
            "ta": (("time", "level", "cell"), data["t"], {"units": "K", **crs}),
            "tos": (("time", "cell"), data["sst"], {"units": "K", **crs}),
            "orog": (("cell",), data["z"], {"units": "m", **crs}),
        },
        {
            "time": dates(times),
            "level": ("level", [850, 500], {"units": "hPa", "standard_name": "air_pressure"}),
            "cell": ("cell", np.arange(grid.size), {"standard_name": "healpix_index"}),
            "crs": ((), np.int8(0), mapping),
        },
    )


SOURCES: dict[str, Callable[[int], xr.Dataset]] = {
    "era5": era5,
    "weatherbench2": weatherbench2,
    "cmip": cmip,
    "reduced-gaussian": reduced_gaussian,
    "healpix": healpix,
}


def write(name: str, folder: Path, times: int = 120) -> Path:
    """Write one of the stores, a chunk per time; returns its path."""
    ds = SOURCES[name](times)
    path = folder / f"{name}.zarr"
    chunks = {
        n: {"chunks": tuple(1 if d == "time" else ds.sizes[d] for d in v.dims)}
        for n, v in ds.data_vars.items()
        if "time" in v.dims
    }
    zarr_format = 2 if name == "weatherbench2" else 3
    ds.to_zarr(path, mode="w-", encoding=chunks, zarr_format=zarr_format, consolidated=zarr_format == 2)
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write five small stores in the manner of five sources.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=120, help="six-hourly states in each (%(default)s)")
    options = parser.parse_args(arguments)
    for name in SOURCES:
        print(write(name, options.folder, options.times))
    return 0


if __name__ == "__main__":
    sys.exit(main())
