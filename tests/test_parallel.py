"""How grids are cut among processes, and what an estimate says; one process suffices."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.neighborhoods.known import known
from geoattn.neighborhoods.selected import selected
from geoattn.parallel import Cut, exchange
from geoattn.parallel.estimate import heads_bytes, kv_heads_of_each
from geoattn.parallel.share import share
from geoattn.relations.selected import Selected

SPHERE = ga.grids.gaussian(16, 32)
DISC = ga.geodesic(SPHERE, radius=15.0)


def edges_of(hood):
    indptr, indices = hood.to_csr()
    return np.repeat(np.arange(hood.query_grid.size), np.diff(indptr)), indices


def halo_of(hood, cut):
    """Distinct pairs of a process and a key of another that one of its queries sees, by definition."""
    queries, keys = edges_of(hood)
    asking, holding = cut.owner(hood.query_grid)[queries], cut.owner(hood.key_grid)[keys]
    pairs = {(int(a), int(k)) for a, h, k in zip(asking, holding, keys, strict=True) if a != h}
    return np.bincount([a for a, _ in pairs], minlength=cut.n)


# ---------------------------------------------------------------- cuts


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16])
def test_pieces_carry_equal_loads_and_are_compact(n):
    cut = ga.parallel.cut(DISC, n)
    load = np.bincount(cut.owner(SPHERE), DISC.counts.reshape(-1) + 1.0, minlength=n)
    assert load.max() < 1.1 * load.mean()
    xyz = SPHERE.xyz.reshape(-1, 3)
    pieces = [xyz[cut.tokens(SPHERE, rank)] for rank in range(n)]
    spread = sum(((piece - piece.mean(0)) ** 2).sum() for piece in pieces) / SPHERE.size
    assert spread < 3.2 / max(n, 3)  # of caps with 1 / n of the sphere it would be about 2 / n


def test_equal_arguments_give_equal_cuts_and_files_hold_them():
    hoods = [DISC, ga.nearest(SPHERE, ga.grids.healpix(4), k=4)]
    cut = ga.parallel.cut(hoods, 6)
    assert cut == ga.parallel.cut(hoods, 6) == Cut.from_dict(cut.to_dict())
    assert cut != ga.parallel.cut(hoods, 5)


def test_another_axis_is_cut_where_that_cuts_fewer_edges():
    """All times of a point see each other: the wide axis of time stays whole."""
    times = ga.grids.cartesian(40, spacing=1.0)
    hood = ga.product(ga.everything(times), ga.window(ga.grids.cartesian((8, 8)), 3))
    owner = ga.parallel.cut(hood, 4).owner(hood.query_grid).reshape(40, 8, 8)
    assert (owner == owner[0]).all()
    assert ga.parallel.partition(hood, 4).estimate().halo.max() == 40 * 9


def test_grids_of_one_model_are_cut_alike():
    """From a fine grid to a mesh, on the mesh and back: only what crosses the pieces' borders moves."""
    fine, mesh = ga.grids.gaussian(24, 48), ga.grids.icosahedral(3)
    hoods = [ga.nearest(mesh, fine, k=8), ga.k_hop(mesh, 3), ga.nearest(fine, mesh, k=4)]
    cut = ga.parallel.cut(hoods, 4)
    assert set(cut.grids) == {fine, mesh}
    for hood in hoods:
        told = ga.parallel.partition(hood, 4, cut).estimate()
        assert told.share < (0.1 if hood.kind == "nearest" else 0.4)
    total = sum(ga.parallel.partition(hood, 4, cut).estimate().edges for hood in hoods)
    assert total.max() < 1.15 * total.mean()


def test_tokens_tied_to_nothing_are_held_too():
    """A follower without ties, a grid that only "everything" ties, and fewer tokens than processes."""
    line, few = ga.grids.cartesian(30), ga.grids.cartesian(3)
    lonely = ga.from_edges(few, line, [0, 0, 0, 4], [3, 4, 5, 29])
    cut = ga.parallel.cut([ga.window(line, 5), lonely, ga.everything(SPHERE, line)], 8)
    for grid in (line, few, SPHERE):
        assert np.bincount(cut.owner(grid), minlength=8).sum() == grid.size
    assert cut.owner(few)[2] == cut.owner(line)[4] == cut.owner(line)[5]


