"""Axes of projections and rotated poles: latitudes and longitudes by formulas of their own."""

import sys

import numpy as np
import pytest
from test_regional import girard, lambert, turned

import geoattn as ga

xr = pytest.importorskip("xarray", reason="files are data sets")


def projected(mapping, x, y, names=("x", "y"), units="m", **attrs):
    """A file with axes of a projection only."""
    standard = (
        ("grid_longitude", "grid_latitude")
        if units == "degrees"
        else (
            "projection_x_coordinate",
            "projection_y_coordinate",
        )
    )
    coords = {
        name: ((name,), values, {"standard_name": kind, "units": units} | attrs)
        for name, values, kind in zip(names, (x, y), standard, strict=True)
    }
    field = ((names[1], names[0]), np.zeros((len(y), len(x))), {"grid_mapping": "crs"})
    return xr.Dataset({"t": field, "crs": ((), 0, mapping)}, coords)


def rotated(pole=(39.25, -162.0), **more):
    mapping = {
        "grid_mapping_name": "rotated_latitude_longitude",
        "grid_north_pole_latitude": pole[0],
        "grid_north_pole_longitude": pole[1],
        **more,
    }
    x, y = np.arange(-15.0, 16.0, 1.5), np.arange(-10.0, 11.0, 1.0)
    return projected(mapping, x, y, ("rlon", "rlat"), "degrees"), x, y


