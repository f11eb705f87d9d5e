"""What is published for authors of backends finds their mistakes, and does not lean on what it checks."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn import backends, testing
from geoattn.backends.reference import Reference

#: what a backend may get wrong → the words of the check that finds it
FAULTS = {
    "out": "out is off",
    "lse": "lse is off",
    "dtype": "lse is torch.float64, not torch.float32",
    "empty rows": "(out|lse) (holds NaN|differs in its infinities|is off)",
    "gradient of q": "gradient of q is off",
    "gradient of k": "gradient of k is off",
    "gradient of v": "gradient of v is off",
    "gradient of the bias": "gradient of key_(bias|weights) is off",
    "gradient of lse": "gradient of [qk] is off",
}


class Faulty(Reference):
    """The reference with one mistake planted."""

    name = "faulty"
    fault = ""

    def forward(self, q, k, v, key_bias, hood, *rest):
        out, lse = super().forward(q, k, v, key_bias, hood, *rest)
        if self.fault == "out":
            out = out * 1.1
        elif self.fault == "lse":
            lse = lse + 0.1
        elif self.fault == "dtype":
            lse = lse.double()
        elif self.fault == "empty rows":
            lse = lse.nan_to_num(neginf=-1e30)
        return backends.Forward(out, lse)

    def backward(self, grad_out, grad_lse, *rest):
        if self.fault == "gradient of lse":
            grad_lse = None
        found = super().backward(grad_out, grad_lse, *rest)
        for name, field in (("q", "q"), ("k", "k"), ("v", "v"), ("the bias", "key_bias")):
            if self.fault == f"gradient of {name}" and getattr(found, field) is not None:
                found = found._replace(**{field: getattr(found, field) * 1.1})
        return found


backends.register("faulty", Faulty)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_sort_of_mistake_is_found(fault, monkeypatch):
    monkeypatch.setattr(Faulty, "fault", fault)
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        testing.check_backend("faulty", count=24, dtypes=(torch.float32,))


def test_a_backend_without_a_mistake_passes_and_its_refusals_are_counted(monkeypatch):
    def refuses(self, q, k, v, hood):
        return "it takes no half precision" if q.dtype.itemsize == 2 else None

    monkeypatch.setattr(Faulty, "refuses", refuses)
    summary = testing.check_backend("faulty", count=8)
    assert (summary.ran, dict(summary.refused)) == (4, {"it takes no half precision": 4})
    assert str(summary).splitlines() == [
        "backend 'faulty': 4 problems agree with the oracle",
        "  refused 4: it takes no half precision",
    ]


def test_a_backend_that_refuses_everything_has_not_passed(monkeypatch):
    monkeypatch.setattr(Faulty, "refuses", lambda *_: "not today")
    with pytest.raises(AssertionError, match=r"no problem was tested[\s\S]*refused 4: not today"):
        testing.check_backend("faulty", count=4)
    case = next(testing.cases(0, 1))
    assert testing.refusal(case, "faulty") == "not today"
    with pytest.raises(RuntimeError, match="not today"):
        testing.check(case, "faulty")


def test_another_backend_in_its_place_is_noticed(monkeypatch):
    monkeypatch.setattr(backends, "last", lambda: "sdpa")
    with pytest.raises(AssertionError, match="backend 'sdpa' ran in place of 'reference'"):
        testing.check(next(testing.cases(0, 1)), "reference")


def test_the_oracle_shares_no_code_with_the_library():
    tree = ast.parse(Path(testing.oracle.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert imported == {"__future__", "typing", "numpy", "torch"}


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_oracle_agrees_with_the_formula_written_for_one_number():
    q, k, v, bias = numbers(1, 3, 2, 4), numbers(1, 5, 1, 4, seed=1), numbers(1, 5, 1, 2, seed=2), numbers(5)
    seen = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    weights = numbers(5, seed=3).exp()
    scale = torch.tensor([0.3, -0.7])
    out, lse = testing.oracle.attention(q, k, v, seen, scale=scale, weights=weights, bias=bias)
    for head in range(2):
        for query in (0, 2):
            total, mean = 0.0, np.zeros(2)
            for key in np.flatnonzero(seen[query].numpy()):
                score = scale[head].double() * (q[0, query, head] @ k[0, key, 0]) + bias[key]
                share = float(weights[key] * score.exp())
                total, mean = total + share, mean + share * v[0, key, 0].numpy()
            np.testing.assert_allclose(out[0, query, head], mean / total, rtol=1e-12)
            np.testing.assert_allclose(lse[0, query, head], np.log(total), rtol=1e-12)
    assert (out[0, 1] == 0).all()
    assert (lse[0, 1] == -torch.inf).all()


@pytest.mark.parametrize("level", [-1e4, -1e30, float(np.finfo(np.float32).min), 1e4, 1e30])
def test_the_oracle_takes_any_finite_bias(level):
    """A bias that all keys share moves the lse alone."""
    q, k, v = numbers(1, 3, 1, 4), numbers(1, 5, 1, 4, seed=1), numbers(1, 5, 1, 2, seed=2)
    seen = torch.ones(3, 5, dtype=torch.bool)
    plain, _ = testing.oracle.attention(q, k, v, seen)
    out, lse = testing.oracle.attention(q, k, v, seen, bias=torch.full((5,), level))
    tolerance = 1e-12 + 4.0 * np.spacing(abs(level))
    assert (lse / level - 1.0).abs().max() < 1e-3
    if tolerance < 1e-3:
        torch.testing.assert_close(out, plain, rtol=0.0, atol=tolerance)
    assert out.isfinite().all()


def test_keys_that_no_query_sees_may_hold_anything():
    q, k, v = numbers(1, 3, 1, 4), numbers(1, 5, 1, 4, seed=1), numbers(1, 5, 1, 2, seed=2)
    seen = torch.ones(3, 5, dtype=torch.bool)
    seen[:, 0] = False
    mask = torch.tensor([True, False, True, True, True])
    weights, bias = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, 0.0, -torch.inf, 0.0])
    k[:, :4] = torch.nan
    v[:, :4] = torch.inf
    leaves = [x.requires_grad_() for x in (q, k, v, bias)]
    out, lse = testing.oracle.attention(q, k, v, seen, weights=weights, bias=bias, mask=mask)
    assert torch.equal(out, v[:, 4:].expand_as(out))
    gradients = torch.autograd.grad((out.sum(), lse.sum()), leaves)
    assert all(x.isfinite().all() for x in gradients)
    assert not gradients[1][:, :4].any()
    poisoned = k.detach().clone()
    poisoned[:, 4] = torch.nan
    assert not testing.oracle.attention(q, poisoned, v, seen)[0].isfinite().any()


def test_the_same_seed_draws_the_same_problems():
    for one, two in zip(testing.cases(7, 6), testing.cases(7, 6), strict=True):
        assert repr(one) == repr(two)
        assert one.hood == two.hood
        assert torch.equal(one.q, two.q)
    assert any(
        repr(one) != repr(two) for one, two in zip(testing.cases(7, 6), testing.cases(8, 6), strict=True)
    )


def test_a_problem_can_be_made_by_hand():
    hood = ga.window(ga.grids.cartesian((6,)), 3)
    case = testing.random_case(np.random.default_rng(0), hood, torch.float32)
    case = dataclasses.replace(case, options={"scale": 0.2}, grad_lse=None)
    testing.check(case, "reference")
    with pytest.raises(AssertionError, match=r"out is off by .*window"):
        testing.check(case, "reference", tolerances={torch.float32: 0.0})
