"""What the operator, neighborhoods and modules refuse: each remedy that a message names is carried out."""

import warnings

import numpy as np
import pytest
import torch
import xarray

import geoattn as ga
from geoattn import backends, calls, models, programs
from geoattn.plans import cache

SPHERE, PLANE = ga.grids.gaussian(6, 12), ga.grids.cartesian((6, 8))
HOOD = ga.geodesic(SPHERE, radius=50.0)
TransformerConfig = models.TransformerConfig


def operands(grid=SPHERE, dim=4):
    torch.manual_seed(0)
    return [torch.randn(1, *grid.shape, 2, dim) for _ in range(3)]


def tokens(grid=SPHERE, dim=8):
    return torch.randn(1, *grid.shape, dim)


# ---------------------------------------------------------------- the operator


def test_what_is_no_neighborhood(refused_by):
    made = [("geoattn.geodesic(", "50", SPHERE), ("geoattn.window(", "", PLANE)]
    made += [("geoattn.everything(", "", SPHERE)]
    for no_hood in (SPHERE, ga.geodesic, torch.nn.Linear(2, 2), ga.neighborhoods):
        with refused_by("neighborhoods/base.py", "{name} must be a neighborhood, got") as said:
            ga.attention(*operands(), no_hood)
        for start, blank, grid in made:
            hood = said.run(start, blank, grid=grid, size=3)
            assert ga.attention(*operands(grid), hood).shape == (1, *grid.shape, 2, 4)
    module = ga.nn.Attention(8, 2, HOOD)
    with refused_by("neighborhoods/base.py", "{name} must be a neighborhood, got") as said:
        ga.nn.Attention(8, 2, module)
    hood = said.run("hood=", hood=module)
    assert ga.nn.Attention(8, 2, hood)(tokens()).shape == (1, *SPHERE.shape, 8)
    with refused_by("neighborhoods/base.py", "{name} must be a neighborhood, got") as said:
        ga.attention(*operands(), [HOOD, HOOD])
    for start in ("geoattn.heads(", "geoattn.union("):
        both = said.run(start, a=HOOD, b=ga.everything(SPHERE))
        assert ga.attention(*operands(), both).shape == (1, *SPHERE.shape, 2, 4)


def test_operands_of_other_kinds(refused_by):
    q, k, v = operands()
    expected = ga.attention(q, k, v, HOOD)
    for other in (q.numpy(), q.tolist(), xarray.DataArray(q.numpy())):
        with refused_by("operands.py", " must be a torch tensor, got ") as said:
            ga.attention(other, k, v, HOOD)
        assert torch.equal(ga.attention(said.run("torch.as_tensor", q=other), k, v, HOOD), expected)
    ds = xarray.Dataset({"q": xarray.DataArray(q.numpy())})
    with refused_by("operands.py", " must be a torch tensor, got ") as said:
        ga.attention(ds, k, v, HOOD)
    assert torch.equal(ga.attention(said.run("torch.as_tensor", "'q'", q=ds), k, v, HOOD), expected)
    with refused_by("operands.py", "q, k and v must have one dtype") as said:
        ga.attention(q.double(), k, v, HOOD)
    said.says(".to()")
    assert torch.equal(ga.attention(q.double().to(k.dtype), k, v, HOOD), expected)
    for dtype in (torch.int32, torch.float8_e4m3fn):
        others = [x.to(dtype) for x in (q, k, v)]
        with refused_by("operands.py", "q, k and v must be floating point of 16 to 64 bits") as said:
            ga.attention(*others, HOOD)
        said.says(".float()")
        assert ga.attention(*(x.float() for x in others), HOOD).isfinite().all()
    with refused_by("operands.py", "q, k and v must be on one device") as said:
        ga.attention(q, k, v.to("meta"), HOOD)
    said.says(".to()")
    assert ga.attention(q.to("meta"), k.to("meta"), v.to("meta"), HOOD).device.type == "meta"


def test_operands_in_another_order(refused_by):
    q, k, v = operands()
    flat = q.flatten(1, 2)
    for other in (q.movedim(-2, 1), flat, flat.transpose(1, 2)):
        with refused_by("operands.py", " must be [B, ") as said:
            ga.attention(other, k, v, HOOD)
        assert torch.equal(said.run("q.", q=other), q)