def test_rotated_poles_need_no_package():
    ds, x, y = rotated()
    report = ga.grids.recognise(ds)
    assert "axes 'rlat' and 'rlon' of rotated_latitude_longitude in 'crs'" in str(report)
    assert report.dims == ("rlat", "rlon")
    # the middle of EURO-CORDEX's grid, and the pole itself, which lies on its meridian 0
    middle = tuple(int(n) // 2 for n in report.grid.shape)
    assert (report.grid.lat[middle], report.grid.lon[middle]) == pytest.approx((50.75, 18.0))
    expected = turned(*np.meshgrid(y, x, indexing="ij"), 90 - 39.25)
    np.testing.assert_allclose(report.grid.lat, expected[0], atol=1e-10)
    np.testing.assert_allclose(
        (report.grid.lon - 18.0 + 180) % 360 - 180, (expected[1] + 180) % 360 - 180, atol=1e-9
    )
    exact = np.radians(x[-1] - x[0] + 1.5) * 2 * np.sin(np.radians(y[-1] + 0.5))
    assert report.grid.weights.sum() == pytest.approx(exact, rel=1e-4)
    assert report.grid.kind == "curvilinear"


@pytest.mark.parametrize("pole", [(90.0, 0.0), (60.0, 20.0), (-30.0, 100.0)])
def test_the_true_pole_lies_where_the_mapping_says(pole):
    from geoattn.grids.projections import inverse

    mapping = rotated(pole, north_pole_grid_longitude=25.0)[0]["crs"].attrs
    lat, lon = inverse(mapping)(np.array([25.0, 7.0]), np.array([pole[0], 90.0]))
    np.testing.assert_allclose(lat, [90.0, pole[0]], atol=1e-6)
    if pole[0] < 90:
        np.testing.assert_allclose(lon[1], pole[1] % 360, atol=1e-9)
    else:
        east = inverse(mapping)(np.array([25.0 + 40]), np.array([10.0]))
        np.testing.assert_allclose((east[1] - 180.0 - pole[1]) % 360, 40.0)


def test_a_variable_carries_its_mapping_or_asks_for_the_data_set():
    ds = rotated()[0]
    with pytest.raises(
        ValueError, match=r"grid mapping 'crs' is not among the coordinates: pass the Dataset"
    ):
        ga.grids.recognise(ds["t"])
    assert ga.grids.from_xarray(ds.set_coords("crs")["t"]) == ga.grids.from_xarray(ds)


def test_bounds_of_the_axes_end_the_cells():
    ds, x, y = rotated()
    for name, values, half in (("rlon", x, 0.6), ("rlat", y, 0.5)):
        ds[name].attrs["bounds"] = f"{name}_bnds"
        edges = np.append(values - half, values[-1] + half)
        ds[f"{name}_bnds"] = ((name, "bnds"), np.stack((edges[:-1], edges[1:]), -1))
    grid = ga.grids.from_xarray(ds)
    exact = np.radians(x[-1] - x[0] + 1.2) * 2 * np.sin(np.radians(y[-1] + 0.5))
    assert grid.weights.sum() == pytest.approx(exact, rel=1e-4)


LAMBERT = {
    "grid_mapping_name": "lambert_conformal_conic",
    "standard_parallel": 38.5,
    "longitude_of_central_meridian": -97.5,
    "latitude_of_projection_origin": 38.5,
    "earth_radius": 6371000.0,
}


@pytest.mark.parametrize("units", ["m", "km"])
def test_a_conformal_projection_by_pyproj(units):
    pytest.importorskip("pyproj", reason="projections other than rotated poles need pyproj")
    lat, lon, scale = lambert()
    x, y = ((np.arange(n) - (n - 1) / 2) * 90.0 for n in (30, 20))
    factor = 1e3 if units == "m" else 1.0
    report = ga.grids.recognise(projected(LAMBERT, x * factor, y * factor, units=units))
    assert "of lambert_conformal_conic in 'crs'" in report.basis
    np.testing.assert_allclose(report.grid.lat, lat, atol=1e-8)
    np.testing.assert_allclose(report.grid.lon, lon % 360, atol=1e-8)
    np.testing.assert_allclose(report.grid.weights, (90.0 / (6371.0 * scale)) ** 2, rtol=5e-4)
    corners = report.grid.corners
    around = np.concatenate((corners[0, :, 0], corners[:, -1, 1], corners[-1, ::-1, 2], corners[::-1, 0, 3]))
    np.testing.assert_allclose(report.grid.weights.sum(), girard(around), rtol=1e-10)


def test_a_missing_pyproj_is_named_with_its_extra(refused_by, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyproj", None)
    lat, lon, _ = lambert()
    ds = projected(LAMBERT, np.arange(30) * 9e4, np.arange(20) * 9e4)
    with refused_by("grids/projections.py", "needs pyproj: ") as said:
        ga.grids.recognise(ds)
    said.says('pip install "geoattn[projections]"')
    given = said.run("ds.assign_coords(", ds=ds, lat=lat, lon=lon)
    assert ga.grids.from_xarray(given) == ga.grids.regional(lat, lon)


def test_mappings_that_pyproj_does_not_know(refused_by):
    pytest.importorskip("pyproj", reason="it says what it knows")
    lat, lon, _ = lambert()
    ds = projected({"grid_mapping_name": "flat_as_a_pancake"}, np.arange(30) * 9e4, np.arange(20) * 9e4)
    with refused_by("grids/projections.py", "pyproj makes nothing of the grid mapping") as said:
        ga.grids.recognise(ds)
    given = said.run("ds.assign_coords(", ds=ds, lat=lat, lon=lon)
    assert ga.grids.from_xarray(given).shape == (20, 30)


def test_axes_that_turn(refused_by):
    ds = rotated()[0].isel(rlon=[0, 2, 1, *range(3, 21)])
    with refused_by("grids/from_projection.py", "must run in one direction through at least") as said:
        ga.grids.recognise(ds)
    assert ga.grids.from_xarray(said.run("ds.sortby(", ds=ds)) == ga.grids.from_xarray(rotated()[0])


def test_forecasts_of_projections_are_written_back():
    ds = rotated()[0].expand_dims(time=np.array(["2001-01-01", "2001-01-02"], "datetime64[ns]"))
    ds["t"] = ds["t"] + 1.0
    schema = ga.xarray.Schema.of(ds, ["t"])
    back = ga.xarray.to_xarray(ga.xarray.to_tensor(ds, schema), schema, ds)
    xr.testing.assert_identical(back["t"], ds["t"])
