"""What is not a number reaches the results that it takes part in; what is hidden reaches none.

Finite biases, however large, hide nothing. For the backends of CPU tensors.
"""

import math
import shutil

import emulator
import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn import ops

GRID = ga.grids.cartesian((12, 16))
DISC = ga.geodesic(ga.grids.gaussian(8, 16), radius=40)
HOODS = {"window": ga.window(GRID, 5), "disc": DISC, "everything": ga.everything(GRID)}
BACKENDS = ["reference", "cpu", "sdpa"]
if shutil.which("g++"):
    emulator.register()
    BACKENDS.append("emulated")  # the CUDA kernels
KEY = 37
PAIRS = [(h, b) for h in HOODS for b in BACKENDS if b != "sdpa" or h == "everything"]


def of_dtypes(*dtypes):
    """What can be run: the CUDA kernels take no float64."""
    return [(h, b, d) for h, b in PAIRS for d in dtypes if (b, d) != ("emulated", torch.float64)]


def operands(hood, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, *hood.query_grid.shape, 2, 8)
    return [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(3)]


def flat(x, hood):
    return x.reshape(hood.query_grid.size, -1)


def seeing(hood, key=KEY):
    """Queries that see the key."""
    rows = hood.to_csr()
    queries = np.repeat(np.arange(hood.query_grid.size), np.diff(rows.indptr))
    seen = torch.zeros(hood.query_grid.size, dtype=torch.bool)
    seen[torch.as_tensor(queries[rows.indices == key])] = True
    return seen


def spoiled(name, value, hood, dtype):
    """Operands with one number replaced, and the queries whose result it must reach."""
    q, k, v = operands(hood, dtype)
    options = {"key_weights": torch.ones(hood.key_grid.shape)}
    reached = seeing(hood)
    if name in ("q", "k", "v"):
        x = {"q": q, "k": k, "v": v}[name]
        x.view(hood.query_grid.size, 2, 8)[KEY, :, 3] = value
        if name == "q":
            reached = torch.arange(hood.query_grid.size) == KEY
    elif name == "key_bias":
        options["key_bias"] = torch.zeros(hood.key_grid.shape)
        options["key_bias"].view(-1)[KEY] = value
    else:
        options["key_weights"].view(-1)[KEY] = value
    return q, k, v, options, reached


WRONG = [(n, x) for n in ("q", "k", "v", "key_bias") for x in (math.nan, math.inf)] + [
    ("key_weights", math.inf)
]


@pytest.mark.parametrize(("name", "value"), WRONG)
@pytest.mark.parametrize(
    ("hood", "backend", "dtype"), of_dtypes(torch.float32, torch.float64, torch.bfloat16), ids=str
)
def test_what_is_not_a_number_reaches_the_queries_that_see_it(hood, backend, name, value, dtype):
    hood = HOODS[hood]
    q, k, v, options, reached = spoiled(name, value, hood, dtype)
    out, lse = ga.attention(q, k, v, hood, backend=backend, return_lse=True, **options)
    if name == "v":
        assert not out.view(hood.query_grid.size, 2, 8)[reached, :, 3].isfinite().any()
    else:
        assert not flat(out, hood)[reached].isfinite().any()
    if name != "v" and not (backend == "emulated" and name == "k" and value == math.inf):  # they may spread
        assert flat(out, hood)[~reached].isfinite().all()
        assert not flat(lse, hood)[reached].isfinite().any()
        assert not (flat(lse, hood)[reached] == -math.inf).any(), "not a number is not: no key"


@pytest.mark.parametrize("name", ["q", "k", "v", "key_bias", "grad_out"])
@pytest.mark.parametrize(("hood", "backend"), PAIRS)
def test_it_reaches_the_gradients_too(hood, backend, name):
    hood = HOODS[hood]
    q, k, v, options, reached = spoiled(name if name != "grad_out" else "q", math.nan, hood, torch.float32)
    if name == "grad_out":
        q, k, v = operands(hood)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = ga.attention(*leaves, hood, backend=backend, **options)
    grad = torch.ones_like(out)
    if name == "grad_out":
        grad.view(hood.query_grid.size, -1)[KEY] = math.nan
    dq, dk, dv = torch.autograd.grad(out, leaves, grad)
    assert not flat(dq, hood)[reached].isfinite().any()
    touched = seeing(hood.transpose()) if name in ("q", "grad_out") else torch.arange(len(reached)) == KEY
    assert not flat(dk, hood)[touched].isfinite().any()
    if name != "v":
        assert not flat(dv, hood)[touched].isfinite().any()


