"""Every kind of grid: it covers its domain, keeps its content, and refuses what is no grid."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import SphericalVoronoi
from scipy_versions import sph_harm_y

import geoattn as ga
from geoattn._shipped import shipped
from geoattn.grids import quadrature
from geoattn.grids.base import Grid, SphericalGrid
from geoattn.grids.sphere import lat_lon, unit_vectors

GLOBE = 4.0 * np.pi


def scattered(count, seed=0):
    """Uniform random points: latitudes and longitudes."""
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    return lat_lon(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


SPHERES = [
    ga.grids.equiangular(13, 24),
    ga.grids.equiangular(12, 24, poles=False),
    ga.grids.equiangular(12, 24, poles=False, lon_start=-180.0, south_first=True),
    ga.grids.gaussian(12, 25),
    ga.grids.gaussian(1, 1),
    ga.grids.lobatto(12, 24, south_first=True),
    ga.grids.latlon(np.linspace(90, -88.75, 144), np.linspace(-180, 178.75, 288)),
    ga.grids.latlon([-60.0, 0.0, 10.0, 80.0], [350.0, 80.0, 170.0, 260.0]),
    ga.grids.reduced_gaussian("O16"),
    ga.grids.reduced_gaussian("N32"),
    ga.grids.reduced_gaussian("F16"),
    ga.grids.healpix(8),
    ga.grids.healpix(7, order="ring"),
    ga.grids.icosahedral(3),
    ga.grids.cubed_sphere(6),
    ga.grids.points(*scattered(200)),
    ga.grids.points([0.0, 10.0, 20.0], [0.0, -10.0, 400.0], areas=[GLOBE / 2, GLOBE / 4, GLOBE / 4]),
]
PLANES = [
    ga.grids.cartesian(7),
    ga.grids.cartesian((4, 6), spacing=(0.5, 2.0), periodic=(False, True)),
    ga.grids.cartesian((2, 3, 4), periodic=True),
]
PRODUCTS = [
    ga.grids.product(ga.grids.cartesian(3, spacing=0.5), ga.grids.gaussian(4, 8)),
    ga.grids.product(ga.grids.cartesian((2, 3)), ga.grids.cartesian(5)),
    ga.grids.product(ga.grids.cartesian(2), ga.grids.healpix(4), ga.grids.cartesian(3)),
]
GRIDS = SPHERES + PLANES + PRODUCTS
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=repr)
every_sphere = pytest.mark.parametrize("grid", SPHERES, ids=repr)


@every_grid
def test_attributes_have_the_shape_of_the_grid_and_cannot_be_written(grid):
    assert grid.size == int(np.prod(grid.shape))
    assert all(type(n) is int for n in (*grid.shape, grid.size))
    assert grid.weights.shape == grid.shape
    assert grid.positions.shape[:-1] == grid.shape
    arrays = [grid.weights, grid.positions]
    if isinstance(grid, SphericalGrid):
        assert grid.lat.shape == grid.lon.shape == grid.shape
        assert grid.xyz.shape == (*grid.shape, 3)
        arrays += [grid.lat, grid.lon, grid.xyz]
    assert not any(array.flags.writeable for array in arrays)


@every_grid
def test_weights_are_positive_with_a_logarithm_in_float32(grid):
    assert (grid.weights > 0).all()
    assert np.isfinite(np.log(grid.weights.astype(np.float32))).all()


@every_sphere
def test_spherical_weights_sum_to_the_globe(grid):
    assert abs(grid.weights.sum() - GLOBE) < 1e-12 * GLOBE


@every_sphere
def test_coordinates_and_unit_vectors_are_the_same_points(grid):
    assert (np.abs(grid.lat) <= 90.0).all()
    assert ((grid.lon >= 0.0) & (grid.lon < 360.0)).all()
    np.testing.assert_allclose(grid.xyz, unit_vectors(grid.lat, grid.lon), atol=1e-14)


@every_grid
def test_round_trips_keep_the_content(grid):
    for copy in (
        pickle.loads(pickle.dumps(grid)),
        Grid.from_dict(grid.to_dict()),
        Grid.from_dict(json.loads(json.dumps(grid.to_dict()))),
    ):
        assert type(copy) is type(grid)
        assert copy == grid
        assert hash(copy) == hash(grid)
        assert copy.shape == grid.shape
        np.testing.assert_array_equal(copy.weights, grid.weights)


def test_grids_of_different_content_differ():
    assert len({grid.digest for grid in GRIDS}) == len(GRIDS)
    assert ga.grids.equiangular(12, 24, lon_start=-180.0) == ga.grids.equiangular(12, 24, lon_start=180.0)
    assert ga.grids.equiangular(12, 24) != ga.grids.equiangular(12, 24, lon_start=1.0)


@every_grid
def test_repr_is_one_informative_line(grid):
    line = repr(grid)
    assert "\n" not in line
    assert len(line) < 200
    assert "grid" in line


@every_grid
def test_integral_keeps_leading_axes_and_agrees_between_numpy_and_torch(grid):
    torch = pytest.importorskip("torch", reason="needs torch")
    field = np.random.default_rng(0).normal(size=(2, 3, *grid.shape))
    expected = (field * grid.weights).reshape(2, 3, -1).sum(-1)
    np.testing.assert_allclose(grid.integrate(field), expected, atol=1e-12)
    ours = grid.integrate(torch.from_numpy(field))
    assert ours.shape == (2, 3)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)
    whole = torch.ones(grid.shape, dtype=torch.int32)
    assert float(grid.integrate(whole)) == pytest.approx(grid.weights.sum())
    assert grid.integrate(torch.ones(grid.shape)).dtype == torch.float32


def test_integral_is_differentiable():
    torch = pytest.importorskip("torch", reason="needs torch")
    grid = ga.grids.gaussian(3, 4)
    field = torch.zeros(grid.shape, dtype=torch.float64, requires_grad=True)
    grid.integrate(field).backward()
    np.testing.assert_allclose(field.grad.numpy(), grid.weights)


def test_integral_of_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(8, 4\) does not end with the grid's shape \(4, 8\)"):
        ga.grids.gaussian(4, 8).integrate(np.zeros((8, 4)))


@pytest.mark.parametrize("grid", [GRIDS[0], GRIDS[8], PLANES[1], PRODUCTS[0]], ids=repr)
def test_shape_and_size_are_readable_in_a_compiled_graph(grid):
    torch = pytest.importorskip("torch", reason="needs torch")

    @torch.compile(fullgraph=True, backend="eager")
    def flatten(x):
        return x.reshape(x.shape[0], grid.size) * len(grid.shape)

    x = torch.ones(2, *grid.shape)
    assert flatten(x).shape == (2, grid.size)


def harmonic(grid, degree, order):
    return sph_harm_y(degree, order, np.radians(90.0 - grid.lat), np.radians(grid.lon))


@pytest.mark.parametrize(
    ("grid", "exact"),
    [
        (ga.grids.equiangular(13, 32), 13),
        (ga.grids.equiangular(12, 32, poles=False), 11),
        (ga.grids.gaussian(12, 32, lon_start=3.0, south_first=True), 23),
        (ga.grids.lobatto(12, 32), 21),
    ],
    ids=repr,
)
def test_spherical_harmonics_integrate_exactly_to_the_degree_of_the_rule(grid, exact):
    for degree in range(exact + 1):
        for order in range(degree + 1):
            expected = np.sqrt(GLOBE) * (degree == 0)
            assert abs(grid.integrate(harmonic(grid, degree, order)) - expected) < 1e-12, (degree, order)
    further = exact + 1 + (exact + 1) % 2  # the next even degree; odd ones vanish by symmetry
    assert abs(grid.integrate(harmonic(grid, further, 0))) > 1e-6


def test_reduced_gaussian_grid_is_exact_below_the_points_of_its_shortest_row():
    grid = ga.grids.reduced_gaussian("O8")  # 16 rows, 20 points on the first
    for degree in range(1, 20):
        for order in range(degree + 1):
            assert abs(grid.integrate(harmonic(grid, degree, order))) < 1e-12, (degree, order)
    assert abs(grid.integrate(harmonic(grid, 31, 0))) < 1e-12
    assert abs(grid.integrate(harmonic(grid, 32, 0))) > 1e-6


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        (ga.grids.healpix(16), ga.grids.healpix(32)),
        (ga.grids.icosahedral(4), ga.grids.icosahedral(5)),
        (ga.grids.cubed_sphere(16), ga.grids.cubed_sphere(32)),
        (
            ga.grids.latlon(np.arange(88, -90, -4), np.arange(0, 360, 4)),
            ga.grids.latlon(np.arange(89, -90, -2), np.arange(0, 360, 2)),
        ),
    ],
    ids=lambda grid: grid.kind,
)
def test_cell_areas_integrate_smooth_fields_to_second_order(coarse, fine):
    def error(grid):
        degrees = [(degree, order) for degree in range(1, 7) for order in range(degree + 1)]
        return max(abs(grid.integrate(harmonic(grid, *degree))) for degree in degrees)

    assert error(fine) < 2e-3
    assert error(fine) < error(coarse) / 3.5


@settings(max_examples=60, deadline=None)
@given(
    make=st.sampled_from([ga.grids.equiangular, ga.grids.gaussian, ga.grids.lobatto]),
    nlat=st.integers(1, 60),
    nlon=st.integers(1, 60),
    lon_start=st.floats(-720, 720),
    south_first=st.booleans(),
)
def test_lat_lon_grids_of_any_size_cover_the_globe(make, nlat, nlon, lon_start, south_first):
    grid = make(nlat, nlon, lon_start=lon_start, south_first=south_first)
    assert abs(grid.weights.sum() - GLOBE) < 1e-12 * GLOBE
    assert (grid.weights > 0).all()
    assert np.isfinite(grid.xyz).all()
    assert ((grid.lon >= 0) & (grid.lon < 360)).all()
    assert ((np.diff(grid.lat_axis) > 0) == south_first).all()


@pytest.mark.parametrize(
    "make",
    [
        ga.grids.gaussian,
        ga.grids.lobatto,
        ga.grids.equiangular,
        lambda nlat, nlon: ga.grids.equiangular(nlat, nlon, poles=False),
        lambda nlat, nlon: ga.grids.latlon([0.0] * nlat, np.arange(nlon) * 360 / nlon),
    ],
)
def test_one_row_is_the_equator_with_the_whole_globe(make):
    grid = make(1, 8)
    np.testing.assert_array_equal(grid.lat, 0.0)
    np.testing.assert_allclose(grid.lat_weights, [GLOBE])


def test_equiangular_rows_are_exact_latitudes():
    np.testing.assert_array_equal(ga.grids.equiangular(721, 1440).lat_axis, 90.0 - 0.25 * np.arange(721))
    np.testing.assert_array_equal(ga.grids.equiangular(721, 1440).lon_axis, 0.25 * np.arange(1440))
    cells = ga.grids.equiangular(180, 360, poles=False)
    np.testing.assert_array_equal(cells.lat_axis, 89.5 - np.arange(180))
    turned = ga.grids.equiangular(180, 360, poles=False, lon_start=-179.5, south_first=True)
    np.testing.assert_array_equal(turned.lat_axis, -89.5 + np.arange(180))
    np.testing.assert_array_equal(turned.lon_axis, (180.5 + np.arange(360)) % 360)


def test_axes_of_a_file_are_taken_as_they_come():
    lat, lon = np.linspace(-90, 90, 181)[:-1], np.arange(-180.0, 180.0).astype(np.float32)
    grid = ga.grids.latlon(lat.astype(np.float32), lon)
    np.testing.assert_array_equal(grid.lat_axis, lat)
    np.testing.assert_array_equal(grid.lon_axis, np.arange(180, 540) % 360)
    rounded = ga.grids.latlon([10.0, 0.0], np.round(np.arange(7) * 360 / 7, 3))
    np.testing.assert_array_equal(rounded.lon_axis, np.arange(7) * 360.0 / 7)


def test_midpoint_weights_of_a_full_cell_centred_grid_are_exact_zones():
    grid = ga.grids.latlon(89.5 - np.arange(180), np.arange(360))
    zones = -np.diff(np.sin(np.radians(90.0 - np.arange(181)))) * 2 * np.pi
    np.testing.assert_allclose(grid.lat_weights, zones, rtol=1e-9)


def test_octahedral_rows_grow_by_four():
    grid = ga.grids.reduced_gaussian("O96")
    np.testing.assert_array_equal(grid.points_per_row[:3], [20, 24, 28])
    assert grid.size == 40320  # the published size of O96
    assert grid.points_per_row.sum() == grid.size
    full = ga.grids.gaussian(192, 1)
    np.testing.assert_array_equal(np.unique(grid.lat)[::-1], full.lat_axis)


def test_classic_reduced_grids_come_from_their_tables():
    grid = ga.grids.reduced_gaussian("n320")
    assert grid.size == 542080  # the published size of N320
    assert len(grid.points_per_row) == 640
    assert abs(grid.weights.sum() - GLOBE) < 1e-12 * GLOBE


def test_full_gaussian_grid_by_name():
    assert ga.grids.reduced_gaussian("F80") == ga.grids.gaussian(160, 320)


def test_icosahedral_levels_are_nested_prefixes():
    fine = ga.grids.icosahedral(4)
    for level in range(4):
        coarse = ga.grids.icosahedral(level)
        assert coarse.size == 10 * 4**level + 2
        np.testing.assert_array_equal(fine.xyz[: coarse.size], coarse.xyz)


def test_icosahedron_has_equal_edges_and_poles():
    grid = ga.grids.icosahedral(0)
    np.testing.assert_array_equal(grid.lat[[0, -1]], [90.0, -90.0])
    a, b, c = (grid.xyz[grid.triangles[:, i]] for i in range(3))
    cosines = np.concatenate([(a * b).sum(-1), (b * c).sum(-1), (c * a).sum(-1)])
    np.testing.assert_allclose(cosines, 1 / np.sqrt(5), atol=1e-14)
    assert (np.einsum("td,td->t", a, np.cross(b, c)) > 0).all()  # anticlockwise from outside


@pytest.mark.parametrize("level", [1, 3, 4])
def test_icosahedral_weights_are_voronoi_areas(level):
    grid = ga.grids.icosahedral(level)
    np.testing.assert_allclose(grid.weights, SphericalVoronoi(grid.xyz).calculate_areas(), rtol=1e-10)


@pytest.mark.parametrize("count", [4, 5, 30, 1000])
def test_weights_of_points_are_voronoi_areas(count):
    grid = ga.grids.points(*scattered(count, seed=count))
    np.testing.assert_allclose(
        grid.weights, SphericalVoronoi(grid.xyz).calculate_areas(), rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("lift", [0.0, 1.0, 3.0])
def test_voronoi_areas_of_few_points_wherever_they_lie(lift):
    """Against a count of the nearest points of a fine grid; lifted, all points share a hemisphere."""
    fine = ga.grids.healpix(64, "ring").xyz
    for seed in range(20):
        random = np.random.default_rng(seed)
        xyz = random.normal(size=(random.integers(4, 12), 3))
        xyz[:, 2] = np.abs(xyz[:, 2]) * (lift > 0) + lift if lift else xyz[:, 2]
        xyz /= np.linalg.norm(xyz, axis=1, keepdims=True)
        lat, lon = np.degrees(np.arcsin(xyz[:, 2])), np.degrees(np.arctan2(xyz[:, 1], xyz[:, 0]))
        grid = ga.grids.points(lat, lon)
        nearest = (fine @ grid.xyz.T).argmax(1)
        counted = np.bincount(nearest, minlength=grid.size) * 4 * np.pi / len(fine)
        np.testing.assert_allclose(grid.weights, counted, atol=0.01)


def test_points_that_nearly_coincide_share_the_cell_that_one_would_have():
    one = ga.grids.points([0, 0, 9, 9], [0, 1, 5, 9]).weights
    two = ga.grids.points([0, 0, 0, 9, 9], [0, 1, 1 + 1e-7, 5, 9]).weights
    np.testing.assert_allclose([two[0], two[1] + two[2], *two[3:]], one, atol=1e-6)


def test_points_of_a_region_need_their_areas():
    lat, lon = (
        c.ravel() for c in np.meshgrid(np.linspace(40, 60, 20), np.linspace(0, 20, 20), indexing="ij")
    )
    with pytest.raises(ValueError, match=r"400 points cover a region: none lies within 1\d\d° of .*areas="):
        ga.grids.points(lat, lon)
    cells = np.cos(np.radians(lat))
    assert ga.grids.points(lat, lon, areas=cells).weights.sum() == pytest.approx(cells.sum())
    assert ga.grids.points(lat, lon, areas="voronoi").weights.sum() == pytest.approx(4 * np.pi)


def test_points_that_occur_again_are_refused_by_the_call_that_drops_them():
    lat, lon = np.array([90.0, 10, -30, 90, 10, -60]), np.array([0.0, 5, 100, 77, 365, 200])
    with pytest.raises(ValueError, match=r"are the same point.*ga\.grids\.distinct"):
        ga.grids.points(lat, lon)
    keep = ga.grids.distinct(lat, lon)
    assert keep.tolist() == [0, 1, 2, 5]
    assert ga.grids.points(lat[keep], lon[keep]).size == 4


def test_voronoi_areas_of_a_lat_lon_grid_follow_its_symmetry():
    """Rows of equal latitude are cocircular, the degenerate case of the triangulation."""
    grid = ga.grids.equiangular(18, 36, poles=False)
    areas = ga.grids.points(grid.lat.ravel(), grid.lon.ravel()).weights.reshape(grid.shape)
    np.testing.assert_allclose(areas, areas[:, :1].repeat(36, axis=1), rtol=1e-10)
    np.testing.assert_allclose(areas, areas[::-1], rtol=1e-10)
    assert abs(areas.sum() - GLOBE) < 1e-12 * GLOBE


def test_one_and_two_points_share_the_globe():
    np.testing.assert_allclose(ga.grids.points([10.0], [20.0]).weights, [GLOBE])
    np.testing.assert_allclose(ga.grids.points([10.0, 20.0], [20.0, 20.0]).weights, [GLOBE / 2] * 2)


def test_cubed_sphere_cells_are_exact():
    """One cell per face by symmetry; finer cells add up to the coarse ones."""
    np.testing.assert_allclose(ga.grids.cubed_sphere(1).weights, GLOBE / 6)
    fine, coarse = ga.grids.cubed_sphere(8).weights, ga.grids.cubed_sphere(4).weights
    np.testing.assert_allclose(fine.reshape(6, 4, 2, 4, 2).sum((2, 4)), coarse, rtol=1e-12)
    centre = ga.grids.cubed_sphere(3)
    np.testing.assert_allclose(centre.lat[:, 1, 1], [0, 0, 0, 0, 90, -90])
    np.testing.assert_allclose(centre.lon[:4, 1, 1], [0, 90, 180, 270])
    assert (centre.lat[:4, 0] > 0).all()  # the first row is north


def test_cubed_sphere_faces_join_along_their_edges():
    """Every cell has four near neighbors, at about one cell's distance, also across edges."""
    n = 16
    xyz = ga.grids.cubed_sphere(n).xyz.reshape(-1, 3)
    nearest = np.sort(np.arccos(np.clip(xyz @ xyz.T, -1, 1)), axis=1)[:, 1:4]
    assert nearest.max() < 1.1 * np.pi / (2 * n)
    assert nearest.min() > 0.6 * np.pi / (2 * n)