@pytest.mark.parametrize(
    ("hoods", "n", "told"),
    [
        ([], 2, "got none"),
        (DISC, 0, "n must be a number of processes"),
        (DISC, 2**15, "n must be a number of processes"),
    ],
)
def test_cuts_of_nothing_are_refused(hoods, n, told):
    with pytest.raises(ValueError, match=told):
        ga.parallel.cut(hoods, n)


@pytest.mark.parametrize(
    ("owner", "told"),
    [
        (np.zeros(3, np.int16), r"must be int16 \[512\]"),
        (np.zeros(512, np.int64), "must be int16"),
        (np.full(512, 2, np.int16), r"must lie in \[0, 2\)"),
    ],
)
def test_owners_of_ones_own_are_checked(owner, told):
    with pytest.raises(ValueError, match=told):
        Cut(2, (SPHERE,), (owner,))
    with pytest.raises(ValueError, match="1 grids need as many owners, got 0"):
        Cut(2, (SPHERE,), ())


def test_remedies_of_cuts(refused_by):
    with refused_by("parallel/cut.py", "a cut is made for neighborhoods, got {hood}") as said:
        ga.parallel.cut([SPHERE], 2)
    assert said.run("geodesic(", "5", grid=SPHERE).query_grid == SPHERE
    said.says("window(grid, size)")
    with refused_by("parallel/cut.py", "and not of") as said:
        ga.parallel.partition(DISC, 2, ga.parallel.cut(ga.window(ga.grids.cartesian(9), 3), 2))
    assert SPHERE in said.run("geoattn.parallel.cut(", hoods=[DISC]).grids
    with refused_by("parallel/partition.py", "cut must be one that") as said:
        ga.parallel.partition(DISC, 2, 3)
    assert said.run("geoattn.parallel.cut(", hoods=DISC).n == 2
    with refused_by("parallel/partition.py", "is not for {n} processes") as said:
        ga.parallel.partition(DISC, 2, ga.parallel.cut(DISC, 3))
    assert said.run("geoattn.parallel.cut(", hoods=DISC).n == 2
    with refused_by("parallel/partition.py", "a partition is of a neighborhood") as said:
        ga.parallel.partition(SPHERE, 2)
    assert said.run("geodesic(", "5", grid=SPHERE).query_grid == SPHERE


def test_without_a_process_group(refused_by):
    assert not torch.distributed.is_initialized()
    with refused_by("parallel/partition.py", "there is no process group yet") as said:
        ga.parallel.partition(DISC, None)
    assert said.run("geoattn.parallel.partition(", hood=DISC).n == 4
    said.says("--nproc-per-node 4", "torch.distributed.init_process_group()")
    x = torch.zeros(1, *SPHERE.shape, 2, 4)
    with refused_by("parallel/partition.py", "this partition is an estimate for") as said:
        ga.parallel.attention(x, x, x, ga.parallel.partition(DISC, 4))
    said.says("geoattn.parallel.partition(hood, group)", 'geoattn.parallel.partition(hood, mesh["domain"])')
    with refused_by("parallel/attention.py", "the fourth argument must be a partition") as said:
        ga.parallel.attention(x, x, x, DISC)
    said.says("geoattn.parallel.partition(hood, group)")


# ---------------------------------------------------------------- estimates


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize(
    "hood",
    [
        DISC,
        ga.window(ga.grids.cartesian((9, 12)), (3, 5), causal=True),
        ga.nearest(SPHERE, ga.grids.healpix(4), k=3),
        ga.everything(ga.grids.gaussian(4, 6), ga.grids.cartesian(9)),
    ],
    ids=lambda hood: hood.kind,
)
def test_halos_are_the_keys_of_others_that_a_process_sees(n, hood):
    cut = ga.parallel.cut(hood, n)
    told = ga.parallel.partition(hood, n, cut).estimate(batch=3, heads=4, kv_heads=2, dim=8, dim_v=16)
    assert (told.halo == halo_of(hood, cut)).all()
    assert (told.bytes_by["halo"] == told.halo * 3 * 2 * (8 + 16) * 4).all()
    queries, _ = edges_of(hood)
    assert (told.edges == np.bincount(cut.owner(hood.query_grid)[queries], minlength=n)).all()
    assert told.queries.sum() == hood.query_grid.size
    assert told.keys.sum() == hood.key_grid.size