def test_what_is_given_for_each_key(refused_by):
    q, k, v = operands()
    half = torch.arange(SPHERE.size).reshape(SPHERE.shape) % 2 == 0
    hidden = ga.attention(q, k, v, HOOD, key_mask=half)
    with refused_by("operands.py", "key_mask must be bool") as said:
        ga.attention(q, k, v, HOOD, key_mask=half.float())
    said.says("key_bias")
    assert ga.attention(q, k, v, HOOD, key_bias=half.float()).isfinite().all()
    with refused_by("operands.py", "key_weights must not be negative or NaN") as said:
        ga.attention(q, k, v, HOOD, key_weights=torch.where(half, 1.0, -1.0))
    said.says("weight 0", "key_mask")
    by_weight = ga.attention(q, k, v, HOOD, key_weights=half.float())
    by_mask = ga.attention(q, k, v, HOOD, key_weights=torch.where(half, 1.0, -1.0).abs(), key_mask=half)
    torch.testing.assert_close(by_weight, by_mask)
    weights = half.numpy() + 0.5
    with refused_by("operands.py", 'key_weights must be "quadrature", None or a tensor, got {}') as said:
        ga.attention(q, k, v, HOOD, key_weights=weights)
    assert ga.attention(
        q, k, v, HOOD, key_weights=said.run("torch.as_tensor", "weights", weights=weights)
    ).any()
    with refused_by("nn/attention.py", "got {}; make a tensor of it") as said:
        ga.nn.Attention(8, 2, HOOD, key_weights=weights)
    made = said.run("torch.as_tensor", "weights", weights=weights)
    assert ga.nn.Attention(8, 2, HOOD, key_weights=made)(tokens()).isfinite().all()
    for flat in (half.flatten(), half.flatten()[None]):
        with refused_by("operands.py", " on the key grid {hood.key_grid}, got") as said:
            ga.attention(q, k, v, HOOD, key_mask=flat)
        fixed = said.run("key_mask.unflatten(", key_mask=flat)
        assert torch.equal(ga.attention(q, k, v, HOOD, key_mask=fixed), hidden)
    with refused_by("operands.py", "key_bias must be floating point") as said:
        ga.attention(q, k, v, HOOD, key_bias=half)
    said.says("key_mask")
    with refused_by("operands.py", "than {dtype} can") as said:
        ga.attention(q, k, v, HOOD, key_bias=half.double().sub(1) * 1e300)
    said.says("key_mask", "a bias of -inf")
    by_bias = ga.attention(q, k, v, HOOD, key_bias=torch.where(half, 0.0, -np.inf).double())
    torch.testing.assert_close(by_bias, hidden)
    with refused_by("operands.py", "{name} is on {x.device} but q is on") as said:
        ga.attention(q, k, v, HOOD, key_mask=half.to("meta"))
    said.says(".to(q.device)")
    assert torch.equal(ga.attention(q, k, v, HOOD, key_mask=half.to(q.device)), hidden)


def test_a_bias_for_every_pair(refused_by):
    q, k, v = operands()
    hood, relation = HOOD, ga.relations.edges(HOOD)
    with refused_by("operands.py", "relation must be a relation on the edges") as said:
        ga.attention(q, k, v, HOOD, relation=HOOD, relation_bias=torch.zeros(2, 3))
    assert said.run("geoattn.relations.edges(", hood=hood) == relation
    values = np.zeros(relation.count, int)
    assert said.run("geoattn.relations.labels(", hood=hood, values=values).count == 1
    with refused_by("operands.py", "relation needs relation_bias") as said:
        ga.attention(q, k, v, HOOD, relation=relation)
    table = said.run("torch.zeros")
    expected = ga.attention(q, k, v, HOOD)
    torch.testing.assert_close(ga.attention(q, k, v, HOOD, relation=relation, relation_bias=table), expected)
    part = HOOD.without_keys(SPHERE.lat > 60)
    with refused_by("operands.py", "the call attends over {hood}; give the numbers") as said:
        ga.attention(q, k, v, part, relation=relation, relation_bias=table)
    on_part = said.run("relation.on(", relation=relation, hood=part)
    found = ga.attention(q, k, v, part, relation=on_part, relation_bias=table)
    torch.testing.assert_close(found, ga.attention(q, k, v, part))
    with refused_by("operands.py", "relation_bias must be floating point") as said:
        ga.attention(q, k, v, HOOD, relation=relation, relation_bias=table.long())
    said.says(".float()")
    again = ga.attention(q, k, v, HOOD, relation=relation, relation_bias=table.long().float())
    torch.testing.assert_close(again, expected)
    with refused_by("operands.py", "relation_bias is on {table.device}") as said:
        ga.attention(q, k, v, HOOD, relation=relation, relation_bias=table.to("meta"))
    said.says(".to(q.device)")
    assert table.to(q.device) is table
    for wrong in (table[:1], table[:, 1:], table[None, None], table.expand(3, -1, -1)):
        with pytest.raises(ValueError, match=r"relation_bias must be \[2, .*, got shape"):
            ga.attention(q, k, v, HOOD, relation=relation, relation_bias=wrong)
    hood = ga.heads(HOOD, ga.everything(SPHERE))
    with refused_by("operands.py", "takes one {name} for each of its {n} parts") as said:
        ga.attention(q, k, v, hood, relation=relation, relation_bias=table)
    relations = said.run("geoattn.relations.edges(", hood=hood), ga.relations.edges(hood.parts[1])
    tables = [torch.zeros(1, r.count) for r in relations]
    found = ga.attention(q, k, v, hood, relation=relations, relation_bias=tables)
    torch.testing.assert_close(found, ga.attention(q, k, v, hood))


