"""Families of regions, oceans and meshes under all that stands on a grid, against dense oracles."""

import numpy as np
import pytest
import torch
from meshes import icon, mpas, tripolar, ugrid
from test_regional import rotated

import geoattn as ga

pytest.importorskip("xarray", reason="meshes are read from data sets")

(LAT, LON), CORNERS, _ = rotated(10, 14, tilt=40.0, steps=(3.0, 3.0))
FAMILIES = {
    "slice": lambda: ga.grids.regional(np.arange(20.0, 60.0, 4.0), np.arange(-30.0, 30.0, 5.0)),
    "rotated pole": lambda: ga.grids.regional(LAT, LON, CORNERS),
    "tripolar": lambda: ga.grids.regional(*tripolar(n=24, rows=9, cap=6)),
    "tripolar, half a step from the fold": lambda: ga.grids.regional(
        *tripolar(n=24, rows=9, cap=6, pivot="F", halo=False)
    ),
    "ICON": lambda: ga.grids.from_xarray(icon(2)),
    "MPAS": lambda: ga.grids.from_xarray(mpas(2)),
    "UGRID nodes": lambda: ga.grids.from_xarray(ugrid(2, "node")),
    "UGRID region": lambda: ga.grids.from_xarray(
        ugrid(2).isel(face=np.flatnonzero(ga.grids.from_xarray(ugrid(2)).lat > 10))
    ),
    "FV3": lambda: ga.grids.cubed_sphere(6, "equal-edge"),
    "nest": lambda: ga.grids.union(
        ga.grids.gaussian(10, 20), ga.grids.regional(LAT, LON, CORNERS), overlap="replace"
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def grid(request):
    return FAMILIES[request.param]()


def flat(grid):
    return grid.xyz.reshape(-1, 3)


def degrees_apart(grid):
    x = flat(grid)
    return np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(x[:, None] - x[None], axis=-1) / 2, 0, 1)))


def seen(hood):
    indptr, keys = hood.to_csr()
    dense = np.zeros((hood.query_grid.size, hood.key_grid.size), bool)
    dense[np.repeat(np.arange(len(dense)), np.diff(indptr)), keys] = True
    return dense


def hops(grid, steps):
    size = grid.size
    beside = np.eye(size, dtype=bool)
    beside[grid.edges[:, 0], grid.edges[:, 1]] = beside[grid.edges[:, 1], grid.edges[:, 0]] = True
    reached = np.eye(size, dtype=bool)
    for _ in range(steps):
        reached = (reached.astype(np.int64) @ beside) > 0
    return reached


def test_discs_neighbors_and_hops_are_those_of_all_pairs(grid):
    apart = degrees_apart(grid)
    np.testing.assert_array_equal(seen(ga.geodesic(grid, radius=17.3)), apart <= 17.3)
    found = seen(ga.nearest(grid, k=5))
    assert (found.sum(1) == 5).all()
    cells = grid.weights.ravel() > 0  # points without one are no keys
    assert not found[:, ~cells].any()
    furthest = np.where(found, apart, 0).max(1)
    assert (np.where(found | ~cells, 360, apart).min(1) >= furthest - 1e-5).all()
    np.testing.assert_array_equal(seen(ga.k_hop(grid, 2)), hops(grid, 2))
    degree = np.bincount(grid.edges.ravel(), minlength=grid.size)
    assert degree[grid.weights.ravel() > 0].min() >= 1


def dense_attention(q, k, v, visible, weights):
    with np.errstate(divide="ignore"):
        scores = q @ k.T * q.shape[-1] ** -0.5 + np.log(weights.ravel())
    scores = np.where(visible, scores, -np.inf)
    scores -= scores.max(1, keepdims=True)
    return np.exp(scores) @ v / np.exp(scores).sum(1, keepdims=True)