def test_an_estimate_says_what_is_exchanged():
    told = ga.parallel.partition(ga.everything(SPHERE), 4).estimate(heads=8)
    assert told.exchange == "heads"
    assert told.received.sum() == told.bytes_by["heads"].sum() < told.bytes_by["halo"].sum()
    assert "exchange of heads" in repr(told)
    assert ga.parallel.partition(DISC, 4).estimate(heads=8).exchange == "halo"
    two, cut = ga.heads(DISC, ga.everything(SPHERE)), ga.parallel.cut(DISC, 4)
    both = ga.parallel.partition(two, 4, cut).estimate(heads=16)
    apart = [ga.parallel.partition(hood, 4, cut).estimate(heads=8) for hood in two.parts]
    assert both.exchange == "halo and heads"
    assert (both.edges == apart[0].edges + apart[1].edges).all()
    assert (both.received == apart[0].received + apart[1].received).all()


@pytest.mark.parametrize(
    ("heads", "kv_heads", "n", "own"),
    [(8, 8, 4, 2), (8, 2, 4, 1), (8, 2, 2, 1), (8, 8, 3, None), (12, 4, 6, None)],
)
def test_heads_are_shared_out_in_whole_groups(heads, kv_heads, n, own):
    assert kv_heads_of_each(heads, kv_heads, n) == own
    counts = np.full(n, 10)
    assert (heads_bytes(counts, counts, 1, heads, kv_heads, 4, 4, 4, 0, 0) is None) == (own is None)


def test_compact_pieces_move_less_than_bands():
    """At 16 processes the pieces of 181×360 with discs of 7° need about 3,600 keys each; bands 4,463."""
    hood = ga.geodesic(ga.grids.equiangular(91, 180), radius=14.0)
    told = ga.parallel.partition(hood, 16).estimate()
    order = np.arange(hood.query_grid.size) * 16 // hood.query_grid.size
    bands = ga.parallel.partition(hood, 16, Cut(16, (hood.query_grid,), (order.astype(np.int16),))).estimate()
    assert told.balance < 1.05
    assert told.halo.sum() < 0.8 * bands.halo.sum()


# ---------------------------------------------------------------- neighborhoods among some tokens