def test_cartesian_coordinates_are_cell_centres():
    grid = ga.grids.cartesian((2, 3), spacing=(1.0, 10.0))
    np.testing.assert_array_equal(grid.coordinates[1, 2], [1.5, 25.0])
    np.testing.assert_array_equal(grid.weights, 10.0)


def test_product_has_the_coordinates_of_its_sphere():
    sphere = ga.grids.gaussian(4, 8)
    grid = ga.grids.product(ga.grids.cartesian(3, spacing=0.5), sphere)
    assert grid.shape == (3, 4, 8)
    assert grid.weights.sum() == pytest.approx(1.5 * GLOBE)
    for t in range(3):
        np.testing.assert_array_equal(grid.lat[t], sphere.lat)
        np.testing.assert_array_equal(grid.lon[t], sphere.lon)
        np.testing.assert_array_equal(grid.xyz[t], sphere.xyz)
    a, b, c = ga.grids.cartesian(2), ga.grids.healpix(2), ga.grids.cartesian(3)
    assert ga.grids.product(ga.grids.product(a, b), c) == ga.grids.product(a, b, c)


@pytest.mark.parametrize("attribute", ["lat", "lon", "xyz"])
def test_product_without_one_sphere_has_no_spherical_coordinates(attribute):
    planes = ga.grids.product(ga.grids.cartesian(2), ga.grids.cartesian(3))
    spheres = ga.grids.product(ga.grids.healpix(1), ga.grids.healpix(2))
    for grid in (planes, spheres):
        with pytest.raises(AttributeError, match=f"{attribute} needs exactly one spherical factor"):
            getattr(grid, attribute)


