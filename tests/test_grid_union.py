"""Unions of grids: every place counts once, by areas that are known otherwise."""

import numpy as np
import pytest
import torch
from test_regional import rotated

import geoattn as ga
from geoattn.grids.overlaps import outline_areas, shared_areas
from geoattn.grids.polygons import inside

union = ga.grids.union
GLOBE = 4 * np.pi


def box(south, north, west, east, rows, columns):
    lat, lon = np.linspace(south, north, rows + 1), np.linspace(west, east, columns + 1)
    return ga.grids.regional((lat[1:] + lat[:-1]) / 2, (lon[1:] + lon[:-1]) / 2, (lat, lon))


def area(south, north, west, east):
    return np.radians(east - west) * (np.sin(np.radians(north)) - np.sin(np.radians(south)))


COARSE, FINE = box(10, 50, 0, 80, 8, 16), box(23, 61, 33, 67, 19, 17)
(LAT, LON), CORNERS, _ = rotated(14, 20, tilt=40.0, steps=(2.0, 2.5))
NEST = ga.grids.regional(LAT, LON, CORNERS)
GLOBES = {
    "lat-lon": ga.grids.equiangular(19, 36),
    "gaussian": ga.grids.gaussian(16, 32),
    "HEALPix": ga.grids.healpix(8),
    "cube": ga.grids.cubed_sphere(8, "equal-edge"),
    "icosahedral": ga.grids.icosahedral(3),
    "reduced": ga.grids.reduced_gaussian("O16"),
}


def test_boxes_lose_what_the_finer_box_covers():
    whole = union(COARSE, FINE, "replace")
    exact = area(10, 50, 0, 80) + area(23, 61, 33, 67) - area(23, 50, 33, 67)
    assert whole.weights.sum() == pytest.approx(exact, rel=1e-13)
    # the cell between the parallels 20 and 25 and the meridians 30 and 35, without its corner
    row, column = 2, 6
    left = area(20, 25, 30, 35) - area(23, 25, 33, 35)
    assert whole.left.reshape(8, 16)[row, column] == pytest.approx(left, rel=1e-12)
    inner = whole.left.reshape(8, 16)[3:, 7:13]
    assert (inner == 0).all()  # 25 … 50°N, 35 … 65°E
    assert whole.size == 8 * 16 - inner.size + FINE.size
    assert "union of" in repr(whole)


@pytest.mark.parametrize("globe", GLOBES)
def test_a_globe_with_a_nest_in_it_is_the_globe(globe):
    grid = GLOBES[globe]
    whole = union(grid, NEST, "replace")
    assert whole.weights.sum() == pytest.approx(GLOBE, rel=1e-9)
    assert whole.is_global
    assert 0 < grid.size - len(whole.kept) < 0.1 * grid.size
    np.testing.assert_array_equal(whole.weights[len(whole.kept) :], NEST.weights.ravel())


def test_what_is_left_of_a_cell_is_what_random_points_find():
    grid = ga.grids.cubed_sphere(12)
    whole = union(grid, NEST, "replace")
    share = whole.left / grid.weights.ravel()
    random = np.random.default_rng(0)
    cut = np.flatnonzero((share > 0.05) & (share < 0.95))[::8]
    assert len(cut) > 2
    corners, cells = grid.corners.reshape(-1, 4, 3), NEST.corners.reshape(-1, 4, 3)
    for cell in cut:
        centre = corners[cell].mean(0) / np.linalg.norm(corners[cell].mean(0))
        across = np.linalg.svd(centre[None])[2][1:]
        z = 1 - random.random(1500) * (1 - (corners[cell] @ centre).min())  # evenly over a cap
        turn = 2 * np.pi * random.random(1500)
        thrown = z[:, None] * centre + np.sqrt(1 - z**2)[:, None] * (
            np.stack((np.cos(turn), np.sin(turn)), -1) @ across
        )
        thrown = thrown[inside(thrown, np.broadcast_to(corners[cell], (len(thrown), 4, 3)))]
        covered = inside(thrown[:, None], cells[None]).any(1)
        assert covered.mean() == pytest.approx(1 - share[cell], abs=4 * 0.5 / np.sqrt(len(thrown)))


@pytest.fixture(scope="module")
def nested():
    return union(GLOBES["gaussian"], NEST, "replace")


def test_unions_are_grids(nested):
    assert ga.grids.Grid.from_dict(nested.to_dict()) == nested
    assert nested.lat.shape == nested.weights.shape == nested.shape
    assert nested.mean(np.ones(nested.shape)) == pytest.approx(1.0)
    second = ga.grids.position_features(nested, 2)
    assert np.isfinite(second).all()


