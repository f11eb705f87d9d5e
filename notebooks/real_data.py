"""Real fields that packages ship, fetched by pip and kept in geoattn's cache.

    python notebooks/real_data.py    # fetches all, some 60 MB, and prints where they are

| name | what | package | licence |
|---|---|---|---|
| ``era5`` | ten members of ERA5, z and t at 850 and 500 hPa, four times, 61×120 | the source distribution of cfgrib 0.9.15.1 (its tests) | package Apache 2.0; generated using Copernicus Climate Change Service information, modified (2017) |
| ``orca2`` | potential temperature of NEMO's ORCA2 ocean, its mesh with corners and its land | iris-sample-data 2.5.2 | UK Open Government Licence |
| ``glosea4`` | surface temperature of the seasonal forecast GloSea4, monthly means of an ensemble, 145×192 | iris-sample-data 2.5.2 | UK Open Government Licence |
| ``land`` | the share of land in boxes of 1/4°, from the mask at 30 arc seconds after NOAA's GLOBE | global-land-mask 1.0.0 | MIT |
| ``relief`` | the mean height of the ground in boxes of 1/4°, the sea as 0 m and inner Greenland as the rock under its ice, from pvlib's map of 5' after Mapzen's terrain tiles | pvlib 0.16.1 | package BSD 3-Clause; sources as `pvlib.location.lookup_altitude` lists them, among them ETOPO1 (NOAA), GMTED2010 and SRTM (USGS) |
"""  # noqa: E501

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from geoattn._files import cache_folder, whole


class Shipped(NamedTuple):
    """A file inside a package."""

    package: str
    version: str
    member: str
    source: bool  # in the source distribution only


SHIPPED = {
    "era5": Shipped("cfgrib", "0.9.15.1", "tests/sample-data/era5-levels-members.nc", True),
    "orca2": Shipped("iris-sample-data", "2.5.2", "iris_sample_data/sample_data/orca2_votemper.nc", False),
    "glosea4": Shipped("iris-sample-data", "2.5.2", "iris_sample_data/sample_data/GloSea4/", False),
    "land": Shipped(
        "global-land-mask", "1.0.0", "global_land_mask/globe_combined_mask_compressed.npz", False
    ),
    "relief": Shipped("pvlib", "0.16.1", "pvlib/data/Altitude.h5", False),
}


#: what our own file of it is called, where it is not as it was shipped
CONVERTED = {"land": "land.npy", "glosea4": "glosea4.nc", "relief": "relief.npy"}


class NotThere(RuntimeError):
    """The file is not kept here, and pip could not fetch it."""


def kept(name: str) -> Path | None:
    """Where the file is kept, or None."""
    path = _place(name)
    return path if path.exists() else None


def fetch(name: str) -> Path:
    """The file, fetched where it is not kept yet.

    Raises
    ------
    NotThere
        If pip cannot fetch the package, for instance without a network; pip's own words are told.
    """
    path = _place(name)
    if path.exists():
        return path
    shipped = SHIPPED[name]
    options = ["--no-binary", shipped.package, "--no-build-isolation"] if shipped.source else []
    wanted = f"{shipped.package}=={shipped.version}"
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        run = subprocess.run([*command, *options, "--dest", folder, wanted], capture_output=True, text=True)
        if run.returncode:
            raise NotThere(f"pip did not fetch {wanted}: {run.stderr.strip().splitlines()[-1:]}")
        (archive,) = Path(folder).iterdir()
        if name == "glosea4":
            members = _members(archive, shipped.member)
        else:
            content = _read(archive, shipped.member)
    if name == "land":
        content = _land(content)
    if name == "relief":
        content = _relief(content)
    with whole(path) as partial:
        if name == "glosea4":
            _ensemble(members).to_netcdf(partial)
        else:
            partial.write_bytes(content)
    return path


def _members(archive: Path, folder: str) -> dict[int, bytes]:
    """Number of the member → the content of its file of fields."""
    with zipfile.ZipFile(archive) as wheel:
        names = [name for name in wheel.namelist() if name.startswith(folder) and name.endswith(".pp")]
        return {int(name.rpartition("_")[2][:-3]): wheel.read(name) for name in sorted(names)}


