"""Regridding that keeps integrals: shared areas against other ways to know them, and what fields keep."""

import numpy as np
import pytest
import torch
from meshes import tripolar

import geoattn as ga
from geoattn.grids.base import PointSet
from geoattn.grids.healpix_outlines import RIPPLE
from geoattn.grids.outlines import NoCells, cells_of, pieces
from geoattn.grids.overlaps import _matrix, outline_areas, shared_areas
from geoattn.grids.sphere import lat_lon, unit_vectors

xr = pytest.importorskip("xarray", reason="the bridge needs xarray")
pytest.importorskip("netCDF4", reason="weights are kept in netCDF")

G, Regridder, regrid = ga.grids, ga.xarray.Regridder, ga.xarray.regrid


def random_points(count, seed=0):
    xyz = np.random.default_rng(seed).normal(size=(count, 3))
    return G.points(*lat_lon(xyz / np.linalg.norm(xyz, axis=-1, keepdims=True)))


def turned(lat, lon):
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    return lat_lon(unit_vectors(lat, lon) @ turn)


ZONES = G.gaussian(8, 16)
LAT, LON = np.meshgrid(np.arange(30.0, 51.0, 2.0), np.arange(-10.0, 21.0, 3.0), indexing="ij")
LATLON = [
    G.equiangular(19, 36),
    G.equiangular(16, 32, poles=False, lon_start=-180, south_first=True),
    G.latlon(np.linspace(90, -80, 18), np.arange(0, 360, 10.0)),
    G.latlon([30.0, -40.0], [0.0, 180.0]),
    G.lobatto(12, 20),
    G.latlon(ZONES.lat_axis, ZONES.lon_axis, areas=ZONES.lat_weights),
    G.patches(G.gaussian(12, 24), (2, 3)).grid,
]
GLOBES = [
    *LATLON[:2],
    G.latlon([0.0], [0.0]),
    LATLON[3],
    LATLON[5],
    G.reduced_gaussian("O8"),
    G.healpix(1),
    G.healpix(3, order="ring"),
    G.icosahedral(2),
    G.cubed_sphere(5),
    random_points(12),
    random_points(80, 1),
]
REGIONS = [
    G.regional(np.arange(30.0, 41.0), np.arange(350.0, 371.0)),
    G.regional(np.arange(80.0, 90.5), np.arange(0.0, 360.0, 10.0)),
    G.regional(*turned(LAT, LON)),
]


@pytest.mark.parametrize("grid", [*LATLON, *GLOBES, *REGIONS], ids=repr)
def test_outlines_have_the_areas_of_cells(grid):
    np.testing.assert_allclose(outline_areas(grid), np.ravel(grid.cell_areas), rtol=1e-12)


@pytest.mark.parametrize("target", GLOBES, ids=repr)
@pytest.mark.parametrize("source", GLOBES, ids=repr)
def test_integrals_are_kept_and_constants_stay(source, target):
    operator = Regridder(source, target, "conservative")
    np.testing.assert_allclose(operator.matrix.sum(axis=1), 1.0, atol=1e-9)
    assert operator.matrix.data.min() >= 0
    field = np.random.default_rng(0).normal(size=(3, *source.shape))
    before = (field * source.cell_areas).reshape(3, -1).sum(1)
    after = (operator(field) * target.cell_areas).reshape(3, -1).sum(1)
    np.testing.assert_allclose(after, before, atol=1e-12 * np.abs(field * source.cell_areas).sum())
    assert operator.conservation_error < 1e-12
    np.testing.assert_allclose(operator.conservation(field), 0, atol=1e-12)
    np.testing.assert_allclose(operator.weights.covered, 1, atol=1e-9)


@pytest.mark.parametrize("target", LATLON, ids=repr)
@pytest.mark.parametrize("source", LATLON, ids=repr)
def test_polygons_say_what_axes_say(source, target):
    axes = shared_areas(source, target)
    cut = _matrix(pieces(cells_of(source)), pieces(cells_of(target)), (target.size, source.size))
    assert abs(axes - cut).max() < 1e-13
    assert abs(axes.sum() / (4 * np.pi) - 1) < 1e-12