def test_fields_are_joined_and_split(nested):
    a, b = (torch.randn(2, *g.shape, dtype=torch.float64) for g in (nested.first, nested.second))
    a.requires_grad_()
    joined = nested.join(a, b)
    assert joined.shape == (2, *nested.shape)
    np.testing.assert_array_equal(nested.join(a.detach().numpy(), b.numpy()), joined.detach().numpy())
    first, second = nested.split(joined)
    torch.testing.assert_close(second, b)
    there = ~first.isnan()
    assert int(there[0].sum()) == len(nested.kept)
    torch.testing.assert_close(first[there], a[there])
    joined.sum().backward()
    assert (a.grad == there).all()
    with pytest.raises(ValueError, match="the second field has the shape"):
        nested.join(a, a)
    with pytest.raises(ValueError, match="does not end with"):
        nested.split(a)
    numpy_first, _ = nested.split(joined.detach().numpy())
    np.testing.assert_array_equal(numpy_first, first.detach().numpy())


def test_attention_reaches_from_either_part_to_the_other(nested):
    points = ga.grids.points(nested.lat, nested.lon, areas=nested.weights)
    hood = ga.geodesic(nested, radius=15.0)
    for a, b in zip(hood.to_csr(), ga.geodesic(points, radius=15.0).to_csr(), strict=True):
        np.testing.assert_array_equal(a, b)
    m = len(nested.kept)
    indptr, keys = hood.to_csr()
    rows = np.repeat(np.arange(nested.size), np.diff(indptr))
    assert ((rows < m) & (keys >= m)).any()
    assert ((rows >= m) & (keys < m)).any()
    x = torch.randn(1, *nested.shape, 2, 8)
    ones = ga.attention(x, x, torch.ones_like(x), hood)
    torch.testing.assert_close(ones, torch.ones_like(ones))


def test_hops_lead_across_the_border_of_a_nest(nested):
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    links = csr_array((np.ones(len(nested.edges)), nested.edges.T), (nested.size,) * 2)
    assert connected_components(links, directed=False)[0] == 1
    far = np.linalg.norm(nested.xyz[nested.edges[:, 0]] - nested.xyz[nested.edges[:, 1]], axis=1)
    assert np.degrees(far.max()) < 3 * np.degrees(np.sqrt(nested.weights.max()))
    alone = union(COARSE, FINE, "replace")  # a region: none reach around the world
    assert (
        np.degrees(np.linalg.norm(alone.xyz[alone.edges[:, 0]] - alone.xyz[alone.edges[:, 1]], axis=1)).max()
        < 15
    )


CUT = union(GLOBES["gaussian"], NEST, "replace")
TWICE = union(CUT, box(45, 60, 0, 30, 20, 40), "replace")
UNIONS = {
    "stretched": CUT,
    "of a union": TWICE,
    "of a region": union(COARSE, FINE, "replace"),
    "of neighbors": union(box(10, 30, 0, 40, 4, 8), box(30, 40, 0, 40, 4, 16)),
    "in HEALPix": union(GLOBES["HEALPix"], COARSE, "replace"),
}


@pytest.mark.parametrize("name", UNIONS)
def test_integrals_are_kept_from_and_to_unions(name):
    """A smooth field and a constant; cells that another takes the place of count nothing."""
    whole, other = UNIONS[name], ga.grids.equiangular(13, 24)
    np.testing.assert_allclose(outline_areas(whole), whole.cell_areas, rtol=1e-11)
    for source, target in ((whole, other), (other, whole), (whole, CUT)):
        operator = ga.xarray.Regridder(source, target, "conservative")
        field = np.exp(source.xyz[..., 0]) + source.xyz[..., 1]
        moved = operator(field, least=0.0).ravel()
        there = operator.weights.covered > 0
        kept = (operator.weights.covered * target.cell_areas.ravel() * moved)[there].sum()
        given = (operator.weights.used * source.cell_areas.ravel() * field.ravel()).sum()
        assert kept == pytest.approx(given, rel=1e-12)
        ones = operator(np.ones(source.shape), least=0.0).ravel()[there]
        np.testing.assert_allclose(ones, 1.0, rtol=1e-9)
        if source.is_global:
            np.testing.assert_allclose(operator.weights.covered, 1.0, rtol=1e-9)
        assert operator.matrix.data.min() > 0