def test_scales(refused_by):
    q, k, v = operands()
    expected = ga.attention(q, k, v, HOOD, scale=2.0)
    with refused_by("operands.py", "scale must be floating point of 16 to 64 bits, got a tensor of") as said:
        ga.attention(q, k, v, HOOD, scale=torch.tensor(2))
    said.says(".float()")
    assert torch.equal(ga.attention(q, k, v, HOOD, scale=torch.tensor(2).float()), expected)
    with refused_by("operands.py", "scale is on {scale.device}") as said:
        ga.attention(q, k, v, HOOD, scale=torch.tensor(2.0, device="meta"))
    said.says(".to(q.device)")
    assert torch.equal(ga.attention(q, k, v, HOOD, scale=torch.tensor(2.0).to(q.device)), expected)
    with refused_by("operands.py", "scale must be a number, a tensor of one or [H] numbers") as said:
        ga.attention(q, k, v, HOOD, scale=np.array([2.0, 2.0], np.float32))
    scale = said.run("torch.as_tensor", "scale", scale=np.array([2.0, 2.0], np.float32))
    torch.testing.assert_close(ga.attention(q, k, v, HOOD, scale=scale), expected)


def test_parts_to_merge(refused_by):
    q, k, v = operands()
    with refused_by("functional.py", "merge takes as many outputs as lses") as said:
        ga.merge([ga.attention(q, k, v, HOOD)], [])
    said.says("geoattn.attention(..., return_lse=True)")
    out, lse = ga.attention(q, k, v, HOOD, return_lse=True)
    torch.testing.assert_close(ga.merge([out], [lse])[0], out)


def test_backends(refused_by, monkeypatch):
    q, k, v = operands()
    with refused_by("operands.py", "backend must be a name in geoattn.backends()") as said:
        ga.attention(q, k, v, HOOD, backend=torch)
    assert "reference" in said.run("geoattn.backends()")
    with refused_by("backends/sdpa.py", "it computes every pair, and the neighborhood is not") as said:
        ga.attention(q, k, v, HOOD, backend="sdpa")
    said.says("geoattn.everything(…)", "backend=None", "geoattn.explain(q, k, v, hood)")
    with refused_by("backends/__init__.py", "cannot run this call: {reason}") as said:
        ga.attention(q, k, v, HOOD, backend="sdpa")
    said.says("backend=None")
    said.says("geoattn.everything(…)")
    assert ga.attention(q, k, v, ga.everything(SPHERE), backend="sdpa").isfinite().all()
    chosen = said.run("geoattn.explain(", q=q, k=k, v=v, hood=HOOD).chosen
    assert ga.attention(q, k, v, HOOD, backend=chosen).equal(ga.attention(q, k, v, HOOD, backend=None))
    monkeypatch.setattr(backends, "_said", set())
    monkeypatch.setattr(type(backends.get("cpu")), "refuses", lambda *_: "a reason")
    calls.forget()  # what is kept is asked for no more reasons
    with refused_by("backends/__init__.py", "runs on the reference, which is right but slow") as said:
        ga.attention(q, k, v, HOOD)
    assert said.run("geoattn.explain(", q=q, k=k, v=v, hood=HOOD).chosen == "reference"
    said.says("geoattn.everything(…)", "backend='reference'")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backends._said.clear()
        ga.attention(q, k, v, HOOD, backend="reference")


def test_huge_biases(refused_by):
    q, k, v = operands()
    mask = torch.ones(SPHERE.shape, dtype=torch.bool)
    mask[:3] = False
    backends.base.say_extreme.cache_clear()
    with refused_by("backends/base.py", "only keys with huge biases") as said:
        ga.attention(q, k, v, HOOD, key_bias=torch.where(mask, 0.0, torch.finfo(q.dtype).min))
    said.says("key_mask", "a bias of -inf")
    backends.base.say_extreme.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hidden = ga.attention(q, k, v, HOOD, key_mask=mask)
        assert torch.equal(ga.attention(q, k, v, HOOD, key_bias=torch.where(mask, 0.0, -torch.inf)), hidden)


