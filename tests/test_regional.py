"""Regions: cells whose areas are known otherwise, and all that stands on a grid."""

import copy
import pickle

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.grids.sphere import lat_lon, unit_vectors

regional = ga.grids.regional
GLOBE = ga.grids.equiangular(37, 72)


def turned(lat, lon, tilt):
    """Latitudes and longitudes of a globe whose north pole is tilted towards 180°E."""
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    return lat_lon(unit_vectors(lat, lon) @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]).T)


def rotated(rows=24, columns=36, tilt=40.0, steps=(1.0, 1.5)):
    """A region on a rotated pole, with the corners of its cells where they meet, and its area."""
    north, east = (
        np.arange(n + 1) * step - n * step / 2 for n, step in zip((rows, columns), steps, strict=True)
    )
    centres = turned(*np.meshgrid(north[1:] - steps[0] / 2, east[1:] - steps[1] / 2, indexing="ij"), tilt)
    corners = turned(*np.meshgrid(north, east, indexing="ij"), tilt)
    return centres, corners, 2 * np.sin(np.radians(north[-1])) * np.radians(columns * steps[1])


def lambert(rows=20, columns=30, spacing=90.0):
    """A domain of Lambert's conformal projection on a sphere (Snyder 1987, page 107), and its scale."""
    parallel, radius = np.radians(38.5), 6371.0
    n = np.sin(parallel)
    at = radius * np.cos(parallel) / n
    y, x = (np.arange(m) * spacing - (m - 1) * spacing / 2 for m in (rows, columns))
    x, y = np.meshgrid(x, y)
    rho, theta = np.hypot(x, at - y), np.arctan2(x, at - y)
    lat = 2 * np.arctan((at / rho) ** (1 / n) * np.tan(np.pi / 4 + parallel / 2)) - np.pi / 2
    return np.degrees(lat), -97.5 + np.degrees(theta / n), rho * n / (radius * np.cos(lat))


def girard(border):
    """The area within a closed line of great circles ``[k, 3]``, by the angles between its sides."""
    before, after = np.roll(border, 1, axis=0), np.roll(border, -1, axis=0)
    back, ahead = (np.cross(border, other) for other in (before, after))
    sine = (border * np.cross(ahead, back)).sum(-1)
    angles = np.arctan2(sine, (ahead * back).sum(-1)) % (2 * np.pi)
    excess = angles.sum() - (len(border) - 2) * np.pi
    return min(excess, 4 * np.pi - excess % (4 * np.pi), key=abs)


def border(corners):
    """Around an array of cells: the corners where they meet, once around."""
    return np.concatenate((corners[0, :-1], corners[:-1, -1], corners[-1, :0:-1], corners[:0:-1, 0]))


(LAT, LON), CORNERS, AREA = rotated()
REGIONS = {
    "slice": regional(GLOBE.lat_axis[3:15], GLOBE.lon_axis[60:]),
    "slice across 0°E": regional(GLOBE.lat_axis[::-1][1:10], (GLOBE.lon_axis[:20] - 50.0) % 360.0),
    "band": regional(GLOBE.lat_axis[:10], GLOBE.lon_axis),
    "rotated pole": regional(LAT, LON),
    "corners": regional(LAT, LON, CORNERS),
    "list": regional(LAT.ravel(), LON.ravel(), areas=np.full(LAT.size, AREA / LAT.size)),
    "cells": regional(
        LAT.ravel(),
        LON.ravel(),
        [np.stack((c[:-1, :-1], c[:-1, 1:], c[1:, 1:], c[1:, :-1]), -1).reshape(-1, 4) for c in CORNERS],
    ),
}


@pytest.fixture(params=REGIONS)
def region(request):
    return REGIONS[request.param]


# --- areas --------------------------------------------------------------------------------------------