@pytest.mark.parametrize(
    "hood",
    [DISC, ga.nearest(SPHERE, ga.grids.healpix(4), k=3), ga.window(ga.grids.cartesian((9, 12)), 3)],
    ids=lambda hood: hood.kind,
)
def test_what_is_selected_are_the_edges_between_selected_tokens(hood):
    rng = np.random.default_rng(0)
    tokens = [
        rng.permutation(g.size)[: g.size // 3].astype(np.int32) for g in (hood.query_grid, hood.key_grid)
    ]
    some, relation = selected(hood, *tokens), ga.relations.edges(hood)
    seen = {
        pair: number for number, pair in enumerate(zip(*map(np.ndarray.tolist, edges_of(hood)), strict=True))
    }
    numbered = Selected(some, relation).rows(np.arange(len(tokens[0])))
    queries, keys = edges_of(some)
    found = {(int(tokens[0][q]), int(tokens[1][k])) for q, k in zip(queries, keys, strict=True)}
    assert found == {(q, k) for q, k in seen if q in set(tokens[0]) and k in set(tokens[1])}
    wanted = [seen[int(tokens[0][q]), int(tokens[1][k])] for q, k in zip(queries, keys, strict=True)]
    assert numbered.numbers.tolist() == wanted
    back = edges_of(some.transpose())
    assert sorted(zip(*back[::-1], strict=True)) == sorted(zip(queries, keys, strict=True))
    assert np.array_equal(some.key_grid.weights, hood.key_grid.weights.reshape(-1)[tokens[1]])
    if hood.kind != "window":
        assert np.array_equal(some.query_grid.lat, hood.query_grid.lat.reshape(-1)[tokens[0]])


@pytest.mark.parametrize(
    "hood",
    [
        ga.nearest(SPHERE, ga.grids.healpix(4), k=5),
        ga.nearest(SPHERE, ga.grids.healpix(4), k=5).transpose(),
        ga.nearest(ga.grids.cartesian((9, 12)), k=6),  # ties
        ga.geodesic(SPHERE, ga.grids.healpix(4), radius=30.0),
        ga.geodesic(ga.grids.healpix(4), radius=30.0).without_keys(np.arange(192) % 5 == 0),
        ga.nearest(ga.grids.healpix(4), k=9).without_keys(np.arange(192) % 5 == 0),
        ga.k_hop(ga.grids.icosahedral(2), 2),
        ga.curve_window(ga.grids.healpix(4), 12),
        ga.union(DISC, ga.nearest(SPHERE, k=12)),
        ga.product(ga.window(ga.grids.cartesian(3), 3), ga.nearest(ga.grids.healpix(4), k=5)),
    ],
    ids=lambda hood: hood.kind,
)
def test_what_a_process_knows_are_the_rows_of_its_queries(hood):
    cut = ga.parallel.cut(hood, 3)
    for rank in range(3):
        own = share(hood, cut, rank)
        keys = np.sort(np.concatenate((own.keys, own.wanted)))
        some = known(hood, own.queries, keys)
        assert some is not hood
        for found, true in zip(some.rows(own.queries), hood.rows(own.queries), strict=True):
            assert np.array_equal(found, true)
        for a, b in ((some, hood), (some.transpose(), hood.transpose())):
            tokens = (own.queries, keys) if a is some else (keys, own.queries)
            a, b = (edges_of(selected(x, *tokens)) for x in (a, b))
            assert all(np.array_equal(found, true) for found, true in zip(a, b, strict=True))


def test_what_keeps_little_is_asked_as_it_is():
    times = ga.window(ga.grids.cartesian(3), 3)
    for hood in (DISC, ga.window(ga.grids.cartesian((9, 12)), 3), ga.product(times, DISC)):
        one = np.arange(hood.key_grid.size).reshape(hood.key_grid.shape) == 1
        for some in (hood, hood.without_keys(one), ga.union(hood, hood.without_keys(one))):
            assert known(some, np.arange(3, dtype=np.int32), np.arange(99, dtype=np.int32)) is some


def test_what_is_kept_grows_with_the_tokens_that_are_selected():
    """And not with the grid, of which each of many processes selects a few."""
    hood, tokens = ga.window(ga.grids.cartesian((1000, 1000)), 3), np.arange(500_000, 502_000, dtype=np.int32)
    selected(ga.window(ga.grids.cartesian((9, 9)), 3), tokens[:5] % 81, tokens[:5] % 81).rows(np.arange(3))
    tracemalloc.start()
    try:
        rows = selected(hood, tokens, tokens).rows(np.arange(len(tokens)))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows.indices) == 2000 * 3 * 2  # two of three rows are among them
    assert most < hood.query_grid.size  # bytes


def test_all_tokens_are_the_whole_with_its_symmetries():
    assert selected(DISC, np.arange(SPHERE.size), np.arange(SPHERE.size)) is DISC


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (np.zeros(2, np.int32), "selected twice"),
        (np.array([0, 512], np.int32), r"tokens must lie in \[0, 512\)"),
        (np.zeros(2), "tokens must be int32"),
    ],
)
def test_selections_are_checked(tokens, told):
    from geoattn.grids.selection import Selection

    with pytest.raises(ValueError, match=told):
        Selection(SPHERE, tokens)


def test_picking_and_summing_are_adjoint():
    picked = exchange.Picked(
        5, (torch.tensor([0, 3]), torch.tensor([3, 1]), torch.tensor([], dtype=torch.int64))
    )
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: exchange.pick(x, picked), x)
    assert torch.autograd.gradgradcheck(lambda x: exchange.pick(x, picked), x)