def test_attention_is_the_integral_over_cells(grid):
    random = np.random.default_rng(0)
    q, k, v = random.standard_normal((3, grid.size, 8))
    for hood in (ga.geodesic(grid, radius=20.0), ga.k_hop(grid, 2), ga.curve_window(grid, 40)):
        expected = dense_attention(q, k, v, seen(hood), grid.weights)
        for backend, dtype, within in (("reference", torch.float64, 1e-11), (None, torch.float32, 2e-5)):
            shaped = [torch.as_tensor(x, dtype=dtype).reshape(1, *grid.shape, 1, 8) for x in (q, k, v)]
            found = ga.attention(*shaped, hood, backend=backend).reshape(-1, 8).numpy()
            assert np.abs(found - expected).max() < within


def test_plans_hold_every_edge_once(grid):
    hood = ga.geodesic(grid, radius=20.0)
    for shape in ((64, 64), (32, 1)):
        found = ga.plans.statistics(ga.plans.build(hood, *shape))
        assert found.useful_pairs == hood.counts.sum()


@pytest.mark.parametrize("curve", ["hilbert", "morton", "bisection"])
def test_curves_keep_neighbors_near(grid, curve):
    order = ga.grids.order(grid, curve)
    np.testing.assert_array_equal(np.sort(order), np.arange(grid.size))
    step = np.linalg.norm(np.diff(flat(grid)[order], axis=0), axis=1)
    shuffled = np.random.default_rng(0).permutation(grid.size)
    anyhow = np.linalg.norm(np.diff(flat(grid)[shuffled], axis=0), axis=1)
    assert np.median(step) < 0.6 * np.median(anyhow)


def test_fields_are_resampled_to_and_from_other_grids(grid):
    globe = ga.grids.icosahedral(3)
    linear = [1.0, 2.0, -0.5]
    for query, key in ((grid, globe), (grid, grid)):
        field = torch.as_tensor(key.xyz @ linear)[None, ..., None]
        found = ga.nn.Resample(query, key).double()(field)[0, ..., 0].numpy()
        np.testing.assert_allclose(found, query.xyz @ linear, atol=0.02)
    near = degrees_to(globe, grid) < 2.0
    back = ga.nn.Resample(globe, grid).double()(torch.as_tensor(grid.xyz @ linear)[None, ..., None])
    np.testing.assert_allclose(back[0, near, 0].numpy(), (globe.xyz @ linear)[near], atol=0.15)


def degrees_to(points, grid):
    chords = np.linalg.norm(points.xyz[:, None] - flat(grid)[None], axis=-1).min(1)
    return np.degrees(2 * np.arcsin(chords / 2))


@pytest.mark.parametrize("position", ["harmonic", "directional"])
def test_models_learn_on_it(grid, position, tmp_path):
    torch.manual_seed(0)
    config = ga.models.TransformerConfig(
        grid,
        ga.geodesic(grid, radius=20.0),
        in_channels=2,
        out_channels=2,
        dim=24,
        depth=1,
        num_heads=2,
        position=position,
    )
    model = config.build()
    fields = torch.randn(1, 2, *grid.shape)
    out = model(fields)
    ga.grids.position_features(grid, 2)
    assert out.shape == fields.shape
    (out - 1).square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if position == "harmonic":
        ga.models.save(tmp_path / "model.pt", model)
        again, _ = ga.models.load(tmp_path / "model.pt")
        torch.testing.assert_close(again(fields), out)


def test_it_is_written_read_and_pictured(grid):
    plt = pytest.importorskip("matplotlib.pyplot", reason="maps are drawn by matplotlib")
    from geoattn.plot import lat_lon_map

    assert ga.grids.Grid.from_dict(grid.to_dict()) == grid
    lat_lon_map(None, grid, np.ones(grid.shape), "one")
    ga.picture(ga.geodesic(grid, radius=20.0), tuple(n // 2 for n in grid.shape))
    plt.close("all")
    ds = ga.xarray.coordinates(grid)
    dims = tuple(dict.fromkeys((*ds["latitude"].dims, *ds["longitude"].dims)))
    found = ga.grids.from_xarray(ds.assign(t=(dims, np.zeros(grid.shape))))
    if found.kind != "icosahedral":  # whose nodes the UGRID file's are: these have weights of their own
        np.testing.assert_allclose(found.weights.ravel(), grid.weights.ravel(), rtol=1e-6)