def test_slices_weigh_the_zones_between_parallels_and_meridians():
    grid = REGIONS["slice"]
    north, south = np.sin(np.radians([75 + 2.5, 20 - 2.5]))
    np.testing.assert_allclose(grid.weights.sum(), (north - south) * np.radians(12 * 5), rtol=1e-13)
    cap = REGIONS["band"].weights  # up to the pole, and no further
    np.testing.assert_allclose(cap.sum(), 2 * np.pi * (1 - np.sin(np.radians(45 - 2.5))), rtol=1e-13)
    np.testing.assert_allclose(cap[0], np.radians(5) * (1 - np.sin(np.radians(87.5))), rtol=1e-13)
    whole = regional(GLOBE.lat_axis, GLOBE.lon_axis)
    np.testing.assert_allclose(whole.weights.sum(), 4 * np.pi, rtol=1e-13)
    assert not np.allclose(whole.weights, GLOBE.weights, rtol=1e-3)  # its own cells, not the rule's
    assert whole.is_global
    assert not grid.is_global


def test_weights_sum_to_the_area_within_the_border():
    for grid in (REGIONS["rotated pole"], REGIONS["corners"]):
        joined = np.empty((grid.shape[0] + 1, grid.shape[1] + 1, 3))
        joined[:-1, :-1], joined[:-1, 1:] = grid.corners[:, :, 0], grid.corners[:, :, 1]
        joined[1:, 1:], joined[1:, :-1] = grid.corners[:, :, 2], grid.corners[:, :, 3]
        np.testing.assert_allclose(grid.weights.sum(), girard(border(joined)), rtol=1e-11)
    # parallels of the rotated pole and great circles between the same corners differ by the square of a cell
    np.testing.assert_allclose(REGIONS["corners"].weights.sum(), AREA, rtol=1e-4)
    np.testing.assert_allclose(REGIONS["cells"].weights, REGIONS["corners"].weights.ravel(), rtol=1e-13)
    np.testing.assert_allclose(REGIONS["rotated pole"].weights.sum(), AREA, rtol=1e-3)


def test_the_square_of_the_cells_falls_in_the_error_of_midpoints():
    def error(halving):
        centres, _, area = rotated(24 * halving, 36 * halving, steps=(1.0 / halving, 1.5 / halving))
        return abs(regional(*centres).weights.sum() / area - 1)

    assert error(2) < 0.3 * error(1)


def test_cells_of_a_conformal_projection_have_its_scale():
    lat, lon, scale = lambert()
    found = regional(lat, lon).weights
    np.testing.assert_allclose(found, (90.0 / (6371.0 * scale)) ** 2, rtol=2e-3)


def test_polygons_are_the_cells_of_the_cube():
    """Sides of a cubed sphere's cells are great circles, and the solid angles of its cells known exactly."""
    cube, n = ga.grids.cubed_sphere(6), 6
    tangents = np.tan(np.radians(np.linspace(-45, 45, n + 1)))
    y, z = np.meshgrid(tangents, -tangents)
    meeting = lat_lon(np.stack((np.ones_like(y), y, z), -1) / np.sqrt(1 + y**2 + z**2)[..., None])
    face = regional(cube.lat[0], cube.lon[0], meeting)
    np.testing.assert_allclose(face.weights, cube.weights[0], rtol=1e-12)
    np.testing.assert_allclose(face.weights.sum(), 4 * np.pi / 6, rtol=1e-13)


def test_corners_come_as_edges_or_bounds_from_any_origin():
    lat, lon = GLOBE.lat_axis[3:15], GLOBE.lon_axis[60:]
    parallels, meridians = np.linspace(77.5, 17.5, 13), np.linspace(297.5, 357.5, 13)
    expected = REGIONS["slice"]
    bounds = [np.stack((x[:-1], x[1:]), -1) for x in (parallels, meridians - 360)]
    for corners in (
        (parallels, meridians),
        (parallels, meridians - 360),
        bounds,
        [b[:, ::-1] for b in bounds],
    ):
        np.testing.assert_allclose(regional(lat, lon, corners).weights, expected.weights, rtol=1e-12)
    np.testing.assert_allclose(regional(lat[::-1], lon[::-1]).weights, expected.weights[::-1, ::-1])
    one = regional([10.0], [20.0], ([9.0, 11.0], [18.0, 22.0]))
    assert one.shape == (1, 1)
    np.testing.assert_allclose(
        one.weights, [[np.radians(4) * 2 * np.cos(np.radians(10)) * np.sin(np.radians(1))]]
    )
    around = [np.stack((c[:-1, 1:], c[1:, 1:], c[1:, :-1], c[:-1, :-1]), -1) for c in CORNERS]
    np.testing.assert_allclose(regional(LAT, LON, around).weights, REGIONS["corners"].weights, rtol=1e-12)