@pytest.mark.slow
def test_large_grids_are_quick_and_whole():
    for grid in (
        ga.grids.equiangular(1801, 3600),
        ga.grids.reduced_gaussian("O1280"),
        ga.grids.healpix(512),
        ga.grids.icosahedral(7),
        ga.grids.cubed_sphere(720),
    ):
        assert abs(grid.weights.sum() - GLOBE) < 1e-12 * GLOBE
        assert grid.weights.min() > 0


globe_lon = np.arange(0, 360, 10)
BAD = [
    (lambda: ga.grids.cartesian(0), ValueError, r"1 to 3 positive lengths, got \(0,\)"),
    (lambda: ga.grids.cartesian((1, 2, 3, 4)), ValueError, r"1 to 3 positive lengths"),
    (lambda: ga.grids.cartesian((2, 2.5)), TypeError, "shape must be an integer, got 2.5"),
    (lambda: ga.grids.cartesian(4, spacing=-1.0), ValueError, "spacing must be positive"),
    (lambda: ga.grids.cartesian(4, spacing=np.nan), ValueError, "spacing must be positive"),
    (lambda: ga.grids.cartesian((4, 4), periodic=(True,)), ValueError, "periodic .* one entry per axis"),
    (lambda: ga.grids.equiangular(0, 4), ValueError, "nlat must be at least 1, got 0"),
    (lambda: ga.grids.gaussian(4, -1), ValueError, "nlon must be at least 1, got -1"),
    (lambda: ga.grids.lobatto(4.0, 4), TypeError, "nlat must be an integer, got 4.0"),
    (lambda: ga.grids.gaussian(4, 4, lon_start=np.nan), ValueError, "lon_start must be .* got nan"),
    (lambda: ga.grids.latlon([0, 1, np.nan], globe_lon), ValueError, r"lat\[2\] = nan is no latitude"),
    (lambda: ga.grids.latlon([0, 5], globe_lon, areas=[1.0]), ValueError, r"one entry per row, \(2,\)"),
    (lambda: ga.grids.latlon([0, 5], globe_lon, areas=[1, 0]), ValueError, r"areas\[1\] = 0.0 is not"),
    (lambda: ga.grids.latlon([0, 91], globe_lon), ValueError, r"lat\[1\] = 91.0 is no latitude"),
    (lambda: ga.grids.latlon([0, 1, 1], globe_lon), ValueError, r"lat\[1\] = 1.0 is followed by 1.0"),
    (lambda: ga.grids.latlon([0, 2, 1], globe_lon), ValueError, r"lat\[1\] = 2.0 is followed by 1.0"),
    (lambda: ga.grids.latlon([0, 0], globe_lon), ValueError, r"lat\[0\] = 0.0 is followed by 0.0"),
    (lambda: ga.grids.latlon([[0, 1]], globe_lon), ValueError, r"array of shape \(1, 2\)"),
    (lambda: ga.grids.latlon([], globe_lon), ValueError, r"array of shape \(0,\)"),
    (lambda: ga.grids.latlon([0, 1], []), ValueError, r"lon must be one axis"),
    (lambda: ga.grids.latlon([0, 1], [0, np.inf]), ValueError, r"lon\[1\] = inf"),
    (lambda: ga.grids.latlon([0, 1], np.arange(0, 361, 10)), ValueError, "the last column repeats the first"),
    (
        lambda: ga.grids.latlon([0, 1], np.arange(0, 90, 10)),
        ValueError,
        r"ga\.grids\.points\(lat, lon, areas",
    ),
    (lambda: ga.grids.latlon([0, 1], globe_lon[::-1]), ValueError, "not equal steps of 10° eastward"),
    (lambda: ga.grids.reduced_gaussian("X96"), ValueError, "such as 'O96' or 'N80'; got 'X96'"),
    (lambda: ga.grids.reduced_gaussian("O0"), ValueError, "got 'O0'"),
    (lambda: ga.grids.reduced_gaussian(96), ValueError, "got 96"),
    (lambda: ga.grids.reduced_gaussian("N33"), ValueError, "'N33' ships; there are N grids for .*32"),
    (lambda: ga.grids.healpix(0), ValueError, "nside must be at least 1, got 0"),
    (lambda: ga.grids.healpix(6), ValueError, "power of two, got 6; use order='ring'"),
    (lambda: ga.grids.healpix(8, "spiral"), ValueError, "'nested' or 'ring', got 'spiral'"),
    (lambda: ga.grids.icosahedral(-1), ValueError, "level must be 0 to 12, got -1"),
    (lambda: ga.grids.icosahedral(1.5), TypeError, "level must be an integer, got 1.5"),
    (lambda: ga.grids.cubed_sphere(0), ValueError, "n must be at least 1, got 0"),
    (lambda: ga.grids.points([], []), ValueError, "equally long lists"),
    (lambda: ga.grids.points([0, 1], [0]), ValueError, r"shapes \(2,\) and \(1,\)"),
    (lambda: ga.grids.points(["0", "9"], [0, 1]), TypeError, "lat must be real numbers, got <U1"),
    (lambda: ga.grids.points([0, 9], [0, 1j]), TypeError, "lon must be real numbers, got complex128"),
    (lambda: ga.grids.points([0, 9], [0, 1], areas=[True, True]), TypeError, "areas must be real numbers"),
    (lambda: ga.grids.points([0, 9], [0, 1], areas=[]), ValueError, "one entry per point, got none"),
    (lambda: ga.grids.points(np.ma.masked_equal([0, 9], 9), [0, 1]), ValueError, "lat is masked at 1 places"),
    (lambda: ga.grids.latlon(np.ma.masked_equal([0, 9], 9), globe_lon), ValueError, "lat is masked at 1"),
    (lambda: ga.grids.latlon([0, 1], globe_lon > 0), TypeError, "lon must be real numbers, got bool"),
    (lambda: ga.grids.distinct(["0", "9"], [0, 1]), TypeError, "lat must be real numbers"),
    (lambda: ga.grids.points([0, 91], [0, 1]), ValueError, "point 1 at lat 91.0, lon 1.0"),
    (lambda: ga.grids.points([0, np.nan], [0, 1]), ValueError, "point 1 at lat nan, lon 1.0"),
    (lambda: ga.grids.points([0, 1], [0, np.inf]), ValueError, "point 1 at lat 1.0, lon nan"),
    (lambda: ga.grids.points([0, 1, 0], [0, 1, 360]), ValueError, "points 0 and 2 are the same point"),
    (lambda: ga.grids.points([90, 0, 90], [0, 1, 77]), ValueError, "points 0 and 2 are the same point"),
    (lambda: ga.grids.points([0, 1], [0, 1], areas=[1]), ValueError, "areas must have one entry per point"),
    (
        lambda: ga.grids.points([0, 1], [0, 1], areas=[1, 0]),
        ValueError,
        r"areas\[1\] = 0.0 is not a positive",
    ),
    (lambda: ga.grids.points([0, 1], [0, 1], areas=[np.nan, 1]), ValueError, r"areas\[0\] = nan"),
    (lambda: ga.grids.points([0, 1], [0, 1], areas=[1, 1e-300]), ValueError, r"areas\[1\] = 1e-300"),
    (lambda: ga.grids.points([0] * 4, [0, 90, 180, 270]), ValueError, "4 points lie in one plane"),
    (lambda: ga.grids.points([0, 9], [0, 9], areas="delaunay"), ValueError, "got 'delaunay'"),
    (lambda: ga.grids.product(ga.grids.healpix(1)), ValueError, "at least two grids"),
    (lambda: ga.grids.product(ga.grids.healpix(1), 3), TypeError, "a product is of grids, got 3"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD)
def test_bad_parameters_are_refused_by_name_and_value(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_bad_content_is_refused_when_read_back():
    content = ga.grids.gaussian(4, 8).to_dict()
    with pytest.raises(ValueError, match="nlat must be at least 1, got -4"):
        Grid.from_dict(content | {"nlat": -4})
    with pytest.raises(ValueError, match="kind 'torus' is no grid"):
        Grid.from_dict({"kind": "torus"})


def test_missing_shipped_folder_is_named():
    with pytest.raises(FileNotFoundError, match="folder 'nowhere' of geoattn is missing: looked in"):
        shipped("nowhere")


def test_rules_are_the_lat_lon_grids():
    lat, weights = quadrature.gauss_legendre(7)
    grid = ga.grids.gaussian(7, 3, south_first=True)
    np.testing.assert_array_equal(grid.lat_axis, lat[::-1])
    np.testing.assert_allclose(grid.lat_weights, weights * 2 * np.pi)


def test_given_areas_weigh_the_rows_of_a_lat_lon_grid():
    grid = ga.grids.latlon([60.0, 0.0, -60.0], np.arange(0, 360, 30), areas=[1.0, 2.0, 1.0])
    np.testing.assert_allclose(grid.weights[:, 0], np.array([1.0, 2.0, 1.0]) * np.pi / 12)
    assert grid != ga.grids.latlon([60.0, 0.0, -60.0], np.arange(0, 360, 30))
    assert "given areas" in repr(grid)


def test_repeated_points_are_found_among_many_and_named_as_a_pair():
    """Also where longitude alone differs, at a pole, and where several pairs repeat."""
    rng = np.random.default_rng(0)
    lat, lon = np.degrees(np.arcsin(rng.uniform(-1, 1, 3000))), rng.uniform(0, 360, 3000)
    ga.grids.points(lat, lon)
    lat[[40, 7]], lon[[40, 7]] = lat[[900, 2000]], lon[[900, 2000]]
    with pytest.raises(ValueError, match=r"points (40 and 900|7 and 2000) are the same point"):
        ga.grids.points(lat, lon)
    with pytest.raises(
        ValueError, match=r"points 1 and 3 are the same point: lat 90.0, lon 20.0 and lat 90.0"
    ):
        ga.grids.points([0, 90, 10, 90], [0, 20, 0, 200])
    rows = ga.grids.gaussian(32, 64)  # many points on equal latitudes and longitudes, none repeated
    assert ga.grids.points(rows.lat.ravel(), rows.lon.ravel()).size == 2048


@pytest.mark.parametrize(
    "grid",
    [ga.grids.gaussian(6, 12), ga.grids.healpix(2), ga.grids.cartesian((3, 4), spacing=(2.0, 0.5)),
     ga.grids.product(ga.grids.cartesian(3), ga.grids.icosahedral(0)),
     ga.grids.points([10, 20, 30], [0, 5, 9], areas=[0.1, 0.2, 0.7])],
    ids=repr,
)  # fmt: skip
def test_the_mean_is_the_integral_over_the_measure(grid):
    torch = pytest.importorskip("torch", reason="fields may be tensors")
    field = np.random.default_rng(0).standard_normal((2, *grid.shape))
    expected = (field * grid.weights).reshape(2, -1).sum(1) / grid.weights.sum()
    np.testing.assert_allclose(grid.mean(field), expected)
    np.testing.assert_allclose(grid.mean(np.full(grid.shape, 3)), 3.0)
    assert grid.shares.sum() == pytest.approx(1)
    learned = torch.tensor(field, requires_grad=True)
    grid.mean(learned).sum().backward()
    np.testing.assert_allclose(learned.grad[0], grid.shares)
    with pytest.raises(ValueError, match="does not end with the grid's shape"):
        grid.mean(field[..., :-1])


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_cells_cover_what_the_weights_do(grid):
    assert grid.cell_areas.shape == grid.shape
    assert (grid.cell_areas > 0).all()
    np.testing.assert_allclose(grid.cell_areas.sum(), grid.weights.sum(), rtol=1e-9)


def test_cells_of_rows_end_halfway_to_the_next():
    gaussian, reduced = ga.grids.gaussian(32, 64), ga.grids.reduced_gaussian("O16")
    rows = np.bincount(np.repeat(np.arange(32), reduced.points_per_row), reduced.cell_areas)
    np.testing.assert_allclose(rows, gaussian.cell_areas.sum(1), rtol=1e-12)
    middle = np.radians(0.5 * (gaussian.lat_axis[3] + gaussian.lat_axis[4]))
    np.testing.assert_allclose(gaussian.cell_areas[:4].sum(), 2 * np.pi * (1 - np.sin(middle)), rtol=1e-12)
    coarse = ga.grids.patches(gaussian, 4).grid
    np.testing.assert_allclose(coarse.cell_areas[0].sum(), gaussian.cell_areas[:4].sum(), rtol=1e-12)
    levels = ga.grids.product(ga.grids.cartesian(3), gaussian)
    np.testing.assert_allclose(levels.cell_areas[1], gaussian.cell_areas)
    given = ga.grids.latlon([-60.0, 0.0, 60.0], [0.0, 180.0], areas=[1.0, 2.0, 1.0])
    np.testing.assert_array_equal(given.cell_areas, given.weights)