def test_derivatives(refused_by):
    hood = ga.everything(ga.grids.cartesian(3))
    x = torch.randn(1, 3, 1, 2, dtype=torch.float64)

    def f(x):
        return ga.attention(x, x, x, hood).square().sum()

    with refused_by("derivatives.py", "attention has no forward-mode derivative") as said:
        torch.func.jvp(f, (x,), (torch.ones_like(x),))
    said.says("torch.func.jvp, jacfwd and hessian", "torch.autograd.forward_ad")
    by_func = said.run("torch.func.jacrev(torch.func.jacrev(f))", f=f)(x)
    torch.testing.assert_close(said.run("torch.autograd.functional.hessian(", f=f, x=x), by_func)
    x.requires_grad_()
    (first,) = said.run("torch.autograd.grad(", "f(x), x", f=f, x=x)
    second = torch.stack([torch.autograd.grad(g, x, retain_graph=True)[0] for g in first.flatten()])
    torch.testing.assert_close(second.reshape(by_func.shape), by_func)
    with refused_by("derivatives.py", "attention has no third derivative") as said:
        torch.func.jacrev(torch.func.jacrev(torch.func.jacrev(f)))(x.detach())
    (second,) = said.run("torch.autograd.grad(", "first.sum(), x", first=first, x=x)
    assert torch.autograd.grad(second.sum(), x)[0].isfinite().all()


def test_programs(refused_by):
    cell = {"__name__": "__main__"}
    exec(
        "import dataclasses, geoattn as ga\n"
        "from geoattn.neighborhoods import Neighborhood\n"
        "@dataclasses.dataclass(frozen=True, eq=False, repr=False)\n"
        "class OfThisCell(Neighborhood, kind='of-this-cell'):\n"
        "    def rows(self, queries): return ga.everything(self.query_grid, self.key_grid).rows(queries)\n",
        cell,
    )
    hood = cell["OfThisCell"](PLANE, PLANE)
    with refused_by("programs.py", "an exported program cannot carry") as said:
        programs.encoded(hood)
    edges = said.run("geoattn.from_edges(", query_grid=PLANE, key_grid=PLANE, hood=hood)
    assert programs.decoded(programs.encoded(edges)) == edges


# ---------------------------------------------------------------- neighborhoods


def test_discs_that_reach_nothing(refused_by, monkeypatch):
    monkeypatch.setattr(cache, "_doubted", set())
    small, fine = ga.grids.gaussian(4, 8), ga.grids.gaussian(24, 48)
    with refused_by("neighborhoods/reach.py", "see no key but themselves") as said:
        ga.plans.plan(ga.geodesic(SPHERE, radius=0.7), 32, 1)
    radius = said.run("radius=")
    assert ga.geodesic(SPHERE, radius=radius).counts.min() > 1
    with refused_by("neighborhoods/reach.py", "see no key, and get output 0") as said:
        ga.plans.plan(ga.geodesic(fine, small, radius=0.7), 32, 1)
    assert ga.geodesic(fine, small, radius=said.run("radius=")).counts.min() > 0
    with refused_by("neighborhoods/reach.py", "see no key, and get output 0") as said:
        ga.plans.plan(ga.geodesic(fine, small, radius=8.0), 32, 1)
    nearest = said.run("geoattn.nearest(", "2", query_grid=fine, key_grid=small)
    assert nearest.counts.min() == 2
    assert ga.geodesic(fine, small, radius=40.0).counts.min() > 0


def test_what_is_no_grid(refused_by):
    with refused_by("grids/base.py", "must be a grid, got") as said:
        ga.everything((6, 12))
    assert ga.everything(said.run("geoattn.grids.gaussian(", nlat=6, nlon=12)).query_grid == SPHERE
    assert ga.everything(said.run("geoattn.grids.cartesian(", shape=(6, 8))).query_grid == PLANE
    ds = ga.xarray.coordinates(SPHERE)
    assert ga.everything(said.run("geoattn.grids.from_xarray(", ds=ds)).query_grid == SPHERE