def test_arrays_that_repeat_two_axes_are_axes():
    lat, lon = GLOBE.lat_axis[:9], GLOBE.lon_axis[:7]
    assert regional(*np.meshgrid(lat, lon, indexing="ij")) == regional(lat, lon)
    assert regional(lat[:7], lon).shape == (7, 7)


def test_given_areas_are_the_weights():
    cells = REGIONS["corners"].weights
    np.testing.assert_array_equal(regional(LAT, LON, areas=1.01 * cells).weights, 1.01 * cells)
    assert REGIONS["list"].weights.sum() == pytest.approx(AREA)


# --- what every grid is -------------------------------------------------------------------------------


def test_regions_are_values(region):
    assert ga.grids.Grid.from_dict(region.to_dict()) == region == pickle.loads(pickle.dumps(region))
    assert copy.deepcopy(region).digest == region.digest
    assert region.lat.shape == region.lon.shape == region.weights.shape == region.shape
    assert (region.lon >= 0).all()
    assert (region.lon < 360).all()
    assert not region.weights.flags.writeable
    assert "% of the globe" in repr(region) or region.kind == "points"
    ones = np.ones(region.shape)
    assert region.mean(ones) == pytest.approx(1.0)
    assert region.integrate(ones) == pytest.approx(region.weights.sum())


def dense(q, k, v, hood, key_weights):
    """Softmax over all pairs, hidden ones masked; tokens flat, one head."""
    seen = np.zeros((hood.query_grid.size, hood.key_grid.size), bool)
    indptr, keys = hood.to_csr()
    seen[np.repeat(np.arange(len(seen)), np.diff(indptr)), keys] = True
    scores = q @ k.T * q.shape[-1] ** -0.5 + np.log(key_weights.ravel())
    weights = np.exp(np.where(seen, scores, -np.inf))
    return weights @ v / np.maximum(weights.sum(-1, keepdims=True), 1e-300)


@pytest.mark.parametrize("other", [None, ga.grids.icosahedral(3)])
def test_attention_weighs_keys_by_their_cells(region, other):
    for hood in (
        ga.geodesic(region, other, radius=9.0) if other is None else ga.geodesic(other, region, radius=90.0),
        ga.nearest(region, other, k=7) if other is None else ga.nearest(other, region, k=7),
    ):
        random = np.random.default_rng(0)
        (q, k, v) = (
            random.standard_normal((g.size, 8)) for g in (hood.query_grid, hood.key_grid, hood.key_grid)
        )
        expected = dense(q, k, v, hood, region.weights)
        for backend, dtype, within in (("reference", torch.float64, 1e-12), (None, torch.float32, 1e-5)):
            shaped = [
                torch.as_tensor(x, dtype=dtype).reshape(1, *g.shape, 1, 8)
                for x, g in ((q, hood.query_grid), (k, hood.key_grid), (v, hood.key_grid))
            ]
            found = ga.attention(*shaped, hood, backend=backend).reshape(-1, 8).numpy()
            assert np.abs(found - expected).max() < within


