"""Windows in index space against formulas restated naively here."""

import itertools
from math import gcd

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geoattn as ga


def dense(hood):
    """The neighborhood as a boolean matrix, [queries, keys]; rows must be ascending."""
    indptr, indices = hood.to_csr()
    row = np.repeat(np.arange(hood.query_grid.size), np.diff(indptr))
    assert ((np.diff(indices) > 0) | (np.diff(row) > 0)).all()
    matrix = np.zeros((hood.query_grid.size, hood.key_grid.size), bool)
    matrix[row, indices] = True
    return matrix


def natten(length, size, dilation=1, stride=1, causal=False):
    """NATTEN's key sets on one axis, as a boolean matrix."""
    i, j = np.arange(length)[:, None], np.arange(length)[None, :]
    place, last = i // dilation, (length - i % dilation + dilation - 1) // dilation - 1
    group = place // stride * stride
    if causal:
        low = np.maximum(np.minimum(group + stride - 1, last) - size + 1, 0)
        high = place
    else:
        leader = np.minimum(group + stride // 2, last)
        low = np.minimum(np.maximum(leader - size // 2, 0), last + 1 - size)
        high = low + size - 1
    return (i % dilation == j % dilation) & (low <= j // dilation) & (j // dilation <= high)


def ring(length, size, dilation=1, causal=False):
    """Steps of the dilation around a ring, as a boolean matrix."""
    matrix = np.zeros((length, length), bool)
    for i, t in itertools.product(range(length), range(size)):
        matrix[i, (i + (t - (size - 1 if causal else size // 2)) * dilation) % length] = True
    return matrix


def test_one_axis_equals_natten_in_every_small_case():
    cases = 0
    for length, dilation in itertools.product(range(1, 26), range(1, 6)):
        grid = ga.grids.cartesian(length)
        for size in range(1, length // dilation + 1):
            for stride, causal in itertools.product(range(1, size + 1), (False, True)):
                hood = ga.window(grid, size, stride, dilation, causal)
                expected = natten(length, size, dilation, stride, causal)
                indptr, indices = hood.to_csr()
                assert np.array_equal(np.diff(indptr), expected.sum(1)), repr(hood)
                assert np.array_equal(indices, np.nonzero(expected)[1]), repr(hood)
                cases += 1
    assert cases == 8548


@pytest.mark.parametrize(
    ("parameters", "sets"),
    [
        ({"size": 5}, "0-4 0-4 0-4 1-5 2-6 3-7 4-8 5-9 5-9 5-9"),
        ({"size": 4}, "0-3 0-3 0-3 1-4 2-5 3-6 4-7 5-8 6-9 6-9"),
        ({"size": 4, "stride": 2}, "0-3 0-3 1-4 1-4 3-6 3-6 5-8 5-8 6-9 6-9"),
        ({"size": 4, "stride": 4}, "0-3 0-3 0-3 0-3 4-7 4-7 4-7 4-7 6-9 6-9"),
        ({"size": 5, "stride": 3}, "0-4 0-4 0-4 2-6 2-6 2-6 5-9 5-9 5-9 5-9"),
        ({"size": 4, "causal": True}, "0-0 0-1 0-2 0-3 1-4 2-5 3-6 4-7 5-8 6-9"),
        ({"size": 4, "stride": 2, "causal": True}, "0-0 0-1 0-2 0-3 2-4 2-5 4-6 4-7 6-8 6-9"),
        ({"size": 4, "stride": 4, "causal": True}, "0-0 0-1 0-2 0-3 4-4 4-5 4-6 4-7 6-8 6-9"),
    ],
)
def test_worked_table_of_ten_positions(parameters, sets):
    indptr, indices = ga.window(ga.grids.cartesian(10), **parameters).to_csr()
    found = [f"{row[0]}-{row[-1]}" for row in np.split(indices, indptr[1:-1])]
    assert found == sets.split()


def test_dilation_chains_of_unequal_length():
    indptr, indices = ga.window(ga.grids.cartesian(11), 4, dilation=2).to_csr()
    rows = np.split(indices, indptr[1:-1])
    assert [list(rows[i]) for i in (8, 9, 10)] == [[4, 6, 8, 10], [3, 5, 7, 9], [4, 6, 8, 10]]


def test_several_axes_are_the_product_of_one_axis_each():
    grid = ga.grids.cartesian((6, 5, 7))
    hood = ga.window(grid, (3, 2, 3), dilation=(2, 1, 2), stride=(1, 2, 3), causal=(False, True, False))
    axes = [natten(6, 3, 2, 1), natten(5, 2, 1, 2, True), natten(7, 3, 2, 3)]
    expected = np.einsum("ai,bj,ck->abcijk", *axes).reshape(grid.size, grid.size)
    assert np.array_equal(dense(hood), expected)
    assert np.array_equal(hood.counts.reshape(-1), expected.sum(1))


@pytest.mark.parametrize("shape", [12, (4, 12), (3, 2, 12)])
def test_global_window_is_everything(shape):
    grid = ga.grids.cartesian(shape)
    assert dense(ga.window(grid, grid.shape)).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 2, 9, 10])
def test_periodic_axis_wraps_and_sees_each_key_once(length, causal):
    grid = ga.grids.cartesian(length, periodic=True)
    for size, dilation in itertools.product(range(1, 13), range(1, 6)):
        hood = ga.window(grid, size, dilation=dilation, causal=causal)
        expected = ring(length, size, dilation, causal)
        assert np.array_equal(dense(hood), expected), repr(hood)
        assert np.array_equal(dense(hood.transpose()), expected.T), repr(hood)


def test_periodic_window_commutes_with_shifts():
    for stride, dilation, causal in itertools.product((1, 2, 3), (1, 2), (False, True)):
        hood = ga.window(
            ga.grids.cartesian(12, periodic=True), 3, stride, dilation, causal, offset=stride // 2
        )
        turn = hood.rotation
        matrix = dense(hood)
        assert turn.query_ring == 12
        assert turn.query_step == (1 if stride == 1 else stride * dilation)
        assert np.array_equal(np.roll(matrix, (turn.query_step, turn.key_step), (0, 1)), matrix)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_swin_windows_partition_the_tokens(size, periodic):
    """Shifted windows by rolling the tokens; on an open axis a mask cuts where the roll wrapped."""
    length = 12
    for offset in range(size):
        rolled = (np.arange(length) - offset) % length // size
        expected = rolled[:, None] == rolled[None, :]
        if not periodic:
            wrapped = np.arange(length) < offset
            expected &= wrapped[:, None] == wrapped[None, :]
        hood = ga.window(
            ga.grids.cartesian(length, periodic=periodic), size, stride=size, offset=offset, boundary="clip"
        )
        assert np.array_equal(dense(hood), expected)
        assert hood.transpose() is hood


@pytest.mark.parametrize(("block", "halo"), [(4, 1), (4, 3), (3, 1), (3, 2), (2, 1), (5, 2)])
def test_halonet_blocks_see_themselves_and_a_halo(block, halo):
    length = 14
    i, j = np.arange(length)[:, None], np.arange(length)[None, :]
    first = i // block * block
    expected = (j >= first - halo) & (j < first + block + halo)
    hood = ga.window(ga.grids.cartesian(length), block + 2 * halo, stride=block, boundary="clip")
    assert np.array_equal(dense(hood), expected)


def test_grid_attention_sees_one_key_per_window():
    """MaxViT: a sparse grid of size × size keys, evenly spread."""
    hood = ga.window(ga.grids.cartesian((8, 12)), 4, dilation=(2, 3))
    row, column = np.divmod(np.arange(96), 12)
    expected = (row[:, None] % 2 == row % 2) & (column[:, None] % 3 == column % 3)
    assert np.array_equal(dense(hood), expected)


def test_clip_drops_the_keys_outside():
    indptr, indices = ga.window(ga.grids.cartesian(6), 5, boundary="clip").to_csr()
    assert [list(r) for r in np.split(indices, indptr[1:-1])] == [
        [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5], [3, 4, 5],
    ]  # fmt: skip
    assert dense(ga.window(ga.grids.cartesian(6), 99, boundary="clip")).all()


axis = st.fixed_dictionaries(
    {
        "length": st.integers(1, 20),
        "size": st.integers(1, 8),
        "dilation": st.integers(1, 4),
        "stride": st.integers(1, 8),
        "causal": st.booleans(),
        "offset": st.integers(-3, 9),
        "periodic": st.booleans(),
    }
)


@settings(max_examples=300, deadline=None)
@given(axes=st.lists(axis, min_size=1, max_size=3), boundary=st.sampled_from(["shift", "clip"]))
def test_transpose_reverses_every_edge(axes, boundary):
    for a in axes:  # shrink what does not fit
        a["length"] = min(a["length"], 20 if len(axes) == 1 else 8)
        a["dilation"] = min(a["dilation"], a["length"])
        if boundary == "shift" and not a["periodic"]:
            a["size"] = min(a["size"], a["length"] // a["dilation"])
        a["stride"] = min(a["stride"], a["size"])
        if a["periodic"]:
            a["stride"] = gcd(a["stride"], a["length"] // gcd(a["length"], a["dilation"]))
    grid = ga.grids.cartesian([a["length"] for a in axes])
    parameters = {n: [a[n] for a in axes] for n in axes[0] if n != "length"}
    hood = ga.window(grid, boundary=boundary, **parameters)
    matrix = dense(hood)
    assert np.array_equal(dense(hood.transpose()), matrix.T)
    assert np.array_equal(hood.transpose().counts.reshape(-1), matrix.sum(0))
    assert hood.transpose().transpose() == hood
    assert np.diagonal(matrix).all()  # a query sees itself, whatever the parameters
    assert (matrix.sum(1) <= np.prod(parameters["size"])).all()


def test_latitude_is_open_and_longitude_wraps():
    grid = ga.grids.equiangular(6, 8)
    latitude, longitude = natten(6, 3), ring(8, 3)
    expected = np.einsum("ai,bj->abij", latitude, longitude).reshape(48, 48)
    assert np.array_equal(dense(ga.window(grid, 3)), expected)
    flat = np.einsum("ai,bj->abij", latitude, natten(8, 3)).reshape(48, 48)
    assert np.array_equal(dense(ga.window(grid, 3, periodic=False)), flat)


def test_windows_run_over_the_axes_of_a_product_grid():
    grid = ga.grids.product(ga.grids.cartesian(4), ga.grids.gaussian(3, 6))
    hood = ga.window(grid, (2, 3, 5), causal=(True, False, False))
    parts = [natten(4, 2, causal=True), natten(3, 3), ring(6, 5)]
    expected = np.einsum("ai,bj,ck->abcijk", *parts).reshape(grid.size, grid.size)
    assert np.array_equal(dense(hood), expected)


def test_only_the_rows_asked_for_are_made_in_the_order_asked():
    hood = ga.window(ga.grids.cartesian((5, 6)), (3, 5), stride=(1, 2))
    queries = np.array([7, 29, 0, 7])
    indptr, indices = hood.rows(queries)
    for i, q in enumerate(queries):
        assert np.array_equal(indices[indptr[i] : indptr[i + 1]], np.flatnonzero(dense(hood)[q]))


def test_repr_is_one_line_with_what_differs_from_the_default():
    grid = ga.grids.cartesian((8, 8))
    assert repr(ga.window(grid, 3)) == f"window 3×3 on {grid!r}"
    text = repr(ga.window(grid, (3, 4), stride=(1, 2), causal=True, boundary="clip"))
    assert text.startswith("window 3×4, stride (1, 2), causal True, boundary 'clip' on ")


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"size": 0}, ValueError, "size 0"),
        ({"size": 3, "dilation": 0}, ValueError, "dilation 0"),
        ({"size": 9}, ValueError, r"size 9 × dilation 1 = 9 exceeds the 8 positions on axis 0"),
        ({"size": 3, "dilation": (1, 4)}, ValueError, r"3 × dilation 4 = 12 exceeds .* axis 1"),
        ({"size": 3, "stride": 4}, ValueError, "stride must lie in 1 … size = 3, got 4"),
        ({"size": 3, "stride": 0}, ValueError, "stride must lie in 1 … size = 3, got 0"),
        ({"size": (3, 3, 3)}, ValueError, r"size \(3, 3, 3\) must have one entry for each of the 2 axes"),
        ({"size": 3, "boundary": "wrap"}, ValueError, "boundary must be .* got 'wrap'"),
        ({"size": 3.0}, TypeError, "size must be int .* got 3.0"),
        ({"size": 3, "causal": 1}, TypeError, "causal must be bool .* got 1"),
        ({"size": True}, TypeError, "size must be int"),
        ({"size": 3, "stride": 3, "periodic": True}, ValueError, "stride 3 does not divide the 8 places"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        ga.window(ga.grids.cartesian((8, 8)), **arguments)


def test_grids_without_ordered_axes_are_refused():
    with pytest.raises(TypeError, match=r"window needs a grid whose axes are ordered .* HEALPix .* geodesic"):
        ga.window(ga.grids.healpix(4), 3)
    with pytest.raises(TypeError, match="ordered positions"):
        ga.window(ga.grids.product(ga.grids.cartesian(3), ga.grids.healpix(2)), 3)