def test_neighborhoods_of_other_grids(refused_by):
    volume = ga.grids.product(ga.grids.cartesian(3), SPHERE)
    with refused_by("neighborhoods/geodesic.py", " needs points on a sphere, and ") as said:
        ga.geodesic(PLANE, radius=3)
    assert said.run("window(grid", grid=PLANE, size=3).counts.max() == 9
    hood = said.run(
        "product(",
        "ga.grids.cartesian(3), 3",
        "SPHERE, radius=50",
        "ga.everything(PLANE)",
        SPHERE=SPHERE,
        PLANE=PLANE,
    )
    assert hood.query_grid.shape == (3, 6, 12, 6, 8)
    with refused_by(
        "neighborhoods/nearest.py", "nearest needs two spherical grids or two Cartesian grids"
    ) as said:
        ga.nearest(volume, k=3)
    hood = said.run(
        "product(",
        "ga.grids.cartesian(3), 3",
        "SPHERE, k=4",
        "ga.everything(PLANE)",
        SPHERE=SPHERE,
        PLANE=PLANE,
    )
    assert hood.counts.max() == 3 * 4 * 48
    ring = ga.grids.cartesian(8, periodic=True)
    assert said.run("window(grid", grid=ring, size=3).counts.min() == 3
    with refused_by("neighborhoods/product.py", "a product is of neighborhoods, got") as said:
        ga.product(PLANE, HOOD)
    assert ga.product(said.run("window(grid", grid=PLANE, size=3), HOOD).counts.max() > 9
    assert ga.product(said.run("geodesic(grid", "50", grid=SPHERE), HOOD).counts.max() > 9
    assert ga.product(said.run("everything(", grid=PLANE), HOOD).counts.max() > 9
    points = ga.grids.healpix(4)
    with refused_by(
        "neighborhoods/window.py", "window needs a grid whose axes are ordered positions"
    ) as said:
        ga.window(points, 3)
    assert said.run("geodesic(grid", "50", grid=points).counts.min() > 9
    assert said.run("nearest(grid", "5", grid=points).counts.max() == 5
    assert said.run("curve_window(grid", grid=points, size=5).counts.max() == 5
    with refused_by(
        "neighborhoods/window.py", "window needs a grid whose axes are ordered positions"
    ) as said:
        ga.window(ga.grids.product(ga.grids.cartesian(3), points), 3)
    both = "ga.grids.cartesian(3), 3", "points, radius=50", "ga.everything(PLANE)"
    assert said.run("product(", *both, points=points, PLANE=PLANE).counts.max() > 9
    grid = ga.grids.product(ga.grids.cartesian(3), points)
    assert said.run("curve_window(grid", grid=grid, size=5).counts.max() == 5


def test_windows_that_do_not_fit(refused_by):
    with refused_by("neighborhoods/window.py", "exceeds the {n} positions") as said:
        ga.window(PLANE, 5, dilation=2)
    said.says('boundary="clip"')
    assert ga.window(PLANE, 5, dilation=2, boundary="clip").counts.max() == 12
    assert ga.window(PLANE, 3, dilation=2).counts.max() == 9
    with refused_by("neighborhoods/window.py", "does not divide the {} places of the ring") as said:
        ga.window(SPHERE, (6, 5), stride=(6, 5))
    said.says("periodic=False")
    assert ga.window(SPHERE, (6, 5), stride=(6, 5), periodic=False).counts.max() == 30
    assert ga.window(SPHERE, (6, 5), stride=(6, 4)).counts.max() == 30


# ---------------------------------------------------------------- modules


def test_attention_modules(refused_by):
    with refused_by("nn/attention.py", "pass head_dim to choose another size") as said:
        ga.nn.Attention(8, 3, HOOD)
    said.says("num_heads=2", "dim=9")
    assert ga.nn.Attention(8, 2, HOOD)(tokens()).shape == (1, 6, 12, 8)
    assert ga.nn.Attention(9, 3, HOOD).head_dim == 3
    assert ga.nn.Attention(8, 3, HOOD, head_dim=4)(tokens()).shape == (1, 6, 12, 8)
    cross = ga.nn.Attention(8, 2, ga.nearest(SPHERE, ga.grids.healpix(2), k=3))
    with refused_by("nn/attention.py", "leads from one grid to another: pass the tokens of") as said:
        cross(tokens())
    said.says("as context")
    assert cross(tokens(), context=tokens(ga.grids.healpix(2))).shape == (1, 6, 12, 8)
    with refused_by("nn/checks.py", " must be a tensor, got ") as said:
        ga.nn.Attention(8, 2, HOOD)(tokens().numpy())
    x = said.run("torch.as_tensor(", "x", x=tokens().numpy())
    assert ga.nn.Attention(8, 2, HOOD)(x).shape == x.shape
    values = xarray.DataArray(np.ones((2, 6, 12), "f4"), dims=("time", "latitude", "longitude"))
    ds = values.to_dataset(name="t").assign_coords(ga.xarray.coordinates(SPHERE).coords)
    x = said.run("ga.xarray.to_tensor(", ds=ds, schema=ga.xarray.Schema.of(ds))
    assert x.shape == (2, 1, 6, 12)