def test_neighborhoods_are_those_of_the_same_points(region):
    region = region if region.lat.max() < 90 else regional(region.lat_axis[1:], region.lon_axis)
    points = ga.grids.points(region.lat.ravel(), region.lon.ravel(), areas=region.weights.ravel())
    for make in (lambda g: ga.geodesic(g, radius=12.0), lambda g: ga.nearest(g, k=6)):
        for a, b in zip(make(region).to_csr(), make(points).to_csr(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_rows_and_columns_have_windows_curves_and_hops():
    band, slice_, array = REGIONS["band"], REGIONS["slice"], REGIONS["rotated pole"]
    assert band.axes_periodic == (False, True)
    assert band.turns == (72, 72)
    assert slice_.axes_periodic == array.axes_periodic == (False, False)
    assert (ga.window(array, (5, 5)).counts == 25).all()
    assert ga.window(band, (1, 5)).to_csr().indices[:5].tolist() == [0, 1, 2, 70, 71]
    assert ga.k_hop(array, 1).counts.max() == 5
    assert ga.k_hop(array, 1).counts[0, 0] == 3
    assert (ga.k_hop(band, 1).counts[1:-1] == 5).all()
    assert (ga.curve_window(array, 16, stride=16).counts == 16).all()


def test_turns_of_a_band_are_its_symmetry():
    hood = ga.geodesic(REGIONS["band"], radius=20.0)
    x = torch.randn(1, *hood.query_grid.shape, 2, 4)
    out = ga.attention(x, x, x, hood)
    turned = x.roll(5, 2)
    torch.testing.assert_close(ga.attention(turned, turned, turned, hood), out.roll(5, 2))
    assert hood.rotation is not None


@pytest.mark.parametrize("kind", ["slice", "rotated pole", "corners"])
def test_patches_weigh_what_their_points_do(kind):
    grid = REGIONS[kind]
    coarse, members = ga.grids.patches(grid, (3, 4))
    assert coarse.kind == grid.kind
    np.testing.assert_allclose(coarse.weights.ravel(), grid.weights.ravel()[members].sum(1), rtol=1e-12)
    middle = grid.xyz.reshape(-1, 3)[members].mean(1)
    apart = np.linalg.norm(
        middle / np.linalg.norm(middle, axis=-1, keepdims=True) - coarse.xyz.reshape(-1, 3), axis=-1
    )
    assert np.degrees(apart.max()) < 2.0  # of patches of 15° × 20°: rows lie at the middle of their height
    assert coarse.corners.shape == (*coarse.shape, 4, 3)
    rim = {tuple(c) for c in np.round(grid.corners, 9).reshape(-1, 3)}
    assert {tuple(c) for c in np.round(coarse.corners, 9).reshape(-1, 3)} <= rim


def test_resampling_within_a_region_keeps_linear_fields():
    fine, coarse = REGIONS["rotated pole"], ga.grids.patches(REGIONS["rotated pole"], 3).grid
    for query, key in ((fine, coarse), (coarse, fine)):
        field = torch.as_tensor(key.xyz @ [1.0, 2.0, -0.5])[None, ..., None]
        found = ga.nn.Resample(query, key).double()(field)[0, ..., 0].numpy()
        np.testing.assert_allclose(
            found, query.xyz @ [1.0, 2.0, -0.5], atol=1e-2
        )  # a border is beyond the coarse points
    area = ga.nn.Resample(coarse, fine, "average").double()
    assert area(torch.ones(1, *fine.shape, 1, dtype=torch.float64)).allclose(
        torch.ones(1, *coarse.shape, 1).double()
    )


@pytest.mark.parametrize("position", ["harmonic", "directional"])
def test_positions_are_known_on_regions(position):
    grid = REGIONS["slice"]
    torch.manual_seed(0)
    layer = ga.nn.Attention(24, 2, ga.geodesic(grid, radius=12.0), position=position)
    x = torch.randn(1, *grid.shape, 24, requires_grad=True)
    layer(x).square().sum().backward()
    assert x.grad.isfinite().all()


def test_maps_show_regions_and_nothing_beside():
    plt = pytest.importorskip("matplotlib.pyplot", reason="maps are drawn by matplotlib")
    from geoattn.plot import lat_lon_map
    from geoattn.plot.maps import draw

    grid = REGIONS["rotated pole"]
    axes = plt.figure().add_subplot()
    image = draw(axes, grid, grid.lat, "equirectangular")
    shown = np.isfinite(np.asarray(image.get_array().filled(np.nan)))
    area = (shown * np.cos(np.radians(np.linspace(89.5, -89.5, shown.shape[0])))[:, None]).sum()
    share = area / (np.cos(np.radians(np.linspace(89.5, -89.5, shown.shape[0]))).sum() * shown.shape[1])
    assert share == pytest.approx(
        grid.weights.sum() / (4 * np.pi), rel=0.05
    )  # cells, and nothing beside them
    axes = lat_lon_map(None, REGIONS["slice across 0°E"], np.ones((9, 20)), "one")
    west, east = axes.get_xlim()
    assert west == pytest.approx(-52.5, abs=2)
    assert east == pytest.approx(47.5, abs=2)
    plt.close("all")
    ga.picture(ga.geodesic(grid, radius=6.0), (10, 10))
    plt.close("all")


# --- refusals -----------------------------------------------------------------------------------------


AREAS = np.full(LAT.size, AREA / LAT.size)
LIST = {"lat": LAT.ravel(), "lon": LON.ravel()}
JOINED = dict(zip(("corner_lat", "corner_lon"), CORNERS, strict=True))
CALL = "ga.grids.regional("


def test_lists_and_axes_without_neighbors(refused_by):
    with refused_by("grids/regional.py", "does not say which are neighbors") as said:
        regional(**LIST)
    assert said.run(CALL, "AREAS", **LIST, AREAS=AREAS) == REGIONS["list"]
    with refused_by("grids/regional.py", "must be two axes, two arrays") as said:
        regional(LAT, LON[:-1])
    assert said.run(CALL, "AREAS", lat=LAT, lon=LON, AREAS=AREAS) == REGIONS["list"]
    with refused_by("grids/regional.py", "no neighbors to end its cell between") as said:
        regional([50.0], [10.0, 11.0])
    edges = {"lat_edges": [49.0, 51.0], "lon_edges": [9.5, 10.5, 11.5]}
    assert said.run(CALL, lat=[50.0], lon=[10.0, 11.0], **edges).shape == (1, 2)
    with refused_by("grids/regional.py", "no neighbors that cells could end between") as said:
        regional(LAT[:1], LON[:1])
    rim = {name: corner[:2] for name, corner in JOINED.items()}
    assert said.run(CALL, lat=LAT[:1], lon=LON[:1], **rim).shape == (1, 36)
    with refused_by("grids/regional.py", "sort the axis first, or give a list") as said:
        regional([10, 30, 20], [0, 1])
    assert said.run(CALL, "AREAS", **LIST, AREAS=AREAS) == REGIONS["list"]
    lon = np.arange(0.0, 400.0, 5.0)
    with refused_by("grids/regional.py", "around the globe: cells overlap") as said:
        regional([10, 20], lon)
    assert regional([10, 20], said.run("lon[", lon=lon)).axes_periodic == (False, True)


def test_cells_that_are_none(refused_by):
    shuffled = np.random.default_rng(0).permutation(LAT.shape[1])
    with refused_by("grids/cells.py", "have no area or run the other way") as said:
        regional(LAT[:, shuffled], LON[:, shuffled])
    assert said.run(CALL, lat=LAT, lon=LON, **JOINED) == REGIONS["corners"]
    with refused_by("grids/cells.py", "do not close around their points") as said:
        regional(LAT[:, ::-1], LON[:, ::-1], CORNERS)
    twice = np.concatenate((LAT, LAT)), np.concatenate((LON, LON))
    flat = [np.stack((c[:-1, :-1], c[:-1, 1:], c[1:, 1:], c[1:, :-1]), -1).reshape(-1, 4) for c in CORNERS]
    with refused_by("grids/cells.py", "of the area lies in several cells") as said:
        regional(*(x.ravel() for x in twice), [np.concatenate((c, c)) for c in flat])
    assert "cells overlap: 100.0% of the area" in said.message
    keep = said.run("keep = ", lat=twice[0], lon=twice[1])
    said.says("areas=…")
    assert len(keep) == LAT.size
    around = [np.stack((c[:-1, :-1], c[:-1, 1:], c[1:, 1:], c[1:, :-1]), -1) for c in CORNERS]
    middle = [c.mean(-1, keepdims=True) for c in around]
    shrunk = [m + 0.8 * (c - m) for m, c in zip(middle, around, strict=True)]
    with refused_by("grids/regional.py", "of neighboring cells do not meet in a side") as said:
        regional(LAT, LON, shrunk)
    assert said.run(CALL, "AREAS", lat=LAT, lon=LON, AREAS=AREAS) == REGIONS["list"]


def test_swaths_that_cross_themselves_overlap():
    along, across = np.meshgrid(np.arange(0.0, 460.0, 4.01), np.linspace(-8, 8, 5), indexing="ij")
    with pytest.raises(ValueError, match=r"cells overlap: 4\d.\d% of the area"):
        regional(*turned(across, along, 30.0))


@pytest.mark.parametrize(
    ("corners", "said"),
    [
        (
            (CORNERS[0][:-1], CORNERS[1]),
            r"corners must be two arrays \[25, 37\], where cells meet, or \[24, 36, 4\]",
        ),
        ((CORNERS[0] + 60, CORNERS[1]), r"corners\[0\] must hold latitudes in"),
    ],
)
def test_corners_of_other_shapes_are_refused(corners, said):
    with pytest.raises((TypeError, ValueError), match=said):
        regional(LAT, LON, corners)


def test_corners_are_a_pair(refused_by):
    with refused_by("grids/regional.py", "corners must be a pair") as said:
        regional(LAT, LON, CORNERS[0])
    pair = eval(said.message.split("corners=")[1].rsplit(", got", 1)[0], dict(JOINED))
    said.says("corners=(corner_lat, corner_lon)")
    assert regional(LAT, LON, pair) == REGIONS["corners"]


def test_edges_and_bounds_that_leave_gaps_are_refused(refused_by):
    lat, lon = np.arange(10.0, 14.0), np.arange(5.0, 8.0)
    lon_edges = np.arange(4.5, 8.0)
    with refused_by("grids/regional.py", "overlap or leave gaps at") as said:
        regional(lat, lon, (np.stack((lat - 0.4, lat + 0.4), -1), np.stack((lon - 0.5, lon + 0.5), -1)))
    assert said.run(CALL, "AREAS", **LIST, AREAS=AREAS) == REGIONS["list"]
    with pytest.raises(ValueError, match=r"corners of lat must be the edges \[5\]"):
        regional(lat, lon, (lat, lon_edges))
    with pytest.raises(ValueError, match="corners of lat must run in one direction with an entry"):
        regional(lat, lon, (np.arange(5.0) + 12, lon_edges))
    with pytest.raises(ValueError, match=r"corners of a list must be two arrays \[4, k\]"):
        regional(lat, lat, (np.ones((4, 3)), np.ones((4, 4))))


def test_areas_of_the_wrong_sign_or_sum(refused_by):
    metres = REGIONS["corners"].weights * 6.371e6**2
    with refused_by("grids/regional.py", "more than the 4π steradians of the sphere") as said:
        regional(LAT, LON, areas=metres)
    steradians = {}
    exec(said.message[said.message.index("areas=") :], {"areas": metres}, steradians)
    said.says("areas=areas / 6.371e6**2")
    assert regional(LAT, LON, areas=steradians["areas"]).weights.sum() == pytest.approx(AREA, rel=1e-4)
    with refused_by("grids/regional.py", "are they in other units, or of other cells?") as said:
        regional(LAT, LON, areas=1.2 * REGIONS["corners"].weights)
    said.says("areas=…")
    half = np.where(LAT > LAT.mean(), 1.0, -1.0) * REGIONS["corners"].weights
    with refused_by("grids/regional.py", "no positive area in steradians, and so at") as said:
        regional(LAT, LON, areas=half)
    assert f"{(half < 0).mean():.1%} of the points" in said.message
    assert said.run("ga.grids.points(", lat=LAT, lon=LON, areas=half).size == (half > 0).sum()
    said.says("areas=…")
    flat = {"lat": LAT.ravel(), "lon": LON.ravel(), "areas": half.ravel()}
    with refused_by("grids/points.py", "is not a positive area in steradians") as said:
        ga.grids.points(**flat)
    assert said.run("ga.grids.points(", **flat).size == (half > 0).sum()
    with pytest.raises(
        ValueError, match=r"areas must have one entry for each point, \(24, 36\), got shape \(864,\)"
    ):
        regional(LAT, LON, areas=AREAS)


def test_points_that_are_missing(refused_by):
    lat = LAT.copy()
    lat[3, 4] = np.nan
    with refused_by("grids/regional.py", "Leave out points that are missing") as said:
        regional(lat, LON)
    there = np.isfinite(lat)
    assert said.run(CALL, "AREAS", lat=lat, lon=LON, there=there, AREAS=AREAS[1:]).size == LAT.size - 1
    with pytest.raises(ValueError, match="lat is empty"):
        regional([], [])
