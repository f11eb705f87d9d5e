"""Arrays of cells as ocean models have them: copies of points, and land whose cells are none."""

import numpy as np
import pytest

import geoattn as ga

xr = pytest.importorskip("xarray", reason="grids are recognised in data sets")


def tripolar_with_land():
    """An array that closes, its first column there again; at two points of land its bounds are no cells."""
    lat, lon = np.meshgrid(np.arange(-50.0, 51.0, 10.0), np.arange(0.0, 375.0, 15.0), indexing="ij")
    lat = lat + 3 * np.sin(np.radians(lon))
    corners = [
        np.stack([of(a, b) for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))], -1)
        for of in (
            lambda a, b: lat - 3 * np.sin(np.radians(lon)) + 5 * a + 3 * np.sin(np.radians(lon + 7.5 * b)),
            lambda a, b: lon + 7.5 * b,
        )
    ]
    field = np.ones(lat.shape)
    land = [(4, 7), (6, 12)]
    for place in land:
        field[place] = np.nan
    corners[0][land[0]], corners[1][land[0]] = 0.0, 0.0  # no area
    corners[1][land[1]] += 40.0  # elsewhere
    dims = ("y", "x")
    return xr.Dataset(
        {
            "t": (("time", *dims), np.stack((field, field))),
            "lat_bnds": ((*dims, "corner"), corners[0]),
            "lon_bnds": ((*dims, "corner"), corners[1]),
        },
        {
            "lat": (dims, lat, {"standard_name": "latitude", "bounds": "lat_bnds", "units": "degrees"}),
            "lon": (dims, lon, {"standard_name": "longitude", "bounds": "lon_bnds", "units": "degrees"}),
        },
    )


def test_bounds_may_be_no_cells_where_there_is_no_value():
    ds = tripolar_with_land()
    found = ga.grids.recognise(ds)
    grid = found.grid
    assert "11 points that repeat others count once; 2 points without a value have no cells" in found.weights
    assert np.argwhere(grid.bare & ~grid.repeats).tolist() == [[4, 7], [6, 12]]
    assert (grid.weights == 0).sum() == 13
    exact = 2 * np.pi * 2 * np.sin(np.radians(55.0))
    whole = grid.weights.sum() + grid.weights[4, 8] + grid.weights[6, 11]
    assert whole == pytest.approx(exact, rel=0.02)
    assert "2 points have no cells" in repr(grid)
    with pytest.raises(ValueError, match="of neighboring cells do not meet in a side"):
        ga.grids.recognise(ds.fillna(1.0))
    assert ga.grids.Grid.from_dict(grid.to_dict()) == grid


def test_copies_of_points_are_no_nearest_keys_and_no_neighbors_to_interpolate_between():
    grid = ga.grids.recognise(tripolar_with_land()).grid
    hood = ga.nearest(grid, k=7)
    indptr, keys = hood.to_csr()
    assert (np.diff(indptr) == 7).all()
    assert not grid.bare.ravel()[keys].any()
    xyz = grid.xyz.reshape(-1, 3)
    apart = np.linalg.norm(xyz[:, None] - xyz[grid.counted], axis=-1)
    furthest = np.take_along_axis(apart, np.argsort(apart, axis=1)[:, 6:7], 1)
    assert (np.linalg.norm(xyz[:, None] - xyz[keys.reshape(-1, 7)], axis=-1) <= furthest + 1e-9).all()
    between = ga.grids.regional(np.arange(-30.0, 31.0, 20.0), np.arange(100.0, 200.0, 20.0))
    operator = ga.xarray.Regridder(grid, between, "interpolation")
    np.testing.assert_allclose(operator(grid.xyz[..., 2]), between.xyz[..., 2], atol=0.02)
    assert not grid.bare.ravel()[operator.matrix.indices].any()
    with pytest.raises(ValueError, match=f"k must be a whole number from 1 to the {grid.size - 13} keys"):
        ga.nearest(grid, k=grid.size)