def test_pair_positions(refused_by):
    position, hood = ga.nn.Offsets(), ga.window(PLANE, 3)
    with refused_by("nn/position/pairs.py", "adds a bias for every pair of a neighborhood") as said:
        position.module(PLANE, PLANE, 2, 4)
    made = said.run("position.bias(", position=position, hood=hood, num_heads=2)
    assert made().shape == (2, 25)
    with refused_by("nn/attention.py", "brings queries and keys to unit length itself") as said:
        ga.nn.Attention(8, 2, hood, scale="learned", qk_norm=True)
    said.says("drop qk_norm=True")
    assert ga.nn.Attention(8, 2, hood, scale="learned")(tokens(PLANE)).isfinite().all()
    with pytest.raises(ValueError, match="scale must be 'learned', a number"):
        ga.nn.Attention(8, 2, hood, scale="cosine")


def test_positions(refused_by):
    with refused_by("nn/position/base.py", "is unknown; use None, one of") as said:
        ga.nn.Attention(8, 2, HOOD, position="harmonics")
    position = said.run("ga.nn.Harmonic(")
    assert ga.nn.Attention(8, 2, HOOD, position=position)(tokens()).shape == (1, 6, 12, 8)
    with refused_by("nn/position/channels.py", "needs points on a sphere, got") as said:
        ga.nn.Attention(8, 2, ga.window(PLANE, 3), position="harmonic")
    said.says("position='fourier' or 'rotary'")
    for name in ("fourier", "rotary"):
        module = ga.nn.Attention(8, 2, ga.window(PLANE, 3), position=name)
        assert module(tokens(PLANE)).shape == (1, 6, 8, 8)
    with refused_by("nn/position/channels.py", "needs a cartesian grid, got") as said:
        ga.nn.Attention(8, 2, HOOD, position="fourier")
    said.says("position='harmonic' or 'directional'")
    for name in ("harmonic", "directional"):
        assert ga.nn.Attention(8, 2, HOOD, position=name)(tokens()).shape == (1, 6, 12, 8)


def test_positions_that_are_none(refused_by):
    with refused_by("nn/position/base.py", "position is a class; make a value of it") as said:
        ga.nn.Attention(8, 2, HOOD, position=ga.nn.Angles)
    assert ga.nn.Block(8, 2, HOOD, position=said.run("Angles(", "bins=4", Angles=ga.nn.Angles))(
        tokens()
    ).any()
    with refused_by("nn/position/base.py", "position is a relation, ") as said:
        ga.nn.Attention(8, 2, HOOD, position=ga.relations.angles(HOOD, 8))
    assert ga.nn.Block(8, 2, HOOD, position=said.run("ga.nn.Angles("))(tokens()).any()
    with refused_by("nn/position/pairs.py", "has a number for each displacement along axes, and") as said:
        ga.nn.Attention(8, 2, HOOD, position="offsets")
    said.says("position='angles'")
    assert ga.nn.Attention(8, 2, HOOD, position="angles")(tokens()).any()
    windows = ga.window(PLANE, 3)
    with refused_by("nn/position/pairs.py", "has a number for each angle on a sphere, and") as said:
        ga.nn.Attention(8, 2, windows, position="angles")
    said.says("position='offsets'")
    assert ga.nn.Attention(8, 2, windows, position="offsets")(tokens(PLANE)).any()


def test_operands_with_axes_the_other_way_round_or_without_one_for_heads(refused_by):
    q = operands(dim=16)[0]
    for wrong, start in ((q.transpose(1, 2), "q.transpose("), (q.flatten(-2), "q.unflatten(")):
        with refused_by("operands.py", " must be [B, ") as said:
            ga.attention(wrong, q, q, HOOD)
        assert torch.equal(said.run(start, q=wrong), q)


def test_tokens_of_another_grid_and_kind(refused_by):
    embed = ga.nn.PatchEmbed(SPHERE, 2, 3, 8)
    patches = embed(torch.randn(1, *SPHERE.shape, 3))
    with refused_by("nn/checks.py", " must have shape [") as said:
        ga.nn.Block(8, 2, HOOD)(patches)
    said.says("embed.coarse_grid")
    assert ga.nn.Block(8, 2, ga.geodesic(embed.coarse_grid, radius=60))(patches).shape == patches.shape
    x = tokens()
    with refused_by("nn/checks.py", " must be a tensor, got ") as said:
        ga.nn.Block(8, 2, HOOD)(x.numpy())
    said.says("ga.xarray.to_tensor(ds, schema)")
    assert torch.equal(said.run("torch.as_tensor(", "x", x=x.numpy()), x)


def test_sizes_that_were_meant(refused_by):
    with refused_by("grids/healpix.py", "nested order needs nside to be a power of two, got ") as said:
        ga.grids.healpix(768)
    said.says("768 pixels are nside=8")
    assert ga.grids.healpix(8).size == 768
    with pytest.raises(ValueError, match=r"patches of 3 do not divide the 8 points .*; 1, 2, 4, 8 do"):
        ga.nn.patches(ga.grids.healpix(8), 3)