def test_turned_together_cells_share_what_they_did():
    lat, lon = np.meshgrid(np.arange(-20.0, 21.0, 4.0), np.arange(0.0, 41.0, 5.0), indexing="ij")
    coarse = np.meshgrid(np.arange(-15.0, 16.0, 7.0), np.arange(5.0, 36.0, 8.0), indexing="ij")
    straight = [turned(*turned(*c)) for c in ((lat, lon), coarse)]
    here = [G.regional(*turned(*c)) for c in ((lat, lon), coarse)]
    there = [G.regional(*c) for c in straight]
    assert abs(shared_areas(*here) - shared_areas(*there)).max() < 1e-14
    assert shared_areas(*here).sum() == pytest.approx(here[1].weights.sum(), rel=1e-9)


def test_shares_are_those_of_points_thrown_at_the_sphere():
    healpix = pytest.importorskip("healpix", reason="it tells pixels of points")
    n = 400_000
    z = 1 - (2 * np.arange(n) + 1) / n  # Fibonacci's lattice: every point stands for as much
    lat, lon = np.degrees(np.arcsin(z)), (np.arange(n) * 360 * (np.sqrt(5) - 1) / 2) % 360
    pixel = healpix.ang2pix(4, lon, lat, lonlat=True)
    rows = np.minimum(((90 - lat) // 15).astype(int), 11)
    cells = rows * 18 + ((lon + 10) // 20).astype(int) % 18
    counted = np.zeros((216, 192))
    np.add.at(counted, (cells, pixel), 4 * np.pi / n)
    grid = G.equiangular(12, 18, poles=False)
    for source, target, expected in (
        (G.healpix(4, "ring"), grid, counted),
        (grid, G.healpix(4, "ring"), counted.T),
    ):
        found = shared_areas(source, target).toarray()
        assert np.abs(found - expected).max() < 25 * 4 * np.pi / n  # borders: a few points
        assert ((found > 0) >= (expected > 0)).all()


def test_pixels_hold_their_children():
    fine, coarse = G.healpix(8), G.healpix(2)
    shared = shared_areas(fine, coarse).toarray() / fine.weights[0]
    assert np.abs(shared - np.repeat(np.eye(48), 16, axis=1)).max() < 20 * RIPPLE


def test_cells_that_are_not_convex_are_added_up():
    north, east = (
        [[0.0, 0, 4, 4, 10, 10], [20.0, 20, 24, 24, 24, 24]],
        [[0.0, 10, 10, 4, 4, 0], [0.0, 9, 9, 0, 0, 0]],
    )
    bent = G.regional([2.0, 22.0], [2.0, 4.0], corners=(north, east))
    assert (cells_of(bent).signs[cells_of(bent).cells == 0]).size == 4
    np.testing.assert_allclose(outline_areas(bent), bent.weights, rtol=1e-13)
    shared = shared_areas(G.equiangular(90, 180, poles=False), bent)
    np.testing.assert_allclose(shared.sum(axis=1), bent.weights, rtol=1e-11)
    notch = G.regional(np.arange(6.0, 9.0), np.arange(6.0, 9.0))
    assert shared_areas(notch, bent).sum() < 1e-16
    assert shared_areas(bent, notch).sum() < 1e-16
    inside = G.regional(np.arange(6.0, 9.0), np.arange(1.0, 3.0))
    assert shared_areas(bent, inside).sum() == pytest.approx(inside.weights.sum(), rel=1e-12)


def test_means_of_zones_are_exact_where_edges_meet():
    fine, coarse = G.equiangular(180, 360, poles=False), G.equiangular(12, 24, poles=False, lon_start=7.0)
    z = np.sin(np.radians(np.linspace(90, -90, 181)))
    means = np.broadcast_to(0.5 * (z[1:] + z[:-1])[:, None], fine.shape)
    z = np.sin(np.radians(np.linspace(90, -90, 13)))
    expected = np.broadcast_to(0.5 * (z[1:] + z[:-1])[:, None], coarse.shape)
    np.testing.assert_allclose(Regridder(fine, coarse, "conservative")(means), expected, atol=1e-14)


@pytest.mark.parametrize("target", [G.healpix(4), G.icosahedral(2), G.gaussian(12, 24)], ids=repr)
def test_means_converge(target):
    def means(n):
        source = G.equiangular(n, 2 * n, poles=False)
        x, y, z = np.moveaxis(source.xyz, -1, 0)
        return Regridder(source, target, "conservative")(np.exp(x) * np.sin(y + 1) + z**3)

    truth = means(360)
    coarse, fine = (np.sqrt(np.mean((means(n) - truth) ** 2)) for n in (24, 72))
    assert coarse < 0.02
    assert fine < coarse / 5


# --- in part --------------------------------------------------------------------------------------------


def test_what_is_missing_is_left_out_by_the_area_that_is_there():
    source, target = G.equiangular(36, 72, poles=False), G.healpix(4)
    operator = Regridder(source, target, "conservative")
    values = np.random.default_rng(0).normal(size=source.shape)
    gone = (source.lat > 0) & (source.lon < 100)
    values[gone] = np.nan
    shared = shared_areas(source, target).toarray()
    there = ~gone.ravel()
    area, known = shared[:, there].sum(1), shared[:, there] @ values.ravel()[there]
    share = area / target.cell_areas
    found = operator(values, "renormalise")
    np.testing.assert_array_equal(np.isnan(found), share < 0.5)
    np.testing.assert_allclose(found[share >= 0.5], known[share >= 0.5] / area[share >= 0.5], rtol=1e-10)
    every = operator(values, "renormalise", least=0)
    np.testing.assert_array_equal(np.isnan(every), share < 1e-12)
    kept = np.nansum(every * share * target.cell_areas)
    assert kept == pytest.approx(np.nansum(values * source.cell_areas), rel=1e-12)
    whole = Regridder(source, target, "conservative", "destarea")(values, "renormalise", least=0)
    np.testing.assert_allclose(np.nan_to_num(whole), known / target.cell_areas, rtol=1e-9, atol=1e-12)
    assert np.nansum(whole * target.cell_areas) == pytest.approx(kept, rel=1e-12)
    spread = operator(values, "propagate")
    np.testing.assert_array_equal(np.isnan(spread), shared[:, ~there].sum(1) > 1e-14)
    for field in (torch.tensor(values), torch.tensor(values, dtype=torch.float32)):
        again = operator(field, "renormalise")
        np.testing.assert_allclose(again, found, atol=1e-5 if field.dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("normalisation", ["fracarea", "destarea"])
def test_the_edge_of_a_region_and_of_what_is_missing_count_alike(normalisation):
    source, target = REGIONS[0], G.equiangular(45, 90, poles=False)  # 4° over cells of 1°
    operator = Regridder(source, target, "conservative", normalisation)
    values = np.random.default_rng(0).random(source.shape)
    there = np.random.default_rng(1).random(source.shape) < 0.7
    values[~there] = np.nan
    shared = shared_areas(source, target).toarray()[:, there.ravel()]
    area, known = shared.sum(1), shared @ values[there]
    share = area / target.cell_areas.ravel()
    found = operator(values, "renormalise").ravel()
    np.testing.assert_array_equal(np.isnan(found), share < 0.5)
    assert 5 < np.isfinite(found).sum() < (area > 0).sum()
    by = area if normalisation == "fracarea" else target.cell_areas.ravel()
    every = operator(values, "renormalise", least=0).ravel()
    np.testing.assert_allclose(every[area > 0], known[area > 0] / by[area > 0], rtol=1e-9)


@pytest.mark.parametrize("normalisation", ["fracarea", "destarea"])
def test_regions_cover_what_they_reach(normalisation):
    source, target = REGIONS[0], G.equiangular(90, 180, poles=False)
    operator = Regridder(source, target, "conservative", normalisation)
    share = shared_areas(source, target).sum(axis=1) / target.cell_areas.ravel()
    found = operator(np.ones(source.shape))
    np.testing.assert_array_equal(np.isnan(found).ravel(), share < 0.5 - 1e-6)
    expected = 1.0 if normalisation == "fracarea" else share[share > 0.5]
    np.testing.assert_allclose(found.ravel()[share > 0.5], expected, rtol=1e-9)
    assert "of the target's area" in repr(operator)
    assert operator.conservation_error < 1e-12
    field = np.random.default_rng(1).random(source.shape)
    np.testing.assert_allclose(operator.conservation(field), 0, atol=1e-13)
    torch.testing.assert_close(operator(torch.tensor(field)).numpy(), operator(field), equal_nan=True)
    # and the other way around, all of it is covered
    back = Regridder(target, source, "conservative", normalisation)
    np.testing.assert_allclose(back(np.ones(target.shape)), 1.0, rtol=1e-9)


def test_given_areas_are_the_measure():
    lat, lon = turned(LAT, LON)
    own = G.regional(lat, lon)
    given = G.regional(lat, lon, areas=0.999 * own.weights)
    globe = G.healpix(16)
    field = np.random.default_rng(0).random(own.shape)
    operator = Regridder(given, globe, "conservative")
    out = operator(field, least=0.0)
    total = np.nansum(out * operator.weights.covered * globe.cell_areas)
    assert total == pytest.approx((field * given.cell_areas).sum(), rel=1e-12)
    np.testing.assert_allclose(Regridder(globe, given, "conservative")(np.ones(globe.shape)), 1.0, rtol=1e-12)


def test_points_that_repeat_others_have_their_values_and_count_once():
    grid = G.regional(*tripolar(n=48, rows=24, cap=12))
    assert grid.repeats.sum() > 20
    globe = G.equiangular(45, 90, poles=False)
    onto = Regridder(globe, grid, "conservative")
    field = np.random.default_rng(0).random(globe.shape)
    out = onto(field).reshape(-1)
    again, xyz = grid.repeats.ravel(), grid.xyz.reshape(-1, 3)
    twin = (xyz[again] @ xyz[~again].T).argmax(1)
    np.testing.assert_array_equal(out[again], out[~again][twin])
    assert np.isfinite(out).all()
    back = Regridder(grid, globe, "conservative")
    share = back.weights.covered.reshape(globe.shape) * globe.cell_areas

    def total():
        return np.nansum(back(out.reshape(grid.shape), least=0) * share)

    assert total() == pytest.approx((out * grid.cell_areas.ravel()).sum(), rel=1e-9)
    kept, out[again] = total(), 1e9  # what stands there once more is not read
    assert total() == pytest.approx(kept, rel=1e-12)


def test_gradients_are_the_transpose():
    operator = Regridder(G.gaussian(12, 24), G.healpix(2), "conservative")
    field = torch.randn(2, 12, 24, dtype=torch.float64, requires_grad=True)
    seed = torch.randn(2, 48, dtype=torch.float64)
    operator(field).backward(seed)
    np.testing.assert_allclose(field.grad.reshape(2, -1), (operator.matrix.T @ seed.numpy().T).T, atol=1e-14)


def test_the_majority_is_that_of_the_overlap():
    fine, coarse = G.equiangular(36, 72, poles=False), G.equiangular(4, 8, poles=False, lon_start=20.0)
    labels = np.random.default_rng(0).integers(0, 3, fine.shape).astype(np.int16)
    labels[:9:3] = 7  # near the poles boxes are no nearest points
    labels[27::3] = 7
    labels[:, ::4] = 8
    found = Regridder(fine, coarse, "majority")(labels)
    first = int(np.argmin(np.abs(fine.lon_axis - (20 - 22.5 + 2.5))))
    boxes = np.roll(labels, -first, 1).reshape(4, 9, 8, 9)
    areas = np.broadcast_to(fine.cell_areas.reshape(4, 9, 8, 9), boxes.shape)
    shares = np.stack([(areas * (boxes == label)).sum((1, 3)) for label in range(9)])
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, shares.argmax(0))
    pixels = Regridder(G.healpix(8), G.healpix(1), "majority")(np.arange(768) // 64)
    np.testing.assert_array_equal(pixels, np.arange(12))
    # the zone of the southern row ends at 30°N, where z is 1/2, though the northern row is nearer
    zones = G.latlon([45.0, -45.0], np.arange(0.0, 360.0, 90.0), areas=[1.0, 3.0])
    bands = np.where((fine.lat > 10) & (fine.lat < 30), 99, np.round(fine.lat).astype(int))
    assert (Regridder(fine, zones, "majority")(bands) == 99).tolist() == [[False] * 4, [True] * 4]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_data_sets_stay_lazy_and_come_out_the_same(dtype):
    pytest.importorskip("dask", reason="lazy arrays are dask's")
    grid = G.gaussian(24, 48)
    values = np.random.default_rng(0).random((4, 3, 24, 48)).astype(dtype)
    ds = xr.Dataset({"t": (("time", "level", "latitude", "longitude"), values)})
    ds = ds.assign_coords(ga.xarray.coordinates(grid).coords)
    plain = regrid(ds, G.healpix(4), method="conservative")
    lazy = regrid(ds.chunk(time=1, longitude=16), G.healpix(4), method="conservative")
    assert lazy.t.chunks
    assert lazy.t.dtype == plain.t.dtype == dtype
    np.testing.assert_array_equal(lazy.t, plain.t)
    assert "conservative, fracarea" in plain.attrs["regridding"]
    operator = Regridder(grid, G.healpix(4), "conservative")
    xr.testing.assert_identical(regrid(ds, G.healpix(4), operator=operator), plain)


# --- refusals -------------------------------------------------------------------------------------------


class Spots(PointSet, kind="spots_without_cells"):
    """Another package's grid, which says where its points are and no more."""

    def _shape(self):
        return (40,)

    lat = property(lambda self: random_points(40).lat)
    lon = property(lambda self: random_points(40).lon)
    weights = property(lambda self: np.full(40, np.pi / 10))


def test_points_without_cells(refused_by):
    globe, points = G.healpix(2), random_points(40)
    given = G.points(points.lat, points.lon, areas=points.weights)
    with refused_by("grids/outlines.py", "areas that lie nowhere") as said:
        Regridder(given, globe, "conservative")
    cells = said.run("ga.grids.points(", grid=given)
    assert Regridder(cells, globe, "conservative").conservation_error < 1e-12
    corner_lat, corner_lon = LAT[:-1, :-1].ravel()[:, None], LON[:-1, :-1].ravel()[:, None]
    boxes = corner_lat + np.array([0, 0, 2, 2]), corner_lon + np.array([0, 3, 3, 0])
    there = {"lat": corner_lat[:, 0] + 1, "lon": corner_lon[:, 0] + 1.5}
    named = dict(zip(("corner_lat", "corner_lon"), boxes, strict=True))
    region = said.run("ga.grids.regional(", **there, **named)
    assert Regridder(globe, region, "conservative").method == "conservative"
    said.says("method='average'")
    assert Regridder(given, globe, method="average").method == "average"
    spots = Spots()
    with refused_by("grids/outlines.py", "its class gives no corners") as said:
        Regridder(globe, spots, "conservative")
    assert Regridder(globe, said.run("ga.grids.points(", grid=spots), "conservative").target.size == 40
    said.says("method='average'")
    assert Regridder(globe, spots, method="average").method == "average"
    codes = np.arange(48)
    assert set(Regridder(globe, spots, "majority")(codes)) <= set(codes)  # which needs no cells


def test_areas_of_no_zones(refused_by):
    grid = G.latlon([60.0, 20.0, -30.0], np.arange(0.0, 360.0, 30.0), areas=[1.0, 8.0, 1.0])
    with refused_by("grids/outlines.py", "are of no zones around its rows") as said:
        Regridder(grid, G.healpix(2), "conservative")
    zones = said.run("ga.grids.latlon(", grid=grid)
    assert Regridder(zones, G.healpix(2), "conservative").conservation_error < 1e-12
    said.says("method='average'")
    assert Regridder(grid, G.healpix(2), method="average").method == "average"


def test_two_points_have_no_cells(refused_by):
    pair = G.points([10.0, 20.0], [0.0, 30.0])
    with refused_by("grids/voronoi.py", "say where their cells end") as said:
        Regridder(pair, G.healpix(2), "conservative")
    corners = pair.lat[:, None] + np.array([-1, -1, 1, 1]), pair.lon[:, None] + np.array([-15, 15, 15, -15])
    named = dict(zip(("corner_lat", "corner_lon"), corners, strict=True))
    assert said.run("ga.grids.regional(", lat=pair.lat, lon=pair.lon, **named).size == 2


def test_regions_apart_and_choices_that_are_none(refused_by):
    with refused_by("xarray/regridding/weights.py", "no cell of the {target} overlaps") as said:
        Regridder(REGIONS[0], REGIONS[1], "conservative")
    globe = G.equiangular(180, 360, poles=False)
    rows, columns = abs(globe.lat_axis - 35) < 4, globe.lon_axis < 8
    within = said.run("ga.grids.regional(", target=globe, rows=rows, columns=columns)
    assert np.isfinite(Regridder(REGIONS[0], within, "conservative")(np.ones(REGIONS[0].shape))).all()
    with pytest.raises(ValueError, match=r"normalisation must be one of .* got 'none'"):
        Regridder(globe, G.healpix(2), "conservative", "none")
    operator = Regridder(globe, G.healpix(2), "conservative")
    with pytest.raises(ValueError, match="least must be a share, from 0 to 1, got 2"):
        operator(np.ones(globe.shape), least=2)
    with pytest.raises(ValueError, match="holds int64, labels or counts"):
        operator(np.ones(globe.shape, int))
    assert issubclass(NoCells, ValueError)


def test_operators_between_other_grids(refused_by):
    grid = G.gaussian(8, 16)
    ds = xr.Dataset({"t": (("latitude", "longitude"), np.ones(grid.shape))})
    ds = ds.assign_coords(ga.xarray.coordinates(grid).coords)
    target = G.healpix(2)
    for operator in (
        Regridder(G.gaussian(8, 16, lon_start=10.0), target, "conservative"),
        Regridder(grid, G.healpix(2, "ring"), "conservative"),
    ):
        with refused_by("xarray/regrid.py", "but here it is the {wanted}") as said:
            regrid(ds, target, operator=operator)
        assert said.run("ga.xarray.regrid(", ds=ds, target=target).t.size == 48
        names = {"ds": ds, "target": target}
        assert regrid(ds, target, operator=said.run("operator=ga.xarray.Regridder(", **names)).t.size == 48


@pytest.mark.parametrize("name", ["rotated", "at a pole", "south first", "from −20°", "discs"])
def test_only_cells_near_the_others_are_made_polygons(name, monkeypatch):
    """The same areas as from all cells, of many fewer."""
    from geoattn.grids import overlaps

    rows, columns = np.linspace(-8.0, 8.0, 7), np.linspace(-11.0, 11.0, 9)
    lat, lon = np.meshgrid(rows, columns, indexing="ij")
    turn = np.radians(82.0 if name == "at a pole" else 40.0)
    turned = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    region = G.regional(*G.sphere.lat_lon(G.sphere.unit_vectors(lat, lon) @ turned))
    globe = G.equiangular(37, 72, poles=name != "south first", south_first=name == "south first")
    if name == "from −20°":
        globe = G.regional(np.arange(60.0, -60.0, -3.0), np.arange(-20.0, 340.0, 4.0))
    if name == "discs":
        region = G.points([10.0, 12.0, 11.0, -50.0], [359.0, 1.0, 4.0, 180.0])
    made = []
    near = overlaps._near
    monkeypatch.setattr(overlaps, "_near", lambda *a: made.append(near(*a)) or made[-1])
    found = [overlaps.shared_areas(globe, region), overlaps.shared_areas(region, globe).T]
    monkeypatch.setattr(overlaps, "_near", lambda axes, others: None)
    for few, every in zip(
        found, (overlaps.shared_areas(globe, region), overlaps.shared_areas(region, globe).T), strict=True
    ):
        assert abs(few - every).max() == 0
    if name != "discs":
        assert 0 < max(map(len, made)) < 0.1 * globe.size
    else:
        assert len(made[0]) <= globe.size
