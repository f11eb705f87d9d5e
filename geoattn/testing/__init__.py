"""For authors of backends: random attention problems, and a dense oracle that knows the answers.

This is all that a test of a new backend needs::

    import pytest
    import geoattn as ga
    from geoattn import testing

    ga.backends.register("mine", "my_package:MyBackend")

    @pytest.mark.parametrize("seed", range(10))
    def test_my_backend_agrees_with_the_oracle(seed):
        print(testing.check_backend("mine", seed=seed))  # what ran, and what it refused and why

:func:`check_backend` draws problems with :func:`cases`: planes and spheres, self- and
cross-attention, every kind of pattern, grouped heads, odd head dimensions, any strides, weights,
biases, masks and scales. :func:`check` holds one of them to the float64 oracle: output, lse, every
gradient, dtypes and infinities. :mod:`geoattn.testing.oracle` can be asked directly, too.
"""

from geoattn.testing import oracle
from geoattn.testing.problems import (
    TOLERANCE,
    Case,
    Summary,
    cases,
    check,
    check_backend,
    close,
    random_case,
    random_edges,
    random_grids,
    random_layout,
    random_neighborhood,
    refusal,
)

__all__ = [
    "TOLERANCE",
    "Case",
    "Summary",
    "cases",
    "check",
    "check_backend",
    "close",
    "oracle",
    "random_case",
    "random_edges",
    "random_grids",
    "random_layout",
    "random_neighborhood",
    "refusal",
]
