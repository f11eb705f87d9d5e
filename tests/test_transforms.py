"""torch.func around the operator: gradients, vmap, per-sample gradients, Jacobians and Hessians."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import geoattn as ga

GRID = ga.grids.gaussian(4, 6)
HOODS = {"disc": lambda: ga.geodesic(GRID, radius=60.0), "everything": lambda: ga.everything(GRID)}


@pytest.fixture(params=HOODS)
def hood(request):
    return HOODS[request.param]()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operands(batch=2):
    q, k, v = (normal(batch, 4, 6, heads, 3, seed=i) for i, heads in enumerate((4, 2, 2)))
    return q, k, v, normal(4, 6, seed=3), normal(4, seed=4)


def loss(hood, *operands):
    q, k, v, bias, scale = operands
    out, lse = ga.attention(q, k, v, hood, key_bias=bias, scale=scale, return_lse=True)
    return (out.square().sum() + lse.sin().sum()) * (1 + scale.sum())


def by_autograd(f, *arguments):
    leaves = [x.clone().requires_grad_() for x in arguments]
    return torch.autograd.grad(f(*leaves), leaves)


def test_grad_and_vjp_agree_with_autograd(hood):
    expected = by_autograd(lambda *x: loss(hood, *x), *operands())
    found = grad(lambda *x: loss(hood, *x), argnums=(0, 1, 2, 3, 4))(*operands())
    torch.testing.assert_close(found, expected)
    value, pull = vjp(lambda *x: loss(hood, *x), *operands())
    torch.testing.assert_close(pull(torch.ones_like(value)), expected)


@pytest.mark.parametrize(
    "in_dims",
    [(0, 0, 0, 0, 0), (2, None, None, None, None), (None, None, 5, 2, None), (None, None, None, 1, 1)],
)
def test_vmap_agrees_with_a_loop(hood, in_dims):
    arguments = [
        x if dim is None else torch.stack([x, x.sin(), 2 * x], dim)
        for x, dim in zip(operands(), in_dims, strict=True)
    ]

    def call(q, k, v, bias, scale):
        return ga.attention(q, k, v, hood, key_bias=bias, scale=scale, return_lse=True)

    def gradients(*x):
        return grad(lambda *x: loss(hood, *x), argnums=(0, 1, 2, 3, 4))(*x)

    for f in (call, gradients):
        found = vmap(f, in_dims)(*arguments)
        parts = [
            f(*(x if d is None else x.select(d, i) for x, d in zip(arguments, in_dims, strict=True)))
            for i in range(3)
        ]
        torch.testing.assert_close(found, tuple(torch.stack(x) for x in zip(*parts, strict=True)))


def test_one_vmap_may_lie_in_another(hood):
    q, k, v, bias, scale = operands(batch=1)
    many = torch.stack([torch.stack([i * q + j for j in range(2)]) for i in range(3)])

    def call(q):
        return ga.attention(q, k, v, hood, key_bias=bias, scale=scale)

    found = vmap(vmap(call))(many)
    torch.testing.assert_close(found, torch.stack([torch.stack([call(q) for q in row]) for row in many]))


def test_vmap_of_half_precision_and_of_masks_and_weights():
    hood = HOODS["disc"]()
    q = normal(3, 2, 4, 6, 2, 4).to(torch.bfloat16)
    masks, weights = normal(3, 4, 6) > -1.0, normal(3, 4, 6).exp()

    def call(q, mask, weights):
        return ga.attention(q, q, q, hood, key_mask=mask, key_weights=weights)

    found = vmap(call)(q, masks, weights)
    assert torch.equal(found, torch.stack([call(*x) for x in zip(q, masks, weights, strict=True)]))


def test_per_sample_gradients_of_a_module_and_of_what_the_samples_share():
    hood = HOODS["disc"]()
    layer = ga.nn.Attention(8, 2, hood, qk_norm=True, position="harmonic").double()
    parameters = dict(layer.named_parameters()) | {"scale": normal(2), "bias": normal(4, 6)}
    x = normal(3, 4, 6, 8)

    def loss(parameters, sample):
        module = {n: p for n, p in parameters.items() if n not in ("scale", "bias")}
        y = functional_call(layer, module, (sample[None],)).unflatten(-1, (2, 4))
        y = ga.attention(y, y, y, hood, scale=parameters["scale"], key_bias=parameters["bias"])
        return y.square().mean()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i, sample in enumerate(x):
        names, tensors = zip(*parameters.items(), strict=True)
        expected = by_autograd(
            lambda *t, names=names, sample=sample: loss(dict(zip(names, t, strict=True)), sample), *tensors
        )
        for name, right in zip(names, expected, strict=True):
            torch.testing.assert_close(found[name][i], right, msg=name)


def test_jacobians_agree_with_those_of_one_row_at_a_time(hood):
    q, k, v, bias, scale = operands(batch=1)

    def f(q, scale):
        return ga.attention(q, k, v, hood, key_bias=bias, scale=scale).sum((1, 2))

    found = jacrev(f, argnums=(0, 1))(q, scale)
    expected = torch.autograd.functional.jacobian(f, (q, scale))
    torch.testing.assert_close(found, expected)
    vectorized = torch.autograd.functional.jacobian(f, (q, scale), vectorize=True)
    torch.testing.assert_close(vectorized, expected)
    pieces = jacrev(f, argnums=(0, 1), chunk_size=5)(q, scale)
    torch.testing.assert_close(pieces, expected)


def test_hessians_agree_with_those_of_one_row_at_a_time(hood):
    q, k, v, bias, scale = operands(batch=1)

    def f(small, scale, bias):
        return loss(hood, q * small, k, v, bias, scale)

    arguments = normal(1, 1, 1, 1, 3, seed=9), scale, bias
    expected = torch.autograd.functional.hessian(f, arguments)
    vectorized = torch.autograd.functional.hessian(f, arguments, vectorize=True)
    torch.testing.assert_close(vectorized, expected)
    found = jacrev(jacrev(f, argnums=(0, 1, 2)), argnums=(0, 1, 2))(*arguments)
    torch.testing.assert_close(found, expected)


def test_an_eager_gradient_runs_through_vmap(hood):
    q, k, v, bias, scale = operands()
    scale = scale.requires_grad_()
    many = torch.stack([q, q.cos()])
    out = vmap(lambda q: loss(hood, q, k, v, bias, scale))(many)
    single = sum(loss(hood, x, k, v, bias, scale) for x in many)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), scale), torch.autograd.grad(single, scale))


@pytest.mark.parametrize("transform", [jacfwd, hessian])
def test_forward_mode_is_refused_with_the_calls_that_work(hood, transform):
    q, k, v, bias, scale = operands(batch=1)
    with pytest.raises(NotImplementedError, match=r"no forward-mode derivative.*jacrev\(torch\.func\.jacrev"):
        transform(lambda q: loss(hood, q, k, v, bias, scale))(q)
    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        jvp(lambda q: loss(hood, q, k, v, bias, scale), (q,), (q,))
    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        jvp(lambda scale: loss(hood, q, k, v, bias, scale), (scale,), (scale,))


def test_third_derivatives_under_torch_func_are_refused_with_the_call_that_works():
    q, k, v, bias, scale = operands(batch=1)

    def f(scale):
        return loss(HOODS["disc"](), q, k, v, bias, scale).sum()

    with pytest.raises(
        NotImplementedError, match=r"no third derivative under torch\.func.*create_graph=True"
    ):
        jacrev(jacrev(jacrev(f)))(scale)