def test_names_that_were_misspelt():
    from geoattn.training import FitConfig

    with pytest.raises(ValueError, match="'torch:adamww' is unknown, did you mean 'adamw'"):
        FitConfig(optimizer="torch:adamww")
    with pytest.raises(ValueError, match="'torch:onecyle' is unknown, did you mean 'onecycle'"):
        FitConfig(schedule="torch:onecyle")
    with pytest.raises(TypeError, match="learning_rate must be a number, got '1e-3'"):
        FitConfig(learning_rate="1e-3")


def test_warnings_point_at_the_line_that_calls():
    grid = ga.grids.gaussian(12, 24)
    hood = ga.geodesic(grid, radius=0.2)
    with pytest.warns(UserWarning, match="the radius is in degrees") as told:
        ga.attention(*operands(grid), hood)
    assert told[0].filename == __file__


def test_positions_on_other_grids(refused_by):
    planes = ga.grids.product(PLANE, ga.grids.cartesian(2))
    others = [ga.everything(planes), ga.everything(PLANE, SPHERE), ga.everything(SPHERE, PLANE)]
    others += [ga.everything(PLANE, ga.grids.cartesian((3, 5)))]
    for hood in others:
        for position in ("harmonic", "fourier"):
            with pytest.raises(ValueError, match="between other grids use position=None"):
                ga.nn.Attention(8, 2, hood, position=position)
        context = tokens(hood.key_grid)
        x = tokens(hood.query_grid)
        assert ga.nn.Attention(8, 2, hood, position=None)(x, context=context).shape == x.shape
    with refused_by("nn/position/channels.py", "needs two grids of the same extent") as said:
        ga.nn.Attention(8, 2, others[-1], position="fourier")
    said.says("position=None")
    mixed = ga.everything(ga.grids.product(ga.grids.cartesian(2), SPHERE))
    with refused_by("nn/position/channels.py", "needs a cartesian grid, got") as said:
        ga.nn.Attention(8, 2, mixed, position="fourier")
    said.says("position='harmonic' or 'directional'")
    for name in ("harmonic", "directional"):
        ga.nn.Attention(8, 2, mixed, position=name)


def test_a_position_with_parameters(refused_by):
    cell = {"__name__": __name__}
    exec(
        "import dataclasses, geoattn as ga\n"
        "@dataclasses.dataclass(frozen=True, eq=False, repr=False)\n"
        "class Slopes(ga.nn.Directional, kind='slopes'):\n"
        "    slope: float = dataclasses.field(kw_only=True)\n",
        cell,
    )
    with refused_by("nn/position/base.py", "has parameters without defaults") as said:
        ga.nn.Attention(8, 2, HOOD, position="slopes")
    said.says("Slopes.__init__()")
    value = said.run("Slopes(…", "slope=1.0", Slopes=cell["Slopes"])
    assert ga.nn.Attention(8, 2, HOOD, position=value)(tokens()).shape == (1, 6, 12, 8)


def test_a_kind_is_ones_own(refused_by):
    with refused_by("_value.py", "would share the kind {cls.kind} of the class it extends") as said:

        class Wider(type(HOOD)):
            pass

    said.says("Wider(…, kind='…')")

    class Wider(type(HOOD), kind="wider"):
        pass

    assert Wider.kind == "wider"


def test_resampling(refused_by):
    coarse = ga.grids.gaussian(3, 6)
    with refused_by("nn/resampling.py", "has nothing to learn; use method='attention'") as said:
        ga.nn.Resample(coarse, SPHERE, "average", dim=8, num_heads=2)
    said.says("method='attention'")
    assert ga.nn.Resample(coarse, SPHERE, method="attention", dim=8, num_heads=2)(tokens()).shape == (
        1,
        3,
        6,
        8,
    )


# ---------------------------------------------------------------- models


def small(grid=SPHERE, **options):
    options = {"hoods": (ga.geodesic(grid, radius=60),), "in_channels": 1, "out_channels": 1} | options
    return models.TransformerConfig(grid=grid, dim=8, depth=1, num_heads=1, **options)


def test_models_are_saved_with_their_configuration(refused_by, tmp_path):
    model = small().build()
    models.save(tmp_path / "a.safetensors", model)
    loaded, _ = models.load(tmp_path / "a.safetensors")
    old = tmp_path / "old.pt"
    torch.save(model.state_dict(), old)
    with refused_by("models/checkpoint.py", "is a file of torch.save") as said:
        models.load(old)
    state = said.run("model.state_dict()", model=model)
    rebuilt = model.config.build()
    rebuilt.load_state_dict(state)
    models.save(tmp_path / "b.safetensors", rebuilt)
    x = torch.randn(1, 1, 6, 12)
    assert torch.equal(models.load(tmp_path / "b.safetensors")[0](x), loaded(x))