@pytest.mark.parametrize("way", ["mask", "weight", "bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("hood", "backend"), PAIRS)
def test_keys_hidden_by_mask_or_weight_or_bias_reach_nothing(hood, backend, way, value):
    hood = HOODS[hood]
    hidden = torch.zeros(hood.key_grid.shape, dtype=torch.bool)
    hidden.view(-1)[KEY::50] = True
    hidden.view(-1)[0] = True  # the first row in memory, which places that stand for no key might read
    weights = torch.ones(hood.key_grid.shape)
    options = {
        "mask": {"key_weights": weights, "key_mask": ~hidden},
        "weight": {"key_weights": weights.masked_fill(hidden, 0.0)},
        "bias": {
            "key_weights": weights,
            "key_bias": torch.zeros(hidden.shape).masked_fill(hidden, -math.inf),
        },
    }[way]
    q, k, v = operands(hood)
    expected = ga.attention(q, k, v, hood, backend=backend, **options)
    for x in (k, v):
        x.view(hood.key_grid.size, -1)[hidden.view(-1)] = value
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = ga.attention(*leaves, hood, backend=backend, **options)
    torch.testing.assert_close(out, expected)
    for gradient in torch.autograd.grad(out.square().sum(), leaves):
        assert gradient.isfinite().all()


LARGE = [1e4, 1e9, 1e28, 1e30, 1e34, 1e38, torch.finfo(torch.float32).max]


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize(("hood", "backend"), PAIRS)
def test_finite_biases_hide_nothing_however_large(hood, backend, size, sign):
    """On every key, and on half of them: neighborhoods that hold none but those are among the queries."""
    hood = HOODS[hood]
    q, k, v = operands(hood)
    half = torch.zeros(hood.key_grid.shape)
    half[: hood.key_grid.shape[0] // 2] = sign * size
    for bias in (torch.full(hood.key_grid.shape, float(sign * size)), half):
        found, level = ga.attention(q, k, v, hood, key_bias=bias, backend=backend, return_lse=True)
        wide = [x.double() for x in (q, k, v, bias)]
        expected, lse = ga.attention(*wide[:3], hood, key_bias=wide[3], backend="reference", return_lse=True)
        assert level.isfinite().all()
        torch.testing.assert_close(level.double(), lse, rtol=1e-6, atol=1e-4)
        if size < 1e6:  # beyond, float32 itself rounds the products of q and k away in the sum
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-2)
        same = ga.attention(q, k, v, hood, key_bias=bias, backend="reference")
        if size >= 1e28 or size == 1e4:
            torch.testing.assert_close(found, same, rtol=0, atol=5e-3)


@pytest.mark.parametrize("size", [-1e300, 1e305, torch.finfo(torch.float64).min])
@pytest.mark.parametrize(("hood", "backend"), [p for p in PAIRS if p[1] != "emulated"])
def test_float64_goes_to_its_own_end(hood, backend, size):
    hood = HOODS[hood]
    q, k, v = operands(hood, torch.float64)
    bias = torch.full(hood.key_grid.shape, size, dtype=torch.float64)
    found = ga.attention(q, k, v, hood, key_bias=bias, backend=backend)
    torch.testing.assert_close(found, ga.attention(q, k, v, hood, key_bias=bias, backend="reference"))
    assert found.abs().max() > 0


@pytest.mark.parametrize("size", [-1e30, torch.finfo(torch.float32).min])
@pytest.mark.parametrize(("hood", "backend"), [p for p in PAIRS if p[1] != "reference"])
def test_gradients_beside_extreme_biases_are_those_of_equal_weights(hood, backend, size):
    hood = HOODS[hood]
    leaves = [x.requires_grad_() for x in operands(hood)]
    bias = torch.full(hood.key_grid.shape, size)
    out = ga.attention(*leaves, hood, key_bias=bias, key_weights=None, backend=backend)
    (dv,) = torch.autograd.grad(out.sum(), leaves[2])
    counts = torch.as_tensor(hood.counts.reshape(-1).copy()).float()
    rows = hood.transpose().to_csr()
    shares = torch.stack(
        [(1 / counts[torch.as_tensor(own).long()]).sum() for own in np.split(rows.indices, rows.indptr[1:-1])]
    )
    torch.testing.assert_close(flat(dv, hood)[:, 0], shares, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["mask", "weight", "bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_hides_a_key_hides_its_bias_and_weight_too(way, value):
    hood = HOODS["window"]
    hidden = torch.zeros(hood.key_grid.shape, dtype=torch.bool)
    hidden.view(-1)[KEY::50] = True
    hidden.view(-1)[0] = True  # the first row in memory, which places that stand for no key might read
    wrong = torch.zeros(hood.key_grid.shape).masked_fill(hidden, value)
    ones = torch.ones(hood.key_grid.shape)
    options = {
        "mask": {"key_mask": ~hidden, "key_weights": ones + wrong, "key_bias": wrong},
        "weight": {"key_weights": ones.masked_fill(hidden, 0.0), "key_bias": wrong},
        "bias": {"key_weights": ones + wrong.nan_to_num(), "key_bias": wrong.masked_fill(hidden, -math.inf)},
    }[way]
    q, k, v = operands(hood)
    expected = ga.attention(q, k, v, hood, key_mask=~hidden)
    torch.testing.assert_close(ga.attention(q, k, v, hood, **options), expected)


def test_quadrature_weights_of_zero_hide_whatever_is_added():
    weights, bias = (
        torch.tensor([-math.inf, -math.inf, 0.5, 0.5]),
        torch.tensor([math.nan, math.inf, -math.inf, 1.0]),
    )
    found = ops.combined(weights, bias)
    assert found.tolist() == [-math.inf, -math.inf, -math.inf, 1.5]


@pytest.mark.parametrize(("hood", "backend"), PAIRS)
def test_a_product_of_minus_infinity_is_not_a_number(hood, backend):
    """It is no way to hide a key, or all keys of a query."""
    hood = HOODS[hood]
    for value in (-math.inf, -3e38):
        if value > -math.inf and backend == "sdpa":
            continue  # torch's kernels do not tell that a product of finite numbers has become infinite
        q, k, v = (x.abs() + 2 for x in operands(hood))
        k.view(hood.key_grid.size, 2, 8)[KEY, :, 3] = value
        out, lse = ga.attention(q, k, v, hood, scale=1.0, backend=backend, return_lse=True)
        seen = seeing(hood)
        assert not flat(out, hood)[seen].isfinite().any()
        assert flat(lse, hood)[seen].isnan().all()
        q.view(hood.query_grid.size, 2, 8)[5] = math.inf  # all of its products are -inf beside k < 0
        out, lse = ga.attention(q, -k.abs(), v, hood, backend=backend, return_lse=True)
        assert not flat(out, hood)[5].isfinite().any()
        assert flat(lse, hood)[5].isnan().all()


def test_a_bias_that_the_scores_cannot_hold_is_refused():
    hood = HOODS["window"]
    q, k, v = operands(hood)
    bias = torch.zeros(hood.key_grid.shape, dtype=torch.float64)
    bias[2, 3] = -1e300
    with pytest.raises(ValueError, match=r"key_bias holds -1e\+300.*key_mask"):
        ga.attention(q, k, v, hood, key_bias=bias)
    bias[2, 3] = -math.inf
    hidden = torch.ones(hood.key_grid.shape, dtype=torch.bool)
    hidden[2, 3] = False
    expected = ga.attention(q, k, v, hood, key_mask=hidden)
    torch.testing.assert_close(ga.attention(q, k, v, hood, key_bias=bias), expected)
    wide = [x.double() for x in (q, k, v)]
    assert ga.attention(*wide, hood, key_bias=bias.clamp(min=-1e300)).isfinite().all()


def test_weights_that_float32_cannot_hold_are_weights():
    hood = HOODS["window"]
    q, k, v = operands(hood)
    weights = torch.ones(hood.key_grid.shape, dtype=torch.float64)
    expected = ga.attention(q, k, v, hood, key_weights=weights)
    found = ga.attention(q, k, v, hood, key_weights=weights * 1e-300)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [-1e4, -1e9, -1e30, torch.finfo(torch.float32).min, 1e4, 1e9, 1e30, 1e38])
@pytest.mark.parametrize(
    ("hood", "backend", "dtype"),
    [
        x
        for x in of_dtypes(torch.float32, torch.float64, torch.bfloat16, torch.float16)
        if x[1] != "reference"
    ],
    ids=str,
)
def test_results_and_gradients_beside_huge_biases_are_the_references(hood, backend, size, dtype):
    """Half of the keys biased: some queries see none but those, some none of those, some both."""
    hood = HOODS[hood]
    found = []
    for name in (backend, "reference"):
        leaves = [x.requires_grad_() for x in operands(hood, dtype)]
        bias = torch.zeros(
            hood.key_grid.shape, dtype=torch.float64 if dtype == torch.float64 else torch.float32
        )
        bias[: hood.key_grid.shape[0] // 2] = size
        bias.requires_grad_()
        out, lse = ga.attention(*leaves, hood, key_bias=bias, backend=name, return_lse=True)
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(dtype)
        found.append([out, lse, *torch.autograd.grad((out * weights).sum(), [*leaves, bias])])
    half = dtype in (torch.bfloat16, torch.float16)
    for name, x, y in zip(("out", "lse", "q", "k", "v", "bias"), *found, strict=True):
        assert x.isfinite().all(), name
        rounding = 2e-2 if half else 2e-3 if abs(size) == 1e4 and dtype == torch.float32 else 1e-4
        atol = rounding * float(y.detach().abs().max())
        torch.testing.assert_close(x, y, rtol=rounding, atol=atol, msg=name)