def _fields(content: bytes) -> Iterator[tuple[np.datetime64, np.ndarray, np.ndarray, np.ndarray]]:
    """Months, latitudes, longitudes and values of the fields in a PP file of plain numbers on a lat-lon grid.

    A field is two Fortran records: 45 integers and 19 reals that describe it, and its values (Unified Model
    Documentation Paper F03, section 4). Packed fields, which these are not, are refused.
    """
    place = 0
    while place < len(content):
        records = []
        for _ in range(2):
            (size,) = struct.unpack_from(">i", content, place)
            records.append(content[place + 4 : place + 4 + size])
            place += size + 8
        told, reals = np.frombuffer(records[0], ">i4", 45), np.frombuffer(records[0], ">f4", 19, 180)
        year, month = told[:2]
        code, rows, columns, packing = told[[15, 17, 18, 20]]
        if code != 1 or packing != 0:
            raise NotThere(
                f"a field of LBCODE {code} and LBPACK {packing} is no plain field on a lat-lon grid"
            )
        south, step_north, west, step_east = reals[13:17].astype(float)
        values = np.frombuffer(records[1], ">f4", rows * columns).reshape(rows, columns).astype(np.float32)
        lat, lon = south + step_north * np.arange(1, rows + 1), west + step_east * np.arange(1, columns + 1)
        yield np.datetime64(f"{year:04d}-{month:02d}-01", "ns"), lat, lon, values


def _ensemble(members: dict[int, bytes]) -> Any:
    """All members as one data set: realization, time, latitude and longitude."""
    import xarray

    arrays = []
    for number, content in members.items():
        months, lats, lons, fields = zip(*_fields(content), strict=True)
        coords = {
            "time": ("time", np.array(months), {"long_name": "first day of the month that is averaged over"}),
            "latitude": ("latitude", lats[0], {"units": "degrees_north"}),
            "longitude": ("longitude", lons[0], {"units": "degrees_east"}),
            "realization": number,
        }
        attrs = {"standard_name": "surface_temperature", "units": "K"}
        dims = ("time", "latitude", "longitude")
        arrays.append(xarray.DataArray(np.stack(fields), coords, dims, "surface_temperature", attrs))
    return xarray.concat(arrays, "realization", join="inner").to_dataset()


def _land(content: bytes, side: int = 30) -> bytes:
    """The share of land in boxes of ``side²`` places, ``[720, 1440]``, read a few rows at a time."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open("mask.npy") as file:
        version = np.lib.format.read_magic(file)
        assert version == (1, 0)
        (rows, columns), order, dtype = np.lib.format.read_array_header_1_0(file)
        assert not order
        share = np.empty((rows // side, columns // side), np.float32)
        for row in share:
            sea = np.frombuffer(file.read(side * columns * dtype.itemsize), dtype)
            row[:] = 1.0 - sea.reshape(side, -1, side).mean((0, 2))
    kept = io.BytesIO()
    np.save(kept, share)
    return kept.getvalue()


def _relief(content: bytes, side: int = 3) -> bytes:
    """Mean heights in metres in boxes of ``side²`` places, ``[720, 1440]``.

    A byte counts steps of 28 m from −450 m, and is 255 at sea.
    """
    import netCDF4

    with netCDF4.Dataset("relief", memory=content) as file:
        steps = np.ma.getdata(file["Altitude"][:])
    heights = np.where(steps == 255, 0.0, steps * 28.0 - 450.0)
    rows, columns = (n // side for n in heights.shape)
    kept = io.BytesIO()
    np.save(kept, heights.reshape(rows, side, columns, side).mean((1, 3)).astype(np.float32))
    return kept.getvalue()


def _place(name: str) -> Path:
    shipped = SHIPPED[name]
    ending = CONVERTED.get(name, Path(shipped.member).name)
    return cache_folder("real-data") / f"{shipped.package}-{shipped.version}-{ending}"


def _read(archive: Path, member: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as source:
        for entry in source.getmembers():
            if entry.name.endswith("/" + member):
                file = source.extractfile(entry)
                assert file is not None
                return file.read()
    raise NotThere(f"{archive.name} holds no {member}")


if __name__ == "__main__":
    for each in SHIPPED:
        print(f"{each}: {fetch(each)}")