def test_models_that_do_not_fit(refused_by):
    stages = {"in_channels": 1, "out_channels": 1, "dims": (4, 4), "depths": (1, 1), "num_heads": (1, 1)}
    grid = ga.grids.equiangular(8, 16, poles=False)
    near = ga.geodesic(ga.nn.patches(grid, 2).grid, radius=60)
    with refused_by("models/encoder_decoder.py", "and its neighborhood lies on the") as said:
        models.EncoderDecoderConfig(grid, (near, near), patches=(2, 2), **stages)
    coarser = said.run("ga.nn.patches(", grid=grid)
    hoods = near, ga.geodesic(coarser, radius=90)
    config = models.EncoderDecoderConfig(grid, hoods, patches=(2, 2), **stages)
    assert config.build()(torch.randn(1, 1, 8, 16)).shape == (1, 1, 8, 16)
    said.says("patches=None")
    config = models.EncoderDecoderConfig(grid, (near, near), patches=None, **stages)
    assert config.build()(torch.randn(1, 1, 8, 16)).shape == (1, 1, 8, 16)
    coarse = small(ga.grids.equiangular(8, 16, poles=False), hoods=(near,), patch=2).build()
    mask = torch.ones(8, 16, dtype=torch.bool)
    with refused_by("models/transformer.py", "key_mask hides points of the") as said:
        coarse(torch.randn(1, 1, 8, 16), key_mask=mask)
    said.says("patch=1")
    fine = small(grid, hoods=(ga.geodesic(grid, radius=60),), patch=1).build()
    assert fine(torch.randn(1, 1, 8, 16), key_mask=mask).isfinite().all()


def test_queries_and_fields_that_are_none(refused_by):
    discs = ga.geodesic(SPHERE, radius=50)
    mask = np.arange(72) < 3
    with refused_by("neighborhoods/base.py", "queries must be flat indices [n]") as said:
        discs.rows(mask)
    chosen = said.run("np.flatnonzero(", mask=mask)
    assert said.run("queries.ravel(", queries=chosen[None]).shape == (3,)
    assert discs.rows(chosen).indptr.tolist() == discs.to_csr().indptr[:4].tolist()
    ds = ga.xarray.coordinates(SPHERE).assign(t=(("latitude", "longitude"), np.full((6, 12), 7.0)))
    with refused_by("grids/base.py", "field must be a numpy array or a torch tensor") as said:
        SPHERE.mean(ds.t)
    assert SPHERE.mean(said.run("np.asarray(", field=ds.t)) == pytest.approx(7.0)
    assert float(said.run("ds.geoattn.mean(", ds=ds).t) == pytest.approx(7.0)
    with refused_by("grids/catalogue.py", "name must be a grid's name") as said:
        ga.grids.named(5)
    assert "era5-0.25" in said.run("ga.grids.catalogue(")


def test_integer_tokens_and_a_neighborhood_between_other_grids(refused_by):
    fine = ga.grids.healpix(2)
    whole = torch.ones(1, 6, 12, 4, dtype=torch.int64)
    resample = ga.nn.Resample(fine, SPHERE)
    with refused_by("nn/checks.py", " must be floating point of 16 to 64 bits, got ") as said:
        resample(whole)
    assert torch.allclose(resample(said.run("x.float(", x=whole)), torch.ones(()))
    with refused_by("nn/resampling.py", "hood must lead from ") as said:
        ga.nn.Resample(fine, SPHERE, "attention", 8, 2, ga.everything(fine))
    hood = said.run("ga.nearest(", query_grid=fine, key_grid=SPHERE)
    assert ga.nn.Resample(fine, SPHERE, "attention", 8, 2, hood).attention is not None


def test_windows_between_grids_that_do_not_fit(refused_by):
    line = ga.grids.cartesian(8)
    with refused_by("neighborhoods/window.py", "is where queries lie on another grid") as said:
        ga.window(line, 3, origin=1)
    assert ga.window(line, 3, key_grid=said.run("key_grid=", "line", line=line), origin=1).origins == (1,)
    with refused_by("neighborhoods/window.py", "queries must lie whole numbers of keys apart") as said:
        ga.window(ga.grids.cartesian(8, 1.5), 3, key_grid=line)
    nearest = said.run("nearest(", "3", grid=ga.grids.cartesian(8, 1.5), key_grid=line)
    assert nearest.counts.max() == 3
    ring = ga.grids.cartesian(9, periodic=True)
    with refused_by("neighborhoods/window.py", "do not close on the ring of ") as said:
        ga.window(line, 3, key_grid=ring)
    assert ga.window(line, 3, key_grid=ring, periodic=said.run("periodic=")).periodic == (False,)
