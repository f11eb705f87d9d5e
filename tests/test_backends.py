"""Which backends there are, which one runs, and why the others do not."""

from __future__ import annotations

import pytest
import torch

import geoattn as ga
from geoattn import backends
from geoattn._lru import BoundedCache
from geoattn.functional import explain

GRID = ga.grids.gaussian(4, 8)


def operands(dtype=torch.float32):
    return [torch.randn(1, 4, 8, 2, 4, dtype=dtype) for _ in range(3)]


def test_the_package_answers_as_a_function():
    found = ga.backends()
    assert list(found) == list(backends.KNOWN)
    assert found["reference"] == "available"
    assert "reference  available" in repr(found)
    assert all(isinstance(reason, str) and reason for reason in found.values())


def test_the_last_backend_is_known():
    ga.attention(*operands(), ga.everything(GRID), backend="reference")
    assert ga.backends.last() == "reference"
    ga.attention(*operands(), ga.everything(GRID))
    assert ga.backends.last() == "sdpa"


@pytest.mark.parametrize("hood", [ga.everything(GRID), ga.geodesic(GRID, radius=40.0)], ids=["all", "disc"])
def test_an_explanation_names_what_runs_and_every_refusal(hood):
    q, k, v = operands()
    found = explain(q, k, v, hood)
    assert set(found) == set(backends.KNOWN)
    ga.attention(q, k, v, hood)
    assert found.chosen == ga.backends.last()
    for name, state in found.items():
        if state in ("chosen", "could run"):
            ga.attention(q, k, v, hood, backend=name)
        else:
            with pytest.raises(RuntimeError) as error:
                ga.attention(q, k, v, hood, backend=name)
            assert state in str(error.value)


def test_every_automatic_choice_ends_with_the_reference_that_takes_all():
    for names in backends.AUTOMATIC.values():
        assert names[-1] == "reference"
        assert set(names) <= set(backends.KNOWN)


def test_the_cache_forgets_the_least_recently_used_first():
    cache = BoundedCache(max_bytes=10)
    for name in "abc":
        cache.put(name, name.upper(), 4)
    assert [cache.get(n) for n in "abc"] == [None, "B", "C"]
    cache.get("b")
    cache.put("d", "D", 4)
    assert [cache.get(n) for n in "bcd"] == ["B", None, "D"]
    cache.put("huge", "H", 11)
    assert cache.get("huge") is None
    assert cache.get("b") == "B"