def test_a_cell_that_is_cut_shares_what_is_left_of_it():
    """The cell between 20 and 25°N, 30 and 35°E without the finer box's corner, by hand."""
    whole = UNIONS["of a region"]
    token = int(np.searchsorted(whole.kept, 2 * 16 + 6))
    lower, upper = (box(south, north, 30, 35, 1, 1) for south, north in ((20, 23), (23, 25)))
    for part, left in (
        (lower, area(20, 23, 30, 35)),
        (upper, area(23, 25, 30, 35) - area(23, 25, 33, 35)),
    ):
        assert shared_areas(whole, part)[0, token] == pytest.approx(left, rel=1e-12)


def test_weights_of_unions_are_kept_in_files(tmp_path):
    operator = ga.xarray.Regridder(CUT, ga.grids.healpix(4), "conservative")
    operator.save(tmp_path / "weights.nc")
    read = ga.xarray.Regridder.open(tmp_path / "weights.nc", CUT, ga.grids.healpix(4))
    field = CUT.xyz[..., 2]
    np.testing.assert_array_equal(read(field), operator(field))


def test_a_rim_is_seen_and_not_updated():
    """The way that docs/regions.md shows: queries of the region, keys of the union."""
    region = box(20, 40, 10, 40, 10, 15)
    whole = union(box(10, 50, 0, 50, 8, 10), region, "replace")
    hood = ga.geodesic(region, whole, radius=8.0)
    layer = ga.nn.Attention(8, 2, hood)
    inner, rim = torch.randn(1, *region.shape, 8), torch.randn(1, *whole.first.shape, 8)
    context = whole.join(rim.movedim(-1, 1), inner.movedim(-1, 1)).movedim(1, -1)
    out = layer(inner, context=context)
    assert out.shape == inner.shape
    other = whole.join((rim + 1).movedim(-1, 1), inner.movedim(-1, 1)).movedim(1, -1)
    moved = (layer(inner, context=other) - out).abs().amax(-1)[0]
    assert (moved[0] > 0).all()  # next to the rim
    assert (moved[5, 7] == 0).all()  # 8° and more away from it


def test_models_and_pictures_work_on_unions(nested, tmp_path):
    config = ga.models.TransformerConfig(
        nested, ga.geodesic(nested, radius=15.0), in_channels=2, out_channels=1, dim=8, depth=1
    )
    model = config.build()
    out = model(torch.randn(1, 2, *nested.shape))
    assert out.shape == (1, 1, *nested.shape)
    ga.models.save(tmp_path / "m.pt", model)
    again = ga.models.load(tmp_path / "m.pt")[0]
    assert again.config.grid == nested
    plt = pytest.importorskip("matplotlib.pyplot", reason="maps are drawn by matplotlib")
    ga.picture(ga.geodesic(nested, radius=15.0), (10,))
    plt.close("all")


def test_resampling_to_and_from_unions_keeps_linear_fields(nested):
    for query, key in ((nested, GLOBES["lat-lon"]), (GLOBES["lat-lon"], nested)):
        field = torch.as_tensor(key.xyz @ [1.0, 2.0, -0.5])[None, ..., None]
        found = ga.nn.Resample(query, key).double()(field)[0, ..., 0].numpy()
        np.testing.assert_allclose(found, query.xyz @ [1.0, 2.0, -0.5], atol=0.05)


# --- refusals -----------------------------------------------------------------------------------------


def test_overlaps_are_refused_unless_asked_for(refused_by):
    with refused_by("grids/union.py", "the grids overlap: ") as said:
        union(COARSE, FINE)
    assert said.run("ga.grids.union(", a=COARSE, b=FINE) == union(COARSE, FINE, "replace")
    share = area(23, 50, 33, 67) / area(10, 50, 0, 80)
    assert f"{share:.2%} of the area of the first" in said.message
    beside = box(10, 50, 80, 120, 8, 8)
    assert union(COARSE, beside).size == COARSE.size + beside.size


def test_grids_without_cells(refused_by):
    lists = ga.grids.points([10.0, 20.0], [100.0, 110.0], areas=[0.01, 0.01])
    with refused_by("grids/union.py", "where grids overlap is told by their cells") as said:
        union(lists, ga.grids.points([50.0], [200.0], areas=[0.01]))
    b = ga.grids.points([50.0], [200.0], areas=[0.01])
    assert said.run("ga.grids.points(np.append", a=lists, b=b).size == 3


def test_unions_that_leave_nothing(refused_by):
    with pytest.raises(ValueError, match="nothing is left of the first grid"):
        union(box(25, 30, 40, 45, 2, 2), FINE, "replace")
    with pytest.raises(ValueError, match='overlap must be "refuse" or "replace"'):
        union(COARSE, FINE, "cut")
    with pytest.raises(TypeError, match="a must be a grid of the sphere"):
        union(ga.grids.cartesian((3, 3)), FINE)
