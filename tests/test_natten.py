"""NATTEN as an independent witness for planar windows; on a CPU it runs forward only."""

import pytest
import torch

import geoattn as ga

natten = pytest.importorskip(
    "natten", reason="NATTEN is not installed (pip install --no-deps --no-build-isolation natten)"
)

CASES = [
    # shape, kernel, stride, dilation, causal, heads, key heads
    ((23,), (5,), (1,), (1,), (False,), 2, 2),
    ((24,), (6,), (3,), (2,), (False,), 4, 2),
    ((21,), (4,), (2,), (3,), (True,), 2, 1),
    ((9, 14), (3, 5), (1, 2), (2, 1), (False, False), 2, 2),
    ((8, 11), (4, 3), (1, 1), (1, 2), (True, False), 2, 1),
    ((5, 6, 7), (3, 2, 5), (2, 1, 1), (1, 2, 1), (False, True, False), 2, 2),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_windows_and_lse_agree(case):
    shape, kernel, stride, dilation, causal, heads, key_heads = case
    torch.manual_seed(0)
    q = torch.randn(2, *shape, heads, 16)
    k, v = torch.randn(2, 2, *shape, key_heads, 16)
    hood = ga.window(ga.grids.cartesian(shape), kernel, stride, dilation, causal)
    out, lse = ga.attention(q, k, v, hood, return_lse=True)
    attend = {1: natten.na1d, 2: natten.na2d, 3: natten.na3d}[len(shape)]
    with torch.no_grad():
        expected, expected_lse = attend(
            q, k, v, kernel, stride=stride, dilation=dilation, is_causal=causal, return_lse=True
        )
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(lse, expected_lse, atol=1e-5, rtol=1e-4)
